"""Judges the backward pass: each gradient in the port against the layer's backward of the gradient it received."""

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
from torchport.parity.causes import cause_of
from torchport.parity.compare import compare
from torchport.parity.deviation import Deviation
from torchport.parity.expected import Gradient, Stretch, expected_gradients, only_passes_gradients
from torchport.parity.judgement import Judgement
from torchport.parity.losses import loss_rows
from torchport.parity.rows import Row
from torchport.parity.stages import Link
from torchport.parity.subject import Key


def backward_rows(judgement: Judgement) -> Iterator[Row]:
    """Yield rows for the loss, then for the gradients from the output back to the input."""
    _watch(judgement)
    dout, rows = _run_backward(judgement)
    yield from rows
    if any("raised" in row.worst.note for row in rows):
        return
    if dout is None:
        yield _cut_row(judgement, judgement.links, "no gradient passes here")
        return
    sums = _SharedSums(judgement)
    yield from sums.rows()
    stretches, absorbed = _observable_stretches(judgement), list[Link]()
    while stretches:
        links = stretches.pop()
        rows = list(_stretch_rows(judgement, links, dout, sums))
        if absorbed and not _all_ok(rows):
            together = list(_stretch_rows(judgement, [*links, *absorbed], dout, sums))
            rows = together if _all_ok(together) else rows
        absorbed = [link for link in links if _is_absorbed(judgement, link)]
        if not _all_ok(rows) and stretches and _may_join(stretches[-1], links):
            together = list(_stretch_rows(judgement, [*stretches[-1], *links], dout, sums))
            if _all_ok(together):
                stretches.pop()
                rows = together
        yield from rows
        for link in links:
            judgement.applied.pop(link, None)  # it holds the layer's gradients: AlexNet's are 0.5 GB


def _all_ok(rows: Sequence[Row]) -> bool:
    return all(row.ok for row in rows)


def _may_join(before: list[Link], links: list[Link]) -> bool:
    """Whether links may hold together with the layer before: a relu may drop ties, a view be changed in place."""
    if any(link.fault for link in (*before, *links)):
        return False
    return links[0].start.grad is None or all(only_passes_gradients(stage) for link in before for stage in link.stages)


def _is_absorbed(judgement: Judgement, link: Link) -> bool:
    """Whether the link has no call, as its layer changed no value, but drops gradients: the call before makes it."""
    if link.start is not link.end or len(link.stages) != 1 or not only_passes_gradients(link.stages[0]):
        return False
    name, (layer,) = link.stages[0].name, judgement.layers(link)
    x, dout = judgement.reshaped(link.start.value, name), judgement.reshaped(link.end.grad, name, 1)
    if x is None or dout is None:
        return False
    layer.forward(x)
    return not np.array_equal(layer.backward(dout).ravel(), dout.ravel())


def _watch(judgement: Judgement) -> None:
    """Capture gradients at the input, at the ends of layers and at parameters."""
    for call in judgement.record.calls:
        # The port's labelled ones were cleared before the run, in which the port may go backward itself.
        if call.is_leaf and not call.label:
            call.tensor.grad = None
    ends = (link.end for link in judgement.links)
    for call in {judgement.record.calls[0], *judgement.parameter_calls, *ends}:
        call.watch()


def _run_backward(judgement: Judgement) -> tuple[Array | None, list[Row]]:
    """Run backward from the loss or the drawn cotangent; return the gradient at the output and rows for the loss."""
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
    # Under autocast the loss is computed in the dtype of the port's output, or a more precise one.
    x, a = array_of(output.tensor), arithmetic_of(output.tensor.dtype)
    return output.grad, list(loss_rows(run.name, x, run.labels, value, output.grad, a, subject.takes))


def _observable_stretches(judgement: Judgement) -> list[list[Link]]:
    """The links, grouped so that a gradient can be observed at both ends of each group."""
    stretches, current = list[list[Link]](), list[Link]()
    for link in judgement.links:
        trains = any(True for _ in judgement.parameters_of(link))
        if not (current or trains or link.start.requires_grad or link.end.requires_grad):
            continue  # before the first trained parameter: no gradient is expected
        current.append(link)
        if link.end.requires_grad or link is judgement.links[-1]:
            stretches.append(current)
            current = []
    return stretches


def _stretch_rows(judgement: Judgement, links: list[Link], last_dout: Array, sums: _SharedSums) -> Iterator[Row]:
    """Yield rows for one group of links; none if it has a fault, or no gradient arrives after it (reported there)."""
    x, dout = links[0].start.value, last_dout if links[-1] is judgement.links[-1] else links[-1].end.grad
    undrawn = any(kind_of(s.layer).repeat and link not in judgement.applied for link in links for s in link.stages)
    if any(link.fault for link in links) or x is None or dout is None or undrawn:
        return
    first, last = links[0].stages[0].name, links[-1].stages[-1].name
    stretch = Stretch(links, x.reshape(judgement.shape(first)), dout.reshape(judgement.shape(last, 1)))
    for gradient in expected_gradients(judgement, stretch):
        if gradient.name != "grad_input":
            yield from _parameter_rows(judgement, stretch, gradient, sums)
        elif stretch.start.requires_grad and (stretch.start is not links[-1].end or links[-1] is judgement.links[-1]):
            actual = stretch.start.grad
            if actual is None and np.any(gradient.value):
                yield _cut_row(judgement, links, "no gradient arrives at its input")
                return
            actual = np.zeros_like(gradient.value) if actual is None else actual.reshape(gradient.value.shape)
            yield _gradient_row(judgement, stretch, gradient, actual)


