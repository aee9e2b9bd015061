"""Loads the data sets by name. MNIST is read from a folder, or downloaded to it by torchvision."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np

from numpy_ref.checks import Array
from torchport.data import drawn
from torchport.data.images import pixels
from torchport.data.mnist_files import DATA_VARIABLE as DATA_VARIABLE, DataError, read

DATA_SETS = ("mnist", "drawn")

# For MNIST's training and test set: the number of images, and the CRC-32 of their bytes followed by the labels'. The
# files that they were taken from have the MD5 sums in torchvision.datasets.MNIST.resources (test_mnist).
MNIST_CHECKSUMS = {True: (60_000, 0xDF6DDE61), False: (10_000, 0x190E897B)}


def default_data_dir() -> Path:
    """The folder that the environment variable TORCHPORT_DATA names, else data/."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")


def load(name: str, train: bool, data_dir: str | Path | None = None, *, progress: bool = False) -> tuple[Array, Array]:
    """Images uint8 (N, 1, 28, 28) and labels uint8 (N,) of one of DATA_SETS: 60,000 for training or 10,000 for tests.

    data_dir is MNIST's folder (None: default_data_dir()); progress shows a bar while digits are drawn.
    """
    if name == "mnist":
        return mnist(train, data_dir)
    if name == "drawn":
        return drawn.make(drawn.SIZES[train], drawn.SEEDS[train], progress=progress)
    raise ValueError(f"data must be one of {', '.join(DATA_SETS)}, got {name!r}")


def mnist(train: bool, data_dir: str | Path | None = None) -> tuple[Array, Array]:
    """Images uint8 (N, 1, 28, 28) and labels uint8 (N,) of MNIST's training or test set.

    data_dir (None: default_data_dir()) is a torchvision root, MNIST/raw, the book's dataset folder, or any folder with
    the four IDX files, gzipped or not, mnist.pkl or Keras' mnist.npz; if it has none of them, torchvision downloads
    MNIST into it. DataError names the damaged file, or why the download failed. Other data of MNIST's size is used,
    with a warning.
    """
    folder = default_data_dir() if data_dir is None else Path(data_dir)
    if (data_set := read(folder, train)) is None:
        _download(folder)
        data_set = read(folder, train)
    assert data_set is not None  # torchvision writes where read looks
    images, labels, path = data_set
    count, checksum = MNIST_CHECKSUMS[train]
    if len(images) == count and zlib.crc32(labels.data, zlib.crc32(images.data)) != checksum:
        message = f"{path} is not MNIST, or is damaged, by its checksum: it is used as it is"
        warnings.warn(message, stacklevel=2)
    return images.reshape(-1, 1, 28, 28), labels


def _download(folder: Path) -> None:
    """Download and unpack MNIST to folder/MNIST/raw with torchvision, completely or not at all. DataError."""
    # Here, not above: importing it takes a second and 180 MB, and is rarely needed.
    from torchvision.datasets import MNIST

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # torchvision prints what it tries; a caller gets one error instead.
        with tempfile.TemporaryDirectory(dir=folder) as temporary, contextlib.redirect_stdout(io.StringIO()):
            MNIST(temporary, download=True)
            (folder / "MNIST").mkdir(exist_ok=True)
            Path(temporary, "MNIST", "raw").rename(folder / "MNIST" / "raw")
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        # torchvision lists every address that it tried; the last line says what went wrong.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(
            f"MNIST is not in {folder} and could not be downloaded to it ({reason}): name a folder that has it, "
            f"torchvision's or the book's, with data_dir (--data-dir) or {DATA_VARIABLE}, or train offline on "
            "data drawn (--data drawn)"
        ) from error


def load_mnist(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False, *, data_dir: str | Path | None = None
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(x_train, t_train), (x_test, t_test) with the book's arguments and results (its dataset.mnist.load_mnist).

    Images are float32 in 0..1 with normalize, else uint8 in 0..255; (N, 784) with flatten, else (N, 1, 28, 28). Labels
    are uint8 (N,), or one-hot float64 (N, 10).
    """

    def part(train: bool) -> tuple[Array, Array]:
        images, labels = mnist(train, data_dir)
        x = pixels(images) if normalize else images
        return x.reshape(len(x), -1) if flatten else x, np.eye(10)[labels] if one_hot_label else labels

    return part(True), part(False)
