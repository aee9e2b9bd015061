"""What people do by mistake to results and to arrays. Another mistake is another row.

A mistake says it in words, with what the port would then have computed: another layer's, of another input or upstream
gradient, and with a step behind it, which is taken back before the port's value is judged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from numpy_ref.checks import Array
from torchport.layers.arithmetic import rounded

# (the port's value, what is made before the step) -> what the step was given, as near to what is made as may be, or NaN
Step = Callable[[Array, Array], Array]
Steps = Iterator[tuple[str, Step]]
Arrays = Iterator[tuple[str, Array]]

UNDERFLOW = 1e-30  # u of it is more than what float32 loses there
ENOUGH = 4  # entries that show a number which is fitted to them
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}  # narrowest first


class Function(NamedTuple):
    """What people put behind a layer or in its place, and what it may be off by: in u of its result, and of size."""

    call: Callable[[Any], Any]
    roundings: float = 8
    size: Callable[[Array, Array], Any] = lambda value, made: 0.0  # parts that cancel, an exponent


def _argument(_: Array, made: Array) -> Any:
    return np.abs(made)


def _largest(_: Array, made: Array) -> Any:
    return 2 * np.abs(made).max(axis=1, keepdims=True)


FUNCTIONS = {
    "relu": Function(torch.relu, 0),
    "sigmoid": Function(torch.sigmoid),
    "tanh": Function(torch.tanh),
    "log_softmax": Function(partial(F.log_softmax, dim=1), size=_largest),
    "softmax": Function(partial(F.softmax, dim=1), size=lambda value, made: np.abs(value) * _largest(value, made)),
    "elu": Function(F.elu),
    "silu": Function(F.silu),
    "gelu": Function(F.gelu, size=_argument),
    "gelu by tanh": Function(partial(F.gelu, approximate="tanh"), size=_argument),
    "softplus": Function(F.softplus, size=_argument),
}


def no_step(value: Array, _: Array) -> Array:
    """No step."""
    return value


class Mistake(NamedTuple):
    """A sentence, and what is computed with the mistake."""

    sentence: str
    layer: Any
    x: Array
    dout: Array | None = None
    step: Step = no_step


# --- Steps behind a layer


def undo(function: Callable[[Array], Array], u: float, size: Any = lambda value, made: 0.0) -> Step:
    """The step back from what function made, but for roundings u of its value and of size(value, made)."""

    def step(value: Array, made: Array) -> Array:
        found, h = np.full_like(made, np.nan), 1e-6 * (1 + np.abs(made))
        error, slope = value - function(made), (function(made + h) - function(made - h)) / (2 * h)
        allowed = u * (np.abs(value) + np.abs(slope * made) + size(value, made) + UNDERFLOW)
        # Newton's steps for functions of an entry, for log_softmax and for softmax.
        for guess in (made, value, made + error / slope, made + error, made + error / function(made)):
            found = np.where(np.isnan(found) & (np.abs(function(guess) - value) <= allowed), guess, found)
        return found

    return step


def unrounded(dtype: torch.dtype, share: float = 1) -> Step:
    """The step back from a rounding to dtype; share is how much of the error beyond that is judged."""

    def step(value: Array, made: Array) -> Array:
        half = np.ldexp(torch.finfo(dtype).eps / 2, np.frexp(value)[1] - 1) * (value != 0)  # of the way to the next
        beyond = np.clip(made, value - half, value + half) - made
        return np.where(rounded(value, dtype) == value, made + share * beyond, np.nan)

    return step


def instead(step: Step, x: Array) -> Step:
    """The step back from a function of x in the place of the layer; of behind that function, the step is given."""
    return lambda value, made: np.where(step(value, x[: len(value)]) == x[: len(value)], made, np.nan)


def in_place_of(array: Array, allowed: float = 0) -> Step:
    """The step back from array in the place of what is made, but for an error allowed relative to it."""

    def step(value: Array, made: Array) -> Array:
        wrong = array[: len(value)]
        return np.where(np.abs(value - wrong) <= allowed * np.abs(wrong), made, value - wrong + made)

    return step


def on_arrays(function: Callable[[Any], Any]) -> Callable[[Array], Array]:
    """torch's function, of an array."""
    return lambda x: np.asarray(function(torch.from_numpy(np.array(x))))


