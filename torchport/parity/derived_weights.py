"""Weights that a port computes of others, as weight_norm does: whether what arrives at those is the gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from numpy_ref.checks import Array
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity.calls import Call, array_of, with_ancestors
from torchport.parity.judgement import Judgement
from torchport.parity.parameters import Location
from torchport.parity.recording import record
from torchport.parity.rows import Row

STEP = 1e-2  # of a parameter's size, as float32 needs it
WITHIN = 0.05  # relative: a coarse check, for what is detached, doubled or of the wrong sign


def computed_rows(judgement: Judgement) -> Iterator[Row]:
    """Every such weight moved along a drawn direction of its parameters, against their gradients along it."""
    for (stage, attribute), found in judgement.parameters.items():
        leaves = [] if not found or found[0].settable else _leaves(judgement, found[0])
        if not leaves:
            continue
        moved, arrived = _along(judgement, found[0], leaves)
        size = max(float(np.linalg.norm(each)) for each in (moved, arrived))
        expected, actual = float(moved.sum()), float(arrived.sum())
        if not abs(expected - actual) <= WITHIN * max(abs(expected), abs(actual)) + 1e-3 * size:
            names = " and ".join(leaf.label for leaf in leaves)
            note = f"it is computed of {names}, where {actual:.3g} arrives along a direction, expected {expected:.3g}"
            yield judgement.failing_row(
                stage, f"grad_{MODULE_ATTRIBUTES[attribute]}", note, judgement.where(judgement.link_of(stage))
            )


def _leaves(judgement: Judgement, found: Location) -> list[Call]:
    """The port's parameters behind a weight that need a gradient as given."""
    seen = with_ancestors(judgement.record.calls, [piece.call for piece in found.pieces])
    held = {id(call.tensor): call for call in seen if call.is_leaf and call.label}
    return [call for key, call in held.items() if key not in judgement.subject.frozen]


def _along(judgement: Judgement, found: Location, leaves: list[Call]) -> tuple[Array, Array]:
    """By how much the result moves with each number of the weight, and by what arrives at each of the leaves'."""
    rng, before = np.random.default_rng(0), [array_of(leaf.tensor) for leaf in leaves]
    steps = [STEP * np.sqrt(np.mean(old**2) or 1) * rng.choice([-1.0, 1.0], old.shape) for old in before]
    sides = []
    for sign in (1, -1):
        _set(leaves, [old + sign * step for old, step in zip(before, steps, strict=True)])
        sides.append(_weights(judgement, found))
    _set(leaves, before)
    halves = [(high - low) / 2 for high, low in zip(*sides, strict=True)]
    return _products(halves, [piece.call for piece in found.pieces]), _products(steps, leaves)


def _products(steps: list[Array], calls: list[Call]) -> Array:
    found = [(step * call.grad).ravel() for step, call in zip(steps, calls, strict=True) if call.grad is not None]
    return np.concatenate([*found, np.zeros(1)])


def _set(leaves: list[Call], values: list[Array]) -> None:
    with torch.no_grad():
        for leaf, value in zip(leaves, values, strict=True):
            leaf.tensor.copy_(torch.from_numpy(value))


def _weights(judgement: Judgement, found: Location) -> list[Array]:
    """The weight's pieces as the port computes them now, by the same calls."""
    port = judgement.subject.port
    for name, value in port.named_buffers():  # which a forward may move
        if name in judgement.buffers:
            value.data.copy_(judgement.buffers[name])
    with torch.no_grad():
        again = record(port, judgement.x_tensor.detach().clone(), frozenset())
    return [array_of(again.calls[piece.call.number].tensor) for piece in found.pieces]
