"""Random parameters and batches to compare on, the book's gradient check case, and check_parity of both ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers.arithmetic import Setting
from torchport.networks import CONVOLUTIONS, Weights
from torchport.parity.certificate import check_parity
from torchport.parity.report import Report


def seeded_params(seed: int, like: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Random parameters in the shapes of like (None: the default SimpleConvNet's), at fan-in scale, with biases.

    The book's initial weights (standard deviation 0.01, no biases) would leave most gradients near 1e-5, where a limit
    may hide a mistake, and could not show a missing bias.
    """
    rng = np.random.default_rng(seed)
    params = {}
    for name, value in (nr.SimpleConvNet().params if like is None else like).items():
        fan_in = np.prod(value.shape[1:]) if value.ndim == 4 else value.shape[0]
        params[name] = rng.standard_normal(value.shape) * (np.sqrt(2 / fan_in) if value.ndim > 1 else 0.1)
    return params


def seeded_batch(
    seed: int, batch_size: int = 32, input_dim: tuple[int, ...] = (1, 28, 28), classes: int = 10
) -> tuple[Array, Array]:
    """Standard normal images (N, C, H, W), or other samples (N, *input_dim), and labels (N,) in 0..classes-1."""
    rng = np.random.default_rng([seed, 1])
    shape = (batch_size, *input_dim)
    return rng.standard_normal(shape), rng.integers(0, classes, batch_size)


def book_gradient_case(seed: int, batch_size: int = 1) -> tuple[nr.SimpleConvNet, Array, Array]:
    """The network, images and labels of the book's gradient check (section 7.5), drawn in the order W1, W2, W3, x.

    The book takes one image with label 1; further images have the labels 2, 3 and so on, modulo 10.
    """
    rng = np.random.RandomState(seed)
    conv_param = {"filter_num": 10, "filter_size": 3, "pad": 0, "stride": 1}
    net = nr.SimpleConvNet((1, 10, 10), conv_param, hidden_size=10, output_size=10, weight_init_std=0.01, rng=rng)
    x = rng.rand(batch_size, 1, 10, 10)
    return net, x, np.arange(1, batch_size + 1) % 10


def check_ports(
    weights: Weights,
    x: Array,
    t: Array,
    settings: Iterable[Setting] = (Setting(torch.float64), Setting(torch.float32)),
    *,
    seed: int = 0,
    **options: Any,
) -> list[Report]:
    """check_parity for the conv2d and the unfold port in every setting, with the same weights.

    options are runs and progress of check_parity. Raises ValueError and TypeError as it does.
    """
    reports = []
    exact = weights.astype(torch.float64)  # the reference adds eps to a variance, which float16 would round
    for setting in settings:
        for conv in CONVOLUTIONS:
            port = weights.astype(setting.dtype).port(conv, setting.device)
            arguments: dict[str, Any] = {"mode": setting.mode, "seed": seed, "name": conv}
            reports.append(check_parity(exact.reference(), port, x, t, **arguments, **options))
    return reports
