"""Judges what a run changes besides its output: input, parameters, buffers, random draws, running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from numpy_ref.network import layer_statistics
from torchport.layers import NORMALISE, kind_of
from torchport.layers.kinds import other
from torchport.layers.selections import chance_limit
from torchport.layers.smooth import running_limits
from torchport.parity.calls import UNSEEN, array_of, as_array, with_ancestors
from torchport.parity.compare import compare
from torchport.parity.judgement import Judgement
from torchport.parity.probes import probe
from torchport.parity.rows import Row
from torchport.parity.stages import Link, Stage

# Two draws whose agreement has a probability of 2^-BITS or less are taken to be the same draw.
BITS = 24
MIN_FEATURES = 3  # by which the momentum of running statistics is told: it fits any single one
TESTED_ENTRIES = 2**18  # entries of a mask that are tested for independence, to save memory


def side_effect_rows(judgement: Judgement) -> Iterator[Row]:
    """Yield rows for forbidden changes and repeated draws, and for running statistics."""
    yield from _changed_state_rows(judgement)
    yield from _earlier_output_rows(judgement)
    masks = dict[str, Array]()  # of this run's layers that drop, flattened
    for link in judgement.links:
        if link in judgement.applied and not link.fault and not judgement.run.predicting:
            stage, x = link.stages[0], judgement.applied[link].x
            if kind_of(stage.layer).ratio is not None:
                yield from _mask_rows(judgement, link, stage, x)
                yield from _dependence_rows(judgement, link, stage, x, masks)
        if not link.fault and not judgement.run.predicting:
            for stage, updated, x, limit in _normalisations(judgement, link):
                yield from _statistics_rows(judgement, link, stage, updated, x, limit)


def _changed_state_rows(judgement: Judgement) -> Iterator[Row]:
    """Yield rows if forward changed its input, a parameter, a buffer in prediction, or a generator without need."""
    run, port, calls = judgement.run, judgement.subject.port, judgement.record.calls

    def row(quantity: str, note: str, where: str, layer: str = "port") -> Row:
        return judgement.failing_row(layer, quantity, note, where)

    if not np.array_equal(array_of(judgement.x_tensor), run.x):
        where = next((call.where for call in calls[1:] if call.tensor is judgement.x_tensor), "")
        yield row("input afterwards", "the port changes its input in place", where)
    parameters = {id(value): name for name, value in port.named_parameters()}
    if changed := next((call for call in calls if call.name and id(call.tensor) in parameters), None):
        yield row("parameters", f"the port changes {parameters[id(changed.tensor)]} in forward", changed.where)
    draws = not run.predicting and any(kind_of(layer).repeat is not None for layer in judgement.subject.layers)
    if judgement.record.drew_at is not None and not draws:
        note = "the port draws random numbers, and the reference has no layer that does"
        yield row("random numbers", note, judgement.record.drew_at)
    for name, value in port.named_buffers() if run.predicting else ():
        if name in judgement.buffers and not torch.equal(value, judgement.buffers[name]):
            where = next((call.where for call in calls if call.tensor is value and call.name), "")
            links = (link for link in judgement.links if any(c.tensor is value for c in judgement.side_inputs(link)))
            layer = next((link.name for link in links), "port")
            yield row("buffers", f"the buffer {name} changes in prediction", where, layer)


def _earlier_output_rows(judgement: Judgement) -> Iterator[Row]:
    """Yield a row if the output of the run before has changed, as a buffer that is filled again would."""
    for name, (tensor, value) in judgement.subject.earlier_outputs.items():
        if not np.array_equal(array_of(tensor), value, equal_nan=True):
            note = f"the output of the run before ({name}) has changed"
            yield judgement.failing_row("port", "earlier output", note, judgement.record.calls[-1].where)
    assert judgement.output is not None
    tensor = judgement.output.tensor.detach()
    judgement.subject.earlier_outputs = {judgement.run.name: (tensor, array_of(tensor))}


def _mask_rows(judgement: Judgement, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
    """Yield rows if a layer dropped the same entries of every sample, or the same as in an earlier run."""
    y = judgement.reshaped(link.end.value, stage.name)
    if y is None:
        return
    nonzero, kept, where = (x != 0).reshape(len(x), -1), (y != 0).reshape(len(x), -1), judgement.where(link)  # (N, D)
    # Two draws agree in one entry with a probability of p^2 + (1 - p)^2.
    enough = BITS / max(-np.log2(stage.keep_ratio**2 + (1 - stage.keep_ratio) ** 2), 1e-9)
    mixed = (nonzero & kept).any(axis=0) & (nonzero & ~kept).any(axis=0)
    if not mixed.any() and nonzero.sum() - nonzero.any(axis=0).sum() > enough:
        yield judgement.failing_row(link.name, "output", "it drops the same of every sample", where)
    if judgement.run.labels is None:
        return
    before = judgement.subject.masks.setdefault(stage.name, kept)
    if judgement.run.again and nonzero.sum() > enough and np.array_equal(before & nonzero, kept & nonzero):
        yield judgement.failing_row(link.name, "output", "it drops what it dropped in an earlier run", where)


def _dependence_rows(
    judgement: Judgement, link: Link, stage: Stage, x: Array, masks: dict[str, Array]
) -> Iterator[Row]:
    """Yield a row if what a layer dropped depends on what it, or an earlier one in masks, dropped; add its mask."""
    y, p, width = link.end.value, stage.keep_ratio, x[0].size
    if y is None or y.size != x.size or not 0 < p < 1:
        return
    # Of mean 0, and 0 where nothing shows what was drawn.
    masks[stage.name] = mask = np.where(x != 0, (y.reshape(x.shape) != 0) - p, 0).ravel()[:TESTED_ENTRIES]
    for name, earlier in masks.items():
        if (distance := _dependence(earlier, mask, p)) is not None:
            before = f"the entry {distance} before" if distance % width else f"the sample {distance // width} before"
            on = before if name == stage.name else f"what {name} drops"
            yield judgement.failing_row(link.name, "output", f"what it drops depends on {on}", judgement.where(link))
            return


def _dependence(earlier: Array, mask: Array, p: float) -> int | None:
    """The distance at which entries of two masks, or of one, go together more than chance allows; None without any."""
    size = len(earlier) + len(mask)

    def products(one: Array, two: Array) -> Array:
        """The sums of products of entries at each distance."""
        return np.fft.irfft(np.fft.rfft(one, size).conj() * np.fft.rfft(two, size), size)

    # Given all earlier draws, a product has the mean 0, and its variance is p (1 - p) times the earlier entry squared.
    counts, largest = np.rint(products(earlier != 0, mask != 0)), 0.5 + abs(np.abs(earlier).max() - 0.5)
    limit = chance_limit(np.maximum(counts, 1) * p * (1 - p) * largest**2, max(p, 1 - p) * largest, size)
    ratios = np.abs(products(earlier, mask)) / limit
    if earlier is mask:
        ratios[0] = 0
    distance = int(ratios.argmax())
    return min(distance, size - distance) if ratios[distance] > 1 else None


def _normalisations(judgement: Judgement, link: Link) -> Iterator[tuple[Stage, Any, Array, Array]]:
    """Yield each normalisation of a link, its layer after the run, and its input, with a limit if the port hides it."""
    x = judgement.reshaped(link.start.value, link.stages[0].name) if link.stages else None
    for k, stage in enumerate(link.stages):
        # A weight that was not found is reported, and with another the input of what follows is not known.
        found = all(judgement.parameters.get((before.name, name)) for before, name in judgement.parameters_of(link))
        if isinstance(stage.layer, BatchNormalization) and x is not None and (found or k == 0):
            layers = [before.layer for before in link.stages[:k]]
            own_x, limit = probe(layers, x, None, judgement.a).output if k else (x, np.zeros(()))
            updated = other(stage.layer)
            updated.forward(own_x)
            yield stage, updated, own_x, limit


def _statistics_rows(
    judgement: Judgement, link: Link, stage: Stage, updated: Any, x: Array, x_limit: Array
) -> Iterator[Row]:
    """Yield rows for the running statistics after x, if the port has buffers of their size; later runs start from them.

    torch's running variance is unbiased, the book's biased: a known difference of definition, no fault.
    """
    buffers, n = _buffers(judgement, link, stage), len(x)
    for name, limit in running_limits(stage.layer, x, judgement.a, x_limit).items():
        if not buffers:
            continue
        value, old = getattr(updated, name), getattr(stage.layer, name)
        carried = stage.layer.momentum * np.broadcast_to(0.0 if old is None else old, value.shape)
        (ratio, nearest), known = _nearest(buffers, value, limit), ""
        if name == "running_var" and ratio > 1 < n:
            other_ratio, unbiased = _nearest(buffers, carried + (value - carried) * n / (n - 1), 2 * limit)
            if other_ratio <= 1:
                known, nearest = "torch's running variance is the unbiased one, n/(n - 1) of the book's", unbiased
        fitting = [array for array in buffers if compare(array, value, limit).ratio <= 1]
        if known or (len(fitting) == 1 and fitting[0] is nearest):  # with few features several buffers may fit
            setattr(updated, name, nearest)
        worst, cause = compare(nearest, value, limit), ""
        if worst.ratio > 1 and not known:
            cause = _momentum_cause(buffers, carried, value - carried, stage.layer.momentum, limit)
        yield judgement.row(stage.name, name, NORMALISE, worst, judgement.where(link), cause, known)
    stage.layer.running_mean, stage.layer.running_var = updated.running_mean, updated.running_var


def _momentum_cause(buffers: list[Array], carried: Array, added: Array, momentum: float, limit: Array) -> str:
    """A sentence that names the momentum by which a buffer became what it is, "" for none.

    The reference has carried (D,), momentum times the old values, and added 1 - momentum times the batch's.
    """
    if carried.size < MIN_FEATURES or not 0 < momentum < 1:
        return ""
    old, batch = carried / momentum, added / (1 - momentum)
    change = batch - old
    for array in buffers if change.any() else ():
        step = float(np.vdot(array - old, change) / np.vdot(change, change))
        factor = max(1.0, abs(step) / (1 - momentum))
        if compare(array, old + step * change, 2 * factor * limit).ratio <= 1:
            return f"the batch counts {step:.3g}, in the reference {1 - momentum:.3g}: another momentum"
    return ""


def _buffers(judgement: Judgement, link: Link, stage: Stage) -> list[Array]:
    """The values (D,) of the buffers that may be a normalisation's: those of its size that the link takes.

    Where it hides what it takes, those of the port that held the statistics before the run.
    """
    tensors = [call.tensor for call in judgement.side_inputs(link) if not call.requires_grad]
    if any(call.name == UNSEEN for call in judgement.finder.calls_of(link)):
        old = [np.asarray(value) for value in layer_statistics(stage.layer).values()]
        named = judgement.subject.port.named_buffers()
        tensors = [tensor for name, tensor in named if _holds(judgement.buffers.get(name), old, 4 * judgement.a.u)]
    return [array_of(tensor).reshape(-1) for tensor in tensors if tensor.numel() == stage.layer.gamma.size]


def _holds(tensor: Tensor | None, values: list[Array], relative: float) -> bool:
    """Whether tensor is one of values, up to a relative rounding."""
    array = None if tensor is None else as_array(tensor)
    return array is not None and any(compare(array, value, relative * np.abs(value)).ratio <= 1 for value in values)


def _nearest(buffers: list[Array], value: Array, limit: Array) -> tuple[float, Array]:
    """The smallest ratio of error to limit among buffers compared with value, and the buffer that has it."""
    return min(((compare(array, value, limit).ratio, array) for array in buffers), key=lambda pair: pair[0])


def extra_parameter_rows(judgement: Judgement) -> list[Row]:
    """Rows for trained parameters that hold none of the reference's; those without a gradient are only noted."""
    rows, subject, calls = list[Row](), judgement.subject, judgement.record.calls
    reference_ids = {id(call.tensor) for call in with_ancestors(calls, judgement.parameter_calls)}
    call_by_id = {id(call.tensor): call for call in calls}
    for link in judgement.links:  # a layer whose parameters were not found has others in their place, reported there
        keys = ((stage.name, attribute) for stage, attribute in judgement.parameters_of(link))
        if not all(map(judgement.parameters.get, keys)):
            reference_ids |= {id(call.tensor) for call in judgement.side_inputs(link)}
    for name, parameter in subject.port.named_parameters() if judgement.run.cotangent is not None else ():
        if id(parameter) in reference_ids or id(parameter) in subject.frozen:
            continue
        if parameter.grad is None or not parameter.grad.any():
            subject.note(f"{name} {'is not used' if parameter.grad is None else 'has a gradient of 0'}")
        else:
            call = call_by_id.get(id(parameter))
            link = next((link for link in judgement.links if call in judgement.side_inputs(link)), judgement.links[-1])
            note = "it gets a gradient and serves no layer of the reference"
            rows.append(judgement.failing_row(link.name, name, note, call.where if call else ""))
    return rows
