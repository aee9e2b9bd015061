"""The reference's parameters among the tensors that a port's calls take: by value, in whatever layout they lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from numpy_ref.checks import Array
from torchport.parity.calls import UNSEEN, Call, Record, array_of, is_real
from torchport.parity.places import side_inputs

Region = tuple[slice, ...]  # () for everything
Layout = tuple[tuple[int, ...], tuple[int, ...]]  # an array is split into this shape, and its axes come in this order

# As many entries are looked at before all are.
FEW = 16

DERIVED = 16  # roundings of what is computed of several parameters: a norm's sum, its root, a quotient and a product


@dataclass(eq=False)
class Piece:
    """A region of a parameter, arranged as layout says, that is a region of one tensor of the port."""

    call: Call
    layout: Layout
    region: Region = ()
    tensor_region: Region = ()

    def parameter_part(self, value: Array) -> Array:
        """The region of a parameter or of its gradient; a view."""
        shape, order = self.layout
        return value.reshape(shape).transpose(order)[self.region or ...]

    def as_parameter(self, array: Array, like: Array) -> Array:
        """All of what the port has, in the reference's layout: a view where that can be."""
        shape, order = self.layout
        return array.reshape([shape[axis] for axis in order]).transpose(np.argsort(order)).reshape(like.shape)

    def tensor_part(self, array: Array, like: Array) -> Array:
        """The same region of what the port has; a view."""
        if not self.tensor_region:
            return array.reshape(self.parameter_part(like).shape)
        return _axes(array, len(self.tensor_region))[self.tensor_region]


@dataclass(eq=False)
class Location:
    """Where a port holds a parameter of the reference: in one piece, most often."""

    pieces: list[Piece]

    def value(self, like: Array) -> Array:
        """What the port has, in the reference's layout."""
        found = self._together([piece.call.array for piece in self.pieces], like)
        assert found is not None
        return found

    @property
    def settable(self) -> bool:
        """Whether all of it is the port's own, and nothing computed of it."""
        return all(piece.call.is_leaf for piece in self.pieces)

    def gradient(self, like: Array) -> Array | None:
        """What arrived, in the reference's layout; None where nothing did."""
        return self._together([piece.call.grad for piece in self.pieces], like)

    def _together(self, arrays: Sequence[Array | None], like: Array) -> Array | None:
        """An array of each piece, 0 where one has none, in the reference's layout; None where all have none."""
        pieces = [(piece, array) for piece, array in zip(self.pieces, arrays, strict=True) if array is not None]
        if len(self.pieces) == len(pieces) == 1 and not (self.pieces[0].region or self.pieces[0].tensor_region):
            return self.pieces[0].as_parameter(pieces[0][1], like)
        found = np.zeros(like.shape)
        for piece, array in pieces:
            piece.parameter_part(found)[...] = piece.tensor_part(array, like)
        return found if pieces else None

    def write(self, value: Array) -> None:
        """Let the port have value (in the reference's layout) for this parameter."""
        for piece in self.pieces:
            tensor = piece.call.tensor
            array = array_of(tensor)
            piece.tensor_part(array, value)[...] = piece.parameter_part(value)
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(array))

    def in_record(self, record: Record) -> Location:
        """The same in another run with the same sequence of calls."""
        return Location([Piece(record.calls[p.call.number], p.layout, p.region, p.tensor_region) for p in self.pieces])


def locate(record: Record, calls: Sequence[Call], value: Array, place: tuple[int, ...], u: float) -> list[Location]:
    """Where these calls take value from: at the nearest such tensor, in every layout that fits; empty if nowhere.

    That is the parameter itself where it was only moved on the way. What is computed of several, as weight_norm does,
    may be off by roundings of u. place is the shape (C, H, W) of a sample before the layer.
    """
    held = side_inputs(record.calls, calls)
    if any(call.name == UNSEEN for call in calls):
        held += [call for call in record.calls if call.is_leaf and call not in held]
    held = [call for call in held if call.tensor.is_floating_point() and is_real(call.tensor)]
    # What is trained comes before what only looks the same, as a mean of 0 looks like a beta.
    held.sort(key=lambda call: not call.requires_grad)
    layouts = list(_layouts(value, place))
    for call in held:
        within = 0.0 if call.is_leaf or len(call.parents) == 1 else DERIVED * u
        if fitting := _fitting(call, value, layouts, within):
            return [_at_leaf(record, call, layout, value, layouts) for layout in fitting]
    return _in_parts(record, held, value)


def _layouts(value: Array, place: tuple[int, ...]) -> Iterator[Layout]:
    """Ways in which a parameter may lie: with its axes in any order; rows of an Affine in any order of C, H, W."""
    shapes = [value.shape]
    if value.ndim == 2 and len(place) > 1 and np.prod(place) == len(value):
        shapes.append((*place, value.shape[1]))
    found = dict[tuple[tuple[int, int], ...], Layout]()
    for shape in shapes:
        split = tuple(length for length in shape if length != 1)
        for order in itertools.permutations(range(len(split))):
            found.setdefault(_strides(split, order), (split, order))
    yield from found.values()


