"""Backward: the gradients that arrive in the port, against each layer's backward of the gradient that it was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from numpy_ref.checks import Array
from torchport.layers import kind_of
from torchport.layers.arithmetic import arithmetic_of
from torchport.layers.terms import MODULE_ATTRIBUTES, to_torch_layout
from torchport.parity.calls import array_of, describe_error
from torchport.parity.causes import Deviation
from torchport.parity.compare import compare
from torchport.parity.expected import Gradient, Stretch, expected_gradients, only_passes_gradients
from torchport.parity.judgement import Judgement
from torchport.parity.losses import loss_rows
from torchport.parity.rows import Row
from torchport.parity.stages import Link
from torchport.parity.subject import Key


def backward_rows(judgement: Judgement) -> Iterator[Row]:
    """The loss, and from the output to the input."""
    _watch(judgement)
    dout, rows = _propagated(judgement)
    yield from rows
    if any("raised" in row.worst.note for row in rows):
        return
    if dout is None:
        yield _cut_row(judgement, judgement.links, "no gradient passes here")
        return
    sums = _Shared(judgement)
    yield from sums.rows()
    pieces, behind = _seen(judgement), list[Link]()
    while pieces:
        piece = pieces.pop()
        found = list(_rows(judgement, piece, dout, sums))
        if behind and not all(row.ok for row in found):
            together = list(_rows(judgement, [*piece, *behind], dout, sums))
            if all(row.ok for row in together):
                found = together
        behind = [link for link in piece if _lies_before(judgement, link)]
        if not all(row.ok for row in found) and pieces and _may_join(pieces[-1], piece):
            together = list(_rows(judgement, [*pieces[-1], *piece], dout, sums))
            if all(row.ok for row in together):
                pieces.pop()
                found = together
        yield from found
        for link in piece:
            judgement.applied.pop(link, None)  # which holds its gradients: AlexNet's are 0.5 GB


def _may_join(before: list[Link], links: list[Link]) -> bool:
    """Whether a fault may be none with the layer before: of ties that a relu there drops, or in-place on a view."""
    if any(link.fault for link in (*before, *links)):
        return False
    return links[0].start.grad is None or all(only_passes_gradients(stage) for link in before for stage in link.stages)


def _lies_before(judgement: Judgement, link: Link) -> bool:
    """Whether a layer that dropped no value, and was taken for none, drops gradients: then the call before has it."""
    if link.start is not link.end or len(link.stages) != 1 or not only_passes_gradients(link.stages[0]):
        return False
    name, (layer,) = link.stages[0].name, judgement.layers(link)
    x, dout = judgement.reshaped(link.start.value, name), judgement.reshaped(link.end.grad, name, 1)
    if x is None or dout is None:
        return False
    layer.forward(x)
    return not np.array_equal(layer.backward(dout).ravel(), dout.ravel())


def _watch(judgement: Judgement) -> None:
    """Let gradients be kept where layers end and where parameters are used."""
    for call in judgement.record.calls:
        if call.is_leaf and not call.label:  # the port's own were cleared before the run, which may go backward itself
            call.tensor.grad = None
    held = [piece.call for each in judgement.parameters.values() for found in each for piece in found.pieces]
    for call in {judgement.record.calls[0], *held, *(link.end for link in judgement.links)}:
        call.watch()


def _propagated(judgement: Judgement) -> tuple[Array | None, list[Row]]:
    """Go backward from the loss or from the drawn gradient: what arrives at the output, and rows for the loss."""
    run, output, subject = judgement.run, judgement.output, judgement.subject
    assert output is not None
    if not output.tensor.requires_grad:
        return None, []
    try:
        if run.labels is None:
            assert run.cotangent is not None
            cotangent = subject.setting.tensor(run.cotangent).to(output.tensor.dtype)
            output.tensor.backward(cotangent.reshape(output.tensor.shape))
            return array_of(cotangent), []
        value = subject.loss(output.tensor, torch.tensor(run.labels, device=subject.setting.device))
        value.backward()
    except Exception as error:  # whatever a user's loss or backward raises
        changing = [c.where for c in judgement.record.calls if c.name.endswith("_") and not c.name.endswith("like_")]
        where = ", ".join(dict.fromkeys(changing)) if "inplace operation" in str(error) else ""
        layer = "port" if run.labels is None else "loss"
        return None, [judgement.failing_row(layer, "gradient", f"backward raised {describe_error(error)}", where)]
    # Under autocast the loss is computed in the dtype of what the port returns, or better.
    x, a = array_of(output.tensor), arithmetic_of(output.tensor.dtype)
    return output.grad, list(loss_rows(run.name, x, run.labels, value, output.grad, a, subject.takes))


def _seen(judgement: Judgement) -> list[list[Link]]:
    """Links, those together between which no gradient can be seen."""
    found, current = list[list[Link]](), list[Link]()
    for link in judgement.links:
        trains = any(True for _ in judgement.parameters_of(link))
        if not (current or trains or link.start.requires_grad or link.end.requires_grad):
            continue  # of the input, or what only depends on it: no gradient is expected
        current.append(link)
        if link.end.requires_grad or link is judgement.links[-1]:
            found.append(current)
            current = []
    return found


def _rows(judgement: Judgement, links: list[Link], last: Array, sums: _Shared) -> Iterator[Row]:
    """Of one stretch; none where a fault lies in it, or nothing arrives behind it, which is told there."""
    first = next((link.stages[0].name for link in links if link.stages), "")
    x, dout = links[0].start.value, last if links[-1] is judgement.links[-1] else links[-1].end.grad
    undrawn = any(kind_of(s.layer).repeat and link not in judgement.applied for link in links for s in link.stages)
    if any(link.fault for link in links) or x is None or dout is None or undrawn:
        return
    count = sum(len(link.stages) for link in links)
    stretch = Stretch(links, x.reshape(judgement.shape(first)), dout.reshape(judgement.shape(first, count)))
    for gradient in expected_gradients(judgement, stretch):
        if gradient.name != "grad_input":
            yield from _parameter_rows(judgement, stretch, gradient, sums)
        elif stretch.start.requires_grad and (stretch.start is not links[-1].end or links[-1] is judgement.links[-1]):
            arrived = stretch.start.grad
            if arrived is None and np.any(gradient.value):
                yield _cut_row(judgement, links, "no gradient arrives at its input")
                return
            actual = np.zeros_like(gradient.value) if arrived is None else arrived.reshape(gradient.value.shape)
            yield _row(judgement, stretch, gradient, actual)


def _parameter_rows(judgement: Judgement, stretch: Stretch, gradient: Gradient, sums: _Shared) -> Iterator[Row]:
    """In whichever of the layouts that its values allow the gradient fits best."""
    stage, whole = gradient.stage, sums.added(gradient)
    if whole is None:
        return
    rows, found = list[Row](), judgement.parameters[stage.name, gradient.name]
    for each in found:
        arrived = each.gradient(whole.value)
        if arrived is None and np.any(whole.value):
            rows.append(
                judgement.failing_row(
                    stage.name, whole.quantity, "it gets no gradient", judgement.where(*stretch.links)
                )
            )
        else:
            rows.append(_row(judgement, stretch, whole, np.zeros_like(whole.value) if arrived is None else arrived))
    best = min(range(len(rows)), key=lambda index: rows[index].worst.ratio)
    found.insert(0, found.pop(best))  # of a symmetric matrix say, the layout to go on with
    yield rows[best]


def _row(judgement: Judgement, stretch: Stretch, gradient: Gradient, actual: Array) -> Row:
    """One gradient against its limit, told in torch's layout."""
    value, name, cause = gradient.value, stretch.name, ""
    limit = np.broadcast_to(judgement.widened_for_fft(stretch.links, gradient.limit, value), value.shape)
    worst = compare(actual, value, limit, gradient.entry_limit)
    if worst.ratio > 1 and len(stretch.stages) == 1:
        (layer,) = judgement.layers(stretch.links[0])
        cause = Deviation(name, layer, stretch.x, actual, judgement.a, limit, gradient.name, stretch.dout).cause
    if gradient.name != "grad_input":
        name = gradient.stage.name
        if to_torch_layout(value) is not value:
            worst = replace(worst, index=worst.index[::-1], shape=worst.shape[::-1])
    return judgement.row(name, gradient.quantity, stretch.rule, worst, judgement.where(*stretch.links), cause)


