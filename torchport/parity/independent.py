"""Gradients of any implementation against central differences of the reference's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.network import Network, check_same_layout
from torchport.layers.arithmetic import Setting
from torchport.layers.loss import softmax_with_loss
from torchport.networks import SimpleConvNet, to_params
from torchport.parity.compare import compare
from torchport.parity.differences import STEPS, CentralDifferences, central_differences
from torchport.parity.report import Difference, table


@dataclass(frozen=True)
class GradientRow:
    """One parameter's gradient against central differences.

    mean_difference is the number that the book prints. kinks counts the entries where a relu or a pooling window
    changes sides within twice the book's step, which makes that number mislead; set_aside those where one does within
    twice the smallest step too. worst is, of all other entries, the one furthest off as a multiple of its limit.
    """

    parameter: str
    entries: int
    mean_difference: float
    kinks: int
    set_aside: int
    worst: Difference

    @property
    def ok(self) -> bool:
        """Whether entries were judged, and all of them are within their limits."""
        return self.worst.ratio <= 1


def gradient_check(reference: Network, x: Array, t: Array, gradients: Mapping[str, Array]) -> list[GradientRow]:
    """Rows for gradients of any implementation: judge_gradients against central_differences. Errors alike."""
    return judge_gradients(central_differences(reference, x, t), gradients)


def judge_gradients(differences: Mapping[str, CentralDifferences], gradients: Mapping[str, Array]) -> list[GradientRow]:
    """A row per parameter, for gradients in the reference's names and layouts, float64 (port_gradients has a port's).

    Rounding moves a gradient by the step times as much as a difference, at most 1e-4: it has no part in the limit.
    ValueError for other names or shapes; TypeError for other dtypes than float64.
    """
    check_same_layout(gradients, {name: found.value.shape for name, found in differences.items()})
    for name, gradient in gradients.items():
        if gradient.dtype != np.float64:
            raise TypeError(f"central differences judge float64, the gradient of {name} has dtype {gradient.dtype}")
    return [_judge(name, found, gradients[name]) for name, found in differences.items()]


def _judge(name: str, found: CentralDifferences, gradient: Array) -> GradientRow:
    aside = np.isnan(found.value)
    if aside.all():
        worst = Difference(note=f"nothing was judged: kinks within {2 * STEPS[-1]:g} of every entry")
    else:
        # Any number will do where there is nothing to compare with; NaN and infinities will not.
        expected = np.where(aside, np.nan_to_num(gradient, posinf=0, neginf=0), found.value)
        worst = compare(gradient, expected, found.limit)
    mean = float(np.abs(found.book - gradient).mean())
    return GradientRow(name, gradient.size, mean, found.kinks, int(aside.sum()), worst)


def port_gradients(port: SimpleConvNet, x: Array, t: Array) -> dict[str, Array]:
    """The port's own gradients of the book's loss, as W1 b1 W2 b2 W3 b3; NaN where it has none, which fails."""
    setting = Setting.of(port)
    own = dict(port.named_parameters())
    with setting.computing():
        value = softmax_with_loss(port(setting.tensor(x)), torch.tensor(t, device=setting.device))
        found = torch.autograd.grad(value, list(own.values()), allow_unused=True)
    grads = zip(own.items(), found, strict=True)
    return to_params({key: torch.full_like(p, math.nan) if grad is None else grad for (key, p), grad in grads})


def gradient_table(rows: Sequence[GradientRow]) -> str:
    """The rows as text."""
    header = ("parameter", "entries", "mean difference", "kinks", "set aside", "error/limit", "worst at", "verdict")
    return table([header, *(_cells(row) for row in rows)])


def _cells(row: GradientRow) -> tuple[str, ...]:
    where = ("", row.worst.note) if row.worst.note else (f"{row.worst.ratio:.2g}", str(list(row.worst.index)))
    counts = (str(row.kinks), str(row.set_aside))
    return (row.parameter, str(row.entries), f"{row.mean_difference:.2e}", *counts, *where, "ok" if row.ok else "FAIL")


def gradient_verdict(checks: Mapping[str, Sequence[GradientRow]]) -> str:
    """One line over the rows of every implementation: all right, or the first that is not."""
    rows = [(name, row) for name, rows in checks.items() for row in rows]
    wrong = [(name, row) for name, row in rows if not row.ok]
    if not wrong:
        judged, entries = (sum(n) for n in zip(*((r.entries - r.set_aside, r.entries) for _, r in rows), strict=True))
        worst = max(row.worst.ratio for _, row in rows)
        return f"RIGHT: {judged} of {entries} entries judged, the largest error {worst:.2g} of its limit"
    name, row = wrong[0]
    return f"WRONG: {len(wrong)} of {len(rows)} gradients fail, first {name} {row.parameter}: {row.worst}"
