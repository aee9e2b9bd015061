"""What Adam's update costs late in a run, when some weights have had no gradient for long."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchport.benchmark.rounds import Steps
from torchport.optimizers import BookAdam

SHAPE = (100, 4320)  # the book's largest weight
SILENT = 33  # rows without gradient, as behind a relu that no image passes any more
AGE = 750  # steps in which what Adam remembers of a gradient of 1e-4, at 0.9 a step, becomes subnormal in float32

MakeRule = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
ADAMS: dict[str, MakeRule] = {
    "optim.Adam": torch.optim.Adam,
    "optim.Adam, fused": lambda params: torch.optim.Adam(params, fused=True),
    "BookAdam": BookAdam,
}


def updates() -> dict[str, Steps]:
    """By rule, updates of a float32 weight on the CPU: all of it with gradient, and a third without for AGE steps.

    Those steps come before the first update.
    """
    alive = {f"{name}, all alive": _updates(rule, 0, 0) for name, rule in ADAMS.items()}
    return alive | {
        f"{name}, a third silent for {AGE} steps": _updates(rule, SILENT, AGE) for name, rule in ADAMS.items()
    }


def _updates(rule: MakeRule, silent: int, steps: int) -> Steps:
    weight = torch.zeros(SHAPE)
    optimizer = rule([weight])

    def take(count: int) -> None:
        if weight.grad is None:
            age(weight, optimizer, silent, steps)
        for _ in range(count):
            optimizer.step()

    return take


def age(weight: torch.Tensor, optimizer: torch.optim.Optimizer, silent: int, steps: int) -> None:
    """Have optimizer update weight, at first with a gradient everywhere, then so many steps without in silent rows."""
    weight.grad = torch.full_like(weight, 1e-4)
    optimizer.step()
    weight.grad[:silent] = 0
    for _ in range(steps):
        optimizer.step()
