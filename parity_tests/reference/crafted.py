"""Files made for the readers' tests: pickles opcode by opcode, what stands for what in them, and what reading costs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import re
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from numpy_ref import ParamsError
from numpy_ref.checks import Array
from numpy_ref.pickles import StandIn


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


class Bomb:
    """Would create a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def peak_of(call: Callable[[], object]) -> int:
    """Bytes of memory at most during a call, which may be refused."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ParamsError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def same(found: object, expected: Any) -> bool:
    """Whether found is expected, in which text that begins with "a " or "an " is how a StandIn's begins."""
    match expected:
        case np.ndarray():
            if not isinstance(found, np.ndarray) or found.dtype != expected.dtype.newbyteorder("="):
                return False
            return found.shape == expected.shape and np.array_equal(found, expected)
        case dict():
            return isinstance(found, dict) and same([*found.items()], [*expected.items()])
        case list() | tuple():
            return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
        case str() if expected.startswith(("a ", "an ")):
            return isinstance(found, StandIn) and found.what.startswith(expected)
    return type(found) is type(expected) and found == expected


# --- Opcodes


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


def tuples(depth: int) -> bytes:
    """A tuple in which stands another, twice, and so on: 2**depth values."""
    return b")\x94" + b"".join(b"h%c\x86\x94" % level for level in range(depth))


STATE = array(b"(" + b"K\x01" * 32 + b"t")[len(SHELL) : -1]
BOMBS: dict[str, Callable[[int], bytes]] = {  # of so many opcodes, in any reader
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


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], packing: int = 0) -> bytes:
    """A zip file of these, as they are unless they are to be packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
