"""The interface of a learner, its state as nested dicts of tensors, and the random stream of dropout masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport.layers import Dropout
from torchport.networks import Weights

TEST, TRAIN = "test", "train"


class Learner(Protocol):
    """A network and its update rule, as a Run uses them."""

    def capture(self) -> None:
        """Record what every step launches, where that is possible; called once, before the first step."""

    def begin(self, order: Array, step: int) -> None:
        """Start an epoch of the samples order (indices,), at its step-th batch."""

    def advance(self, steps: int) -> Array:
        """Learn from the next batches, as many as steps; the loss of each, float64 (steps,)."""

    def predict(self, part: str, n: int | None = None) -> Array:
        """Classes int64 (n,) of the first n images of TRAIN or TEST (None: of all)."""

    def average(self) -> None:
        """Replace the weights by their mean over the steps of the epoch that has ended."""

    def weights(self) -> Weights:
        """Copies of the weights."""

    def state(self) -> dict[str, Any]:
        """Everything that a step reads and changes: nested dicts of tensors on the CPU, and numbers."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Copy a state into the learner's own, in place. ValueError where it is another network's or rule's."""


def copied(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """state with copies of its tensors, on the CPU."""
    return {
        key: copied(value) if isinstance(value, Mapping) else value.detach().to("cpu", copy=True)
        for key, value in state.items()
    }


def put_back(own: Mapping[Any, Any], saved: Mapping[Any, Any], where: str = "state") -> None:
    """Copy the values of saved into own's tensors, in place. ValueError where keys, shapes or dtypes differ.

    Everything is compared before anything is copied.
    """
    pairs = list(_pairs(own, saved, where))
    for target, value in pairs:
        target.copy_(value)


def all_finite(state: Mapping[Any, Any]) -> bool:
    """Whether no tensor of state holds a NaN or an infinity."""
    return all(
        all_finite(value) if isinstance(value, Mapping) else bool(torch.isfinite(value).all())
        for value in state.values()
    )


def _pairs(own: Mapping[Any, Any], saved: Any, where: str) -> Iterator[tuple[Tensor, Tensor]]:
    if not isinstance(saved, Mapping) or own.keys() != saved.keys():
        keys = sorted(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(f"{where} of another network or update rule: expected {sorted(map(str, own))}, got {keys}")
    for key, target in own.items():
        if isinstance(target, Mapping):
            yield from _pairs(target, saved[key], f"{where}.{key}")
            continue
        value = saved[key]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (target.shape, target.dtype):
            kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{where}.{key}: expected {target.dtype} {tuple(target.shape)}, got {kind}")
        yield target, value


class Masks:
    """NumPy's random stream of dropout masks, apart from that of batches, which are drawn an epoch ahead."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState([seed, 1])

    def feed(self, layers: Iterable[Layer | torch.nn.Module]) -> bool:
        """Have every dropout among layers, of either package, draw from this stream; whether there is any."""
        dropouts = [layer for layer in layers if isinstance(layer, nr.Dropout | Dropout)]
        for layer in dropouts:
            if isinstance(layer, Dropout):
                layer.draw = self._draw
            else:
                layer.rng = self._rng
        return bool(dropouts)

    def state(self) -> Tensor:
        """The stream's state, int64 (625,)."""
        state: dict[str, Any] = self._rng.get_state(legacy=False)["state"]
        return torch.tensor([*state["key"].tolist(), state["pos"]])

    def load(self, state: Tensor) -> None:
        """Go on from a state."""
        *keys, position = state.tolist()
        own: dict[str, Any] = {**self._rng.get_state(legacy=False)}
        self._rng.set_state({**own, "state": {"key": np.array(keys, np.uint32), "pos": position}})

    def _draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.from_numpy(self._rng.rand(*shape)).to(device)
