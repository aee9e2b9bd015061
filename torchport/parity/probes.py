"""How far a stretch of several layers may be off that is seen in one piece, by running it with errors put in.

Rounding errors e of single operations are independent, of mean 0, and within their layer's local limits l. To first
order an output is off by the sum of its derivatives d times e, which by Hoeffding's inequality is beyond
LAMBDA sqrt(sum of (d l)^2) with a probability of 2 exp(-LAMBDA^2 / 2) = 3e-14. That root is what random signs times l
move the output by, in the root mean square; so some runs of the float64 reference estimate it, whatever the derivatives
are. What the last layer adds is its own limit, as it is.

Behind a relu or a maximum that may take another branch, the runs take it by themselves. A branch that one run in
LAMBDA^2 takes moves the root mean square by an eighth of what it changes: LAMBDA times that is all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from numpy_ref.network import Network
from torchport.layers.arithmetic import Arithmetic, arithmetic_of, rounded
from torchport.layers.kinds import gradients_of, kind_of, other, predicted
from torchport.layers.terms import MODULE_ATTRIBUTES as NAMES
from torchport.parity.compare import Difference, compare

LAMBDA = 8
SIGNS = np.array([-1, 1], np.int8)

Key = tuple[int, str]  # a layer's number, and output, grad_input or the reference's attribute
Found = dict[Key, Array]
Moved = Callable[[Key, Array], Array]  # what the next layer is given of a value
Run = Callable[[Moved], Found]


class Probed(NamedTuple):
    """What the reference makes of x and dout, in its layout, and how far a port may be off: by Key.

    The output of the last layer and the gradient of the first one's input, then the parameters', layer by layer.
    """

    values: Found
    limits: Found

    @property
    def output(self) -> tuple[Array, Array]:
        """Of the last layer, and its limit."""
        key = next(iter(self.values))
        return self.values[key], self.limits[key]


def probe(
    layers: Sequence[Layer],
    x: Array,
    dout: Array | None,
    a: Arithmetic,
    *,
    seed: int = 0,
    count: int = 32,
    prediction: bool = False,
) -> Probed:
    """The layers one after the other on x (N, ...), and backward on dout, if given; or what they predict.

    A layer that draws must draw the same in every run (LayerKind.repeat). count is at most LAMBDA^2.
    """
    run, last = partial(_run, layers, x, dout, prediction), (len(layers) - 1, "output")
    found = run(lambda _, value: value)
    limits = _local_limits(layers, x, dout, prediction, found, a)
    keys = [last, (0, "grad_input"), *((k, name) for k in range(len(layers)) for name in NAMES)]
    seen = {key: found[key] for key in keys if key in found}
    spread = _spread(run, seen, limits, np.random.default_rng(seed), count)
    return Probed(seen, {key: limits[key] + LAMBDA * spread[key] for key in seen})


def _spread(run: Run, seen: Found, limits: Found, rng: np.random.Generator, count: int) -> Found:
    """The root mean square of what random signs of the limits change."""

    def shaken(key: Key, value: Array) -> Array:
        return value + limits[key] * rng.choice(SIGNS, value.shape) if np.any(limits[key]) else value

    spread = {key: np.zeros(value.shape) for key, value in seen.items()}
    for _ in range(count):
        moved = run(shaken)
        spread = {key: np.hypot(spread[key], moved[key] - seen[key]) for key in seen}  # squares would underflow
    return {key: value / np.sqrt(count) for key, value in spread.items()}


def _run(layers: Sequence[Layer], x: Array, dout: Array | None, prediction: bool, moved: Moved) -> Found:
    """What every layer makes of what moved leaves of the layer's before."""
    found, ran = Found(), [other(layer) for layer in layers]
    for k, layer in enumerate(ran):
        found[k, "output"] = predicted(layer, x) if prediction else layer.forward(x)
        x = moved((k, "output"), found[k, "output"])
    if dout is not None:
        for k, layer in reversed(list(enumerate(ran))):
            found |= {(k, name): value for name, value in gradients_of(layer, dout).items()}
            dout = moved((k, "grad_input"), found[k, "grad_input"])
    return found


def _local_limits(
    layers: Sequence[Layer], x: Array, dout: Array | None, prediction: bool, found: Found, a: Arithmetic
) -> Found:
    """Of everything that is found, each layer by itself."""
    limits = Found()
    for k, layer in enumerate(layers):
        kind = kind_of(layer)
        limits[k, "output"] = ((prediction and kind.prediction) or kind.rule.forward)(layer, x, a)
        if dout is not None:
            own = kind.rule.backward(layer, x, found.get((k + 1, "grad_input"), dout), a).each
            limits |= {(k, name): each for name, each in own.items()}
        x = found[k, "output"]
    return limits


def check_predictions(reference: Network, x: Array, found: Array, dtype: torch.dtype) -> Difference:
    """How found (N, C), predicted in dtype for x (N, ...) by whatever program, differs from what reference predicts.

    reference holds the same weights in float64. ValueError, TypeError.
    """
    layers, arithmetic = list(reference.layers.values()), arithmetic_of(dtype)
    probed = probe(layers, rounded(x, dtype), None, arithmetic, prediction=True)
    return compare(found.astype(np.float64), *probed.output)
