"""Which calls of a port's run make which layers of the reference, told by what they make, never by names.

A layer ends at the call whose value is the layer's, on the value that stands where the layer before ended, in any shape
with the same order of elements. Only places through which every way from the input to the output goes can end a layer:
then whatever holds between two of them holds for the whole port.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from numpy_ref.checks import Array
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import kind_of
from torchport.layers.loss import Identity
from torchport.parity.calls import Call, Record
from torchport.parity.compare import compare
from torchport.parity.lines import MOVING
from torchport.parity.places import Places, side_inputs
from torchport.parity.probes import probe
from torchport.parity.stages import Applied, Link, Stage, apply, has_no_calls, joint_name

# As near to a layer's output as only a slip in that layer can be: what lies so near is that layer, and wrong.
NEAR = 2.0**-6

CHANCE = 1e-3  # from which on something is thought possible


class LinkFinder(Places):
    """Finds the links of one run."""

    def __init__(
        self,
        record: Record,
        stages: Sequence[Stage],
        shapes: Sequence[tuple[int, ...]],
        a: Arithmetic,
        *,
        predicting: bool = False,
    ) -> None:
        super().__init__(record, shapes)
        self.stages, self.a, self.predicting = stages, a, predicting

    def links(self) -> list[Link]:
        """One after the other, from the input to the output."""
        found = self._chain(0, self.calls[0], set()) or list(self._one_by_one())
        first = next((link for link in found if link.fault), None)
        if first is not None and not first.stages and _is_unrelated(first):
            # What is undone later, samples in another order say, is no fault of the whole.
            return self._whole() or found
        return self._separate_idle(found)

    def faultless_links(self, fewest: int) -> list[Link]:
        """The same if none has a fault and they are so many at least, else none: the search ends when that is clear."""
        found = self._chain(0, self.calls[0], set()) or []
        if not found and fewest < len(self.stages):  # some layers may be judged together
            found = list(itertools.takewhile(lambda link: not link.fault, self._one_by_one()))
        is_whole = sum(len(link.stages) for link in found) == len(self.stages)
        return self._separate_idle(found) if is_whole and len(found) >= fewest else []

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

    def _one_by_one(self) -> Iterator[Link]:
        """Each from where the one before ends, a fault or layers that are right together where none is by itself."""
        place, k = self.calls[0], 0
        while k < len(self.stages):
            yield (link := self._next(k, place))
            place, k = link.end, k + len(link.stages)

    def _separate_idle(self, found: list[Link]) -> list[Link]:
        """Where nothing had to be done, as by a relu that nothing negative reached, the last calls are that layer's."""
        for i, base in enumerate(found):
            idle = list(itertools.takewhile(has_no_calls, found[i + 1 :]))
            if has_no_calls(base) or not idle or base.end.value is None:
                continue
            values = base.end.value.ravel()
            calls = self.calls_of(base)
            if any(isinstance(stage.layer, Identity) for stage in base.stages):  # the input: the place before is all
                calls.insert(0, base.start)
            same = [c for c in calls if c.number in self.cuts and c.name not in MOVING and _has_values(c, values)]
            if len(same) > len(idle):
                places = [*same[-len(idle) - 1 : -1], base.end]
                base.end = places[0]
                for link, start, end in zip(idle, places, places[1:], strict=False):
                    link.start, link.end = start, end
        return found

    def _whole(self) -> list[Link] | None:
        """All layers in one piece, if that is right."""
        x, actual = self.value(self.calls[0], 0), self.value(self.output, len(self.stages))
        if x is None or actual is None or any(map(self._is_random, range(len(self.stages)))):
            return None
        if not self._are_right(self.stages, x, actual):
            return None
        return [Link(joint_name(self.stages[1:-1] or self.stages), tuple(self.stages), self.calls[0], self.output)]

    def first_missing(self) -> tuple[str, list[Call]]:
        """Of a run that raised, the first stage that is not there, and the calls from where it should begin."""
        place, k = self.calls[0], 0
        while k < len(self.stages) and (end := self._end(k, place)):
            place, k = end, k + 1
        rest = [call for call in self.calls[place.number + 1 :] if call.depends_on_input]
        return self.stages[min(k, len(self.stages) - 1)].name, rest

    def _apply(self, k: int, x: Array, actual: Array | None = None) -> Applied | None:
        try:
            return apply(self.stages[k], x, self.a, actual=actual, predicting=self.predicting)
        except ValueError:
            return None

    def _is_random(self, k: int) -> bool:
        """Whether a stage is judged by what the port itself drew."""
        return kind_of(self.stages[k].layer).repeat is not None and not self.predicting

    def _needs_no_call(self, k: int, x: Array, made: Applied | None) -> bool:
        """Whether no call is needed, as for flattening; of few entries a dropout may have dropped none."""
        if self._is_random(k):
            return bool(self.stages[k].keep_ratio ** np.count_nonzero(x) > CHANCE)
        return made is not None and np.array_equal(made.y.ravel(), x.ravel())

    def _end(self, k: int, place: Call) -> Call | None:
        """The call where stage k ends that begins at place: of equal values the last."""
        return next(iter(self._ends(k, place)), None)

    def _ends(self, k: int, place: Call) -> list[Call]:
        """The calls with the value that is nearest to what stage k makes of place's, the last first."""
        x = self.value(place, k)
        if x is None:
            return []
        applied = None if self._is_random(k) else self._apply(k, x)
        ends, nearest = list[Call](), np.inf
        for call, actual in self.candidates(place, k + 1, first=0 if self._needs_no_call(k, x, applied) else 1):
            if ends and call.number not in self.cuts:
                break
            found = self._apply(k, x, actual) if self._is_random(k) else applied
            ratio = np.inf if found is None else compare(actual, found.y, found.limit, found.entry_limit).ratio
            if ratio <= 1 and ratio <= nearest:  # a later layer may change its input by less than a wide limit
                ends, nearest = [*(ends if ratio == nearest else ()), call], ratio
        return ends

    def _next(self, k: int, place: Call) -> Link:
        if end := self._end(k, place):
            return Link(self.stages[k].name, (self.stages[k],), place, end)
        return self._displaced(k, place) or self._near_miss(k, place) or self._fault(k, place)

    def _displaced(self, k: int, place: Call) -> Link | None:
        """Stage k is right, on something else than what the layer before it made."""
        x = self.value(place, k)
        for call, value in self.candidates(place, k):
            if call is self.output or (x is not None and np.array_equal(value, x)):
                continue
            end = self._end(k, call)
            if end is not None and end.value is not None and not np.array_equal(end.value.ravel(), value.ravel()):
                link = Link(self.stages[k].name, (), place, call, "input")
                changing = self.calls_of(link)
                # A change inside the module of the layer before is that one's, or with its parameters.
                outside = k == len(self.stages) - 1 or end.module != place.module
                same = place.module and outside and {place.module} == {each.module for each in changing}
                if k > 0 and (
                    same or self._trained_inputs(place) & {id(s.tensor) for s in side_inputs(self.calls, changing)}
                ):
                    link.name, link.fault = self.stages[k - 1].name, "changed"
                return link
        return None

    def _trained_inputs(self, call: Call) -> set[int]:
        """The trained tensors that the call itself takes."""
        return {id(c.tensor) for c in side_inputs(self.calls, [call]) if c.requires_grad}

    def _near_miss(self, k: int, place: Call) -> Link | None:
        """Stage k is there, and a little wrong; or right in one piece with the next: pooled before relu, scripted."""
        x = y = self.value(place, k)
        for last in range(k, len(self.stages)):
            if x is None or y is None or self._is_random(last) or (applied := self._apply(last, y)) is None:
                return None
            y, stages = applied.y, tuple(self.stages[k : last + 1])
            for call, actual in self.candidates(place, last + 1):
                if not _relative_distance(actual, y) < NEAR:
                    continue
                if last == k:
                    return Link(stages[0].name, stages, place, call, "output")
                if self._are_right(stages, x, actual):
                    return Link(joint_name(stages), stages, place, call)
        return None

    def _are_right(self, stages: Sequence[Stage], x: Array, actual: Array) -> bool:
        """Whether the port has made actual of x as these stages do together."""
        whole = probe([stage.layer for stage in stages], x, None, self.a, prediction=self.predicting)
        return compare(actual, *whole.output).ratio <= 1

    def _fault(self, k: int, place: Call) -> Link:
        """Stage k is wrong or missing; the link ends where a later one goes on, or with the output."""
        last = len(self.stages) - 1
        for j in range(k + 1, last):
            for call, value in self.candidates(place, j, first=0):
                end = self._end(j, call)
                if end is not None and not (end.value is not None and np.array_equal(end.value.ravel(), value.ravel())):
                    fault = "missing" if call is place and j == k + 1 else "output"
                    return Link(self.stages[k].name, tuple(self.stages[k:j]), place, call, fault)
        ends = k < last and self._end(last, self.output) is not None
        stages = tuple(self.stages[k : last if ends else last + 1])
        return Link(stages[0].name, stages, place, self.output, "output")

    def calls_of(self, link: Link) -> list[Call]:
        """The calls of a link, in order."""
        return [self.calls[i] for i in sorted(self.ancestors) if link.start.number < i <= link.end.number]


def _is_unrelated(link: Link) -> bool:
    """Whether what was changed is another thing than before, and not a slip."""
    before, behind = link.start.value, link.end.value
    if before is None or behind is None or before.size != behind.size:
        return True
    return not _relative_distance(behind.ravel(), before.ravel()) < NEAR


def _has_values(call: Call, values: Array) -> bool:
    return call.value is not None and np.array_equal(call.value.ravel(), values)


def _relative_distance(actual: Array, expected: Array) -> float:
    """Of two arrays, relative to the size of the second; infinite where not finite."""
    size = np.linalg.norm(expected)
    found = float(np.linalg.norm(actual - expected) / size) if size > 0 else np.inf
    return found if np.isfinite(found) else np.inf
