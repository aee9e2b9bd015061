"""Subject, a port with the stages it should consist of and what is known of it so far; Run, how it is run once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array
from numpy_ref.network import Network
from torchport.layers.arithmetic import Setting, rounded
from torchport.layers.kinds import other, parameters_of
from torchport.layers.loss import OUTPUTS, softmax_with_loss
from torchport.parity.losses import LOGITS, Loss, taken_by
from torchport.parity.parameters import Location
from torchport.parity.stages import Link, Stage

MANY = 128  # samples of the large run; more, so that a layer that drops has DRAWN entries, while the largest has LIGHT
DRAWN, LIGHT = 2**15, 2**20
LARGEST_LAYER = 2**24  # elements that the largest layer may have in the large run

Key = tuple[str, str]  # a parameter of the reference: (stage name, W or b or gamma or beta)


class Run(NamedTuple):
    """How a port is run: on which x, and back from the loss on labels, from a drawn cotangent, or not at all."""

    name: str
    x: Array
    cotangent: Array | None = None
    labels: Array | None = None
    predicting: bool = False
    exact: bool = False  # all numbers are multiples of a small power of two times scale: every limit is 0
    scale: float = 1.0
    inexact_from: str = ""  # the stage from which on outputs are not exact; then no gradient is
    wants_grad: bool = False  # whether x needs a gradient too
    first: bool = False  # whether the other runs take their links from this one
    again: bool = False  # whether it repeats an earlier run
    enable_grad: bool = False  # whether gradients are enabled although nothing is propagated back
    memory_format: torch.memory_format = torch.contiguous_format


@dataclass(eq=False)
class Guide:
    """What one run shows for all with the same calls: where layers end and where their parameters are."""

    names: tuple[str, ...]
    links: list[Link]
    parameters: dict[Key, list[Location]] = field(default_factory=dict)


@dataclass(eq=False)
class Subject:
    """A port, the stages it should consist of, and what earlier runs have shown of it."""

    port: nn.Module
    stages: list[Stage]
    shapes: list[tuple[int, ...]]  # of a sample before each stage, and after the last
    setting: Setting
    values: dict[Key, Array]  # the reference's parameters, rounded to the port's dtype
    origins: dict[Key, int]  # ids of the reference's own arrays
    frozen: frozenset[int]  # ids of the parameters that came without requires_grad
    loss: Loss
    takes: str  # what the loss takes, and so the port must return: a name in OUTPUTS
    output: int | str | None  # the part of the returned value that is the output
    guides: list[Guide] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)  # an ordered set
    masks: dict[str, Array] = field(default_factory=dict)  # entries of the user's batch that dropout kept, by stage
    earlier_outputs: dict[str, tuple[Tensor, Array]] = field(default_factory=dict)  # by run; none may change later
    training_flags: list[tuple[nn.Module, bool]] = field(default_factory=list)  # as the user set them

    def __post_init__(self) -> None:
        self.training_flags = self.training_flags or [(module, module.training) for module in self.port.modules()]
        self.indices = {stage.name: index for index, stage in enumerate(self.stages)}

    @classmethod
    def of(
        cls,
        reference: Network,
        port: nn.Module,
        x: Array,
        setting: Setting,
        frozen: frozenset[int],
        loss: Loss | None = None,
        output: int | str | None = None,
    ) -> Subject:
        """A subject with the stages input, each layer of reference with weights rounded as port's, and output."""
        sample, shapes, stages, values = x[:1], [x.shape[1:]], [Stage("input", OUTPUTS[LOGITS]())], dict[Key, Array]()
        for name, layer in reference.layers.items():
            shapes.append(sample.shape[1:])
            sample, twin = _copied(layer).forward(sample), _copied(layer)
            stages.append(Stage(name.lower(), twin))
            for attribute, value in parameters_of(layer).items():
                held = _shared(setting.round(value), value)
                setattr(twin, attribute, held)
                same_dtype = setting.held == setting.dtype
                values[name.lower(), attribute] = held if same_dtype else rounded(value, setting.dtype)
        takes = LOGITS if loss is None else taken_by(loss, sample.shape[1], setting)
        stages.append(Stage("output", OUTPUTS[takes]()))
        shapes += 2 * [sample.shape[1:]]
        owners = reference.owners.items()
        origins = {(name.lower(), attribute): id(reference.params[key]) for key, (name, attribute) in owners}
        return cls(port, stages, shapes, setting, values, origins, frozen, loss or softmax_with_loss, takes, output)

    @property
    def layers(self) -> list[Any]:
        """The layers of all stages."""
        return [stage.layer for stage in self.stages]

    @property
    def sizes(self) -> list[int]:
        """The numbers of elements of a sample before each stage, and after the last."""
        return [int(np.prod(shape)) for shape in self.shapes]

    @property
    def many(self) -> int:
        """How many samples the large run has."""
        dropping = [size for stage, size in zip(self.stages, self.sizes, strict=False) if stage.keep_ratio]
        return max(MANY, min(DRAWN // min(dropping), LIGHT // max(self.sizes))) if dropping else MANY

    def params_of(self, reference: Network, stages: Collection[str]) -> dict[str, Array]:
        """All parameters of the stages of these names, as the port holds them, by the reference's names."""
        layers, owners = {stage.name: stage.layer for stage in self.stages}, reference.owners.items()
        return {key: getattr(layers[name.lower()], own) for key, (name, own) in owners if name.lower() in stages}

    @property
    def parameters(self) -> dict[Key, list[Location]]:
        """The locations of the reference's parameters, as the first run found them."""
        return self.guides[0].parameters if self.guides else {}

    def note(self, text: str) -> None:
        """Add a note to the report, once."""
        self.notes[text] = None


def _shared(rounded_value: Array, value: Array) -> Array:
    """value if rounding did not change it, to save memory (AlexNet has 62 million numbers); else rounded_value."""
    return value if value.dtype == rounded_value.dtype and np.array_equal(rounded_value, value) else rounded_value


def _copied(layer: Any) -> Any:
    """A copy of layer that shares its parameters, but has a random generator of its own."""
    return other(layer, **({"rng": np.random.RandomState(0)} if hasattr(layer, "rng") else {}))