def _strides(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Lengths and strides of a layout, axes that are one in memory as one: the same for what is the same."""
    merged = list[tuple[int, int]]()
    for axis in order:
        length, stride = shape[axis], math.prod(shape[axis + 1 :])
        if merged and merged[-1][1] == length * stride:
            length *= merged.pop()[0]
        merged.append((length, stride))
    return tuple(merged)


def _fitting(call: Call, value: Array, layouts: Sequence[Layout], within: float = 0.0) -> list[Layout]:
    """The layouts in which a tensor has a parameter's entries, up to a relative error."""
    array = call.array if call.tensor.numel() == value.size else None
    return [] if array is None else [layout for layout in layouts if _equal(array.ravel(), value, layout, within)]


def _equal(array: Array, value: Array, layout: Layout, within: float) -> bool:
    moved = value.reshape(layout[0]).transpose(layout[1])
    few = np.abs(array[:FEW] - moved.flat[:FEW]) <= within * np.abs(moved.flat[:FEW])
    if not few.all() or not within:
        return bool(few.all()) and np.array_equal(array.reshape(moved.shape), moved)
    return bool((np.abs(array - moved.ravel()) <= within * np.abs(moved.ravel())).all())


def _leaf(record: Record, call: Call) -> Call:
    """The parameter of which call is only a part, a view or a cast; call itself where more is computed."""
    leaf = call
    while len(leaf.parents) == 1 and not leaf.tensor.is_leaf:
        leaf = record.calls[leaf.parents[0]]
    return leaf if leaf.tensor.is_leaf and is_real(leaf.tensor) else call


def _at_leaf(record: Record, call: Call, layout: Layout, value: Array, layouts: list[Layout]) -> Location:
    """The same at the parameter behind it, whose own hooks count."""
    leaf = _leaf(record, call)
    if leaf is not call:
        for other in _fitting(leaf, value, layouts):
            return Location([Piece(leaf, other)])
        for found in _in_parts(record, [leaf], value):
            return found
    return Location([Piece(call, layout)])


def _in_parts(record: Record, held: Sequence[Call], value: Array) -> list[Location]:
    """value as a part of a larger tensor, or put together of smaller ones."""
    pieces: list[Piece] = []
    covered = np.zeros(value.size, dtype=bool)
    for call in dict.fromkeys(_leaf(record, call) for call in held):
        for layout in _matrices(value):
            piece = _part(call, layout, value)
            if piece is None:
                continue
            places = np.arange(value.size).reshape(layout[0]).transpose(layout[1])[piece.region].ravel()
            if not covered[places].any():
                covered[places] = True
                pieces.append(piece)
            break
        if covered.all():
            return [Location(pieces)]
    return []


def _matrices(value: Array) -> list[Layout]:
    """As a matrix and transposed, as one row, as it is."""
    columns = (len(value), value.size // len(value))
    ways = [(columns, (0, 1)), (columns, (1, 0)), ((1, value.size), (0, 1)), ((value.size,), (0,))]
    return [*ways, (value.shape, tuple(range(value.ndim)))]


def _part(call: Call, layout: Layout, value: Array) -> Piece | None:
    arranged, array = value.reshape(layout[0]).transpose(layout[1]), call.array
    assert array is not None
    array = _axes(array, arranged.ndim)
    if array.ndim != arranged.ndim or array.size == value.size:
        return None
    if array.size > arranged.size:
        tensor_region = _region(arranged, array)
        return None if tensor_region is None else Piece(call, layout, tensor_region=tensor_region)
    region = _region(array, arranged)
    return None if region is None else Piece(call, layout, region, tuple(slice(None) for _ in region))


def _region(small: Array, large: Array) -> Region | None:
    """Where small is in large, which has more along one axis only."""
    axes = [axis for axis, length in enumerate(small.shape) if length != large.shape[axis]]
    if len(axes) != 1 or small.size > large.size:
        return None
    (axis,), everything = axes, (slice(None),)
    line = np.moveaxis(large, axis, -1)[(0,) * (large.ndim - 1)][: large.shape[axis] - small.shape[axis] + 1]
    for start in np.flatnonzero(line == small.flat[0]):
        region = (*everything * axis, slice(start, start + small.shape[axis]), *everything * (large.ndim - axis - 1))
        if np.array_equal(large[region], small):
            return region
    return None


def _axes(array: Array, ndim: int) -> Array:
    """array with that many axes, where one can be added or the last ones make one."""
    if array.ndim == ndim - 1:
        return array[np.newaxis]
    return array.reshape(len(array), -1) if array.ndim > ndim == 2 else array
