"""What learns: a port on its device, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from numpy_ref.checks import Array
from torchport.layers.arithmetic import Setting
from torchport.layers.loss import unchecked_loss
from torchport.networks import DTYPES, Weights, to_params
from torchport.optimizers import make_optimizer, torch_options
from torchport.training.config import AFTER, BOOK, PRECISIONS, Config
from torchport.training.graph import captured
from torchport.training.masks import Masks
from torchport.training.pooled import arranged
from torchport.training.ranks import Ranks
from torchport.training.samples import Samples
from torchport.training.state import copied, put_back

TEST, TRAIN = "test", "train"

# Images evaluated at a time: enough to fill a GPU, few enough for a CPU's cache.
EVALUATED = {"cuda": 1000, "cpu": 200}


class Learner(Protocol):
    """A network in training, on whatever it runs."""

    def begin(self, order: Array, step: int) -> None:
        """Start an epoch with these samples (indices,), at its step-th batch."""

    def advance(self, steps: int) -> Array:
        """Take the next steps batches; the loss of each, float64 (steps,)."""

    def predict(self, part: str, n: int | None = None) -> Array:
        """Classes int64 (n,) of the first n images of TRAIN or TEST (None: of all)."""

    def average(self) -> None:
        """Replace the weights by their mean over the steps of the epoch, which has ended."""

    def params(self) -> dict[str, Array]:
        """The weights under the book's names."""

    def state(self) -> dict[str, Any]:
        """Everything that a step reads and changes: nested dicts of tensors on the CPU, and numbers."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a state, in place. ValueError where it is another network's or rule's."""


