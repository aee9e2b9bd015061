"""What the network nearest to a set of parameters has otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count, takewhile

from numpy_ref.checks import Array

DENSE, AVERAGE = "MultiLayerNet", "LeNet5 with average subsampling"

# The weights' axes, in order: 4 for a convolution, 1 for a trained subsampling, 2 for Affine.
CONVOLUTIONAL = {
    "SimpleConvNet": (4, 2, 2),
    "DeepConvNet": (4, 4, 4, 4, 4, 4, 2, 2),
    "LeNet5": (4, 1, 4, 1, 2, 2, 2),
    AVERAGE: (4, 4, 2, 2, 2),
    "AlexNet": (4, 4, 4, 4, 4, 2, 2, 2),
}

# Pixels a side of MNIST and of CIFAR-10, by channels: for which images a network of one's own is taken to be.
USUAL = {1: 28, 3: 32}


class NoNetworkError(ValueError):
    """Arrays that are no network's, whatever else is told of them."""


LISTED, NAMED = 24, 6  # arrays and differences in one message, at most


def weights_of(params: Mapping[str, Array]) -> list[Array]:
    """W1, W2 and so on, as far as they go."""
    return [params[f"W{number}"] for number in takewhile(lambda number: f"W{number}" in params, count(1))]


def nearest(params: Mapping[str, Array]) -> str:
    """The network whose parameters these are. ValueError where there is none, which says what the nearest has."""
    held = [value for name, value in params.items() if str(name).startswith("W")]
    if not held:
        raise NoNetworkError(f"the book's networks have parameters W1, b1, W2, b2 and so on, got {listed(params)}")
    convs = sum(value.ndim == 4 for value in held)
    own = (4,) * convs + (2,) * max(len(held) - convs, 1)
    candidates = {**CONVOLUTIONAL} if convs else {DENSE: (2,) * len(held), **CONVOLUTIONAL}
    if convs and own not in candidates.values():
        candidates[f"ConvNet with {convs} convolution{'s' * (convs > 1)}"] = own
    differences = {name: _differences(params, axes) for name, axes in candidates.items()}
    nearest = min(candidates, key=lambda name: (len(differences[name]), _other_kinds(params, candidates[name])))
    if differences[nearest]:
        raise NoNetworkError(
            f"no network that is known here has {listed(params)}; the nearest is "
            f"{'TwoLayerNet' if nearest == DENSE and len(held) == 2 else nearest}, but "
            f"{'; '.join(first(NAMED, differences[nearest]))}"
        )
    return nearest


def _differences(params: Mapping[str, Array], axes: Sequence[int]) -> list[str]:
    """What keeps params from being those of convolutions and Affine layers in this order."""
    expected = [f"{kind}{number}" for number in range(1, len(axes) + 1) for kind in "Wb"]
    if "gamma1" in params and 4 not in axes:
        expected += [f"{kind}{number}" for number in range(1, len(axes)) for kind in ("gamma", "beta")]
    found = [f"{name} is missing" for name in expected if name not in params]
    found += [f"{shown(name)} is unexpected" for name in params if name not in expected]
    before: tuple[int, int] | None = None  # axes and outputs of the layer before, where they are known
    for number, ndim in enumerate(axes, 1):
        weight, bias = params.get(f"W{number}"), params.get(f"b{number}")
        if weight is None or weight.ndim != ndim or weight.size == 0:
            found += [] if weight is None else [f"W{number} {weight.shape} should have {ndim} axes, none of them empty"]
            before = None
            continue
        outputs, inputs = weight.shape[:2] if ndim == 4 else weight.shape[::-1] if ndim == 2 else 2 * weight.shape
        if ndim == 2 and bias is not None and bias.shape == (inputs,) != (outputs,):
            found.append(f"W{number} {weight.shape} is transposed: Affine's are (inputs, outputs)")
            outputs, inputs = inputs, outputs
        elif bias is not None and bias.shape != (outputs,):
            found.append(f"b{number} {bias.shape} should be {(outputs,)}")
        if ndim == 4 and weight.shape[2] != weight.shape[3]:
            found.append(f"W{number} {weight.shape} should have square filters")
        if before is not None and not fits(inputs, ndim, *before):
            square = " times a square number" if before[0] > ndim else ""
            found.append(f"W{number} {weight.shape} should take {before[1]}{square} inputs")
        before = ndim, outputs
    return found


def _other_kinds(params: Mapping[str, Array], axes: Sequence[int]) -> int:
    """How many weights are of another kind of layer: of two networks with as many differences, which is nearer."""
    return sum(f"W{k}" in params and params[f"W{k}"].ndim != ndim for k, ndim in enumerate(axes, 1))


def fits(inputs: int, ndim: int, ndim_before: int, outputs: int) -> bool:
    """Whether a layer takes that many inputs after one with so many outputs: an Affine takes a convolution's pixels."""
    if ndim_before == ndim or ndim != 2:
        return inputs == outputs
    return inputs >= outputs and outputs * math.isqrt(inputs // outputs) ** 2 == inputs


def listed(params: Mapping[str, Array]) -> str:
    """Names and shapes of arrays."""
    return ", ".join(first(LISTED, [f"{shown(name)} {value.shape}" for name, value in params.items()])) or "no arrays"


def first(count: int, texts: Sequence[str]) -> list[str]:
    """So many of texts, and how many more there are."""
    return list(texts) if len(texts) <= count else [*texts[:count], f"and {len(texts) - count} more"]


def shown(name: object) -> str:
    """A name from a stranger's file, short and on one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 40 else ascii(text)[:40] + "..."
