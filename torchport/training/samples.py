"""The data of a run, the order of its batches, and weights to start from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from numpy_ref.checks import Array, check_batch
from numpy_ref.functions import class_labels
from torchport.data import load
from torchport.data.images import check_images
from torchport.files import read_weights
from torchport.networks import DTYPES, Weights
from torchport.training.config import BOOK, Config


class Samples(NamedTuple):
    """Images uint8 (N, C, H, W), 0 to 255, and labels (N,), in 0..classes-1, of a training and a test set."""

    x_train: Array
    t_train: Array
    x_test: Array
    t_test: Array
    classes: int = 10

    def digest(self) -> str:
        """A hash of all images and labels, by which a resumed run knows its data."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.x_train, self.t_train, self.x_test, self.t_test):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load_samples(config: Config, progress: bool) -> Samples:
    """The data set that config names; progress shows a bar on a terminal where it is drawn. DataError."""
    x_train, t_train = load(config.data, True, config.data_dir, progress=progress)
    x_test, t_test = load(config.data, False, config.data_dir, progress=progress)
    return Samples(x_train, t_train, x_test, t_test)


def cut_and_checked(samples: Samples, train_size: int | None) -> Samples:
    """samples with the first train_size training images and int64 labels. ValueError, TypeError for bad arrays."""
    if train_size is not None and train_size > len(samples.x_train):
        raise ValueError(f"train_size must be at most {len(samples.x_train)}, which there are, got {train_size}")
    x_train, x_test = samples.x_train[:train_size], samples.x_test
    for name, images in (("x_train", x_train), ("x_test", x_test)):
        check_batch(name, check_images(name, images))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(f"x_train and x_test must have images of one size, got {x_train.shape} and {x_test.shape}")
    t_train = class_labels(samples.t_train[:train_size], (len(x_train), samples.classes))
    t_test = class_labels(samples.t_test, (len(x_test), samples.classes))
    return Samples(x_train, t_train.astype(np.int64), x_test, t_test.astype(np.int64), samples.classes)


def orders(config: Config, n: int, rng: np.random.RandomState) -> Iterator[Array]:
    """Yield for each epoch, without end, the indices of n samples that its steps take: int64, batch_size a step.

    "book" draws with replacement, as many as fill the last batch too; "epoch" permutes, so that the last batch may be
    short. The stream is the one that has drawn the weights, so the batches are the book's.
    """
    steps = -(-n // config.batch_size)
    while True:
        if config.sampling == BOOK:
            yield rng.choice(n, steps * config.batch_size)  # what choice(n, batch_size) draws in as many calls
        else:
            yield rng.permutation(n)


def read_start(path: str, config: Config, samples: Samples) -> Weights:
    """The weights in path, in the run's dtype. ValueError where they are of another network, or for other data."""
    weights = read_weights(path, dtype=DTYPES[np.dtype(config.dtype)])
    architecture, shape = weights.architecture, samples.x_train.shape[1:]
    if architecture.name != config.network:
        raise ValueError(
            f"{path} is a {architecture.name}, from which a {config.network} cannot start: choose that network"
        )
    if (architecture.input_shape, architecture.classes) != (shape, samples.classes):
        raise ValueError(
            f"{path} is for images {architecture.input_shape} in {architecture.classes} classes, the data has "
            f"images {shape} in {samples.classes}"
        )
    return weights
