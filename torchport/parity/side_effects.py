"""What a run must leave as it was, what it must draw anew, and the statistics that it must move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from torchport.layers import NORMALISE, kind_of
from torchport.layers.smooth import running_limits
from torchport.parity.calls import Call, array_of, with_ancestors
from torchport.parity.judgement import Judgement
from torchport.parity.rows import Row
from torchport.parity.stages import Link, Stage

# Draws that agree by chance with a probability of 2^-BITS do not.
BITS = 24


def side_effect_rows(judgement: Judgement) -> Iterator[Row]:
    """Rows for what is amiss besides numbers, and for running statistics."""
    yield from _changed(judgement)
    yield from _earlier(judgement)
    for link in judgement.links:
        if link in judgement.applied and not link.fault and not judgement.run.predicting:
            stage, x = link.stages[0], judgement.applied[link].x
            if kind_of(stage.layer).ratio is not None:
                yield from _masks(judgement, link, stage, x)
            if isinstance(stage.layer, BatchNormalization):
                yield from _statistics(judgement, link, stage, x)


def _changed(judgement: Judgement) -> Iterator[Row]:
    """The input and parameters; random generators, where the reference draws nothing; and buffers in prediction."""
    run, port, calls = judgement.run, judgement.subject.port, judgement.record.calls

    def row(quantity: str, note: str, where: str, layer: str = "port") -> Row:
        return judgement.failing_row(layer, quantity, note, where)

    if not np.array_equal(array_of(judgement.x_tensor), run.x):
        where = next((call.where for call in calls[1:] if call.tensor is judgement.x_tensor), "")
        yield row("input afterwards", "the port changes its input in place", where)
    parameters = {id(value): name for name, value in port.named_parameters()}
    if changing := next((call for call in calls if call.name and id(call.tensor) in parameters), None):
        yield row("parameters", f"the port changes {parameters[id(changing.tensor)]} in forward", changing.where)
    draws = not run.predicting and any(kind_of(layer).repeat is not None for layer in judgement.subject.layers)
    if judgement.record.drew_at is not None and not draws:
        note = "the port draws random numbers, and the reference has no layer that does"
        yield row("random numbers", note, judgement.record.drew_at)
    for name, value in port.named_buffers() if run.predicting else ():
        if name in judgement.buffers and not torch.equal(value, judgement.buffers[name]):
            where = next((call.where for call in calls if call.tensor is value and call.name), "")
            using = (
                link.name
                for link in judgement.links
                if any(call.tensor is value for call in judgement.side_inputs(link))
            )
            yield row("buffers", f"the buffer {name} changes in prediction", where, next(using, "port"))


def _earlier(judgement: Judgement) -> Iterator[Row]:
    """The output of the run before must rest: it is no buffer that is filled anew."""
    for name, (tensor, value) in judgement.subject.earlier_outputs.items():
        if not np.array_equal(array_of(tensor), value, equal_nan=True):
            note = f"the output of the run before ({name}) has changed"
            yield judgement.failing_row("port", "earlier output", note, judgement.record.calls[-1].where)
    assert judgement.output is not None
    tensor = judgement.output.tensor.detach()
    judgement.subject.earlier_outputs = {judgement.run.name: (tensor, array_of(tensor))}


def _masks(judgement: Judgement, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
    """What is drawn must be drawn anew for every sample, and in every run."""
    made = judgement.reshaped(link.end.value, stage.name)
    if made is None:
        return
    seen, kept, where = (x != 0).reshape(len(x), -1), (made != 0).reshape(len(x), -1), judgement.where(link)  # (N, D)
    # Two draws agree with a probability of p^2 + (1 - p)^2.
    enough = BITS / max(-np.log2(stage.keep_ratio**2 + (1 - stage.keep_ratio) ** 2), 1e-9)
    mixed = (seen & kept).any(axis=0) & (seen & ~kept).any(axis=0)
    if not mixed.any() and seen.sum() - seen.any(axis=0).sum() > enough:
        yield judgement.failing_row(link.name, "output", "it drops the same of every sample", where)
    if judgement.run.labels is None:
        return
    before = judgement.subject.masks.setdefault(stage.name, kept)
    if judgement.run.again and seen.sum() > enough and np.array_equal(before & seen, kept & seen):
        yield judgement.failing_row(link.name, "output", "it drops what it dropped in an earlier run", where)


def _statistics(judgement: Judgement, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
    """The running statistics after x, if the port holds them in the reference's shape; the next runs go on from them.

    torch's variance is another one by definition, which is no fault.
    """
    after, n = judgement.applied[link].layer, len(x)
    held = [c for c in judgement.side_inputs(link) if not c.requires_grad and c.tensor.numel() == after.gamma.size]
    for name, limit in running_limits(stage.layer, x, judgement.a).items():
        value, old = getattr(after, name), getattr(stage.layer, name)
        kept = stage.layer.momentum * (0 if old is None else old)
        if not held:
            continue
        (ratio, nearest), known = _nearest(judgement, held, value, limit), ""
        if name == "running_var" and ratio > 1 < n:
            other_ratio, other = _nearest(judgement, held, kept + (value - kept) * n / (n - 1), 2 * limit)
            if other_ratio <= 1:
                known, nearest = "torch's running variance is the unbiased one, n/(n - 1) of the book's", other
        fitting = [call for call in held if judgement.compare_call(call, value, limit).ratio <= 1]
        if fitting == [nearest] or known:  # with few features several may fit
            setattr(after, name, np.asarray(nearest.array).reshape(value.shape))
        worst = judgement.compare_call(nearest, value, limit)
        yield judgement.row(link.name, name, NORMALISE, worst, judgement.where(link), known=known)
    stage.layer.running_mean, stage.layer.running_var = after.running_mean, after.running_var


def _nearest(judgement: Judgement, held: list[Call], value: Array, limit: Array) -> tuple[float, Call]:
    """Of the buffers that a layer takes, the one that is nearest to value, and how near in its limit."""
    return min(((judgement.compare_call(call, value, limit).ratio, call) for call in held), key=lambda pair: pair[0])


def extra_parameter_rows(judgement: Judgement) -> list[Row]:
    """Parameters that are trained and that the reference has not; those that nobody uses are only said."""
    rows, subject, calls = list[Row](), judgement.subject, judgement.record.calls
    taken = [piece.call for each in judgement.parameters.values() for found in each for piece in found.pieces]
    served, used = {id(call.tensor) for call in with_ancestors(calls, taken)}, {id(call.tensor): call for call in calls}
    for name, parameter in subject.port.named_parameters() if judgement.run.cotangent is not None else ():
        if id(parameter) in served or id(parameter) in subject.frozen:
            continue
        if parameter.grad is None or not parameter.grad.any():
            subject.note(f"{name} {'is not used' if parameter.grad is None else 'has a gradient of 0'}")
        else:
            user = used.get(id(parameter))
            link = next((link for link in judgement.links if user in judgement.side_inputs(link)), judgement.links[-1])
            note = "it gets a gradient and serves no layer of the reference"
            rows.append(judgement.failing_row(link.name, name, note, user.where if user else ""))
    return rows
