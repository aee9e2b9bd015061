"""How far a correct port may be from the reference, entry by entry: limits that are derived, never chosen.

Every limit has two parts: what a layer adds by rounding, and what it passes on from the limit of its input. With no
limit on the input this judges a layer by itself; chained through a network it judges the whole (a running error bound).

sum: c(K) u S, c(K) = min(K + 1, 8 + sqrt(K)), with K the length of the sum and S the same operation on absolute
    values: the standard bound of Higham (Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), or where
    it is smaller the probabilistic one of Higham & Mary (SIAM J. Sci. Comput. 41(5), 2019).
exact: 0. Data is moved or selected; where pooling windows overlap, the sum rule.
exp: EXP_ULPS u for each exp or log: those of NumPy, of torch on CPUs and of CUDA (Programming Guide, mathematical
    functions) are within 2 units in the last place, 4 u. SIGMOID_ULPS u for 1 / (1 + exp(-x)): a sum and a quotient
    more. TANH_ULPS u for tanh: within 2 units in the last place by the same sources. POWER_ULPS u for a power: within
    4.
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

import numpy_ref as nr
from numpy_ref.checks import Array, recorded
from numpy_ref.functions import LOG_OFFSET, softmax
from numpy_ref.layers import Layer
from torchport.parity.setting import Arithmetic

# Rules, by the name that a report shows.
EXACT, SUM, EXP, NORMALISE = "exact", "sum", "exp", "normalise"

EXP_ULPS = 4
SIGMOID_ULPS = EXP_ULPS + 2
TANH_ULPS = 4
POWER_ULPS = 8
# In forward: x - mean, square, + eps, root, quotient, two products, + beta; backward has as many.
NORMALISE_ROUNDINGS = 8

UNKNOWN = 1e30  # as good as no limit, but products of several are still finite


class Near(NamedTuple):
    """Values of the reference, and how far a correct port's may be from them."""

    value: Array
    limit: Array

    @classmethod
    def within(cls, value: Array, limit: Array) -> Near:
        """As given to the next layer: a limit that says nothing does not grow further, up to infinity."""
        return cls(value, np.minimum(limit, UNKNOWN))

    @classmethod
    def exactly(cls, value: Array) -> Near:
        """Values that both sides share."""
        return cls(value, np.zeros_like(value))

    @property
    def size(self) -> Array:
        """The largest absolute value that either side may have."""
        return np.abs(self.value) + self.limit


@dataclass(frozen=True)
class Limits:
    """Elementwise limits of a layer's backward pass, in the reference's layout, and the rule of each."""

    grad_input: Array
    rule: str
    grads: dict[str, Array] = field(default_factory=dict)  # by the reference's attribute: W, b
    kinks: int = 0  # entries whose gradient may take another path within the limit of the input


class Rule(NamedTuple):
    """The limits of one kind of layer: of its output for x, and of its gradients for x and dout."""

    name: str
    forward: Callable[[Any, Near, Arithmetic], Array]
    backward: Callable[[Any, Near, Near, Arithmetic], Limits]


def rule_of(layer: Layer) -> Rule:
    """The rule for a reference layer. TypeError for a kind that has none."""
    for kind, rule in RULES.items():
        if isinstance(layer, kind):
            return rule
    known = ", ".join(kind.__name__ for kind in RULES)
    raise TypeError(f"no parity rule for {type(layer).__name__}: there are rules for {known}")


# --- Convolution and Affine: the linear rule


def _magnitude(layer: nr.Affine | nr.Convolution) -> Any:
    """The layer on absolute weights, without its bias: applied to |x| it gives S."""
    twin = copy.copy(layer)
    twin.W, twin.b = np.abs(layer.W), 0.0
    return twin


def _fan(layer: nr.Affine | nr.Convolution) -> tuple[int, int]:
    """How many inputs make one output, and how many outputs one input touches."""
    if isinstance(layer, nr.Affine):
        return layer.W.shape[0], layer.W.shape[1]
    area = math.prod(layer.W.shape[2:])
    return layer.W.shape[1] * area, layer.W.shape[0] * area


def _linear_forward(layer: nr.Affine | nr.Convolution, x: Near, a: Arithmetic) -> Array:
    magnitude = _magnitude(layer)
    size = magnitude.forward(x.size)  # S without the bias; (N, outputs, ...)
    bias = np.reshape(np.abs(layer.b), (-1,) + (1,) * (size.ndim - 2))
    return np.asarray(magnitude.forward(x.limit) + a.of_sum(_fan(layer)[0], size + bias))


