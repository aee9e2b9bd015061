"""The gradients that should arrive in a port: each layer's backward of the gradient that the port had after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numpy_ref.checks import Array
from torchport.layers import EXACT, SUM, gradients_of, kind_of
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity.compare import EntryLimit
from torchport.parity.judgement import Judgement
from torchport.parity.probes import probe
from torchport.parity.stages import Link, Stage, cast, entry_limits, joint_name


class Gradient(NamedTuple):
    """The expected gradient of a stage's input (name "grad_input") or of one of its parameters (W, b, gamma, beta)."""

    stage: Stage
    name: str
    value: Array
    limit: Array
    entry_limit: EntryLimit | None = None

    @property
    def quantity(self) -> str:
        """Its name in a report."""
        return self.name if self.name == "grad_input" else f"grad_{MODULE_ATTRIBUTES[self.name]}"


@dataclass(eq=False)
class Stretch:
    """Consecutive links, most often one, on input x with upstream gradient dout, and no gradient seen in between."""

    links: list[Link]
    x: Array
    dout: Array

    def __post_init__(self) -> None:
        self.start, self.stages = self.links[0].start, [stage for link in self.links for stage in link.stages]
        self.name = joint_name(self.stages)
        self.rule = kind_of(self.stages[0].layer).rule.name if len(self.stages) == 1 else SUM


def only_passes_gradients(stage: Stage) -> bool:
    """Whether the stage's layer only moves or drops gradients, so that limits pass through it like gradients."""
    return kind_of(stage.layer).rule.name == EXACT and kind_of(stage.layer).repeat is None


def expected_gradients(judgement: Judgement, stretch: Stretch) -> Iterator[Gradient]:
    """Yield the reference's gradients for the stretch's x and dout; for several layers with the limits of probes."""
    if len(stretch.stages) == 1:
        yield from _layer_gradients(judgement, stretch)
        return
    if all(len(link.stages) == 1 for link in stretch.links) and all(map(only_passes_gradients, stretch.stages[:-1])):
        yield from _gradients_through(judgement, stretch)
        return
    # A layer that was judged by itself in the forward pass repeats what the port drew there.
    layers = [layer for link in stretch.links for layer in judgement.layers(link)]
    probed = probe(layers, stretch.x, stretch.dout, judgement.a)
    # Among integers a probe's changes would take both branches at a zero or a tie, and allow for either.
    exact = judgement.is_exact(stretch.stages[-1], stretch.x, stretch.dout)
    for (number, name), value in probed.values.items():
        if name != "output":
            limit = np.zeros(()) if exact else probed.limits[number, name]
            yield Gradient(stretch.stages[number], name, value, limit)


def _gradients_through(judgement: Judgement, stretch: Stretch) -> Iterator[Gradient]:
    """Yield the gradients of a layer after others that only pass gradients on; its limits pass through them too."""
    link = stretch.links[-1]
    x = judgement.reshaped(link.start.value, link.stages[0].name)
    assert x is not None
    for gradient in _layer_gradients(judgement, Stretch([link], x, stretch.dout)):
        value, limit = gradient.value, np.broadcast_to(gradient.limit, gradient.value.shape)
        if gradient.name == "grad_input":
            for before in reversed(stretch.links[:-1]):
                (layer,) = judgement.layers(before)
                value, limit = layer.backward(value), layer.backward(limit)
            gradient = Gradient(stretch.stages[0], "grad_input", value, limit)
        yield gradient


def _layer_gradients(judgement: Judgement, stretch: Stretch) -> Iterator[Gradient]:
    (link,), (stage,) = stretch.links, stretch.stages
    (layer,), kind = judgement.layers(link), kind_of(stage.layer)
    x, dout = (cast(stage.layer, value, judgement.a) for value in (stretch.x, stretch.dout))
    if kind.repeat is not None and link.end.value is not None:
        grad = None if link.start.grad is None else link.start.grad.reshape(x.shape)
        layer = kind.repeat(stage.layer, x, link.end.value.reshape(x.shape), grad)
    if kind.repeat is not None or link not in judgement.applied:
        layer.forward(x)
    values = gradients_of(layer, dout)
    if judgement.is_exact(stage, x, dout):
        for name, value in values.items():
            yield Gradient(stage, name, value, np.zeros(()))
        return
    limits = kind.rule.backward(layer if kind.repeat else stage.layer, x, dout, judgement.a).by_name
    for name, value in values.items():
        yield Gradient(stage, name, value, limits[name], entry_limits(stage.layer, x, dout, name, judgement.a))
