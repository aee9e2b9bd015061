"""Values other than arrays in a file are read as plain values, or named and ignored; nothing in it is ever executed."""

from __future__ import annotations

import argparse
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from numpy_ref import ParamsError, opcodes, read_params
from numpy_ref.pickles import read_arrays, read_values
from reference.crafted import (
    BOMBS,
    Bomb,
    array,
    binary,
    dtype,
    npy,
    npz,
    peak_of,
    pickled,
    same,
    saved,
    text,
    tuples,
    write,
)
from torchport.files.npz import decode_npy, decode_npz

W = np.arange(6.0).reshape(2, 3)
HELD: dict[str | int, Any] = {
    "W": W,
    "params": {"W": W.astype(">f4"), "deeper": [{"b": np.ones(2, np.float16)}, (W.T, ())]},
    "int": np.arange(3),
    "bytes": np.arange(3, dtype=np.uint8),
    "big-endian int": np.arange(3, dtype=">i2"),
    "bool": np.array([True, False]),
    "plain": [1, -2, 2**100, 0.5, None, True, "é" * 300],
    3: 4,
}


@pytest.mark.parametrize("protocol", range(6))
def test_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    assert same(read_values(pickled(HELD, protocol)), HELD)


def test_nothing_stands_in_two_places() -> None:
    tree: Any = read_values(pickled([HELD, HELD, W, W]))
    assert tree[0] is not tree[1]
    assert not np.shares_memory(tree[2], tree[3])
    assert tree[2].flags.writeable


