"""The reference's parameters among the tensors that a port's calls take: by value, in whatever layout they lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from numpy_ref.checks import Array
from torchport.parity.links import sides
from torchport.parity.recording import Call, Record

# As many entries are looked at before all are.
FEW = 16


@dataclass(eq=False)
class Found:
    """A parameter of the reference as the port holds it: split into shape, its axes in another order."""

    call: Call
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def to_reference(self, array: Array, like: Array) -> Array:
        """An array in the port's layout, as the reference has it."""
        moved = array.reshape([self.shape[axis] for axis in self.order])
        return moved.transpose(np.argsort(self.order)).reshape(like.shape)

    def to_port(self, array: Array) -> Array:
        """An array in the reference's layout, as the port has it."""
        return array.reshape(self.shape).transpose(self.order).reshape(self.call.tensor.shape)


def find(record: Record, calls: Sequence[Call], value: Array, place: tuple[int, ...]) -> list[Found]:
    """Where these calls take value from, nearest first: the leaf where it was only moved on the way; empty if nowhere.

    place is the shape (C, H, W) of a sample before the layer, in whose order the rows of a matrix may come.
    """
    found: list[Found] = []
    for call in sides(record, calls):
        if call.tensor.numel() == value.size and call.tensor.is_floating_point():
            array = call.array
            if array is not None:
                found += [Found(call, *layout) for layout in _layouts(array, value, place)]
    found = [_leaf(record, each, value, place) for each in found]
    # What is trained comes before what only looks the same, as a mean of 0 looks like a beta.
    return sorted(found, key=lambda each: not each.call.requires_grad)


def _layouts(array: Array, value: Array, place: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(shape, order) of each way in which array is value in another order of its axes."""
    shapes = [value.shape]
    if value.ndim == 2 and len(place) > 1 and np.prod(place) == len(value):
        shapes.append((*place, value.shape[1]))
    for shape in shapes:
        split = tuple(length for length in shape if length != 1)
        for order in itertools.permutations(range(len(split))):
            moved = value.reshape(split).transpose(order)
            if np.array_equal(moved.flat[:FEW], array.flat[:FEW]) and np.array_equal(moved.ravel(), array.ravel()):
                yield split, order


def _leaf(record: Record, found: Found, value: Array, place: tuple[int, ...]) -> Found:
    """The parameter behind what was only moved, reshaped or cast, since its own hooks belong to it."""
    call = found.call
    while len(call.parents) == 1 and not call.tensor.is_leaf:
        call = record.calls[call.parents[0]]
        if call.tensor.numel() != value.size or call.array is None:
            return found
    if call is found.call or not call.tensor.is_leaf:
        return found
    for layout in _layouts(call.array, value, place):  # type: ignore[arg-type]
        return Found(call, *layout)
    return found
