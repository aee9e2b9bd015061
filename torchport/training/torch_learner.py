"""A port as a learner: its steps, its predictions and its state, on one device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from numpy_ref.checks import Array
from torchport.layers.arithmetic import Setting
from torchport.networks import DTYPES, SimpleConvNet, Weights, to_params
from torchport.optimizers import MOMENTS, in_pieces, make_optimizer, torch_options
from torchport.training.config import AFTER, BOOK, PRECISIONS, TRITON, Config
from torchport.training.device_data import DeviceData, Slots
from torchport.training.fused import arranged, log_likelihood, loss_gradient
from torchport.training.graph import GRAPH_STEPS, captured, uses_graphs, wake_autograd
from torchport.training.ranks import Ranks
from torchport.training.samples import Samples
from torchport.training.state import TRAIN, Masks, copied, put_back

if TYPE_CHECKING:
    from torchport.training.kernel_step import KernelStep


class TorchLearner:
    """A port and its update rule on one device, with all data there; on CUDA several steps are one graph.

    Across several ranks each takes its share of every batch, and DistributedDataParallel averages the gradients.
    Dropout masks are those of NumpyLearner, drawn on the host, so that no graph is made of such a network. The loss
    after an update is without dropout.
    """

    def __init__(self, config: Config, weights: Weights, samples: Samples, device: torch.device, ranks: Ranks) -> None:
        self._config, self._device, self._ranks, self._given = config, device, ranks, weights
        self._setting = Setting(DTYPES[np.dtype(config.dtype)], str(device), PRECISIONS[config.precision])
        self._net = weights.port(config.convolution_on(str(device)), device)
        self._masks = Masks(config.seed)
        self._draws = self._masks.feed(self._net.modules())
        self._network = arranged(self._net, tensor_cores=config.precision != "full")
        self._parallel = _parallel(self._network, device) if ranks.size > 1 else self._network
        graph = uses_graphs(device, ranks) and not self._draws
        self._parameters = list(self._net.parameters())
        self._optimizer = make_optimizer(
            config.optimizer, self._parameters, capturable=graph, **torch_options(config.rule_options)
        )
        _make_state(self._optimizer)
        # Groups whose rates are read from slots, as a graph cannot compute them.
        self._rated = [group for group in self._optimizer.param_groups if graph and "rate" in group]
        # Sums of the weights over an epoch's steps, by their keys.
        self._totals = {k: torch.zeros_like(v) for k, v in self._net.state_dict().items() if config.keeps_mean}
        wake_autograd(device)
        self._data = DeviceData(samples, config.preparation, self._setting.dtype, device)
        self._classes = torch.zeros(len(self._data.chunk), dtype=torch.int64, device=device)
        self._slots = self._make_slots(-(-len(samples.x_train) // config.batch_size))
        self._sizes = np.zeros(0, np.int64)  # of the epoch's batches
        self._done = 0  # steps of the epoch
        self._kernels = self._kernel_step() if config.kernels == TRITON else None
        self._weights = self._net.state_dict()
        self._sums, self._summands = list(self._totals.values()), [self._weights[k] for k in self._totals]
        self._start = self.state()
        self._graphs: dict[int, Callable[[], None]] = {}  # by how many steps each takes
        self._predict_full: Callable[[], None] = self._predict_chunk
        self._records = graph
        if graph:
            self._sums, self._summands = in_pieces(self._sums), in_pieces(self._summands)

    def _make_slots(self, steps: int) -> Slots:
        return Slots.of(steps, self._config.batch_size, self._parameters[0])

    def _kernel_step(self) -> KernelStep:
        """The step by Triton kernels; all that a step changes moves into memory that suits them."""
        try:
            from torchport.training.kernel_step import KernelStep
        except ImportError as error:  # as on Windows
            raise ValueError(f"kernels triton need Triton, which is not here ({error}): choose torch") from None
        assert isinstance(self._net, SimpleConvNet)
        (group,), data = self._optimizer.param_groups, self._data
        prepared = torch.cat([data.pixels(part) for part in data.images[TRAIN].split(len(data.chunk))])
        moments = [[self._optimizer.state[param][name] for param in self._parameters] for name in MOMENTS]
        state = [self._parameters, *moments, list(self._totals.values())]
        return KernelStep(self._net, state, prepared, data.labels, self._config.batch_size, group["betas"])

    def begin(self, order: Array, step: int) -> None:
        size = self._config.batch_size
        self._slots.order[: len(order)].copy_(torch.from_numpy(order))
        self._sizes = np.minimum(size, len(order) - np.arange(0, len(order), size))
        self._done = step
        if self._kernels is not None:
            self._kernels.refresh()
        for group in self._rated:
            rates = self._optimizer.next_rates(group, len(self._sizes) - step)  # type: ignore[attr-defined]
            self._slots.rates[step : len(self._sizes)].copy_(torch.tensor(rates, dtype=torch.float64))
        if not step:
            for total in self._totals.values():
                total.zero_()

    def advance(self, steps: int) -> Array:
        start, end = self._done, self._done + steps
        while self._done < end:
            taken = self._launch(end - self._done)
            self._done += taken
            for group in self._rated:
                group["step"] += taken
        log_likelihoods = self._ranks.sum(self._slots.losses[start:end].double()).cpu().numpy()
        return np.asarray(-log_likelihoods / self._sizes[start:end])

    def _launch(self, most: int) -> int:
        """Take as many of the next steps as one graph holds, at most most, or else one; how many."""
        i, size, slots = self._done, self._config.batch_size, self._slots
        full = int((self._sizes[i : i + most] == size).sum())  # all but the epoch's last one
        count = next((count for count in self._graphs if count <= full), 0)
        if not count:
            self.take(slots, i, int(self._sizes[i]))
            return 1
        self._staged.order[: count * size].copy_(slots.order[i * size : (i + count) * size])
        self._staged.rates[:count].copy_(slots.rates[i : i + count])
        self._graphs[count]()
        slots.losses[i : i + count].copy_(self._staged.losses[:count])
        return count

    def predict(self, part: str, n: int | None = None) -> Array:
        images, chunk = self._data.images[part][:n], self._data.chunk
        classes = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        mine = self._ranks.share(len(images))
        for start in range(mine.start, mine.stop, len(chunk)):
            batch = images[start : min(start + len(chunk), mine.stop)]
            chunk[: len(batch)].copy_(batch)
            self._predict_full()
            classes[start : start + len(batch)].copy_(self._classes[: len(batch)])
        return np.asarray(self._ranks.sum(classes).cpu().numpy())

    def average(self) -> None:
        with torch.no_grad():
            for key, value in self._weights.items():
                value.copy_(self._totals[key] / len(self._slots.losses))

    def weights(self) -> Weights:
        return replace(self._given, params=to_params(self._weights))

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
        """The tensors that a step changes, not copied, and a copy of the state of the masks.

        Numbers of the rule that no step changes are in the configuration.
        """
        rule = self._optimizer.state_dict()
        steps = {i: group["step"] for i, group in enumerate(rule["param_groups"]) if "step" in group}
        optimizer = {"state": rule["state"], "steps": steps}
        masks = {"masks": self._masks.state()} if self._draws else {}
        return {"model": self._weights, "totals": self._totals, "optimizer": optimizer, **masks}

    def take(self, slots: Slots, i: int, n: int) -> None:
        """Run the operations of the step in slot i, on n samples."""
        start, mine = i * self._config.batch_size, self._ranks.share(n)
        order, after = slots.order[start + mine.start : start + mine.stop], self._config.log_loss == AFTER
        if self._kernels is not None:
            self._kernels.take(order, slots.rates[i], slots.losses[i])
            if after:
                self._kernels.measure(order, slots.losses[i])
            return
        x, one_hot = self._data.batch(order)
        for parameter in self._parameters:
            parameter.grad = None
        for group in self._rated:
            group["rate"] = slots.rates[i]
        if not self._net.training:
            self._net.train()
        with self._setting.computing():
            logits = self._parallel(x)
            chances = logits.detach().softmax(dim=1)
            if not after:
                log_likelihood(chances, one_hot, slots.losses[i])
            # Of the mean over all ranks' samples, times their number, as the mean over the ranks is taken.
            logits.backward(loss_gradient(chances, one_hot, n / self._ranks.size))
        self._optimizer.step()
        if self._sums:
            torch._foreach_add_(self._sums, self._summands)
        if after:
            self._net.eval()
            with torch.no_grad(), self._setting.computing():
                log_likelihood(self._network(x).softmax(dim=1), one_hot, slots.losses[i])

    def _predict_chunk(self) -> None:
        self._net.eval()
        with torch.no_grad(), self._setting.computing():
            self._classes.copy_(self._network(self._data.pixels(self._data.chunk)).argmax(dim=1))

    def capture(self) -> None:
        """On CUDA, record several steps, and the predictions of a chunk, as a graph each, if that is possible."""
        if not self._records:
            return
        self._staged = self._make_slots(max(GRAPH_STEPS))
        if self._kernels is not None:
            self._build()
        steps, size = len(self._slots.losses), self._config.batch_size
        full = steps if self._config.sampling == BOOK else len(self._data.labels) // size
        record = partial(captured, restore=self._restore, device=self._device)
        try:
            graphs = {n: record(partial(self._take_staged, n)) for n in GRAPH_STEPS if n <= full}
            self._predict_full = record(self._predict_chunk)
            self._graphs = graphs
        except RuntimeError as error:
            self._restore()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"steps cannot be recorded as a CUDA graph ({reason}): they are launched one by one, which is slower",
                stacklevel=2,
            )

    def _build(self) -> None:
        """Have Triton compile its kernels; where that fails, as without a C compiler, torch's take the steps."""
        try:
            self._take_staged(1)
        except Exception as error:  # of Triton's many kinds
            self._kernels, reason = None, (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"Triton cannot make its kernels here ({reason}): torch's take the steps", stacklevel=2)
        self._restore()

    def _take_staged(self, count: int) -> None:
        for i in range(count):
            self.take(self._staged, i, self._config.batch_size)

    def _restore(self) -> None:
        """Go back to the state at the start, in place."""
        self.load(self._start)


def _parallel(network: Any, device: torch.device) -> nn.Module:
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Have optimizer allocate its state now, which torch's rules do in their first step."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
        optimizer.step()  # along zeros, so nothing moves
        for value in [group.get("step"), *(v for param in group["params"] for v in optimizer.state[param].values())]:
            if isinstance(value, Tensor):
                value.zero_()
    optimizer.zero_grad()