def _cut_row(judgement: Judgement, links: Sequence[Link], note: str) -> Row:
    """Where gradients stop: in the first link whose end has none, at the call that has one in and none out."""
    blamed = next((link for link in links if not link.end.requires_grad and link.stages), links[-1])
    calls = judgement.record.calls
    for call in judgement.finder.calls_of(blamed):
        if not call.requires_grad and any(calls[parent].requires_grad for parent in call.parents):
            return judgement.failing_row(blamed.name, "grad_input", note, call.where)
    return judgement.failing_row(blamed.name, "grad_input", note, judgement.where(blamed))


class _Shared:
    """Parameters of the port that stand for several of the reference's: right where the reference shares them too."""

    def __init__(self, judgement: Judgement) -> None:
        self.judgement = judgement
        self.users: dict[str, list[Key]] = {}  # by the tensor and what of it
        self.sums: dict[str, Gradient] = {}
        for key, each in judgement.parameters.items():
            if each and each[0].settable:
                self.users.setdefault(self._place(key), []).append(key)

    def _place(self, key: Key) -> str:
        return str([(id(piece.call.tensor), piece.tensor_region) for piece in self.judgement.parameters[key][0].pieces])

    def rows(self) -> Iterator[Row]:
        """Of parameters that are one in the port alone."""
        for keys in self.users.values():
            if len({self.judgement.subject.origins.get(key) for key in keys}) == len(keys) > 1:
                names = [f"{stage}.{MODULE_ATTRIBUTES[attribute]}" for stage, attribute in keys]
                last, attribute = keys[-1]
                del keys[1:]
                where = self.judgement.where(self.judgement.link_of(last))
                note = f"{' and '.join(names)} are one parameter in the port"
                yield self.judgement.failing_row(last, f"grad_{MODULE_ATTRIBUTES[attribute]}", note, where)

    def added(self, gradient: Gradient) -> Gradient | None:
        """With the gradients of the layers that share the parameter; None until all of them are there."""
        key = gradient.stage.name, gradient.name
        if not self.judgement.parameters.get(key):
            return None
        place = self._place(key)
        users, before = self.users.get(place, [key]), self.sums.get(place)
        if before is not None:
            value = before.value + gradient.value
            limit = before.limit + gradient.limit + 2 * self.judgement.a.u * np.abs(value)  # and the sum's rounding
            gradient = gradient._replace(value=value, limit=limit, entry_limit=None)
        if len(users) > 1:
            users.remove(key)
            self.sums[place] = gradient
            return None
        return gradient
