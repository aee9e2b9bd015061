"""Reads and writes params.pkl without ever unpickling: a pickle is a program, and loading it runs it."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from numpy_ref.checks import Array, check_int, check_mapping
from numpy_ref.files import ParamsError as ParamsError, read_file, replace_file
from numpy_ref.opcodes import MAX_AXES, MAX_NAME, describe
from numpy_ref.pickles import native, read_arrays

MAX_BYTES = 2**30  # of a file: 300 times the book's params.pkl

_OTHER_FORMATS: dict[bytes | tuple[bytes, ...], str] = {  # how other files start, and what to say of them
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ\x00": "an xz file: unpack it first",
    b"x\x9c": "a zlib file, as joblib writes them: load it with joblib and save it again with pickle",
    b"PK\x03\x04": "a zip file, as .pt and .npz files are: params.pkl is expected",
    b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.": "an old .pt file: load it with torch and save arrays",
    b"\x93NUMPY": "a .npy file: params.pkl is expected",
    b"\x89HDF": "an HDF5 file: load it with Keras and save its arrays, with np.savez(path, *model.get_weights())",
    b"version https://git-lfs": "a Git LFS pointer: run git lfs pull",
    (b"\x89PNG", b"\xff\xd8\xff"): "an image: a file of weights is expected",
    b"<": "a web page: download the raw file",
    (b"\xc2\x80", b"\xef\xbf\xbd"): "a pickle that was copied as text: copy it as binary",
    b"\xff\xfe": "text in UTF-16, as PowerShell redirects it: copy the file as binary",
}


def read_params(path: str | Path, *, max_bytes: int = MAX_BYTES, allow_nonfinite: bool = False) -> dict[str, Array]:
    """Read a pickled dict of float16, float32 or float64 arrays, protocols 0 to 5; arrays get C and native byte order.

    The file is interpreted, never executed, and anything but such a dict is refused. ParamsError names the cause, such
    as NaN or infinity unless allowed; OSError if the file cannot be read; TypeError, ValueError if max_bytes is not a
    positive integer.
    """
    data = read_file(path, check_int("max_bytes", max_bytes, 1))
    try:
        return check_arrays(decode_params(data), allow_nonfinite)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None


def decode_params(data: bytes) -> object:
    """Return what the pickle in data holds, arrays in C order; check_arrays judges it. ParamsError."""
    return decode_or_explain(data, read_arrays)


def decode_or_explain(data: bytes, decode: Callable[[bytes], object]) -> object:
    """Return decode(data). ParamsError, which says what data is if it starts like another format or was mangled."""
    if not data:
        raise ParamsError("this is an empty file")
    start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, what in _OTHER_FORMATS.items():
        if start.startswith(signature):
            raise ParamsError(f"this is {what}")
    try:
        return decode(data)
    except ParamsError as error:
        if 0 < data.count(b"\n") == data.count(b"\r\n"):
            way_out = "each line feed follows a carriage return, as in a file copied as text: copy it as binary"
            raise ParamsError(f"{error}; {way_out}") from None
        raise


def write_params(params: Mapping[str, Array], path: str | Path) -> None:
    """Write params as a protocol 4 pickle that NumPy 1 and 2, and so the book's own code, can load.

    The file is read back and compared bit for bit before it replaces path. ParamsError for anything but a non-empty
    dict of float arrays; TypeError if params is no mapping; OSError.
    """
    checked = check_arrays(dict(check_mapping("params", params)), allow_nonfinite=True)
    arrays = {name: native(value, "C") for name, value in checked.items()}
    data = encode_params(arrays)
    try:
        back = check_arrays(decode_params(data), allow_nonfinite=True)
    except ParamsError as error:
        raise OSError(f"{path}: what was written does not read back: {error}") from None
    if not same_bits(back, arrays):
        raise OSError(f"{path}: what was written does not read back as it was")
    replace_file(path, data)


def same_bits(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Return whether both hold the same arrays under the same names, down to the bits of each NaN."""
    if one.keys() != other.keys():
        return False
    pairs = ((value, other[name]) for name, value in one.items())
    return all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)


def check_arrays(value: object, allow_nonfinite: bool = False) -> dict[str, Array]:
    """Return value, a dict of named, non-empty float arrays of at least one axis. ParamsError for anything else."""
    if not isinstance(value, dict):
        raise ParamsError(f"holds {describe(value)}, expected a dict of arrays")
    if not value:
        raise ParamsError("holds no arrays: the dict is empty")
    for name, array in value.items():
        if not isinstance(name, str):
            raise ParamsError(f"a key is {describe(name)}, expected a name")
        if len(name.encode(errors="backslashreplace")) > MAX_NAME:
            raise ParamsError(f"{name!r:.80} is a name of more than {MAX_NAME} bytes")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ParamsError(f"{name!r:.80} is no text: it holds half a pair of surrogates")
        if not isinstance(array, np.ndarray):
            expected = "an array: save that dict alone" if isinstance(array, dict) else "an array of floats"
            raise ParamsError(f"{name!r:.80} is {describe(array)}, expected {expected}")
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            raise ParamsError(f"{name!r:.80} has dtype {array.dtype}, expected float16, float32 or float64")
        if not 1 <= array.ndim <= MAX_AXES or array.size == 0:
            shape = f"shape {array.shape!r:.120} of {array.ndim} axes"
            raise ParamsError(f"{name!r:.80} has {shape}, expected 1 to {MAX_AXES} axes and at least one entry")
        # min and max are NaN if any value is; np.isfinite(array) would take half the memory of a float16 array.
        if not allow_nonfinite and not np.isfinite([array.min(), array.max()]).all():
            way_out = "take weights from before training went wrong, or read them from Python with allow_nonfinite=True"
            raise ParamsError(f"{name!r:.80} holds NaN or infinity: {way_out}")
    return value


def encode_params(arrays: Mapping[str, Array]) -> bytes:
    """Return arrays as a pickle, written opcode by opcode: pickle.dumps would write names that only NumPy 2 knows."""
    parts = [b"\x80\x04}("]
    for name, array in arrays.items():
        key = name.encode()
        parts += [
            b"X" + struct.pack("<I", len(key)) + key,
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R",
            b"(K\x01(" + b"".join(pickle.dumps(size, 2)[2:-1] for size in array.shape) + b"t",  # no PROTO, no STOP
            b"cnumpy\ndtype\n\x8c\x02f%d\x89\x88\x87R" % array.dtype.itemsize,
            b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89\x8e" + struct.pack("<Q", array.nbytes) + array.astype(array.dtype.newbyteorder("<")).tobytes(),
            b"tb",
        ]
    return b"".join([*parts, b"u."])
