"""What a layer predicts with, where that is not what it trains with, and how far a correct port may be from it."""

from __future__ import annotations

import copy

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization, Dropout, Layer
from torchport.parity.bounds import NORMALISE, NORMALISE_ROUNDINGS, SUM, Near, rule_of
from torchport.parity.setting import Arithmetic
from torchport.states import layer_statistics

# Kinds of layers that predict otherwise than they train, and the rule that a report shows.
PREDICTING: dict[type, str] = {Dropout: SUM, BatchNormalization: NORMALISE}


def prediction_rule(layer: Layer) -> str | None:
    """The rule's name, None for a layer that predicts as it trains."""
    return next((rule for kind, rule in PREDICTING.items() if isinstance(layer, kind)), None)


def predict(layer: Layer, x: Near, a: Arithmetic) -> Near:
    """The output for x in prediction, and its limit; of any layer that has a rule. TypeError for others."""
    twin = copy.copy(layer)
    if isinstance(twin, Dropout):
        value = twin.forward(x.value, train_flg=False)
        return Near(value, (1 - twin.dropout_ratio) * x.limit + 2 * a.u * np.abs(value) + a.tiny)
    if isinstance(twin, BatchNormalization):
        return Near.within(twin.forward(x.value, train_flg=False), _normalised_limit(twin, x, a))
    return Near.within(twin.forward(x.value), rule_of(layer).forward(layer, x, a))


def _normalised_limit(layer: BatchNormalization, x: Near, a: Arithmetic) -> Array:
    """As in training, but that mean and variance are given numbers, which the port may hold rounded."""
    flat = Near(*(array.reshape(len(array), -1) for array in x))  # (N, D)
    mean, var = layer_statistics(layer).values()
    scale = np.abs(layer.gamma) / np.sqrt(var + layer.EPS)
    size = scale * (flat.size + np.abs(mean)) + np.abs(layer.beta)
    return np.asarray(scale * flat.limit + NORMALISE_ROUNDINGS * a.u * size + a.tiny).reshape(x.value.shape)
