"""The NumPy reference as a learner: the same command, options and outputs as a port's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.optimizer import OPTIMIZERS
from torchport.layers.terms import to_torch_layout
from torchport.networks import Weights
from torchport.networks.names import state_dict_keys
from torchport.training.config import AFTER, Config
from torchport.training.samples import Samples
from torchport.training.state import TEST, TRAIN, Masks, copied, put_back


class NumpyLearner:
    """numpy_ref's network and update rule, in the dtype of weights."""

    def __init__(self, config: Config, weights: Weights, samples: Samples) -> None:
        self._config, self._prepare, self._given = config, config.preparation, weights
        self._parts = {TRAIN: (samples.x_train, samples.t_train), TEST: (samples.x_test, samples.t_test)}
        self._network, self._masks = weights.reference(), Masks(config.seed)
        self._draws = self._masks.feed(self._network.layers.values())
        self._rule = OPTIMIZERS[config.optimizer](**config.rule_options)
        # The rules allocate what they keep in their first step: one along zeros moves nothing.
        self._rule.update(self._network.params, {k: np.zeros_like(v) for k, v in self._network.params.items()})
        self._rule.iter = 0
        # Sums of the weights over an epoch's steps, and how many those are.
        self._totals = {k: np.zeros_like(v) for k, v in self._network.params.items() if config.keeps_mean}
        self._steps = -(-len(samples.x_train) // config.batch_size)
        self._order = np.zeros(0, np.int64)

    def capture(self) -> None:
        pass

    def begin(self, order: Array, step: int) -> None:
        self._order = order[step * self._config.batch_size :]
        if not step:
            for total in self._totals.values():
                total[...] = 0

    def advance(self, steps: int) -> Array:
        return np.array([self._take() for _ in range(steps)], np.float64)

    def _take(self) -> float:
        batch, self._order = np.split(self._order, [self._config.batch_size])
        x, t = self._prepare(self._parts[TRAIN][0][batch]), self._parts[TRAIN][1][batch]
        self._rule.update(self._network.params, self._network.gradient(x, t))
        for name, total in self._totals.items():
            total += self._network.params[name]
        if self._config.log_loss == AFTER:
            return float(self._network.loss(x, t, train_flg=False))
        loss = self._network.last_layer.loss  # which gradient has left there
        return float("nan") if loss is None else float(loss)

    def predict(self, part: str, n: int | None = None) -> Array:
        images = self._parts[part][0][:n]
        size = self._config.batch_size
        chunks = [self._network.predict(self._prepare(images[i : i + size])) for i in range(0, len(images), size)]
        return np.asarray(np.concatenate(chunks).argmax(axis=1))

    def average(self) -> None:
        for name, total in self._totals.items():
            self._network.params[name][...] = total / self._steps

    def weights(self) -> Weights:
        return replace(self._given, params={name: value.copy() for name, value in self._network.params.items()})

    def state(self) -> dict[str, Any]:
        return copied(self._own_state())

    def load(self, state: Mapping[str, Any]) -> None:
        own = self._own_state()
        put_back(own, state)
        self._rule.iter = int(own["optimizer"]["steps"])
        if self._draws:
            self._masks.load(own["masks"])

    def _own_state(self) -> dict[str, Any]:
        """Tensors that share memory with the arrays, and copies of the step count and of the state of the masks."""
        by_rule = {key: value for key, value in vars(self._rule).items() if isinstance(value, dict)}
        moments = {key: {name: torch.from_numpy(value) for name, value in by_rule[key].items()} for key in by_rule}
        optimizer = {**moments, "steps": torch.tensor(self._rule.iter)}
        model, totals = self._shared(self._network.params), self._shared(self._totals)
        masks = {"masks": self._masks.state()} if self._draws else {}
        return {"model": model, "totals": totals, "optimizer": optimizer, **masks}

    def _shared(self, params: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """A state_dict that shares memory with params; empty for none."""
        keys = state_dict_keys(self._network).items() if params else ()
        return {key: torch.from_numpy(to_torch_layout(params[name])) for name, key in keys}
