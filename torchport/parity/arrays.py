"""Arrays that people use in place of the right input or parameter; to add one, add a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from numpy_ref.checks import Array
from torchport.layers.arithmetic import rounded
from torchport.parity.mistakes import DTYPES, FUNCTIONS, on_arrays

Arrays = Iterator[tuple[str, Array]]


def rearranged(array: Array, axis_names: str, fixed: int = 0) -> Arrays:
    """Yield array with axes permuted (the first fixed ones stay), reversed, or shifted by one along the first."""
    for axes in itertools.islice(itertools.permutations(range(array.ndim)), 1, None):
        if axes[:fixed] == tuple(range(fixed)):
            permuted, order = array.transpose(axes), ", ".join(axis_names[axis] for axis in axes)
            phrase = f"is in the order {order}, not {', '.join(axis_names)}"
            phrase = "is the reference's, not transposed" if axis_names == "IO" else phrase
            yield from ((phrase, variant) for variant in (permuted, permuted.reshape(array.shape)))
            yield phrase, array.reshape(permuted.shape).transpose(np.argsort(axes))
    for axes in itertools.chain(*(itertools.combinations(range(array.ndim), count) for count in (1, 2))):
        yield f"is reversed along {' and '.join(axis_names[axis] for axis in axes)}", np.flip(array, axes)
    yield from ((f"is moved by one along {axis_names[0]}", np.roll(array, by, 0)) for by in (1, -1))


def of_batch(x: Array) -> Arrays:
    """Yield x (N, ...) with the axes within each sample rearranged."""
    return rearranged(x, "NCHW" if x.ndim == 4 else "NIJKL"[: x.ndim], fixed=1)


def of_parameter(parameter: Array) -> Arrays:
    """Yield parameter with its axes rearranged: outputs O, inputs I, height H, width W."""
    return rearranged(parameter, {1: "O", 2: "IO"}.get(parameter.ndim, "OIHWD"[: parameter.ndim]))


def scaled(x: Array) -> Arrays:
    """Yield x times a factor and with an offset, as inputs are often given."""
    yield "is divided by 255", x / 255
    yield "is multiplied by 255", x * 255
    yield "is inverted, 1 - x", 1 - x
    yield "is scaled, 2 x - 1", 2 * x - 1
    yield "is normalised by MNIST's mean and deviation", (x - 0.1307) / 0.3081
    yield "is normalised by its own mean and deviation", (x - x.mean()) / x.std()


def inputs(x: Array) -> Arrays:
    """Yield what else may be in place of an input x: rearranged, one sample alone, rounded or activated."""
    yield from of_batch(x)
    yield "is its first sample everywhere", np.broadcast_to(x[:1], x.shape)
    yield from ((f"is rounded to {name}", rounded(x, dtype)) for name, dtype in DTYPES.items())
    yield from ((f"goes through {name}", on_arrays(function.call)(x)) for name, function in FUNCTIONS.items())


def changes(parameter: Array, attribute: str, others: Mapping[str, Array], image: tuple[int, ...] = ()) -> Arrays:
    """Yield what may be in place of a parameter; the inputs of a W are the pixels of an image (C, H, W), if given."""
    yield "is missing", np.full_like(parameter, attribute == "gamma")
    yield "is doubled", 2 * parameter
    yield "is negated", -parameter
    yield from ((f"is rounded to {name}", rounded(parameter, dtype)) for name, dtype in DTYPES.items())
    same_size = ((name, array) for name, array in others.items() if array.size == parameter.size)
    yield from ((f"is {name}", array.reshape(parameter.shape)) for name, array in same_size)
    yield from of_parameter(parameter)
    if image and attribute == "W":
        rows = rearranged(parameter.reshape(*image, -1), "CHWO")
        yield from ((phrase, array.reshape(parameter.shape)) for phrase, array in rows)


def described(new: Array, parameter: Array, candidates: Arrays) -> str:
    """How new differs from parameter, in words: as one of the candidates, or in numbers."""
    for phrase, candidate in candidates:
        if np.array_equal(candidate, new):
            return phrase
    if np.array_equal(np.sort(new, axis=None), np.sort(parameter, axis=None)):
        return "has the reference's numbers in another order"
    factor, distance = np.vdot(parameter, new) / np.vdot(parameter, parameter), np.abs(new - parameter)
    if abs(factor - 1) > 1e-5 and np.allclose(new, factor * parameter, 1e-6, 0):
        return f"is {factor:.6g} times the reference's"
    count = np.count_nonzero(distance)
    return f"is not the reference's: {count} of {new.size} numbers differ, by up to {distance.max():.2g}"
