"""Reads MNIST as people store it: four IDX files, gzipped or not, the book's mnist.pkl or Keras' mnist.npz.

Whether a file is gzipped is told by its bytes, not by its name. http://yann.lecun.com/exdb/mnist/ describes IDX.
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

# Where the files are in a torchvision root, in its MNIST, in MNIST/raw or the book's dataset, and in the book's root.
FOLDERS = ("MNIST/raw", "raw", ".", "dataset")
# For the training and the test set: the files of images and of labels.
IDX = {
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ARCHIVES = {
    "mnist.pkl": {True: ("train_img", "train_label"), False: ("test_img", "test_label")},
    "mnist.npz": {True: ("x_train", "y_train"), False: ("x_test", "y_test")},
}


class DataError(RuntimeError):
    """The data set is missing or damaged, or could not be downloaded."""


def _damaged(problem: str) -> DataError:
    folder = f"name another folder with data_dir (--data-dir) or {DATA_VARIABLE}"
    way_out = f"{folder}, to which MNIST is downloaded if it is not there"
    return DataError(f"{problem}: fetch MNIST again, or {way_out}")


def read(folder: Path, train: bool) -> tuple[Array, Array, Path] | None:
    """Images uint8 (N, 28, 28), labels uint8 (N,), and the file of the images; None if folder has no file of MNIST."""
    for place in map(folder.joinpath, FOLDERS):
        images, labels = paths = [_find(place, name) for name in IDX[train]]
        if images and labels:
            return *_checked_pair(images, _read_idx(images, 3), labels, _read_idx(labels, 1)), images
        for name, keys in ARCHIVES.items():
            if (archive := place / name).is_file():
                arrays = _read_archive(archive, keys[train])
                return *_checked_pair(archive, arrays[0].reshape(-1, SIDE, SIDE), archive, arrays[1]), archive
        others = [path for name in (*IDX[True], *IDX[False]) if (path := _find(place, name))]
        if others:
            missing = next(name for name, path in zip(IDX[train], paths, strict=True) if not path)
            raise _damaged(f"{place} has {others[0].name}, but neither {missing} nor {missing}.gz")
    return None


def _find(place: Path, name: str) -> Path | None:
    """The file called name, or with ".idx" for "-idx" as 7-Zip has it; gzipped or not; maybe in a folder so called."""
    names = [f"{stem}{suffix}" for suffix in ("", ".gz") for stem in (name, name.replace("-idx", ".idx"))]
    paths = [path for outer in names for path in (place / outer, *(place / outer / inner for inner in names))]
    return next((path for path in paths if path.is_file()), None)


def _checked_pair(images_path: Path, images: Array, labels_path: Path, labels: Array) -> tuple[Array, Array]:
    """images and labels, after checking their sizes. DataError."""
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        size = f"{len(images)} images of {' x '.join(map(str, images.shape[1:]))} pixels"
        raise _damaged(f"{images_path} holds {size}, expected {SIDE} x {SIDE}")
    if len(images) != len(labels):
        raise _damaged(f"{labels_path} holds {len(labels)} labels for {len(images)} images in {images_path}")
    return images, labels


def _read_idx(path: Path, axes: int) -> Array:
    """The uint8 array with that many axes in an IDX file, gzipped or not. DataError."""
    data, header = _unpacked(path), 4 + 4 * axes
    if data[:4] != bytes((0, 0, 8, axes)):
        raise _damaged(f"{path} {_describe_other(data, axes)}")
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
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)  # checks the CRC
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(f"{path} is damaged or cut off ({error})") from error
    except (OSError, ValueError) as error:
        raise _damaged(f"{path} could not be read ({error})") from error
    if len(unpacked) > MAX_BYTES:
        raise _damaged(f"{path} unpacks to more than {MAX_BYTES} bytes")
    return unpacked


def _describe_other(data: bytes, axes: int) -> str:
    """What data is, if not an IDX file of uint8 with that many axes."""
    start = data[:64].lstrip()
    if not data:
        return "is empty"
    if start.startswith(b"<"):
        return "is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, whose file git lfs pull fetches"
    return f"begins with the bytes {data[:4].hex(' ')}, {'images' if axes == 3 else 'labels'} with 00 00 08 0{axes}"


def _read_archive(path: Path, names: tuple[str, str]) -> list[Array]:
    """The uint8 arrays of images and labels called names in the book's pickle or Keras' .npz. DataError."""
    try:
        arrays = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
        return [_checked_array(arrays, name, entries) for name, entries in zip(names, (SIDE**2, 1), strict=True)]
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise _damaged(f"{path} could not be read ({error})") from error


def _read_npz(path: Path) -> Mapping[str, Any]:
    data = read_file(path, MAX_BYTES)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a .npy file")
        return {name: file[name] for name in file.files}


def _read_pickle(path: Path) -> Mapping[str, Any]:
    """The dict of arrays in a pickle, which is interpreted and never unpickled."""
    value = plain(interpret(read_file(path, MAX_BYTES), VALUES), MAX_BYTES)
    if not isinstance(value, dict):
        raise ValueError(f"holds {describe(value)}, expected a dict of arrays")
    return value


def _checked_array(arrays: Mapping[str, Any], name: str, entries: int) -> Array:
    """arrays[name], of any integer dtype, as uint8 with that many entries for each sample. ValueError."""
    array = arrays.get(name)
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and ((array >= 0) & (array <= 255)).all():
        array = array.astype(np.uint8)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or math.prod(array.shape[1:]) != entries:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else f"keys {', '.join(arrays):.120}"
        raise ValueError(f"{name} must be uint8 (N, {entries}), got {got}")
    return np.ascontiguousarray(array)
