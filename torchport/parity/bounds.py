"""How far a correct port may be from the reference, entry by entry: limits that are derived, never chosen.

Every limit has two parts: what a layer adds by rounding, and what it passes on from the limit of its input. With no
limit on the input this judges a layer by itself; chained through a network it judges the whole (a running error bound).

sum: c(K) u S, c(K) = min(K + 1, 8 + sqrt(K)), with K the length of the sum and S the same operation on absolute
    values: the standard bound of Higham (Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), or where
    it is smaller the probabilistic one of Higham & Mary (SIAM J. Sci. Comput. 41(5), 2019).
exact: 0. Data is moved or selected; where pooling windows overlap, the sum rule.
exp: EXP_ULPS u for each exp or log: those of NumPy, of torch on CPUs and of CUDA (Programming Guide, mathematical
    functions) are within 2 units in the last place, 4 u. SIGMOID_ULPS u for 1 / (1 + exp(-x)): a sum and a quotient
    more.
normalise: two sums, and NORMALISE_ROUNDINGS elementwise operations on their results.

u is the port's unit roundoff plus the float64 reference's; products in TensorFloat-32 have a larger one (setting.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array, recorded
from numpy_ref.functions import LOG_OFFSET, softmax
from numpy_ref.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Flatten,
    Layer,
    Pooling,
    Relu,
    Sigmoid,
)
from torchport.parity.setting import Arithmetic

# Rules, by the name that a report shows.
EXACT, SUM, EXP, NORMALISE = "exact", "sum", "exp", "normalise"

UNKNOWN = 1e30  # as good as no limit, but products of several are still finite

EXP_ULPS = 4
SIGMOID_ULPS = EXP_ULPS + 2
NORMALISE_ROUNDINGS = (
    8  # in forward: x - mean, square, + eps, root, quotient, two products, + beta; backward has as many
)


@dataclass(frozen=True)
class Limits:
    """Elementwise limits of a layer's backward pass, in the reference's layout, and the rule of each."""

    grad_input: Array
    rule: str
    grads: dict[str, Array] = field(default_factory=dict)  # by the reference's attribute: W, b
    kinks: int = 0  # entries whose gradient may take another path within the limit of the input


class Rule(NamedTuple):
    """The limits of one kind of layer: of its output, and of what backward computes."""

    name: str
    forward: Callable[[Any, Array, Array, Arithmetic], Array]  # layer, x, limit of x
    backward: Callable[[Any, Array, Array, Array, Array, Arithmetic], Limits]  # layer, x, its limit, dout, its limit


def rule_of(layer: Layer) -> Rule:
    """The rule for a reference layer. TypeError for a kind that has none."""
    for kind, rule in RULES.items():
        if isinstance(layer, kind):
            return rule
    known = ", ".join(kind.__name__ for kind in RULES)
    raise TypeError(f"no parity rule for {type(layer).__name__}: there are rules for {known}")


# --- Convolution and Affine: the linear rule


def _magnitude(layer: Affine | Convolution) -> Any:
    """The layer on absolute weights, without its bias: applied to |x| it gives S."""
    twin = copy.copy(layer)
    twin.W, twin.b = np.abs(layer.W), 0.0
    return twin


def _fan(layer: Affine | Convolution) -> tuple[int, int]:
    """How many inputs make one output, and how many outputs one input touches."""
    if isinstance(layer, Affine):
        return layer.W.shape[0], layer.W.shape[1]
    area = math.prod(layer.W.shape[2:])
    return layer.W.shape[1] * area, layer.W.shape[0] * area


def _linear_forward(layer: Affine | Convolution, x: Array, x_limit: Array, arithmetic: Arithmetic) -> Array:
    magnitude = _magnitude(layer)
    size = magnitude.forward(np.abs(x) + x_limit)  # S without the bias; (N, outputs, ...)
    bias = np.reshape(np.abs(layer.b), (-1,) + (1,) * (size.ndim - 2))
    return np.asarray(magnitude.forward(x_limit) + arithmetic.of_sum(_fan(layer)[0], size + bias))


def _linear_backward(
    layer: Affine | Convolution, x: Array, x_limit: Array, dout: Array, dout_limit: Array, arithmetic: Arithmetic
) -> Limits:
    magnitude = _magnitude(layer)

    def products(x: Array, dout: Array) -> tuple[Array, Array, Array]:
        magnitude.forward(x)
        return magnitude.backward(dout), magnitude.dW, magnitude.db

    x_size, dout_size = np.abs(x) + x_limit, np.abs(dout) + dout_limit
    size, size_w, size_b = products(x_size, dout_size)
    passed, passed_w, passed_b = products(np.abs(x), dout_limit)
    passed_w = passed_w + products(x_limit, dout_size)[1]
    terms = dout.size // dout.shape[1]  # N, or N*OH*OW
    grads = {
        "W": passed_w + arithmetic.of_sum(terms, size_w),
        "b": passed_b + arithmetic.of_sum(terms, size_b),
    }
    return Limits(passed + arithmetic.of_sum(_fan(layer)[1], size), SUM, grads)


# --- Layers that move or select data


def _flatten_forward(_: Flatten, x: Array, x_limit: Array, __: Arithmetic) -> Array:
    return x_limit.reshape(len(x), -1)


def _flatten_backward(_: Flatten, x: Array, __: Array, ___: Array, dout_limit: Array, ____: Arithmetic) -> Limits:
    return Limits(dout_limit.reshape(x.shape), EXACT)


def _relu_forward(_: Relu, x: Array, x_limit: Array, __: Arithmetic) -> Array:
    return np.where(x <= -x_limit, 0, x_limit)


def _relu_backward(_: Relu, x: Array, x_limit: Array, dout: Array, dout_limit: Array, __: Arithmetic) -> Limits:
    kink = (x > -x_limit) & (x <= x_limit)  # may be on either side of 0
    passes = x > x_limit
    limit = np.where(kink, np.abs(dout) + dout_limit, np.where(passes, dout_limit, 0))
    return Limits(limit, EXACT, kinks=int(kink.sum()))


def _max_forward(layer: Pooling, _: Array, x_limit: Array, __: Arithmetic) -> Array:
    return copy.copy(layer).forward(x_limit)


def _max_backward(
    layer: Pooling, x: Array, x_limit: Array, dout: Array, dout_limit: Array, arithmetic: Arithmetic
) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x)
    chosen = recorded(twin.arg_max, twin)[:, np.newaxis]  # (N*OH*OW*C, 1)
    value, margin = twin.windows(x, -np.inf), twin.windows(x_limit, 0)  # (N*OH*OW*C, PH*PW)
    lowest = np.take_along_axis(value - margin, chosen, axis=1)
    earlier = np.arange(value.shape[1]) < chosen  # wins a tie
    is_chosen = np.arange(value.shape[1]) == chosen
    may_win = is_chosen | (value + margin > lowest) | ((value + margin == lowest) & earlier)
    kink = may_win.sum(axis=1, keepdims=True) > 1
    size, passed = (twin.per_window(d)[:, np.newaxis] for d in (np.abs(dout) + dout_limit, dout_limit))
    per_entry = np.where(kink & may_win, size, np.where(is_chosen, passed, 0))
    limit = twin.scatter(per_entry) + _overlap(twin, np.where(may_win, size, 0), arithmetic)
    return Limits(limit, EXACT, kinks=int(kink.sum()))


def _overlap(layer: Pooling | AveragePooling, contributions: Array, arithmetic: Arithmetic) -> Array:
    """Rounding of the sums where windows overlap; nothing where an entry is in one window only."""
    count = layer.scatter((contributions != 0).astype(float))
    return np.where(count > 1, arithmetic.of_sum(count, layer.scatter(contributions)), 0)


def _average_forward(layer: AveragePooling, x: Array, x_limit: Array, arithmetic: Arithmetic) -> Array:
    twin, area = copy.copy(layer), layer.pool_h * layer.pool_w
    return np.asarray(twin.forward(x_limit) + arithmetic.of_sum(area, twin.forward(np.abs(x) + x_limit)))


def _average_backward(
    layer: AveragePooling, x: Array, _: Array, dout: Array, dout_limit: Array, arithmetic: Arithmetic
) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x)
    # As many terms as windows overlap in an entry, and the division.
    terms = -(-layer.pool_h // layer.stride) * -(-layer.pool_w // layer.stride) + 1
    limit = twin.backward(dout_limit) + arithmetic.of_sum(terms, twin.backward(np.abs(dout) + dout_limit))
    return Limits(limit, SUM)


# --- Dropout and batch normalisation


def _dropout_forward(layer: Dropout, _: Array, x_limit: Array, __: Arithmetic) -> Array:
    return copy.copy(layer).forward(x_limit)  # the mask is repeated (trace.py)


def _dropout_backward(layer: Dropout, x: Array, _: Array, __: Array, dout_limit: Array, ___: Arithmetic) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x)
    return Limits(twin.backward(dout_limit), EXACT)


class _Normalised(NamedTuple):
    """(N, D) or (D,): the normalised batch, its limit, 1 / std with its relative limit, and the statistics' limits."""

    xn: Array
    xn_limit: Array
    inverse_std: Array
    relative: Array
    mean_limit: Array
    var_limit: Array


