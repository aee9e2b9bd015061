"""The book's gradient check: gradients of any implementation against central differences of the reference's loss.

The book prints the mean of |difference - gradient|, which misleads. The loss has 1e-7 inside its log and the gradient
does not, which changes the last bias's by 2e-7; a relu or a pooling window that changes sides within the step causes an
error of the gradient's own order; and every entry has a truncation and a rounding error of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from numpy_ref.checks import Array, recorded
from numpy_ref.functions import LOG_OFFSET, class_labels, softmax
from numpy_ref.gradient import STEP
from numpy_ref.layers import BatchNormalization, Dropout, Pooling, Relu
from numpy_ref.network import Network, check_same_layout
from torchport.layers import kind_of
from torchport.layers.arithmetic import Setting
from torchport.layers.loss import loss_limits, softmax_with_loss
from torchport.layers.smooth import EXP_ULPS
from torchport.networks import SimpleConvNet, to_params
from torchport.parity.compare import Difference, compare
from torchport.parity.probes import probe
from torchport.parity.rows import table

# The book's step, and smaller ones for entries with a kink within it.
STEPS = (STEP, STEP / 10, STEP / 100)

# The least probability of a label, so that nothing underflows.
LEAST_PROBABILITY = float(np.sqrt(np.finfo(np.float64).tiny))

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2


class CentralDifferences(NamedTuple):
    """Central differences in every entry of one parameter, in arrays of its shape.

    book is that of the book's loss, with the book's step. value is that of the loss without the 1e-7, whose gradient
    the book computes, with the first of STEPS that crosses no kink, or NaN if all do; limit is how far it may be from
    the derivative. kinks counts the entries with a kink within twice the book's step.
    """

    book: Array
    value: Array
    limit: Array
    kinks: int


def central_differences(reference: Network, x: Array, t: Array) -> dict[str, CentralDifferences]:
    """Central differences, in float64, of the loss of x (N, ...) against t in every entry of every parameter.

    Raises ValueError if x or t does not fit or a label has the probability 0 or NaN, where the loss has no gradient;
    TypeError if a layer is not registered, draws random numbers or keeps statistics. Changes no argument.
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
    probabilities = softmax(logits)[np.arange(len(labels)), labels]
    if not (probabilities > LEAST_PROBABILITY).all():
        raise ValueError(
            f"a label's probability must be above {LEAST_PROBABILITY:.0e} for a gradient, got {probabilities.min()}"
        )
    rounding = _loss_rounding(network, x, labels)
    return {
        name: _differences(lambda: _evaluate(network, x, labels), param, rounding)
        for name, param in network.params.items()
    }


class _Point(NamedTuple):
    """The loss at one point, or its central difference there."""

    book: float
    value: float  # without the 1e-7: -log(p + e) + log(1 + e / p) = -log(p)
    sides: frozenset[bytes]  # the sides of all kinks, encoded; more than one element if a kink was crossed


def _evaluate(network: Network, x: Array, labels: Array) -> _Point:
    for layer in network.layers.values():
        x = layer.forward(x)
    loss = float(network.last_layer.forward(x, labels))
    probabilities = recorded(network.last_layer.y, network)[np.arange(len(labels)), labels]
    sides = [
        np.asarray(layer.mask if isinstance(layer, Relu) else layer.arg_max).tobytes()
        for layer in network.layers.values()
        if isinstance(layer, Relu | Pooling)
    ]
    return _Point(loss, loss + float(np.log1p(LOG_OFFSET / probabilities).mean()), frozenset([b"".join(sides)]))


def _differences(evaluate: Callable[[], _Point], param: Array, rounding: float) -> CentralDifferences:
    book, value, limit = (np.full(param.shape, np.nan) for _ in range(3))
    here, kinks = evaluate().sides, 0
    for index in np.ndindex(param.shape):
        for step in STEPS:
            near, far = (_difference(evaluate, param, index, h) for h in (step, 2 * step))
            if step == STEP:
                book[index] = near.book
            # If no layer before crossed a kink, a layer's input is linear in a single weight (but for Sigmoid's
            # curvature): if it is on one side at both ends, it is there in between.
            if len(here | near.sides | far.sides) == 1:
                value[index] = near.value
                limit[index] = _difference_limit(near.value, far.value, float(abs(param[index])), step, rounding)
                break
            kinks += step == STEP
    return CentralDifferences(book, value, limit, kinks)


def _difference(evaluate: Callable[[], _Point], param: Array, index: tuple[int, ...], h: float) -> _Point:
    original, points = param[index], []
    for value in (original + h, original - h):
        param[index] = value
        points.append(evaluate())
    param[index] = original
    above, below = points
    book, value = above.book - below.book, above.value - below.value
    return _Point(book / (2 * h), value / (2 * h), above.sides | below.sides)


def _difference_limit(near: float, far: float, size: float, h: float, rounding: float) -> float:
    """A bound on the distance of D(h) = near from the derivative, by D(2h) = far, in an entry of this size.

    D(h) = f' + h^2 f'''/6 + O(h^4), so D(2h) - D(h) is three times the truncation error of D(h); the rest, of order
    h^4, is far below the rounding error r. r comes from the two losses, over 2h, and from the two points theta + h and
    theta - h. In D(2h) it is at most r / 2, so a truncation error T gives a difference of at least 3 T - 1.5 r, and
    T + r <= |D(2h) - D(h)| + 1.5 r.
    """
    r = rounding / (2 * h) + UNIT_ROUNDOFF * (size + 2 * h) / h * abs(near)
    return abs(far - near) + 1.5 * r


