"""The book's six update rules by name: torch's own where the rule is equal, one of our own for the book's Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from numpy_ref.checks import check_number
from numpy_ref.optimizers import EPS


class BookAdam(Optimizer):
    """Adam as the book writes it: p -= lr_t m / (sqrt(v) + 1e-7), lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t).

    torch.optim.Adam adds its eps after the bias correction of v, so it equals this rule at no constant eps
    (arXiv:1412.6980 names both forms in section 2). ValueError, TypeError for a negative lr or betas outside [0, 1).
    """

    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        check_number("lr", lr, 0)
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        for beta in betas:
            check_number("betas", beta, 0, math.nextafter(1, 0))
        super().__init__(params, {"lr": lr, "betas": betas})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group["lr"], *group["betas"])
        return loss

    def _update(self, param: Tensor, grad: Tensor, lr: float, beta1: float, beta2: float) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        m, v, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
        m.lerp_(grad, 1 - beta1)
        v.lerp_(grad * grad, 1 - beta2)
        lr_t = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        param.addcdiv_(m, self._denominator(v), value=-lr_t)

    def _denominator(self, v: Tensor) -> Tensor:
        return v.sqrt().add_(EPS)


class Rule(NamedTuple):
    """A rule of the book in torch's terms: the class, what makes it the book's, and the options with their defaults."""

    kind: type[Optimizer]
    fixed: dict[str, Any]
    options: dict[str, Any]


# By the book's name (numpy_ref.optimizers.OPTIMIZERS), with the book's defaults. Momentum and Nesterov are the book's
# as long as lr stays what it is: torch scales the velocity by today's lr, the book each gradient by the lr of its day.
RULES = {
    "sgd": Rule(torch.optim.SGD, {}, {"lr": 0.01}),
    "momentum": Rule(torch.optim.SGD, {}, {"lr": 0.01, "momentum": 0.9}),
    "nesterov": Rule(torch.optim.SGD, {"nesterov": True}, {"lr": 0.01, "momentum": 0.9}),
    "adagrad": Rule(torch.optim.Adagrad, {"eps": EPS}, {"lr": 0.01}),
    "rmsprop": Rule(torch.optim.RMSprop, {"eps": EPS}, {"lr": 0.01, "alpha": 0.99}),
    "adam": Rule(BookAdam, {}, {"lr": 0.001, "betas": (0.9, 0.999)}),
}


def make_optimizer(name: str, params: Iterable[Tensor], **options: Any) -> Optimizer:
    """The book's rule `name` (sgd, momentum, nesterov, adagrad, rmsprop, adam) over params, with its defaults.

    options are torch's names: lr, momentum, alpha (the book's decay_rate), betas. ValueError for an unknown name or a
    value out of range; TypeError for an option that the rule does not have.
    """
    if not isinstance(name, str) or name.lower() not in RULES:
        raise ValueError(f"optimizer must be one of {', '.join(RULES)}, got {name!r}")
    rule = RULES[name.lower()]
    for option, value in options.items():
        if option not in rule.options:
            raise TypeError(f"{name} has the options {', '.join(rule.options)}, got {option}={value!r}")
        if option != "betas":  # which BookAdam checks
            check_number(option, value, 0, math.inf if option == "lr" else 1)
    return rule.kind(params, **rule.fixed, **{**rule.options, **options})
