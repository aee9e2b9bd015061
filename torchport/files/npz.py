"""Reads .npy files and .npz files (zips of .npy) without ever unpickling, and writes .npz files.

The .npy format is specified in numpy/lib/format.py.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError, over_limit
from numpy_ref.params import MAX_BYTES
from numpy_ref.pickles import StandIn, native, read_values, view_of

MAX_FILES = 10_000  # in one zip
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAGIC = b"\x93NUMPY"  # start of a .npy file
ENTRY = b"PK\x01\x02"  # start of each entry in a zip's central directory

_HEADER = re.compile(
    rb"\{'descr': (?P<dtype>.+), 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), ?\}\s*"
)
_DTYPE = re.compile(r"'([<>][fiu][248]|\|[iub]1)'")


def decode_npz(data: bytes, max_bytes: int = MAX_BYTES, notes: list[str] | None = None) -> dict[str, object]:
    """Return the arrays in data, compressed or not, each as decode_npy returns it.

    ParamsError, before anything is unpacked, if they would take more than max_bytes.
    """
    values: dict[str, object] = {}
    with open_zip(data, max_bytes, "a .npz") as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise ParamsError(f"holds the file {name!r:.80}, expected .npy files only")
            if name in values:
                raise ParamsError(f"the key {name!r:.80} occurs twice")
            content = unpack(archive, member, data)
            values[name] = decode_npy(content, 2 * len(content), notes, repr(name)[:80])
    return values


def decode_npy(
    data: bytes | memoryview, max_bytes: int = MAX_BYTES, notes: list[str] | None = None, name: str = "this file"
) -> object:
    """Return the array in data: of floats, integers or bools as it is, of objects as a tree, else a StandIn.

    Memory order stays as in the file. name is what a ParamsError calls the array.
    """
    start = 10 if data[6:7] == b"\x01" else 12
    end = start + int.from_bytes(data[8:start], "little")
    header = _HEADER.fullmatch(bytes(data[start:end]))
    if data[:6] != MAGIC or data[6:7] not in (b"\x01", b"\x02", b"\x03") or header is None:
        raise ParamsError(f"{name} does not begin with a NumPy array's header")
    descr = header["dtype"].decode("latin1")
    if descr == "'|O'":
        return read_values(bytes(data[end:]), max_bytes, notes)
    match = _DTYPE.fullmatch(descr)
    if match is None:
        return StandIn(f"an array of dtype {ascii(descr)[1:-1]:.40}")
    shape, dtype = tuple(int(size) for size in header["shape"].replace(b",", b" ").split()), np.dtype(match[1])
    return native(view_of(memoryview(data)[end:], shape, dtype, "F" if header["fortran"] == b"True" else "C"))


def encode_npz(arrays: Mapping[str, Array]) -> bytes:
    """Return what np.savez writes for arrays, but without dates, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


@contextmanager
def open_zip(data: bytes, max_bytes: int, kind: str) -> Iterator[zipfile.ZipFile]:
    """Open the zip file in data; kind names it in the ParamsError that replaces every error while it is open.

    ParamsError also for too many files, more than max_bytes unpacked, encryption, and compression unknown to NumPy.
    """
    try:
        if (count := data.count(ENTRY)) > MAX_FILES:
            raise ParamsError(f"a zip of {count} files, over the limit of {MAX_FILES}")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > max_bytes:
                raise over_limit(f"{size} bytes unpacked", max_bytes)
            for member in archive.infolist():
                if member.compress_type not in COMPRESSIONS or member.flag_bits & 1:
                    name = f"the file {member.filename!r:.80} in it"
                    raise ParamsError(f"{name} is encrypted, or packed in a way that NumPy does not")
            yield archive
    except (ParamsError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make zipfile and zlib raise almost anything
        cause = " ".join(ascii(str(error))[1:-1].split())
        raise ParamsError(f"damaged, truncated or not {kind} file ({cause:.200}): fetch or copy it again") from None


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, data: bytes) -> bytes | memoryview:
    """Return the bytes of one file in archive, the zip in data, after checking the CRC; a view unless compressed."""
    with archive.open(member) as file:
        if member.compress_type != zipfile.ZIP_STORED:
            return file.read(member.file_size)  # not read(), which may unpack more than the announced size
    sizes = struct.unpack_from("<HH", data, member.header_offset + 26)  # of the name and of the extra field
    start = member.header_offset + 30 + sum(sizes)
    content = memoryview(data)[start : start + member.file_size]
    if zlib.crc32(content) != member.CRC:
        way_out = "" if member.CRC else ", as torch.serialization.set_crc32_options(False) leaves it"
        raise zipfile.BadZipFile(f"bad checksum of the file {member.filename!r}{way_out}")
    return content
