"""How bugs are planted on purpose and looked for; catalogue.py has the bugs.

A bug that no check catches would show that a limit is too wide; a bug blamed on another layer, that the diagnosis
misleads. The margin is the error of the worst entry over its limit, in the row that is blamed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS
from parity.steps import check_optimizer
from torchport.layers.arithmetic import Setting
from torchport.networks import SimpleConvNet, from_reference
from torchport.networks.names import cast_params
from torchport.parity import check_layer, check_parity
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.parity.given import ALL, BATCH, PREDICTION, TRAINING
from torchport.parity.rows import Row


@dataclass(frozen=True)
class Bug:
    """A planted bug, the layer to blame, and how to look for it: the first row that fails in a dtype, None if none."""

    name: str
    layer: str
    find: Callable[[torch.dtype], Row | None]
    only_float64: str = ""  # why float32 cannot show it
    note: str = ""  # why a margin is small


@dataclass(frozen=True)
class Finding:
    """What became of a planted bug, in float64 and in float32."""

    bug: Bug
    float64: Row | None
    float32: Row | None

    @property
    def ok(self) -> bool:
        """Whether it was caught at the right layer, in both dtypes or where it can be seen."""
        second = self.float32 is None if self.bug.only_float64 else self._blames(self.float32)
        return self._blames(self.float64) and second

    def _blames(self, row: Row | None) -> bool:
        return row is not None and row.layer == self.bug.layer

    def to_markdown(self) -> str:
        """A row of the table: bug, layer, what caught it, the two margins and why one is small."""
        if self.float64 is None:
            return f"| {self.bug.name} | {self.bug.layer} | SURVIVED | | |"
        caught = f"{self.float64.layer} {self.float64.quantity}, {self.float64.run}"
        second = self.bug.only_float64 if self.float32 is None else _margin(self.float32)
        margins = f"{_margin(self.float64)} | {second or 'SURVIVED'}"
        remark = f" ({self.bug.note})" if self.bug.note else ""
        return f"| {self.bug.name} | {self.bug.layer} | {caught} | {margins}{remark} |"


def find(bug: Bug) -> Finding:
    """Look for one bug."""
    return Finding(bug, bug.find(torch.float64), bug.find(torch.float32))


def table(findings: Sequence[Finding]) -> list[str]:
    """Lines of Markdown, a row a bug, and how many were caught."""
    head = "| bug | blamed | caught by | error/limit, float64 | float32 |", "|---|---|---|---|---|"
    caught = sum(finding.ok for finding in findings)
    rows = [finding.to_markdown() for finding in findings]
    return [*head, *rows, "", f"{caught} of {len(findings)} bugs caught at the right layer"]


def _margin(row: Row) -> str:
    return "not allowed at all" if np.isinf(row.worst.ratio) else f"{row.worst.ratio:.1e}"


# --- How a bug is planted

# Square where it can be: swapped axes and untransposed weights then fit, and only their values are wrong.
NETWORK: dict[str, Any] = {
    "input_dim": (2, 8, 8),
    "conv_param": {"filter_num": 4, "filter_size": 3, "pad": 0, "stride": 1},
    "hidden_size": 6,
    "output_size": 6,
}
Spoil = Callable[[nn.Sequential], object]


def small_network(dtype: torch.dtype) -> tuple[nr.SimpleConvNet, SimpleConvNet, Array, Array]:
    """The reference, a port that agrees, and a batch."""
    reference = nr.SimpleConvNet(**NETWORK)
    reference.set_params(seeded_params(0, reference.params))
    port = SimpleConvNet.from_params(cast_params(reference.params, dtype))
    return reference, port, *seeded_batch(0, 8, NETWORK["input_dim"], NETWORK["output_size"])


def small_deep_network(dtype: torch.dtype) -> tuple[nr.DeepConvNet, nn.Sequential, Array, Array]:
    """The same of a DeepConvNet."""
    conv_params: dict[str, Any] = {
        f"conv_param_{k}": {**param, "filter_num": 4} for k, param in enumerate(DEFAULT_CONV_PARAMS, 1)
    }
    reference = nr.DeepConvNet((2, 12, 12), **conv_params, hidden_size=6, output_size=6, rng=np.random.RandomState(0))
    reference.set_params(seeded_params(0, reference.params))
    return reference, from_reference(reference).to(dtype), *seeded_batch(0, 8, (2, 12, 12), 6)


def in_port(
    name: str,
    layer: str,
    spoil: Spoil,
    only_float64: str = "",
    network: Callable[[torch.dtype], tuple[nr.Network, nn.Sequential, Array, Array]] = small_network,
) -> Bug:
    """A bug in the port's network."""

    def find(dtype: torch.dtype) -> Row | None:
        reference, port, x, t = network(dtype)
        spoil(port)
        return first_divergence(reference, port, x, t)

    return Bug(name, layer, find, only_float64)


