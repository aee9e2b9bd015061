"""An array against what it should be, entry by entry within limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from numpy_ref.checks import Array

EntryLimit = Callable[[tuple[int, ...]], float]  # the limit of one entry by what it adds up itself

MOST = 2**22  # entries that are compared at a time, for memory: a weight of AlexNet has 38 million


@dataclass(frozen=True)
class Difference:
    """The entry of an array that is furthest off, as a multiple of its limit; or, in note, why none can be named."""

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
        # With as many digits, at least four, as it takes to tell them apart.
        pairs = [(f"{self.actual:.{digits}g}", f"{self.expected:.{digits}g}") for digits in range(4, 18)]
        actual, expected = next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
        entry = f"{list(self.index)} is" if self.index else "is"
        return f"{entry} {actual}, expected {expected} (error {self.error:.1e}, limit {self.limit:.1e})"


def compare(actual: Array, expected: Array, limit: Array | float, entry_limit: EntryLimit | None = None) -> Difference:
    """The entry of actual whose distance from expected is the greatest multiple of its limit.

    Shapes must be equal: nothing is broadcast. NaN must stand where NaN is expected, and infinities with their sign;
    anything else that is not finite fails. own gives an entry that is above its limit the one of its own products.
    """
    if actual.shape != expected.shape:
        return Difference(note=f"shape {actual.shape}, expected {expected.shape}")
    limit = np.broadcast_to(limit, expected.shape)
    if expected.size <= MOST or len(expected) == 1:
        return _worst(actual, expected, limit, entry_limit)
    parts, step = list[Difference](), max(len(expected) * MOST // expected.size, 1)
    for first in range(0, len(expected), step):
        some = slice(first, first + step)
        shifted = (
            None if entry_limit is None else lambda index, first=first: entry_limit((index[0] + first, *index[1:]))
        )
        part = _worst(actual[some], expected[some], limit[some], shifted)
        parts.append(replace(part, shape=actual.shape, index=(part.index[0] + first, *part.index[1:])))
    return max(parts, key=lambda part: math.inf if math.isnan(part.ratio) else part.ratio)


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
    here = float(expected[index]), float(actual[index]), float(error[index]), float(limit[index]), float(ratio[index])
    return Difference(actual.shape, index, *here)


def _widened(error: Array, limit: Array, entry_limit: EntryLimit) -> Array:
    """limit, but own's where it is wider, for the entries that error exceeds: up to the first that exceeds both."""
    above = np.flatnonzero(error > limit)
    if not len(above):
        return limit
    found = np.array(limit)
    for place in _greatest_first(error.flat[above] / limit.flat[above]):
        index = tuple(int(i) for i in np.unravel_index(above[place], error.shape))
        found[index] = max(found[index], entry_limit(index))
        if not error[index] <= found[index]:
            break
    return found


def _greatest_first(ratios: Array) -> Iterator[np.intp]:
    """Places, that of the greatest twice: most often no other is asked for, and then nothing is sorted."""
    yield np.argmax(ratios)
    yield from np.argsort(-ratios)