def _linear_backward(layer: nr.Affine | nr.Convolution, x: Near, dout: Near, a: Arithmetic) -> Limits:
    magnitude = _magnitude(layer)

    def products(x: Array, dout: Array) -> tuple[Array, Array, Array]:
        magnitude.forward(x)
        return magnitude.backward(dout), magnitude.dW, magnitude.db

    size, size_w, size_b = products(x.size, dout.size)
    passed, passed_w, passed_b = products(np.abs(x.value), dout.limit)
    passed_w = passed_w + products(x.limit, dout.size)[1]
    terms = dout.value.size // dout.value.shape[1]  # N, or N*OH*OW
    grads = {"W": passed_w + a.of_sum(terms, size_w), "b": passed_b + a.of_sum(terms, size_b)}
    return Limits(passed + a.of_sum(_fan(layer)[1], size), SUM, grads)


# --- Layers that move or select data


def _flatten_forward(_: nr.Flatten, x: Near, __: Arithmetic) -> Array:
    return x.limit.reshape(len(x.value), -1)


def _flatten_backward(_: nr.Flatten, x: Near, dout: Near, __: Arithmetic) -> Limits:
    return Limits(dout.limit.reshape(x.value.shape), EXACT)


def _relu_forward(_: nr.Relu, x: Near, __: Arithmetic) -> Array:
    return np.where(x.value <= -x.limit, 0, x.limit)


def _relu_backward(_: nr.Relu, x: Near, dout: Near, __: Arithmetic) -> Limits:
    kink = (x.value > -x.limit) & (x.value <= x.limit)  # may be on either side of 0
    limit = np.where(kink, dout.size, np.where(x.value > x.limit, dout.limit, 0))
    return Limits(limit, EXACT, kinks=int(kink.sum()))


def _max_forward(layer: nr.Pooling, x: Near, _: Arithmetic) -> Array:
    return copy.copy(layer).forward(x.limit)


def _max_backward(layer: nr.Pooling, x: Near, dout: Near, a: Arithmetic) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x.value)
    chosen = recorded(twin.arg_max, twin)[:, np.newaxis]  # (N*OH*OW*C, 1)
    value, margin = twin.windows(x.value, -np.inf), twin.windows(x.limit, 0)  # (N*OH*OW*C, PH*PW)
    lowest, highest = np.take_along_axis(value - margin, chosen, axis=1), value + margin
    place = np.arange(value.shape[1])
    may_win = (place == chosen) | (highest > lowest) | ((highest == lowest) & (place < chosen))  # the first wins a tie
    kink = may_win.sum(axis=1, keepdims=True) > 1
    size, passed = (twin.per_window(d)[:, np.newaxis] for d in (dout.size, dout.limit))
    per_entry = np.where(kink & may_win, size, np.where(place == chosen, passed, 0))
    limit = twin.scatter(per_entry) + _overlap(twin, np.where(may_win, size, 0), a)
    return Limits(limit, EXACT, kinks=int(kink.sum()))


def _overlap(layer: nr.Pooling, contributions: Array, a: Arithmetic) -> Array:
    """Rounding of the sums where windows overlap; nothing where an entry is in one window only."""
    count = layer.scatter((contributions != 0).astype(float))
    return np.where(count > 1, a.of_sum(count, layer.scatter(contributions)), 0)


def _average_forward(layer: nr.AveragePooling, x: Near, a: Arithmetic) -> Array:
    twin = copy.copy(layer)
    return np.asarray(twin.forward(x.limit) + a.of_sum(layer.pool_h * layer.pool_w, twin.forward(x.size)))


def _average_backward(layer: nr.AveragePooling, x: Near, dout: Near, a: Arithmetic) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x.value)
    terms = _overlapping(layer) + 1  # and the division
    return Limits(twin.backward(dout.limit) + a.of_sum(terms, twin.backward(dout.size)), SUM)


def _overlapping(layer: nr.AveragePooling | nr.Subsampling) -> int:
    """In how many windows an entry is at most."""
    return -(-layer.pool_h // layer.stride) * -(-layer.pool_w // layer.stride)


# --- Dropout and batch normalisation


def _dropout_forward(layer: nr.Dropout, x: Near, _: Arithmetic) -> Array:
    return copy.copy(layer).forward(x.limit)  # the mask is repeated (trace.py)


def _dropout_backward(layer: nr.Dropout, x: Near, dout: Near, _: Arithmetic) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x.value)
    return Limits(twin.backward(dout.limit), EXACT)


