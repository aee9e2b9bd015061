"""MNIST through torchvision, as the book's arrays."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np

from numpy_ref.checks import Array

DATA_VARIABLE = "TORCHPORT_DATA"


class DataError(RuntimeError):
    """A data set that is not there and could not be fetched."""


def default_data_dir() -> Path:
    """The folder that the variable TORCHPORT_DATA names, else data/: a torchvision root."""
    return Path(os.environ.get(DATA_VARIABLE, "data"))


def mnist(train: bool, data_dir: str | Path | None = None) -> tuple[Array, Array]:
    """Images uint8 (N, 1, 28, 28) and labels uint8 (N,) of MNIST's training or test set.

    Read from data_dir (default_data_dir() for None), where torchvision downloads them first if they are not there and
    checks their checksums. DataError where that fails.
    """
    # Here, not above: it takes a second and 160 MB, and most uses of this package need no data set.
    from torchvision.datasets import MNIST

    folder = default_data_dir() if data_dir is None else Path(data_dir)
    try:
        # torchvision prints what it tries; a caller gets one error instead.
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = MNIST(str(folder), train=train, download=True)
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        # torchvision lists every address it tried; the last line says what went wrong.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(
            f"MNIST could not be read from {folder}, nor downloaded to it ({reason}): name a torchvision root, "
            f"a folder that holds MNIST/raw, with --data-dir or {DATA_VARIABLE}"
        ) from error
    return dataset.data.numpy()[:, np.newaxis], dataset.targets.numpy().astype(np.uint8)


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
    x = images.astype(np.float32) / np.float32(255) if normalize else images
    t = np.eye(10)[labels] if one_hot_label else labels
    return x.reshape(len(x), -1) if flatten else x, t
