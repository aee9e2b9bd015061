"""Convolution, pooling and relu fused into one operation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchport.training.fused import Gathered, conv_pool_relu


@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "padding"),
    [((4, 1, 10, 10), 6, 5, 0), ((2, 3, 7, 8), 5, (2, 3), (1, 2)), ((1, 2, 3, 4), 1, 1, 0), ((0, 1, 6, 6), 2, 3, 0)],
)
@pytest.mark.parametrize("largest", [1, 100], ids=["with ties", "without"])
def test_conv_pool_and_relu_at_once_are_one_after_the_other(
    shape: tuple[int, ...], filters: int, kernel: Any, padding: Any, largest: int, rng: np.random.Generator
) -> None:
    """On small whole numbers, whose sums are exact in any order: equal bits, also for ties and gradients."""
    for dtype in (torch.float64, torch.float32):
        conv = nn.Conv2d(shape[1], filters, kernel, padding=padding, dtype=dtype)
        whole = partial(whole_numbers, rng, largest, dtype)
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(whole(parameter.shape))
        x = whole(shape).requires_grad_()
        places, scratch = Gathered.of(conv, shape[1:]), torch.empty(0, dtype=dtype)
        one, other = F.max_pool2d(conv(x), 2).relu(), conv_pool_relu(x, conv, places, scratch)
        conv_pool_relu(whole((9, *shape[1:])), conv, places, scratch)  # in the same memory
        assert torch.equal(one, other)
        douts, leaves = [whole(one.shape) for _ in range(2)], [x, *conv.parameters()]
        for dout in douts:  # the second time in memory that the first has used
            gradients = (torch.autograd.grad(y, leaves, dout, retain_graph=True) for y in (one, other))
            assert all(map(torch.equal, *gradients))


def test_conv_pool_and_relu_at_once_follow_autocast() -> None:
    conv = nn.Conv2d(1, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output = conv_pool_relu(torch.rand(2, 1, 6, 6), conv, Gathered.of(conv, (1, 6, 6)), torch.empty(0))
    assert output.dtype == torch.bfloat16


def whole_numbers(rng: np.random.Generator, largest: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(rng.integers(-largest, largest, shape, endpoint=True), dtype=dtype)