class _Normalised(NamedTuple):
    """A normalised batch (N, D); 1 / std (D,) and its relative limit; the limits of mean and variance (D,)."""

    xn: Near
    inverse_std: Array
    relative: Array
    mean_limit: Array
    var_limit: Array


def _normalise(layer: nr.BatchNormalization, x: Near, a: Arithmetic) -> _Normalised:
    flat, n = Near(*(array.reshape(len(array), -1) for array in x)), len(x.value)
    mean_limit = flat.limit.mean(axis=0) + a.of_sum(n, flat.size.mean(axis=0))
    value = flat.value - flat.value.mean(axis=0)
    centred = Near(value, flat.limit + mean_limit + a.u * np.abs(value))
    var = np.mean(value**2, axis=0)
    moved = (np.abs(value) + centred.size) * centred.limit  # of the square
    var_limit = moved.mean(axis=0) + a.of_sum(n, np.mean(centred.size**2, axis=0))
    # 1 / sqrt(1 + r) is within r of 1 for r above -1/2; beyond that nothing is known, and nothing is judged.
    relative = var_limit / (var + layer.EPS)
    relative = np.where(relative < 0.5, relative, UNKNOWN) + NORMALISE_ROUNDINGS * a.u
    inverse_std = 1 / np.sqrt(var + layer.EPS)
    xn_limit = (centred.limit * (1 + relative) + np.abs(value) * relative) * inverse_std
    return _Normalised(Near(value * inverse_std, xn_limit), inverse_std, relative, mean_limit, var_limit)


def _norm_forward(layer: nr.BatchNormalization, x: Near, a: Arithmetic) -> Array:
    xn, gamma = _normalise(layer, x, a).xn, np.abs(layer.gamma)
    own = NORMALISE_ROUNDINGS * a.u * (gamma * xn.size + np.abs(layer.beta)) + a.tiny
    return np.asarray(gamma * xn.limit + own).reshape(x.value.shape)


def _norm_backward(layer: nr.BatchNormalization, x: Near, dout: Near, a: Arithmetic) -> Limits:
    (xn, inverse_std, relative, *_), n = _normalise(layer, x, a), len(x.value)
    d = Near(*(array.reshape(n, -1) for array in dout))
    # dx = gamma / std (d - mean(d) - xn mean(d xn)): what each factor's limit moves, then what rounding adds.
    product = Near(d.value * xn.value, d.limit * xn.size + np.abs(d.value) * xn.limit)
    size_mean = np.mean(d.size * xn.size, axis=0)
    passed = d.limit + d.limit.mean(axis=0) + xn.size * product.limit.mean(axis=0) + xn.limit * size_mean
    size = d.size + d.size.mean(axis=0) + (xn.size + xn.size.mean(axis=0)) * size_mean
    own = a.of_sum(n + NORMALISE_ROUNDINGS, size) + 3 * relative * size
    grads = {
        "gamma": product.limit.sum(axis=0) + a.of_sum(n, n * size_mean),
        "beta": d.limit.sum(axis=0) + a.of_sum(n, d.size.sum(axis=0)),
    }
    scale = np.abs(layer.gamma) * inverse_std * (1 + relative)
    return Limits((scale * (passed + own)).reshape(x.value.shape), NORMALISE, grads)


def running_limits(layer: nr.BatchNormalization, x: Array, a: Arithmetic) -> dict[str, Array]:
    """Limits of running_mean and running_var (D,) after one batch x that both sides share, from equal values."""
    norm, twin = _normalise(layer, Near.exactly(x), a), copy.copy(layer)
    twin.forward(x)
    old = 0 if layer.running_mean is None else np.abs(layer.running_mean)
    mean, var = np.abs(recorded(twin.running_mean, twin)), recorded(twin.running_var, twin)
    return {"running_mean": norm.mean_limit + 3 * a.u * (mean + 2 * old), "running_var": norm.var_limit + 3 * a.u * var}


# --- exp and log