def in_reference(name: str, layer: str, patched: Callable[[], AbstractContextManager[Any]]) -> Bug:
    """A bug in a function of numpy_ref, for the length of a with statement."""

    def find(dtype: torch.dtype) -> Row | None:
        reference, port, x, t = small_network(dtype)
        with patched():
            return first_divergence(reference, port, x, t)

    return Bug(name, layer, find)


def in_loss(name: str, loss: Callable[[Tensor, Tensor], Tensor], note: str = "") -> Bug:
    """A bug in the port's loss."""

    def find(dtype: torch.dtype) -> Row | None:
        return first_divergence(*small_network(dtype), loss=loss)

    return Bug(name, "loss", find, note=note)


class _Around(nn.Module):
    def __init__(self, port: SimpleConvNet, run: Callable[[SimpleConvNet, Tensor], Tensor]) -> None:
        super().__init__()
        self.port, self.run = port, run

    def forward(self, input: Tensor) -> Tensor:
        return self.run(self.port, input)


def in_run(name: str, layer: str, run: Callable[[SimpleConvNet, Tensor], Tensor]) -> Bug:
    """A bug in how right layers are put together."""

    def find(dtype: torch.dtype) -> Row | None:
        reference, port, x, t = small_network(dtype)
        return first_divergence(reference, _Around(port, run), x, t)

    return Bug(name, layer, find)


def in_layer(
    name: str, make: Callable[[np.random.Generator], tuple[Any, nn.Module, Array]], *, behind: bool = False
) -> Bug:
    """A bug in one module, or behind what is right in it: make gives the reference's layer, the module and an input."""

    def find(dtype: torch.dtype) -> Row | None:
        rng = np.random.default_rng(7)
        layer, module, x = make(rng)
        dout = rng.standard_normal(copy.copy(layer).forward(x).shape)  # which would move the layer's statistics
        rows = check_layer(type(layer).__name__, layer, nn.Sequential(module.to(dtype)), x, dout, Setting(dtype))
        return first_failing(rows)

    return Bug(name, "output" if behind else type(make(np.random.default_rng(7))[0]).__name__.lower(), find)


def in_optimizer(
    name: str,
    rule: Callable[[], Any],
    port: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> Bug:
    """A bug in an update rule, of the reference or of the port."""

    def find(dtype: torch.dtype) -> Row | None:
        rng = np.random.default_rng(7)
        grads = rng.standard_normal((20, 3, 4)) * np.array([1, 1e-4, 1e-7])[:, np.newaxis]
        return first_failing(check_optimizer(rule, port, rng.standard_normal((3, 4)), grads, Setting(dtype)))

    return Bug(name, type(rule()).__name__, find)


def first_failing(rows: Sequence[Row]) -> Row | None:
    """The first row that fails; if none does, the first that is known to be defined otherwise."""
    return next((row for row in rows if not row.ok), next((row for row in rows if row.known), None))


def first_divergence(reference: nr.Network, port: nn.Module, x: Array, t: Array, **options: Any) -> Row | None:
    """That of the training run; where this shows nothing, of more of them, and of all."""
    for runs in ([TRAINING], [PREDICTION, BATCH], ALL):
        report = check_parity(reference, port, x, t, runs=runs, **options)
        if report.first_divergence:
            break
    return first_failing(report.rows)
