"""Finds the network of the book whose parameters come nearest to a given set, and lists the differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from numpy_ref.checks import Array

DENSE, AVERAGE = "MultiLayerNet", "LeNet5 with average subsampling"

# Number of axes of each weight, in order: 4 for a convolution, 1 for a trained subsampling, 2 for Affine.
CONVOLUTIONAL = {
    "SimpleConvNet": (4, 2, 2),
    "DeepConvNet": (4, 4, 4, 4, 4, 4, 2, 2),
    "LeNet5": (4, 1, 4, 1, 2, 2, 2),
    AVERAGE: (4, 4, 2, 2, 2),
    "AlexNet": (4, 4, 4, 4, 4, 2, 2, 2),
}

# Image side in pixels by number of channels (MNIST, CIFAR-10): the size assumed for a network the book doesn't have.
USUAL_SIDES = {1: 28, 3: 32}

MAX_ARRAYS, MAX_LISTED = 24, 6  # arrays, and other items, in one message


class NoNetworkError(ValueError):
    """Raised for arrays that belong to no known network, whatever hints are given."""


def nearest_network(params: Mapping[str, Array]) -> str:
    """Return the name of the network that params belong to. ValueError says how they differ from the nearest one."""
    weights = [value for name, value in params.items() if str(name).startswith("W")]
    if not weights:
        raise NoNetworkError(f"the book's networks have parameters W1, b1, W2, b2 and so on, got {list_shapes(params)}")
    convs = sum(value.ndim == 4 for value in weights)
    conv_net_axes = (4,) * convs + (2,) * max(len(weights) - convs, 1)
    candidates = {**CONVOLUTIONAL} if convs else {DENSE: (2,) * len(weights), **CONVOLUTIONAL}
    if convs and conv_net_axes not in candidates.values():
        candidates[f"ConvNet with {convs} convolution{'s' * (convs > 1)}"] = conv_net_axes
    differences = {name: _differences(params, axes) for name, axes in candidates.items()}
    nearest = min(candidates, key=lambda name: (len(differences[name]), _axis_mismatches(params, candidates[name])))
    if differences[nearest]:
        raise NoNetworkError(
            f"no network that is known here has {list_shapes(params)}; the nearest is "
            f"{'TwoLayerNet' if nearest == DENSE and len(weights) == 2 else nearest}, but "
            f"{'; '.join(truncate(differences[nearest]))}"
        )
    return nearest


def _differences(params: Mapping[str, Array], axes: Sequence[int]) -> list[str]:
    """List how params differ from those of a network whose k-th weight has axes[k - 1] axes."""
    expected = [f"{kind}{number}" for number in range(1, len(axes) + 1) for kind in "Wb"]
    if "gamma1" in params and 4 not in axes:
        expected += [f"{kind}{number}" for number in range(1, len(axes)) for kind in ("gamma", "beta")]
    differences = [f"{name} is missing" for name in expected if name not in params]
    differences += [f"{printable(name)} is unexpected" for name in params if name not in expected]
    previous: tuple[int, int] | None = None  # axes and outputs of the previous layer, if known
    for number, ndim in enumerate(axes, 1):
        weight, bias = params.get(f"W{number}"), params.get(f"b{number}")
        if weight is None or weight.ndim != ndim or weight.size == 0:
            if weight is not None:
                differences.append(f"W{number} {weight.shape} should have {ndim} axes, none of them empty")
            previous = None
            continue
        outputs, inputs = weight.shape[:2] if ndim == 4 else weight.shape[::-1] if ndim == 2 else 2 * weight.shape
        if ndim == 2 and bias is not None and bias.shape == (inputs,) != (outputs,):
            differences.append(f"W{number} {weight.shape} is transposed: Affine's are (inputs, outputs)")
            outputs, inputs = inputs, outputs
        elif bias is not None and bias.shape != (outputs,):
            differences.append(f"b{number} {bias.shape} should be {(outputs,)}")
        if ndim == 4 and weight.shape[2] != weight.shape[3]:
            differences.append(f"W{number} {weight.shape} should have square filters")
        if previous is not None and not can_follow(inputs, ndim, *previous):
            square = " times a square number" if previous[0] > ndim else ""
            differences.append(f"W{number} {weight.shape} should take {previous[1]}{square} inputs")
        previous = ndim, outputs
    return differences


def _axis_mismatches(params: Mapping[str, Array], axes: Sequence[int]) -> int:
    """Count the weights with another number of axes, which breaks ties between equally many differences."""
    return sum(f"W{k}" in params and params[f"W{k}"].ndim != ndim for k, ndim in enumerate(axes, 1))


def can_follow(inputs: int, ndim: int, previous_ndim: int, outputs: int) -> bool:
    """Return whether a layer with these inputs fits after one with these outputs; Affine may flatten square images."""
    if previous_ndim == ndim or ndim != 2:
        return inputs == outputs
    return inputs >= outputs and outputs * math.isqrt(inputs // outputs) ** 2 == inputs


def list_shapes(params: Mapping[str, Array]) -> str:
    """List names and shapes for a message: W1 (30, 1, 5, 5), b1 (30,)."""
    shapes = [f"{printable(name)} {value.shape}" for name, value in params.items()]
    return ", ".join(truncate(shapes, MAX_ARRAYS)) or "no arrays"


def truncate(texts: Sequence[str], count: int = MAX_LISTED) -> list[str]:
    """Return the first count texts, followed by "and N more" if there are more."""
    return list(texts) if len(texts) <= count else [*texts[:count], f"and {len(texts) - count} more"]


def printable(name: object) -> str:
    """Return a name from an untrusted file in printable characters, about 40 at most."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 40 else ascii(text)[:40] + "..."
