"""Layers of smooth functions: sigmoid, tanh, and the normalisations.

Rule exp: EXP_ULPS u for each exp or log, as those of NumPy, of torch on CPUs and of CUDA (Programming Guide,
mathematical functions) are within 2 units in the last place, 4 u. SIGMOID_ULPS u for 1 / (1 + exp(-x)), which adds a
sum and a quotient. TANH_ULPS u for tanh, within 2 units in the last place by the same sources. POWER_ULPS u for a
power, within 4. Rule normalise: means within L (sums.py), and NORMALISE_ROUNDINGS elementwise operations on them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.network import layer_statistics
from torchport.layers.arithmetic import PARTS, Arithmetic
from torchport.layers.kinds import EXP, NORMALISE, LayerKind, Limits, Rule, image, other, register
from torchport.layers.modules import BatchNormalization

EXP_ULPS = 4
SIGMOID_ULPS = EXP_ULPS + 2
TANH_ULPS = 4
POWER_ULPS = 8
# Added for a derivative, relative to it: for a hand-written 1 / (1 + exp(-x)) autograd multiplies exp, twice the
# quotient and the upstream gradient: 4 + 2 (4 + 2) roundings of factors and three products; sigmoid's has three in all.
BY_HAND_ULPS = 16
# In forward: x - mean, square, + eps, root, quotient, two products, + beta; as many in backward.
NORMALISE_ROUNDINGS = 8


def _mean_limit(x: Array, a: Arithmetic, roundings: int = 0) -> Array:
    """The limit (D,) of the mean of x (N, D): L, the terms' earlier roundings, and two of the division.

    Equal terms round alike, so L grows by the root of how often a column's values repeat (sums.py).
    """
    n, ordered, (k, size, total, squares) = len(x), np.sort(np.abs(x), axis=0), (part(x).mean(axis=0) for part in PARTS)
    different = (ordered[0] != 0) + np.count_nonzero((ordered[1:] != ordered[:-1]) & (ordered[1:] != 0), axis=0)
    alike = n * k / np.maximum(different, 1)
    limit = a.by_hand.of_products(k * n, size, total, squares / n, alike=alike)
    return np.asarray(limit + (roundings + 2) * a.u * size)


class _NormalisedBatch(NamedTuple):
    """A normalised batch xn (N, D), 1 / std (D,), and the limits of a port's statistics, each (D,)."""

    xn: Array
    inverse_std: Array
    relative: Array  # relative limit of 1 / std
    mean: Array  # limit of the mean
    var: Array  # limit of the variance


def _normalised(layer: nr.BatchNormalization, x: Array, a: Arithmetic) -> _NormalisedBatch:
    centred = x - x.mean(axis=0)
    var, mean_limit = np.mean(centred**2, axis=0), _mean_limit(x, a)
    # An error of the mean moves every square; at most by this in all, whatever the signs of x - mean.
    from_mean = (2 * np.abs(centred).mean(axis=0) + mean_limit) * mean_limit
    var_limit = from_mean + _mean_limit(centred**2, a, 3)
    # 1 / sqrt(1 - r) - 1 and 1 - 1 / sqrt(1 + r); a variance is never below 0.
    above, below = (limit / (var + layer.EPS) for limit in (var_limit, np.minimum(var_limit, var)))
    relative = np.maximum(np.expm1(-0.5 * np.log1p(-below)), -np.expm1(-0.5 * np.log1p(above)))
    relative = relative + NORMALISE_ROUNDINGS * a.u
    inverse_std = 1 / np.sqrt(var + layer.EPS)
    return _NormalisedBatch(centred * inverse_std, inverse_std, relative, mean_limit, var_limit)


def _affine_limit(layer: nr.BatchNormalization, x: Array, mean: Array, inverse_std: Array, a: Arithmetic) -> Array:
    """The limit of gamma (x - mean) / std + beta for given mean and std; a port may compute gamma / std x + (...)."""
    size = np.abs(layer.gamma) * inverse_std * (np.abs(x) + np.abs(mean)) + np.abs(layer.beta)
    return np.asarray(NORMALISE_ROUNDINGS * a.u * size + a.tiny)