def functions(value: Array, x: Array, u: float) -> Steps:
    """Functions that may have made value of x."""
    for name, each in FUNCTIONS.items():
        yield name, undo(on_arrays(each.call), each.roundings * u, each.size)
    yield from piecewise_functions(value, x, u)


def piecewise_functions(value: Array, x: Array, u: float) -> Steps:
    """A leaky relu and a clamp, with the numbers that value shows."""
    if np.sum(below := x < 0) >= ENOUGH:
        slope = np.vdot(x[below], value[below]) / np.vdot(x[below], x[below])
        yield f"leaky relu of slope {slope:.4g}", undo(lambda x: np.where(x < 0, slope * x, x), 2 * u)
    cut_below, cut_above = ((value == value.min()) & (x < value.min()), (value == value.max()) & (x > value.max()))
    low = value.min() if np.sum(cut_below) >= ENOUGH else -np.inf
    high = value.max() if np.sum(cut_above) >= ENOUGH else np.inf
    if low < high:
        yield f"a clamp to {low:.4g} … {high:.4g}", undo(lambda x: np.clip(x, low, high), 0)


def uniform_changes(value: Array, made: Array, factors: Mapping[str, float], u: float) -> Steps:
    """What may have become of all entries alike: a factor, an offset, rounding."""
    if not value.any():
        yield "is 0 everywhere", lambda _, made: made
    for name, c in _fitted(value, made, factors):
        yield f"is {name} times the reference's", undo(partial(np.multiply, c), 2 * u)
    if value.size >= ENOUGH:
        offset = np.mean(value - made)
        yield f"has {offset:.6g} added to every entry", undo(partial(np.add, offset), 2 * u)
    yield from ((f"is rounded to {name}", unrounded(dtype)) for name, dtype in DTYPES.items())


def dropped(value: Array, made: Array, factors: Mapping[str, float], u: float) -> Steps:
    """Entries that are 0 where they should not be, the others with a factor: of all steps this one explains most."""

    def step(c: float) -> Step:
        times = undo(partial(np.multiply, c), 2 * u)
        return lambda value, made: np.where(value == 0, made, times(value, made))

    lost = np.sum((value == 0) & (made != 0))
    for name, c in _fitted(value, made, {**factors, "1": 1}) if lost >= ENOUGH else ():
        rest = "" if c == 1 else f"{name} times "
        share = f"{lost / made.size:.0%}"
        yield f"is 0 in {share} of its entries and {rest}the reference's in the others: dropout or a mask", step(c)


