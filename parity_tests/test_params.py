"""params.pkl: what pickle writes is read, what is anything else is refused, and nothing in it ever runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import pickletools
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import ParamsError, SimpleConvNet, read_params, write_params
from numpy_ref.checks import Array


def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "W1": rng.standard_normal((3, 1, 2, 2)),
        "b1": rng.standard_normal(3).astype(np.float32),
        "big-endian": rng.standard_normal((2, 3)).astype(">f8"),
        "fortran": np.asfortranarray(rng.standard_normal((4, 5)).astype(np.float32)),
        "half": rng.standard_normal(5).astype(np.float16),
        "strided": rng.standard_normal((4, 6))[:, ::2],
    }


def pickled(value: object, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.pkl"


@pytest.mark.parametrize("names", ["numpy 2", "numpy 1"])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(file: Path, protocol: int, names: str) -> None:
    content = pickled(arrays(), protocol)
    if names == "numpy 1" and protocol < 4:  # from 4 on, names have their length before them
        content = content.replace(b"numpy._core.", b"numpy.core.")
    found = read_params(write(file, content))
    assert list(found) == list(arrays())
    for name, expected in arrays().items():
        assert found[name].dtype == expected.dtype.newbyteorder("=")
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], expected)


def test_what_is_written_is_read_by_pickle_and_back(file: Path) -> None:
    write_params(arrays(), file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 knows numpy.core, and warns of it
        loaded = pickle.loads(file.read_bytes())
    for back in (loaded, read_params(file)):
        assert list(back) == list(arrays())
        for name, expected in arrays().items():
            assert back[name].dtype == expected.dtype.newbyteorder("=")
            np.testing.assert_array_equal(back[name], expected)
    names = {arg for op, arg, _ in pickletools.genops(file.read_bytes()) if op.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def test_a_network_saves_and_loads(file: Path) -> None:
    first, second = (SimpleConvNet(rng=np.random.RandomState(seed)) for seed in (1, 2))
    first.save_params(file)
    second.load_params(file)
    x = np.random.default_rng(0).random((3, 1, 28, 28))
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    second.params["b3"] += 1
    assert second.layers["Affine2"].b is second.params["b3"]  # type: ignore[attr-defined]


class Bomb:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_run(file: Path, tmp_path: Path) -> None:
    write(file, pickled({"W1": Bomb(tmp_path / "boom")}))
    with pytest.raises(ParamsError, match=r"names 'posix\.mkdir'|names 'nt\.mkdir'"):
        read_params(file)
    assert not (tmp_path / "boom").exists()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickled(arrays()))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def edited(old: bytes, new: bytes, value: object | None = None) -> Callable[[], bytes]:
    def make() -> bytes:
        content = pickled({"W": np.zeros((2, 3))} if value is None else value, 3)
        assert content.count(old) == 1
        return content.replace(old, new)

    return make


def tied(names: int) -> bytes:
    weights = np.zeros(100)
    return pickled({f"W{i}": weights for i in range(names)})


def plain(value: object, protocol: int = 4) -> Callable[[], bytes]:
    return lambda: pickled(value, protocol)


SHELL = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
ORDER = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def crafted(order: bytes = ORDER, build: bytes = b"b") -> bytes:
    """{"W": np.zeros(1)}, its array's state in memo 0."""
    state = b"(K\x01K\x01\x85cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R" + order + b"\x89C\x08" + bytes(8) + b"t\x94"
    return b"\x80\x04}\x8c\x01W" + SHELL + state + build + b"s."