def _sigmoid_forward(layer: nr.Sigmoid, x: Near, a: Arithmetic) -> Array:
    y = copy.copy(layer).forward(x.value)
    # The slope is y (1 - y) at x and changes by at most a tenth per unit: the second derivative is under 0.1.
    return np.asarray((y * (1 - y) + 0.1 * x.limit) * x.limit + SIGMOID_ULPS * a.u * y + a.tiny)


def _sigmoid_backward(layer: nr.Sigmoid, x: Near, dout: Near, a: Arithmetic) -> Limits:
    y = Near(copy.copy(layer).forward(x.value), _sigmoid_forward(layer, x, a))
    value = y.value * (1 - y.value)
    slope = Near(value, (np.abs(1 - 2 * y.value) + y.limit) * y.limit + 3 * a.u * value)  # 1 - y and two products
    return Limits(slope.size * dout.limit + slope.limit * np.abs(dout.value) + a.tiny, EXP)


def _tanh_forward(layer: nr.Tanh, x: Near, a: Arithmetic) -> Array:
    y = copy.copy(layer).forward(x.value)
    # The slope is 1 - y^2 at x and changes by at most 0.77 per unit, the largest second derivative: 4 / 3^1.5.
    return np.asarray((1 - y * y + 0.77 * x.limit) * x.limit + TANH_ULPS * a.u * np.abs(y) + a.tiny)


def _tanh_backward(layer: nr.Tanh, x: Near, dout: Near, a: Arithmetic) -> Limits:
    y = Near(copy.copy(layer).forward(x.value), _tanh_forward(layer, x, a))
    value = 1 - y.value * y.value
    # The square is rounded before the difference, which may be far smaller.
    slope = Near(value, (2 * np.abs(y.value) + y.limit) * y.limit + a.u * (y.value**2 + 2 * value))
    return Limits(slope.size * dout.limit + slope.limit * np.abs(dout.value) + a.tiny, EXP)


# --- LeNet's subsampling and AlexNet's normalisation


def _sums(layer: nr.Subsampling, x: Near, a: Arithmetic) -> Near:
    """Of the windows, (N, C, OH, OW)."""
    twin = copy.copy(layer)
    twin.W, twin.b = np.ones_like(layer.W), np.zeros_like(layer.b)
    value, passed, size = (twin.forward(each) for each in (x.value, x.limit, x.size))
    return Near(value, passed + a.of_sum(layer.pool_h * layer.pool_w, size))


def _subsampling_forward(layer: nr.Subsampling, x: Near, a: Arithmetic) -> Array:
    sums, (scale, bias) = _sums(layer, x, a), (np.abs(each)[:, np.newaxis, np.newaxis] for each in (layer.W, layer.b))
    return np.asarray(scale * sums.limit + 3 * a.u * (scale * sums.size + bias) + a.tiny)


def _subsampling_backward(layer: nr.Subsampling, x: Near, dout: Near, a: Arithmetic) -> Limits:
    sums, twin = _sums(layer, x, a), copy.copy(layer)
    twin.W = np.abs(layer.W)
    twin.forward(x.value)
    terms = _overlapping(layer) + 1  # and the product
    n, over = dout.value.size // dout.value.shape[1], (0, 2, 3)
    passed_w = np.sum(dout.limit * sums.size + np.abs(dout.value) * sums.limit, axis=over)
    grads = {
        "W": passed_w + a.of_sum(n + 1, np.sum(dout.size * sums.size, axis=over)),
        "b": dout.limit.sum(axis=over) + a.of_sum(n, dout.size.sum(axis=over)),
    }
    return Limits(twin.backward(dout.limit) + a.of_sum(terms, twin.backward(dout.size)), SUM, grads)


def _base(layer: nr.LocalResponseNormalization, x: Near, a: Arithmetic) -> Near:
    """What is raised to a power; the limit is relative to it."""
    square = Near(x.value**2, (2 * np.abs(x.value) + x.limit) * x.limit)
    limit = layer.neighbours(square.limit) + a.of_sum(layer.size + 3, layer.neighbours(x.size**2))
    value = layer.k + layer.alpha * layer.neighbours(square.value)
    relative = layer.alpha * limit / value + 2 * a.u
    return Near(value, np.where(relative < 0.5, relative, 0.5))


def _power(base: Near, exponent: float, a: Arithmetic) -> Near:
    """base to the power of -exponent, its limit relative too: as (1 - r)^-exponent - 1 is the larger side."""
    moved = np.expm1(-exponent * np.log1p(-base.limit))
    relative = np.where(base.limit < 0.5, moved + POWER_ULPS * a.u * (1 + moved), UNKNOWN)
    return Near(base.value**-exponent, relative)


