"""Central differences of a reference network's loss, and how far each may be from the derivative.

The book prints the mean of |difference - gradient|, which misleads: the loss has 1e-7 inside its log where the gradient
has not, which moves the last bias by 2e-7; a relu or a pooling window that changes sides within the step makes a
difference of the gradient's own order; and every entry has a truncation and a rounding error of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numpy_ref.checks import Array, recorded
from numpy_ref.functions import LOG_OFFSET, class_labels, softmax
from numpy_ref.gradient import STEP
from numpy_ref.layers import BatchNormalization, Dropout, Pooling, Relu
from numpy_ref.network import Network
from torchport.layers import kind_of
from torchport.layers.arithmetic import Setting
from torchport.layers.loss import loss_limits
from torchport.layers.smooth import EXP_ULPS
from torchport.parity.probes import probe

# The book's step, and the smaller ones for an entry that has a kink within it.
STEPS = (STEP, STEP / 10, STEP / 100)

# Of a label, so that nothing underflows.
LEAST_CHANCE = float(np.sqrt(np.finfo(np.float64).tiny))

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2


@dataclass(frozen=True)
class CentralDifferences:
    """Central differences in every entry of one parameter, in arrays of its shape.

    book is of the book's loss, with the book's step. value is of the loss whose gradient the book computes, without
    the 1e-7, with the first of STEPS that crosses no kink, NaN where all do; limit is how far it may be from the
    derivative. kinks counts the entries where the book's step crosses one, or twice that step.
    """

    book: Array
    value: Array
    limit: Array
    kinks: int


def central_differences(reference: Network, x: Array, t: Array) -> dict[str, CentralDifferences]:
    """Those of the loss of x (N, ...) against t in every entry of every parameter, in float64; changes no argument.

    ValueError for an unfit x or t and for a label of probability 0 or NaN, where the loss has no gradient; TypeError
    for layers that are not registered, and those that draw random numbers or keep statistics.
    """
    for name, layer in reference.layers.items():
        kind_of(layer)
        if isinstance(layer, Dropout | BatchNormalization):
            raise TypeError(f"{name}: a loss with {type(layer).__name__} is another at every call")
    network = copy.deepcopy(reference)
    network.set_params({name: value.astype(np.float64) for name, value in reference.params.items()})
    x = x.astype(np.float64)
    logits = network.predict(x)
    labels = class_labels(t, (len(logits), logits.shape[1]))
    chances = softmax(logits)[np.arange(len(labels)), labels]
    if not (chances > LEAST_CHANCE).all():
        raise ValueError(f"a label's probability must be above {LEAST_CHANCE:.0e} for a gradient, got {chances.min()}")
    rounding = _loss_rounding(network, x, labels)
    return {
        name: _differences(lambda: _evaluate(network, x, labels), param, rounding)
        for name, param in network.params.items()
    }


class _Point(NamedTuple):
    """The loss at one place, or its central difference about it."""

    book: float
    value: float  # without the 1e-7
    sides: frozenset[bytes]  # of the kinks; more than one where one was crossed


def _evaluate(network: Network, x: Array, labels: Array) -> _Point:
    """The loss as the book has it, and as its gradient has it: -log(p + e) + log(1 + e / p) = -log(p)."""
    for layer in network.layers.values():
        x = layer.forward(x)
    loss = float(network.last_layer.forward(x, labels))
    chances = recorded(network.last_layer.y, network)[np.arange(len(labels)), labels]
    sides = [
        np.asarray(layer.mask if isinstance(layer, Relu) else layer.arg_max).tobytes()
        for layer in network.layers.values()
        if isinstance(layer, Relu | Pooling)
    ]
    return _Point(loss, loss + float(np.log1p(LOG_OFFSET / chances).mean()), frozenset([b"".join(sides)]))


def _differences(evaluate: Callable[[], _Point], param: Array, rounding: float) -> CentralDifferences:
    book, value, limit = (np.full(param.shape, np.nan) for _ in range(3))
    here, kinks = evaluate().sides, 0
    for index in np.ndindex(param.shape):
        for step in STEPS:
            near, far = (_difference(evaluate, param, index, h) for h in (step, 2 * step))
            if step == STEP:
                book[index] = near.book
            # Where no layer before crossed a kink, a layer's input is linear in a single weight (but for Sigmoid's
            # bend): on one side at both ends, it is there in between.
            if len(here | near.sides | far.sides) == 1:
                value[index] = near.value
                limit[index] = _difference_limit(near.value, far.value, float(abs(param[index])), step, rounding)
                break
            kinks += step == STEP
    return CentralDifferences(book, value, limit, kinks)


def _difference(evaluate: Callable[[], _Point], param: Array, index: tuple[int, ...], h: float) -> _Point:
    kept = param[index]
    param[index] = kept + h
    above = evaluate()
    param[index] = kept - h
    below = evaluate()
    param[index] = kept
    book, value = above.book - below.book, above.value - below.value
    return _Point(book / (2 * h), value / (2 * h), above.sides | below.sides)


def _difference_limit(near: float, far: float, size: float, h: float, rounding: float) -> float:
    """Distance of D(h) = near from the derivative, by D(2h) = far, in an entry of this size.

    D(h) = f' + h^2 f'''/6 + O(h^4), so D(2h) - D(h) is three times the truncation of D(h); what is left, of order
    h^4, drowns in the rounding. That is r: of the two losses over 2h, of the two places theta + h and theta - h. In
    D(2h) it is at most r / 2, so a truncation T shows as at least 3 T - 1.5 r, and T + r <= |D(2h) - D(h)| + 1.5 r.
    """
    r = rounding / (2 * h) + UNIT_ROUNDOFF * (size + 2 * h) / h * abs(near)
    return abs(far - near) + 1.5 * r


def _loss_rounding(network: Network, x: Array, labels: Array) -> float:
    """How far rounding moves the difference of two losses without the 1e-7.

    Either loss: by the layers, which probes put into the logits, and the softmax's gradient passes on; by the book's
    loss of given logits; and by log(1 + e / p), which passes on the relative error of p times e / (p + e), and adds
    that of its logarithm, of a mean and of the last sum. A rounding is counted twice, once for each of the two.
    """
    arithmetic, (rows, n) = Setting().arithmetic, (np.arange(len(x)), len(x))
    logits = probe(list(network.layers.values()), x, None, arithmetic)
    chances = softmax(logits.output)
    slope = np.abs(chances - np.eye(chances.shape[1])[labels]) / n
    loss_limit, grad_limit = loss_limits(logits.output, labels, arithmetic)
    of_label = chances[rows, labels]
    correction = np.log1p(LOG_OFFSET / of_label)
    passed = n * grad_limit[rows, labels] / of_label * LOG_OFFSET / (of_label + LOG_OFFSET)
    size = correction.mean() + np.abs(np.log(of_label)).mean()
    return float(np.sum(slope * logits.limit) + loss_limit + passed.mean() + arithmetic.of_sum(n + EXP_ULPS, size))
