"""Networks and batches to compare on, and the comparison of both ports on them."""

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
    """Parameters in the shapes of like (None: the default SimpleConvNet's), at fan-in scale, biases too.

    So no gradient hides below a limit: the book's own start (standard deviation 0.01, no biases) leaves most of them
    near 1e-5, and cannot show a missing bias.
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
    """Standard normal images (N, C, H, W), or other samples (N, ...), and labels (N,) in 0..classes-1."""
    rng = np.random.default_rng([seed, 1])
    shape = (batch_size, *input_dim)
    return rng.standard_normal(shape), rng.integers(0, classes, batch_size)


def book_gradient_case(seed: int, batch_size: int = 1) -> tuple[nr.SimpleConvNet, Array, Array]:
    """The network, images and labels of the book's gradient check (section 7.5), from one stream: W1 W2 W3 and x.

    The book takes one image and label 1; further images have labels 2, 3 and so on, in 0..9.
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
    """check_parity of both ports in every setting, with the same weights.

    options are check_parity's runs and progress. ValueError, TypeError.
    """
    reports = []
    exact = weights.astype(torch.float64)  # a variance in float16 would be rounded where the reference adds to it
    for setting in settings:
        for conv in CONVOLUTIONS:
            port = weights.astype(setting.dtype).port(conv, setting.device)
            own: dict[str, Any] = {"mode": setting.mode, "seed": seed, "name": conv}
            reports.append(check_parity(exact.reference(), port, x, t, **own, **options))
    return reports
