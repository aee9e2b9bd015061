"""An array against what it should be, entry by entry within limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from numpy_ref.checks import Array
from torchport.parity.report import Difference

Own = Callable[[tuple[int, ...]], float]  # the limit of one entry by what it adds up itself


def compare(actual: Array, expected: Array, limit: Array | float, own: Own | None = None) -> Difference:
    """The entry of actual whose distance from expected is the greatest multiple of its limit.

    Shapes must be equal: nothing is broadcast. NaN must stand where NaN is expected, and infinities with their sign;
    anything else that is not finite fails. own gives an entry that is above its limit the one of its own products.
    """
    if actual.shape != expected.shape:
        return Difference(note=f"shape {actual.shape}, expected {expected.shape}")
    limit = np.broadcast_to(limit, expected.shape)
    agree = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.asarray(actual - expected)
        np.abs(error, out=error)  # in place: a weight of AlexNet has 38 million numbers
        error[agree] = 0
        if own is not None:
            limit = _widened(error, limit, own)
        ratio = np.asarray(error / limit)
    ratio[~(np.isfinite(actual) & np.isfinite(expected))] = np.inf
    ratio[agree] = 0
    index = tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    return Difference(
        shape=actual.shape,
        index=index,
        expected=float(expected[index]),
        actual=float(actual[index]),
        error=float(error[index]),
        limit=float(limit[index]),
        ratio=float(ratio[index]),
    )


def _widened(error: Array, limit: Array, own: Own) -> Array:
    """limit, but own's where it is wider, for the entries that error exceeds: up to the first that exceeds both."""
    above = np.flatnonzero(error > limit)
    if not len(above):
        return limit
    found = np.array(limit)
    for place in _greatest_first(error.flat[above] / limit.flat[above]):
        index = tuple(int(i) for i in np.unravel_index(above[place], error.shape))
        found[index] = max(found[index], own(index))
        if not error[index] <= found[index]:
            break
    return found


def _greatest_first(ratios: Array) -> Iterator[np.intp]:
    """Places, that of the greatest twice: most often no other is asked for, and then nothing is sorted."""
    yield np.argmax(ratios)
    yield from np.argsort(-ratios)
