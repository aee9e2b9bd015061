"""Layers that add products: convolution, affine, average pooling, and LeNet-5's subsampling.

Given the very inputs of the port, a sum of K products (those that are not 0, and the bias) may be off by

    L = u min((K + 1) S, 8/3 sqrt(K + 1) |Y| + 5 sqrt((K + 7) Q)),

Y the sum, S the same operation on absolute values, Q on squares. The error is the sum of every partial sum's rounding.
If these are independent, of mean 0 and as concentrated as uniform ones, it stays within 8 u sqrt(T / 3) but with a
probability of 2.5e-14, T being the squares of all partial sums and products (Azuma; Ipsen & Zhou, arXiv:1906.10465;
Connolly, Higham & Mary, SISC 43(1), 2021). If the products come in no particular order, a partial sum is its share of Y
and a bridge: the first makes the first term, the second, by Chernoff's bound for the area under a squared Brownian
bridge, the other: 4e-11 an entry. No order rounds a term more than K + 1 times: the cap is certain (Higham, Accuracy
and Stability of Numerical Algorithms, 2002, section 3.1), and rules up to some 20 products.

Data need not be without order, nor roundings independent: equal terms round alike. So an entry above L is judged by its
own products (entry_limit): T in the orders that kernels take, and K over the number of different terms in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.util import col2im
from torchport.choices import Convolution
from torchport.layers.arithmetic import PARTS, Arithmetic
from torchport.layers.kinds import SUM, LayerKind, Limits, Rule, Terms, image, other, register
from torchport.layers.modules import Subsampling, UnfoldConv2d, window_about, window_module

MOST = 2**21  # numbers of a weight whose limits are computed at a time

CONVOLUTIONS: dict[Convolution, type[nn.Conv2d]] = {"conv2d": nn.Conv2d, "unfold": UnfoldConv2d}


def check_convolution(conv: Convolution) -> type[nn.Conv2d]:
    """The class of the convolution of that name. ValueError."""
    if conv not in CONVOLUTIONS:
        raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, got {conv!r}")
    return CONVOLUTIONS[conv]


Linear = nr.Affine | nr.Convolution | nr.Subsampling


def entry_limit(terms: Terms, a: Arithmetic) -> float:
    """How far one sum may be off, by what it adds up: u min((K + 1) S, 8 / sqrt(3) sqrt(m T))."""
    products = terms.orders[0][terms.orders[0] != 0]
    k, bias = len(products) + (terms.bias != 0), terms.bias
    squares, inner = float(np.sum(products**2)) + bias**2, float(np.sum(products))
    steps = 0.0  # the squares of the partial sums, in the worst of the orders, the bias first or last
    for order in terms.orders:
        sums = np.cumsum(order[order != 0])
        steps = max(steps, float(np.sum(sums**2)) + (inner + bias) ** 2, float(np.sum((sums + bias) ** 2)))
    # Equal terms round alike: they are one rounding, of as much more weight.
    alike = max(len(products), 1) / max(len(np.unique(np.abs(products))), 1)
    walk, size = 8 / math.sqrt(3) * math.sqrt(alike * (squares + steps)), float(np.sum(np.abs(products))) + abs(bias)
    before = inner if bias else None
    return float(a.of_products(k, size, inner + bias, squares, before, walk=walk, alike=alike))


def _orders(products: Array, sort: bool) -> list[Array]:
    """One entry's products (channels, places ...): as they are, places outermost, and both in reverse.

    sort puts places in the order of their sums, which is the worst that a kernel may take them in.
    """
    flat: Array = products.ravel()
    places: Array = products.reshape(len(products), -1).T
    outer: Array = (places[np.argsort(places.sum(axis=1))] if sort else places).ravel()
    return [flat, flat[::-1], outer, outer[::-1]]


def _products(layer: Any, x: Array, dout: Array, quantity: str, index: tuple[int, ...]) -> Terms:
    """By linearity: x times what passes back from a one at the entry, or dout times what a one there passes on."""
    layer = _as_subsampling(layer, x) if isinstance(layer, nr.AveragePooling) else layer
    twin, (n, *place) = other(layer, b=np.zeros_like(layer.b)), index
    if quantity == "output":
        one = np.zeros_like(dout[:1])
        one[(0, *place)] = 1
        twin.forward(x[n : n + 1])
        bias = float(np.broadcast_to(layer.b, dout.shape[1])[place[0]])
        return Terms(_orders(x[n] * twin.backward(one)[0], sort=True), bias)
    if quantity == "grad_input":
        one = np.zeros_like(x[:1])
        one[(0, *place)] = 1
        return Terms(_orders(dout[n] * twin.forward(one)[0], sort=True))
    channel = place[0] if quantity == "W" and isinstance(layer, nr.Affine) else n  # of the output
    if quantity == "b":
        return Terms(_orders(dout[:, channel], sort=False))
    twin.W = np.zeros_like(layer.W)
    twin.W[index] = 1
    if isinstance(layer, nr.Convolution):  # one filter and channel are all that is seen
        twin.W, twin.b, x = twin.W[n : n + 1, place[:1]], 0.0, x[:, place[:1]]
        return Terms(_orders(dout[:, channel] * twin.forward(x)[:, 0], sort=False))
    return Terms(_orders((dout * twin.forward(x))[:, channel], sort=False))


def _mapped(layer: Linear, function: Callable[[Array], Array]) -> Any:
    """The layer on function of its parameters."""
    return other(layer, W=function(layer.W), b=function(np.asarray(layer.b)))


def _linear_forward(layer: Linear, x: Array, a: Arithmetic) -> Array:
    k, size, total, squares = (_mapped(layer, part).forward(part(x)) for part in PARTS)
    inner = other(layer, b=np.zeros_like(layer.b)).forward(x) if a.u_result else None
    limit = a.of_products(k, size, total, squares, inner)
    if _transforms(layer, a):
        limit = limit + a.of_transforms(x.shape[1], _energy(x) @ _energy(layer.W).T)
    return limit


def _transforms(layer: Linear, a: Arithmetic) -> bool:
    """Whether it may be computed by Winograd's or Fourier's transforms, which take a stride of 1."""
    return bool(a.u_fast) and isinstance(layer, nr.Convolution) and layer.stride == 1 < max(layer.W.shape[2:])


def _energy(maps: Array) -> Array:
    """The sums (A, B) of the squares of maps (A, B, H, W)."""
    return np.asarray(np.sum(maps**2, axis=(2, 3)))


def _linear_backward(layer: Linear, x: Array, dout: Array, a: Arithmetic) -> Limits:
    if isinstance(layer, nr.Affine) and layer.W.size > MOST and len(layer.W) > 1:
        return _in_blocks(layer, x.reshape(len(x), -1), dout, a, x.shape)

    def of_part(part: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        twin = _mapped(layer, part)
        twin.forward(part(x))
        return twin.backward(part(dout)), twin.dW, twin.db

    limits = [a.of_products(*each) for each in zip(*(of_part(part) for part in PARTS), strict=True)]
    if a.u_result and isinstance(layer, nr.Convolution):
        limits = [limit + a.u_result * each for limit, each in zip(limits, _shares(layer, x, dout), strict=True)]
    grad_input, grad_w, grad_b = limits
    if _transforms(layer, a):
        of_x, of_dout = _energy(x), _energy(dout)
        grad_input = grad_input + a.of_transforms(dout.shape[1], of_dout @ _energy(layer.W))
        grad_w = grad_w + a.of_transforms(dout.size // dout.shape[1], of_dout.T @ of_x)
    return Limits(grad_input, {"W": grad_w, "b": grad_b})


def _in_blocks(layer: nr.Affine, x: Array, dout: Array, a: Arithmetic, shape: tuple[int, ...]) -> Limits:
    """The same by so many inputs of x (N, D) at a time, of which gradients come one by one: AlexNet has 9,216."""
    found, step = list[Limits](), max(MOST // layer.W.shape[1], 1)
    for first in range(0, len(layer.W), step):
        some = slice(first, first + step)
        found.append(_linear_backward(other(layer, W=layer.W[some]), x[:, some], dout, a))
    grad_input = np.concatenate([each.grad_input for each in found], axis=1).reshape(shape)
    grad_w = np.concatenate([each.grads["W"] for each in found])
    return Limits(grad_input, {"W": grad_w, "b": found[0].grads["b"]})


def _shares(layer: nr.Convolution, x: Array, dout: Array) -> tuple[Array, Array, Array]:
    """What a convolution by columns is off by more in bfloat16, in u_result: it rounds each share of a gradient.

    The weights' is added up from shares of images. The input's is added up in bfloat16, from shares of P places in no
    particular order: 8 / sqrt(3) sqrt(E T), E T as for L.
    """
    twin = other(layer)
    grad_input, of_w, of_b = [], np.zeros_like(layer.W), np.zeros(len(layer.W))
    (filters, _, fh, fw), s = layer.W.shape, layer.stride
    places = -(-fh // s) * -(-fw // s)
    for sample, each in zip(x[:, np.newaxis], dout[:, np.newaxis], strict=True):
        twin.forward(sample)
        total = twin.backward(each)
        of_w, of_b = of_w + np.abs(twin.dW), of_b + np.abs(twin.db)
        columns = each.transpose(0, 2, 3, 1).reshape(-1, filters) @ layer.W.reshape(filters, -1)
        squares = col2im(columns**2, sample.shape, fh, fw, s, layer.pad)
        grad_input.append(squares + (places + 1) * (squares + 2 * total**2) / 6)
    return 8 / math.sqrt(3) * np.sqrt(np.concatenate(grad_input)), of_w, of_b


def _as_subsampling(layer: nr.AveragePooling | nr.Subsampling, x: Array) -> nr.Subsampling:
    """Average pooling as what it is: window sums, scaled by one share for all channels of x (N, C, H, W)."""
    if isinstance(layer, nr.Subsampling):
        return layer
    share = np.full(x.shape[1], 1 / (layer.pool_h * layer.pool_w))
    twin = nr.Subsampling(share, np.zeros_like(share), layer.pool_h, layer.pool_w, layer.stride)
    twin.pad = layer.pad
    return twin


def _window_forward(layer: nr.AveragePooling | nr.Subsampling, x: Array, a: Arithmetic) -> Array:
    return _linear_forward(_as_subsampling(layer, x), x, a.by_hand)


def _window_backward(layer: nr.AveragePooling | nr.Subsampling, x: Array, dout: Array, a: Arithmetic) -> Limits:
    limits = _linear_backward(_as_subsampling(layer, x), x, dout, a.by_hand)
    return limits if isinstance(layer, nr.Subsampling) else Limits(limits.grad_input)


def _convolution(layer: nr.Convolution, conv: Convolution) -> nn.Module:
    filters, channels, height, width = layer.W.shape
    return CONVOLUTIONS[conv](channels, filters, (height, width), layer.stride, layer.pad)


def _convolution_about(layer: nr.Convolution) -> str:
    filters, _, height, width = layer.W.shape
    return f"{filters} filters {height} x {width}, stride {layer.stride}, pad {layer.pad}"


PRODUCTS = Rule(SUM, _linear_forward, _linear_backward, _products)
WINDOWS = Rule(SUM, _window_forward, _window_backward, _products)

register(
    LayerKind(
        nr.Convolution,
        _convolution,
        PRODUCTS,
        lambda rng: (nr.Convolution(rng.random((3, 2, 3, 3)) - 0.5, rng.standard_normal(3), 2, 1), image(rng)),
        about=_convolution_about,
    ),
    LayerKind(
        nr.Affine,
        lambda layer, _: nn.Linear(*layer.W.shape),
        PRODUCTS,
        lambda rng: (nr.Affine(rng.random((10, 5)) - 0.5, rng.standard_normal(5)), rng.standard_normal((4, 10))),
        about=lambda layer: f"{layer.W.shape[0]} to {layer.W.shape[1]}",
    ),
    LayerKind(
        nr.AveragePooling,
        window_module(nn.AvgPool2d, 0.0),
        WINDOWS,
        lambda rng: (nr.AveragePooling(3, 2, 2, 1), image(rng)),
        about=lambda layer: f"mean of {window_about(layer)}",
    ),
    LayerKind(
        nr.Subsampling,
        lambda layer, _: Subsampling(len(layer.W), (layer.pool_h, layer.pool_w), layer.stride),
        WINDOWS,
        lambda rng: (nr.Subsampling(rng.standard_normal(2), rng.standard_normal(2)), image(rng)),
        about=lambda layer: f"sum of {window_about(layer)}, scaled",
    ),
)
