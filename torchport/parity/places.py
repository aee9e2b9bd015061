"""Where in a port's run layers may end: the calls on the way from the input to the output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from numpy_ref.checks import Array
from torchport.parity.calls import Call, Record, with_ancestors
from torchport.parity.lines import LAYING


class Places:
    """Those of one run. shapes are those of a sample before each stage and behind the last."""

    def __init__(self, record: Record, shapes: Sequence[tuple[int, ...]]) -> None:
        # Of a port that raised, what it had made until then.
        self.output = record.output or next(call for call in reversed(record.calls) if call.depends_on_input)
        self.calls = record.calls
        self.shapes = [(len(record.calls[0].tensor), *shape) for shape in shapes]

    @cached_property
    def ancestors(self) -> set[int]:
        """Of the output, itself included: those that depend on the input."""
        return {call.number for call in with_ancestors(self.calls, [self.output], lambda call: call.depends_on_input)}

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

    def value(self, call: Call, k: int) -> Array | None:
        """Its value in the shape that the reference has before stage k."""
        value, shape = call.value, self.shapes[k]
        return value.reshape(shape) if value is not None and value.size == np.prod(shape) else None

    def candidates(self, place: Call, k: int, first: int = 1) -> list[tuple[Call, Array]]:
        """Calls, the first of them so many behind place, that may hold what goes into stage k: cuts, the last first."""
        numbers = [number for number in sorted(self.ancestors, reverse=True) if number >= place.number + first]
        if k == len(self.shapes) - 1:  # the output can only end at the output
            numbers = [self.output.number]
        found = [(call, x) for call in map(self.calls.__getitem__, numbers) if (x := self.value(call, k)) is not None]
        cuts, dtype = [each for each in found if each[0].number in self.cuts], self.output.tensor.dtype
        # What is computed in another dtype is not the port's own.
        cuts.sort(key=lambda c: (c[0].tensor.dtype == dtype, c[0].requires_grad, not _is_laid_out(c[0])), reverse=True)
        return cuts + [each for each in found if each[0].number not in self.cuts]


def _is_laid_out(call: Call) -> bool:
    """Whether it only lays out one number many times, as of a dead layer: then that order tells nothing."""
    return call.name in LAYING and call.value is not None and bool((call.value == call.value.flat[0]).all())


def side_inputs(every: Sequence[Call], calls: Sequence[Call]) -> list[Call]:
    """What goes into these calls and does not depend on the input, parameters above all, the nearest first."""
    taken = [every[number] for call in reversed(calls) for number in call.parents if not every[number].depends_on_input]
    return with_ancestors(every, taken, lambda call: not call.depends_on_input)
