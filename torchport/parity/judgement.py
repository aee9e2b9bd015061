"""One run of a port, and what is read off it: links, parameters, lines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from torchport.layers import EXACT, parameters_of
from torchport.parity.calls import Call, Record, describe_error, is_real, tensors_in
from torchport.parity.compare import Difference, compare
from torchport.parity.lines import MOVING, lines_of
from torchport.parity.links import LinkFinder
from torchport.parity.parameters import Location
from torchport.parity.places import side_inputs
from torchport.parity.preparation import overridden
from torchport.parity.recording import record
from torchport.parity.rows import Row
from torchport.parity.stages import Applied, Link, Stage, transfer_links
from torchport.parity.subject import Guide, Key, Run, Subject

UNIT = 2.0**-8  # of what average pooling makes of whole numbers


class Judgement:
    """One run of a subject. output is the call that made its output, None where the port raised."""

    def __init__(self, subject: Subject, run: Run) -> None:
        self.subject, self.run, self.a = subject, run, subject.setting.arithmetic
        self.parameters: dict[Key, list[Location]] = {}
        self.applied: dict[Link, Applied] = {}  # layers that have run on what the port gave them
        self.links: list[Link] = []
        self._record()
        self.output = self._choose_output()
        if self.output is not None:
            self.record.output = self.output
            self.finder = self._link_finder()
            self._find()

    def _record(self) -> None:
        run, port = self.run, self.subject.port
        given = self.subject.setting.tensor(run.x).to(memory_format=run.memory_format).requires_grad_(run.wants_grad)
        # A leaf that needs a gradient cannot be changed in place, which a right port may do with its own copy.
        self.x_tensor = given.clone() if run.wants_grad else given
        for module, training in self.subject.training_flags:
            module.training = training
        if overridden(port):  # which may do more than to set flags
            port.eval() if run.predicting else port.train()
        elif port.training == run.predicting:  # flags that a user set for single modules stay
            port.train(not run.predicting)
        self.buffers = {name: value.detach().clone() for name, value in port.named_buffers()}
        for parameter in port.parameters():
            parameter.grad = None
        sizes = frozenset(len(run.x) * int(np.prod(shape)) for shape in self.subject.shapes)
        trains = run.cotangent is not None or run.labels is not None or run.enable_grad
        with torch.set_grad_enabled(trains), warnings.catch_warnings():
            if not trains:
                warnings.simplefilter("ignore")  # of a checkpoint that misses gradients
            self.record: Record = record(port, self.x_tensor, sizes)
        if run.predicting and torch.is_autocast_enabled():
            torch.clear_autocast_cache()  # weights that it has cast would have no gradient in training

    def _choose_output(self) -> Call | None:
        """Of what the port returned, the tensor that is its output: of several, the one whose links hold."""
        candidates = [call for call in self.record.returned if call.tensor.is_floating_point() and is_real(call.tensor)]
        shape = len(self.run.x), *self.subject.shapes[-1]
        if candidates and self.subject.output is not None:
            part_tensors = list(tensors_in(_part(self.record.result, self.subject.output)))
            candidates = [call for call in candidates if any(call.tensor is tensor for tensor in part_tensors)]
        fitting = [call for call in candidates if tuple(call.tensor.shape) == shape]

        def faults(output: Call) -> int:
            self.record.output = output
            return sum(bool(link.fault) for link in self._link_finder().find_links())

        if len(fitting) > 1:
            fitting.sort(key=faults)
            self.subject.note(
                f"judged is part {candidates.index(fitting[0])} of the {len(candidates)} that the port returns"
            )
        return next(iter(fitting or candidates), None)

    def _link_finder(self) -> LinkFinder:
        subject, predicting = self.subject, self.run.predicting
        return LinkFinder(self.record, subject.stages, subject.shapes, self.a, predicting=predicting)

    def _find(self) -> None:
        """The links, by number where a run before had the same calls: values may coincide in this one."""
        names, guides = self.record.names, self.subject.guides
        guide = next((guide for guide in guides if guide.names == names), None)
        if guide is not None:
            self.guide, self.links = guide, transfer_links(guide.links, self.record, self.subject.stages)
            return
        self.links = self.finder.find_links()
        self.guide = Guide(names, self.links)
        guides.append(self.guide)
        for link in self.links:
            if len(link.stages) > 1 and not link.fault:
                self.subject.note(f"{link.name} were judged together ({self.where(link) or 'in one piece'})")

    def release(self) -> None:
        """Let go of what a run has computed: guides need only the numbers of its calls, and its parameters."""
        for call in self.record.calls:
            call.value = call.edge = call.captured_grad = None
            if not call.is_leaf:
                call.tensor = torch.empty(0, dtype=call.tensor.dtype)  # of a sparse one, too
        for parameter in self.subject.port.parameters():
            parameter.grad = None

    def relink(self) -> bool:
        """Whether this run's own values tell other links than the run before, and right ones.

        There values may have coincided: a relu that nothing negative reached, a dropout that dropped nothing.
        """
        links = (
            self.finder.faultless_links(len(self.links)) if self.guide.links is not self.links else []
        )  # nor in fewer pieces
        self.links = links or self.links
        return bool(links)

    def row(
        self, layer: str, quantity: str, rule: str, worst: Difference, where: str = "", cause: str = "", known: str = ""
    ) -> Row:
        """A row of this run."""
        return Row(self.run.name, layer, quantity, rule, worst, where, cause, known)

    def failing_row(self, layer: str, quantity: str, note: str, where: str = "") -> Row:
        """A row that fails without a number."""
        return self.row(layer, quantity, EXACT, Difference(note=note), where)

    def parameters_of(self, link: Link) -> Iterator[tuple[Stage, str]]:
        """The stages of a link and their attributes that are trained."""
        return ((stage, attribute) for stage in link.stages for attribute in parameters_of(stage.layer))

    def link_of(self, stage: str) -> Link:
        """The link that a stage is in."""
        return next(link for link in self.links if stage in [each.name for each in link.stages])

    def layers(self, link: Link) -> list[Any]:
        """The layers of a link, as they ran on what the port gave them where they did."""
        return [self.applied[link].layer] if link in self.applied else [stage.layer for stage in link.stages]

    def shape(self, stage: str, behind: int = 0) -> tuple[int, ...]:
        """Of the batch before a stage, or so many stages behind that."""
        return (len(self.run.x), *self.subject.shapes[self.subject.indices[stage] + behind])

    def reshaped(self, value: Array | None, stage: str, behind: int = 0) -> Array | None:
        """A value in the shape that the reference has there, if it has as many elements."""
        shape = self.shape(stage, behind)
        return value.reshape(shape) if value is not None and value.size == np.prod(shape) else None

    def is_exact(self, stage: Stage, x: Array, dout: Array | None = None) -> bool:
        """Whether nothing of this stage's output may be off, or of its gradients; behind a fault x is not exact."""
        until, index = self.run.inexact_from, self.subject.indices
        transforms = any("fft" in name for name in self.record.names)
        if not self.run.exact or transforms or not _is_whole(x, self.run.scale):
            return False
        if dout is not None:
            return not until and _is_whole(dout, 1.0)
        return not until or index[stage.name] < index[until]

    def widened_for_fft(self, links: Sequence[Link], limit: Array, expected: Array) -> Array:
        """The limit, but for a convolution by Fourier transforms, which errs by the largest sum in every entry.

        By at most 11 u of it, as was measured; L is at least 5 u of it from 4 products on.
        """
        if not any("fft" in call.name for link in links for call in self.finder.calls_of(link)):
            return limit
        self.subject.note(f"{links[0].name} is computed by Fourier transforms: judged by its largest sum")
        return np.full(expected.shape, 4 * np.max(limit))

    def compare_call(self, call: Call, expected: Array, limit: Array | float, own: Any = None) -> Difference:
        """A call's value against what it should be; of another shape, but the same size, in its order."""
        value, shape = call.array, tuple(call.tensor.shape)
        if call is self.output:
            if not self.subject.setting.allows(call.tensor.dtype):
                return Difference(note=f"dtype {call.tensor.dtype}, expected {self.subject.setting.dtype}")
            if len(expected) == len(self.run.x) and expected.ndim == 2 and shape != expected.shape:
                return Difference(note=f"shape {shape}, expected {expected.shape}")
        if value is None or value.size != expected.size:
            return Difference(note=f"shape {shape}, expected {expected.shape}")
        return compare(value.reshape(expected.shape), expected, limit, own)

    def side_inputs(self, link: Link) -> list[Call]:
        """What a link takes besides the data."""
        return side_inputs(self.record.calls, self.finder.calls_of(link))

    def where(self, *links: Link) -> str:
        """The lines of links; of a missing layer, before which line it is expected."""
        if len(links) == 1 and links[0].fault == "missing":
            later = (n for n in sorted(self.finder.ancestors) if n > links[0].end.number)
            following = next(filter(None, (self.record.calls[number].where for number in later)), "")
            return f"expected {links[0].name} {f'before {following}' if following else 'at the end'}"
        return lines_of([call for link in links for call in self.finder.calls_of(link)])

    def raised_row(self) -> Row:
        """Of a port that raised: the first layer that is not there, and the line."""
        error, run = self.record.error, self.run
        if error is None:
            raw = self.record.result
            kind = f"{type(raw).__name__} of {raw.dtype}" if isinstance(raw, Tensor) else type(raw).__name__
            note = f"the port returned no tensor of real numbers, but {kind}"
            return self.failing_row("output", "output", note, self.record.calls[-1].where)
        layer, rest = self._link_finder().first_missing()
        where = next((call.where for call in rest if call.where and call.name not in MOVING), self.record.raised_at)
        last = next(call for call in reversed(self.record.calls) if call.depends_on_input)
        if last.name in MOVING and len(last.tensor) != len(run.x):  # a hard-wired number of samples
            where = last.where
        return self.failing_row(layer, "output", f"the port raised {describe_error(error)}", where)


def _is_whole(array: Array, scale: float) -> bool:
    units = array / (scale * UNIT)
    return bool(np.array_equal(units, np.round(units)))


def _part(returned: Any, key: int | str) -> Any:
    """One part of what a port returned, which may be one only in training. ValueError."""
    if isinstance(returned, Tensor):
        return returned
    try:
        return getattr(returned, key) if isinstance(key, str) and hasattr(returned, key) else returned[key]
    except (LookupError, TypeError) as error:
        kind = type(returned).__name__
        raise ValueError(f"output={key!r} must be a part of what the port returns, a {kind}") from error
