"""Layers that move or select data: relu, max pooling, flattening; exact, unless windows overlap. And dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers.arithmetic import PARTS, Arithmetic
from torchport.layers.kinds import EXACT, SCALE, LayerKind, Limits, Rule, image, other, register
from torchport.layers.modules import Dropout, window_about, window_module


def zero_limit(*_: Any) -> Array:
    """The limit 0: results must be exact."""
    return np.zeros(())


SCALED_BACK = 5  # roundings: of 1 - r, of 1 / (1 - r), of its product with x, of 1 - r anew, of the product with that

SAME = Rule(EXACT, zero_limit, lambda *_: Limits(zero_limit()))


def _max_backward(layer: nr.Pooling, x: Array, dout: Array, a: Arithmetic) -> Limits:
    """Limits if windows overlap: an entry may be the maximum of several, whose gradients are then added up."""
    if layer.stride >= max(layer.pool_h, layer.pool_w):
        return Limits(zero_limit())
    twin = other(layer)
    twin.forward(x)
    k, *others = (twin.backward(part(dout)) for part in PARTS)
    return Limits(np.where(k > 1, a.by_hand.of_products(k, *others), 0))


class _RepeatedDraw(np.random.RandomState):
    """A generator of numbers that make dropout keep the entries of kept, whatever its ratio."""

    def __init__(self, kept: Array) -> None:
        super().__init__(0)
        self.kept = kept

    def rand(self, *_: int) -> Array:  # type: ignore[override]
        return np.where(self.kept, 2.0, -1.0)


def _repeat_mask(layer: nr.Dropout, x: Array, y: Array, dx: Array | None) -> Any:
    """The layer with the mask by which the port made y of x; where x is 0, the mask of dx, or without dx all kept.

    Raises ValueError for a number of kept entries that the ratio does not give.
    """
    kept, count, p = np.where(x != 0, y != 0, True if dx is None else dx != 0), np.sum(x != 0), 1 - layer.dropout_ratio
    kept_count = np.sum(kept & (x != 0))
    if abs(kept_count - count * p) > chance_limit(count * p * (1 - p)):
        raise ValueError(f"kept {kept_count / count:.3%} of {count} entries, where {p:.3%} were expected")
    return other(layer, rng=_RepeatedDraw(kept))


def chance_limit(variance: Any, largest: float = 1.0, tests: int = 1) -> Any:
    """What a sum of draws of mean 0, each at most largest, exceeds with a probability of 3e-8; of several sums, any.

    By Bernstein's inequality: 2 tests exp(-t^2 / 2 / (variance + largest t / 3)) = 2 exp(-18). By Freedman's (Annals of
    Probability 3:100, 1975) too, where the earlier draws decide on how much a draw counts.
    """
    log = 18 + math.log(tests)
    return np.where(variance > 0, largest * log / 3 + np.sqrt((largest * log / 3) ** 2 + 2 * log * variance), 0)


def _scaled_back(_: nr.Dropout, x: Array, a: Arithmetic) -> Array:
    """The limit of F.dropout(x, r) * (1 - r), which divides first: of the scale, its inverse, and both products."""
    return np.asarray(SCALED_BACK * a.u * np.abs(x))


def _dropout_prediction(layer: nr.Dropout, x: Array, a: Arithmetic) -> Array:
    return np.asarray(a.of_sum(1, (1 - layer.dropout_ratio) * np.abs(x)))  # the factor and the product are rounded


register(
    LayerKind(nr.Relu, lambda *_: nn.ReLU(), SAME, lambda rng: (nr.Relu(), image(rng)), about=lambda _: "max(0, x)"),
    LayerKind(nr.Flatten, lambda *_: nn.Flatten(), SAME, lambda rng: (nr.Flatten(), image(rng))),
    LayerKind(
        nr.Pooling,
        window_module(nn.MaxPool2d, -torch.inf),
        Rule(EXACT, zero_limit, _max_backward),
        lambda rng: (nr.Pooling(3, 3, 2, 1), image(rng)),
        about=lambda layer: f"max of {window_about(layer)}",
    ),
    LayerKind(
        nr.Dropout,
        lambda layer, _: Dropout(layer.dropout_ratio),
        Rule(SCALE, _scaled_back, lambda layer, _, dout, a: Limits(_scaled_back(layer, dout, a))),
        lambda rng: (nr.Dropout(0.4, np.random.RandomState(rng.integers(2**31))), rng.standard_normal((4, 10))),
        prediction=_dropout_prediction,
        repeat=_repeat_mask,
        ratio=lambda layer: layer.dropout_ratio,
        about=lambda layer: f"ratio {layer.dropout_ratio}, in training",
    ),
)
