"""The arrays of a .npz file, and back: NumPy's zip of .npy files, read without ever unpickling.

Source: numpy/lib/format.py, which says what a .npy file is.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError, over_limit
from numpy_ref.params import MAX_BYTES
from numpy_ref.pickles import native, view_of

MAX_FILES = 10_000  # in one zip
ENTRY = b"PK\x01\x02"  # how each file's entry in the zip's directory starts

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{'descr': (?P<dtype>.+), 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), ?\}\s*"
)
_DTYPE = re.compile(r"'([<>]f[248])'")


def decode_npz(data: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """The arrays in data, in the file's order, C or Fortran; np.savez_compressed's too.

    ParamsError for anything but float16, float32 and float64 arrays, and where they would take more than max_bytes
    unpacked, which is known before anything is.
    """
    arrays: dict[str, Array] = {}
    try:
        with open_zip(data, max_bytes) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    raise ParamsError(f"holds the file {name!r:.80}, expected .npy files only")
                if name in arrays:
                    raise ParamsError(f"the key {name!r:.80} stands twice")
                with archive.open(member) as file:
                    # Not read(): that unpacks what there is, and not what the directory says there is.
                    arrays[name] = _decode_npy(name, file.read(member.file_size))
    except (ParamsError, MemoryError):
        raise
    except Exception as error:  # zipfile and zlib raise whatever the bytes lead them to
        cause = " ".join(ascii(str(error))[1:-1].split())
        raise ParamsError(f"damaged, truncated or not a .npz file ({cause:.200}): fetch or copy it again") from None
    return arrays


def encode_npz(arrays: Mapping[str, Array], _: Mapping[str, str] | None = None) -> bytes:
    """arrays as np.savez writes them, except that no entry carries a date, so equal arrays make equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def open_zip(data: bytes, max_bytes: int) -> zipfile.ZipFile:
    """The zip file in data. ParamsError for too many files, for more than max_bytes unpacked, and for odd packing."""
    if (count := data.count(ENTRY)) > MAX_FILES:
        raise ParamsError(f"a zip of {count} files, over the limit of {MAX_FILES}")
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > max_bytes:
        raise over_limit(f"{size} bytes unpacked", max_bytes)
    if odd := _oddly_packed(members):
        raise ParamsError(f"the file {odd!r:.80} in it is encrypted, or packed in a way that NumPy does not")
    return archive


def _oddly_packed(members: Sequence[zipfile.ZipInfo]) -> str | None:
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return next((m.filename for m in members if m.compress_type not in known or m.flag_bits & 1), None)


def _decode_npy(name: str, content: bytes) -> Array:
    start = 10 if content[6:7] == b"\x01" else 12
    begin = start + int.from_bytes(content[8:start], "little")
    header = _HEADER.fullmatch(content[start:begin])
    if not content.startswith(_MAGIC) or content[6:7] not in b"\x01\x02\x03" or header is None:
        raise ParamsError(f"{name!r:.80} does not begin with a NumPy array's header")
    written = header["dtype"].decode("latin1")
    kind = _DTYPE.fullmatch(written)
    if kind is None:
        raise ParamsError(f"{name!r:.80} has dtype {written:.40}, expected float16, float32 or float64")
    shape, dtype = tuple(int(size) for size in header["shape"].replace(b",", b" ").split()), np.dtype(kind[1])
    return native(view_of(memoryview(content)[begin:], shape, dtype, "F" if header["fortran"] == b"True" else "C"))