PLAIN: dict[str, tuple[object, object]] = {
    "an ordered dict": (OrderedDict(W=W), {"W": W}),
    "a defaultdict": (defaultdict(list, W=[W]), {"W": [W]}),
    "NumPy's numbers": ([np.float32(0.5), np.int64(3), np.bool_(True)], [0.5, 3, True]),
    "a matrix": (W[:1, :2].view(np.matrix), np.array([[0.0, 1.0]])),
    "a list of arrays": ([W, W], [W, W]),
    "objects": (np.array([W, None], dtype=object), [W, None]),
    "an object": (np.array({"W": W}, dtype=object), {"W": W}),
    "a namespace": ({"args": argparse.Namespace(lr=1, net=[W]), "W": W}, {"args": "an object of argparse.N", "W": W}),
    "a path": ([PurePosixPath("/x/y"), 1], ["an object of pathlib", 1]),
    "a counter": ([Counter("aab"), 1], ["an object of collections.Counter", 1]),
    "text": ([np.array(["a"]), 1], ["an array of dtype 'U1'", 1]),
    "complex": ([np.ones(1, complex), 1], ["an array of dtype 'c16'", 1]),
    "records": ([np.zeros(2, "f8,i4"), 1], ["an array of dtype 'V12'", 1]),
    "a table of objects": ([np.array([[None]], dtype=object), 1], ["an array of objects of 2 axes", 1]),
    "masked": ([np.ma.zeros(2), 1], ["an object of numpy.ma.core", 1]),
    "long text in other letters": (["\u4e00" * 100, 1], ["a long text in more than Latin letters", 1]),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("case", PLAIN)
def test_what_has_no_plain_counterpart_is_named(case: str, protocol: int) -> None:
    value, expected = PLAIN[case]
    assert same(read_values(pickled(value, protocol)), expected)


@pytest.mark.parametrize("protocol", range(6))
def test_keys_that_are_neither_text_nor_whole_numbers_are_named(protocol: int) -> None:
    tree: Any = read_values(pickled({(1, 2): W, 0.5: 1, b"W": 2, None: 3}, protocol))
    assert [str(key) for key in tree] == ["a tuple", "a float", "a bytes", "a NoneType"]
    assert same([*tree.values()], [W, 1, 2, 3])


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(protocol: int, tmp_path: Path) -> None:
    content = pickled({"bomb": Bomb(tmp_path / "boom"), "W": W}, protocol)
    with pytest.raises(ParamsError, match=r"names 'posix\.mkdir'|names 'nt\.mkdir'"):
        read_arrays(content)
    tree: Any = read_values(content)
    assert same(tree, {"bomb": "an object of ", "W": W})
    assert tree["bomb"].what.endswith(".mkdir")
    assert tree["bomb"].value is None
    assert same(decode_npy(npy({"W": Bomb(tmp_path / "boom")})), {"W": "an object of "})
    assert not (tmp_path / "boom").exists()


def test_an_array_of_bfloat16_is_widened() -> None:
    """ml_dtypes pickles it with a class in place of the dtype's code."""
    kind = b"cnumpy\ndtype\ncml_dtypes\nbfloat16\n\x89\x88\x87R(K\x03\x8c\x01<NNNK\x02K\x02K\x40tb"
    numbers = np.array([1.5, -2, np.inf], np.float32)
    content = saved(array(b"K\x03\x85", kind, b"C\x06" + (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()))
    notes: list[str] = []
    assert same(read_values(content, notes=notes), {"W": numbers})
    assert notes == ["arrays widened from bfloat16 to float32, which is exact: 1"]
    assert same(read_values(content.replace(b"\x01<", b"\x01>")), {"W": "an array of dtype 'big-endian bfloat16'"})


@pytest.mark.parametrize(
    "call",
    [
        text("cupy._core.core") + text("array") + b"\x93" + array() + b"\x85R",
        text("cupy.core.core") + text("array") + b"\x93" + array() + b"\x85R",
        # dill's and jax' calls: the array's constructor, its arguments, and its state
        b"cdill._dill\n_create_array\n(cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1bt"
        b"(K\1K\1\x85" + dtype() + b"\x89C\x08" + bytes(8) + b"tNtR",
        array().replace(b"cnumpy\nndarray\n", b"cnumpy\nmemmap\n"),
    ],
    ids=["CuPy", "CuPy before 9", "dill", "memmap"],
)
def test_arrays_of_other_packages_are_read(call: bytes) -> None:
    assert same(read_values(saved(call)), {"W": np.zeros(1)})


PERMUTED = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)


def permuted(axes: bytes, order: str = "K") -> bytes:
    """NumPy 2.3 pickles PERMUTED in protocol 5 as bytes in memory order and the order of the axes."""
    content = np.ascontiguousarray(PERMUTED.transpose(1, 2, 0)).tobytes()
    shape = b"(K\x02K\x03K\x04t"
    call = b"cnumpy._core.numeric\n_frombuffer\n(" + binary(content) + dtype() + shape + text(order) + axes + b"tR"
    return saved(call)


def test_permuted_arrays_of_protocol_5_are_read(tmp_path: Path) -> None:
    for content in (permuted(b"(K\x02K\x00K\x01t"), pickled({"W": PERMUTED}, 5)):
        np.testing.assert_array_equal(read_params(write(tmp_path / "x", content))["W"], PERMUTED, strict=True)
        assert same(read_values(content), {"W": PERMUTED})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (permuted(b"(K\x02K\x02K\x01t"), "damaged"),
        (permuted(b"(K\x02K\x00t"), "damaged"),
        (permuted(b"(K\x02K\x00K\x07t"), "damaged"),
        (permuted(b"(K\x02K\x00}t"), r"axes in the order \(2, 0, a dict\)"),
        (permuted(b"K\x00"), "axes in the order 0"),
        (permuted(b""), "memory order 'K'"),
        (permuted(b"(K\x02K\x00K\x01t", "C"), "memory order 'C'"),
    ],
)
def test_other_permutations_are_refused(content: bytes, says: str) -> None:
    for read in (read_values, read_arrays):
        with pytest.raises(ParamsError, match=says):
            read(content)


# --- Refusals, and files that must be cheap to read


def lists(depth: int) -> bytes:
    return b"(" * depth + b")\x94" + b"".join(b"h%cl\x94" % level for level in range(depth))


