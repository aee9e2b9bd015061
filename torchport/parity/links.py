"""Which calls of a port's run make which layers of the reference, told by what they make, never by names.

A layer ends at the call whose value is the layer's, on the value that stands where the layer before ended, in any shape
with the same order of elements. Only places through which every way from the input to the output goes can end a layer:
then whatever holds between two of them holds for the whole port.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.layers import Flatten
from torchport.layers.arithmetic import Arithmetic, rounded
from torchport.layers.kinds import kind_of
from torchport.layers.loss import Identity
from torchport.layers.sums import PRODUCTS, own_limit
from torchport.parity.compare import Own, compare
from torchport.parity.lines import LAYING, MOVING
from torchport.parity.probes import Probed, probe
from torchport.parity.recording import Call, Record, behind

# As near to a layer's output as only a slip in that layer can be: what lies so near is that layer, and wrong.
NEAR = 2.0**-6

CHANCE = 1e-3  # from which on something is thought possible


class Stage(NamedTuple):
    """A layer of the reference by its name in rows, on weights as the port can hold them."""

    name: str
    layer: Any

    @property
    def kept(self) -> float:
        """The share of entries that it keeps, of a layer that drops the others; a user's own may draw otherwise."""
        ratio = kind_of(self.layer).ratio
        return 0.0 if ratio is None else 1 - ratio(self.layer)


@dataclass(eq=False)
class Link:
    """A stretch of a port's run, from one call to another, that stands for these layers; most often for one.

    fault is what was found wrong already: "output" (no call makes what the first of the layers makes), "missing" (no
    call at all), "input" (something is done to the layer's input before it; stages is then empty), or "changed" (the
    same, behind the layer and inside its module).
    """

    name: str
    stages: tuple[Stage, ...]
    start: Call
    end: Call
    fault: str = ""


class Applied(NamedTuple):
    """A layer that has run on what a port gave it, and what it made."""

    layer: Any
    x: Array
    y: Array
    limit: Array
    own: Own | None


def apply(
    stage: Stage, x: Array, a: Arithmetic, *, actual: Array | None = None, predicting: bool = False, exact: bool = False
) -> Applied:
    """stage's layer on x (N, ...), with what the port drew to make actual of it; exact: nothing may be off at all.

    ValueError where the port cannot have drawn that.
    """
    kind, layer, x = kind_of(stage.layer), copy.copy(stage.layer), cast(stage.layer, x, a)
    if predicting and kind.prediction is not None:
        limit = np.asarray(0.0) if exact else kind.prediction(stage.layer, x, a)
        return Applied(layer, x, layer.forward(x, train_flg=False), limit, None)
    if kind.repeat is not None and actual is not None and actual.size == x.size:
        layer = kind.repeat(layer, x, actual.reshape(x.shape), None)
    y = layer.forward(x)
    if exact:
        return Applied(layer, x, y, np.asarray(0.0), None)
    return Applied(layer, x, y, kind.rule.forward(stage.layer, x, a), own_limits(stage.layer, x, y, "output", a))


def cast(layer: Any, x: Array, a: Arithmetic) -> Array:
    """x as products of matrices take it: under autocast they round it, where other layers do not."""
    return rounded(x, torch.bfloat16) if a.u_result and kind_of(layer).rule is PRODUCTS else x


def own_limits(layer: Any, x: Array, dout: Array, quantity: str, a: Arithmetic) -> Own | None:
    """The limit of one entry of quantity by its own products; None where the layer's rule has none."""
    products = kind_of(layer).rule.products
    if products is None:
        return None
    return lambda index: own_limit(products(layer, x, dout, quantity, index), a)


