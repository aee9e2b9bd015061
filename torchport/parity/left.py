"""What a run must leave as it was, what it must draw anew, and the statistics that it must move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from torchport.layers import NORMALISE, kind_of
from torchport.layers.smooth import running_limits
from torchport.parity.calls import Call, array_of, behind
from torchport.parity.judgement import Judgement
from torchport.parity.rows import Row
from torchport.parity.stages import Link, Stage

# Draws that agree by chance with a probability of 2^-BITS do not.
BITS = 24


def left_rows(judged: Judgement) -> Iterator[Row]:
    """Rows for what is amiss besides numbers, and for running statistics."""
    yield from _changed(judged)
    yield from _earlier(judged)
    for link in judged.links:
        if link in judged.applied and not link.fault and not judged.run.predicting:
            stage, x = link.stages[0], judged.applied[link].x
            if kind_of(stage.layer).ratio is not None:
                yield from _masks(judged, link, stage, x)
            if isinstance(stage.layer, BatchNormalization):
                yield from _statistics(judged, link, stage, x)


def _changed(judged: Judgement) -> Iterator[Row]:
    """The input and parameters; random generators, where the reference draws nothing; and buffers in prediction."""
    run, port, calls = judged.run, judged.subject.port, judged.record.calls

    def row(quantity: str, note: str, where: str, layer: str = "port") -> Row:
        return judged.wrong(layer, quantity, note, where)

    if not np.array_equal(array_of(judged.given), run.x):
        where = next((call.where for call in calls[1:] if call.tensor is judged.given), "")
        yield row("input afterwards", "the port changes its input in place", where)
    parameters = {id(value): name for name, value in port.named_parameters()}
    if changing := next((call for call in calls if call.name and id(call.tensor) in parameters), None):
        yield row("parameters", f"the port changes {parameters[id(changing.tensor)]} in forward", changing.where)
    draws = not run.predicting and any(kind_of(layer).repeat is not None for layer in judged.subject.layers)
    if judged.record.drew is not None and not draws:
        note = "the port draws random numbers, and the reference has no layer that does"
        yield row("random numbers", note, judged.record.drew)
    for name, value in port.named_buffers() if run.predicting else ():
        if name in judged.buffers and not torch.equal(value, judged.buffers[name]):
            where = next((call.where for call in calls if call.tensor is value and call.name), "")
            using = (link.name for link in judged.links if any(call.tensor is value for call in judged.sides(link)))
            yield row("buffers", f"the buffer {name} changes in prediction", where, next(using, "port"))


def _earlier(judged: Judgement) -> Iterator[Row]:
    """The output of the run before must rest: it is no buffer that is filled anew."""
    for name, (tensor, value) in judged.subject.seen.items():
        if not np.array_equal(array_of(tensor), value, equal_nan=True):
            note = f"the output of the run before ({name}) has changed"
            yield judged.wrong("port", "earlier output", note, judged.record.calls[-1].where)
    assert judged.output is not None
    tensor = judged.output.tensor.detach()
    judged.subject.seen = {judged.run.name: (tensor, array_of(tensor))}


def _masks(judged: Judgement, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
    """What is drawn must be drawn anew for every sample, and in every run."""
    made = judged.shaped(link.end.value, stage.name)
    if made is None:
        return
    seen, kept, where = (x != 0).reshape(len(x), -1), (made != 0).reshape(len(x), -1), judged.where(link)  # (N, D)
    # Two draws agree with a probability of p^2 + (1 - p)^2.
    enough = BITS / max(-np.log2(stage.kept**2 + (1 - stage.kept) ** 2), 1e-9)
    mixed = (seen & kept).any(axis=0) & (seen & ~kept).any(axis=0)
    if not mixed.any() and seen.sum() - seen.any(axis=0).sum() > enough:
        yield judged.wrong(link.name, "output", "it drops the same of every sample", where)
    if judged.run.labels is None:
        return
    before = judged.subject.masks.setdefault(stage.name, kept)
    if judged.run.again and seen.sum() > enough and np.array_equal(before & seen, kept & seen):
        yield judged.wrong(link.name, "output", "it drops what it dropped in an earlier run", where)


def _statistics(judged: Judgement, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
    """The running statistics after x, if the port holds them in the reference's shape; the next runs go on from them.

    torch's variance is another one by definition, which is no fault.
    """
    after, n = judged.applied[link].layer, len(x)
    held = [c for c in judged.sides(link) if not c.requires_grad and c.tensor.numel() == after.gamma.size]
    for name, limit in running_limits(stage.layer, x, judged.a).items():
        value, old = getattr(after, name), getattr(stage.layer, name)
        kept = stage.layer.momentum * (0 if old is None else old)
        if not held:
            continue
        (ratio, nearest), known = _nearest(judged, held, value, limit), ""
        if name == "running_var" and ratio > 1 < n:
            other_ratio, other = _nearest(judged, held, kept + (value - kept) * n / (n - 1), 2 * limit)
            if other_ratio <= 1:
                known, nearest = "torch's running variance is the unbiased one, n/(n - 1) of the book's", other
        fitting = [call for call in held if judged.compared(call, value, limit).ratio <= 1]
        if fitting == [nearest] or known:  # with few features several may fit
            setattr(after, name, np.asarray(nearest.array).reshape(value.shape))
        worst = judged.compared(nearest, value, limit)
        yield judged.row(link.name, name, NORMALISE, worst, judged.where(link), known=known)
    stage.layer.running_mean, stage.layer.running_var = after.running_mean, after.running_var


def _nearest(judged: Judgement, held: list[Call], value: Array, limit: Array) -> tuple[float, Call]:
    """Of the buffers that a layer takes, the one that is nearest to value, and how near in its limit."""
    return min(((judged.compared(call, value, limit).ratio, call) for call in held), key=lambda pair: pair[0])


def extra_rows(judged: Judgement) -> list[Row]:
    """Parameters that are trained and that the reference has not; those that nobody uses are only said."""
    rows, subject, calls = list[Row](), judged.subject, judged.record.calls
    taken = [piece.call for each in judged.parameters.values() for found in each for piece in found.pieces]
    served, used = {id(call.tensor) for call in behind(calls, taken)}, {id(call.tensor): call for call in calls}
    for name, parameter in subject.port.named_parameters() if judged.run.cotangent is not None else ():
        if id(parameter) in served or id(parameter) in subject.frozen:
            continue
        if parameter.grad is None or not parameter.grad.any():
            subject.note(f"{name} {'is not used' if parameter.grad is None else 'has a gradient of 0'}")
        else:
            user = used.get(id(parameter))
            link = next((link for link in judged.links if user in judged.sides(link)), judged.links[-1])
            note = "it gets a gradient and serves no layer of the reference"
            rows.append(judged.wrong(link.name, name, note, user.where if user else ""))
    return rows
