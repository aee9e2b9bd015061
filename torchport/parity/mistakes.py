"""Mistakes that people make on results; to add one, add a row.

A Mistake has a sentence and what the port would have computed with it: another layer, input or upstream gradient, or a
step after the layer, which is undone before the port's value is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from numpy_ref.checks import Array
from torchport.layers.arithmetic import rounded

# Undoes a mistaken step: (the port's value, the value expected before the step) -> the value that the step was given,
# the nearest to expected of those possible, or NaN.
Step = Callable[[Array, Array], Array]
Steps = Iterator[tuple[str, Step]]

UNDERFLOW = 1e-30  # u times it exceeds what float32 loses by underflow
ENOUGH = 4  # entries needed to fit a number to them
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}  # narrowest first


class Function(NamedTuple):
    """A function put after a layer or in its place; its error is roundings times u of its result, and u of size."""

    call: Callable[[Any], Any]
    roundings: float = 8
    size: Callable[[Array, Array], Any] = lambda value, expected: 0.0  # of parts that cancel, or of an exponent


def _argument(_: Array, expected: Array) -> Any:
    return np.abs(expected)


def _largest(_: Array, expected: Array) -> Any:
    return 2 * np.abs(expected).max(axis=1, keepdims=True)


FUNCTIONS = {
    "relu": Function(torch.relu, 0),
    "sigmoid": Function(torch.sigmoid),
    "tanh": Function(torch.tanh),
    "log_softmax": Function(partial(F.log_softmax, dim=1), size=_largest),
    "softmax": Function(partial(F.softmax, dim=1), size=lambda y, expected: np.abs(y) * _largest(y, expected)),
    "elu": Function(F.elu),
    "silu": Function(F.silu),
    "gelu": Function(F.gelu, size=_argument),
    "gelu by tanh": Function(partial(F.gelu, approximate="tanh"), size=_argument),
    "softplus": Function(F.softplus, size=_argument),
}


def no_step(value: Array, _: Array) -> Array:
    """The step for a mistake without one."""
    return value


class Mistake(NamedTuple):
    """A sentence naming the mistake, and what the port computes with it."""

    sentence: str
    layer: Any
    x: Array
    dout: Array | None = None
    step: Step = no_step


def undo(function: Callable[[Array], Array], u: float, size: Any = lambda value, expected: 0.0) -> Step:
    """The step that undoes function, whose error may be u (|value| + |slope expected| + size(value, expected))."""

    def step(value: Array, expected: Array) -> Array:
        argument, h = np.full_like(expected, np.nan), 1e-6 * (1 + np.abs(expected))
        error, slope = value - function(expected), (function(expected + h) - function(expected - h)) / (2 * h)
        allowed = u * (np.abs(value) + np.abs(slope * expected) + size(value, expected) + UNDERFLOW)
        # Newton's steps for elementwise functions, for log_softmax and for softmax.
        newton = expected + error / slope, expected + error, expected + error / function(expected)
        for guess in (expected, value, *newton):
            argument = np.where(np.isnan(argument) & (np.abs(function(guess) - value) <= allowed), guess, argument)
        return argument

    return step


def unrounded(dtype: torch.dtype, share: float = 1) -> Step:
    """The step that undoes a rounding to dtype; of the error beyond half a unit only share is judged."""

    def step(value: Array, expected: Array) -> Array:
        # Half the distance to the next number of the dtype.
        half = np.ldexp(torch.finfo(dtype).eps / 2, np.frexp(value)[1] - 1) * (value != 0)
        excess = np.clip(expected, value - half, value + half) - expected
        return np.where(rounded(value, dtype) == value, expected + share * excess, np.nan)

    return step


def instead(step: Step, x: Array) -> Step:
    """The step that undoes a function of x in place of the layer, given the step that undoes that function."""
    return lambda value, expected: np.where(step(value, x[: len(value)]) == x[: len(value)], expected, np.nan)


def in_place_of(array: Array, allowed: float = 0) -> Step:
    """The step that undoes array in place of the expected value, within a relative error of allowed."""

    def step(value: Array, expected: Array) -> Array:
        wrong = array[: len(value)]
        return np.where(np.abs(value - wrong) <= allowed * np.abs(wrong), expected, value - wrong + expected)

    return step


def on_arrays(function: Callable[[Any], Any]) -> Callable[[Array], Array]:
    """A function of tensors as a function of arrays."""
    return lambda x: np.asarray(function(torch.from_numpy(np.array(x))))


def functions(value: Array, x: Array, u: float) -> Steps:
    """Yield the functions that may have made value of x, with the steps that undo them."""
    for name, function in FUNCTIONS.items():
        yield name, undo(on_arrays(function.call), function.roundings * u, function.size)
    yield from piecewise_functions(value, x, u)


def piecewise_functions(value: Array, x: Array, u: float) -> Steps:
    """Yield a leaky relu and a clamp, with the slope and bounds fitted to value."""
    if np.sum(below := x < 0) >= ENOUGH:
        slope = np.vdot(x[below], value[below]) / np.vdot(x[below], x[below])
        yield f"leaky relu of slope {slope:.4g}", undo(lambda x: np.where(x < 0, slope * x, x), 2 * u)
    cut_below, cut_above = ((value == value.min()) & (x < value.min()), (value == value.max()) & (x > value.max()))
    low = value.min() if np.sum(cut_below) >= ENOUGH else -np.inf
    high = value.max() if np.sum(cut_above) >= ENOUGH else np.inf
    if low < high:
        yield f"a clamp to {low:.4g} … {high:.4g}", undo(lambda x: np.clip(x, low, high), 0)


def uniform_changes(value: Array, expected: Array, factors: Mapping[str, float], u: float) -> Steps:
    """Yield changes that act on all entries alike: a factor, an offset, a rounding."""
    if not value.any():
        yield "is 0 everywhere", lambda _, expected: expected
    for name, c in _fitted(value, expected, factors):
        yield f"is {name} times the reference's", undo(partial(np.multiply, c), 2 * u)
    if value.size >= ENOUGH:
        offset = np.mean(value - expected)
        yield f"has {offset:.6g} added to every entry", undo(partial(np.add, offset), 2 * u)
    yield from ((f"is rounded to {name}", unrounded(dtype)) for name, dtype in DTYPES.items())


def dropped(value: Array, expected: Array, factors: Mapping[str, float], u: float) -> Steps:
    """Yield factors with some entries set to 0; to be tried last, as this step explains the most."""

    def step(c: float) -> Step:
        times = undo(partial(np.multiply, c), 2 * u)
        return lambda value, expected: np.where(value == 0, expected, times(value, expected))

    lost = np.sum((value == 0) & (expected != 0))
    for name, c in _fitted(value, expected, {**factors, "1": 1}) if lost >= ENOUGH else ():
        rest = "" if c == 1 else f"{name} times "
        share = f"{lost / expected.size:.0%}"
        yield f"is 0 in {share} of its entries and {rest}the reference's in the others: dropout or a mask", step(c)


def _fitted(value: Array, expected: Array, factors: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield factors of value relative to expected: named ones close to the best fit, then that fit itself."""
    nonzero = (value != 0) & (expected != 0)
    y, x = value[nonzero], expected[nonzero]
    best = [np.vdot(x, y) / np.vdot(x, x)] if len(x) >= ENOUGH else []
    for c in dict.fromkeys(factors.values()):
        if np.isclose(c, best, 1e-3).any():
            yield " = ".join(name for name, factor in factors.items() if factor == c), c
    yield from ((number(c), c) for c in best)


def number(c: float) -> str:
    """c with six digits, or as many as distinguish it from 1 and -1."""
    texts = [f"{c:.{digits}g}" for digits in range(6, 18)]
    return next((text for text in texts if text not in ("1", "-1")), texts[0])