def _loss_rounding(network: Network, x: Array, labels: Array) -> float:
    """How far rounding may move the difference of two losses without the 1e-7.

    Each loss is moved by the layers' errors in the logits (from probes), times the softmax's gradient; by the error of
    the book's loss of given logits; and by the correction log(1 + e / p), which passes on the relative error of p times
    e / (p + e) and adds those of its logarithm, of a mean and of the last sum. arithmetic counts a rounding twice, once
    for each of the two losses.
    """
    arithmetic, (rows, n) = Setting().arithmetic, (np.arange(len(x)), len(x))
    logits, limit = probe(list(network.layers.values()), x, None, arithmetic).output
    probabilities = softmax(logits)
    slope = np.abs(probabilities - np.eye(probabilities.shape[1])[labels]) / n
    loss_limit, grad_limit = loss_limits(logits, labels, arithmetic)
    of_label = probabilities[rows, labels]
    correction = np.log1p(LOG_OFFSET / of_label)
    passed = n * grad_limit[rows, labels] / of_label * LOG_OFFSET / (of_label + LOG_OFFSET)
    size = correction.mean() + np.abs(np.log(of_label)).mean()
    return float(np.sum(slope * limit) + loss_limit + passed.mean() + arithmetic.of_sum(n + EXP_ULPS, size))


@dataclass(frozen=True)
class GradientRow:
    """One parameter's gradient against central differences.

    mean_difference is the number that the book prints. kinks counts the entries where a relu or a pooling window
    changes sides within twice the book's step, which distorts that number; set_aside counts those where one does even
    within twice the smallest step. worst is the entry among all others with the greatest ratio of error to limit.
    """

    parameter: str
    entries: int
    mean_difference: float
    kinks: int
    set_aside: int
    worst: Difference

    @property
    def ok(self) -> bool:
        """Whether any entry was judged, and all that were are within their limits."""
        return self.worst.ratio <= 1


def gradient_check(reference: Network, x: Array, t: Array, gradients: Mapping[str, Array]) -> list[GradientRow]:
    """Judge gradients of any implementation against central_differences; raises as that and judge_gradients do."""
    return judge_gradients(central_differences(reference, x, t), gradients)


def judge_gradients(differences: Mapping[str, CentralDifferences], gradients: Mapping[str, Array]) -> list[GradientRow]:
    """A row for each parameter; gradients are float64, in the reference's names and layouts (see port_gradients).

    The limit has no part for the gradient's own rounding, which is smaller than a difference's by the factor of the
    step, at most 1e-4. Raises ValueError for other names or shapes, TypeError for another dtype than float64.
    """
    check_same_layout(gradients, {name: difference.value.shape for name, difference in differences.items()})
    for name, gradient in gradients.items():
        if gradient.dtype != np.float64:
            raise TypeError(f"central differences judge float64, the gradient of {name} has dtype {gradient.dtype}")
    return [_judge(name, difference, gradients[name]) for name, difference in differences.items()]


def _judge(name: str, differences: CentralDifferences, gradient: Array) -> GradientRow:
    set_aside = np.isnan(differences.value)
    if set_aside.all():
        worst = Difference(note=f"nothing was judged: kinks within {2 * STEPS[-1]:g} of every entry")
    else:
        # An entry without a difference is compared with itself, so that only NaN and infinities fail.
        expected = np.where(set_aside, np.nan_to_num(gradient, posinf=0, neginf=0), differences.value)
        worst = compare(gradient, expected, differences.limit)
    mean = float(np.abs(differences.book - gradient).mean())
    return GradientRow(name, gradient.size, mean, differences.kinks, int(set_aside.sum()), worst)


def port_gradients(port: SimpleConvNet, x: Array, t: Array) -> dict[str, Array]:
    """The port's own gradients of the book's loss, as W1 b1 W2 b2 W3 b3; NaN, which fails, for a missing one."""
    setting = Setting.of(port)
    names, parameters = zip(*port.named_parameters(), strict=True)
    with setting.judging():
        value = softmax_with_loss(port(setting.tensor(x)), torch.tensor(t, device=setting.device))
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
    values = [torch.full_like(p, math.nan) if grad is None else grad for p, grad in zip(parameters, grads, strict=True)]
    return to_params(dict(zip(names, values, strict=True)))


def gradient_table(rows: Sequence[GradientRow]) -> str:
    """The rows as a text table."""
    cells = [("parameter", "entries", "mean difference", "kinks", "set aside", "error/limit", "worst at", "verdict")]
    for row in rows:
        where = ("", row.worst.note) if row.worst.note else (f"{row.worst.ratio:.2g}", str(list(row.worst.index)))
        counts = str(row.entries), f"{row.mean_difference:.2e}", str(row.kinks), str(row.set_aside)
        cells.append((row.parameter, *counts, *where, "ok" if row.ok else "FAIL"))
    return table(cells)


def gradient_verdict(checks: Mapping[str, Sequence[GradientRow]]) -> str:
    """One line for the rows of all implementations: RIGHT with counts, or WRONG with the first that fails."""
    rows = [(name, row) for name, rows in checks.items() for row in rows]
    wrong = [(name, row) for name, row in rows if not row.ok]
    if not wrong:
        judged, entries = (sum(n) for n in zip(*((r.entries - r.set_aside, r.entries) for _, r in rows), strict=True))
        worst = max(row.worst.ratio for _, row in rows)
        return f"RIGHT: {judged} of {entries} entries judged, the largest error {worst:.2g} of its limit"
    name, row = wrong[0]
    return f"WRONG: {len(wrong)} of {len(rows)} gradients fail, first {name} {row.parameter}: {row.worst}"
