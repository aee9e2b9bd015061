"""Layers that add products: convolution, affine, average pooling, and LeNet-5's subsampling.

The rule: c(K) u S, c(K) = min(K + 1, 8 + sqrt(K)), with K the length of the sum and S the same operation on absolute
values: the standard bound of Higham (Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), or where it is
smaller the probabilistic one of Higham & Mary (SIAM J. Sci. Comput. 41(5), 2019).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import SUM, LayerKind, Limits, Near, Rule, register
from torchport.layers.modules import Subsampling, UnfoldConv2d, window_about, window_module

CONVOLUTIONS: dict[str, type[nn.Conv2d]] = {"conv2d": nn.Conv2d, "unfold": UnfoldConv2d}


def check_convolution(conv: str) -> type[nn.Conv2d]:
    """The class of the convolution of that name. ValueError."""
    if conv not in CONVOLUTIONS:
        raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, got {conv!r}")
    return CONVOLUTIONS[conv]


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


def _convolution(layer: nr.Convolution, conv: str) -> nn.Module:
    filters, channels, height, width = layer.W.shape
    return CONVOLUTIONS[conv](channels, filters, (height, width), layer.stride, layer.pad)


def _convolution_about(layer: nr.Convolution) -> str:
    filters, _, height, width = layer.W.shape
    return f"{filters} filters {height} x {width}, stride {layer.stride}, pad {layer.pad}"


register(
    LayerKind(
        nr.Convolution,
        _convolution,
        Rule(SUM, _linear_forward, _linear_backward),
        lambda rng: (
            nr.Convolution(rng.standard_normal((3, 2, 3, 3)), rng.standard_normal(3), 2, 1),
            rng.standard_normal((3, 2, 6, 6)),
        ),
        about=_convolution_about,
    )
)
register(
    LayerKind(
        nr.Affine,
        lambda layer, _: nn.Linear(*layer.W.shape),
        Rule(SUM, _linear_forward, _linear_backward),
        lambda rng: (
            nr.Affine(rng.standard_normal((10, 5)), rng.standard_normal(5)),
            rng.standard_normal((4, 10)),
        ),
        about=lambda layer: f"{layer.W.shape[0]} to {layer.W.shape[1]}",
    )
)
register(
    LayerKind(
        nr.AveragePooling,
        window_module(nn.AvgPool2d, 0.0),
        Rule(SUM, _average_forward, _average_backward),
        lambda rng: (nr.AveragePooling(3, 2, 2, 1), rng.standard_normal((3, 2, 6, 6))),
        about=lambda layer: f"mean of {window_about(layer)}",
    )
)
register(
    LayerKind(
        nr.Subsampling,
        lambda layer, _: Subsampling(len(layer.W), (layer.pool_h, layer.pool_w), layer.stride),
        Rule(SUM, _subsampling_forward, _subsampling_backward),
        lambda rng: (
            nr.Subsampling(rng.standard_normal(2), rng.standard_normal(2)),
            rng.standard_normal((3, 2, 6, 6)),
        ),
        about=lambda layer: f"sum of {window_about(layer)}, scaled",
    )
)
