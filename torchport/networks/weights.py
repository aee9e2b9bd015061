"""Weights: a network's parameters with its architecture and source, checked once on creation and then passed on."""

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
from torchport.networks.recognition import recognise_with_hints, without_statistics
from torchport.networks.simple_convnet import SimpleConvNet


@dataclass(frozen=True)
class Source:
    """Where weights come from, and how they were converted to the book's parameters."""

    path: Path | None = None  # None for weights made in memory
    format: str = ""
    sha256: str = ""  # of the whole file
    steps: tuple[str, ...] = ()  # a line on each conversion
    dtypes: tuple[str, ...] = ()  # of the file's arrays
    changed: int = 0  # number of values that rounding has changed
    largest: float = 0.0  # largest of these changes, relative to the value
    trained: Mapping[str, str] = field(default_factory=dict)  # what is known of the training data: data, images

    def rounded(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> Source:
        """Return a copy with the number and the largest of the changes from before to after."""
        changed, largest = rounding_loss(before, after)
        return replace(self, changed=changed, largest=largest)


IN_MEMORY = Source()


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's parameters under the book's names and in its layout, all of one dtype, and running statistics."""

    architecture: Architecture
    params: Mapping[str, Array]
    statistics: Mapping[str, Array] = field(default_factory=dict)  # running_mean1, running_var1 and so on
    geometry: Hints = NO_HINTS  # the hints by which the architecture was recognised
    source: Source = IN_MEMORY

    @classmethod
    def of(
        cls,
        params: Mapping[str, Array],
        geometry: Hints = NO_HINTS,
        source: Source = IN_MEMORY,
        architecture: Architecture | None = None,
    ) -> Weights:
        """Make Weights of the book's params, running statistics among them if there are any. ValueError, TypeError.

        architecture is what recognise returned for arrays with these names and shapes; None recognises them here.
        Missing statistics are means of 0 and variances of 1, as at the start in torch.
        """
        shared_dtype(check_mapping("params", params))
        architecture = architecture or recognise_with_hints(params, geometry)
        trained, statistics = without_statistics(params)
        initial = _initial_statistics(trained)
        if not statistics and initial:
            note = f"{', '.join(initial)} are not there (the book's save_params loses them): 0 and 1 are used"
            architecture = replace(architecture, note="; ".join(filter(None, [architecture.note, note])))
        check_same_layout(statistics or initial, {name: value.shape for name, value in initial.items()})
        return cls(architecture, trained, statistics or initial, geometry, source)

    @property
    def arrays(self) -> dict[str, Array]:
        """Parameters and statistics in one dict, as files hold them."""
        return {**self.params, **self.statistics}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all parameters."""
        return DTYPES[next(iter(self.params.values())).dtype]

    def astype(self, dtype: torch.dtype) -> Weights:
        """Return the weights rounded to dtype. ValueError for values out of its range; TypeError."""
        if {DTYPES.get(value.dtype) for value in (*self.params.values(), *self.statistics.values())} == {dtype}:
            return replace(self, source=replace(self.source, changed=0, largest=0.0))  # no copy: AlexNet has 0.5 GB
        params, statistics = cast_params(self.params, dtype), cast_params(self.statistics, dtype)
        source = self.source.rounded(self.params, params)
        return replace(self, params=params, statistics=statistics, source=source)

    def reference(self) -> Network:
        """Return the NumPy network with copies of the weights."""
        network = self.architecture.reference(self.params)
        if self.statistics:
            network.set_statistics(self.statistics)
        return network

    def port(self, conv: Convolution = "conv2d", device: torch.device | str | None = None) -> nn.Sequential:
        """Return the torch network with copies of the weights, in training mode. ValueError for bad conv or device."""
        if self.architecture.name != "SimpleConvNet":
            return from_reference(self.reference(), conv, device)
        return SimpleConvNet.from_architecture(self.architecture, self.params, conv, device=device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the port's state_dict: copies, bit for bit."""
        return state_dict_of(self.reference())


def _initial_statistics(params: Mapping[str, Array]) -> dict[str, Array]:
    """Return the running statistics for each gamma in params, as torch initialises them: means 0, variances 1."""
    gammas = {name.removeprefix("gamma"): value for name, value in params.items() if name.startswith("gamma")}
    starts = {"running_mean": np.zeros_like, "running_var": np.ones_like}
    return {f"{name}{k}": start(value) for k, value in gammas.items() for name, start in starts.items()}


def to_state_dict(params: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return the state_dict for the book's params (W1, b1, W2, b2, ...): copies, bit for bit, in the same dtype.

    ValueError for missing or extra names and shapes that do not fit each other; TypeError for dtypes other than
    float16, float32 or float64, or mixed ones. Everything is checked before anything is copied.
    """
    return Weights.of(params).state_dict()


def to_params(state_dict: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return the book's params for a state_dict on any device: the inverse of to_state_dict, with the same errors."""
    arrays = {key: to_array(key, value) for key, value in check_mapping("state_dict", state_dict).items()}
    weights = Weights.of({name: np.array(value, order="C") for name, value in layouts.to_params(arrays)[0].items()})
    check_same_layout(arrays, {key: tuple(value.shape) for key, value in weights.state_dict().items()})
    return {**weights.params}
