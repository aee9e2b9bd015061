"""Each layer of the ports against the reference: geometries, ties, zeros; every entry within its derived limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from parity.cases import check_twin
from torch import nn

import numpy_ref as nr
import torchport
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport.layers import kind_of
from torchport.parity import Row, Setting, check_loss

CONVOLUTIONS = {"conv2d": nn.Conv2d, "unfold": torchport.UnfoldConv2d}

# (N, C, H, W), filters, (FH, FW), stride, pad
CONVOLUTION_GEOMETRIES = {
    "plain": ((2, 3, 8, 8), 4, (3, 3), 1, 0),
    "stride 2": ((2, 1, 8, 8), 4, (4, 4), 2, 0),
    "stride 3": ((2, 2, 10, 10), 3, (4, 4), 3, 0),
    "padded": ((2, 3, 7, 7), 4, (5, 5), 1, 2),
    "padded by more than the filter": ((2, 1, 3, 3), 2, (2, 2), 1, 3),
    "non-square image": ((2, 3, 9, 5), 4, (3, 3), 1, 1),
    "non-square filter": ((2, 3, 8, 8), 4, (2, 5), 1, 1),
    "non-square both, stride 2": ((3, 2, 11, 6), 3, (5, 2), 2, 1),
    "stride does not divide": ((2, 2, 8, 9), 3, (3, 3), 2, 0),
    "stride 3 does not divide, padded": ((1, 2, 9, 7), 3, (2, 3), 3, 1),
    "stride larger than the filter": ((2, 2, 9, 9), 3, (2, 2), 3, 0),
    "one pixel filter": ((2, 3, 4, 4), 5, (1, 1), 1, 0),
    "filter as large as the image": ((2, 3, 5, 4), 2, (5, 4), 1, 0),
    "one channel, one filter": ((2, 1, 6, 6), 1, (3, 3), 1, 0),
    "batch of one": ((1, 3, 6, 6), 4, (3, 3), 1, 0),
    "the book's": ((4, 1, 28, 28), 30, (5, 5), 1, 0),
}

# (N, C, H, W), (PH, PW), stride, pad
POOLING_GEOMETRIES = {
    "the book's": ((3, 5, 8, 8), (2, 2), 2, 0),
    "overlapping": ((2, 2, 7, 7), (3, 3), 2, 0),
    "stride 1": ((2, 2, 6, 7), (3, 2), 1, 0),
    "stride 3": ((2, 3, 9, 9), (3, 3), 3, 0),
    "stride does not divide": ((2, 2, 7, 8), (2, 2), 3, 0),
    "non-square": ((2, 1, 9, 5), (4, 2), 2, 1),
    "padded": ((2, 3, 7, 7), (3, 3), 2, 1),
    "padded, overlapping, batch of one": ((1, 1, 6, 6), (4, 4), 1, 2),
}


def assert_parity(rows: list[Row]) -> None:
    assert rows
    failed = [str(row) for row in rows if not row.ok]
    assert not failed


def ties(x: Array) -> Array:
    """Few values, so that most windows have several maxima, and many zeros of either sign."""
    return np.copysign(np.maximum(np.round(x), 0), x)


@pytest.mark.parametrize("geometry", CONVOLUTION_GEOMETRIES)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_convolution(conv: str, geometry: str, setting: Setting, rng: np.random.Generator) -> None:
    (n, c, h, w), filters, size, stride, pad = CONVOLUTION_GEOMETRIES[geometry]
    weight = rng.standard_normal((filters, c, *size)) / np.sqrt(c * size[0] * size[1])
    layer = nr.Convolution(weight, rng.standard_normal(filters), stride, pad)
    module = CONVOLUTIONS[conv](c, filters, size, stride, pad)
    assert_parity(check_twin(layer, module, rng.standard_normal((n, c, h, w)), rng, setting))


@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("geometry", POOLING_GEOMETRIES)
def test_max_pooling(geometry: str, tied: bool, setting: Setting, rng: np.random.Generator) -> None:
    shape, size, stride, pad = POOLING_GEOMETRIES[geometry]
    x = rng.standard_normal(shape)
    layer, module = nr.Pooling(*size, stride, pad), nn.MaxPool2d(size, stride, pad)
    # Padding must lose against negative values too.
    assert_parity(check_twin(layer, module, ties(x) - 1 if tied else x, rng, setting))


@pytest.mark.parametrize("geometry", POOLING_GEOMETRIES)
def test_average_pooling(geometry: str, setting: Setting, rng: np.random.Generator) -> None:
    shape, size, stride, pad = POOLING_GEOMETRIES[geometry]
    layer, module = nr.AveragePooling(*size, stride, pad), nn.AvgPool2d(size, stride, pad)
    assert_parity(check_twin(layer, module, rng.standard_normal(shape), rng, setting))


ELEMENTWISE: dict[str, tuple[Callable[[], Layer], Callable[[], nn.Module]]] = {
    "relu": (nr.Relu, nn.ReLU),
    "sigmoid": (nr.Sigmoid, nn.Sigmoid),
    "tanh": (nr.Tanh, nn.Tanh),
    "flatten": (nr.Flatten, nn.Flatten),
}


@pytest.mark.parametrize("zeros", [False, True], ids=["distinct", "zeros"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str, zeros: bool, setting: Setting, rng: np.random.Generator) -> None:
    layer, module = ELEMENTWISE[name][0](), ELEMENTWISE[name][1]()
    x = 10 * rng.standard_normal((4, 3, 5, 6))
    assert_parity(check_twin(layer, module, ties(x) if zeros else x, rng, setting))


@pytest.mark.parametrize("name", ["subsampling", "overlapping", "AlexNet's", "strong", "one channel"])
def test_the_classics_own_layers(name: str, setting: Setting, rng: np.random.Generator) -> None:
    """LeNet's subsampling and AlexNet's normalisation, as from_reference makes them."""
    scale, bias = rng.standard_normal((2, 6))
    layers: dict[str, Layer] = {
        "subsampling": nr.Subsampling(scale, bias),
        "overlapping": nr.Subsampling(scale, bias, 3, 2, 1),
        "AlexNet's": nr.LocalResponseNormalization(),
        "strong": nr.LocalResponseNormalization(3, 0.5, 1.5, 0.1),
        "one channel": nr.LocalResponseNormalization(1, 1.0),
    }
    layer, module = layers[name], kind_of(layers[name]).module(layers[name], "conv2d")
    assert_parity(check_twin(layer, module, 5 * rng.standard_normal((3, 6, 7, 8)), rng, setting))


@pytest.mark.parametrize(("n", "features", "outputs"), [(1, 1, 1), (1, 7, 3), (5, 4, 4), (32, 4320, 100)])
def test_affine(n: int, features: int, outputs: int, setting: Setting, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((features, outputs)) / np.sqrt(features)
    layer = nr.Affine(weight, rng.standard_normal(outputs))
    assert_parity(check_twin(layer, nn.Linear(features, outputs), rng.standard_normal((n, features)), rng, setting))


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000], ids=lambda s: f"logits of {s}")
@pytest.mark.parametrize(("n", "classes"), [(1, 2), (7, 10), (100, 10)])
@pytest.mark.parametrize("one_hot", [False, True], ids=["labels", "one-hot"])
def test_loss(n: int, classes: int, scale: float, one_hot: bool, setting: Setting, rng: np.random.Generator) -> None:
    x, t = scale * rng.standard_normal((n, classes)), rng.integers(0, classes, n)

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = nn.functional.one_hot(labels, classes) if one_hot else labels
        return torchport.softmax_with_loss(logits, target)

    assert_parity(check_loss(x, t, setting, loss))


@pytest.mark.parametrize(("stride", "pad"), list(itertools.product([1, 2, 3], [0, 1, 3])))
def test_im2col_moves_the_same_entries(stride: int, pad: int, setting: Setting, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 9, 7)).astype(np.float32)
    expected = nr.im2col(x, 4, 3, stride, pad)
    found = torchport.im2col(torch.tensor(x, dtype=setting.dtype, device=setting.device), (4, 3), stride, pad)
    assert found.dtype == setting.dtype
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize(("stride", "pad"), list(itertools.product([1, 2, 3], [0, 1, 3])))
def test_col2im_adds_the_same_entries(stride: int, pad: int, setting: Setting, rng: np.random.Generator) -> None:
    shape = (2, 3, 9, 7)
    # Small whole numbers, whose sums are exact in any order.
    col = rng.integers(-8, 9, nr.im2col(np.zeros(shape), 4, 3, stride, pad).shape).astype(float)
    found = torchport.col2im(setting.tensor(col), shape, (4, 3), stride, pad)
    np.testing.assert_array_equal(found.cpu().numpy(), nr.col2im(col, shape, 4, 3, stride, pad))
