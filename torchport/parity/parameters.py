"""Finds the reference's parameters among the tensors that a port's calls take, by value and in any layout."""

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

Region = tuple[slice, ...]  # () for the whole array
Layout = tuple[tuple[int, ...], tuple[int, ...]]  # (shape to split into, order of the axes of that shape)

# Entries compared first, before all of an array.
FEW = 16

DERIVED = 16  # roundings of a weight computed from several parameters: a norm's sum and root, a quotient, a product


@dataclass(eq=False)
class Piece:
    """A region of a parameter, arranged in layout, and the region of one tensor of the port that holds it."""

    call: Call
    layout: Layout
    region: Region = ()
    tensor_region: Region = ()

    def parameter_part(self, value: Array) -> Array:
        """The piece's region of value, a parameter or its gradient in the reference's layout; a view."""
        shape, order = self.layout
        return value.reshape(shape).transpose(order)[self.region or ...]

    def as_parameter(self, array: Array, like: Array) -> Array:
        """array, the port's whole tensor, in the reference's layout and the shape of like; a view if possible."""
        shape, order = self.layout
        return array.reshape([shape[axis] for axis in order]).transpose(np.argsort(order)).reshape(like.shape)

    def tensor_part(self, array: Array, like: Array) -> Array:
        """The piece's region of array, the port's tensor or its gradient; a view."""
        if not self.tensor_region:
            return array.reshape(self.parameter_part(like).shape)
        return _axes(array, len(self.tensor_region))[self.tensor_region]


@dataclass(eq=False)
class Location:
    """Where a port holds a parameter of the reference: most often in one piece."""

    pieces: list[Piece]

    def value(self, like: Array) -> Array:
        """The port's numbers in the reference's layout, with the shape of like."""
        value = self._together([piece.call.array for piece in self.pieces], like)
        assert value is not None
        return value

    @property
    def settable(self) -> bool:
        """Whether all pieces are trained leaves, so that the parameter can be written."""
        return all(piece.call.is_leaf for piece in self.pieces)

    def gradient(self, like: Array) -> Array | None:
        """The gradient that arrived, in the reference's layout; None if none did."""
        return self._together([piece.call.grad for piece in self.pieces], like)

    def _together(self, arrays: Sequence[Array | None], like: Array) -> Array | None:
        """The pieces' arrays put together in the reference's layout, 0 where one is None; None if all are."""
        pieces = [(piece, array) for piece, array in zip(self.pieces, arrays, strict=True) if array is not None]
        if len(self.pieces) == len(pieces) == 1 and not (self.pieces[0].region or self.pieces[0].tensor_region):
            return self.pieces[0].as_parameter(pieces[0][1], like)
        whole = np.zeros(like.shape)
        for piece, array in pieces:
            piece.parameter_part(whole)[...] = piece.tensor_part(array, like)
        return whole if pieces else None

    def write(self, value: Array) -> None:
        """Write value, in the reference's layout, into the port's tensors."""
        for piece in self.pieces:
            tensor = piece.call.tensor
            array = array_of(tensor)
            piece.tensor_part(array, value)[...] = piece.parameter_part(value)
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(array))

    def in_record(self, record: Record) -> Location:
        """The same location in another run with the same sequence of calls."""
        return Location([Piece(record.calls[p.call.number], p.layout, p.region, p.tensor_region) for p in self.pieces])


def locate(record: Record, calls: Sequence[Call], value: Array, shape: tuple[int, ...], u: float) -> list[Location]:
    """The locations of a parameter value among what calls take: the nearest tensor, in every layout that fits.

    A tensor that only moves a parameter's numbers gives the parameter itself. One that is computed, as by weight_norm,
    may be off by DERIVED roundings of u. shape (C, H, W) is that of a sample before the layer.
    """
    candidates = side_inputs(record.calls, calls)
    if any(call.name == UNSEEN for call in calls):
        candidates += [call for call in record.calls if call.is_leaf and call not in candidates]
    candidates = [call for call in candidates if call.tensor.is_floating_point() and is_real(call.tensor)]
    # Trained tensors come first: a running mean of 0, say, looks like a beta.
    candidates.sort(key=lambda call: not call.requires_grad)
    layouts = list(_layouts(value, shape))
    for call in candidates:
        matching = _matching_layouts(call, value, layouts)
        if not matching and not call.is_leaf:
            near = _matching_layouts(call, value, layouts, DERIVED * u)
            matching = near if near and not _is_moved(record, call) else []
        if matching:
            return [_at_leaf(record, call, layout, value, layouts) for layout in matching]
    return _in_parts(record, candidates, value)


def _is_moved(record: Record, call: Call) -> bool:
    """Whether call has a single parent and only numbers of that one."""
    if len(call.parents) != 1:
        return False
    numbers, of_parent = call.array, record.calls[call.parents[0]].array
    return numbers is not None and of_parent is not None and bool(np.isin(numbers, of_parent).all())


