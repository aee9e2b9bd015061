"""MNIST's files as people have them: four in the IDX format, packed or not, the book's mnist.pkl or Keras' mnist.npz.

What the bytes are decides, not a file's name. IDX: http://yann.lecun.com/exdb/mnist/ describes it.
"""

from __future__ import annotations

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import read_file
from numpy_ref.opcodes import describe, interpret
from numpy_ref.pickles import VALUES, plain

DATA_VARIABLE = "TORCHPORT_DATA"
MAX_BYTES = 2**28  # of a file, packed and unpacked: six times MNIST's largest
SIDE = 28  # pixels

# In a torchvision root, in its MNIST, in MNIST/raw itself or the book's dataset, and beside that.
FOLDERS = ("MNIST/raw", "raw", ".", "dataset")
# By train: the names of the images and of the labels.
IDX = {
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ARCHIVES = {
    "mnist.pkl": {True: ("train_img", "train_label"), False: ("test_img", "test_label")},
    "mnist.npz": {True: ("x_train", "y_train"), False: ("x_test", "y_test")},
}


class DataError(RuntimeError):
    """A data set that is not there, is damaged, or could not be fetched."""


def _damaged(says: str) -> DataError:
    where = f"name another folder with --data-dir or {DATA_VARIABLE}, to which MNIST is downloaded if it is not there"
    return DataError(f"{says}: fetch MNIST again, or {where}")


def read(folder: Path, train: bool) -> tuple[Array, Array, Path] | None:
    """Images uint8 (N, 28, 28), labels uint8 (N,), and where they were; None where no file of MNIST lies in folder."""
    for place in map(folder.joinpath, FOLDERS):
        images, labels = found = [_present(place, name) for name in IDX[train]]
        if images and labels:
            return *_fitting(images, _idx(images, 3), labels, _idx(labels, 1)), images
        for name, keys in ARCHIVES.items():
            if (archive := place / name).is_file():
                arrays = _archive(archive, keys[train])
                return *_fitting(archive, arrays[0].reshape(-1, SIDE, SIDE), archive, arrays[1]), archive
        there = [path for name in (*IDX[True], *IDX[False]) if (path := _present(place, name))]
        if there:
            missing = next(name for name, path in zip(IDX[train], found, strict=True) if not path)
            raise _damaged(f"{place} has {there[0].name}, but neither {missing} nor {missing}.gz")
    return None


def _present(place: Path, name: str) -> Path | None:
    """The file of that name or, as 7-Zip writes it, with a dot; packed or not; perhaps in a folder that is named so."""
    names = [f"{stem}{suffix}" for suffix in ("", ".gz") for stem in (name, name.replace("-idx", ".idx"))]
    paths = [path for each in names for path in (place / each, *(place / each / inner for inner in names))]
    return next((path for path in paths if path.is_file()), None)


def _fitting(where: Path, images: Array, beside: Path, labels: Array) -> tuple[Array, Array]:
    """images and labels, if they go together and are as large as MNIST's. DataError."""
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        size = f"{len(images)} images of {' x '.join(map(str, images.shape[1:]))} pixels"
        raise _damaged(f"{where} holds {size}, expected {SIDE} x {SIDE}")
    if len(images) != len(labels):
        raise _damaged(f"{beside} holds {len(labels)} labels for {len(images)} images in {where}")
    return images, labels


def _idx(path: Path, axes: int) -> Array:
    """The uint8 array of that many axes in an IDX file, packed by gzip or not. DataError."""
    data, header = _unpacked(path), 4 + 4 * axes
    if data[:4] != bytes((0, 0, 8, axes)):
        raise _damaged(f"{path} {_other(data, axes)}")
    shape = np.frombuffer(data[4:header].ljust(4 * axes, b"\0"), ">u4").tolist()
    if header + math.prod(shape) != len(data):
        sizes = f"{' x '.join(map(str, shape))}, {header + math.prod(shape)} bytes, and has {len(data)}"
        raise _damaged(f"{path} should be {sizes}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def _unpacked(path: Path) -> bytes:
    try:
        data = read_file(path, MAX_BYTES)
        if not data.startswith(b"\x1f\x8b"):
            return data
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)  # which checks its CRC
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(f"{path} is damaged or cut off ({error})") from error
    except (OSError, ValueError) as error:
        raise _damaged(f"{path} could not be read ({error})") from error
    if len(unpacked) > MAX_BYTES:
        raise _damaged(f"{path} unpacks to more than {MAX_BYTES} bytes")
    return unpacked


def _other(data: bytes, axes: int) -> str:
    """What data is that begins otherwise than an IDX file of bytes with that many axes."""
    start = data[:64].lstrip()
    if not data:
        return "is empty"
    if start.startswith(b"<"):
        return "is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, whose file git lfs pull fetches"
    return f"begins with the bytes {data[:4].hex(' ')}, {'images' if axes == 3 else 'labels'} with 00 00 08 0{axes}"


def _archive(path: Path, names: tuple[str, str]) -> list[Array]:
    """The two uint8 arrays of these names, images and labels, in the book's pickle or Keras' .npz. DataError."""
    try:
        found = _npz(path) if path.suffix == ".npz" else _pickle(path)
        return [_checked(found, name, entries) for name, entries in zip(names, (SIDE**2, 1), strict=True)]
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(f"{path} could not be read ({error})") from error


def _npz(path: Path) -> Mapping[str, Any]:
    data = read_file(path, MAX_BYTES)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a .npy file")
        return {name: file[name] for name in file.files}


def _pickle(path: Path) -> Mapping[str, Any]:
    """Of a dict of arrays, which is interpreted and never unpickled."""
    value = plain(interpret(read_file(path, MAX_BYTES), VALUES), MAX_BYTES)
    if not isinstance(value, dict):
        raise ValueError(f"holds {describe(value)}, expected a dict of arrays")
    return value


def _checked(arrays: Mapping[str, Any], name: str, entries: int) -> Array:
    """The array of that name, uint8 of as many entries a sample, from whatever whole numbers."""
    array = arrays.get(name)
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and ((array >= 0) & (array <= 255)).all():
        array = array.astype(np.uint8)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or math.prod(array.shape[1:]) != entries:
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else f"keys {', '.join(arrays):.120}"
        raise ValueError(f"{name} must be uint8 (N, {entries}), got {what}")
    return np.ascontiguousarray(array)
