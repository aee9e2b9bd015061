"""Compares an array with its expected values, entry by entry, within limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from numpy_ref.checks import Array

EntryLimit = Callable[[tuple[int, ...]], float]  # index -> the limit of that entry by its own products

AT_ONCE = 2**22  # entries compared at a time, to save memory: one weight of AlexNet has 38 million


@dataclass(frozen=True)
class Difference:
    """The entry of an array with the greatest ratio of error to limit; or, in note, why there is none."""

    shape: tuple[int, ...] = ()
    index: tuple[int, ...] = ()
    expected: float = math.nan
    actual: float = math.nan
    error: float = math.inf
    limit: float = 0.0
    ratio: float = math.inf
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return self.note
        # As many digits, at least four, as show that the two differ.
        pairs = [(f"{self.actual:.{digits}g}", f"{self.expected:.{digits}g}") for digits in range(4, 18)]
        actual, expected = next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
        entry = f"{list(self.index)} is" if self.index else "is"
        return f"{entry} {actual}, expected {expected} (error {self.error:.1e}, limit {self.limit:.1e})"


def compare(actual: Array, expected: Array, limit: Array | float, entry_limit: EntryLimit | None = None) -> Difference:
    """The entry of actual with the greatest ratio of error to limit, the error being its distance from expected.

    Shapes must be equal; only limit is broadcast. NaN must be where NaN is expected, and infinities must have the same
    sign; any other number that is not finite fails. An entry above its limit is allowed entry_limit of it, if wider.
    """
    if actual.shape != expected.shape:
        return Difference(note=f"shape {actual.shape}, expected {expected.shape}")
    limit = np.broadcast_to(limit, expected.shape)
    if expected.size <= AT_ONCE or len(expected) == 1:
        return _worst(actual, expected, limit, entry_limit)
    parts, step = list[Difference](), max(len(expected) * AT_ONCE // expected.size, 1)
    for start in range(0, len(expected), step):
        block = slice(start, start + step)
        in_block = entry_limit and _from_row(start, entry_limit)
        part = _worst(actual[block], expected[block], limit[block], in_block)
        parts.append(replace(part, shape=actual.shape, index=(part.index[0] + start, *part.index[1:])))
    return max(parts, key=lambda part: math.inf if math.isnan(part.ratio) else part.ratio)


def _from_row(start: int, entry_limit: EntryLimit) -> EntryLimit:
    """entry_limit for the block of an array that begins at row start."""
    return lambda index: entry_limit((index[0] + start, *index[1:]))


def _worst(actual: Array, expected: Array, limit: Array, entry_limit: EntryLimit | None) -> Difference:
    agree = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.asarray(np.abs(actual - expected))
        error[agree] = 0
        if entry_limit is not None:
            limit = _widened(error, limit, entry_limit)
        ratio = np.asarray(error / limit)
    ratio[~(np.isfinite(actual) & np.isfinite(expected))] = np.inf
    ratio[agree] = 0
    index = tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    entry = float(expected[index]), float(actual[index]), float(error[index]), float(limit[index]), float(ratio[index])
    return Difference(actual.shape, index, *entry)


def _widened(error: Array, limit: Array, entry_limit: EntryLimit) -> Array:
    """limit, with entry_limit's where wider for entries whose error exceeds it, up to the first that exceeds both."""
    exceeding = np.flatnonzero(error > limit)
    if not len(exceeding):
        return limit
    widened = np.array(limit)
    for position in _greatest_first(error.flat[exceeding] / limit.flat[exceeding]):
        index = tuple(int(i) for i in np.unravel_index(exceeding[position], error.shape))
        widened[index] = max(widened[index], entry_limit(index))
        if not error[index] <= widened[index]:
            break
    return widened


def _greatest_first(ratios: Array) -> Iterator[np.intp]:
    """Yield the indices of ratios by size, the greatest twice: most often only that is used, and nothing is sorted."""
    yield np.argmax(ratios)
    yield from np.argsort(-ratios)
