"""Layers of the reference, computed on what a port gave them, and the stretches of its run that stand for them."""

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
from torchport.parity.compare import EntryLimit


class Stage(NamedTuple):
    """A layer of the reference by its name in rows, on weights as the port can hold them."""

    name: str
    layer: Any

    @property
    def keep_ratio(self) -> float:
        """The share of entries that it keeps, of a layer that drops the others; a user's own may draw otherwise."""
        ratio = kind_of(self.layer).ratio
        return 0.0 if ratio is None else 1 - ratio(self.layer)


class Applied(NamedTuple):
    """A layer that has run on what a port gave it, and what it made."""

    layer: Any
    x: Array
    y: Array
    limit: Array
    entry_limit: EntryLimit | None


def apply(
    stage: Stage, x: Array, a: Arithmetic, *, actual: Array | None = None, predicting: bool = False, exact: bool = False
) -> Applied:
    """stage's layer on x (N, ...), with what the port drew to make actual of it; exact: nothing may be off at all.

    ValueError where the port cannot have drawn that.
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
    """x as products of matrices take it: under autocast they round it, where other layers do not."""
    return rounded(x, torch.bfloat16) if a.u_result and kind_of(layer).rule is PRODUCTS else x


def entry_limits(layer: Any, x: Array, dout: Array, quantity: str, a: Arithmetic) -> EntryLimit | None:
    """The limit of one entry of quantity by its own products; None where the layer's rule has none."""
    products = kind_of(layer).rule.products
    if products is None:
        return None
    return lambda index: entry_limit(products(layer, x, dout, quantity, index), a)


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


def has_no_calls(link: Link) -> bool:
    """Whether nothing had to be done for a layer that does something."""
    return link.start is link.end and bool(link.stages) and not isinstance(link.stages[0].layer, Flatten | Identity)


def joint_name(stages: Sequence[Stage]) -> str:
    """The name of several layers that are judged together."""
    return " and ".join(stage.name for stage in stages)


def transfer_links(links: Sequence[Link], record: Record, stages: Sequence[Stage]) -> list[Link]:
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
