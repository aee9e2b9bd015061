"""Judgement: one recorded run of a port, with its links, its parameters and the rows that report on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from torchport.layers import EXACT, kind_of, parameters_of
from torchport.parity.calls import Call, Record, describe_error, is_real, tensors_in
from torchport.parity.compare import Difference, compare
from torchport.parity.lines import MOVING, lines_of
from torchport.parity.links import LinkFinder
from torchport.parity.parameters import Location
from torchport.parity.places import side_inputs
from torchport.parity.preparation import overridden, set_mode
from torchport.parity.recording import record
from torchport.parity.rows import Row
from torchport.parity.stages import Applied, Link, Stage, transfer_links
from torchport.parity.subject import Guide, Key, Run, Subject

UNIT = 2.0**-8  # average pooling of integers gives multiples of it
LARGEST = 2.0**24  # float32 holds all integers up to it


class Judgement:
    """One run of a subject; output is the call that made its output, or None if the port raised an error."""

    def __init__(self, subject: Subject, run: Run) -> None:
        self.subject, self.run, self.a = subject, run, subject.setting.arithmetic
        self.parameters: dict[Key, list[Location]] = {}
        self.applied: dict[Link, Applied] = {}  # each link's layer after its forward on the port's own input
        self.links: list[Link] = []
        self._record()
        self.output = self._choose_output()
        if self.output is not None:
            self.record.output = self.output
            self.finder = self._link_finder()
            self._set_links()

    def _record(self) -> None:
        run, port = self.run, self.subject.port
        x = self.subject.setting.tensor(run.x).to(memory_format=run.memory_format).requires_grad_(run.wants_grad)
        # A leaf that needs a gradient cannot be changed in place; a correct port may change its own copy.
        self.x_tensor = x.clone() if run.wants_grad else x
        for module, training in self.subject.training_flags:
            module.training = training
        # If train() and eval() may do more than set flags; otherwise the user's flags of single modules stay.
        if overridden(port) or port.training == run.predicting:
            set_mode(port, training=not run.predicting)
        self.buffers = {name: value.detach().clone() for name, value in port.named_buffers()}
        for parameter in port.parameters():
            parameter.grad = None
        sizes = frozenset(len(run.x) * int(np.prod(shape)) for shape in self.subject.shapes)
        trains = run.cotangent is not None or run.labels is not None or run.enable_grad
        with torch.set_grad_enabled(trains), warnings.catch_warnings():
            if not trains:
                warnings.simplefilter("ignore")  # a checkpointed module warns that no input needs a gradient
            self.record: Record = record(port, self.x_tensor, sizes)
        if run.predicting and torch.is_autocast_enabled():
            torch.clear_autocast_cache()  # weights cast without gradients would be reused in training

    def _choose_output(self) -> Call | None:
        """The returned tensor that is the port's output; of several with its shape, the one with the fewest faults."""
        candidates = [call for call in self.record.returned if call.tensor.is_floating_point() and is_real(call.tensor)]
        shape = len(self.run.x), *self.subject.shapes[-1]
        if candidates and self.subject.output is not None:
            part = list(tensors_in(_part_of(self.record.result, self.subject.output)))
            candidates = [call for call in candidates if any(call.tensor is tensor for tensor in part)]
        fitting = [call for call in candidates if tuple(call.tensor.shape) == shape]

        def faults(output: Call) -> int:
            self.record.output = output
            return sum(bool(link.fault) for link in self._link_finder().find_links())

        if len(fitting) > 1:
            fitting.sort(key=faults)
            index = candidates.index(fitting[0])
            self.subject.note(f"judged is part {index} of the {len(candidates)} that the port returns")
        return next(iter(fitting or candidates), None)

    def _link_finder(self) -> LinkFinder:
        subject, predicting = self.subject, self.run.predicting
        return LinkFinder(self.record, subject.stages, subject.shapes, self.a, predicting=predicting)

    def _set_links(self) -> None:
        """Take the links of an earlier run with the same calls, as in this one values may coincide; else find them."""
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
        """Free what the run computed: guides need only the numbers of its calls, and the parameters."""
        for call in self.record.calls:
            call.value = call.edge = call.captured_grad = None
            if not call.is_leaf:
                call.tensor = torch.empty(0, dtype=call.tensor.dtype)  # frees a sparse tensor too
        for parameter in self.subject.port.parameters():
            parameter.grad = None

    def relink(self) -> bool:
        """Replace the links by ones found in this run's own values, if those have no fault; return whether they do.

        In the guide's run values may have coincided: a relu without negative input, a dropout that dropped nothing.
        """
        if self.guide.links is self.links:  # found in this run already
            return False
        links = self.finder.faultless_links(fewest=len(self.links))
        self.links = links or self.links
        return bool(links)

    def row(
        self, layer: str, quantity: str, rule: str, worst: Difference, where: str = "", cause: str = "", known: str = ""
    ) -> Row:
        """A row of the report for this run."""
        return Row(self.run.name, layer, quantity, rule, worst, where, cause, known)

    def failing_row(self, layer: str, quantity: str, note: str, where: str = "") -> Row:
        """A row that fails, with a note in place of numbers."""
        return self.row(layer, quantity, EXACT, Difference(note=note), where)

    def parameters_of(self, link: Link) -> Iterator[tuple[Stage, str]]:
        """Yield each stage of link with each of its trained attributes."""
        return ((stage, attribute) for stage in link.stages for attribute in parameters_of(stage.layer))

    @property
    def parameter_calls(self) -> list[Call]:
        """The calls of all tensors that hold parameters of the reference."""
        locations = (location for locations in self.parameters.values() for location in locations)
        return [piece.call for location in locations for piece in location.pieces]

    def link_of(self, stage: str) -> Link:
        """The link that contains the stage of this name."""
        return next(link for link in self.links if stage in [s.name for s in link.stages])

    def layers(self, link: Link) -> list[Any]:
        """The layers of link; after their forward on the port's own input, if that was run."""
        return [self.applied[link].layer] if link in self.applied else [stage.layer for stage in link.stages]

    def shape(self, stage: str, after: int = 0) -> tuple[int, ...]:
        """The shape of the batch before the stage of this name, or that many stages after it."""
        return (len(self.run.x), *self.subject.shapes[self.subject.indices[stage] + after])

    def reshaped(self, value: Array | None, stage: str, after: int = 0) -> Array | None:
        """value in the shape of the batch there (see shape); None if it has another number of elements."""
        shape = self.shape(stage, after)
        return value.reshape(shape) if value is not None and value.size == np.prod(shape) else None

    def is_exact(self, stage: Stage, x: Array, dout: Array | None = None) -> bool:
        """Whether the stage's output on x, or with dout its gradients, must be exact; after a fault x may not be.

        What drops entries may scale the others, and scale them back.
        """
        inexact_from, indices = self.run.inexact_from, self.subject.indices
        uses_fft, drops = any("fft" in name for name in self.record.names), kind_of(stage.layer).ratio is not None
        if not self.run.exact or uses_fft or drops or not _is_whole(x, self.run.scale):
            return False
        if dout is not None:
            return not inexact_from and _is_whole(dout, 1.0)
        return not inexact_from or indices[stage.name] < indices[inexact_from]

    def widened_for_fft(self, links: Sequence[Link], limit: Array, expected: Array) -> Array:
        """limit; for links with Fourier transforms one number, as the largest sum sets their error in every entry.

        The measured error is at most 11 u of that sum; L is at least 5 u of it for 4 products or more.
        """
        if not any("fft" in call.name for link in links for call in self.finder.calls_of(link)):
            return limit
        self.subject.note(f"{links[0].name} is computed by Fourier transforms: judged by its largest sum")
        return np.full(expected.shape, 4 * np.max(limit))

    def compare_call(self, call: Call, expected: Array, limit: Array | float, entry_limit: Any = None) -> Difference:
        """The call's value against expected; one of another shape but equal size is compared in its own order."""
        value, shape = call.array, tuple(call.tensor.shape)
        if call is self.output:
            if not self.subject.setting.allows(call.tensor.dtype):
                return Difference(note=f"dtype {call.tensor.dtype}, expected {self.subject.setting.dtype}")
            if len(expected) == len(self.run.x) and expected.ndim == 2 and shape != expected.shape:
                return Difference(note=f"shape {shape}, expected {expected.shape}")
        if value is None or value.size != expected.size:
            return Difference(note=f"shape {shape}, expected {expected.shape}")
        return compare(value.reshape(expected.shape), expected, limit, entry_limit)

    def side_inputs(self, link: Link) -> list[Call]:
        """The tensors that link takes besides the data."""
        return side_inputs(self.record.calls, self.finder.calls_of(link))

    def where(self, *links: Link) -> str:
        """The lines of links; for a missing layer, the line before which it is expected."""
        if len(links) == 1 and links[0].fault == "missing":
            later = (n for n in sorted(self.finder.ancestors) if n > links[0].end.number)
            following = next(filter(None, (self.record.calls[number].where for number in later)), "")
            return f"expected {links[0].name} {f'before {following}' if following else 'at the end'}"
        return lines_of([call for link in links for call in self.finder.calls_of(link)])

    def raised_row(self) -> Row:
        """The row for a run without output: the error's text or what was returned, at the first layer not reached."""
        error, run = self.record.error, self.run
        if error is None:
            result = self.record.result
            kind = f"{type(result).__name__} of {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
            note = f"the port returned no tensor of real numbers, but {kind}"
            return self.failing_row("output", "output", note, self.record.calls[-1].where)
        layer, rest = self._link_finder().first_missing()
        where = next((call.where for call in rest if call.where and call.name not in MOVING), self.record.raised_at)
        last = next(call for call in reversed(self.record.calls) if call.depends_on_input)
        if last.name in MOVING and len(last.tensor) != len(run.x):  # a reshape to a fixed number of samples
            where = last.where
        return self.failing_row(layer, "output", f"the port raised {describe_error(error)}", where)


def _is_whole(array: Array, scale: float) -> bool:
    """Whether array holds multiples of scale * UNIT, so small that they are no float32 numbers of another origin."""
    units = array / (scale * UNIT)
    return bool(np.array_equal(units, np.round(units)) and np.abs(units).max(initial=0) <= LARGEST)


def _part_of(returned: Any, key: int | str) -> Any:
    """The part of returned under key; a single tensor is its own part, as some ports return more only in training."""
    if isinstance(returned, Tensor):
        return returned
    try:
        return getattr(returned, key) if isinstance(key, str) and hasattr(returned, key) else returned[key]
    except (LookupError, TypeError) as error:
        kind = type(returned).__name__
        raise ValueError(f"output={key!r} must be a part of what the port returns, a {kind}") from error