def ordered(order: bytes) -> bytes:
    """Return the opcodes of an array in protocol 5 with this memory order."""
    return saved(b"cnumpy.core.numeric\n_frombuffer\n(C\x08" + bytes(8) + dtype() + b"K\x01\x85" + order + b"tR")


FILLED = array().index(b"(K\x01")  # start of an array's state
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a tuple of 2**60 values": (lambda: b"\x80\x04" + tuples(60) + b".", "more than 524288 values"),
    "a list of 2**60 values": (lambda: b"\x80\x04" + lists(60) + b".", "more than 524288 values"),
    "lists 100 deep": (lambda: b"\x80\x04" + b"(" * 100 + b"l" * 100 + b".", "over 64 deep"),
    "a list in itself": (lambda: b"\x80\x04]\x94h\x00a.", "over 64 deep"),
    "a dict in itself": (lambda: b"\x80\x04}\x94K\x00h\x00s.", "over 64 deep"),
    "a shape whose repr takes forever": (lambda: saved(array(lists(60) + b"\x85")), r"the shape \(a list,\)"),
    "a shape of 100,000 sizes": (lambda: saved(array(b"(" + b"J\xff\xff\xff\x7f" * 100_000 + b"t")), "has 8 bytes"),
    "an order whose repr takes forever": (lambda: ordered(lists(60)), "memory order a list"),
    "keys 1 and '1'": (lambda: pickled({1: W, "1": W}), "the key 1 occurs twice, as a number and as text"),
    "keys '1' and 1": (lambda: pickled([{"1": W, 1: W}]), "the key 1 occurs twice"),
    "a second state": (lambda: saved(array() + array()[FILLED:]), "gives an array a state"),
    "an array never filled": (lambda: saved(array()[:FILLED]), "an array that is never filled"),
    "values for an array": (lambda: saved(array() + b"K\x01a"), "values for something that is not a list"),
    "values for a name": (lambda: saved(b"cos\nmkdir\nK\x01a"), "values for something that is not a list"),
    "items for a name": (lambda: saved(b"cos\nmkdir\nK\x01K\x02s"), "items for something that is not a dict"),
    "a state for a name": (lambda: saved(b"cos\nmkdir\n}b"), "gives the name os.mkdir a state"),
    "an object of a number": (lambda: saved(b"K\x01)\x81"), "an object of a int"),
    "a call of a number": (lambda: saved(b"K\x01)R"), "calls a int"),
    "an identity": (lambda: saved(b"K\x01Q"), "opcode BINPERSID"),
    "joblib's": (lambda: saved(text("joblib.numpy_pickle") + text("X") + b"\x93)\x81"), "written by joblib"),
    "Python 2's": (lambda: b"}U\x01WK\x01s.", "written by Python 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_pickles_are_refused_in_one_line(case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(ParamsError, match=says) as refusal:
        read_values(make())
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


RANGE = b"cbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R"
INERT: dict[str, tuple[bytes, str]] = {
    "a set that takes forever": (b"\x8f(" + tuples(60) + b"\x90", "a set"),
    "a bytearray of 2 GiB": (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R", "an object of builtins.bytearray"),
    "a counter of zeros": (b"ccollections\nCounter\n" + binary(bytes(999)) + b"\x85R", "an object of collections."),
    "a list of a range": (b"cbuiltins\nlist\n" + RANGE + b"\x85R", "an object of builtins.list"),
    "a name of two lines": (text("a\nb") + text("c" * 200) + b"\x93)R", r"an object of a\nb.ccc"),
    "a call of what a call gave": (b"cos\nmkdir\n)R)R)R", "an object of os.mkdir"),
    "items, values and a state": (b"cx\ny\n)\x81(K\x01K\x02uK\x03a(K\x04e}b", "an object of x.y"),
}


@pytest.mark.parametrize("case", INERT)
def test_what_would_take_forever_takes_nothing(case: str) -> None:
    content, expected = INERT[case]
    assert peak_of(lambda: read_values(saved(array(), content))) < 2**17
    assert same(read_values(saved(array(), content)), {"W": np.zeros(1), "X": expected})


def test_a_key_whose_hash_takes_forever_is_not_hashed() -> None:
    tree: Any = read_values(saved(b"}" + tuples(60) + b"K\x01s"))
    assert [str(key) for key in tree["W"]] == ["a tuple"]


MORE_BOMBS: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b"]" * n,
    "numbers with a point": lambda n: (b"G" + bytes(8)) * n,
    "objects": lambda n: b"cx\ny\n\x94" + b"h\x00)\x81" * n,
    "sets": lambda n: b"\x8f" * n,
}


@pytest.mark.parametrize("bomb", [*BOMBS, *MORE_BOMBS])
def test_no_file_takes_more_than_in_proportion(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "MAX_OPCODES", 2**10)
    content = b"\x80\x04" + (BOMBS | MORE_BOMBS)[bomb](2**12) + b"."
    for read in (read_values, read_arrays) if bomb in BOMBS else (read_values,):
        with pytest.raises(ParamsError, match="more than 1024 opcodes"):
            read(content)
        assert peak_of(partial(read, content)) < 3 * len(content) + 2**18


def test_one_array_takes_no_more_than_the_limit_under_many_names() -> None:
    content = pickled([np.zeros(1000)] * 20)
    assert same(read_values(content, max_bytes=160_000), [np.zeros(1000)] * 20)
    with pytest.raises(ParamsError, match="160000 bytes of arrays, over the limit of 159999"):
        read_values(content, max_bytes=159_999)
    with pytest.raises(ParamsError, match="over the limit of 500"):
        read_values(pickled(["x" * 300] * 2), max_bytes=500)


@pytest.mark.parametrize("protocol", range(6))
def test_truncation_at_any_byte_is_refused(protocol: int) -> None:
    values: dict[Callable[[bytes], object], object] = {
        read_arrays: {"W": np.arange(4.0), "b": np.ones(2, np.float32)},
        read_values: [{"W": W}, [1, 0.5, Counter("a")]],
    }
    for read, value in values.items():
        content = pickled(value, protocol)
        for length in range(len(content)):
            with pytest.raises(ParamsError):
                read(content[:length])


# --- NumPy's files


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (W, W),
        (np.arange(3), np.arange(3)),
        (np.array([True, False]), np.array([True, False])),
        (np.asfortranarray(W.astype(">f4")), W.astype(">f4")),
        ({"W": W, "deeper": [W]}, {"W": W, "deeper": [W]}),
        (np.array([W, None], dtype=object), [W, None]),
        (np.array(["a"]), "an array of dtype '<U1'"),
        (np.ones(2, "f8,i4"), "an array of dtype [('f0', '<f8'), "),
    ],
)
def test_npy_files_are_read(value: Any, expected: Any) -> None:
    assert same(decode_npy(npy(value)), expected)
    assert same(decode_npz(npz(one=value, other=W)), {"one": expected, "other": W})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "this file does not begin with"),
        (npy(W).replace(b"NUMPY\x01", b"NUMPY\x09"), "this file does not begin with"),
        (npy(W)[:-1], r"shape \(2, 3\) and dtype float64 has 47 bytes"),
        (npy(W) + b"x", "has 49 bytes"),
        (npy({"W": W})[:-1], "truncated"),
        (npy({"W": W}) + b".", "1 bytes follow"),
    ],
)
def test_other_npy_files_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        decode_npy(content)


def test_objects_in_an_npz_take_no_more_than_in_proportion() -> None:
    many = np.empty(100, dtype=object)
    many[:] = [np.zeros(100_000)] * 100
    with pytest.raises(ParamsError, match="bytes of arrays, over the limit"):
        decode_npz(npz(many=many))