def _parameter_rows(judgement: Judgement, stretch: Stretch, gradient: Gradient, sums: _SharedSums) -> Iterator[Row]:
    """Yield the row of a parameter's gradient, read in the layout that fits best among those its values allow."""
    stage, total = gradient.stage, sums.accumulated(gradient)
    if total is None:
        return
    rows, locations = list[Row](), judgement.parameters[stage.name, gradient.name]
    for location in locations:
        actual = location.gradient(total.value)
        if actual is None and total.value.any():
            where = judgement.where(*stretch.links)
            rows.append(judgement.failing_row(stage.name, total.quantity, "it gets no gradient", where))
        else:
            actual = np.zeros_like(total.value) if actual is None else actual
            rows.append(_gradient_row(judgement, stretch, total, actual))
    best = min(range(len(rows)), key=lambda index: rows[index].worst.ratio)
    locations.insert(0, locations.pop(best))  # a symmetric matrix, say, fits several: keep this layout
    yield rows[best]


def _gradient_row(judgement: Judgement, stretch: Stretch, gradient: Gradient, actual: Array) -> Row:
    """The row of one gradient against its limit, in torch's layout."""
    value, name, cause = gradient.value, stretch.name, ""
    limit = np.broadcast_to(judgement.widened_for_fft(stretch.links, gradient.limit, value), value.shape)
    worst = compare(actual, value, limit, gradient.entry_limit)
    if worst.ratio > 1 and len(stretch.stages) == 1:
        (layer,) = judgement.layers(stretch.links[0])
        deviation = Deviation(name, layer, stretch.x, actual, judgement.a, limit, gradient.name, stretch.dout)
        cause = cause_of(deviation)
    if gradient.name != "grad_input":
        name = gradient.stage.name
        if to_torch_layout(value) is not value:
            worst = replace(worst, index=worst.index[::-1], shape=worst.shape[::-1])
    return judgement.row(name, gradient.quantity, stretch.rule, worst, judgement.where(*stretch.links), cause)


def _cut_row(judgement: Judgement, links: Sequence[Link], note: str) -> Row:
    """The row for gradients that stop: in the first link without one at its end, at the call that loses it."""
    blamed = next((link for link in links if not link.end.requires_grad and link.stages), links[-1])
    calls = judgement.record.calls
    for call in judgement.finder.calls_of(blamed):
        if not call.requires_grad and any(calls[parent].requires_grad for parent in call.parents):
            return judgement.failing_row(blamed.name, "grad_input", note, call.where)
    return judgement.failing_row(blamed.name, "grad_input", note, judgement.where(blamed))


class _SharedSums:
    """Parameters of the port that hold several of the reference's, which is right only if the reference shares them."""

    def __init__(self, judgement: Judgement) -> None:
        self.judgement = judgement
        self.users: dict[str, list[Key]] = {}  # by the tensors and regions that hold them
        self.gradients: dict[str, dict[Key, Gradient]] = {}  # so far, by the same; a layer may be judged again
        for key, locations in judgement.parameters.items():
            if locations and locations[0].settable:
                self.users.setdefault(self._place(key), []).append(key)

    def _place(self, key: Key) -> str:
        return str([(id(piece.call.tensor), piece.tensor_region) for piece in self.judgement.parameters[key][0].pieces])

    def rows(self) -> Iterator[Row]:
        """Yield rows for parameters that are shared in the port but not in the reference."""
        for keys in self.users.values():
            if len({self.judgement.subject.origins.get(key) for key in keys}) == len(keys) > 1:
                names = [f"{stage}.{MODULE_ATTRIBUTES[attribute]}" for stage, attribute in keys]
                last, attribute = keys[-1]
                del keys[1:]
                where = self.judgement.where(self.judgement.link_of(last))
                note = f"{' and '.join(names)} are one parameter in the port"
                yield self.judgement.failing_row(last, f"grad_{MODULE_ATTRIBUTES[attribute]}", note, where)

    def accumulated(self, gradient: Gradient) -> Gradient | None:
        """The sum of the gradients of all layers that share the parameter; None until all are known."""
        key = gradient.stage.name, gradient.name
        if not self.judgement.parameters.get(key):
            return None
        place = self._place(key)
        users, by_key = self.users.get(place, [key]), self.gradients.setdefault(place, {})
        if len(users) < 2:
            return gradient
        by_key[key] = gradient
        if len(by_key) < len(users):
            return None
        total, *others = by_key.values()
        for other in others:
            value = total.value + other.value
            limit = total.limit + other.limit + 2 * self.judgement.a.u * np.abs(value)  # the sum's own rounding
            total = total._replace(stage=gradient.stage, value=value, limit=limit, entry_limit=None)
        return total
