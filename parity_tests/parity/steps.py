"""An optimizer of the port against the reference's rule, step by step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from numpy_ref.optimizer import Optimizer
from torchport.layers import SUM
from torchport.layers.arithmetic import Setting
from torchport.parity.compare import compare
from torchport.parity.rows import Row

# Between an input of one step and the parameter after it, RMSprop and Adam round most often: two moments of three
# operations each, a root, an addend, a product, a quotient and a sum.
STEP_ROUNDINGS = 11


def check_optimizer(
    reference: Callable[[], Optimizer],
    port: Callable[[list[Tensor]], torch.optim.Optimizer],
    start: Array,
    grads: Array,
    setting: Setting,
) -> list[Row]:
    """A row per step for one parameter, moved from start (...) along grads (T, ...) by both rules.

    S of the linear rule is the reference's own rule on absolute values, |start| along -|grad|, which only ever adds up;
    K is the number of roundings between an input and the result, at most STEP_ROUNDINGS a step.
    """
    start, grads = setting.round(start), setting.round(grads)
    expected, size = {"p": start.copy()}, {"p": np.abs(start)}
    ours, ours_size = reference(), reference()
    param = setting.tensor(start).requires_grad_()
    theirs = port([param])
    rows = []
    for step, grad in enumerate(grads, start=1):
        ours.update(expected, {"p": grad})
        ours_size.update(size, {"p": -np.abs(grad)})
        param.grad = setting.tensor(grad)
        theirs.step()
        limit = setting.arithmetic.of_sum(STEP_ROUNDINGS * step, size["p"])
        worst = compare(param.detach().to("cpu", torch.float64).numpy(), expected["p"], limit)
        rows.append(Row("steps", type(ours).__name__, f"step {step}", SUM, worst))
    return rows
