"""Judges, by finite differences, the gradients of parameters from which a port computes a weight, as weight_norm does.

The gradient of the computed weight itself is judged in backward.
"""

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

STEP = 1e-2  # relative to a parameter's size; large enough for float32
TOLERANCE = 0.05  # relative: coarse, as it is to find what is detached, doubled or of the wrong sign


def derived_weight_rows(judgement: Judgement) -> Iterator[Row]:
    """Step along a drawn direction of each computed weight's parameters; yield rows where their gradients disagree."""
    for (stage, attribute), locations in judgement.parameters.items():
        leaves = [] if not locations or locations[0].settable else _leaves(judgement, locations[0])
        if not leaves:
            continue
        by_weight, by_leaves = _changes_along(judgement, locations[0], leaves)
        size = max(float(np.linalg.norm(change)) for change in (by_weight, by_leaves))
        expected, actual = float(by_weight.sum()), float(by_leaves.sum())
        if not abs(expected - actual) <= TOLERANCE * max(abs(expected), abs(actual)) + 1e-3 * size:
            names = " and ".join(leaf.label for leaf in leaves)
            note = f"it is computed of {names}, where {actual:.3g} arrives along a direction, expected {expected:.3g}"
            where = judgement.where(judgement.link_of(stage))
            yield judgement.failing_row(stage, f"grad_{MODULE_ATTRIBUTES[attribute]}", note, where)


def _leaves(judgement: Judgement, location: Location) -> list[Call]:
    """The port's parameters that a weight is computed from, but for those frozen by the user."""
    calls = with_ancestors(judgement.record.calls, [piece.call for piece in location.pieces])
    leaf_by_id = {id(call.tensor): call for call in calls if call.is_leaf and call.label}
    return [call for key, call in leaf_by_id.items() if key not in judgement.subject.frozen]


def _changes_along(judgement: Judgement, location: Location, leaves: list[Call]) -> tuple[Array, Array]:
    """The first-order change of the result along a drawn step of leaves, entry by entry: by the weight, by leaves."""
    rng, before = np.random.default_rng(0), [array_of(leaf.tensor) for leaf in leaves]
    steps = [STEP * np.sqrt(np.mean(old**2) or 1) * rng.choice([-1.0, 1.0], old.shape) for old in before]
    ends = []
    for sign in (1, -1):
        _write(leaves, [old + sign * step for old, step in zip(before, steps, strict=True)])
        ends.append(_pieces_now(judgement, location))
    _write(leaves, before)
    halves = [(high - low) / 2 for high, low in zip(*ends, strict=True)]
    return _products(halves, [piece.call for piece in location.pieces]), _products(steps, leaves)


def _products(steps: list[Array], calls: list[Call]) -> Array:
    """Each entry of steps times the gradient that arrived there."""
    products = [(step * call.grad).ravel() for step, call in zip(steps, calls, strict=True) if call.grad is not None]
    return np.concatenate([*products, np.zeros(1)])


def _write(leaves: list[Call], values: list[Array]) -> None:
    with torch.no_grad():
        for leaf, value in zip(leaves, values, strict=True):
            leaf.tensor.copy_(torch.from_numpy(value))


def _pieces_now(judgement: Judgement, location: Location) -> list[Array]:
    """The numbers of the weight's pieces as the port computes them now, by the same calls."""
    port = judgement.subject.port
    for name, value in port.named_buffers():  # a forward may have moved them
        if name in judgement.buffers:
            value.data.copy_(judgement.buffers[name])
    with torch.no_grad():
        run = record(port, judgement.x_tensor.detach().clone(), frozenset())
    return [array_of(run.calls[piece.call.number].tensor) for piece in location.pieces]