def _normalise(layer: BatchNormalization, x: Array, x_limit: Array, arithmetic: Arithmetic) -> _Normalised:
    flat, flat_limit, n = x.reshape(len(x), -1), x_limit.reshape(len(x), -1), len(x)
    size = np.abs(flat) + flat_limit
    mean_limit = flat_limit.mean(axis=0) + arithmetic.of_sum(n, size.mean(axis=0))
    centred = flat - flat.mean(axis=0)
    centred_limit = flat_limit + mean_limit + arithmetic.u * np.abs(centred)
    moved = (2 * np.abs(centred) + centred_limit) * centred_limit
    var = np.mean(centred**2, axis=0)
    var_limit = moved.mean(axis=0) + arithmetic.of_sum(n, np.mean((np.abs(centred) + centred_limit) ** 2, axis=0))
    # 1 / sqrt(1 + r) is within r of 1 for r above -1/2; beyond that nothing is known, and nothing is judged.
    relative = var_limit / (var + layer.EPS)
    relative = np.where(relative < 0.5, relative, UNKNOWN) + NORMALISE_ROUNDINGS * arithmetic.u
    inverse_std = 1 / np.sqrt(var + layer.EPS)
    xn_limit = (centred_limit * (1 + relative) + np.abs(centred) * relative) * inverse_std
    return _Normalised(centred * inverse_std, xn_limit, inverse_std, relative, mean_limit, var_limit)


