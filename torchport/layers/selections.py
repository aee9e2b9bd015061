"""Layers that move or select data: relu, max pooling, flattening, dropout. Bit for bit, but where windows overlap."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array, recorded
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import EXACT, SUM, LayerKind, Limits, Near, Prediction, Rule, register
from torchport.layers.modules import Dropout, window_about, window_module


def _flatten_forward(_: nr.Flatten, x: Near, __: Arithmetic) -> Array:
    return x.limit.reshape(len(x.value), -1)


def _flatten_backward(_: nr.Flatten, x: Near, dout: Near, __: Arithmetic) -> Limits:
    return Limits(dout.limit.reshape(x.value.shape), EXACT)


def _relu_forward(_: nr.Relu, x: Near, __: Arithmetic) -> Array:
    return np.where(x.value <= -x.limit, 0, x.limit)


def _relu_backward(_: nr.Relu, x: Near, dout: Near, __: Arithmetic) -> Limits:
    kink = (x.value > -x.limit) & (x.value <= x.limit)  # may be on either side of 0
    limit = np.where(kink, dout.size, np.where(x.value > x.limit, dout.limit, 0))
    return Limits(limit, EXACT, kinks=int(kink.sum()))


def _max_forward(layer: nr.Pooling, x: Near, _: Arithmetic) -> Array:
    return copy.copy(layer).forward(x.limit)


def _max_backward(layer: nr.Pooling, x: Near, dout: Near, a: Arithmetic) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x.value)
    chosen = recorded(twin.arg_max, twin)[:, np.newaxis]  # (N*OH*OW*C, 1)
    value, margin = twin.windows(x.value, -np.inf), twin.windows(x.limit, 0)  # (N*OH*OW*C, PH*PW)
    lowest, highest = np.take_along_axis(value - margin, chosen, axis=1), value + margin
    place = np.arange(value.shape[1])
    may_win = (place == chosen) | (highest > lowest) | ((highest == lowest) & (place < chosen))  # the first wins a tie
    kink = may_win.sum(axis=1, keepdims=True) > 1
    size, passed = (twin.per_window(d)[:, np.newaxis] for d in (dout.size, dout.limit))
    per_entry = np.where(kink & may_win, size, np.where(place == chosen, passed, 0))
    limit = twin.scatter(per_entry) + _overlap(twin, np.where(may_win, size, 0), a)
    return Limits(limit, EXACT, kinks=int(kink.sum()))


def _overlap(layer: nr.Pooling, contributions: Array, a: Arithmetic) -> Array:
    """Rounding of the sums where windows overlap; nothing where an entry is in one window only."""
    count = layer.scatter((contributions != 0).astype(float))
    return np.where(count > 1, a.of_sum(count, layer.scatter(contributions)), 0)


def _dropout_forward(layer: nr.Dropout, x: Near, _: Arithmetic) -> Array:
    return copy.copy(layer).forward(x.limit)  # the mask is repeated (trace.py)


def _dropout_backward(layer: nr.Dropout, x: Near, dout: Near, _: Arithmetic) -> Limits:
    twin = copy.copy(layer)
    twin.forward(x.value)
    return Limits(twin.backward(dout.limit), EXACT)


def _dropout_prediction(layer: nr.Dropout, x: Near, a: Arithmetic) -> Array:
    return np.asarray((1 - layer.dropout_ratio) * (x.limit + 2 * a.u * np.abs(x.value)) + a.tiny)


register(
    LayerKind(
        nr.Relu,
        lambda *_: nn.ReLU(),
        Rule(EXACT, _relu_forward, _relu_backward),
        lambda rng: (nr.Relu(), rng.standard_normal((3, 2, 6, 6))),
        about=lambda _: "max(0, x)",
    )
)
register(
    LayerKind(
        nr.Pooling,
        window_module(nn.MaxPool2d, -torch.inf),
        Rule(EXACT, _max_forward, _max_backward),
        lambda rng: (nr.Pooling(3, 3, 2, 1), rng.standard_normal((3, 2, 6, 6))),
        about=lambda layer: f"max of {window_about(layer)}",
    )
)
register(
    LayerKind(
        nr.Flatten,
        lambda *_: nn.Flatten(),
        Rule(EXACT, _flatten_forward, _flatten_backward),
        lambda rng: (nr.Flatten(), rng.standard_normal((3, 2, 6, 6))),
    )
)
register(
    LayerKind(
        nr.Dropout,
        lambda layer, _: Dropout(layer.dropout_ratio),
        Rule(EXACT, _dropout_forward, _dropout_backward),
        lambda rng: (nr.Dropout(0.4, np.random.RandomState(rng.integers(2**31))), rng.standard_normal((4, 10))),
        prediction=Prediction(SUM, _dropout_prediction),
        about=lambda layer: f"ratio {layer.dropout_ratio}, in training",
    )
)
