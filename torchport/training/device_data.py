"""A run's images and labels on its device, and the memory from which steps read and into which they write."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from torchport.data.preparation import Preparation
from torchport.training.samples import Samples
from torchport.training.state import TEST, TRAIN

# Images evaluated at a time: enough to fill a GPU, few enough for a CPU's cache.
EVALUATED = {"cuda": 1000, "cpu": 200}


class Slots(NamedTuple):
    """What each step reads and writes, by its number, in memory that stays where it is, as graphs need it."""

    order: Tensor  # which samples, batch_size a step, int64 (steps * batch_size,)
    rates: Tensor  # of BookAdam in a graph, which cannot compute them, (steps,)
    losses: Tensor  # written by a step: this rank's log-likelihood, (steps,)

    @classmethod
    def of(cls, steps: int, batch_size: int, like: Tensor) -> Slots:
        """Slots of so many steps, in the dtype and on the device of like."""
        order = torch.zeros(steps * batch_size, dtype=torch.int64, device=like.device)
        return cls(order, *like.new_zeros(2, steps))


class DeviceData:
    """All images and labels on a device, in uint8; batches are prepared for the network in dtype."""

    def __init__(self, samples: Samples, preparation: Preparation, dtype: torch.dtype, device: torch.device) -> None:
        shape, classes = samples.x_train.shape[1:], samples.classes
        self.labels = on(device, samples.t_train)
        self._rows = on(device, one_hot_rows(samples.x_train, samples.t_train, classes))
        self._shape, self._parts_of_row = shape, (math.prod(shape), classes)
        self.images = {TRAIN: self._rows[:, :-classes].unflatten(1, shape), TEST: on(device, samples.x_test)}
        # For predictions, in memory that stays where it is.
        size = EVALUATED.get(device.type, EVALUATED["cpu"])
        self.chunk = torch.zeros(size, *shape, dtype=torch.uint8, device=device)
        self._preparation, self._dtype = preparation, dtype
        # Tensors, since CUDA divides by a Python number as it multiplies by its reciprocal: not quite the book's x.
        self._number = cache(partial(torch.tensor, dtype=torch.float32, device=device))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images as the network takes them: prepared in float32 as in the book, then in dtype."""
        prepared: Tensor = self._preparation.apply(images, self._number)
        return prepared.to(self._dtype)

    def batch(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (n, C, H, W) and one-hot labels (n, classes), uint8, of the training images order (n,)."""
        pixels, one_hot = self._rows.index_select(0, order).split(self._parts_of_row, dim=1)
        return self.pixels(pixels.unflatten(1, self._shape)), one_hot


def one_hot_rows(images: Array, labels: Array, classes: int) -> Array:
    """A row a sample, uint8 (N, C * H * W + classes): its pixels, and 1 at its label, so that one fetch brings both."""
    rows = np.zeros((len(images), images[0].size + classes), np.uint8)
    rows[:, :-classes] = images.reshape(len(images), -1)
    rows[np.arange(len(images)), labels - classes] = 1
    return rows


def on(device: torch.device, part: Array) -> Tensor:
    """array as a tensor on device; on the CPU it shares memory, where torch can."""
    part = np.ascontiguousarray(part)
    return (torch.from_numpy(part) if part.flags.writeable else torch.tensor(part)).to(device)