def one_text_many_bytes() -> bytes:
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000 + b"\x94"
    call = b"c_codecs\nencode\n\x94h\x00\x8c\x06latin1\x94\x86R"
    return b"\x80\x04" + text + call + b"h\x01h\x00h\x02\x86R" * 100 + b"."


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "no pickle": (lambda: b"hello, world", "not a pickle"),
    "gzip": (lambda: gzip.compress(pickled(arrays())), "gzip"),
    "zip": (zipped, "zip"),
    "npy": (npy, "npy"),
    "git lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (lambda: b"<!DOCTYPE html><html>", "web page"),
    "copied as text": (lambda: pickled(arrays()).decode("latin1").encode(), "copied as text"),
    "trailing bytes": (lambda: pickled(arrays()) + b"\n", "1 bytes follow"),
    "two pickles": (lambda: pickled(arrays()) * 2, "follow the end"),
    "second PROTO": (lambda: b"\x80\x04" + pickled(arrays()), "protocol 4 at byte 2"),
    "protocol 6": (lambda: b"\x80\x06" + pickled(arrays())[2:], "protocol 6"),
    "frame too long": (lambda: b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00}.", "frame"),
    "frame ends inside an opcode": (lambda: b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00}K\x01.", "straddles"),
    "a list": (plain([np.zeros(3)]), "APPEND|EMPTY_LIST"),
    "an array": (plain(np.zeros(3)), "holds an array, expected a dict"),
    "a number": (plain(3), "holds a int, expected a dict"),
    "an empty dict": (plain({}), "no arrays"),
    "a scalar": (plain({"W": np.float64(1)}), r"numpy.*scalar"),
    "a number inside": (plain({"W": 3}), "'W' is a int"),
    "None inside": (plain({"W": None}), "'W' is a NoneType"),
    "a nested dict": (plain({"params": {"W": np.zeros(3)}}), "'params' is a dict"),
    "a number as key": (plain({1: np.zeros(3)}), "a key is a int"),
    "0-d": (plain({"W": np.array(1.0)}), r"'W' has shape \(\)"),
    "empty array": (plain({"W": np.zeros((0, 3))}), r"'W' has shape \(0, 3\)"),
    "NaN": (plain({"W": np.array([1, np.nan])}), "'W' holds NaN or infinity"),
    "infinity": (plain({"W": np.array([1, -np.inf])}), "'W' holds NaN or infinity"),
    "integers": (plain({"W": np.zeros(3, int)}), "dtype 'i8', expected float16"),
    "complex": (plain({"W": np.zeros(3, complex)}), "dtype 'c16'"),
    "bool": (plain({"W": np.zeros(3, bool)}), "dtype 'b1'"),
    "long double": (plain({"W": np.zeros(3, np.longdouble)}), "dtype 'f"),
    "objects": (plain({"W": np.array([None, 1])}), "dtype 'O8'"),
    "text": (plain({"W": np.array(["a"])}), "dtype 'U1'"),
    "structured": (plain({"W": np.zeros(2, "f8,f8")}), "dtype 'V16'"),
    "dates": (plain({"W": np.zeros(2, "M8[s]")}), "dtype 'M8'"),
    "masked": (plain({"W": np.ma.zeros(3)}), "names 'numpy.ma"),
    "matrix": (edited(b"numpy\nndarray", b"numpy\nmatrix"), r"names 'numpy\.matrix'"),
    "a network": (plain(SimpleConvNet()), "expected a dict of arrays|names"),
    "key twice": (edited(b"\x01\0\0\0B", b"\x01\0\0\0A", {"A": np.zeros(2), "B": np.zeros(2)}), "twice"),
    "long key twice": (
        edited(b"B" * 1000, b"A" * 1000, {"A" * 1000: np.zeros(2), "B" * 1000: np.zeros(2)}),
        r"the key 'A{79} stands twice",
    ),
    "self-reference": (lambda: b"\x80\x04}\x94(\x8c\x01Wh\x00u.", "'W' is a dict"),
    "shape too large": (edited(b"K\x02K\x03", b"K\x02K\x04"), r"shape \(2, 4\) .* 48 bytes"),
    "negative shape": (edited(b"K\x02K\x03", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff"), r"shape \(-2, -3\)"),
    "huge shape": (edited(b"K\x02K\x03", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f"), "48 bytes"),
    "forged dtype flags": (
        edited(b"\xff\xff\xff\xffK\x00t", b"\xff\xff\xff\xffK?t"),
        "state that no plain float array",
    ),
    "forged dtype": (edited(b"f8", b"O8"), "dtype 'O8'"),
    "reconstruct with a shape": (edited(b"K\x00\x85", b"K\x09\x85"), "calls"),
    "never filled": (lambda: b"\x80\x03}X\x01\0\0\0W" + SHELL + b"s.", "'W' is an array that is never filled"),
    "second BUILD of an array": (lambda: crafted(build=b"bh\x00b"), "gives an array a state"),
    "second BUILD of a dtype": (lambda: crafted(order=ORDER * 2), "gives a dtype a state"),
    "33 axes": (edited(b"K\x02K\x03\x86", b"(" + b"K\x01" * 31 + b"K\x02K\x03t"), "tuple of 33 values"),
    "state of version 2": (edited(b"K\x01K\x02K\x03", b"K\x02K\x02K\x03"), "version 2, expected 1"),
    "memory order A": (lambda: pickled({"W": np.zeros(3)}, 5).replace(b"\x8c\x01C", b"\x8c\x01A"), "memory order 'A'"),
    "one text, many bytes": (one_text_many_bytes, "encodes the same text"),
    "long tuples rescanned": (
        lambda: b"\x80\x04(" + b"N" * 40000 + b"t\x94" + b"h\x00\x85" * 8000 + b".",
        "40000 values",
    ),
    "too many steps": (lambda: b"\x80\x04" + b"}" * 200_000 + b".", "over 100000 steps"),
    "one array, many names": (lambda: tied(9), "under many names"),
    "long key": (plain({"k" * 1000: 3}), r"'k{79} is a int"),
    "CRLF, protocol 3": (lambda: pickled(arrays(), 3).replace(b"\n", b"\r\n"), "copied as text"),
    "CRLF, protocol 4": (
        lambda: pickled({"W": np.full(9, 3.3), "\n": np.ones(2)}).replace(b"\n", b"\r\n"),
        "copied as text",
    ),
    "unknown global": (edited(b"numpy\nndarray", b"os\nsystem"), r"names 'os\.system'"),
    "cupy": (edited(b"numpy\nndarray", b"cupy\nndarray"), "cupy.asnumpy"),
    "joblib": (edited(b"numpy\nndarray", b"joblib.numpy_pickle\nNumpyArrayWrapper"), "joblib"),
    "Python 2": (lambda: b"(dp0\nS'W'\np1\nI1\ns.", "Python 2"),
    "missing memo": (lambda: b"\x80\x04h\x07.", "damaged"),
    "empty stack": (lambda: b"\x80\x04s.", "the stack is empty"),
    "no mark": (lambda: b"\x80\x04}u.", "mark"),
    "only a mark": (lambda: b"\x80\x04(.", "expected|holds"),
    "deep nesting": (lambda: b"\x80\x04K\x00" + b"\x85" * 5000 + b".", "nests"),
    "huge length": (lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "damaged"),
    "duplicated values": (lambda: b"\x80\x04}22222.", "DUP"),
    "extension": (lambda: b"\x80\x04\x82\x01.", "EXT1"),
    "persistent id": (lambda: b"\x80\x04\x8c\x01aQ.", "BINPERSID"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_one_line(file: Path, case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(ParamsError, match=says) as refusal:
        read_params(write(file, make()))
    assert str(refusal.value).startswith(str(file))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("protocol", range(6))
def test_truncation_at_any_byte_is_refused(file: Path, protocol: int) -> None:
    content = pickled({"W": np.arange(4.0), "b": np.ones(2, np.float32)}, protocol)
    for length in range(len(content)):
        with pytest.raises(ParamsError):
            read_params(write(file, content[:length]))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_damaged_byte_never_does_more_than_change_a_value(file: Path, protocol: int) -> None:
    content = pickled({"W": np.arange(4.0), "b": np.ones(2, np.float32)}, protocol)
    rng = np.random.default_rng(protocol)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        try:
            found = read_params(write(file, bytes(damaged)))
        except ParamsError:
            continue
        assert all(value.dtype.kind == "f" for value in found.values())


def test_arrays_that_share_content_are_refused(file: Path) -> None:
    """A small file must not become a large dict: each array may reuse the bytes of the first."""
    head = b"\x80\x04}(\x8c\x01a" + SHELL + b"(K\x01K\x64\x85cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R"
    state = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x94\x89B" + (800).to_bytes(4, "little")
    content = head + state + bytes(800) + b"\x94tb"
    for name in b"bcdefgh":
        content += b"\x8c\x01" + bytes([name]) + SHELL + b"(K\x01K\x64\x85h\x00\x89h\x01tb"
    with pytest.raises(ParamsError, match="share their content"):
        read_params(write(file, content + b"u."))


def test_crafted_pickles_are_refused_for_their_flaw_alone(file: Path) -> None:
    np.testing.assert_array_equal(read_params(write(file, crafted()))["W"], np.zeros(1))


def test_32_axes_are_read(file: Path) -> None:
    assert read_params(write(file, pickled({"W": np.ones((1,) * 32)})))["W"].ndim == 32


def test_one_array_under_two_names_comes_back_as_two(file: Path) -> None:
    found = read_params(write(file, tied(2)))
    assert not np.shares_memory(found["W0"], found["W1"])


def test_an_error_without_words_is_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def fail(_: bytes) -> Any:
        raise OverflowError

    monkeypatch.setattr("pickletools.genops", fail)
    with pytest.raises(ParamsError, match=r"\(OverflowError\)"):
        read_params(write(file, pickled(arrays())))


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)])
def test_the_size_cap_is_checked(file: Path, limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_bytes must be"):
        read_params(write(file, pickled(arrays())), max_bytes=limit)


def test_any_size_cap_costs_no_more_than_the_file(file: Path) -> None:
    assert read_params(write(file, pickled(arrays())), max_bytes=2**70).keys() == arrays().keys()


def test_a_file_that_grows_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickled(arrays())
    write(file, content)
    before = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, len(content) - 1, 0, 0, 0))
    monkeypatch.setattr("numpy_ref.params.os.fstat", lambda _: before)
    with pytest.raises(ParamsError, match="still being written"):
        read_params(file)


def test_size_cap_and_special_files(file: Path, tmp_path: Path) -> None:
    write(file, pickled(arrays()))
    with pytest.raises(ParamsError, match="over the limit of 100"):
        read_params(file, max_bytes=100)
    with pytest.raises((ParamsError, OSError)):
        read_params(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_params(tmp_path / "missing.pkl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_refused_at_once(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(ParamsError, match="not a regular file"):
        read_params(file)


def test_nonfinite_values_can_be_allowed(file: Path) -> None:
    write_params({"W": np.array([np.nan, np.inf, 1])}, file)
    assert np.isnan(read_params(file, allow_nonfinite=True)["W"][0])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "empty"),
        ({"W": np.zeros(3, int)}, "int64"),
        ({"W": [1.0]}, "list"),
        ({"W": np.zeros(())}, r"shape \(\)"),
        ({"W": np.zeros(3, np.longdouble)}, "W.*float"),
        ({1: np.zeros(3)}, "a key is a int"),
    ],
)
def test_what_cannot_be_written_is_refused(file: Path, params: Any, says: str) -> None:
    write(file, b"old")
    with pytest.raises(ParamsError, match=says):
        write_params(params, file)
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("params", [None, [1.0]])
def test_only_a_mapping_is_written(file: Path, params: Any) -> None:
    with pytest.raises(TypeError, match=f"mapping.*got {type(params).__name__}"):
        write_params(params, file)


def test_the_file_and_its_folder_reach_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    write_params(arrays(), file)
    assert synced == ([False, True] if os.name == "posix" else [False])


def test_a_write_that_does_not_read_back_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, b"old")
    monkeypatch.setattr("numpy_ref.params._encode", lambda _: pickled({"W": np.ones(3)}))
    with pytest.raises(OSError, match="does not read back"):
        write_params({"W": np.zeros(3)}, file)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_a_link_keeps_pointing_to_its_target(file: Path, tmp_path: Path) -> None:
    target = write(tmp_path / "target.pkl", b"old")
    file.symlink_to(target)
    write_params({"W": np.ones(3)}, file)
    assert file.is_symlink()
    assert read_params(target).keys() == {"W"}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: {k: v for k, v in p.items() if k != "W2"}, r"missing \['W2'\]"),
        (lambda p: {**p, "W4": p["W3"]}, r"unexpected \['W4'\]"),
        (lambda p: {**p, "W2": p["W2"].T}, r"W2 is \(100, 4320\), expected \(4320, 100\)"),
        (lambda p: {**p, "b2": p["b2"][:, None]}, r"b2 is \(100, 1\), expected \(100,\)"),
    ],
)
def test_a_network_refuses_weights_of_another(file: Path, spoil: Any, says: str) -> None:
    net = SimpleConvNet()
    before = {name: value.copy() for name, value in net.params.items()}
    write_params(spoil(net.params), file)
    with pytest.raises(ValueError, match=says):
        net.load_params(file)
    assert all(np.array_equal(net.params[name], value) for name, value in before.items())
