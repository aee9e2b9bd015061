"""The book's networks by name, and Architecture: one of them with its constructor's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.network import Network

NETWORKS: dict[str, Callable[..., Network]] = {
    "SimpleConvNet": nr.SimpleConvNet,
    "DeepConvNet": nr.DeepConvNet,
    "ConvNet": nr.ConvNet,
    "TwoLayerNet": nr.TwoLayerNet,
    "ThreeLayerNet": nr.ThreeLayerNet,
    "MultiLayerNet": nr.MultiLayerNet,
    "MultiLayerNetExtend": nr.MultiLayerNetExtend,
    "LeNet5": nr.LeNet5,
    "AlexNet": nr.AlexNet,
}


@dataclass(frozen=True)
class Architecture:
    """A network class of numpy_ref and its arguments; str gives the constructor call, with note as a comment."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""  # which arguments are the book's because the parameters do not show them

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W), or (D,) for a fully connected network."""
        return tuple(self.arguments.get("input_dim") or (self.arguments["input_size"],))

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return int(self.arguments["output_size"])

    def reference(self, params: Mapping[str, Array] | None = None, rng: np.random.RandomState | None = None) -> Network:
        """Build the NumPy network with copies of params, or with weights drawn from rng. ValueError for bad shapes."""
        copies = None if params is None else {name: np.array(value) for name, value in params.items()}
        return NETWORKS[self.name](**self.arguments, rng=rng, params=copies)

    @property
    def call(self) -> str:
        """The constructor call, as Python code."""
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def __str__(self) -> str:
        return f"{self.call}  # {self.note}" if self.note else self.call
