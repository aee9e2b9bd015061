"""Finds which calls of a port's run make which layers of the reference, by their values and never by names.

A layer ends at the call whose value equals the layer's output, in any shape with the same order of elements; the layer
is computed on the value where the layer before it ended. Every path from the input to the output should go through such
a call: then whatever holds between two of them holds for the whole port.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.layers import Dropout, Relu
from torchport.layers.loss import Identity
from torchport.parity.calls import Call
from torchport.parity.compare import compare
from torchport.parity.lines import MOVING
from torchport.parity.places import Places, side_inputs
from torchport.parity.probes import probe
from torchport.parity.stages import Link, Stage, has_no_calls, joint_name

# A value within this relative distance of a layer's output is taken for that layer with a mistake in it.
NEAR = 2.0**-6


class LinkFinder(Places):
    """Finds the links of one run."""

    def find_links(self) -> list[Link]:
        """All links from the input to the output, in order."""
        links = self._chain(0, self.calls[0], set()) or list(self._one_by_one())
        first = next((link for link in links if link.fault), None)
        if first is not None and not first.stages and _differs_widely(first):
            # A change that is undone later, such as samples in another order, is no fault of the whole.
            return self._whole() or links
        return self._separate_idle(links)

    def faultless_links(self, fewest: int) -> list[Link]:
        """find_links() if it has at least fewest links and no fault, else []; stops as soon as that is clear."""
        links = self._chain(0, self.calls[0], set()) or []
        if not links and fewest < len(self.stages):  # then some layers may be judged together
            links = list(itertools.takewhile(lambda link: not link.fault, self._one_by_one()))
        is_whole = sum(len(link.stages) for link in links) == len(self.stages)
        return self._separate_idle(links) if is_whole and len(links) >= fewest else []

    def _chain(self, k: int, place: Call, dead_ends: set[tuple[int, int]]) -> list[Link] | None:
        """One link for each stage from k on, if some choice among calls of equal values allows that; else None.

        Taking the last of equal values is not enough: after a dead layer a later relu makes the same zeros, and the
        layers between would be skipped.
        """
        if k == len(self.stages):
            return []
        if (k, place.number) in dead_ends:
            return None
        dead_ends.add((k, place.number))
        self._settle_order(k, place)
        for end in self.ends(k, place):
            rest = self._chain(k + 1, end, dead_ends)
            if rest is not None:
                return [Link(self.stages[k].name, (self.stages[k],), place, end), *rest]
        return None

    def _one_by_one(self) -> Iterator[Link]:
        """Yield links in order; where a stage has none of its own, a fault or stages that are right together."""
        place, k = self.calls[0], 0
        while k < len(self.stages):
            yield (link := self._next(k, place))
            place, k = link.end, k + len(link.stages)

    def _separate_idle(self, links: list[Link]) -> list[Link]:
        """Give each link without calls one of the last calls of equal value before it.

        A relu that no negative value reached has no call of its own: its output equals the layer's before it.
        """
        for i, base in enumerate(links):
            idle = list(itertools.takewhile(has_no_calls, links[i + 1 :]))
            if has_no_calls(base) or not idle or base.end.value is None:
                continue
            calls = self.calls_of(base)
            if any(isinstance(stage.layer, Identity) for stage in base.stages):  # the input may have only its start
                calls.insert(0, base.start)
            cuts = (call for call in calls if call.number in self.cuts and call.name not in MOVING)
            same = [call for call in cuts if _has_values(call, base.end.value)]
            if len(same) > len(idle) and not any(map(self._trained_inputs, same[-len(idle) :])):
                places = [*same[-len(idle) - 1 : -1], base.end]
                base.end = places[0]
                for link, start, end in zip(idle, places, places[1:], strict=False):
                    link.start, link.end = start, end
                    link.fault = link.fault and "output"  # not missing: its call changes nothing here
        return links

    def _whole(self) -> list[Link] | None:
        """One link for all layers, if they are right in one piece; else None."""
        x, actual = self.value(self.calls[0], 0), self.value(self.output, len(self.stages))
        if x is None or actual is None or any(map(self.is_random, range(len(self.stages)))):
            return None
        if not self._are_right(self.stages, x, actual):
            return None
        return [Link(joint_name(self.stages), tuple(self.stages), self.calls[0], self.output)]

    def first_missing(self) -> tuple[str, list[Call]]:
        """For a port that raised an error: the name of the first stage without a call, and the calls from there on."""
        place, k = self.calls[0], 0
        while k < len(self.stages) and (end := self.end(k, place)):
            place, k = end, k + 1
        rest = [call for call in self.calls[place.number + 1 :] if call.depends_on_input]
        return self.stages[min(k, len(self.stages) - 1)].name, rest

    def _settle_order(self, k: int, place: Call) -> None:
        """Exchange stage k and the next if the port does, and these are relu and dropout: relu(m x) is m relu(x)."""
        pair = self.stages[k : k + 2]
        if {type(stage.layer) for stage in pair} != {Relu, Dropout} or self.end(k, place):
            return
        self.stages[k : k + 2] = pair[::-1]
        middle = self.end(k, place)
        end = middle and self.end(k + 1, middle)
        if not middle or not end or _has_values(end, middle.value):  # a relu with nothing to do is no relu
            self.stages[k : k + 2] = pair

    def _next(self, k: int, place: Call) -> Link:
        self._settle_order(k, place)
        if end := self.end(k, place):
            return Link(self.stages[k].name, (self.stages[k],), place, end)
        return self._displaced(k, place) or self._near_miss(k, place) or self._fault(k, place)

    def _displaced(self, k: int, place: Call) -> Link | None:
        """A link for the change before stage k, if the stage is right on another value than the layer before made."""
        x = self.value(place, k)
        for call, value in self.candidates(place, k):
            if call is self.output or (x is not None and np.array_equal(value, x)):
                continue
            end = self.end(k, call)
            if end is not None and not _has_values(end, value):
                link = Link(self.stages[k].name, (), place, call, "input")
                changing = self.calls_of(link)
                side = side_inputs(self.calls, changing)
                if any(c.requires_grad for c in side) and not self.goes_on(k + 1, end):
                    continue  # it is a later stage: a relu of the same size, or what looks like the mask of a dropout
                # A change inside the module of the layer before, or by its parameters, is blamed on that layer.
                outside = k == len(self.stages) - 1 or end.module != place.module
                inside = place.module and outside and {place.module} == {c.module for c in changing}
                if k > 0 and (inside or self._trained_inputs(place) & {id(c.tensor) for c in side}):
                    link.name, link.fault = self.stages[k - 1].name, "changed"
                return link
        return None

    def _trained_inputs(self, call: Call) -> set[int]:
        """The ids of the trained tensors that call takes."""
        return {id(c.tensor) for c in side_inputs(self.calls, [call]) if c.requires_grad}

    def _near_miss(self, k: int, place: Call) -> Link | None:
        """A link for stage k with a small error, or for k and later stages if right together (pooling before relu)."""
        x = y = self.value(place, k)
        for last in range(k, len(self.stages)):
            if x is None or y is None or self.is_random(last) or (applied := self.apply(last, y)) is None:
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
        """Whether actual is what the stages together make of x, within the limits of probes."""
        probed = probe([stage.layer for stage in stages], x, None, self.a, prediction=self.predicting)
        return compare(actual, *probed.output).ratio <= 1

    def _fault(self, k: int, place: Call) -> Link:
        """A link for stage k, wrong or missing; it ends where a later stage begins, or at the output."""
        last = len(self.stages) - 1
        later = ((call, value, j) for j in range(k + 1, last) for call, value in self.candidates(place, j, first=0))
        # The earliest call: behind it, another stage of the same kind and size may look like this one.
        for call, value, j in sorted(later, key=lambda each: (each[0].number not in self.cuts, each[0].number)):
            end = self.end(j, call)
            if end is not None and (not _has_values(end, value) or self.goes_on(j + 1, end)):
                fault = "missing" if call is place and j == k + 1 else "output"
                return Link(self.stages[k].name, tuple(self.stages[k:j]), place, call, fault)
        ends = k < last and self.end(last, self.output) is not None
        stages = tuple(self.stages[k : last if ends else last + 1])
        return Link(joint_name(stages), stages, place, self.output, "output")

    def calls_of(self, link: Link) -> list[Call]:
        """The calls of a link, in order."""
        return [self.calls[i] for i in sorted(self.ancestors) if link.start.number < i <= link.end.number]


def _differs_widely(link: Link) -> bool:
    """Whether the link's end differs from its start by more than a small mistake would explain."""
    before, behind = link.start.value, link.end.value
    if before is None or behind is None or before.size != behind.size:
        return True
    return not _relative_distance(behind.ravel(), before.ravel()) < NEAR


def _has_values(call: Call, values: Array | None) -> bool:
    """Whether call holds these values in this order, in any shape."""
    return call.value is not None and values is not None and np.array_equal(call.value.ravel(), values.ravel())


def _relative_distance(actual: Array, expected: Array) -> float:
    """The norm of actual - expected relative to that of expected; infinite if it is not finite."""
    size = np.linalg.norm(expected)
    distance = float(np.linalg.norm(actual - expected) / size) if size > 0 else np.inf
    return distance if np.isfinite(distance) else np.inf
