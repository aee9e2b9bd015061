"""The data sets by name, and MNIST through torchvision, as the book's arrays."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np

from numpy_ref.checks import Array
from torchport import drawn
from torchport.images import pixels

DATA_VARIABLE = "TORCHPORT_DATA"
DATA_SETS = ("mnist", "drawn")
PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
IMAGES_HEADER, LABELS_HEADER = 16, 8  # bytes


class DataError(RuntimeError):
    """A data set that is not there and could not be fetched."""


def default_data_dir() -> Path:
    """The folder that the variable TORCHPORT_DATA names, else data/: a torchvision root."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")


def load(name: str, train: bool, data_dir: str | Path | None = None, *, progress: bool = False) -> tuple[Array, Array]:
    """Images uint8 (N, 1, 28, 28) and labels uint8 (N,) of one of DATA_SETS: 60,000 to train with, or 10,000 to test.

    data_dir is MNIST's folder, default_data_dir() for None; progress shows a bar where digits are drawn. ValueError for
    another name; DataError as mnist.
    """
    if name == "mnist":
        return mnist(train, data_dir)
    if name == "drawn":
        return drawn.make(drawn.SIZES[train], drawn.SEEDS[train], progress=progress)
    raise ValueError(f"data must be one of {', '.join(DATA_SETS)}, got {name!r}")


def mnist(train: bool, data_dir: str | Path | None = None) -> tuple[Array, Array]:
    """Images uint8 (N, 1, 28, 28) and labels uint8 (N,) of MNIST's training or test set.

    Read from data_dir (default_data_dir() for None), where torchvision downloads them first if they are not there and
    checks their checksums. DataError where that fails.
    """
    folder = default_data_dir() if data_dir is None else Path(data_dir)
    _unpack(folder)
    prefix = folder / "MNIST" / "raw" / ("train" if train else "t10k")
    images = _read_idx(Path(f"{prefix}-images-idx3-ubyte"), IMAGES_HEADER)
    labels = _read_idx(Path(f"{prefix}-labels-idx1-ubyte"), LABELS_HEADER)
    if images.size != labels.size * 28 * 28:
        raise DataError(f"{prefix}: {labels.size} labels for {images.size} pixels: delete the folder and try again")
    return images.reshape(-1, 1, 28, 28), labels


def _unpack(folder: Path) -> None:
    """Have torchvision download and unpack MNIST into folder, unless it is there. DataError."""
    raw = folder / "MNIST" / "raw"
    if all((raw / f"{part}-ubyte").exists() for part in PARTS):
        return
    # Here, not above: it takes a second and 180 MB, which the limit on memory feels, and once is enough.
    from torchvision.datasets import MNIST

    try:
        # torchvision prints what it tries; a caller gets one error instead.
        with contextlib.redirect_stdout(io.StringIO()):
            MNIST(str(folder), download=True)
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        # torchvision lists every address it tried; the last line says what went wrong.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(
            f"MNIST could not be read from {folder}, nor downloaded to it ({reason}): name a torchvision root, "
            f"a folder that holds MNIST/raw, with --data-dir or {DATA_VARIABLE}, or train without a network on "
            "--data drawn"
        ) from error


def _read_idx(path: Path, header: int) -> Array:
    """The bytes behind the header of one of the four unpacked files, in the IDX format. DataError."""
    try:
        return np.frombuffer(path.read_bytes(), np.uint8, offset=header).copy()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} could not be read ({error}): delete the folder and try again") from error


def load_mnist(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False, *, data_dir: str | Path | None = None
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(x_train, t_train), (x_test, t_test) with the book's arguments and results (its dataset.mnist.load_mnist).

    Images are float32 in 0..1 with normalize, else uint8 in 0..255; (N, 784) with flatten, else (N, 1, 28, 28). Labels
    are uint8 (N,), or one-hot float64 (N, 10). DataError as mnist.
    """
    train, test = mnist(True, data_dir), mnist(False, data_dir)
    return _in_book_format(*train, normalize, flatten, one_hot_label), _in_book_format(
        *test, normalize, flatten, one_hot_label
    )


def _in_book_format(
    images: Array, labels: Array, normalize: bool, flatten: bool, one_hot_label: bool
) -> tuple[Array, Array]:
    x = pixels(images) if normalize else images
    t = np.eye(10)[labels] if one_hot_label else labels
    return x.reshape(len(x), -1) if flatten else x, t