def _fitted(value: Array, made: Array, factors: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """What value may be relative to made: the named factors that come near, and what comes nearest."""
    kept = (value != 0) & (made != 0)
    fitted = [np.vdot(made[kept], value[kept]) / np.vdot(made[kept], made[kept])] if np.sum(kept) >= ENOUGH else []
    for c in dict.fromkeys(factors.values()):
        if np.isclose(c, fitted, 1e-3).any():
            yield " = ".join(name for name, factor in factors.items() if factor == c), c
    yield from ((number(c), c) for c in fitted)


def number(c: float) -> str:
    """With six digits, or as many as tell it from 1 and -1."""
    told = [f"{c:.{digits}g}" for digits in range(6, 18)]
    return next((each for each in told if each not in ("1", "-1")), told[0])


# --- Arrays


def rearranged(array: Array, letters: str, fixed: int = 0) -> Arrays:
    """array with its axes in other orders but for the first fixed ones, reversed, or moved on by one."""
    for axes in itertools.islice(itertools.permutations(range(array.ndim)), 1, None):
        if axes[:fixed] == tuple(range(fixed)):
            moved, order = array.transpose(axes), ", ".join(letters[axis] for axis in axes)
            phrase = f"is in the order {order}, not {', '.join(letters)}"
            phrase = "is the reference's, not transposed" if letters == "IO" else phrase
            yield from ((phrase, each) for each in (moved, moved.reshape(array.shape)))
            yield phrase, array.reshape(moved.shape).transpose(np.argsort(axes))
    for axes in itertools.chain(*(itertools.combinations(range(array.ndim), count) for count in (1, 2))):
        yield f"is reversed along {' and '.join(letters[axis] for axis in axes)}", np.flip(array, axes)
    yield from ((f"is moved by one along {letters[0]}", np.roll(array, by, 0)) for by in (1, -1))


def of_batch(x: Array) -> Arrays:
    """x (N, ...) rearranged within each sample."""
    return rearranged(x, "NCHW" if x.ndim == 4 else "NIJKL"[: x.ndim], fixed=1)


def of_parameter(parameter: Array) -> Arrays:
    """A parameter rearranged: outputs, inputs, height, width."""
    return rearranged(parameter, {1: "O", 2: "IO"}.get(parameter.ndim, "OIHWD"[: parameter.ndim]))


def inputs(x: Array) -> Arrays:
    """What may have become of an input."""
    yield from of_batch(x)
    yield "is divided by 255", x / 255
    yield "is multiplied by 255", x * 255
    yield "is inverted, 1 - x", 1 - x
    yield "is scaled, 2 x - 1", 2 * x - 1
    yield "is normalised by MNIST's mean and deviation", (x - 0.1307) / 0.3081
    yield "is normalised by its own mean and deviation", (x - x.mean()) / x.std()
    yield "is its first sample everywhere", np.broadcast_to(x[:1], x.shape)
    yield from ((f"is rounded to {name}", rounded(x, dtype)) for name, dtype in DTYPES.items())
    yield from ((f"goes through {name}", on_arrays(each.call)(x)) for name, each in FUNCTIONS.items())


def changes(parameter: Array, attribute: str, others: Mapping[str, Array], image: tuple[int, ...] = ()) -> Arrays:
    """What may have become of a parameter; a W's inputs are the pixels of an image (C, H, W), where it is given."""
    yield "is missing", np.full_like(parameter, attribute == "gamma")
    yield "is doubled", 2 * parameter
    yield "is negated", -parameter
    yield from ((f"is rounded to {name}", rounded(parameter, dtype)) for name, dtype in DTYPES.items())
    same_size = ((name, each) for name, each in others.items() if each.size == parameter.size)
    yield from ((f"is {name}", each.reshape(parameter.shape)) for name, each in same_size)
    yield from of_parameter(parameter)
    if image and attribute == "W":
        rows = rearranged(parameter.reshape(*image, -1), "CHWO")
        yield from ((phrase, each.reshape(parameter.shape)) for phrase, each in rows)


def described(new: Array, parameter: Array, candidates: Arrays) -> str:
    """How new differs from a parameter: as one of the candidates, or in numbers."""
    for phrase, candidate in candidates:
        if np.array_equal(candidate, new):
            return phrase
    if np.array_equal(np.sort(new, axis=None), np.sort(parameter, axis=None)):
        return "has the reference's numbers in another order"
    factor, differ = np.vdot(parameter, new) / np.vdot(parameter, parameter), np.abs(new - parameter)
    if abs(factor - 1) > 1e-5 and np.allclose(new, factor * parameter, 1e-6, 0):
        return f"is {factor:.6g} times the reference's"
    count = np.count_nonzero(differ)
    return f"is not the reference's: {count} of {new.size} numbers differ, by up to {differ.max():.2g}"