def _norm_forward(layer: BatchNormalization, x: Array, x_limit: Array, arithmetic: Arithmetic) -> Array:
    norm, gamma = _normalise(layer, x, x_limit, arithmetic), np.abs(layer.gamma)
    own = NORMALISE_ROUNDINGS * arithmetic.u * (gamma * (np.abs(norm.xn) + norm.xn_limit) + np.abs(layer.beta))
    return np.asarray(gamma * norm.xn_limit + own + arithmetic.tiny).reshape(x.shape)


def _norm_backward(
    layer: BatchNormalization, x: Array, x_limit: Array, dout: Array, dout_limit: Array, arithmetic: Arithmetic
) -> Limits:
    norm, n = _normalise(layer, x, x_limit, arithmetic), len(x)
    d, d_limit = np.abs(dout).reshape(n, -1), dout_limit.reshape(n, -1)
    size_d, size_x = d + d_limit, np.abs(norm.xn) + norm.xn_limit
    # dx = gamma / std (d - mean(d) - xn mean(d xn)): what each factor's limit moves, then what rounding adds.
    product, product_limit = size_d * size_x, d_limit * size_x + d * norm.xn_limit
    passed = d_limit + d_limit.mean(axis=0) + size_x * product_limit.mean(axis=0)
    passed = passed + norm.xn_limit * product.mean(axis=0)
    size = size_d + size_d.mean(axis=0) + (size_x + size_x.mean(axis=0)) * product.mean(axis=0)
    own = arithmetic.of_sum(n + NORMALISE_ROUNDINGS, size) + 3 * norm.relative * size
    scale = np.abs(layer.gamma) * norm.inverse_std * (1 + norm.relative)
    grads = {
        "gamma": product_limit.sum(axis=0) + arithmetic.of_sum(n, product.sum(axis=0)),
        "beta": d_limit.sum(axis=0) + arithmetic.of_sum(n, size_d.sum(axis=0)),
    }
    return Limits((scale * (passed + own)).reshape(x.shape), NORMALISE, grads)