class TorchLearner:
    """A port and its update rule on one device, with all data there; on CUDA a step is one graph.

    Across several ranks each takes its share of every batch, and DistributedDataParallel averages the gradients.
    Dropout masks are those of NumpyLearner, drawn on the host, so that no graph is made of such a network. The loss
    after an update is without dropout.
    """

    def __init__(self, config: Config, weights: Weights, samples: Samples, device: torch.device, ranks: Ranks) -> None:
        self._config, self._device, self._ranks = config, device, ranks
        self._preparation = config.preparation
        self._setting = Setting(DTYPES[np.dtype(config.dtype)], str(device), PRECISIONS[config.precision])
        self._parts = {
            TRAIN: [_on(device, part) for part in (samples.x_train, samples.t_train)],
            TEST: [_on(device, part) for part in (samples.x_test, samples.t_test)],
        }
        self._net = weights.port(config.convolution, device)
        self._masks = Masks(config.seed)
        self._draws = self._masks.feed(self._net.modules())
        self._network = arranged(self._net)
        self._parallel = _parallel(self._network, device) if ranks.size > 1 else self._network
        graph = uses_graphs(device, ranks) and not self._draws
        self._parameters = list(self._net.parameters())
        self._optimizer = make_optimizer(
            config.optimizer, self._parameters, capturable=graph, **torch_options(config.rule_options)
        )
        _make_state(self._optimizer)
        self._weights = self._net.state_dict()
        # By their keys: what they add up to in the epoch.
        self._totals = {k: torch.zeros_like(v) for k, v in self._weights.items() if config.keeps_mean}
        self._sums, self._summands = list(self._totals.values()), [self._weights[k] for k in self._totals]
        self._make_buffers(samples)
        self._start = self.state()
        if graph:
            self._capture()

    def _make_buffers(self, samples: Samples) -> None:
        """Tensors that stay where they are, so that a graph can read and write them."""
        n, size = len(samples.x_train), self._config.batch_size
        steps = -(-n // size)
        self._order = torch.zeros(steps * size, dtype=torch.int64, device=self._device)
        self._left = 0  # indices of the order that no step has taken
        self._step = torch.zeros((), dtype=torch.int64, device=self._device)  # within the epoch
        self._slots = torch.arange(steps, device=self._device)
        self._losses = torch.zeros(steps, dtype=self._setting.dtype, device=self._device)  # of this rank
        self._rows: dict[int, Tensor] = {}  # by size of the batch, this rank's positions in it
        chunk = EVALUATED.get(self._device.type, EVALUATED["cpu"])
        self._chunk = torch.zeros(chunk, *samples.x_train.shape[1:], dtype=torch.uint8, device=self._device)
        self._classes = torch.zeros(chunk, dtype=torch.int64, device=self._device)
        # Tensors, since CUDA divides by a Python number as it multiplies by its reciprocal: not quite the book's x.
        self._number = cache(partial(torch.tensor, dtype=torch.float32, device=self._device))
        # Replaced by graphs on CUDA.
        self._take_full: Callable[[], None] = partial(self.take, size)
        self._predict_full: Callable[[], None] = self._predict_chunk

    def begin(self, order: Array, step: int) -> None:
        self._order[: len(order)].copy_(torch.from_numpy(order))
        self._left = len(order) - step * self._config.batch_size
        self._step.fill_(step)
        if not step:
            for total in self._totals.values():
                total.zero_()

    def advance(self, steps: int) -> Array:
        for _ in range(steps):
            if self._left >= self._config.batch_size:
                self._take_full()
            else:
                self.take(self._left)
            self._left -= self._config.batch_size
        done = int(self._step.item())
        parts = self._losses[done - steps : done].double() / self._ranks.size
        return np.asarray(self._ranks.sum(parts).cpu().numpy())

    def predict(self, part: str, n: int | None = None) -> Array:
        images = self._parts[part][0][:n]
        found = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        mine = self._ranks.share(len(images))
        for start in range(mine.start, mine.stop, len(self._chunk)):
            batch = images[start : min(start + len(self._chunk), mine.stop)]
            self._chunk[: len(batch)].copy_(batch)
            self._predict_full()
            found[start : start + len(batch)].copy_(self._classes[: len(batch)])
        return np.asarray(self._ranks.sum(found).cpu().numpy())

    def average(self) -> None:
        with torch.no_grad():
            for key, value in self._weights.items():
                value.copy_(self._totals[key] / len(self._losses))

    def params(self) -> dict[str, Array]:
        return to_params(self._weights)

    def state(self) -> dict[str, Any]:
        own: dict[str, Any] = copied(self._own_state())
        return own

    def load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            own = self._own_state()
            put_back(own, state)
        if self._draws:
            self._masks.load(own["masks"])

    def _own_state(self) -> dict[str, Any]:
        """The very tensors that a step changes, and a copy of the state of the masks' stream.

        Numbers of the rule that no step changes are the configuration's.
        """
        rule = self._optimizer.state_dict()
        steps = {i: group["step"] for i, group in enumerate(rule["param_groups"]) if "step" in group}
        optimizer = {"state": rule["state"], "steps": steps}
        masks = {"masks": self._masks.state()} if self._draws else {}
        return {"model": self._weights, "totals": self._totals, "optimizer": optimizer, **masks}

    def take(self, n: int) -> None:
        """One step on the next n indices of the order, its operations one by one."""
        if n not in self._rows:
            self._rows[n] = torch.tensor(list(self._ranks.share(n)), dtype=torch.int64, device=self._device)
        index = self._order.index_select(0, self._step * self._config.batch_size + self._rows[n])
        images, labels = (part.index_select(0, index) for part in self._parts[TRAIN])
        for parameter in self._parameters:
            parameter.grad = None
        if not self._net.training:
            self._net.train()
        with self._setting.computing():
            loss = self._loss(self._parallel, images, labels, n)
            loss.backward()
        self._optimizer.step()
        if self._sums:
            torch._foreach_add_(self._sums, self._summands)
        if self._config.log_loss == AFTER:
            self._net.eval()
            with torch.no_grad(), self._setting.computing():
                loss = self._loss(self._network, images, labels, n)
        # Not an assignment by index, which would be read on the host.
        torch.where(self._slots == self._step, loss.detach().to(self._losses.dtype), self._losses, out=self._losses)
        self._step += 1

    def _loss(self, network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, n: int) -> Tensor:
        """This rank's part of the mean loss of a batch of n; times the number of ranks, whose mean is taken."""
        logits = network(self._pixels(images))
        if not len(images):
            return logits.sum()  # 0, for the sake of its gradients, which the other ranks wait for
        loss = unchecked_loss(logits, labels)
        return loss if self._ranks.size == 1 else loss * (len(images) * self._ranks.size / n)

    def _pixels(self, images: Tensor) -> Tensor:
        """uint8 as the network takes them: the book's float32, in the dtype of the weights."""
        prepared: Tensor = self._preparation.apply(images.float(), self._number)
        return prepared.to(self._setting.dtype)

    def _predict_chunk(self) -> None:
        self._net.eval()
        with torch.no_grad(), self._setting.computing():
            self._classes.copy_(self._network(self._pixels(self._chunk)).argmax(dim=1))

    def _capture(self) -> None:
        """From here on, a step and a chunk of predictions are a graph each."""
        if len(self._parts[TRAIN][0]) >= self._config.batch_size or self._config.sampling == BOOK:
            self._take_full = captured(self._take_full, self._restore, self._device)
        self._predict_full = captured(self._predict_chunk, self._restore, self._device)

    def _restore(self) -> None:
        """Back to the start, in place."""
        self.load(self._start)
        self._step.zero_()


def uses_graphs(device: torch.device, ranks: Ranks) -> bool:
    """Whether a step is one CUDA graph: not across ranks, whose messages are awaited on the host."""
    return device.type == "cuda" and ranks.size == 1


def _on(device: torch.device, part: Array) -> Tensor:
    """On the CPU the very memory of part, where torch can have it."""
    part = np.ascontiguousarray(part)
    return (torch.from_numpy(part) if part.flags.writeable else torch.tensor(part)).to(device)


def _parallel(network: Any, device: torch.device) -> nn.Module:
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Have optimizer allocate all that it keeps, at its start: torch's rules do that in their first step."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
        optimizer.step()  # along zeros, so nothing moves
        for value in [group.get("step"), *(v for param in group["params"] for v in optimizer.state[param].values())]:
            if isinstance(value, Tensor):
                value.zero_()
    optimizer.zero_grad()
