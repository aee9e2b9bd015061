"""What is judged: a port, the layers that it should consist of, how it is run, and what is known of it so far."""

from __future__ import annotations

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

Key = tuple[str, str]  # a parameter of the reference: the stage's name, and W, b, gamma or beta


class Run(NamedTuple):
    """How a port is run: on what, and what is propagated back, the gradient of a loss or a drawn one; or neither."""

    name: str
    x: Array
    cotangent: Array | None = None
    labels: Array | None = None
    predicting: bool = False
    exact: bool = False  # every number is exact, a multiple of a small power of two times scale: nothing may be off
    scale: float = 1.0
    inexact_from: str = ""  # but from this stage on, and then in no gradient
    wants_grad: bool = False  # whether x needs a gradient too
    first: bool = False  # whether it is the run that the others are judged by
    again: bool = False  # whether it is a run made before
    enable_grad: bool = False  # whether gradients are enabled though nothing is propagated back
    memory_format: torch.memory_format = torch.contiguous_format


@dataclass(eq=False)
class Guide:
    """What one run tells of the others with the same calls: where layers end and where their parameters are."""

    names: tuple[str, ...]
    links: list[Link]
    parameters: dict[Key, list[Location]] = field(default_factory=dict)


@dataclass(eq=False)
class Subject:
    """A port, the stages that it should consist of, and what is known of it so far."""

    port: nn.Module
    stages: list[Stage]
    shapes: list[tuple[int, ...]]  # of a sample before each stage, and behind the last
    setting: Setting
    values: dict[Key, Array]  # parameters in the port's dtype
    origins: dict[Key, int]  # ids of the reference's own arrays
    frozen: frozenset[int]  # ids of the parameters that need no gradient, as given
    loss: Loss
    takes: str  # what the loss takes
    output: int | str | None  # which part of what the port returns
    guides: list[Guide] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)  # in order
    masks: dict[str, Array] = field(default_factory=dict)  # what was kept of the user's batch, by stage
    earlier_outputs: dict[str, tuple[Tensor, Array]] = field(default_factory=dict)  # earlier outputs, which should rest
    training_flags: list[tuple[nn.Module, bool]] = field(default_factory=list)  # of training, as given

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
        """With the reference's layers on weights as the port can hold them, between the input and the output."""
        passed, shapes, stages, values = x[:1], [x.shape[1:]], [Stage("input", OUTPUTS[LOGITS]())], dict[Key, Array]()
        for name, layer in reference.layers.items():
            shapes.append(passed.shape[1:])
            passed, own = _copied(layer).forward(passed), _copied(layer)
            stages.append(Stage(name.lower(), own))
            for attribute, value in parameters_of(layer).items():
                held = _shared(setting.round(value), value)
                setattr(own, attribute, held)
                same = setting.held == setting.dtype
                values[name.lower(), attribute] = held if same else rounded(value, setting.dtype)
        takes = LOGITS if loss is None else taken_by(loss, passed.shape[1], setting)
        stages.append(Stage("output", OUTPUTS[takes]()))
        shapes += 2 * [passed.shape[1:]]
        owners = reference.owners.items()
        origins = {(name.lower(), attribute): id(reference.params[key]) for key, (name, attribute) in owners}
        return cls(port, stages, shapes, setting, values, origins, frozen, loss or softmax_with_loss, takes, output)

    @property
    def layers(self) -> list[Any]:
        """Those of the stages."""
        return [stage.layer for stage in self.stages]

    @property
    def parameters(self) -> dict[Key, list[Location]]:
        """Where the first run has found them."""
        return self.guides[0].parameters if self.guides else {}

    def note(self, text: str) -> None:
        """Say it in the report, once."""
        self.notes[text] = None


def _shared(own: Array, value: Array) -> Array:
    """value where its copy is the same, for memory: AlexNet has 62 million numbers."""
    return value if value.dtype == own.dtype and np.array_equal(own, value) else own


def _copied(layer: Any) -> Any:
    """A copy that shares its parameters, but no random generator."""
    return other(layer, **({"rng": np.random.RandomState(0)} if hasattr(layer, "rng") else {}))
