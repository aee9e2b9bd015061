"""Layers of smooth functions: sigmoid, tanh, and the normalisations.

exp: EXP_ULPS u for each exp or log: those of NumPy, of torch on CPUs and of CUDA (Programming Guide, mathematical
functions) are within 2 units in the last place, 4 u. SIGMOID_ULPS u for 1 / (1 + exp(-x)): a sum and a quotient more.
TANH_ULPS u for tanh: within 2 units in the last place by the same sources. POWER_ULPS u for a power: within 4.
normalise: two sums, and NORMALISE_ROUNDINGS elementwise operations on their results.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array, recorded
from numpy_ref.network import layer_statistics
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import EXP, NORMALISE, UNKNOWN, LayerKind, Limits, Near, Prediction, Rule, register
from torchport.layers.modules import BatchNormalization

EXP_ULPS = 4
SIGMOID_ULPS = EXP_ULPS + 2
TANH_ULPS = 4
POWER_ULPS = 8
# More in a derivative, of itself: by hand, 1 / (1 + exp(-x)) has autograd multiply exp, twice the quotient and the
# upstream gradient: 4 + 2 (4 + 2) roundings of its factors and three products, where sigmoid's own has three in all.
BY_HAND_ULPS = 16
# In forward: x - mean, square, + eps, root, quotient, two products, + beta; backward has as many.
NORMALISE_ROUNDINGS = 8


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


def _sigmoid_forward(layer: nr.Sigmoid, x: Near, a: Arithmetic) -> Array:
    y = copy.copy(layer).forward(x.value)
    # The slope is y (1 - y) at x and changes by at most a tenth per unit: the second derivative is under 0.1.
    return np.asarray((y * (1 - y) + 0.1 * x.limit) * x.limit + SIGMOID_ULPS * a.u * y + a.tiny)


def _sigmoid_backward(layer: nr.Sigmoid, x: Near, dout: Near, a: Arithmetic) -> Limits:
    y = Near(copy.copy(layer).forward(x.value), _sigmoid_forward(layer, x, a))
    value = y.value * (1 - y.value)
    slope = Near(value, (np.abs(1 - 2 * y.value) + y.limit) * y.limit + (3 + BY_HAND_ULPS) * a.u * value)
    return Limits(slope.size * dout.limit + slope.limit * np.abs(dout.value) + a.tiny, EXP)


def _tanh_forward(layer: nr.Tanh, x: Near, a: Arithmetic) -> Array:
    y = copy.copy(layer).forward(x.value)
    # The slope is 1 - y^2 at x and changes by at most 0.77 per unit, the largest second derivative: 4 / 3^1.5.
    return np.asarray((1 - y * y + 0.77 * x.limit) * x.limit + TANH_ULPS * a.u * np.abs(y) + a.tiny)


def _tanh_backward(layer: nr.Tanh, x: Near, dout: Near, a: Arithmetic) -> Limits:
    y = Near(copy.copy(layer).forward(x.value), _tanh_forward(layer, x, a))
    value = 1 - y.value * y.value
    # The square is rounded before the difference, which may be far smaller.
    slope = Near(value, (2 * np.abs(y.value) + y.limit) * y.limit + a.u * (y.value**2 + (2 + BY_HAND_ULPS) * value))
    return Limits(slope.size * dout.limit + slope.limit * np.abs(dout.value) + a.tiny, EXP)


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


def _normalised_limit(layer: nr.BatchNormalization, x: Near, a: Arithmetic) -> Array:
    """As in training, but that mean and variance are given numbers, which the port may hold rounded."""
    flat = Near(*(array.reshape(len(array), -1) for array in x))  # (N, D)
    mean, var = layer_statistics(layer).values()
    scale = np.abs(layer.gamma) / np.sqrt(var + layer.EPS)
    size = scale * (flat.size + np.abs(mean)) + np.abs(layer.beta)
    return np.asarray(scale * flat.limit + NORMALISE_ROUNDINGS * a.u * size + a.tiny).reshape(x.value.shape)


register(
    LayerKind(
        nr.Sigmoid,
        lambda *_: nn.Sigmoid(),
        Rule(EXP, _sigmoid_forward, _sigmoid_backward),
        lambda rng: (nr.Sigmoid(), rng.standard_normal((3, 2, 6, 6))),
    )
)
register(
    LayerKind(
        nr.Tanh,
        lambda *_: nn.Tanh(),
        Rule(EXP, _tanh_forward, _tanh_backward),
        lambda rng: (nr.Tanh(), rng.standard_normal((3, 2, 6, 6))),
    )
)
register(
    LayerKind(
        nr.BatchNormalization,
        lambda layer, _: BatchNormalization(len(layer.gamma), layer.momentum),
        Rule(NORMALISE, _norm_forward, _norm_backward),
        lambda rng: (
            nr.BatchNormalization(rng.random(72), rng.standard_normal(72)),
            rng.standard_normal((5, 2, 6, 6)),
        ),
        prediction=Prediction(NORMALISE, _normalised_limit),
    )
)
register(
    LayerKind(
        nr.LocalResponseNormalization,
        # torch takes the mean of the squares where the paper has their sum.
        lambda layer, _: nn.LocalResponseNorm(layer.size, layer.alpha * layer.size, layer.exponent, layer.k),
        Rule(NORMALISE, _response_forward, _response_backward),
        lambda rng: (nr.LocalResponseNormalization(3, 0.3, 0.75, 1.5), rng.standard_normal((3, 2, 6, 6))),
        about=lambda layer: f"over {layer.size} channels",
    )
)
