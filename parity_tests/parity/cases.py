"""Twins of one layer to compare, and random networks of every kind of layer."""

from __future__ import annotations

import copy

import numpy as np
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport.layers.arithmetic import Setting
from torchport.networks.ports import load_layer
from torchport.parity.certificate import check_layer
from torchport.parity.rows import Row


def check_twin(layer: Layer, module: nn.Module, x: Array, rng: np.random.Generator, setting: Setting) -> list[Row]:
    """check_layer after module, moved to the setting, took over layer's parameters; the upstream gradient is drawn.

    ValueError where module has no parameter of such a name and shape.
    """
    module = module.to(setting.device, setting.dtype)
    load_layer(module, layer)
    dout = rng.standard_normal(copy.copy(layer).forward(x).shape)
    return check_layer("layer", layer, module, x, dout, setting)


def random_case(seed: int) -> tuple[nr.Network, Array, Array]:
    """A network of random geometry and layers, a batch x (N, C, H, W) and labels t (N,), all from seed.

    Up to two blocks of convolution, perhaps batch normalisation, activation, perhaps pooling and dropout, on images
    that need not be square; perhaps Flatten; an Affine layer, perhaps batch normalisation, an activation and perhaps
    dropout; another Affine layer.
    """
    rng = np.random.default_rng([seed, 2])
    x = rng.standard_normal(tuple(rng.integers((1, 1, 5, 5), (9, 4, 12, 12))))
    layers: dict[str, Layer] = {}
    y = x

    def add(name: str, layer: Layer) -> None:
        nonlocal y
        layers[name] = layer
        y = layer.forward(y)

    for block in range(1, int(rng.choice([1, 2, 3], p=[0.1, 0.45, 0.45]))):
        add(f"Conv{block}", _random_convolution(rng, y.shape))
        if len(x) > 3 and rng.random() < 0.2:
            add(f"BatchNorm{block}", _random_normalization(rng, y))
        add(f"Activation{block}", nr.Sigmoid() if rng.random() < 0.3 else nr.Relu())
        if min(y.shape[2:]) > 1 and rng.random() < 0.7:
            add(f"Pool{block}", _random_pooling(rng, y.shape))
        if rng.random() < 0.2:
            add(f"Dropout{block}", nr.Dropout(0.2, np.random.RandomState(seed)))
    if rng.random() < 0.3:
        add("Flat", nr.Flatten())
    add("Affine1", _random_affine(rng, y[0].size, int(rng.integers(1, 9))))
    if len(x) > 3 and rng.random() < 0.4:
        add("BatchNorm", _random_normalization(rng, y))
    add("Relu", nr.Relu())
    if rng.random() < 0.3:
        add("Dropout", nr.Dropout(0.4, np.random.RandomState(seed)))
    add("Affine2", _random_affine(rng, y.shape[1], int(rng.integers(2, 11))))
    return nr.Network(layers), x, rng.integers(0, y.shape[1], len(x))


def _random_affine(rng: np.random.Generator, inputs: int, outputs: int) -> nr.Affine:
    weight = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
    return nr.Affine(weight, 0.1 * rng.standard_normal(outputs))


def _random_normalization(rng: np.random.Generator, x: Array) -> nr.BatchNormalization:
    return nr.BatchNormalization(*rng.standard_normal((2, x[0].size)))


def _random_convolution(rng: np.random.Generator, shape: tuple[int, ...]) -> nr.Convolution:
    stride, pad, filters = int(rng.integers(1, 4)), int(rng.integers(0, 3)), int(rng.integers(1, 6))
    height, width = (int(rng.integers(1, min(5, size + 2 * pad) + 1)) for size in shape[2:])
    weight = rng.standard_normal((filters, shape[1], height, width)) * np.sqrt(2 / (shape[1] * height * width))
    return nr.Convolution(weight, 0.1 * rng.standard_normal(filters), stride, pad)


def _random_pooling(rng: np.random.Generator, shape: tuple[int, ...]) -> nr.Pooling | nr.AveragePooling:
    height, width = (int(rng.integers(1, min(3, size) + 1)) for size in shape[2:])
    pad = int(rng.integers(0, min(height, width)))
    kind = nr.AveragePooling if rng.random() < 0.3 else nr.Pooling
    return kind(height, width, int(rng.integers(1, 4)), pad)