def _layouts(value: Array, sample_shape: tuple[int, ...]) -> Iterator[Layout]:
    """Yield the layouts of a parameter: its axes in any order, and rows of an Affine in any order of C, H and W."""
    shapes = [value.shape]
    if value.ndim == 2 and len(sample_shape) > 1 and np.prod(sample_shape) == len(value):
        shapes.append((*sample_shape, value.shape[1]))
    layout_by_strides = dict[tuple[tuple[int, int], ...], Layout]()
    for shape in shapes:
        split = tuple(length for length in shape if length != 1)
        for order in itertools.permutations(range(len(split))):
            layout_by_strides.setdefault(_strides(split, order), (split, order))
    yield from layout_by_strides.values()


def _strides(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(length, stride) of each axis, contiguous neighbours merged, so that equal layouts have equal strides."""
    merged = list[tuple[int, int]]()
    for axis in order:
        length, stride = shape[axis], math.prod(shape[axis + 1 :])
        if merged and merged[-1][1] == length * stride:
            length *= merged.pop()[0]
        merged.append((length, stride))
    return tuple(merged)


def _matching_layouts(call: Call, value: Array, layouts: Sequence[Layout], tolerance: float = 0.0) -> list[Layout]:
    """The layouts in which the call's tensor equals value, up to a relative error of tolerance."""
    array = call.array if call.tensor.numel() == value.size else None
    return [] if array is None else [layout for layout in layouts if _matches(array.ravel(), value, layout, tolerance)]


def _matches(array: Array, value: Array, layout: Layout, tolerance: float) -> bool:
    arranged = value.reshape(layout[0]).transpose(layout[1])
    first = arranged.flat[:FEW]
    if not (np.abs(array[:FEW] - first) <= tolerance * np.abs(first)).all():
        return False
    if not tolerance:
        return np.array_equal(array.reshape(arranged.shape), arranged)
    return bool((np.abs(array - arranged.ravel()) <= tolerance * np.abs(arranged.ravel())).all())


def _leaf(record: Record, call: Call) -> Call:
    """The parameter of which call is only a part, a view or a cast; call itself if more is computed."""
    leaf = call
    while len(leaf.parents) == 1 and not leaf.tensor.is_leaf:
        leaf = record.calls[leaf.parents[0]]
    return leaf if leaf.tensor.is_leaf and is_real(leaf.tensor) else call


def _at_leaf(record: Record, call: Call, layout: Layout, value: Array, layouts: list[Layout]) -> Location:
    """The location at the parameter that call was made from, as that parameter's own hooks act on its gradient."""
    leaf = _leaf(record, call)
    if leaf is not call:
        for other in _matching_layouts(leaf, value, layouts):
            return Location([Piece(leaf, other)])
        if locations := _in_parts(record, [leaf], value):
            return locations[0]
    return Location([Piece(call, layout)])


def _in_parts(record: Record, candidates: Sequence[Call], value: Array) -> list[Location]:
    """The location of value as a part of a larger tensor, or put together from smaller ones; else an empty list."""
    pieces: list[Piece] = []
    covered = np.zeros(value.size, dtype=bool)
    for call in dict.fromkeys(_leaf(record, call) for call in candidates):
        for layout in _part_layouts(value):
            piece = _part(call, layout, value)
            if piece is None:
                continue
            entries = np.arange(value.size).reshape(layout[0]).transpose(layout[1])[piece.region].ravel()
            if not covered[entries].any():
                covered[entries] = True
                pieces.append(piece)
            break
        if covered.all():
            return [Location(pieces)]
    return []


def _part_layouts(value: Array) -> list[Layout]:
    """Layouts of value: as a matrix, transposed, as a row, as a vector, and unchanged."""
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


def _region(part: Array, whole: Array) -> Region | None:
    """The region of whole that equals part, which is shorter along exactly one axis; None if there is none."""
    axes = [axis for axis, length in enumerate(part.shape) if length != whole.shape[axis]]
    if len(axes) != 1 or part.size > whole.size:
        return None
    (axis,), full = axes, (slice(None),)
    line = np.moveaxis(whole, axis, -1)[(0,) * (whole.ndim - 1)][: whole.shape[axis] - part.shape[axis] + 1]
    for start in np.flatnonzero(line == part.flat[0]):
        region = (*full * axis, slice(start, start + part.shape[axis]), *full * (whole.ndim - axis - 1))
        if np.array_equal(whole[region], part):
            return region
    return None


def _axes(array: Array, ndim: int) -> Array:
    """array with ndim axes if one can be added in front, or all after the first merged; else unchanged."""
    if array.ndim == ndim - 1:
        return array[np.newaxis]
    return array.reshape(len(array), -1) if array.ndim > ndim == 2 else array
