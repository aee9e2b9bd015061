"""Layers that sum products: convolution, affine, average pooling, and LeNet-5's subsampling.

On exactly the port's inputs, a sum of K products (those that are not 0, and the bias) may be off by

    L = u min((K + 1) S, 8/3 sqrt(K + 1) |Y| + 5 sqrt((K + 7) Q)),

where Y is the sum, S the same operation on absolute values, and Q on squares. The error is the sum of the roundings of
all partial sums. If these are independent, of mean 0 and as concentrated as uniform ones, it exceeds 8 u sqrt(T / 3)
with a probability of 2.5e-14, T being the sum of squares of all partial sums and products (Azuma; Ipsen & Zhou,
arXiv:1906.10465; Connolly, Higham & Mary, SISC 43(1), 2021). If the products come in no particular order, a partial sum
is its share of Y plus a bridge: the first gives the first term; the second gives the other, by Chernoff's bound for the
area under a squared Brownian bridge, with a probability of 4e-11 an entry. No order rounds a term more than K + 1
times, so the cap is certain (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); it is the
smaller one up to some 20 products.

Data may be in order, and roundings may depend on each other, as equal terms round alike. So an entry above L is judged
by its own products (entry_limit): by T in the orders that kernels take, times K over the number of different terms.
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

MOST = 2**21  # numbers of a weight whose limits are computed at a time, to save memory

CONVOLUTIONS: dict[Convolution, type[nn.Conv2d]] = {"conv2d": nn.Conv2d, "unfold": UnfoldConv2d}


def check_convolution(conv: Convolution) -> type[nn.Conv2d]:
    """The class of the convolution of that name. Raises ValueError."""
    if conv not in CONVOLUTIONS:
        raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, got {conv!r}")
    return CONVOLUTIONS[conv]


Linear = nr.Affine | nr.Convolution | nr.Subsampling


def entry_limit(terms: Terms, a: Arithmetic) -> float:
    """The limit of one sum by its own terms: u min((K + 1) S, 8 / sqrt(3) sqrt(m T)), m of them alike on average."""
    products = terms.orders[0][terms.orders[0] != 0]
    k, bias = len(products) + (terms.bias != 0), terms.bias
    squares, inner = float(np.sum(products**2)) + bias**2, float(np.sum(products))
    steps = 0.0  # the sum of squares of partial sums, in the worst of the orders, with the bias first or last
    for order in terms.orders:
        sums = np.cumsum(order[order != 0])
        steps = max(steps, float(np.sum(sums**2)) + (inner + bias) ** 2, float(np.sum((sums + bias) ** 2)))
    # Equal terms round alike: they count as one rounding with the weight of all.
    alike = max(len(products), 1) / max(len(np.unique(np.abs(products))), 1)
    walk, size = 8 / math.sqrt(3) * math.sqrt(alike * (squares + steps)), float(np.sum(np.abs(products))) + abs(bias)
    before = inner if bias else None
    return float(a.of_products(k, size, inner + bias, squares, before, walk=walk, alike=alike))


def _product_orders(products: Array, sort: bool) -> list[Array]:
    """One entry's products (channels, places ...) in four orders: as they are, places outermost, and both reversed.

    sort orders the places by their sums, the worst order that a kernel may take them in.
    """
    flat: Array = products.ravel()
    places: Array = products.reshape(len(products), -1).T
    outer: Array = (places[np.argsort(places.sum(axis=1))] if sort else places).ravel()
    return [flat, flat[::-1], outer, outer[::-1]]


def _products(layer: Any, x: Array, dout: Array, quantity: str, index: tuple[int, ...]) -> Terms:
    """The terms of one entry, by linearity: x times backward of a one at that entry, or dout times forward of a one."""
    layer = _as_subsampling(layer, x) if isinstance(layer, nr.AveragePooling) else layer
    twin, (first, *place) = other(layer, b=np.zeros_like(layer.b)), index
    if quantity == "output":
        one = np.zeros_like(dout[:1])
        one[(0, *place)] = 1
        twin.forward(x[first : first + 1])
        bias = float(np.broadcast_to(layer.b, dout.shape[1])[place[0]])
        return Terms(_product_orders(x[first] * twin.backward(one)[0], sort=True), bias)
    if quantity == "grad_input":
        one = np.zeros_like(x[:1])
        one[(0, *place)] = 1
        return Terms(_product_orders(dout[first] * twin.forward(one)[0], sort=True))
    channel = place[0] if quantity == "W" and isinstance(layer, nr.Affine) else first  # of the output
    if quantity == "b":
        return Terms(_product_orders(dout[:, channel], sort=False))
    twin.W = np.zeros_like(layer.W)
    twin.W[index] = 1
    if isinstance(layer, nr.Convolution):  # one filter and one channel are enough
        twin.W, twin.b, x = twin.W[first : first + 1, place[:1]], 0.0, x[:, place[:1]]
        return Terms(_product_orders(dout[:, channel] * twin.forward(x)[:, 0], sort=False))
    return Terms(_product_orders((dout * twin.forward(x))[:, channel], sort=False))


def _with_parts(layer: Linear, function: Callable[[Array], Array]) -> Any:
    """A copy of layer with function applied to its parameters."""
    return other(layer, W=function(layer.W), b=function(np.asarray(layer.b)))


def _linear_forward(layer: Linear, x: Array, a: Arithmetic) -> Array:
    k, size, total, squares = (_with_parts(layer, part).forward(part(x)) for part in PARTS)
    inner = other(layer, b=np.zeros_like(layer.b)).forward(x) if a.u_result else None
    limit = a.of_products(k, size, total, squares, inner)
    if _may_use_transforms(layer, a):
        limit = limit + a.of_transforms(x.shape[1], _squared_norms(x) @ _squared_norms(layer.W).T)
    return limit


def _may_use_transforms(layer: Linear, a: Arithmetic) -> bool:
    """Whether the layer may be computed by Winograd's or Fourier's transforms, which need a stride of 1."""
    return bool(a.u_fast) and isinstance(layer, nr.Convolution) and layer.stride == 1 < max(layer.W.shape[2:])


def _squared_norms(maps: Array) -> Array:
    """The sums (A, B) of the squares of maps (A, B, H, W)."""
    return np.asarray(np.sum(maps**2, axis=(2, 3)))


def _linear_backward(layer: Linear, x: Array, dout: Array, a: Arithmetic) -> Limits:
    if isinstance(layer, nr.Affine) and layer.W.size > MOST and len(layer.W) > 1:
        return _backward_in_blocks(layer, x.reshape(len(x), -1), dout, a, x.shape)

    def sums_of(part: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        twin = _with_parts(layer, part)
        twin.forward(part(x))
        return twin.backward(part(dout)), twin.dW, twin.db

    limits = [a.of_products(*sums) for sums in zip(*(sums_of(part) for part in PARTS), strict=True)]
    if a.u_result and isinstance(layer, nr.Convolution):
        errors = _share_roundings(layer, x, dout)
        limits = [limit + a.u_result * error for limit, error in zip(limits, errors, strict=True)]
    grad_input, grad_w, grad_b = limits
    if _may_use_transforms(layer, a):
        of_x, of_dout = _squared_norms(x), _squared_norms(dout)
        grad_input = grad_input + a.of_transforms(dout.shape[1], of_dout @ _squared_norms(layer.W))
        grad_w = grad_w + a.of_transforms(dout.size // dout.shape[1], of_dout.T @ of_x)
    return Limits(grad_input, {"W": grad_w, "b": grad_b})


def _backward_in_blocks(layer: nr.Affine, x: Array, dout: Array, a: Arithmetic, shape: tuple[int, ...]) -> Limits:
    """_linear_backward for some of the inputs of x (N, D) at a time, to save memory: AlexNet's layer has 9,216."""
    blocks, step = list[Limits](), max(MOST // layer.W.shape[1], 1)
    for start in range(0, len(layer.W), step):
        rows = slice(start, start + step)
        blocks.append(_linear_backward(other(layer, W=layer.W[rows]), x[:, rows], dout, a))
    grad_input = np.concatenate([block.grad_input for block in blocks], axis=1).reshape(shape)
    grad_w = np.concatenate([block.grads["W"] for block in blocks])
    return Limits(grad_input, {"W": grad_w, "b": blocks[0].grads["b"]})


def _share_roundings(layer: nr.Convolution, x: Array, dout: Array) -> tuple[Array, Array, Array]:
    """The additional errors, in u_result, of a convolution by columns in bfloat16, which rounds a gradient's shares.

    The weights' gradient is the sum of the images' shares. The input's is summed in bfloat16 from the shares of P
    places in no particular order: 8 / sqrt(3) sqrt(E T), with E T as for L.
    """
    twin = other(layer)
    grad_input, grad_w, grad_b = [], np.zeros_like(layer.W), np.zeros(len(layer.W))
    (filters, _, fh, fw), s = layer.W.shape, layer.stride
    places = -(-fh // s) * -(-fw // s)
    for sample, dout_of_sample in zip(x[:, np.newaxis], dout[:, np.newaxis], strict=True):
        twin.forward(sample)
        total = twin.backward(dout_of_sample)
        grad_w, grad_b = grad_w + np.abs(twin.dW), grad_b + np.abs(twin.db)
        columns = dout_of_sample.transpose(0, 2, 3, 1).reshape(-1, filters) @ layer.W.reshape(filters, -1)
        squares = col2im(columns**2, sample.shape, fh, fw, s, layer.pad)
        grad_input.append(squares + (places + 1) * (squares + 2 * total**2) / 6)
    return 8 / math.sqrt(3) * np.sqrt(np.concatenate(grad_input)), grad_w, grad_b


def _as_subsampling(layer: nr.AveragePooling | nr.Subsampling, x: Array) -> nr.Subsampling:
    """Average pooling as a Subsampling: window sums scaled by the same share in all channels of x (N, C, H, W)."""
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
