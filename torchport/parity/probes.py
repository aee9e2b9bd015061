"""Limits for several layers seen in one piece, estimated by running the reference with perturbed values.

Let the rounding errors e of single operations be independent, of mean 0 and within their layer's local limits l. To
first order an output is off by the sum of its derivatives d times e, which by Hoeffding's inequality exceeds
LAMBDA sqrt(sum of (d l)^2) with a probability of at most 2 exp(-LAMBDA^2 / 2) = 3e-14. That root is the root mean
square of the change that random signs times l make in the output, so a few runs of the float64 reference estimate it
without knowing the derivatives. The last layer adds its own local limit.

A relu or a maximum that may take another branch takes it in some of the runs. A branch taken in one run of LAMBDA^2
adds an eighth of its change to the root mean square, and LAMBDA times that is the whole change.
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

Key = tuple[int, str]  # (the layer's number, "output" or "grad_input" or the reference's attribute)
Values = dict[Key, Array]
Perturb = Callable[[Key, Array], Array]  # a value -> what the next layer is given in its place
Run = Callable[[Perturb], Values]


class Probed(NamedTuple):
    """The reference's values for x and dout, in its layout, and the limits of how far a port may be off, by Key.

    In order: the last layer's output, the gradient of the first layer's input, and the parameters' layer by layer.
    """

    values: Values
    limits: Values

    @property
    def output(self) -> tuple[Array, Array]:
        """The last layer's output, and its limit."""
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
    """Run the layers in turn on x (N, ...), in training or prediction, and back from dout, if given; estimate limits.

    A random layer must draw the same in every run (LayerKind.repeat). count, the number of runs, is at most LAMBDA^2.
    """
    run, last = partial(_run, layers, x, dout, prediction), (len(layers) - 1, "output")
    values = run(lambda _, value: value)
    limits = _local_limits(layers, x, dout, prediction, values, a)
    keys = [last, (0, "grad_input"), *((k, name) for k in range(len(layers)) for name in NAMES)]
    reported = {key: values[key] for key in keys if key in values}
    spread = _spread(run, reported, limits, np.random.default_rng(seed), count)
    return Probed(reported, {key: limits[key] + LAMBDA * spread[key] for key in reported})


def _spread(run: Run, values: Values, limits: Values, rng: np.random.Generator, count: int) -> Values:
    """The root mean square over count runs of the changes that random signs times limits make."""

    def shake(key: Key, value: Array) -> Array:
        return value + limits[key] * rng.choice(SIGNS, value.shape) if np.any(limits[key]) else value

    spread = {key: np.zeros(value.shape) for key, value in values.items()}
    for _ in range(count):
        perturbed = run(shake)
        # By hypot, as sums of squares would underflow.
        spread = {key: np.hypot(spread[key], perturbed[key] - values[key]) for key in values}
    return {key: value / np.sqrt(count) for key, value in spread.items()}


def _run(layers: Sequence[Layer], x: Array, dout: Array | None, prediction: bool, perturb: Perturb) -> Values:
    """The values of one run, in which every layer is given what perturb makes of the value before."""
    values, copies = Values(), [other(layer) for layer in layers]
    for k, layer in enumerate(copies):
        values[k, "output"] = predicted(layer, x) if prediction else layer.forward(x)
        x = perturb((k, "output"), values[k, "output"])
    if dout is not None:
        for k, layer in reversed(list(enumerate(copies))):
            values |= {(k, name): value for name, value in gradients_of(layer, dout).items()}
            dout = perturb((k, "grad_input"), values[k, "grad_input"])
    return values


def _local_limits(
    layers: Sequence[Layer], x: Array, dout: Array | None, prediction: bool, values: Values, a: Arithmetic
) -> Values:
    """The local limits of all values, each layer by itself."""
    limits = Values()
    for k, layer in enumerate(layers):
        kind = kind_of(layer)
        limits[k, "output"] = ((prediction and kind.prediction) or kind.rule.forward)(layer, x, a)
        if dout is not None:
            layer_limits = kind.rule.backward(layer, x, values.get((k + 1, "grad_input"), dout), a).by_name
            limits |= {(k, name): limit for name, limit in layer_limits.items()}
        x = values[k, "output"]
    return limits


def check_predictions(reference: Network, x: Array, predictions: Array, dtype: torch.dtype) -> Difference:
    """Compare predictions (N, C) that any program made of x (N, ...) in dtype with those of reference.

    reference holds the same weights in float64. Raises ValueError and TypeError as reference does.
    """
    layers, arithmetic = list(reference.layers.values()), arithmetic_of(dtype)
    probed = probe(layers, rounded(x, dtype), None, arithmetic, prediction=True)
    return compare(predictions.astype(np.float64), *probed.output)
