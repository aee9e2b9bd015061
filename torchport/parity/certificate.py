"""One run of a port, judged: every layer of the reference on the port's own recorded input, forward and backward.

Nothing is carried from layer to layer. The input of the first layer is the x that was given, the output of the last is
what the port returned: if every link holds, the whole holds, at any depth, by induction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from torchport.layers import EXACT, NORMALISE, SUM, kind_of
from torchport.layers.arithmetic import Arithmetic, Setting
from torchport.layers.loss import Identity
from torchport.layers.smooth import running_limits
from torchport.layers.terms import MODULE_ATTRIBUTES, to_torch_layout
from torchport.parity import causes
from torchport.parity.compare import compare
from torchport.parity.links import Applied, Finder, Link, Stage, apply, like, own_limits, sides
from torchport.parity.losses import Loss, loss_rows
from torchport.parity.parameters import DERIVED, Found, find
from torchport.parity.probes import probe
from torchport.parity.recording import Call, Record, record, tensors_in
from torchport.parity.report import Difference, Row


class Run(NamedTuple):
    """How a port is run: on what, and what is propagated back, the gradient of a loss or a drawn one; or neither."""

    name: str
    x: Array
    cotangent: Array | None = None
    labels: Array | None = None
    predicting: bool = False
    exact: bool = False  # every number is exact: nothing may be off
    inexact_from: str = ""  # but from this stage on, and then in no gradient
    wants_grad: bool = False  # whether x needs a gradient too
    again: bool = False  # whether it is a run made before
    memory_format: torch.memory_format = torch.contiguous_format


# Of draws that agree by chance with a probability of 2^-BITS: no chance.
BITS = 30


@dataclass(eq=False)
class Guide:
    """What one run tells of the others: where layers end and where their parameters are, by the numbers of calls."""

    names: tuple[str, ...]
    links: list[Link]
    parameters: dict[tuple[str, str], list[Found]] = field(default_factory=dict)


@dataclass(eq=False)
class Subject:
    """A port, the stages that it should consist of, and what is known of it so far."""

    port: nn.Module
    stages: list[Stage]
    shapes: list[tuple[int, ...]]  # of a sample before each stage, and behind the last
    setting: Setting
    loss: Loss
    takes: str = ""  # what the loss takes
    output: Any = None
    frozen: frozenset[int] = frozenset()  # ids of the parameters that need no gradient, as given
    origins: dict[tuple[str, str], int] = field(default_factory=dict)  # ids of the reference's own arrays
    guides: list[Guide] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)  # in order
    masks: dict[str, Array] = field(default_factory=dict)  # what was kept of the user's batch, by stage
    seen: dict[str, tuple[Tensor, Array]] = field(default_factory=dict)  # earlier outputs, which should rest

    @property
    def arithmetic(self) -> Arithmetic:
        return self.setting.arithmetic

    def __post_init__(self) -> None:
        self.flags = [(module, module.training) for module in self.port.modules()]

    def sizes(self, n: int) -> frozenset[int]:
        """Numbers of elements that can end a layer, for n samples."""
        return frozenset(n * int(np.prod(shape)) for shape in self.shapes)


def judge(subject: Subject, run: Run) -> Iterator[Row]:
    """The rows of one run: forward from the input, the loss, backward from the output. The port stays as it ran."""
    yield from Judgement(subject, run).rows()


class Judgement:
    """One run of a subject and everything that is read off it."""

    def __init__(self, subject: Subject, run: Run) -> None:
        self.subject, self.run, self.setting = subject, run, subject.setting
        self.a = subject.arithmetic
        self.guide: Guide | None = None
        self.applied: dict[Link, Applied] = {}

    def rows(self) -> Iterator[Row]:
        self._record()
        if self.record.output is None:
            yield self._raised()
            return
        self._find()
        located = list(self._locate())
        for link in self.links:
            yield from self._forward_rows(link)
        yield from self._state_rows()
        yield from located
        if self.run.labels is None and self.run.cotangent is None:
            return
        self._watch()
        yield from self._backward()
        yield from self._gradient_rows()

    def after(self) -> list[Row]:
        """The rows of what an earlier run left, after one more."""
        self._record()
        if self.record.output is None:
            return []
        self._find()
        return [row for row in self._state_rows() if row.quantity == "earlier output"]

    # --- The run

    def _record(self) -> None:
        run, port = self.run, self.subject.port
        self.given = self.setting.tensor(run.x).to(memory_format=run.memory_format)
        if run.wants_grad:
            self.given.requires_grad_()
        for module, training in self.subject.flags:
            module.training = training
        if port.training == run.predicting:  # flags that a user set for single modules stay
            port.train(not run.predicting)
        self.kept = {name: value.detach().clone() for name, value in port.named_buffers()}
        for parameter in port.parameters():
            parameter.grad = None
        # A leaf that needs a gradient cannot be changed in place, which a right port may do with its own copy.
        self.passed = self.given.clone() if run.wants_grad else self.given
        with torch.set_grad_enabled(not run.predicting):
            self.record: Record = record(port, port, self.passed, self.subject.sizes(len(run.x)))
        if run.predicting and torch.is_autocast_enabled():
            torch.clear_autocast_cache()  # weights that it has cast would have no gradient in training
        self._choose()

    def _choose(self) -> None:
        """Of what the port returned, the tensor that is its output."""
        found, shape = self.record.returned, (len(self.run.x), *self.subject.shapes[-1])
        if self.record.error is not None or not found:
            return
        if self.subject.output is not None:
            part = list(tensors_in(_part(self.record.raw, self.subject.output)))
            found = [call for call in found if any(call.tensor is tensor for tensor in part)]
        fitting = [call for call in found if tuple(call.tensor.shape) == shape]
        if len(fitting) > 1:  # the one whose links hold
            fitting.sort(key=lambda call: self._faults(call))
            self.subject.notes[
                f"judged is part {found.index(fitting[0])} of the {len(found)} that the port returns"
            ] = None
        self.record.output = (fitting or found)[0]

    def _faults(self, output: Call) -> int:
        self.record.output = output
        links = Finder(self.record, self.subject.stages, self.subject.shapes, self.a, predicting=self.run.predicting)
        return sum(bool(link.fault) for link in links.links())

    def _find(self) -> None:
        names = self.record.names
        self.finder = Finder(
            self.record, self.subject.stages, self.subject.shapes, self.a, predicting=self.run.predicting
        )
        self.guide = next((guide for guide in self.subject.guides if guide.names == names), None)
        if self.guide is not None:
            self.links = like(self.guide.links, self.record, self.subject.stages)
            return
        self.links = self.finder.links()
        self.guide = Guide(names, self.links)
        self.subject.guides.append(self.guide)
        for link in self.links:
            if len(link.stages) > 1 and not link.fault:
                self.subject.notes[f"{link.name} were judged together ({self._lines(link)})"] = None

    def _locate(self) -> Iterator[Row]:
        """Find the parameters of every link; of one that the port computes, the reference then takes that value."""
        assert self.guide is not None
        known, self.parameters = self.guide.parameters, {}
        for link in self.links:
            for stage in link.stages if not link.fault else ():
                for name in MODULE_ATTRIBUTES:
                    if not hasattr(stage.layer, name):
                        continue
                    key, value = (stage.name, name), getattr(stage.layer, name)
                    if known:
                        self.parameters[key] = [each.of(self.record) for each in known.get(key, [])]
                        yield from self._fleeting_rows(link, stage, name, known.get(key, []))
                        continue
                    place = self.subject.shapes[self._index(stage.name)]
                    self.parameters[key] = find(self.record, self.finder.between(link), value, place, self.a.u)
                    yield from self._parameter_row(link, stage, name, value)
        self.guide.parameters = self.parameters

    def _fleeting_rows(self, link: Link, stage: Stage, name: str, before: list[Found]) -> Iterator[Row]:
        """A parameter that is another tensor than in the run before: what it learns is lost."""
        tensors = [
            [p.call.tensor for p in each.pieces if p.call.is_leaf]
            for each in (*before, *self.parameters[stage.name, name])
        ]
        half = len(before)
        if any(
            a is not b
            for old, new in zip(tensors[:half], tensors[half:], strict=True)
            for a, b in zip(old, new, strict=True)
        ):
            quantity, note = MODULE_ATTRIBUTES[name], "it is a new tensor in every run, so what it learns is lost"
            yield self._row(stage.name, f"grad_{quantity}", EXACT, Difference(note=note), self._where(link))

    def _parameter_row(self, link: Link, stage: Stage, name: str, value: Array) -> Iterator[Row]:
        """Whether the port has a parameter of the reference."""
        found, quantity = self.parameters[stage.name, name], MODULE_ATTRIBUTES[name]
        if not found:
            note = "no tensor that it takes has the reference's values"
            yield self._row(stage.name, quantity, EXACT, Difference(note=note), self._where(link))
            return
        held = found[0].value(value)
        if not np.array_equal(held, value):
            worst = compare(held, value, DERIVED * self.a.u * np.abs(value))
            yield self._row(stage.name, quantity, SUM, worst, self._where(link))
            setattr(stage.layer, name, held)
            self.subject.notes[f"{stage.name}.{quantity} is computed from others, which are not judged"] = None

    # --- Rows

    def _row(
        self, layer: str, quantity: str, rule: str, worst: Difference, where: str = "", cause: str = "", known: str = ""
    ) -> Row:
        return Row(self.run.name, layer, quantity, rule, worst, where, cause, known)

    def _raised(self) -> Row:
        error = self.record.error
        if error is None:
            return self._row("output", "output", EXACT, Difference(note="the port returned no tensor"))
        first = (str(error).splitlines() or [""])[0]
        finder = Finder(self.record, self.subject.stages, self.subject.shapes, self.a, predicting=self.run.predicting)
        layer, calls = finder.broken()
        where = next((call.where for call in calls if call.where and call.name not in MOVING), self.record.raised)
        last = next(call for call in reversed(self.record.calls) if call.of_data)
        if last.name in MOVING and len(last.tensor) != len(self.run.x):  # hard-wired sizes
            where = last.where
        note = f"the port raised {type(error).__name__}: {first}"
        return self._row(layer, "output", EXACT, Difference(note=note), where)

    def _state_rows(self) -> Iterator[Row]:
        """What a run must leave as it was: its input, earlier outputs, the random generator, in prediction buffers."""
        subject, run = self.subject, self.run
        if not np.array_equal(_array(self.passed), run.x):
            where = next((c.where for c in self.record.calls[1:] if c.tensor is self.passed), "")
            note = "the port changes its input in place"
            yield self._row("port", "input afterwards", EXACT, Difference(note=note), where)
        parameters = {id(value): name for name, value in subject.port.named_parameters()}
        for call in self.record.calls:
            if call.name and id(call.tensor) in parameters:
                note = f"the port changes {parameters[id(call.tensor)]} in forward"
                yield self._row("port", "parameters", EXACT, Difference(note=note), call.where)
                break
        draws = any(kind_of(stage.layer).repeat is not None for stage in subject.stages) and not run.predicting
        if self.record.drew is not None and not draws:
            note = "the port draws random numbers, and the reference has no layer that does"
            yield self._row("port", "random numbers", EXACT, Difference(note=note), self.record.drew)
        for name, (tensor, value) in subject.seen.items():
            if not np.array_equal(_array(tensor), value, equal_nan=True):
                note, where = f"the output of the run before ({name}) has changed", self.record.calls[-1].where
                yield self._row("port", "earlier output", EXACT, Difference(note=note), where)
        if run.predicting:
            for name, value in subject.port.named_buffers():
                if name in self.kept and not torch.equal(value, self.kept[name]):
                    note = f"the buffer {name} changes in prediction"
                    where = next((c.where for c in self.record.calls if c.tensor is value and c.name), "")
                    using = (ln.name for ln in self.links if any(c.tensor is value for c in self._sides(ln)))
                    yield self._row(next(using, "port"), "buffers", EXACT, Difference(note=note), where)
        assert self.record.output is not None
        subject.seen = {run.name: (self.record.output.tensor.detach(), _array(self.record.output.tensor).copy())}

    def _forward_rows(self, link: Link) -> Iterator[Row]:
        where = self._where(link)
        n = len(self.run.x)
        if not link.stages:
            index = self._index(link.name) + (link.fault == "changed")
            x = _shaped(link.start.value, (n, *self.subject.shapes[index]))
            worst = self._compare(link.end, x, 0.0) if x is not None else Difference(note="another shape")
            quantity = "output" if link.fault == "changed" else "input"
            yield self._row(link.name, quantity, EXACT, worst, where, self._input_cause(link, x))
            return
        first = link.stages[0]
        x = _shaped(link.start.value, (n, *self.subject.shapes[self._index(first.name)]))
        if x is None:
            yield self._row(link.name, "output", EXACT, Difference(note="no call holds its input"), where)
            return
        rule = kind_of(first.layer).rule.name
        if len(link.stages) > 1 and not link.fault:
            whole = probe([s.layer for s in link.stages], x, None, self.a, prediction=self.run.predicting)
            limit = np.zeros(1) if self.run.exact else whole.limit
            yield self._row(link.name, "output", SUM, self._compare(link.end, whole.output, limit), where)
            return
        applied = self._apply(link, first, x)
        if isinstance(applied, Difference):
            yield self._row(link.name, "output", rule, applied, where)
            return
        self.applied[link] = applied
        yield from self._mask_rows(link, first, x)
        for stage in link.stages[1:]:  # of a fault: seen where the next right layer begins
            applied = apply(stage, applied.y, self.a, predicting=self.run.predicting)
        if link.start is link.end and not link.fault and kind_of(first.layer).rule.name == EXACT:
            return  # nothing was done and nothing had to be: a flattening that the next layer does by itself
        limit = self._of_transform(link, applied.limit, applied.y)
        worst = self._compare(link.end, applied.y, limit, applied.own)
        cause = ""
        if worst.ratio > 1 and not self.run.exact:
            cause = self._cause(link, first, x)
        yield self._row(link.name, "output", rule, worst, where, cause)
        if isinstance(first.layer, BatchNormalization) and not self.run.predicting:
            yield from self._statistics_rows(link, first, x)

    def _apply(self, link: Link, stage: Stage, x: Array) -> Applied | Difference:
        try:
            return apply(
                stage,
                x,
                self.a,
                actual=link.end.value,
                predicting=self.run.predicting,
                exact=self._exact(stage),
            )
        except ValueError as error:  # the port cannot have drawn that
            return Difference(note=str(error))

    def _exact(self, stage: Stage) -> bool:
        """Whether nothing of this stage's output may be off."""
        until = self.run.inexact_from
        if any("fft" in name for name in self.record.names):
            return False
        return self.run.exact and not (until and self._index(stage.name) >= self._index(until))

    def _of_transform(self, link: Link, limit: Array, like: Array) -> Array:
        """The limit, but for a convolution by Fourier transforms, which errs by the largest sum in every entry.

        By at most 11 u of it, as was measured; L is at least 5 u of it from 4 products on.
        """
        if not any("fft" in call.name for call in self.finder.between(link)):
            return limit
        self.subject.notes[f"{link.name} is computed by Fourier transforms: judged by its largest sum"] = None
        return np.full(like.shape, 4 * np.max(limit))

    def _cause(self, link: Link, stage: Stage, x: Array) -> str:
        if link.fault == "missing":
            return f"there is no {stage.name}"
        actual = link.end.value
        if actual is None or len(link.stages) > 1:
            return ""
        held = {}
        for call in self._sides(link):
            if call.array is not None:
                held[call.label or f"a tensor of {call.where}"] = call.array

        def fits(value: Array, other: Any, x: Array) -> bool:
            try:
                found = apply(Stage("", other), x, self.a, actual=value, predicting=self.run.predicting)
            except (ValueError, IndexError):
                return False
            return value.size == found.y.size and bool(
                compare(value.reshape(found.y.shape), found.y, found.limit, found.own).ratio <= 1
            )

        others = {
            f"{each.name}.{MODULE_ATTRIBUTES[name]}": getattr(each.layer, name)
            for each in self.subject.stages
            for name in MODULE_ATTRIBUTES
            if hasattr(each.layer, name)
        }
        return causes.forward_cause(causes.Fault(stage.name, stage.layer, x, actual, fits, held, others))

    def _mask_rows(self, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
        """What is drawn must be drawn anew for every sample, and in every run."""
        if kind_of(stage.layer).repeat is None or self.run.labels is None or link.end.value is None:
            return
        seen, kept = x.reshape(len(x), -1) != 0, link.end.value.reshape(len(x), -1) != 0  # (N, D)
        # Two draws agree with a probability of p^2 + (1 - p)^2.
        p = stage.layer.dropout_ratio
        enough = BITS / max(-np.log2(p**2 + (1 - p) ** 2), 1e-9)
        mixed = (seen & kept).any(axis=0) & (seen & ~kept).any(axis=0)
        if not mixed.any() and seen.sum() - seen.any(axis=0).sum() > enough:
            note = "it drops the same of every sample"
            yield self._row(link.name, "output", EXACT, Difference(note=note), self._where(link))
        before = self.subject.masks.setdefault(stage.name, kept)
        if self.run.again and seen.sum() > enough and np.array_equal(before & seen, kept & seen):
            note = "it drops what it dropped in an earlier run"
            yield self._row(link.name, "output", EXACT, Difference(note=note), self._where(link))

    def _input_cause(self, link: Link, x: Array | None) -> str:
        """What was done to what the layer before made."""
        actual = None if x is None else _shaped(link.end.value, x.shape)
        if x is None or actual is None:
            return ""

        def fits(value: Array, other: Any, x: Array) -> bool:
            return value.size == x.size and np.array_equal(value.ravel(), copy.copy(other).forward(x).ravel())

        return causes.forward_cause(causes.Fault(f"the input of {link.name}", Identity(), x, actual, fits, {}, {}))

    def _statistics_rows(self, link: Link, stage: Stage, x: Array) -> Iterator[Row]:
        """The running statistics after x, if the port holds them in the reference's shape; the next runs use them."""
        after = self.applied[link].layer
        held = [
            call for call in self._sides(link) if not call.requires_grad and call.tensor.numel() == len(after.gamma)
        ]
        n = len(x)
        for name, limit in running_limits(stage.layer, x, self.a).items():
            value, old = getattr(after, name), getattr(stage.layer, name)
            found = [(self._compare(call, value, limit, now=True), call) for call in held]
            if not found:
                continue
            worst, call = min(found, key=lambda each: each[0].ratio)
            known = ""
            if worst.ratio > 1 and name == "running_var" and n > 1:
                kept = stage.layer.momentum * (0 if old is None else old)
                unbiased = kept + (value - kept) * n / (n - 1)
                fitting = [c for c in held if self._compare(c, unbiased, 2 * limit, now=True).ratio <= 1]
                if fitting:
                    known = f"torch's running variance is the unbiased one, n/(n - 1) = {n}/{n - 1} of the book's"
                    call = fitting[0]
                    worst = self._compare(call, value, limit, now=True)
            if worst.ratio <= 1 or known:
                setattr(after, name, np.asarray(call.array).reshape(value.shape))  # with which the port goes on
            yield self._row(link.name, name, NORMALISE, worst, self._where(link), known=known)
        stage.layer.running_mean, stage.layer.running_var = after.running_mean, after.running_var

    def _compare(
        self, call: Call, expected: Array, limit: Array | float, own: Any = None, *, now: bool = False
    ) -> Difference:
        """A call's value against what it should be; one of another shape but the same size is taken in its order."""
        if call is self.record.output and not self.setting.allows(call.tensor.dtype):
            return Difference(note=f"dtype {call.tensor.dtype}, expected {self.setting.dtype}")
        value = call.array if now or call.value is None else call.value
        shape = tuple(call.tensor.shape)
        is_output = call is self.record.output and len(expected) == len(self.run.x)
        if (
            value is None
            or value.size != expected.size
            or (is_output and shape != expected.shape and expected.ndim == 2)
        ):
            return Difference(note=f"shape {shape}, expected {expected.shape}")
        return compare(value.reshape(expected.shape), expected, limit, own)

    # --- Backward

    def _watch(self) -> None:
        """Let gradients be kept where layers end and where parameters are used."""
        watched = {link.end for link in self.links} | {self.record.calls[0]}
        watched |= {piece.call for each in self.parameters.values() for found in each for piece in found.pieces}
        for call in self.record.calls:
            if call.is_leaf:
                call.tensor.grad = None
        for call in watched:
            call.watch()

    def _backward(self) -> Iterator[Row]:
        """Backward from the loss or from the drawn gradient; rows for the loss."""
        output = self.record.output
        assert output is not None
        self.dout: Array | None = None
        if not output.tensor.requires_grad:
            return
        try:
            if self.run.labels is None:
                assert self.run.cotangent is not None
                cotangent = self.setting.tensor(self.run.cotangent).to(output.tensor.dtype)
                self.dout = _array(cotangent)
                output.tensor.backward(cotangent.reshape(output.tensor.shape))
                return
            labels = torch.tensor(self.run.labels, device=self.setting.device)
            value = self.subject.loss(output.tensor, labels)
            value.backward()
        except Exception as error:  # whatever a user's loss or backward raises
            first = (str(error).splitlines() or [""])[0]
            note = f"backward raised {type(error).__name__}: {first}"
            changing = [c.where for c in self.record.calls if c.name.endswith("_") and not c.name.endswith("like_")]
            where = ", ".join(dict.fromkeys(changing)) if "inplace operation" in first else ""
            yield self._row(
                "loss" if self.run.labels is not None else "port", "gradient", EXACT, Difference(note=note), where
            )
            return
        self.dout = output.grad
        x, subject = _array(output.tensor), self.subject
        yield from loss_rows(self.run.name, x, self.run.labels, value, output.grad, self.setting, subject.takes)

    def _gradient_rows(self) -> Iterator[Row]:
        """From the last layer to the first, each between two places where a gradient arrives."""
        if self.dout is None:
            yield from self._cut_rows(self.links, "no gradient passes here")
            return
        self.users: dict[int, list[tuple[str, str]]] = {}
        self.sums: dict[int, tuple[Any, Any]] = {}
        for key, each in self.parameters.items():
            if each and each[0].settable:
                self.users.setdefault(id(each[0].pieces[0].call.tensor), []).append(key)
        yield from self._tied_rows()
        segments = self._segments()
        while segments:
            segment = segments.pop()
            rows = self._segment_rows(segment)
            if not all(row.ok for row in rows) and segments and not any(link.fault for link in segments[-1]):
                # In-place calls on views, and ties that the layer before does away with, show no fault together.
                together = self._segment_rows([*segments[-1], *segment])
                if all(row.ok for row in together):
                    segments.pop()
                    rows = together
            yield from rows
        yield from self._extra_rows()

    def _segments(self) -> list[list[Link]]:
        """Links, those together between which no gradient can be seen."""
        found: list[list[Link]] = []
        current: list[Link] = []
        for link in self.links:
            trains = any(hasattr(stage.layer, name) for stage in link.stages for name in MODULE_ATTRIBUTES)
            if not (current or trains or link.start.requires_grad or link.end.requires_grad):
                continue  # of the input, or what only depends on it: no gradient is expected
            current.append(link)
            if link.end.requires_grad or link is self.links[-1]:
                found.append(current)
                current = []
        return found

    def _segment_rows(self, segment: list[Link]) -> list[Row]:
        """Of one stretch between two places where gradients are seen; none where a fault lies in it."""
        if any(link.fault for link in segment):
            return []
        start, end = segment[0].start, segment[-1].end
        dout = self.dout if segment[-1] is self.links[-1] else end.grad
        stages = [stage for link in segment for stage in link.stages]
        index = self._index(stages[0].name)
        x = _shaped(start.value, (len(self.run.x), *self.subject.shapes[index]))
        if dout is None or x is None:
            return []
        dout = dout.reshape(len(x), *self.subject.shapes[index + len(stages)])
        if len(stages) == 1:
            dx, limit, gradients = self._one(segment[0], stages[0], x, dout)
        else:
            # What was drawn is repeated; layers that were seen one by one forward have it.
            layers = [
                self.applied[link].layer if link in self.applied and len(link.stages) == 1 else stage.layer
                for link in segment
                for stage in link.stages
            ]
            whole = probe(layers, x, dout, self.a)
            assert whole.grad_input is not None
            dx, limit = whole.grad_input, whole.grad_input_limit
            gradients = [
                (stage, name, grads[name], limits[name], None)
                for stage, grads, limits in zip(stages, whole.grads, whole.grads_limits, strict=True)
                for name in grads
            ]
        names = [s.name for s in stages if not isinstance(s.layer, Identity)] or [stages[0].name]
        name, where = " and ".join(names), self._where(segment)
        rows = []
        if start.requires_grad and not (start is end and segment[-1] is not self.links[-1]):
            if start.grad is None and np.any(dx):
                return [*self._cut_rows(segment, "no gradient arrives at its input")]
            actual = np.zeros(dx.shape) if start.grad is None else start.grad.reshape(dx.shape)
            own = own_limits(stages[0].layer, x, dout, "grad_input", self.a) if len(stages) == 1 else None
            rows.append(self._gradient_row(name, "grad_input", actual, dx, limit, own, where, segment, x, dout))
        for stage, attribute, expected, bound, own in gradients:
            rows += self._parameter_rows(segment, stage, attribute, expected, bound, own, where, x, dout)
        return rows

    def _one(self, link: Link, stage: Stage, x: Array, dout: Array) -> tuple[Array, Array, list[Any]]:
        """Gradients of one layer, and their limits: dx, its limit, and (stage, attribute, gradient, limit, own)."""
        kind, layer = kind_of(stage.layer), self.applied[link].layer if link in self.applied else copy.copy(stage.layer)
        if link not in self.applied:
            layer.forward(x)
        if kind.repeat is not None and link.end.value is not None:
            grad = None if link.start.grad is None else link.start.grad.reshape(x.shape)
            layer = kind.repeat(stage.layer, x, link.end.value.reshape(x.shape), grad)
            layer.forward(x)
        dx = layer.backward(dout)
        names = [name for name in MODULE_ATTRIBUTES if hasattr(stage.layer, name)]
        if self._exact(stage) and not self.run.inexact_from:
            zero = np.zeros(1)
            return dx, zero, [(stage, name, getattr(layer, f"d{name}"), zero, None) for name in names]
        limits = kind.rule.backward(stage.layer if kind.repeat is None else layer, x, dout, self.a)
        return (
            dx,
            limits.grad_input,
            [
                (stage, n, getattr(layer, f"d{n}"), limits.grads[n], own_limits(stage.layer, x, dout, n, self.a))
                for n in names
            ],
        )

    def _parameter_rows(
        self,
        segment: list[Link],
        stage: Stage,
        attribute: str,
        expected: Array,
        limit: Array,
        own: Any,
        where: str,
        x: Array,
        dout: Array,
    ) -> Iterator[Row]:
        quantity, found = MODULE_ATTRIBUTES[attribute], self.parameters[stage.name, attribute]
        if not found:
            return
        leaf = id(found[0].pieces[0].call.tensor)
        if len(users := self.users.get(leaf, [])) > 1:  # one array in several layers of the reference too
            before, limits = self.sums.get(leaf, (0.0, 0.0))
            self.sums[leaf] = before + expected, limits + np.broadcast_to(limit, expected.shape)
            users.remove((stage.name, attribute))
            return
        before, limits = self.sums.get(leaf, (0.0, 0.0))
        expected, limit = before + expected, limits + limit + (2 * self.a.u * np.abs(before) if np.any(before) else 0.0)
        rows = []
        for each in found:
            grad = each.gradient(expected)
            if grad is None and np.any(expected):
                worst = Difference(note="it gets no gradient")
                rows.append(self._row(stage.name, f"grad_{quantity}", SUM, worst, where))
                continue
            actual = np.zeros(expected.shape) if grad is None else grad
            bound = np.broadcast_to(limit, expected.shape)
            rows.append(
                self._gradient_row(
                    stage.name, f"grad_{quantity}", actual, expected, bound, own, where, segment, x, dout, attribute
                )
            )
        yield min(rows, key=lambda row: row.worst.ratio)

    def _gradient_row(
        self,
        name: str,
        quantity: str,
        actual: Array,
        expected: Array,
        limit: Array,
        own: Any,
        where: str,
        segment: list[Link],
        x: Array,
        dout: Array,
        attribute: str = "grad_input",
    ) -> Row:
        rule = (
            kind_of(segment[0].stages[0].layer).rule.name if len(segment) == 1 and len(segment[0].stages) == 1 else SUM
        )
        for link in segment:
            limit = self._of_transform(link, limit, expected)
        worst = compare(actual, expected, limit, own)
        cause = ""
        if worst.ratio > 1 and len(segment) == 1 and len(segment[0].stages) == 1:
            layer = segment[0].stages[0].layer
            bound = np.broadcast_to(limit, expected.shape)
            cause = causes.gradient_cause(
                causes.GradientFault(
                    name,
                    layer,
                    x,
                    dout,
                    attribute,
                    actual,
                    lambda value, other: bool(compare(value, other, bound).ratio <= 1),
                )
            )
        if attribute == "W" and actual.ndim == 2 and len(worst.index) == 2:
            worst = compare(
                to_torch_layout(actual),
                to_torch_layout(expected),
                to_torch_layout(np.broadcast_to(limit, expected.shape)),
            )
        return self._row(name, quantity, rule, worst, where, cause)

    def _cut_rows(self, segment: Sequence[Link], note: str) -> Iterator[Row]:
        """Where gradients stop: in the first link whose end has none, at the call that has one in and none out."""
        blamed = next((link for link in segment if not link.end.requires_grad and link.stages), segment[-1])
        for call in self.finder.between(blamed):
            if not call.requires_grad and any(self.record.calls[p].requires_grad for p in call.parents):
                yield self._row(blamed.name, "grad_input", EXACT, Difference(note=note), call.where)
                return
        yield self._row(blamed.name, "grad_input", EXACT, Difference(note=note), self._where(blamed))

    def _tied_rows(self) -> Iterator[Row]:
        """One parameter of the port in place of several of the reference."""
        for keys in self.users.values():
            origins = {self.subject.origins.get(key) for key in keys}
            if len(origins) == len(keys) > 1 and not len(self.parameters[keys[0]][0].pieces) > 1:
                names = [f"{stage}.{MODULE_ATTRIBUTES[name]}" for stage, name in keys]
                if len({str(self.parameters[key][0].pieces[0].inside) for key in keys}) == 1:
                    note = f"{' and '.join(names)} are one parameter in the port"
                    link = next(link for link in self.links if keys[-1][0] in [stage.name for stage in link.stages])
                    quantity = f"grad_{MODULE_ATTRIBUTES[keys[-1][1]]}"
                    yield self._row(keys[-1][0], quantity, EXACT, Difference(note=note), self._where(link))
            if len(origins) == len(keys):
                keys[1:] = []

    def _extra_rows(self) -> Iterator[Row]:
        """Parameters that are trained and that the reference has not, and those that nobody uses."""
        if self.run.name != "training" or any(link.fault for link in self.links) or not all(self.parameters.values()):
            return
        serving = set[int]()
        todo = [piece.call for each in self.parameters.values() for found in each for piece in found.pieces]
        while todo:
            call = todo.pop()
            if call.number not in serving:
                serving.add(call.number)
                todo += [self.record.calls[p] for p in call.parents]
        served = {id(self.record.calls[number].tensor) for number in serving}
        used = {id(call.tensor): call for call in self.record.calls}
        for name, parameter in self.subject.port.named_parameters():
            if id(parameter) in served or id(parameter) in self.subject.frozen:
                continue
            if parameter.grad is None or not parameter.grad.any():
                self.subject.notes[
                    f"{name} is not used" if parameter.grad is None else f"{name} has a gradient of 0"
                ] = None
                continue
            call = used.get(id(parameter))
            link = next((ln for ln in self.links if call in self._sides(ln)), self.links[-1])
            note = "it gets a gradient and serves no layer of the reference"
            yield self._row(link.name, name, EXACT, Difference(note=note), call.where if call else "")

    # --- Where

    def _sides(self, link: Link) -> list[Call]:
        return list(sides(self.record.calls, self.finder.between(link)))

    def _index(self, name: str) -> int:
        return next(i for i, stage in enumerate(self.subject.stages) if stage.name == name)

    def _where(self, link: Link | Sequence[Link]) -> str:
        links = [link] if isinstance(link, Link) else list(link)
        if len(links) == 1 and links[0].fault == "missing":
            following = next(
                (c for c in self.record.calls if c.number in self.finder.ancestors and c.number > links[0].end.number),
                None,
            )
            place = f"before {following.where}" if following and following.where else "at the end"
            return f"expected {links[0].name} {place}"
        return self._lines(*links)

    def _lines(self, *links: Link) -> str:
        """The lines of the calls that compute something, or of all, as "net.py:16-18"."""
        calls = [call for link in links for call in self.finder.between(link)]
        computing = [call for call in calls if call.name not in MOVING] or calls
        places = dict.fromkeys(call.where for call in computing if call.where)
        if len(places) <= 1:
            return next(iter(places), "")
        files: dict[str, list[int]] = {}
        for place in places:
            file, _, rest = place.partition(":")
            number = rest.partition(",")[0]
            if not number.isdigit():
                return ", ".join(places)
            files.setdefault(file, []).append(int(number))
        return ", ".join(f"{file}:{span}" for file, numbers in files.items() for span in _spans(sorted(set(numbers))))


def _spans(numbers: list[int]) -> list[str]:
    """16-18; lines far apart, as of a function's and its caller's, one by one."""
    if numbers[-1] - numbers[0] > NEARBY:
        return list(map(str, numbers))
    return [str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"]


NEARBY = 5  # lines

# Calls that only move data: a fault is not looked for there unless there is nothing else.
MOVING = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "contiguous",
        "unsqueeze",
        "squeeze",
        "clone",
        "view_as",
        "unflatten",
        "to",
        "float",
        "double",
    ]
)


def _part(returned: Any, key: int | str) -> Any:
    """One part of what a port returned, which may be one only in training. ValueError."""
    if isinstance(returned, Tensor):
        return returned
    try:
        return getattr(returned, key) if isinstance(key, str) and hasattr(returned, key) else returned[key]
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"output={key!r} must be a part of what the port returns, a {type(returned).__name__}"
        ) from error


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().to("cpu", torch.float64).numpy()
    return found


def _shaped(value: Array | None, shape: tuple[int, ...]) -> Array | None:
    return value.reshape(shape) if value is not None and value.size == np.prod(shape) else None
