"""Networks and batches to compare on: the default network, and random ones of every kind of layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array, check_int
from numpy_ref.layers import Layer
from torchport.architectures import recognise
from torchport.networks import CONVOLUTIONS
from torchport.parity.compare import check_layer, check_parity
from torchport.parity.report import Report, Row
from torchport.parity.setting import Setting
from torchport.twins import load_layer
from torchport.weights import cast_params


def seeded_params(seed: int, like: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Parameters in the shapes of like (None: the default SimpleConvNet's), at fan-in scale, biases too.

    So no gradient hides below a limit: the book's own start (standard deviation 0.01, no biases) leaves most of them
    near 1e-5, and cannot show a missing bias.
    """
    rng = np.random.default_rng(check_int("seed", seed, 0))
    params = {}
    for name, value in (nr.SimpleConvNet().params if like is None else like).items():
        fan_in = np.prod(value.shape[1:]) if value.ndim == 4 else value.shape[0]
        params[name] = rng.standard_normal(value.shape) * (np.sqrt(2 / fan_in) if value.ndim > 1 else 0.1)
    return params


def seeded_batch(
    seed: int, batch_size: int = 32, input_dim: tuple[int, ...] = (1, 28, 28), classes: int = 10
) -> tuple[Array, Array]:
    """Standard normal images (N, C, H, W), or other samples (N, ...), and labels (N,) in 0..classes-1."""
    rng = np.random.default_rng([seed, 1])
    shape = (check_int("batch_size", batch_size, 1), *input_dim)
    return rng.standard_normal(shape), rng.integers(0, classes, batch_size)


def book_gradient_case(seed: int, batch_size: int = 1) -> tuple[nr.SimpleConvNet, Array, Array]:
    """The network, images and labels of the book's gradient check (section 7.5), from one stream: W1 W2 W3 and x.

    The book takes one image and label 1; further images have labels 2, 3 and so on, in 0..9.
    """
    rng = np.random.RandomState(check_int("seed", seed, 0))
    conv_param = {"filter_num": 10, "filter_size": 3, "pad": 0, "stride": 1}
    net = nr.SimpleConvNet((1, 10, 10), conv_param, hidden_size=10, output_size=10, weight_init_std=0.01, rng=rng)
    x = rng.rand(check_int("batch_size", batch_size, 1), 1, 10, 10)
    return net, x, np.arange(1, batch_size + 1) % 10


def check_twin(layer: Layer, module: nn.Module, x: Array, rng: np.random.Generator, setting: Setting) -> list[Row]:
    """check_layer after module, moved to the setting, took over layer's parameters; the upstream gradient is drawn.

    ValueError where module has no parameter of such a name and shape.
    """
    module = module.to(setting.device, setting.dtype)
    load_layer(module, layer)
    dout = rng.standard_normal(copy.copy(layer).forward(x).shape)
    return check_layer("layer", layer, module, x, dout, setting)


def check_ports(
    params: Mapping[str, Array],
    x: Array,
    t: Array,
    settings: Iterable[Setting] = (Setting(torch.float64), Setting(torch.float32)),
    *,
    stride: int = 1,
    pad: int = 0,
    activation: str | None = None,
    seed: int = 0,
) -> list[Report]:
    """check_parity of both ports in every setting, on the parameters of any network that recognise knows.

    ValueError, TypeError.
    """
    found = recognise(params, stride, pad, activation)
    reference = found.reference(params)
    reports = []
    for setting in settings:
        for conv in CONVOLUTIONS:
            port = found.port(cast_params(params, setting.dtype), conv, setting.device)
            reports.append(check_parity(reference, port, x, t, mode=setting.mode, seed=seed, name=conv))
    return reports


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