def running_limits(layer: BatchNormalization, x: Array, arithmetic: Arithmetic) -> dict[str, Array]:
    """Limits of running_mean and running_var (D,) after one batch x without a limit of its own, from equal values."""
    norm, own = _normalise(layer, x, np.zeros_like(x), arithmetic), 3 * arithmetic.u
    twin = copy.copy(layer)
    twin.forward(x)
    mean, var = recorded(twin.running_mean, twin), recorded(twin.running_var, twin)
    old = 0 if layer.running_mean is None else np.abs(layer.running_mean)
    return {
        "running_mean": norm.mean_limit + own * (np.abs(mean) + 2 * old),
        "running_var": norm.var_limit + own * var,
    }


# --- exp and log


def _sigmoid_forward(layer: Sigmoid, x: Array, x_limit: Array, arithmetic: Arithmetic) -> Array:
    y = copy.copy(layer).forward(x)
    # The slope is y (1 - y) at x and changes by at most a tenth per unit: the second derivative is under 0.1.
    passed = (y * (1 - y) + 0.1 * x_limit) * x_limit
    return np.asarray(passed + SIGMOID_ULPS * arithmetic.u * y + arithmetic.tiny)


def _sigmoid_backward(
    layer: Sigmoid, x: Array, x_limit: Array, dout: Array, dout_limit: Array, arithmetic: Arithmetic
) -> Limits:
    y, y_limit = copy.copy(layer).forward(x), _sigmoid_forward(layer, x, x_limit, arithmetic)
    slope = y * (1 - y)
    slope_limit = (np.abs(1 - 2 * y) + y_limit) * y_limit + 3 * arithmetic.u * slope  # 1 - y and two products
    return Limits((slope + slope_limit) * dout_limit + slope_limit * np.abs(dout) + arithmetic.tiny, EXP)


@dataclass(frozen=True)
class LossLimits:
    """Limits of the loss (a number) and of its gradient (N, C)."""

    loss: float
    grad_input: Array


def loss_limits(x: Array, x_limit: Array, labels: Array, arithmetic: Arithmetic) -> LossLimits:
    """SoftmaxWithLoss on logits x (N, C) with limits x_limit, against labels (N,)."""
    n, classes = x.shape
    rows = np.arange(n)
    u = arithmetic.u
    y = softmax(x)
    shift = x.max(axis=1, keepdims=True) - x
    # Relative error of softmax: of exp's rounded argument, here and on average in the sum; of exp in both; of the sum
    # (of C numbers of which each is a part of 1) and the quotient.
    arguments = shift + (y * shift).sum(axis=1, keepdims=True)
    relative = u * (arguments + 2 * EXP_ULPS + 1) + arithmetic.of_sum(classes, 1.0)
    relative = relative + np.expm1(np.minimum(2 * x_limit.max(axis=1, keepdims=True), 100))  # no overflow
    y_limit = np.minimum(y * relative + arithmetic.tiny, 1)
    t = np.eye(classes)[labels]
    grad_limit = (y_limit + 2 * u * np.abs(y - t)) / n
    inside = y[rows, labels] + LOG_OFFSET
    inside_relative = np.minimum(y_limit[rows, labels] / inside + u, 0.5)
    size = np.abs(np.log(inside))
    per_sample = -np.log1p(-inside_relative) + EXP_ULPS * u * size
    return LossLimits(float(per_sample.mean() + arithmetic.of_sum(n, size.mean())), grad_limit)


RULES: dict[type, Rule] = {
    Convolution: Rule(SUM, _linear_forward, _linear_backward),
    Affine: Rule(SUM, _linear_forward, _linear_backward),
    Relu: Rule(EXACT, _relu_forward, _relu_backward),
    Pooling: Rule(EXACT, _max_forward, _max_backward),
    AveragePooling: Rule(SUM, _average_forward, _average_backward),
    Flatten: Rule(EXACT, _flatten_forward, _flatten_backward),
    Sigmoid: Rule(EXP, _sigmoid_forward, _sigmoid_backward),
    Dropout: Rule(EXACT, _dropout_forward, _dropout_backward),
    BatchNormalization: Rule(NORMALISE, _norm_forward, _norm_backward),
}