class Finder:
    """Finds the links of one run. shapes are those of a sample before each stage and behind the last."""

    def __init__(
        self,
        record: Record,
        stages: Sequence[Stage],
        shapes: Sequence[tuple[int, ...]],
        a: Arithmetic,
        *,
        predicting: bool = False,
    ) -> None:
        # Of a port that raised, what it had made until then.
        output = record.output or next(call for call in reversed(record.calls) if call.of_data)
        self.calls, self.output, self.stages, self.a = record.calls, output, stages, a
        self.predicting = predicting
        n = len(record.calls[0].tensor)
        self.shapes = [(n, *shape) for shape in shapes]

    def links(self) -> list[Link]:
        """One after the other, from the input to the output."""
        found = list(self._one_by_one())
        if any(link.fault or len(link.stages) > 1 for link in found):
            found = self._chain(0, self.calls[0], set()) or found
        first = next((link for link in found if link.fault), None)
        if first is not None and not first.stages and _far(first):
            # What is undone later, samples in another order say, is no fault of the whole.
            return self._whole() or found
        return self._told_apart(found)

    def right(self, fewest: int) -> list[Link]:
        """The same if none has a fault and they are so many at least, else none: the search ends when that is clear."""
        if fewest > len(self.stages):
            return []
        found = self._chain(0, self.calls[0], set())
        if found is None and fewest < len(self.stages):  # some layers may be judged together
            found = list(itertools.takewhile(lambda link: not link.fault, self._one_by_one()))
        if not found or len(found) < fewest or sum(len(link.stages) for link in found) < len(self.stages):
            return []
        return self._told_apart(found)

    def _one_by_one(self) -> Iterator[Link]:
        place, k = self.calls[0], 0
        while k < len(self.stages):
            yield (link := self._next(k, place))
            place, k = link.end, k + len(link.stages)

    def _chain(self, k: int, place: Call, tried: set[tuple[int, int]]) -> list[Link] | None:
        """Every stage from k on by itself, if that holds for some choice among calls of equal values.

        Behind a dead layer a later relu makes the same zeros, and layers between would be passed over.
        """
        if k == len(self.stages):
            return []
        if (k, place.number) in tried:
            return None
        tried.add((k, place.number))
        for end in self._ends(k, place):
            rest = self._chain(k + 1, end, tried)
            if rest is not None:
                return [Link(self.stages[k].name, (self.stages[k],), place, end), *rest]
        return None

    def _told_apart(self, found: list[Link]) -> list[Link]:
        """Where nothing had to be done, as by a relu that nothing negative reached, the last calls are that layer's."""
        for i, base in enumerate(found):
            idle = list(itertools.takewhile(coincides, found[i + 1 :]))
            if coincides(base) or not idle or base.end.value is None:
                continue
            values = base.end.value.ravel()
            calls = self.between(base)
            if any(isinstance(stage.layer, Identity) for stage in base.stages):  # the input: the place before is all
                calls.insert(0, base.start)
            same = [c for c in calls if c.number in self.cuts and c.name not in MOVING and _same(c, values)]
            if len(same) > len(idle):
                places = [*same[-len(idle) - 1 : -1], base.end]
                base.end = places[0]
                for link, start, end in zip(idle, places, places[1:], strict=False):
                    link.start, link.end = start, end
        return found

    def _whole(self) -> list[Link] | None:
        """All layers in one piece, if that is right."""
        x, actual = self._value(self.calls[0], 0), self._value(self.output, len(self.stages))
        if x is None or actual is None or any(map(self._draws, range(len(self.stages)))):
            return None
        whole = self._probed(self.stages, x)
        right = compare(actual, whole.output, whole.limit).ratio <= 1
        inner = self.stages[1:-1] or self.stages
        return [Link(joined(inner), tuple(self.stages), self.calls[0], self.output)] if right else None

    def broken(self) -> tuple[str, list[Call]]:
        """Of a run that raised, the first stage that is not there, and the calls from where it should begin."""
        place, k = self.calls[0], 0
        while k < len(self.stages) and (end := self._end(k, place)):
            place, k = end, k + 1
        rest = [call for call in self.calls[place.number + 1 :] if call.of_data]
        return self.stages[min(k, len(self.stages) - 1)].name, rest

    @cached_property
    def ancestors(self) -> set[int]:
        """Of the output, itself included: those that depend on the input."""
        return {call.number for call in behind(self.calls, [self.output], lambda call: call.of_data)}

    @cached_property
    def cuts(self) -> set[int]:
        """Calls that every way from the input to the output goes through: no edge leaps over them."""
        farthest: dict[int, int] = {}
        for number in self.ancestors:
            for parent in self.calls[number].parents:
                farthest[parent] = max(farthest.get(parent, 0), number)
        found, reach = set[int](), 0
        for number in sorted(self.ancestors):
            if reach <= number:
                found.add(number)
            reach = max(reach, farthest.get(number, 0))
        return found

    def _value(self, call: Call, k: int) -> Array | None:
        """Its value in the shape that the reference has before stage k."""
        value, shape = call.value, self.shapes[k]
        return value.reshape(shape) if value is not None and value.size == np.prod(shape) else None

    def _candidates(self, place: Call, k: int, first: int = 1) -> list[tuple[Call, Array]]:
        """Calls, the first of them so many behind place, that may hold what goes into stage k: cuts, the last first."""
        numbers = [number for number in sorted(self.ancestors, reverse=True) if number >= place.number + first]
        if k == len(self.stages):  # the output can only end at the output
            numbers = [self.output.number]
        found = [(call, x) for call in map(self.calls.__getitem__, numbers) if (x := self._value(call, k)) is not None]
        cuts, dtype = [each for each in found if each[0].number in self.cuts], self.output.tensor.dtype
        # What is computed in another dtype is not the port's own.
        cuts.sort(key=lambda c: (c[0].tensor.dtype == dtype, c[0].requires_grad, not _is_laid_out(c[0])), reverse=True)
        return cuts + [each for each in found if each[0].number not in self.cuts]

    def _apply(self, k: int, x: Array, actual: Array | None = None) -> Applied | None:
        try:
            return apply(self.stages[k], x, self.a, actual=actual, predicting=self.predicting)
        except ValueError:
            return None

    def _draws(self, k: int) -> bool:
        """Whether a stage is judged by what the port itself drew."""
        return kind_of(self.stages[k].layer).repeat is not None and not self.predicting

    def _idle(self, k: int, x: Array, made: Applied | None) -> bool:
        """Whether no call is needed, as for flattening; of few entries a dropout may have dropped none."""
        if self._draws(k):
            return bool(self.stages[k].kept ** np.count_nonzero(x) > CHANCE)
        return made is not None and np.array_equal(made.y.ravel(), x.ravel())

    def _end(self, k: int, place: Call) -> Call | None:
        """The call where stage k ends that begins at place: of equal values the last."""
        return next(iter(self._ends(k, place)), None)

    def _ends(self, k: int, place: Call) -> list[Call]:
        """The calls with the value that is nearest to what stage k makes of place's, the last first."""
        x = self._value(place, k)
        if x is None:
            return []
        applied = None if self._draws(k) else self._apply(k, x)
        ends, nearest, value = list[Call](), np.inf, x
        for call, actual in self._candidates(place, k + 1, first=0 if self._idle(k, x, applied) else 1):
            if ends and call.number not in self.cuts:
                break
            found = self._apply(k, x, actual) if self._draws(k) else applied
            ratio = np.inf if found is None else compare(actual, found.y, found.limit, found.own).ratio
            if ends and np.array_equal(actual, value):
                ends.append(call)
            elif ratio <= 1 and ratio < nearest:  # a later layer may change its input by less than a wide limit
                ends, nearest, value = [call], ratio, actual
        return ends

    def _next(self, k: int, place: Call) -> Link:
        name = self.stages[k].name
        if end := self._end(k, place):
            return Link(name, tuple(self.stages[k : k + 1]), place, end)
        return self._displaced(k, place) or self._near(k, place) or self._fault(k, place)

    def _displaced(self, k: int, place: Call) -> Link | None:
        """Stage k is right, on something else than what the layer before it made."""
        x = self._value(place, k)
        for call, value in self._candidates(place, k):
            if call is self.output or (x is not None and np.array_equal(value, x)):
                continue
            end = self._end(k, call)
            if end is not None and end.value is not None and not np.array_equal(end.value.ravel(), value.ravel()):
                link = Link(self.stages[k].name, (), place, call, "input")
                changing = self.between(link)
                # A change inside the module of the layer before is that one's, or with its parameters.
                outside = k == len(self.stages) - 1 or end.module != place.module
                same = place.module and outside and {place.module} == {each.module for each in changing}
                if k > 0 and (same or self._takes(place) & {id(s.tensor) for s in sides(self.calls, changing)}):
                    link.name, link.fault = self.stages[k - 1].name, "changed"
                return link
        return None

    def _takes(self, call: Call) -> set[int]:
        """The trained tensors that the call itself takes."""
        return {id(c.tensor) for c in sides(self.calls, [call]) if c.requires_grad}

    def _near(self, k: int, place: Call) -> Link | None:
        """Stage k is there, and a little wrong; or right in one piece with the next: pooled before relu, scripted."""
        x = y = self._value(place, k)
        for last in range(k, len(self.stages)):
            if x is None or y is None or self._draws(last) or (applied := self._apply(last, y)) is None:
                return None
            y, stages = applied.y, tuple(self.stages[k : last + 1])
            for call, actual in self._candidates(place, last + 1):
                if not _distance(actual, y) < NEAR:
                    continue
                if last == k:
                    return Link(stages[0].name, stages, place, call, "output")
                whole = self._probed(stages, x)
                if compare(actual, whole.output, whole.limit).ratio <= 1:
                    return Link(joined(stages), stages, place, call)
        return None

    def _probed(self, stages: Sequence[Stage], x: Array) -> Probed:
        return probe([stage.layer for stage in stages], x, None, self.a, prediction=self.predicting)

    def _fault(self, k: int, place: Call) -> Link:
        """Stage k is wrong or missing; the link ends where a later one goes on, or with the output."""
        last = len(self.stages) - 1
        for j in range(k + 1, last):
            for call, value in self._candidates(place, j, first=0):
                end = self._end(j, call)
                if end is not None and not (end.value is not None and np.array_equal(end.value.ravel(), value.ravel())):
                    fault = "missing" if call is place and j == k + 1 else "output"
                    return Link(self.stages[k].name, tuple(self.stages[k:j]), place, call, fault)
        ends = k < last and self._end(last, self.output) is not None
        stages = tuple(self.stages[k : last if ends else last + 1])
        return Link(stages[0].name, stages, place, self.output, "output")

    def between(self, link: Link) -> list[Call]:
        """The calls of a link, in order."""
        return [self.calls[i] for i in sorted(self.ancestors) if link.start.number < i <= link.end.number]