def _norm_forward(layer: nr.BatchNormalization, x: Array, a: Arithmetic) -> Array:
    flat = x.reshape(len(x), -1)
    batch = _normalised(layer, flat, a)
    from_statistics = np.abs(batch.xn) * batch.relative + batch.inverse_std * (1 + batch.relative) * batch.mean
    roundings = _affine_limit(layer, flat, flat.mean(axis=0), batch.inverse_std, a)
    return np.asarray(np.abs(layer.gamma) * from_statistics + roundings).reshape(x.shape)


def _norm_backward(layer: nr.BatchNormalization, x: Array, dout: Array, a: Arithmetic) -> Limits:
    """Limits of dx = gamma / std (d - mean(d) - xn mean(d xn)); an error of 1 / std moves the last term three times."""
    n, d = len(x), dout.reshape(len(x), -1)
    batch = _normalised(layer, x.reshape(n, -1), a)
    xn, shift = np.abs(batch.xn), batch.inverse_std * batch.mean  # every xn may be off by shift
    along = d * batch.xn
    mean_d, mean_along = np.abs(d.mean(axis=0)), np.abs(along.mean(axis=0))
    # All xn are off by the same shift, so mean(d xn) is off by shift mean(d), which may be 0, and its terms' roundings.
    shifted = shift * mean_d + _mean_limit(shift * np.abs(d), a, 3)
    d_limit, along_limit = _mean_limit(d, a, 3), _mean_limit(along, a, 3) + shifted
    # Autograd sums d - xn mean(d xn) once more, for the gradient of the mean.
    last = (xn + shift) * along_limit + (along_limit + 4 * a.u * mean_along) * (xn.mean(axis=0) + shift)
    last = last + 2 * shift * mean_along
    size = np.abs(d) + mean_d + 2 * xn * mean_along
    roundings = d_limit + last + NORMALISE_ROUNDINGS * a.u * size
    projected = np.abs(d - d.mean(axis=0) - batch.xn * along.mean(axis=0))
    from_statistics = batch.relative * (projected + 2 * xn * mean_along)
    grads = {"gamma": n * (along_limit + batch.relative * mean_along), "beta": n * d_limit}
    scale = np.abs(layer.gamma) * batch.inverse_std * (1 + batch.relative)
    return Limits((scale * (roundings + from_statistics)).reshape(x.shape) + a.tiny, grads)


def _norm_prediction(layer: nr.BatchNormalization, x: Array, a: Arithmetic) -> Array:
    mean, var = layer_statistics(layer).values()  # the port may hold them rounded
    return _affine_limit(layer, x.reshape(len(x), -1), mean, 1 / np.sqrt(var + layer.EPS), a).reshape(x.shape)


def running_limits(
    layer: nr.BatchNormalization, x: Array, a: Arithmetic, x_limit: Array | float = 0.0
) -> dict[str, Array]:
    """Limits of running_mean and running_var (D,) after one batch x, if both sides start from equal values.

    Where x is off by e, up to x_limit, so is the mean by mean(e) and the variance by 2 mean((x - mean) e) + mean(e^2).
    """
    flat, e = x.reshape(len(x), -1), np.broadcast_to(x_limit, x.shape).reshape(len(x), -1)
    batch, new = _normalised(layer, flat, a), 1 - layer.momentum
    before, twin = layer_statistics(layer), other(layer)
    twin.forward(x)
    size = {name: 2 * np.abs(value) + np.abs(getattr(twin, name)) for name, value in before.items()}
    from_e = (2 * np.abs(flat - flat.mean(axis=0)) * e + e**2).mean(axis=0)
    limits = {"running_mean": batch.mean + e.mean(axis=0), "running_var": batch.var + from_e}
    return {name: new * limit + 3 * a.u * size[name] for name, limit in limits.items()}


def _sigmoid_forward(layer: nr.Sigmoid, x: Array, a: Arithmetic) -> Array:
    return np.asarray(SIGMOID_ULPS * a.u * other(layer).forward(x) + a.tiny)


