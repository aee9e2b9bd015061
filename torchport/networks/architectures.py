"""The book's networks by name, and one of them with its arguments."""

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
    """A class of numpy_ref and its arguments; str is the call, and note as a comment."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""  # what the parameters cannot tell, and was taken as the book has it

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W), or (D,) for fully connected networks."""
        return tuple(self.arguments.get("input_dim") or (self.arguments["input_size"],))

    @property
    def classes(self) -> int:
        """How many outputs there are."""
        return int(self.arguments["output_size"])

    def reference(self, params: Mapping[str, Array] | None = None, rng: np.random.RandomState | None = None) -> Network:
        """The NumPy network with copies of params, or drawn from rng. ValueError for params of another one."""
        copies = None if params is None else {name: np.array(value) for name, value in params.items()}
        return NETWORKS[self.name](**self.arguments, rng=rng, params=copies)

    @property
    def call(self) -> str:
        """How numpy_ref makes it."""
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def __str__(self) -> str:
        return f"{self.call}  # {self.note}" if self.note else self.call