def coincides(link: Link) -> bool:
    """Whether nothing had to be done for a layer that does something."""
    return link.start is link.end and bool(link.stages) and not isinstance(link.stages[0].layer, Flatten | Identity)


def _far(link: Link) -> bool:
    """Whether what was changed is another thing than before, and not a slip."""
    before, behind = link.start.value, link.end.value
    if before is None or behind is None or before.size != behind.size:
        return True
    return not _distance(behind.ravel(), before.ravel()) < NEAR


def _is_laid_out(call: Call) -> bool:
    """Whether it only lays out one number many times, as of a dead layer: then that order tells nothing."""
    return call.name in LAYING and call.value is not None and bool((call.value == call.value.flat[0]).all())


def _same(call: Call, values: Array) -> bool:
    return call.value is not None and np.array_equal(call.value.ravel(), values)


def joined(stages: Sequence[Stage]) -> str:
    """The name of several layers that are judged together."""
    return " and ".join(stage.name for stage in stages)


def _distance(actual: Array, expected: Array) -> float:
    """Of two arrays, relative to the size of the second; infinite where not finite."""
    size = np.linalg.norm(expected)
    found = float(np.linalg.norm(actual - expected) / size) if size > 0 else np.inf
    return found if np.isfinite(found) else np.inf


def like(links: Sequence[Link], record: Record, stages: Sequence[Stage]) -> list[Link]:
    """The same links in another run with the same sequence of calls, for stages of the same names."""
    by_name = {stage.name: stage for stage in stages}
    return [
        Link(
            link.name,
            tuple(by_name[stage.name] for stage in link.stages),
            record.calls[link.start.number],
            record.calls[link.end.number],
            link.fault,
        )
        for link in links
    ]


def sides(every: Sequence[Call], calls: Sequence[Call]) -> list[Call]:
    """What goes into these calls and does not depend on the input, parameters above all, the nearest first."""
    taken = [every[number] for call in reversed(calls) for number in call.parents if not every[number].of_data]
    return behind(every, taken, lambda call: not call.of_data)
