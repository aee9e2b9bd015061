"""Networks and batches to compare on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from numpy_ref.checks import Array, check_int
from numpy_ref.networks import SimpleConvNet as ReferenceNet
from torchport.networks import CONVOLUTIONS, SimpleConvNet
from torchport.parity.compare import check_parity
from torchport.parity.report import Report
from torchport.weights import architecture, cast_params


def seeded_params(seed: int, like: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Parameters in the shapes of like (None: the default SimpleConvNet's), at fan-in scale, biases too.

    So no gradient hides below a limit: the book's own start (standard deviation 0.01, no biases) leaves most of them
    near 1e-5, and cannot show a missing bias.
    """
    rng = np.random.default_rng(check_int("seed", seed, 0))
    params = {}
    for name, value in (ReferenceNet().params if like is None else like).items():
        fan_in = np.prod(value.shape[1:]) if value.ndim == 4 else value.shape[0]
        params[name] = rng.standard_normal(value.shape) * (np.sqrt(2 / fan_in) if value.ndim > 1 else 0.1)
    return params


def seeded_batch(
    seed: int, batch_size: int = 32, input_dim: tuple[int, int, int] = (1, 28, 28), classes: int = 10
) -> tuple[Array, Array]:
    """Standard normal images (N, C, H, W) and labels (N,) in 0..classes-1."""
    rng = np.random.default_rng([seed, 1])
    shape = (check_int("batch_size", batch_size, 1), *input_dim)
    return rng.standard_normal(shape), rng.integers(0, classes, batch_size)


def reference_of(params: Mapping[str, Array], stride: int = 1, pad: int = 0) -> ReferenceNet:
    """The reference network with these parameters. ValueError where they belong to none."""
    net = ReferenceNet(**architecture(params, stride, pad), rng=np.random.RandomState(0))
    net.set_params(params)
    return net


def check_ports(
    params: Mapping[str, Array],
    x: Array,
    t: Array,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32),
    device: str = "cpu",
    stride: int = 1,
    pad: int = 0,
    seed: int = 0,
) -> list[Report]:
    """check_parity of both ports in every dtype, on one set of parameters. ValueError, TypeError."""
    reference = reference_of(params, stride, pad)
    reports = []
    for dtype in dtypes:
        cast = cast_params(params, dtype)
        for conv in CONVOLUTIONS:
            port = SimpleConvNet.from_params(cast, conv, stride, pad, device=device)
            reports.append(check_parity(reference, port, x, t, seed=seed, name=conv))
    return reports
