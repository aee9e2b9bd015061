"""The carrier: a network's parameters, checked once where they are made, and then passed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array, check_mapping
from numpy_ref.network import Network, check_same_layout
from torchport.choices import Convolution
from torchport.networks import layouts
from torchport.networks.architectures import Architecture
from torchport.networks.hints import NO_HINTS, Hints
from torchport.networks.names import DTYPES, cast_params, rounding_loss, shared_dtype, state_dict_of, to_array
from torchport.networks.ports import from_reference
from torchport.networks.recognition import recognised, without_statistics
from torchport.networks.simple_convnet import SimpleConvNet


@dataclass(frozen=True)
class Source:
    """Where weights come from, and what was done to make the book's parameters of them, a line each."""

    path: Path | None = None  # None for what was made in memory
    format: str = ""
    sha256: str = ""  # of all its bytes
    steps: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()  # of its arrays
    changed: int = 0  # of the values, by rounding
    largest: float = 0.0  # of these changes, relative to the value
    trained: Mapping[str, str] = field(default_factory=dict)  # on which data and images, where anything tells

    def rounded(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> Source:
        """The same, with what rounding has changed."""
        changed, largest = rounding_loss(before, after)
        return replace(self, changed=changed, largest=largest)


IN_MEMORY = Source()


@dataclass(frozen=True, eq=False)
class Weights:
    """Parameters of one network under the book's names and in its layout, all of one dtype; statistics besides."""

    architecture: Architecture
    params: Mapping[str, Array]
    statistics: Mapping[str, Array] = field(default_factory=dict)  # running_mean1, running_var1 and so on
    geometry: Hints = NO_HINTS  # what was told of the architecture
    source: Source = IN_MEMORY

    @classmethod
    def of(cls, params: Mapping[str, Array], geometry: Hints = NO_HINTS, source: Source = IN_MEMORY) -> Weights:
        """Of the book's params, running statistics among them where there are any. ValueError, TypeError (recognise).

        Without statistics batch normalisation starts with means of 0 and variances of 1, as torch's does.
        """
        shared_dtype(check_mapping("params", params))
        architecture = recognised(params, geometry)
        trained, statistics = without_statistics(params)
        needed = _statistics(trained)
        if not statistics and needed:
            note = f"{', '.join(needed)} are not there (the book's save_params loses them): 0 and 1 are taken"
            architecture = replace(architecture, note="; ".join(filter(None, [architecture.note, note])))
        check_same_layout(statistics or needed, {name: value.shape for name, value in needed.items()})
        return cls(architecture, trained, statistics or needed, geometry, source)

    @property
    def arrays(self) -> dict[str, Array]:
        """All of them, as a file has them."""
        return {**self.params, **self.statistics}

    @property
    def dtype(self) -> torch.dtype:
        """Of all parameters."""
        return DTYPES[next(iter(self.params.values())).dtype]

    def astype(self, dtype: torch.dtype) -> Weights:
        """Each entry rounded to dtype. ValueError for values that it cannot hold; TypeError."""
        if {DTYPES.get(value.dtype) for value in (*self.params.values(), *self.statistics.values())} == {dtype}:
            return replace(self, source=replace(self.source, changed=0, largest=0.0))  # AlexNet's are 0.5 GB
        params, statistics = cast_params(self.params, dtype), cast_params(self.statistics, dtype)
        source = self.source.rounded(self.params, params)
        return replace(self, params=params, statistics=statistics, source=source)

    def reference(self) -> Network:
        """A NumPy network with copies of them."""
        network = self.architecture.reference(self.params)
        if self.statistics:
            network.set_statistics(self.statistics)
        return network

    def port(self, conv: Convolution = "conv2d", device: torch.device | str | None = None) -> nn.Sequential:
        """The torch network with copies of them, in training mode. ValueError for another conv or device."""
        if self.architecture.name != "SimpleConvNet":
            return from_reference(self.reference(), conv, device)
        return SimpleConvNet.from_params(self.params, conv, self.geometry.stride, self.geometry.pad, device=device)

    def state_dict(self) -> dict[str, Tensor]:
        """The port's state_dict: copies, bit for bit."""
        return state_dict_of(self.reference())


def _statistics(params: Mapping[str, Array]) -> dict[str, Array]:
    """What batch normalisation keeps besides gamma1, gamma2 and so on, before it has seen a batch in torch."""
    gammas = {name.removeprefix("gamma"): value for name, value in params.items() if name.startswith("gamma")}
    starts = {"running_mean": np.zeros_like, "running_var": np.ones_like}
    return {f"{name}{k}": start(value) for k, value in gammas.items() for name, start in starts.items()}


def to_state_dict(params: Mapping[str, Array]) -> dict[str, Tensor]:
    """The state_dict for the book's params (W1 b1 W2 b2 and so on): copies, bit for bit, in the same dtype.

    ValueError for missing or extra names and shapes that do not fit each other; TypeError for dtypes other than
    float16, float32 or float64, or mixed ones. Everything is checked before anything is copied.
    """
    return Weights.of(params).state_dict()


def to_params(state_dict: Mapping[str, Tensor]) -> dict[str, Array]:
    """The inverse of to_state_dict: a state_dict, from any device, as the book's params. Errors alike."""
    arrays = {key: to_array(key, value) for key, value in check_mapping("state_dict", state_dict).items()}
    found = Weights.of({name: np.array(value, order="C") for name, value in layouts.to_params(arrays)[0].items()})
    check_same_layout(arrays, {key: tuple(value.shape) for key, value in found.state_dict().items()})
    return {**found.params}