def _sigmoid_backward(layer: nr.Sigmoid, x: Array, dout: Array, a: Arithmetic) -> Limits:
    y, limit = other(layer).forward(x), _sigmoid_forward(layer, x, a)
    slope = (np.abs(1 - 2 * y) + limit) * limit + (3 + BY_HAND_ULPS) * a.u * y * (1 - y)
    return Limits(slope * np.abs(dout) + a.tiny)


def _tanh_forward(layer: nr.Tanh, x: Array, a: Arithmetic) -> Array:
    return np.asarray(TANH_ULPS * a.u * np.abs(other(layer).forward(x)) + a.tiny)


def _tanh_backward(layer: nr.Tanh, x: Array, dout: Array, a: Arithmetic) -> Limits:
    y, limit = np.abs(other(layer).forward(x)), _tanh_forward(layer, x, a)
    # The square is rounded before it is subtracted from 1, and the difference may be far smaller.
    slope = (2 * y + limit) * limit + a.u * (y**2 + (2 + BY_HAND_ULPS) * (1 - y**2))
    return Limits(slope * np.abs(dout) + a.tiny)


def _power(layer: nr.LocalResponseNormalization, x: Array, exponent: float, a: Arithmetic) -> tuple[Array, Array]:
    """(k + alpha sum of squares)^-exponent, by which x is normalised, and the relative limit of that."""
    squares = layer.alpha * layer.neighbours(x**2)
    base = layer.k + squares
    relative = np.minimum(a.of_sum(layer.size + 3, squares) / base + 2 * a.u, 0.5)
    moved = np.expm1(-exponent * np.log1p(-relative))  # (1 - r)^-exponent - 1 is the larger side
    return base**-exponent, moved + POWER_ULPS * a.u * (1 + moved)


def _response_forward(layer: nr.LocalResponseNormalization, x: Array, a: Arithmetic) -> Array:
    power, relative = _power(layer, x, layer.exponent, a)
    return np.asarray(power * np.abs(x) * (relative + 2 * a.u) + a.tiny)


def _response_backward(layer: nr.LocalResponseNormalization, x: Array, dout: Array, a: Arithmetic) -> Limits:
    # dout * power, and the sums' terms dout * x * next_power, whose factors torch multiplies in another order: six
    # roundings each, and four of the factor of the sums.
    power, relative = _power(layer, x, layer.exponent, a)
    next_power, next_relative = _power(layer, x, layer.exponent + 1, a)
    size = np.abs(dout * x) * next_power * (1 + next_relative)
    sums = layer.neighbours(size * (next_relative + 10 * a.u)) + a.of_sum(layer.size, layer.neighbours(size))
    factor = 2 * layer.alpha * layer.exponent * np.abs(x)
    direct = np.abs(dout) * power * (relative + 8 * a.u) + 2 * a.u * factor * layer.neighbours(size)
    return Limits(direct + factor * sums + a.tiny)


SIGMOID, TANH = Rule(EXP, _sigmoid_forward, _sigmoid_backward), Rule(EXP, _tanh_forward, _tanh_backward)

register(
    LayerKind(nr.Sigmoid, lambda *_: nn.Sigmoid(), SIGMOID, lambda rng: (nr.Sigmoid(), image(rng))),
    LayerKind(nr.Tanh, lambda *_: nn.Tanh(), TANH, lambda rng: (nr.Tanh(), image(rng))),
    LayerKind(
        nr.BatchNormalization,
        lambda layer, _: BatchNormalization(len(layer.gamma), layer.momentum),
        Rule(NORMALISE, _norm_forward, _norm_backward),
        lambda rng: (nr.BatchNormalization(rng.random(72), rng.standard_normal(72)), image(rng)),
        prediction=_norm_prediction,
    ),
    LayerKind(
        nr.LocalResponseNormalization,
        # torch takes the mean of the squares where the paper has their sum.
        lambda layer, _: nn.LocalResponseNorm(layer.size, layer.alpha * layer.size, layer.exponent, layer.k),
        Rule(NORMALISE, _response_forward, _response_backward),
        lambda rng: (nr.LocalResponseNormalization(3, 0.3, 0.75, 1.5), image(rng)),
        about=lambda layer: f"over {layer.size} channels",
    ),
)
