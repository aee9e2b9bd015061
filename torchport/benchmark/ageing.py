"""What Adam's update costs late in a run, when some weights have had no gradient for long."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchport.benchmark.rounds import Steps
from torchport.optimizers import BookAdam

SHAPE = (100, 4320)  # the book's largest weight
SILENT = slice(0, 33)  # rows without gradient, as behind a relu that no image passes any more
AGE = 1000  # steps in which what Adam remembers of a gradient, at 0.9 a step, has become subnormal in float32

RULES: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "optim.Adam": torch.optim.Adam,
    "optim.Adam, fused": lambda params: torch.optim.Adam(params, fused=True),
    "BookAdam": BookAdam,
}


def updates() -> dict[str, Steps]:
    """By rule, updates of a float32 weight on the CPU: all of it with gradient, and a third without for AGE steps."""
    return {
        **{f"{name}, all alive": _updates(rule, slice(0), 0) for name, rule in RULES.items()},
        **{f"{name}, a third silent": _updates(rule, SILENT, AGE) for name, rule in RULES.items()},
    }


def _updates(rule: Callable[[list[torch.Tensor]], torch.optim.Optimizer], silent: slice, steps: int) -> Steps:
    weight = torch.zeros(SHAPE)
    optimizer = rule([weight])
    age(weight, optimizer, silent, steps)

    def take(count: int) -> None:
        for _ in range(count):
            optimizer.step()

    return take


def age(weight: torch.Tensor, optimizer: torch.optim.Optimizer, silent: slice, steps: int) -> None:
    """Have optimizer update weight, with a gradient everywhere at first, then for so many steps without in its rows."""
    weight.grad = torch.full_like(weight, 1e-4)
    optimizer.step()
    weight.grad[silent] = 0
    for _ in range(steps):
        optimizer.step()
