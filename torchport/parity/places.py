"""The calls of a port's run where a layer may end, on the way from the input to the output; and where one does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.layers import Relu
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import kind_of, parameters_of
from torchport.parity.calls import Call, Record, with_ancestors
from torchport.parity.lines import LAYING
from torchport.parity.stages import Applied, Stage, apply

CHANCE = 1e-3  # an event of a smaller probability is taken to be impossible


class Places:
    """The places of one run; shapes are those of a sample before each stage, and after the last one."""

    def __init__(
        self,
        record: Record,
        stages: Sequence[Stage],
        shapes: Sequence[tuple[int, ...]],
        a: Arithmetic,
        *,
        predicting: bool = False,
    ) -> None:
        # If the port raised an error, its last call on the data stands for the output.
        self.output = record.output or next(call for call in reversed(record.calls) if call.depends_on_input)
        self.calls, self.stages, self.a, self.predicting = record.calls, list(stages), a, predicting
        self.shapes = [(len(record.calls[0].tensor), *shape) for shape in shapes]

    @cached_property
    def ancestors(self) -> set[int]:
        """The numbers of the output and of its ancestors that depend on the input."""
        return {call.number for call in with_ancestors(self.calls, [self.output], lambda call: call.depends_on_input)}

    @cached_property
    def cuts(self) -> set[int]:
        """The numbers of calls that every path from the input to the output goes through: no edge skips them."""
        farthest: dict[int, int] = {}
        for number in self.ancestors:
            for parent in self.calls[number].parents:
                farthest[parent] = max(farthest.get(parent, 0), number)
        cuts, reach = set[int](), 0
        for number in sorted(self.ancestors):
            if reach <= number:
                cuts.add(number)
            reach = max(reach, farthest.get(number, 0))
        return cuts

    def value(self, call: Call, k: int) -> Array | None:
        """The call's value in the shape of the input of stage k; None if it was not kept or has another size."""
        value, shape = call.value, self.shapes[k]
        return value.reshape(shape) if value is not None and value.size == np.prod(shape) else None

    def candidates(self, place: Call, k: int, first: int = 1) -> list[tuple[Call, Array]]:
        """Calls from first calls after place on, with their values as stage k's input: cuts first, the latest first."""
        numbers = [number for number in sorted(self.ancestors, reverse=True) if number >= place.number + first]
        if k == len(self.shapes) - 1:  # the output can only end at the output
            numbers = [self.output.number]
        pairs = [(self.calls[n], x) for n in numbers if (x := self.value(self.calls[n], k)) is not None]
        cuts, dtype = [pair for pair in pairs if pair[0].number in self.cuts], self.output.tensor.dtype

        def preference(pair: tuple[Call, Array]) -> tuple[bool, ...]:
            call = pair[0]  # a value in another dtype than the output's comes from a cast beside the port's own
            return call.tensor.dtype == dtype, call.requires_grad, not _rearranges_one_value(call)

        others = [pair for pair in pairs if pair[0].number not in self.cuts and self._sends_gradients(pair[0])]
        return sorted(cuts, key=preference, reverse=True) + others

    @cached_property
    def _backward_nodes(self) -> set[Any]:
        """The nodes of autograd's graph that a gradient from the output comes to."""
        nodes, frontier = set[Any](), [self.output.edge and self.output.edge.node]
        while frontier:
            node = frontier.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                frontier += [following for following, _ in node.next_functions]
        return nodes

    def _sends_gradients(self, call: Call) -> bool:
        """Whether a gradient from the output comes to call, unless none comes anywhere: then call is on the way."""
        return call.edge is None or not self._backward_nodes or call.edge.node in self._backward_nodes

    def apply(self, k: int, x: Array, actual: Array | None = None) -> Applied | None:
        """Stage k on x, repeating the draw by which the port made actual; None if it cannot have made that."""
        try:
            return apply(self.stages[k], x, self.a, actual=actual, predicting=self.predicting)
        except ValueError:
            return None

    def is_random(self, k: int) -> bool:
        """Whether stage k draws random numbers, so that it is judged by what the port itself drew."""
        return kind_of(self.stages[k].layer).repeat is not None and not self.predicting

    def _needs_no_call(self, k: int, x: Array, applied: Applied | None) -> bool:
        """Whether stage k may have no call: its output equals x, or a dropout may have dropped nothing."""
        if self.is_random(k):
            return bool(self.stages[k].keep_ratio ** np.count_nonzero(x) > CHANCE)
        return applied is not None and np.array_equal(applied.y.ravel(), x.ravel())

    def end(self, k: int, place: Call) -> Call | None:
        """The call where stage k ends if it begins at place; the last one of equal values, None without any."""
        return next(iter(self.ends(k, place)), None)

    def ends(self, k: int, place: Call) -> list[Call]:
        """The calls that hold the value nearest to stage k's output for place's value, within its limit; last first."""
        x = self.value(place, k)
        if x is None:
            return []
        applied = None if self.is_random(k) else self.apply(k, x)
        ends, nearest = list[Call](), (np.inf, np.inf)
        for call, actual in self.candidates(place, k + 1, first=0 if self._needs_no_call(k, x, applied) else 1):
            if ends and call.number not in self.cuts:
                break
            distance = self._distance(k, x, applied, actual)
            if distance[0] <= 1 and distance <= nearest:
                ends, nearest = [*(ends if distance == nearest else ()), call], distance
        return ends

    def _distance(self, k: int, x: Array, applied: Applied | None, actual: Array) -> tuple[float, float]:
        """How far actual is from stage k's output for x, by its limit; then how much a dropout before a relu dropped.

        A later layer may change a value by less than the limit, and a relu after a dropout looks as if it dropped more.
        """
        applied = self.apply(k, x, actual) if self.is_random(k) else applied
        ratio = np.inf if applied is None else applied.difference(actual).ratio
        if ratio <= 1 and self.is_random(k):
            ratio = 0.0  # what a dropout keeps may be scaled and scaled back
        before_relu = self.is_random(k) and isinstance(self.stages[k + 1].layer, Relu)
        return ratio, float(np.sum((actual == 0) & (x != 0))) or np.inf if before_relu else 0

    def goes_on(self, k: int, place: Call) -> bool:
        """Whether stage k and those after it follow from place on, up to one with weights, which no chance makes."""
        while k < len(self.stages):
            end = self.end(k, place)
            if end is None or parameters_of(self.stages[k].layer):
                return end is not None
            place, k = end, k + 1
        return True


def _rearranges_one_value(call: Call) -> bool:
    """Whether call only rearranges one repeated number, a dead layer's output for one: then order shows nothing."""
    return call.name in LAYING and call.value is not None and bool((call.value == call.value.flat[0]).all())


def side_inputs(calls: Sequence[Call], ends: Sequence[Call]) -> list[Call]:
    """The tensors that ends, some of calls, take and that do not depend on the input, as parameters; nearest first."""
    parents = [calls[number] for call in reversed(ends) for number in call.parents]
    return with_ancestors(calls, parents, lambda call: not call.depends_on_input)
