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
own products (own_limit): T in the orders that kernels take, and K over the number of different terms in its place.

Where inputs differ within limits of their own: c(K) u S, c(K) = min(K + 1, 8 + sqrt(K)) (Higham & Mary, SIAM J. Sci.
Comput. 41(5), 2019).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.util import pad_image
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import SUM, LayerKind, Limits, Near, Rule, Terms, register
from torchport.layers.modules import Subsampling, UnfoldConv2d, window_about, window_module

CONVOLUTIONS: dict[str, type[nn.Conv2d]] = {"conv2d": nn.Conv2d, "unfold": UnfoldConv2d}


def check_convolution(conv: str) -> type[nn.Conv2d]:
    """The class of the convolution of that name. ValueError."""
    if conv not in CONVOLUTIONS:
        raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, got {conv!r}")
    return CONVOLUTIONS[conv]


Linear = nr.Affine | nr.Convolution


def own_limit(terms: Terms, a: Arithmetic) -> float:
    """How far one sum may be off, by what it adds up: u min((K + 1) S, 8 / sqrt(3) sqrt(m T))."""
    products = terms.orders[0][terms.orders[0] != 0]
    k, bias = len(products) + (terms.bias != 0), terms.bias
    squares = float(np.sum(products**2)) + bias**2
    steps = 0.0  # the squares of the partial sums, in the worst of the orders, the bias first or last
    for order in terms.orders:
        sums = np.cumsum(order[order != 0])
        last = float(sums[-1]) + bias if len(sums) else bias
        steps = max(steps, float(np.sum(sums**2)) + last**2, float(np.sum((sums + bias) ** 2)))
    # Equal terms round alike: they are one rounding, of as much more weight.
    alike = max(len(products), 1) / max(len(np.unique(np.abs(products))), 1)
    size = float(np.sum(np.abs(products))) + abs(bias)
    return a.u * min((k + 1) * size, 8 / math.sqrt(3) * math.sqrt(alike * (squares + steps))) + k * a.tiny


def _orders(products: Array, sort: bool) -> list[Array]:
    """One entry's products (channels, places ...): as they are, places outermost, and both in reverse.

    sort puts places in the order of their sums, which is the worst that a kernel may take them in.
    """
    flat: Array = products.ravel()
    places: Array = products.reshape(len(products), -1).T
    outer: Array = (places[np.argsort(places.sum(axis=1))] if sort else places).ravel()
    return [flat, flat[::-1], outer, outer[::-1]]


def _convolution_products(layer: nr.Convolution, x: Array, dout: Array, quantity: str, index: tuple[int, ...]) -> Terms:
    (_, _, fh, fw), s = layer.W.shape, layer.stride
    out_h, out_w = dout.shape[2:]
    padded = pad_image(x, layer.pad)
    if quantity == "output":
        n, f, oy, ox = index
        window = padded[n, :, oy * s : oy * s + fh, ox * s : ox * s + fw]
        return Terms(_orders(layer.W[f] * window, sort=True), float(np.broadcast_to(layer.b, len(layer.W))[f]))
    if quantity == "grad_input":
        n, c, row, column = index
        found = [
            dout[n, :, oy, ox] * layer.W[:, c, row + layer.pad - oy * s, column + layer.pad - ox * s]
            for oy in range(out_h)
            for ox in range(out_w)
            if 0 <= row + layer.pad - oy * s < fh and 0 <= column + layer.pad - ox * s < fw
        ]  # (places, FN)
        return Terms(_orders(np.array(found).T if found else np.zeros((1, 1)), sort=True))
    if quantity == "b":
        return Terms(_orders(dout[:, index[0]], sort=False))
    f, c, i, j = index
    seen = padded[:, c, i : i + s * (out_h - 1) + 1 : s, j : j + s * (out_w - 1) + 1 : s]
    return Terms(_orders(dout[:, f] * seen, sort=False))


def _affine_products(layer: nr.Affine, x: Array, dout: Array, quantity: str, index: tuple[int, ...]) -> Terms:
    if quantity == "output":
        n, h = index
        weights = layer.W[:, h].reshape(x.shape[1:])  # of an image, channels and places
        return Terms(_orders(x[n] * weights, sort=True), float(np.broadcast_to(layer.b, layer.W.shape[1])[h]))
    if quantity == "grad_input":
        n, *place = index
        row = np.ravel_multi_index(tuple(place), x.shape[1:])
        return Terms(_orders(dout[n] * layer.W[row], sort=True))
    if quantity == "b":
        return Terms(_orders(dout[:, index[0]], sort=False))
    d, h = index
    return Terms(_orders(x.reshape(len(x), -1)[:, d] * dout[:, h], sort=False))


def _mapped(layer: Linear, function: Callable[[Array], Array]) -> Any:
    """The layer on function of its weights, without its bias."""
    twin = copy.copy(layer)
    twin.W, twin.b = function(layer.W), 0.0
    return twin


def _not_zero(x: Array) -> Array:
    return np.asarray(x != 0, dtype=np.float64)


# Of operands: what makes K, S, Y and Q of an operation.
PARTS: tuple[Callable[[Array], Array], ...] = (_not_zero, np.abs, np.positive, np.square)


def _fan(layer: Linear) -> tuple[int, int]:
    """How many inputs make one output, and how many outputs one input touches."""
    if isinstance(layer, nr.Affine):
        return layer.W.shape[0], layer.W.shape[1]
    area = math.prod(layer.W.shape[2:])
    return layer.W.shape[1] * area, layer.W.shape[0] * area


def _linear_forward(layer: Linear, x: Near, a: Arithmetic) -> Array:
    magnitude = _mapped(layer, np.abs)
    size = magnitude.forward(x.size)  # S without the bias; (N, outputs, ...)
    bias = np.reshape(np.float64(layer.b), (-1,) + (1,) * (size.ndim - 2))
    if a.sharp:
        return a.of_products(*(_mapped(layer, part).forward(part(x.value)) + part(bias) for part in PARTS))
    return np.asarray(magnitude.forward(x.limit) + a.of_sum(_fan(layer)[0], size + np.abs(bias)))


def _linear_backward(layer: Linear, x: Near, dout: Near, a: Arithmetic) -> Limits:
    def products(part: Callable[[Array], Array], x: Array, dout: Array) -> tuple[Array, Array, Array]:
        twin = _mapped(layer, part)
        twin.forward(x)
        return twin.backward(dout), twin.dW, twin.db

    if a.sharp:
        parts = [products(part, part(x.value), part(dout.value)) for part in PARTS]
        grad_input, grad_w, grad_b = (a.of_products(*each) for each in zip(*parts, strict=True))
        return Limits(grad_input, SUM, {"W": grad_w, "b": grad_b})
    size, size_w, size_b = products(np.abs, x.size, dout.size)
    passed, passed_w, passed_b = products(np.abs, np.abs(x.value), dout.limit)
    passed_w = passed_w + products(np.abs, x.limit, dout.size)[1]
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
        Rule(SUM, _linear_forward, _linear_backward, _convolution_products),
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
        Rule(SUM, _linear_forward, _linear_backward, _affine_products),
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
