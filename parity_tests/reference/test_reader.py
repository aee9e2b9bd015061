"""Reading params.pkl: what pickle writes is read, anything else is refused in one line, and nothing in it ever runs.

REFUSED has a row for each way in which a file can be wrong, made by the few opcodes that say what it is.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import pickletools
import re
import stat
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import ParamsError, SimpleConvNet, opcodes, pickles, read_params
from numpy_ref.checks import Array

MIB = 2**20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.pkl"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "W1": rng.standard_normal((3, 1, 2, 2)),
        "b1": rng.standard_normal(3).astype(np.float32),
        "big-endian": rng.standard_normal((2, 3)).astype(">f8"),
        "fortran": np.asfortranarray(rng.standard_normal((4, 5)).astype(np.float32)),
        "half": rng.standard_normal(5).astype(np.float16),
        "big-endian half": np.asfortranarray(rng.standard_normal((3, 2)).astype(">f2")),
        "strided": rng.standard_normal((4, 6))[:, ::2],
        "long": np.asfortranarray(rng.standard_normal((200, 150)).astype(">f4")),  # over a piece of text
        "zeros": np.zeros((40, 50)),  # an escape for every byte in protocol 0
    }


def pickled(value: object, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def instructions(content: bytes) -> list[tuple[bytes, bytes]]:
    """Opcodes and arguments of a valid pickle, without the frames, which may be left out."""
    starts = [position or 0 for _, _, position in pickletools.genops(content)]
    parts = [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]
    return [(part[:1], part[1:]) for part in parts if part[:1] != b"\x95"]


def renamed(content: bytes, package: str) -> bytes:
    """With the names of numpy.core (NumPy 1) or numpy._core (NumPy 2), whichever were there."""
    parts = []
    for code, argument in instructions(content):
        name = re.sub(rb"^.?numpy\._?core", package.encode(), argument)
        sized = code == b"\x8c" and name != argument
        parts.append(code + bytes([len(name)] * sized) + name)
    return b"".join(parts)


def unpickled(content: bytes) -> dict[str, Array]:
    """For pickles made here only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 knows numpy.core, and warns of it
        value: dict[str, Array] = pickle.loads(content)
    return value


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is np.ndarray
        assert found[name].dtype == value.dtype.newbyteorder("=")
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read_as_pickle_reads_it(file: Path, protocol: int, package: str) -> None:
    content = renamed(pickled(arrays(), protocol), package)
    assert package.encode() in content
    assert_same(read_params(write(file, content)), arrays())
    if package == "numpy.core" or np.__version__ >= "2":
        assert_same(read_params(file), unpickled(content))


@pytest.mark.parametrize("protocol", range(6))
def test_every_byte_is_read(file: Path, protocol: int) -> None:
    every_byte = {"W": np.frombuffer(bytes(range(256)) * 4, "<f2")}
    assert_same(read_params(write(file, pickled(every_byte, protocol)), allow_nonfinite=True), every_byte)


@pytest.mark.parametrize("protocol", range(6))
def test_keys_in_any_order_are_read(file: Path, protocol: int) -> None:
    turned = dict(reversed(arrays().items()))
    assert_same(read_params(write(file, pickled(turned, protocol))), turned)


def test_the_books_weights_are_read_as_pickle_reads_them(book_params: Path) -> None:
    assert_same(read_params(book_params), unpickled(book_params.read_bytes()))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [OrderedDict, partial(defaultdict, list), partial(defaultdict, None)], ids=str)
def test_dicts_of_other_kinds_are_read(file: Path, kind: Callable[..., Any], protocol: int) -> None:
    assert_same(read_params(write(file, pickled(kind(arrays()), protocol))), arrays())


def test_32_axes_are_read(file: Path) -> None:
    assert read_params(write(file, pickled({"W": np.ones((1,) * 32)})))["W"].ndim == 32


def test_many_small_arrays_are_read(file: Path) -> None:
    many = {f"W{number}": np.full(1, number, float) for number in range(10_000)}
    assert_same(read_params(write(file, pickled(many))), many)


def test_one_array_under_two_names_comes_back_as_two(file: Path) -> None:
    weights = np.arange(3.0)
    found = read_params(write(file, pickled({"W1": weights, "W2": weights})))
    assert_same(found, {"W1": weights, "W2": weights})
    assert not np.shares_memory(found["W1"], found["W2"])


# --- What is refused


