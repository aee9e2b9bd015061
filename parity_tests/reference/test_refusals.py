"""Anything but a pickled dict of float arrays is refused in one line.

REFUSED has a row for each way in which a file can be wrong, made by the few opcodes that say what it is.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from numpy_ref import ParamsError, SimpleConvNet, read_params
from numpy_ref.pickles import read_arrays
from reference.crafted import (
    DTYPE,
    NDARRAY,
    ORDER,
    SHELL,
    array,
    arrays,
    dtype,
    instructions,
    npy,
    npz,
    pickled,
    same,
    saved,
    text,
    u4,
    u8,
    unpickled,
    write,
    zipped,
)


def dicts(depth: int) -> bytes:
    """Return a dict that contains another one twice, and so on: 2**depth in all."""
    items = b"".join(text("b") + b"h%cd\x94" % level for level in range(depth))
    return (b"(" + text("a")) * depth + b"}\x94" + items


def edited(old: bytes, new: bytes, content: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


def cupy(module: str) -> bytes:
    """Return the opcodes that cupy.ndarray.__reduce__ leads to."""
    return saved(text(module) + text("array") + b"\x93" + array() + b"\x85R")


def of_shape(shape: bytes, content: bytes = b"C\x08" + bytes(8)) -> bytes:
    return saved(array(shape, content=content))


def of_content(content: bytes) -> bytes:
    return saved(array(content=content))


def encoded(content: bytes, codec: str = "latin1") -> bytes:
    """Return the opcodes of a call of _codecs.encode."""
    return b"c_codecs\nencode\n" + content + text(codec) + b"\x86R"


class Object:
    pass


NETWORK = SimpleConvNet((1, 8, 8), hidden_size=2, output_size=2)

# Python 2.7, protocol 2, pickles str with the opcodes U and T, and arrays as such raw bytes.
PYTHON_2 = b"}q\x00(U\x01Wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rb"

# The file, and words of its refusal.
Rows = dict[str, tuple[Callable[[], bytes], str]]

OTHER_FILES: Rows = {
    "empty": (lambda: b"", "an empty file"),
    "Git LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "HTML page": (lambda: b"<!DOCTYPE html><html>", "web page: download the raw file"),
    "HTML page after blanks": (lambda: b"\xef\xbb\xbf\r\n  <html>", "web page: download the raw file"),
    "gzip": (lambda: gzip.compress(pickled(arrays())), "a gzip file: unpack it first"),
    "bz2": (lambda: bz2.compress(pickled(arrays())), "a bzip2 file: unpack it first"),
    "xz": (lambda: lzma.compress(pickled(arrays())), "an xz file: unpack it first"),
    "zip": (lambda: zipped({"data.pkl": b""}), "a zip file, as .pt and .npz"),
    "npz": (lambda: npz(W=np.zeros(3)), "a zip file, as .pt and .npz"),
    "npy": (lambda: npy(np.zeros(3)), "a .npy file"),
    "PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(8), "an image: a file of weights is expected"),
    "JPEG": (lambda: b"\xff\xd8\xff\xe0" + bytes(8), "an image: a file of weights is expected"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(8), "an HDF5 file"),
    "joblib, compressed": (lambda: zlib.compress(pickled(arrays())), "joblib"),
    "old .pt": (lambda: pickled(0x1950A86A20F9469CFC6C, 2) + pickled(1001, 2), "an old .pt file"),
    "no pickle": (lambda: b"hello, world", "not a pickle"),
    "JSON": (lambda: b'{"message": "Not Found"}', r"b'\{' at byte 0 is no opcode"),
    "CRLF, protocol 0": (lambda: pickled({"W": np.ones(3)}, 0).replace(b"\n", b"\r\n"), "copied as text"),
    "CRLF, protocol 3": (lambda: pickled(arrays(), 3).replace(b"\n", b"\r\n"), "copied as text"),
    "CRLF, protocol 4": (lambda: pickled({"\n": np.full(9, 3.3)}).replace(b"\n", b"\r\n"), "copied as text"),
    "CRLF to LF": (lambda: of_content(b"C\x08\r\n" + bytes(6)).replace(b"\r\n", b"\n"), "damaged|a state that no"),
    "as Latin-1, saved as UTF-8": (lambda: pickled(arrays()).decode("latin1").encode(), "copied as text"),
    "as UTF-8, with marks": (lambda: pickled(arrays()).decode(errors="replace").encode(), "copied as text"),
    "as UTF-16": (lambda: pickled(arrays()).decode("latin1").encode("utf-16"), "PowerShell"),
    "up to a Ctrl-Z": (lambda: of_content(b"C\x08\x1a" + bytes(7)).split(b"\x1a")[0], "truncated"),
    "Python 2, protocol 0": (lambda: b"(dp0\nS'W'\np1\nI1\ns.", "written by Python 2.*encoding='latin1'"),
    "Python 2, protocol 2": (lambda: b"\x80\x02" + PYTHON_2, "written by Python 2.*encoding='latin1'"),
    "Python 2, long text": (lambda: b"\x80\x02}T" + u4(300) + b"a" * 300 + b"K\x01s.", "written by Python 2"),
    "CuPy": (lambda: cupy("cupy._core.core"), "save it again with cupy.asnumpy"),
    "CuPy before 9": (lambda: cupy("cupy.core.core"), "save it again with cupy.asnumpy"),
    "joblib": (lambda: saved(text("joblib") + text("X") + b"\x93"), "written by joblib: .* save it again with pickle"),
    "torch tensors": (lambda: saved(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), r"torch tensors: .*\.numpy\(\)"),
}

STRUCTURE: Rows = {
    "two pickles": (lambda: pickled(arrays()) * 2, "follow the end"),
    "PROTO later": (lambda: b"}\x80\x04.", "protocol 4 at byte 1"),
    "unknown PROTO": (lambda: b"\x80\x06" + pickled(arrays())[2:], "protocol 6 at byte 0, expected 0 to 5"),
    "FRAME beyond the end": (lambda: b"\x80\x04\x95" + u8(255) + b"}.", "a frame at byte 2 reaches to byte 266 of 13"),
    "FRAME within a FRAME": (lambda: b"\x80\x04\x95" + u8(12) + b"}\x95" + u8(1) + b".1.", "a frame at byte 12"),
    "FRAME that an opcode straddles": (lambda: b"\x80\x04\x95" + u8(2) + b"}K\x01.", "straddles .* at byte 13"),
    **{
        f"{2 ** (8 * width - 1)} bytes, opcode {code!r}": (
            partial(bytes.join, b"", (b"\x80\x05", code, (2 ** (8 * width - 1)).to_bytes(width, "little"), b".")),
            f"{2 ** (8 * width - 1)} bytes .* 1 are left",
        )
        for code, width in {b"B": 4, b"X": 4, b"\x8e": 8, b"\x8d": 8, b"\x96": 8}.items()
    },
    "huge LONG4": (lambda: b"\x80\x04\x8b" + u4(2**31 - 1) + b".", "holds a huge number"),
    "LONG1 of 255 bytes": (lambda: b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", "whole number of 255 bytes"),
    "LONG of 5000 digits": (lambda: b"L" + b"9" * 5000 + b"L\n.", "line at byte 1 does not end"),
    "LONG of 500 digits": (lambda: b"L" + b"9" * 500 + b"L\n.", "is no whole number"),
    "INT that is none": (lambda: b"I1_0\n.", r"b'1_0' is no whole number"),
    "LONG_BINPUT bomb": (lambda: b"\x80\x04}r" + u4(2**32 - 1) + b".", "memo 4294967295 is written where 0 is next"),
    "negative PUT": (lambda: b"}p-1\n.", "memo -1 is written"),
    "missing memo": (lambda: b"\x80\x04h\x07.", "memo 7 is read before it is written"),
    "missing memo, by line": (lambda: b"g-1\n.", "memo -1 is read before it is written"),
    "memo of a mark": (lambda: b"\x80\x04(\x94.", "the stack is empty"),
    **{
        f"stack underflow in {name}": (partial(bytes.join, b"", (b"\x80\x04", code, b".")), "the stack is empty")
        for name, code in {"TUPLE3": b"NN\x87", "REDUCE": b"R", "BUILD": b"b", "SETITEM": b"}Ns", "STOP": b""}.items()
    },
    "stack underflow over a mark": (lambda: b"\x80\x04}(NNs.", "the stack is empty|items for"),
    "no mark": (lambda: b"\x80\x04}u.", "no mark"),
    "two values": (lambda: b"\x80\x04}}.", "2 values at the end"),
    "a value over a mark": (lambda: b"\x80\x04(}.", "2 values at the end"),
    "half an item": (lambda: b"\x80\x04}(\x8c\x01Wu.", "items for something that is not a dict"),
    "items of a name": (lambda: b"\x80\x04" + NDARRAY + b"(\x8c\x01WNu.", "items for something that is not a dict"),
    "deep nesting": (lambda: b"\x80\x04N" + b"\x85" * 5000 + b".", "nests tuples"),
    "deep nesting of dicts": (lambda: b"\x80\x04" + b"}\x8c\x01W" * 5000 + b"N" + b"s" * 5000 + b".", "'W' is a dict"),
    "long tuple": (lambda: b"\x80\x04(" + b"N" * 33 + b"t.", "a tuple of 33 values"),
    "self-reference": (lambda: b"\x80\x04}\x94(\x8c\x01Wh\x00u.", "'W' is a dict"),
    "array in its own state": (lambda: saved(SHELL + b"\x94(K\x01K\x01\x85h\x00\x89C\x00tb"), "gives an array a state"),
    "text that is none": (lambda: b"\x80\x04\x8c\x02\xff\xfe.", "is no text"),
    "half a surrogate": (lambda: b"V\\ud800\n.", "is no text"),
    "no opcode": (lambda: b"\x80\x04}\xff.", r"b'\\xff' at byte 3 is no opcode"),
}

NAMES: Rows = {
    "a global, REDUCE": (lambda: saved(b"cos\nsystem\n\x8c\x01x\x85R"), r"names 'os\.system'"),
    "a global on the stack": (lambda: saved(b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R"), r"names 'os\.system'"),
    **{
        f"a known name, {code!r}": (partial(saved, code), "holds an object")
        for code in (b"(inumpy\nndarray\n", b"(" + NDARRAY + b"o", NDARRAY + b")\x81", NDARRAY + b")}\x92")
    },
    **{
        name: (partial(saved, code), f"opcode {name}$|opcode {name},")
        for name, code in {
            "DUP": b"2",
            "POP": b"N0",
            "EXT1": b"\x82\1",
            "NEXT_BUFFER": b"\x97",
            "PERSID": b"Pa\n",
        }.items()
    },
    "PERSID": (lambda: saved(b"Pa\n"), "opcode PERSID"),
    "dotted, on the stack": (lambda: saved(text("numpy") + text("ndarray.tofile") + b"\x93"), "ndarray.tofile"),
    "dotted, in a line": (lambda: saved(b"cnumpy\ndtype.__class__\n"), "dtype.__class__"),
    "a name by a number": (lambda: saved(b"K\x01K\x02\x93"), "a global by a int and a int"),
    "a name by long text": (lambda: b"\x80\x04X" + u4(999) + b"a" * 999 + text("b") + b"\x93.", "by a long text"),
    "a line of a name that does not end": (lambda: b"c" + b"a" * 5000, "line at byte 1 does not end"),
    "matrix": (lambda: pickled({"W": np.zeros((1, 1)).view(np.matrix)}), r"numpy.*matrix.*np\.array"),
    "recarray": (lambda: pickled({"W": np.zeros(2, "f8").view(np.recarray)}), r"rec.*np\.array"),
    "masked": (lambda: pickled({"W": np.ma.zeros(3)}), r"names 'numpy\.ma.*np\.array"),
    "CPython's crash by 201 bytes": (lambda: saved(array(dtype=dtype("O8", ORDER[:-4] + b"K?tb"))), "dtype 'O8'"),
}

FLAT = ("U1", "S1", "m8", "i8", "u1", "c16")
ARRAYS: Rows = {
    **{
        f"of dtype {code}": (partial(pickled, {"W": np.zeros(2, dtype)}), f"dtype '{code}', expected float16, float32")
        for dtype, code in zip(("O", "f8,f8", *FLAT, "?", "M8[s]"), ("O8", "V16", *FLAT, "b1", "M8"), strict=True)
    },
    "longdouble": (lambda: saved(array(dtype=dtype("f16"))), "dtype 'f16'"),
    "dtype by a dict": (lambda: saved(array(dtype=DTYPE + b"}\x89\x88\x87R")), "calls the name numpy.dtype"),
    "dtype that is aligned": (lambda: saved(array(dtype=DTYPE + text("f8") + b"\x88\x88\x87R")), "calls the name"),
    **{
        f"forged dtype, {name}": (partial(saved, array(dtype=dtype(order=order))), "gives a dtype a state|nests")
        for name, order in {
            "flags": ORDER[:-3] + b"?tb",
            "size": ORDER.replace(b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", 1),
            "subdtype": ORDER.replace(b"NNN", dtype("f4") + b"K\x02\x85\x86NN"),
            "byte order": ORDER.replace(b"<", b"|"),
            "twice": ORDER * 2,
        }.items()
    },
    "dtype never completed": (lambda: saved(array(dtype=dtype(order=b""))), "dtype is never completed"),
    "dtype as a value": (lambda: saved(dtype()), "'W' is a dtype"),
    "never filled": (lambda: saved(SHELL), "'W' is an array that is never filled"),
    "_reconstruct with a shape": (lambda: edited(b"K\x00\x85", b"K\x09\x85", saved(array())), "calls the name numpy.c"),
    "_reconstruct with a bool": (lambda: edited(b"K\x00\x85", b"\x89\x85", saved(array())), "calls the name numpy.c"),
    "_reconstruct with two axes": (lambda: edited(b"K\x00\x85", b"K\x00K\x00\x86", saved(array())), "calls the name"),
    "_reconstruct of objects": (lambda: edited(b"C\x01b\x87", b"C\x01O\x87", saved(array())), "calls the name"),
    "_reconstruct of a dtype": (lambda: edited(NDARRAY, DTYPE, saved(array())), "calls the name numpy.core"),
    "shape larger than the bytes": (lambda: of_shape(b"K\x02\x85"), r"shape \(2,\) and dtype float64 has 8 bytes"),
    "shape smaller than the bytes": (lambda: saved(array(b"K\x01\x85", dtype("f4"))), r"\(1,\) .* float32 has 8 bytes"),
    "negative shape": (lambda: of_shape(b"J\xff\xff\xff\xff\x85"), r"has the shape \(-1,\)"),
    "negative shape, twice": (lambda: of_shape(b"J\xff\xff\xff\xff" * 2 + b"\x86"), r"has the shape \(-1, -1\)"),
    "overflowing shape": (lambda: saved(array(b"(" + (b"\x8a\x08" + bytes(7) + b"\x20") * 8 + b"t")), "has 8 bytes"),
    "shape of 2**64 entries": (lambda: of_shape(b"(" + b"J\0\0\0\x40" * 3 + b"t"), "has 8 bytes of content"),
    "shape of 0 and 2**62": (lambda: of_shape(b"K\0\x8a\x08" + bytes(7) + b"\x40\x86", b"C\0"), "shape|dam"),
    "shape of 0 and 10**19 - 1": (lambda: of_shape(b"K\0I" + b"9" * 19 + b"\n\x86", b"C\0"), "shape|dam"),
    "shape of bools": (lambda: of_shape(b"\x88\x85"), r"shape \(True,\)"),
    "shape that is a number": (lambda: of_shape(b"K\x01"), "gives an array a state"),
    "shape whose repr takes forever": (lambda: of_shape(dicts(60) + b"\x85"), r"the shape \(a dict,\)"),
    "second BUILD": (lambda: saved(array() + array()[len(SHELL) :]), "gives an array a state"),
    "BUILD on a name": (lambda: saved(NDARRAY + b"}b"), "gives the name numpy.ndarray a state"),
    "BUILD on a dict": (lambda: saved(b"}}b"), "gives a dict a state"),
    "state of version 2": (lambda: saved(array(version=2)), "version 2, expected 1"),
    "content that is text": (lambda: of_content(text("8 bytes.")), "content is a str, expected bytes"),
    "content that is long text": (lambda: of_content(b"X" + u4(512) + b"a" * 512), "is a long text, expected bytes"),
    "text encoded as UTF-8": (lambda: saved(encoded(text("a"), "utf-8")), "calls the name _codecs.encode"),
    "encoded bytes": (lambda: saved(encoded(b"C\x01a")), "calls the name _codecs.encode"),
    "encoded text beyond Latin-1": (lambda: saved(encoded(text("\u0100"))), "damaged"),
    "long text beyond Latin-1": (lambda: long_text("X" + "\u0100" * 255 + "ab"), "text in place of an array's bytes"),
    "long text of the wrong length": (lambda: long_text("a" * 513), "has 513 bytes of content"),
    "memory order A": (lambda: edited(b"\x8c\x01C", b"\x8c\x01A", pickled({"W": np.zeros(3)}, 5)), "memory order 'A'"),
    "_frombuffer of text": (
        lambda: saved(b"cnumpy.core.numeric\n_frombuffer\n(" + text("8 bytes.") + dtype() + b"K\1\x85\x8c\1CtR"),
        "calls the name numpy.core.numeric._frombuffer",
    ),
    "0-d": (lambda: pickled({"W": np.array(1.0)}), r"'W' has shape \(\)"),
    **{
        f"empty, protocol {protocol}": (partial(pickled, {"W": np.zeros((0, 3))}, protocol), r"'W' has shape \(0, 3\)")
        for protocol in range(6)
    },
    "NaN": (lambda: pickled({"W": np.append(np.zeros(2**18), np.nan)}), "NaN or infinity: .* allow_nonfinite=True"),
    "infinity": (lambda: pickled({"W": np.array([1, -np.inf])}), "'W' holds NaN or infinity"),
}

VALUES: Rows = {
    **{
        f"{name}, protocol {protocol}": (partial(pickled, value, protocol), says)
        for protocol in (0, 1, 4)
        for name, (value, says) in {
            "a NumPy scalar": ({"W": np.float64(1)}, r"names 'numpy.*scalar"),
            "a number": ({"lr": 0.5}, "'lr' is a number, expected an array"),
            "a whole number": ({"W": 3}, "'W' is a int"),
            "None": ({"W": None}, "'W' is a NoneType"),
            "a list": ({"W": [1.0]}, "'W' is a list, expected an array"),
            "a nested dict": ({"params": arrays()}, "'params' is a dict, expected an array: save that dict"),
            "a top-level array": (np.zeros(3), "holds an array, expected a dict"),
            "a top-level list": ([np.zeros(3)], "holds a list, expected a dict"),
            "a top-level tuple": ((np.zeros(3),), "holds a tuple, expected a dict"),
            "a top-level number": (3, "holds a int, expected a dict"),
            "an empty dict": ({}, "no arrays: the dict is empty"),
        }.items()
    },
    **{
        f"a network, protocol {protocol}": (partial(pickled, NETWORK, protocol), "save net.params")
        for protocol in range(6)
    },
    "a set": (lambda: pickled({"W": {1.0}}), "'W' is a set, expected an array"),
    "an object as value": (lambda: pickled({"net": Object()}), "names '.*Object'"),
    "a counter": (lambda: pickled(Counter(a=1)), r"save dict\(params\)"),
    "a number as key": (lambda: pickled({1: np.zeros(3)}), "a key is a int"),
    "bytes as key": (lambda: pickled({b"W": np.zeros(3)}), "a key is a bytes"),
    "a tuple as key": (lambda: pickled({("W", 1): np.zeros(3)}), "a key is a tuple"),
    "a key twice": (lambda: edited(text("X"), text("W"), saved(array(), array())), "the key 'W' occurs twice"),
    "a long key twice": (lambda: b"}" + (text("A" * 200) + array() + b"s") * 2 + b".", r"the key 'A{79} occurs twice"),
    "a long key": (lambda: pickled({"k" * 200: 3}), r"'k{79} is a int"),
    "a key beyond all names": (lambda: pickled({"k" * 300: np.zeros(3)}), "a key is a long text"),
}


def long_text(content: str) -> bytes:
    """64 numbers whose bytes are stored as text, as in protocols 0 to 2."""
    long = content.encode()
    return of_shape(b"K\x40\x85", encoded(b"X" + u4(len(long)) + long))


GROUPS = {"file": OTHER_FILES, "structure": STRUCTURE, "name": NAMES, "array": ARRAYS, "value": VALUES}
REFUSED = {f"{group}: {name}": row for group, rows in GROUPS.items() for name, row in rows.items()}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, says = REFUSED[case]
    with pytest.raises(ParamsError, match=says) as refusal:
        read_params(file := write(tmp_path / "params.pkl", make()))
    message = str(refusal.value)
    assert message.startswith(f"{file}: ")
    assert message.isprintable()
    assert len(message) < len(str(file)) + 400


@pytest.mark.parametrize(
    "content",
    [
        saved(array()),
        saved(array(), array()),
        long_text("a" * 512),
        long_text("é" * 512),
        b"(" + text("W") + array() + b"d.",
    ],
)
def test_crafted_pickles_are_refused_for_their_flaw_alone(content: bytes) -> None:
    assert same(read_arrays(content), unpickled(content))


def test_an_array_in_a_shape_is_told_in_one_line() -> None:
    """The repr of an array would take several lines."""
    parts = instructions(pickle.dumps({"a": np.eye(3), "b": np.ones(2)}, 3))
    made = next(i for i, (code, _) in enumerate(parts) if code == b"R")  # the first array, followed by its memo opcode
    place = max(i for i, part in enumerate(parts) if part == (b"K", b"\x02"))
    parts[place] = (b"h", parts[made + 1][1])
    with pytest.raises(ParamsError, match=r"^an array has the shape \(an array,\)$"):
        read_arrays(b"".join(code + argument for code, argument in parts))
