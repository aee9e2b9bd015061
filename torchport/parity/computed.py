"""Weights that a port computes of others, as weight_norm does: whether what arrives at those is the gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from numpy_ref.checks import Array
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity.judgement import Judgement
from torchport.parity.parameters import Found
from torchport.parity.recording import Call, as_array, record
from torchport.parity.report import Row

STEP = 1e-2  # of a parameter's size, as float32 needs it
WITHIN = 0.05  # relative: a coarse check, for what is detached, doubled or of the wrong sign


def computed_rows(judged: Judgement) -> Iterator[Row]:
    """Every such weight moved along a drawn direction of its parameters, against their gradients along it."""
    for (stage, attribute), found in judged.parameters.items():
        if not found or found[0].settable:
            continue
        leaves = _leaves(judged, found[0])
        if not leaves:
            continue
        moved, reached, size = _along(judged, found[0], leaves)
        if not abs(moved - reached) <= WITHIN * max(abs(moved), abs(reached)) + 1e-3 * size:
            names = " and ".join(leaf.label for leaf in leaves)
            note = f"it is computed of {names}, where {reached:.3g} arrives along a direction, expected {moved:.3g}"
            link = next(link for link in judged.links if stage in [each.name for each in link.stages])
            yield judged.wrong(stage, f"grad_{MODULE_ATTRIBUTES[attribute]}", note, judged.where(link))


def _leaves(judged: Judgement, found: Found) -> list[Call]:
    """The port's parameters behind a weight that need a gradient as given."""
    seen, todo = dict[int, Call](), [piece.call for piece in found.pieces]
    while todo:
        call = todo.pop()
        if call.number not in seen:
            seen[call.number] = call
            todo += [judged.record.calls[parent] for parent in call.parents]
    held = {id(call.tensor): call for call in seen.values() if call.is_leaf and call.label}
    return [call for key, call in held.items() if key not in judged.subject.frozen]


def _along(judged: Judgement, found: Found, leaves: list[Call]) -> tuple[float, float, float]:
    """How the result moves with the weight, what arrives at the leaves, and the size of either's terms."""
    rng, before = np.random.default_rng(0), [leaf.tensor.detach().clone() for leaf in leaves]
    steps = [STEP * float(old.double().square().mean().sqrt() or 1) for old in before]
    directions = [step * rng.choice([-1.0, 1.0], tuple(old.shape)) for step, old in zip(steps, before, strict=True)]
    sides = []
    for sign in (1, -1):
        for leaf, old, direction in zip(leaves, before, directions, strict=True):
            _set(leaf, old + sign * torch.as_tensor(direction, dtype=old.dtype, device=old.device))
        sides.append(_weights(judged, found))
    for leaf, old in zip(leaves, before, strict=True):
        _set(leaf, old)
    terms = [
        (high - low) / 2 * piece.call.grad
        for high, low, piece in zip(*sides, found.pieces, strict=True)
        if piece.call.grad is not None
    ]
    arrived = [
        leaf.grad * direction for leaf, direction in zip(leaves, directions, strict=True) if leaf.grad is not None
    ]
    size = max(float(np.sqrt(sum((term**2).sum() for term in each))) for each in (terms, arrived))
    return float(sum(term.sum() for term in terms)), float(sum(term.sum() for term in arrived)), size


def _weights(judged: Judgement, found: Found) -> list[Array]:
    """The weight's pieces as the port computes them now, by the same calls."""
    for name, value in judged.subject.port.named_buffers():  # which a forward may move
        if name in judged.buffers:
            value.data.copy_(judged.buffers[name])
    with torch.no_grad():
        again = record(judged.subject.port, judged.subject.port, judged.given.detach().clone(), frozenset())
    return [np.asarray(as_array(again.calls[piece.call.number].tensor)) for piece in found.pieces]


def _set(leaf: Call, value: torch.Tensor) -> None:
    with torch.no_grad():
        leaf.tensor.copy_(value)