class Bomb:
    """Would create a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(file: Path, tmp_path: Path, protocol: int) -> None:
    write(file, pickled({"W1": Bomb(tmp_path / "boom")}, protocol))
    with pytest.raises(ParamsError, match=r"names 'posix\.mkdir'|names 'nt\.mkdir'"):
        read_params(file)
    assert not (tmp_path / "boom").exists()


NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
SHELL = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
ORDER = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
BUILD = b"b"


def u4(number: int) -> bytes:
    return struct.pack("<I", number)


def u8(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def binary(value: bytes) -> bytes:
    return b"B" + u4(len(value)) + value


def dtype(code: str = "f8", order: bytes = ORDER) -> bytes:
    return DTYPE + text(code) + b"\x89\x88\x87R" + order


def array(
    shape: bytes = b"K\x01\x85", dtype: bytes = dtype(), content: bytes = b"C\x08" + bytes(8), version: int = 1
) -> bytes:
    """The opcodes of np.zeros(1), or of what is almost that."""
    return SHELL + b"(K" + bytes([version]) + shape + dtype + b"\x89" + content + b"t" + BUILD


def saved(*values: bytes) -> bytes:
    """A pickled dict of opcodes under the names W, X, Y ..."""
    return b"\x80\x04}(" + b"".join(text(chr(ord("W") + i)) + value for i, value in enumerate(values)) + b"u."


def dicts(depth: int) -> bytes:
    """A dict in which stands another, twice, and so on: 2**depth in all."""
    items = b"".join(text("b") + b"h%cd\x94" % level for level in range(depth))
    return (b"(" + text("a")) * depth + b"}\x94" + items


def edited(old: bytes, new: bytes, content: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickled(arrays()))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, W=np.zeros(3))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def cupy(module: str) -> bytes:
    """As cupy.ndarray.__reduce__ has itself pickled."""
    return saved(text(module) + text("array") + b"\x93" + array() + b"\x85R")


class Object:
    pass


# Protocol 2 of Python 2.7: str is pickled as bytes, U and T, and arrays as their raw content.
PYTHON_2 = b"}q\x00(U\x01Wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rb"

# Rows: the file, and what its refusal says.
Rows = dict[str, tuple[Callable[[], bytes], str]]

OTHER_FILES: Rows = {
    "empty": (lambda: b"", "an empty file"),
    "Git LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "HTML page": (lambda: b"<!DOCTYPE html><html>", "web page: download the raw file"),
    "HTML page after blanks": (lambda: b"\xef\xbb\xbf\r\n  <html>", "web page: download the raw file"),
    "gzip": (lambda: gzip.compress(pickled(arrays())), "a gzip file: unpack it first"),
    "bz2": (lambda: bz2.compress(pickled(arrays())), "a bzip2 file: unpack it first"),
    "xz": (lambda: lzma.compress(pickled(arrays())), "an xz file: unpack it first"),
    "zip": (zipped, "a zip file, as .pt and .npz"),
    "npz": (npz, "a zip file, as .pt and .npz"),
    "npy": (npy, "a .npy file"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(8), "an HDF5 file"),
    "joblib, compressed": (lambda: zlib.compress(pickled(arrays())), "joblib"),
    "old .pt": (lambda: pickled(0x1950A86A20F9469CFC6C, 2) + pickled(1001, 2), "an old .pt file"),
    "no pickle": (lambda: b"hello, world", "not a pickle"),
    "JSON": (lambda: b'{"message": "Not Found"}', r"b'\{' at byte 0 is no opcode"),
    "CRLF, protocol 0": (lambda: pickled({"W": np.ones(3)}, 0).replace(b"\n", b"\r\n"), "copied as text"),
    "CRLF, protocol 3": (lambda: pickled(arrays(), 3).replace(b"\n", b"\r\n"), "copied as text"),
    "CRLF, protocol 4": (
        lambda: pickled({"W": np.full(9, 3.3), "\n": np.ones(2)}).replace(b"\n", b"\r\n"),
        "copied as text",
    ),
    "CRLF to LF": (
        lambda: saved(array(content=b"C\x08\r\n" + bytes(6))).replace(b"\r\n", b"\n"),
        "damaged|a state that no plain",
    ),
    "as Latin-1, saved as UTF-8": (lambda: pickled(arrays()).decode("latin1").encode(), "copied as text"),
    "as UTF-8, with marks": (lambda: pickled(arrays()).decode(errors="replace").encode(), "copied as text"),
    "as UTF-16": (lambda: pickled(arrays()).decode("latin1").encode("utf-16"), "PowerShell"),
    "up to a Ctrl-Z": (lambda: saved(array(content=b"C\x08\x1a" + bytes(7))).split(b"\x1a")[0], "truncated"),
    "Python 2, protocol 0": (lambda: b"(dp0\nS'W'\np1\nI1\ns.", "written by Python 2.*encoding='latin1'"),
    "Python 2, protocol 2": (lambda: b"\x80\x02" + PYTHON_2, "written by Python 2.*encoding='latin1'"),
    "Python 2, long text": (lambda: b"\x80\x02}T" + u4(300) + b"a" * 300 + b"K\x01s.", "written by Python 2"),
    "CuPy": (lambda: cupy("cupy._core.core"), "save it again with cupy.asnumpy"),
    "CuPy before 9": (lambda: cupy("cupy.core.core"), "save it again with cupy.asnumpy"),
    "joblib": (
        lambda: saved(text("joblib.numpy_pickle") + text("NumpyArrayWrapper") + b"\x93)\x81"),
        "written by joblib: .* save it again with pickle",
    ),
    "torch tensors": (lambda: saved(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), r"torch tensors: .*\.numpy\(\)"),
}

STRUCTURE: Rows = {
    "trailing bytes": (lambda: pickled(arrays()) + b"\n", "1 bytes follow"),
    "two pickles": (lambda: pickled(arrays()) * 2, "follow the end"),
    "repeated PROTO": (lambda: b"\x80\x04" + pickled(arrays()), "protocol 4 at byte 2"),
    "PROTO later": (lambda: b"}\x80\x04.", "protocol 4 at byte 1"),
    "unknown PROTO": (lambda: b"\x80\x06" + pickled(arrays())[2:], "protocol 6 at byte 0, expected 0 to 5"),
    "FRAME beyond the end": (lambda: b"\x80\x04\x95" + u8(255) + b"}.", "a frame at byte 2 reaches to byte 266 of 13"),
    "huge FRAME": (lambda: b"\x80\x04\x95" + u8(2**64 - 1) + b"}.", "a frame at byte 2 reaches"),
    "FRAME within a FRAME": (lambda: b"\x80\x04\x95" + u8(12) + b"}\x95" + u8(1) + b".1.", "a frame at byte 12"),
    "FRAME that an opcode straddles": (lambda: b"\x80\x04\x95" + u8(2) + b"}K\x01.", "straddles .* at byte 13"),
    "huge BINBYTES": (lambda: b"\x80\x04B" + u4(2**32 - 1) + b".", "4294967295 bytes .* 1 are left"),
    "huge BINBYTES8": (lambda: b"\x80\x04\x8e" + u8(2**63) + b".", "9223372036854775808 bytes .* 1 are left"),
    "huge BINUNICODE": (lambda: b"\x80\x04X" + u4(2**31) + b".", "2147483648 bytes .* 1 are left"),
    "huge BINUNICODE8": (lambda: b"\x80\x04\x8d" + u8(2**64 - 1) + b".", "18446744073709551615 bytes"),
    "huge BYTEARRAY8": (lambda: b"\x80\x05\x96" + u8(2**40) + b".", "1099511627776 bytes"),
    "huge LONG4": (lambda: b"\x80\x04\x8b" + u4(2**31 - 1) + b".", "holds a huge number"),
    "LONG1 of 255 bytes": (lambda: b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", "whole number of 255 bytes"),
    "LONG of 5000 digits": (lambda: b"L" + b"9" * 5000 + b"L\n.", "line at byte 1 does not end"),
    "LONG of 500 digits": (lambda: b"L" + b"9" * 500 + b"L\n.", "is no whole number"),
    "INT that is none": (lambda: b"I1_0\n.", r"b'1_0' is no whole number"),
    "LONG_BINPUT bomb": (lambda: b"\x80\x04}r" + u4(2**32 - 1) + b".", "memo 4294967295 is written where 0 is next"),
    "negative PUT": (lambda: b"}p-1\n.", "memo -1 is written"),
    "missing memo": (lambda: b"\x80\x04h\x07.", "memo 7 is read before it is written"),
    "missing memo, by line": (lambda: b"g-1\n.", "memo -1 is read before it is written"),
    "missing memo, long": (lambda: b"\x80\x04j" + u4(2**32 - 1) + b".", "memo 4294967295 is read before"),
    "memo of nothing": (lambda: b"\x80\x04\x94.", "the stack is empty"),
    "memo of a mark": (lambda: b"\x80\x04(\x94.", "the stack is empty"),
    **{
        f"stack underflow in {name}": (partial(bytes.join, b"", (b"\x80\x04", code, b".")), "the stack is empty")
        for name, code in {"TUPLE3": b"NN\x87", "REDUCE": b"R", "BUILD": b"b", "SETITEM": b"}Ns", "STOP": b""}.items()
    },
    "stack underflow over a mark": (lambda: b"\x80\x04}(NNs.", "the stack is empty|items for"),
    "no mark": (lambda: b"\x80\x04}u.", "no mark"),
    "only a mark": (lambda: b"\x80\x04(.", "the stack is empty"),
    "two values": (lambda: b"\x80\x04}}.", "2 values at the end"),
    "half an item": (lambda: b"\x80\x04}(\x8c\x01Wu.", "items for something that is not a dict"),
    "items of a name": (lambda: b"\x80\x04" + NDARRAY + b"(\x8c\x01WNu.", "items for something that is not a dict"),
    "deep nesting": (lambda: b"\x80\x04N" + b"\x85" * 5000 + b".", "nests tuples"),
    "deep nesting of dicts": (lambda: b"\x80\x04" + b"}\x8c\x01W" * 5000 + b"N" + b"s" * 5000 + b".", "'W' is a dict"),
    "deep nesting of marks": (lambda: b"\x80\x04" + b"(" * 5000 + b".", "the stack is empty"),
    "long tuple": (lambda: b"\x80\x04(" + b"N" * 33 + b"t.", "a tuple of 33 values"),
    "DUP bomb": (lambda: b"\x80\x04}22222.", "opcode DUP"),
    "POP": (lambda: b"\x80\x04}}0.", "opcode POP"),
    "self-reference": (lambda: b"\x80\x04}\x94(\x8c\x01Wh\x00u.", "'W' is a dict"),
    "array in its own state": (lambda: saved(SHELL + b"\x94(K\x01K\x01\x85h\x00\x89C\x00tb"), "gives an array a state"),
    "text that is none": (lambda: b"\x80\x04\x8c\x02\xff\xfe.", "is no text"),
    "half a surrogate": (lambda: b"V\\ud800\n.", "is no text"),
    "no opcode": (lambda: b"\x80\x04}\xff.", r"b'\\xff' at byte 3 is no opcode"),
}

NAMES: Rows = {
    "a global, REDUCE": (lambda: saved(b"cos\nsystem\n\x8c\x01x\x85R"), r"names 'os\.system'"),
    "a global on the stack": (lambda: saved(b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R"), r"names 'os\.system'"),
    "a builtin": (lambda: saved(b"cbuiltins\neval\n\x8c\x01x\x85R"), r"names 'builtins\.eval'"),
    "a global, INST": (lambda: b"(ios\nsystem\n.", "holds an object"),
    "a known name, INST": (lambda: saved(b"(inumpy\nndarray\n"), "holds an object"),
    "a known name, OBJ": (lambda: saved(b"(" + NDARRAY + b"o"), "holds an object"),
    "a known name, NEWOBJ": (lambda: saved(NDARRAY + b")\x81"), "holds an object"),
    "a known name, NEWOBJ_EX": (lambda: saved(NDARRAY + b")}\x92"), "holds an object"),
    "dotted, on the stack": (lambda: saved(text("numpy") + text("ndarray.tofile") + b"\x93"), "ndarray.tofile"),
    "dotted, in a line": (lambda: saved(b"cnumpy\ndtype.__class__\n"), "dtype.__class__"),
    "a name by a number": (lambda: saved(b"K\x01K\x02\x93"), "a global by a int and a int"),
    "a name by long text": (lambda: b"\x80\x04X" + u4(999) + b"a" * 999 + text("b") + b"\x93.", "by a long text"),
    "a line of a name that does not end": (lambda: b"c" + b"a" * 5000, "line at byte 1 does not end"),
    "EXT1": (lambda: b"\x80\x02\x82\x01.", "opcode EXT1"),
    "EXT2": (lambda: b"\x80\x02\x83\x01\x00.", "opcode EXT2"),
    "EXT4": (lambda: b"\x80\x02\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "PERSID": (lambda: b"Pa\n.", "opcode PERSID"),
    "BINPERSID": (lambda: b"\x80\x04\x8c\x01aQ.", "opcode BINPERSID"),
    "NEXT_BUFFER": (lambda: saved(b"\x97"), "opcode NEXT_BUFFER"),
    "matrix": (lambda: pickled({"W": np.zeros((1, 1)).view(np.matrix)}), r"numpy.*matrix.*np\.array"),
    "recarray": (lambda: pickled({"W": np.zeros(2, "f8").view(np.recarray)}), r"rec.*np\.array"),
    "masked": (lambda: pickled({"W": np.ma.zeros(3)}), r"names 'numpy\.ma.*np\.array"),
    "CPython's crash by 201 bytes": (lambda: saved(array(dtype=dtype("O8", ORDER[:-4] + b"K?tb"))), "dtype 'O8'"),
}

ARRAYS: Rows = {
    "objects": (lambda: pickled({"W": np.array([None, 1])}), "dtype 'O8', expected float16, float32 or float64"),
    "structured": (lambda: pickled({"W": np.zeros(2, "f8,f8")}), "dtype 'V16'"),
    "text": (lambda: pickled({"W": np.array(["a"])}), "dtype 'U1'"),
    "bytes": (lambda: pickled({"W": np.array([b"a"])}), "dtype 'S1'"),
    "datetime": (lambda: pickled({"W": np.zeros(2, "M8[s]")}), "dtype 'M8'"),
    "timedelta": (lambda: pickled({"W": np.zeros(2, "m8[s]")}), "dtype 'm8'"),
    "int": (lambda: pickled({"W": np.zeros(3, np.int64)}), "dtype 'i8'"),
    "unsigned": (lambda: pickled({"W": np.zeros(3, np.uint8)}), "dtype 'u1'"),
    "bool": (lambda: pickled({"W": np.zeros(3, bool)}), "dtype 'b1'"),
    "complex": (lambda: pickled({"W": np.zeros(3, complex)}), "dtype 'c16'"),
    "longdouble": (lambda: saved(array(dtype=dtype("f16"))), "dtype 'f16'"),
    "dtype by a dict": (lambda: saved(array(dtype=DTYPE + b"}\x89\x88\x87R")), "calls the name numpy.dtype"),
    "dtype that is aligned": (lambda: saved(array(dtype=DTYPE + text("f8") + b"\x88\x88\x87R")), "calls the name"),
    "forged dtype flags": (lambda: saved(array(dtype=dtype(order=ORDER[:-3] + b"?tb"))), "gives a dtype a state"),
    "forged dtype size": (
        lambda: saved(array(dtype=dtype(order=ORDER.replace(b"NNNJ\xff\xff\xff\xff", b"NNNJ\xff\xff\xff\x7f")))),
        "gives a dtype a state",
    ),
    "forged subdtype": (
        lambda: saved(array(dtype=dtype(order=ORDER.replace(b"NNN", dtype("f4") + b"K\x02\x85\x86NN")))),
        "gives a dtype a state|nests",
    ),
    "forged byte order": (lambda: saved(array(dtype=dtype(order=ORDER.replace(b"<", b"|")))), "gives a dtype a state"),
    "dtype never completed": (lambda: saved(array(dtype=dtype(order=b""))), "dtype is never completed"),
    "dtype completed twice": (lambda: saved(array(dtype=dtype(order=ORDER * 2))), "gives a dtype a state"),
    "dtype as a value": (lambda: saved(dtype()), "'W' is a dtype"),
    "never filled": (lambda: saved(SHELL), "'W' is an array that is never filled"),
    "_reconstruct with a shape": (lambda: edited(b"K\x00\x85", b"K\x09\x85", saved(array())), "calls the name numpy.c"),
    "_reconstruct with a bool": (lambda: edited(b"K\x00\x85", b"\x89\x85", saved(array())), "calls the name numpy.c"),
    "_reconstruct with two axes": (lambda: edited(b"K\x00\x85", b"K\x00K\x00\x86", saved(array())), "calls the name"),
    "_reconstruct of objects": (lambda: edited(b"C\x01b\x87", b"C\x01O\x87", saved(array())), "calls the name"),
    "_reconstruct of a dtype": (lambda: edited(NDARRAY, DTYPE, saved(array())), "calls the name numpy.core"),
    "shape larger than the bytes": (lambda: saved(array(b"K\x02\x85")), r"shape \(2,\) and dtype float64 has 8 bytes"),
    "shape smaller than the bytes": (lambda: saved(array(b"K\x01\x85", dtype("f4"))), r"\(1,\) .* float32 has 8 bytes"),
    "negative shape": (lambda: saved(array(b"J\xff\xff\xff\xff\x85")), r"shape \(-1,\)"),
    "negative shape, twice": (lambda: saved(array(b"J\xff\xff\xff\xff" * 2 + b"\x86")), r"shape \(-1, -1\)"),
    "overflowing shape": (lambda: saved(array(b"(" + (b"\x8a\x08" + bytes(7) + b"\x20") * 8 + b"t")), "has 8 bytes"),
    "shape of 2**64 entries": (lambda: saved(array(b"(" + b"J\0\0\0\x40" * 3 + b"t")), "has 8 bytes of content"),
    "shape of 0 and 2**62": (
        lambda: saved(array(b"K\0\x8a\x08" + bytes(7) + b"\x40\x86", content=b"C\0")),
        "shape|dam",
    ),
    "shape of 0 and 10**19 - 1": (
        lambda: saved(array(b"K\0I" + b"9" * 19 + b"\n\x86", content=b"C\0")),
        "shape|dam",
    ),
    "shape of bools": (lambda: saved(array(b"\x88\x85")), r"shape \(True,\)"),
    "shape that is a number": (lambda: saved(array(b"K\x01")), "gives an array a state"),
    "shape whose repr takes forever": (lambda: saved(array(dicts(60) + b"\x85")), r"the shape \(a dict,\)"),
    "33 axes": (lambda: saved(array(b"(" + b"K\x01" * 33 + b"t")), "tuple of 33 values"),
    "second BUILD": (lambda: saved(array() + array()[len(SHELL) :]), "gives an array a state"),
    "BUILD on a name": (lambda: saved(NDARRAY + b"}b"), "gives the name numpy.ndarray a state"),
    "BUILD on a dict": (lambda: saved(b"}}b"), "gives a dict a state"),
    "state of version 2": (lambda: saved(array(version=2)), "version 2, expected 1"),
    "content that is text": (lambda: saved(array(content=text("8 bytes."))), "content is a str, expected bytes"),
    "content that is long text": (
        lambda: saved(array(b"K\x40\x85", content=b"X" + u4(512) + b"a" * 512)),
        "content is a long text, expected bytes",
    ),
    "text encoded as UTF-8": (lambda: saved(b"c_codecs\nencode\n" + text("a") + text("utf-8") + b"\x86R"), "calls"),
    "encoded bytes": (lambda: saved(b"c_codecs\nencode\nC\x01a" + text("latin1") + b"\x86R"), "calls the name _cod"),
    "encoded text beyond Latin-1": (
        lambda: saved(b"c_codecs\nencode\n" + text("\u0100") + text("latin1") + b"\x86R"),
        "damaged",
    ),
    "long text beyond Latin-1": (lambda: long_text("X" + "\u0100" * 255 + "ab"), "text in place of an array's bytes"),
    "long text of the wrong length": (lambda: long_text("a" * 513), "has 513 bytes of content"),
    "memory order A": (lambda: edited(b"\x8c\x01C", b"\x8c\x01A", pickled({"W": np.zeros(3)}, 5)), "memory order 'A'"),
    "_frombuffer of text": (
        lambda: saved(b"cnumpy.core.numeric\n_frombuffer\n(" + text("8 bytes.") + dtype() + b"K\1\x85\x8c\1CtR"),
        "calls the name numpy.core.numeric._frombuffer",
    ),
    "0-d": (lambda: pickled({"W": np.array(1.0)}), r"'W' has shape \(\)"),
    **{
        f"empty, protocol {protocol}": (
            partial(pickled, {"W": np.zeros((0, 3))}, protocol),
            r"'W' has shape \(0, 3\)",
        )
        for protocol in range(6)
    },
    "NaN": (
        lambda: pickled({"W": np.array([1, np.nan])}),
        "'W' holds NaN or infinity: take weights .*, or read them from Python with allow_nonfinite=True",
    ),
    "infinity": (lambda: pickled({"W": np.array([1, -np.inf])}), "'W' holds NaN or infinity"),
    "NaN at the end of many": (lambda: pickled({"W": np.append(np.zeros(2**18), np.nan)}), "'W' holds NaN"),
}

VALUES: Rows = {
    "a NumPy scalar": (lambda: pickled({"W": np.float64(1)}), r"names 'numpy.*scalar"),
    "a number": (lambda: pickled({"lr": 0.5}), "'lr' is a number, expected an array"),
    "a number, protocol 0": (lambda: pickled({"lr": 0.5}, 0), "'lr' is a number, expected an array"),
    "a whole number": (lambda: pickled({"W": 3}), "'W' is a int"),
    "a list": (lambda: pickled({"W": [1.0]}), "'W' is a list, expected an array"),
    "a set": (lambda: pickled({"W": {1.0}}), "'W' is a set, expected an array"),
    "None": (lambda: pickled({"W": None}), "'W' is a NoneType"),
    "a top-level array": (lambda: pickled(np.zeros(3)), "holds an array, expected a dict"),
    "a top-level list": (lambda: pickled([np.zeros(3)]), "holds a list, expected a dict"),
    "a top-level list, protocol 0": (lambda: pickled([np.zeros(3)], 0), "holds a list, expected a dict"),
    "a top-level tuple": (lambda: pickled((np.zeros(3),)), "holds a tuple, expected a dict"),
    "a top-level number": (lambda: pickled(3), "holds a int, expected a dict"),
    **{
        f"a network, protocol {protocol}": (
            partial(pickled, SimpleConvNet((1, 8, 8), hidden_size=2, output_size=2), protocol),
            "save net.params",
        )
        for protocol in range(6)
    },
    "an object as value": (lambda: pickled({"net": Object()}), "names '.*Object'"),
    "a counter": (lambda: pickled(Counter(a=1)), r"save dict\(params\)"),
    "an empty dict": (lambda: pickled({}), "no arrays: the dict is empty"),
    "a nested dict": (lambda: pickled({"params": arrays()}), "'params' is a dict, expected an array: save that dict"),
    "a nested dict, protocol 0": (lambda: pickled({"params": arrays()}, 0), "'params' is a dict, expected an array"),
    "a number as key": (lambda: pickled({1: np.zeros(3)}), "a key is a int"),
    "bytes as key": (lambda: pickled({b"W": np.zeros(3)}), "a key is a bytes"),
    "a tuple as key": (lambda: pickled({("W", 1): np.zeros(3)}), "a key is a tuple"),
    "a key twice": (lambda: edited(text("X"), text("W"), saved(array(), array())), "the key 'W' stands twice"),
    "a key twice, one by one": (
        lambda: b"\x80\x04}" + (text("W") + array() + b"s") * 2 + b".",
        "the key 'W' stands twice",
    ),
    "a long key twice": (
        lambda: b"\x80\x04}" + (text("A" * 200) + array() + b"s") * 2 + b".",
        r"the key 'A{79} stands twice",
    ),
    "a long key": (lambda: pickled({"k" * 200: 3}), r"'k{79} is a int"),
    "a key beyond all names": (lambda: pickled({"k" * 300: np.zeros(3)}), "a key is a long text"),
}


def long_text(content: str) -> bytes:
    """64 numbers whose bytes are text, as protocols 0 to 2 have them."""
    encoded = content.encode()
    call = b"c_codecs\nencode\nX" + u4(len(encoded)) + encoded + text("latin1") + b"\x86R"
    return saved(array(b"K\x40\x85", content=call))


REFUSED: Rows = {
    f"{group}: {name}": row
    for group, rows in {
        "file": OTHER_FILES,
        "structure": STRUCTURE,
        "name": NAMES,
        "array": ARRAYS,
        "value": VALUES,
    }.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_one_line(file: Path, case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(ParamsError, match=says) as refusal:
        read_params(write(file, make()))
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
def test_crafted_pickles_are_refused_for_their_flaw_alone(file: Path, content: bytes) -> None:
    assert_same(read_params(write(file, content)), unpickled(content))


@pytest.mark.parametrize("protocol", range(6))
def test_truncation_at_any_byte_is_refused(protocol: int) -> None:
    content = pickled({"W": np.arange(4.0), "b": np.ones(2, np.float32)}, protocol)
    for length in range(1, len(content)):
        with pytest.raises(ParamsError, match=r"truncated|memo|holds"):
            pickles.read_arrays(content[:length])


# --- What the file system can hold in its place


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)])
def test_the_size_cap_is_checked(file: Path, limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_bytes must be"):
        read_params(write(file, pickled(arrays())), max_bytes=limit)


def test_a_file_over_the_cap_is_refused_unread(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(2**30 + 1)
    with pytest.raises(
        ParamsError, match=f"{2**30 + 1} bytes, over the limit of {2**30}: read it from Python with a larger max_bytes"
    ):
        read_params(file)
    with pytest.raises(ParamsError, match="over the limit of 100"):
        read_params(write(file, pickled(arrays())), max_bytes=100)


def test_any_size_cap_costs_no_more_than_the_file(file: Path) -> None:
    assert read_params(write(file, pickled(arrays())), max_bytes=2**70).keys() == arrays().keys()


def test_a_file_that_grows_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickled(arrays())
    write(file, content)
    before = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, len(content) - 1, 0, 0, 0))
    monkeypatch.setattr("numpy_ref.files.os.fstat", lambda _: before)
    with pytest.raises(ParamsError, match="still being written"):
        read_params(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.pkl"):
        read_params(tmp_path / "missing.pkl")
    with pytest.raises((ParamsError, OSError), match=r"a folder|denied"):
        read_params(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_refused_at_once(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(ParamsError, match="not a regular file"):
        read_params(file)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no file modes")
def test_an_unreadable_file_is_refused(file: Path, as_nobody: Callable[[], Any]) -> None:
    write(file, pickled(arrays())).chmod(0)
    with as_nobody(), pytest.raises(PermissionError, match=r"params\.pkl|denied"):
        read_params(file)


# --- What reading costs


# Big-endian, Fortran-ordered zeros and ones: what takes most copies, and in protocol 0 the most room; and noise.
CONTENTS: dict[str, Callable[[], Array]] = {
    "ones": lambda: np.asfortranarray(np.eye(1024).astype(">f8")),
    "noise": lambda: np.random.default_rng(0).standard_normal((1024, 1024)),
}


def limit(protocol: int) -> float:
    """Bytes of memory for each of the file: protocols 0 to 2 keep bytes as text."""
    return 2.1 if protocol > 2 else 5


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("protocol", range(6))
def test_memory_is_in_proportion_to_the_file(file: Path, protocol: int, content: str) -> None:
    size = write(file, pickled({"W": CONTENTS[content]()}, protocol)).stat().st_size
    assert peak_of_reading(file) < limit(protocol) * size


def peak_of_reading(path: Path) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(ParamsError):
            read_params(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


STATE = array(b"(" + b"K\x01" * 32 + b"t")[len(SHELL) : -1]
BOMBS: dict[str, Callable[[int], bytes]] = {
    "stack": lambda n: b"N" * n,
    "marks": lambda n: b"(" * n,
    "dicts": lambda n: b"}" * n,
    "memo": lambda n: b"N" + b"\x94" * n,
    "memoised dicts": lambda n: b"}\x94" * n,
    "tuples": lambda n: b"N\x85" * n,
    "long tuples": lambda n: b"(" + b"N" * 32 + b"t\x94" + (b"(" + b"h\x00" * 32 + b"t") * n,
    "numbers": lambda n: b"M\xff\xff" * n,
    "short texts": lambda n: b"\x8c\x02ab" * n,
    "wide texts": lambda n: text("\U0001f600" + "a" * 200) * n,
    "calls": lambda n: DTYPE + b"\x94" + text("f8") + b"\x89\x88\x87\x94" + b"h\x00h\x01R" * n,
    "encoded texts": lambda n: (
        b"c_codecs\nencode\n\x94" + text("a" * 200) + text("latin1") + b"\x86\x94" + b"h\x00h\x01R" * n
    ),
    "arrays of many axes": lambda n: (
        STATE + b"\x94" + SHELL.replace(NDARRAY, b"\x94" + NDARRAY)[:-1] + b"\x94" + b"h\x01h\x02Rh\x00b" * n
    ),
}
SHARED: dict[str, Callable[[], bytes]] = {
    "content shared by many arrays": lambda: saved(
        array(b"J" + u4(2**17) + b"\x85", dtype() + b"\x94", binary(bytes(2**20)) + b"\x94"),
        *[array(b"J" + u4(2**17) + b"\x85", b"h\x00", b"h\x01")] * 80,
    ),
    "one array under many names": lambda: pickled(dict.fromkeys([f"W{i}" for i in range(200)], np.zeros(2**16))),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_file_has_opcodes_without_end(file: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "MAX_OPCODES", 2**10)
    content = b"\x80\x04" + BOMBS[bomb](2**12) + b"."
    with pytest.raises(ParamsError, match="more than 1024 opcodes"):
        read_params(write(file, content))
    assert peak_of_reading(file) < 3 * len(content) + 2**18


@pytest.mark.parametrize("bomb", SHARED)
def test_no_file_has_the_same_arrays_without_end(file: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_SHARED", 2**16)
    content = SHARED[bomb]()
    with pytest.raises(ParamsError, match=rf"more than {2 * len(content) + 2**16} bytes.* under many names"):
        read_params(write(file, content))
    assert peak_of_reading(file) < 3 * len(content) + 2**18


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
@pytest.mark.parametrize("protocol", [2, 5])
def test_the_whole_process_takes_no_more(file: Path, protocol: int) -> None:
    size = write(file, pickled({"W": np.eye(1024, 4096)}, protocol)).stat().st_size
    # getrusage would count what the parent process holds.
    program = (
        "import re, sys; from pathlib import Path; from numpy_ref import read_params\n"
        "def peak(): return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "read_params(sys.argv[1])\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert size < int(done.stdout) < limit(protocol) * size + MIB


def test_an_array_in_a_shape_is_told_in_one_line(file: Path) -> None:
    """Its repr would be several."""
    parts = instructions(pickle.dumps({"a": np.eye(3), "b": np.ones(2)}, 3))
    made = next(i for i, (code, _) in enumerate(parts) if code == b"R")  # the first array, and behind it its memo
    place = max(i for i, part in enumerate(parts) if part == (b"K", b"\x02"))
    parts[place] = (b"h", parts[made + 1][1])
    with pytest.raises(ParamsError, match=r"^[^\n]*an array has the shape \(an array,\)$"):
        read_params(write(file, b"".join(code + argument for code, argument in parts)))
