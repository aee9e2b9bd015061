"""Stage, a layer of the reference, and Link, the stretch of a port's run that computes one stage or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.layers import Flatten
from torchport.layers.arithmetic import Arithmetic, rounded
from torchport.layers.kinds import kind_of, other
from torchport.layers.loss import Identity
from torchport.layers.sums import PRODUCTS, entry_limit
from torchport.parity.calls import Call, Record
from torchport.parity.compare import Difference, EntryLimit, compare


class Stage(NamedTuple):
    """A layer of the reference, with weights rounded as the port holds them, and its name in the report."""

    name: str
    layer: Any

    @property
    def keep_ratio(self) -> float:
        """The share of entries that a dropping layer keeps; 0 for a layer of which no such share is known."""
        ratio = kind_of(self.layer).ratio
        return 0.0 if ratio is None else 1 - ratio(self.layer)


class Applied(NamedTuple):
    """A layer that has run on the port's input x, its output y, and the limit of how far the port's may be off."""

    layer: Any
    x: Array
    y: Array
    limit: Array
    entry_limit: EntryLimit | None

    def difference(self, actual: Array) -> Difference:
        """The port's output actual, in any shape, against y."""
        return compare(actual.reshape(self.y.shape), self.y, self.limit, self.entry_limit)


def apply(
    stage: Stage, x: Array, a: Arithmetic, *, actual: Array | None = None, predicting: bool = False, exact: bool = False
) -> Applied:
    """Run a copy of the stage's layer on x (N, ...); a random layer repeats the draw by which the port made actual.

    With exact, all limits are 0. Raises ValueError if the layer cannot have drawn what the port drew.
    """
    kind, layer, x = kind_of(stage.layer), other(stage.layer), cast(stage.layer, x, a)
    if predicting and kind.prediction is not None:
        limit = np.asarray(0.0) if exact else kind.prediction(stage.layer, x, a)
        return Applied(layer, x, layer.forward(x, train_flg=False), limit, None)
    if kind.repeat is not None and actual is not None and actual.size == x.size:
        layer = kind.repeat(layer, x, actual.reshape(x.shape), None)
    y = layer.forward(x)
    if exact:
        return Applied(layer, x, y, np.asarray(0.0), None)
    return Applied(layer, x, y, kind.rule.forward(stage.layer, x, a), entry_limits(stage.layer, x, y, "output", a))


def cast(layer: Any, x: Array, a: Arithmetic) -> Array:
    """x as the layer takes it: under autocast, layers of matrix products round it to bfloat16, others do not."""
    return rounded(x, torch.bfloat16) if a.u_result and kind_of(layer).rule is PRODUCTS else x


def entry_limits(layer: Any, x: Array, dout: Array, quantity: str, a: Arithmetic) -> EntryLimit | None:
    """A function that gives the limit of one entry of quantity by its own products; None if the rule has none."""
    products = kind_of(layer).rule.products
    if products is None:
        return None
    return lambda index: entry_limit(products(layer, x, dout, quantity, index), a)


@dataclass(eq=False)
class Link:
    """A stretch of a port's run, from one call to another, that computes these stages; most often a single one.

    fault says what the search found wrong: "output" (no call has the value of the first stage), "missing" (that stage
    has no call at all), "input" (the stage's input is changed before it; stages is then empty), or "changed" (its
    output is changed after it, inside its module; stages is empty too).
    """

    name: str
    stages: tuple[Stage, ...]
    start: Call
    end: Call
    fault: str = ""


def has_no_calls(link: Link) -> bool:
    """Whether the port needed no call for the link's layer, although the layer is not the identity by definition."""
    return link.start is link.end and bool(link.stages) and not isinstance(link.stages[0].layer, Flatten | Identity)


def joint_name(stages: Sequence[Stage]) -> str:
    """The name in the report of several stages that are judged together: of those that compute something."""
    computing = [stage for stage in stages if not isinstance(stage.layer, Identity)]
    return " and ".join(stage.name for stage in computing or stages)


def transfer_links(links: Sequence[Link], record: Record, stages: Sequence[Stage]) -> list[Link]:
    """The same links in another run with the same sequence of calls, on stages of the same names."""
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