def _response_forward(layer: nr.LocalResponseNormalization, x: Near, a: Arithmetic) -> Array:
    power = _power(_base(layer, x, a), layer.exponent, a)
    return np.asarray(power.value * (x.size * (power.limit + 2 * a.u) + x.limit) + a.tiny)


def _response_backward(layer: nr.LocalResponseNormalization, x: Near, dout: Near, a: Arithmetic) -> Limits:
    # scaled = dout * power, and each term of the sums scaled * x / base, whose factors torch multiplies in another
    # order: six roundings each.
    base = _base(layer, x, a)
    power = _power(base, layer.exponent, a)
    further = _power(base, layer.exponent + 1, a)
    scaled = power.value * (dout.limit * (1 + power.limit) + dout.size * (power.limit + 6 * a.u))
    size = dout.size * x.size * further.value * (1 + further.limit)
    moved = (dout.limit * x.size + np.abs(dout.value) * x.limit) * further.value * (1 + further.limit)
    moved = moved + dout.size * x.size * further.value * (further.limit + 6 * a.u)
    through_sums = layer.neighbours(moved) + a.of_sum(layer.size, layer.neighbours(size))
    factor = 2 * layer.alpha * layer.exponent
    passed = factor * (x.limit * layer.neighbours(size) + x.size * (through_sums + 4 * a.u * layer.neighbours(size)))
    whole = dout.size * power.value * (1 + power.limit) + factor * x.size * layer.neighbours(size)
    return Limits(scaled + passed + 2 * a.u * whole + a.tiny, NORMALISE)


def loss_limits(x: Near, labels: Array, a: Arithmetic) -> tuple[float, Array]:
    """Limits of SoftmaxWithLoss's value, and of its gradient (N, C), on logits x (N, C) against labels (N,)."""
    n, classes = x.value.shape
    y, picked = softmax(x.value), (np.arange(n), labels)
    shift = x.value.max(axis=1, keepdims=True) - x.value
    # Relative error of softmax: of exp's rounded argument, here and on average in the sum; of exp in both; of the sum
    # (of C numbers of which each is a part of 1) and the quotient.
    arguments = shift + (y * shift).sum(axis=1, keepdims=True)
    relative = a.u * (arguments + 2 * EXP_ULPS + 1) + a.of_sum(classes, 1.0)
    relative = relative + np.expm1(np.minimum(2 * x.limit.max(axis=1, keepdims=True), 100))  # no overflow
    y_limit = np.minimum(y * relative + a.tiny, 1)
    grad_limit = (y_limit + 2 * a.u * np.abs(y - np.eye(classes)[labels])) / n
    inside = y[picked] + LOG_OFFSET
    inside_relative = y_limit[picked] / inside + a.u
    size = np.abs(np.log(inside))
    # The log of what may be larger or smaller by that much, but is never under the offset.
    below = -np.log(np.maximum(1 - inside_relative, LOG_OFFSET / inside))
    per_sample = np.maximum(np.log1p(inside_relative), below) + EXP_ULPS * a.u * size
    return float(per_sample.mean() + a.of_sum(n, size.mean())), grad_limit


RULES: dict[type, Rule] = {
    nr.Convolution: Rule(SUM, _linear_forward, _linear_backward),
    nr.Affine: Rule(SUM, _linear_forward, _linear_backward),
    nr.Relu: Rule(EXACT, _relu_forward, _relu_backward),
    nr.Pooling: Rule(EXACT, _max_forward, _max_backward),
    nr.AveragePooling: Rule(SUM, _average_forward, _average_backward),
    nr.Flatten: Rule(EXACT, _flatten_forward, _flatten_backward),
    nr.Sigmoid: Rule(EXP, _sigmoid_forward, _sigmoid_backward),
    nr.Tanh: Rule(EXP, _tanh_forward, _tanh_backward),
    nr.Subsampling: Rule(SUM, _subsampling_forward, _subsampling_backward),
    nr.LocalResponseNormalization: Rule(NORMALISE, _response_forward, _response_backward),
    nr.Dropout: Rule(EXACT, _dropout_forward, _dropout_backward),
    nr.BatchNormalization: Rule(NORMALISE, _norm_forward, _norm_backward),
}
