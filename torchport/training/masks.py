"""Where the dropout masks of a run come from: one stream of NumPy's, whatever trains, so that it can be kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import numpy_ref as nr
from numpy_ref.layers import Layer
from torchport.layers import Dropout


class Masks:
    """A stream of its own beside that of weights and batches, which are drawn an epoch ahead."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState([seed, 1])

    def feed(self, layers: Iterable[Layer | torch.nn.Module]) -> bool:
        """Let every dropout among layers, of either package, draw from here; whether there was one."""
        found = [layer for layer in layers if isinstance(layer, nr.Dropout | Dropout)]
        for layer in found:
            if isinstance(layer, Dropout):
                layer.draw = self._draw
            else:
                layer.rng = self._rng
        return bool(found)

    def state(self) -> Tensor:
        """What the next numbers follow from, int64 (625,)."""
        state: dict[str, Any] = self._rng.get_state(legacy=False)["state"]
        return torch.tensor([*state["key"].tolist(), state["pos"]])

    def load(self, state: Tensor) -> None:
        """Go on from what state returned."""
        *keys, position = state.tolist()
        own: dict[str, Any] = {**self._rng.get_state(legacy=False)}
        self._rng.set_state({**own, "state": {"key": np.array(keys, np.uint32), "pos": position}})

    def _draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.from_numpy(self._rng.rand(*shape)).to(device)
