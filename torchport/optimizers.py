"""The book's six update rules by name: torch's optimizers where they compute the same, BookAdam for the book's Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from numpy_ref.checks import check_number
from numpy_ref.optimizer import EPS

# Every FLUSH_INTERVAL steps, moments below NEGLIGIBLE are set to 0. Decaying by the book's 0.9 a step, none becomes
# subnormal in between, nor does its product with a learning rate of at least 1e-5. float16 needs no flushing: it is
# computed in float32, at full speed.
FLUSH_INTERVAL = 20
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names
NEGLIGIBLE = {torch.float32: 1e-32, torch.bfloat16: 1e-32, torch.float64: 1e-301}

MAX_PIECES = 36  # tensors per list that fit into the arguments of one launch on four lists


class BookAdam(Optimizer):
    """Adam as the book writes it: p -= lr_t m / (sqrt(v) + 1e-7), lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t).

    torch.optim.Adam adds its eps after the bias correction of v, so it equals this rule at no constant eps
    (arXiv:1412.6980 names both forms in section 2). As in the book, a group of parameters has one count of steps t.

    Moments of parameters without gradient decay towards subnormal numbers, with which a processor computes several
    times slower. On the CPU they are set to 0 before that: below 1e-32, or 1e-301 in float64.

    If a group's "rate" is a tensor () on the parameters' device, step takes it as lr_t and does not count. A CUDA graph
    can then hold the step; whoever replays the graph writes next_rates to "rate" and counts in the group's "step".
    ValueError, TypeError for a negative lr or betas outside [0, 1).
    """

    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        check_number("lr", lr, 0)
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        for beta in betas:
            check_number("betas", beta, 0, math.nextafter(1, 0))
        super().__init__(params, {"lr": lr, "betas": betas, "rate": None})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does; its step count starts at 0."""
        super().add_param_group(param_group)
        # In float64 like Python's floats, and on the CPU, since the rates are computed there.
        self.param_groups[-1].setdefault("step", torch.zeros((), dtype=torch.float64))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rows = [(param, param.grad, *self._moments(param)) for param in group["params"] if param.grad is not None]
            if rows:
                params, grads, m, v = (list(column) for column in zip(*rows, strict=True))
                self._update(params, grads, m, v, group)
        return loss

    def next_rates(self, group: dict[str, Any], count: int) -> list[float]:
        """Return lr_t for the next count steps of group, without taking them."""
        (beta1, beta2), t = group["betas"], int(group["step"].item())
        return [group["lr"] * math.sqrt(1 - beta2**i) / (1 - beta1**i) for i in range(t + 1, t + count + 1)]

    def _update(
        self, params: list[Tensor], grads: list[Tensor], m: list[Tensor], v: list[Tensor], group: dict[str, Any]
    ) -> None:
        (beta1, beta2), rate = group["betas"], group.get("rate")
        fusable = all(map(_same_dense_layout, params, grads, m, v))
        rule: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "amsgrad": False, "weight_decay": 0, "maximize": False}
        if rate is not None:
            if fusable:
                params, grads, m, v = (in_pieces(tensors) for tensors in (params, grads, m, v))
            # torch's kernel reads the rate as float32; at so large a step count its own bias corrections are 1.
            if fusable and params[0].dtype == rate.dtype == torch.float32 and max(beta1, beta2) < 1 - 1e-7:
                steps = [_huge_step(rate.device)] * len(params)
                torch._fused_adam_(params, grads, m, v, [], steps, lr=rate, eps=EPS, **rule)
            else:
                _update_unfused(params, grads, m, v, rate, group["betas"])
            return
        rate, t = self.next_rates(group, 1)[0], group["step"].add_(1).item()
        if fusable and params[0].is_cpu:
            # With eps / sqrt(1 - beta2^t) in this step, torch's rule is the book's, in one pass over memory for any
            # strides. torch.optim.adam.adam would do too, but it sorts tensors by device, which takes longer than this.
            steps, eps = [torch.tensor(t, dtype=torch.float32)] * len(params), EPS / math.sqrt(1 - beta2**t)
            torch._fused_adam_(params, grads, m, v, [], steps, lr=group["lr"], eps=eps, **rule)
        else:
            _update_unfused(params, grads, m, v, rate, group["betas"])
        if t % FLUSH_INTERVAL == 0:
            self._flush(group)

    def _moments(self, param: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[param]
        for name in MOMENTS:
            if name not in state:
                state[name] = torch.zeros_like(param)
        m, v = (state[name] for name in MOMENTS)
        return m, v

    def _flush(self, group: dict[str, Any]) -> None:
        """Set negligible moments to 0, also of parameters that have no gradient in this step."""
        for param in group["params"]:
            state = self.state.get(param, {})
            for moment in (state[name] for name in MOMENTS if name in state):
                if moment.is_cpu and moment.dtype in NEGLIGIBLE:
                    torch.ops.aten.hardshrink.out(moment, NEGLIGIBLE[moment.dtype], out=moment)


def _update_unfused(
    params: list[Tensor], grads: list[Tensor], m: list[Tensor], v: list[Tensor], rate: Any, betas: tuple[float, float]
) -> None:
    """Take one step in any dtype on any device, operation by operation; rate is a number or a tensor ()."""
    torch._foreach_lerp_(m, grads, 1 - betas[0])
    torch._foreach_lerp_(v, torch._foreach_mul(grads, grads), 1 - betas[1])
    denominators = torch._foreach_sqrt(v)
    torch._foreach_add_(denominators, EPS)
    change = torch._foreach_div(m, denominators)
    torch._foreach_mul_(change, rate)
    torch._foreach_sub_(params, change)


@cache
def _huge_step(device: torch.device) -> Tensor:
    """Return a step count t () at which 1 - beta^t rounds to 1 for any beta below 1 - 1e-7."""
    return torch.full((), 1e9, dtype=torch.float32, device=device)


def _same_dense_layout(param: Tensor, *others: Tensor) -> bool:
    """Return whether all tensors have the same strides, without gaps in memory."""
    strides = param.stride()
    if any(other.stride() != strides for other in others):
        return False
    return param.is_contiguous() or (param.ndim == 4 and param.is_contiguous(memory_format=torch.channels_last))


def in_pieces(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Cut dense tensors into flat pieces, in memory order, that fit into one launch.

    A kernel for lists gives each block of threads 65,536 elements of one tensor: uncut, most of a GPU would be idle.
    """
    size = 1024
    while sum(-(-tensor.numel() // size) for tensor in tensors) > max(MAX_PIECES, len(tensors)):
        size *= 2
    return [piece for tensor in tensors for piece in tensor.as_strided((tensor.numel(),), (1,)).split(size)]


class Rule(NamedTuple):
    """One of the book's rules in torch's terms: the class, the arguments that make it the book's, and its options."""

    kind: type[Optimizer]
    fixed: dict[str, Any]
    options: dict[str, Any]


# By the book's name (numpy_ref.optimizer.OPTIMIZERS), with the book's defaults. Momentum and Nesterov equal the book's
# only while lr is constant: torch scales the velocity by the current lr, the book each gradient by the lr of its step.
RULES = {
    "sgd": Rule(torch.optim.SGD, {}, {"lr": 0.01}),
    "momentum": Rule(torch.optim.SGD, {}, {"lr": 0.01, "momentum": 0.9}),
    "nesterov": Rule(torch.optim.SGD, {"nesterov": True}, {"lr": 0.01, "momentum": 0.9}),
    "adagrad": Rule(torch.optim.Adagrad, {"eps": EPS}, {"lr": 0.01}),
    "rmsprop": Rule(torch.optim.RMSprop, {"eps": EPS}, {"lr": 0.01, "alpha": 0.99}),
    "adam": Rule(BookAdam, {}, {"lr": 0.001, "betas": (0.9, 0.999)}),
}

TORCH_NAMES = {"decay_rate": "alpha"}  # the book's option names that torch spells otherwise

# Rules that need torch's argument capturable inside a CUDA graph: BookAdam reads "rate" there, the others no state.
CAPTURABLE = ("rmsprop",)


def make_optimizer(name: str, params: Iterable[Tensor], *, capturable: bool = False, **options: Any) -> Optimizer:
    """Return the optimizer for the book's rule name (sgd, momentum, nesterov, adagrad, rmsprop or adam).

    Defaults are the book's; options have torch's names: lr, momentum, alpha (the book's decay_rate), betas. capturable
    allows the step in a CUDA graph. ValueError for an unknown name or a value out of range; TypeError for an option
    that the rule does not have.
    """
    if not isinstance(name, str) or name.lower() not in RULES:
        raise ValueError(f"optimizer must be one of {', '.join(RULES)}, got {name!r}")
    rule = RULES[name.lower()]
    for option, value in options.items():
        if option not in rule.options:
            raise TypeError(f"{name} has the options {', '.join(rule.options)}, got {option}={value!r}")
        if option != "betas":  # BookAdam checks these itself
            check_number(option, value, 0, math.inf if option == "lr" else 1)
    graph: dict[str, Any] = {"capturable": True} if capturable and name.lower() in CAPTURABLE else {}
    return rule.kind(params, **rule.fixed, **graph, **{**rule.options, **options})


def torch_options(options: Mapping[str, float]) -> dict[str, Any]:
    """Translate numpy_ref.optimizer's options to make_optimizer's: decay_rate to alpha, beta1 and beta2 to betas."""
    renamed: dict[str, Any] = {TORCH_NAMES.get(name, name): value for name, value in options.items()}
    if {"beta1", "beta2"} & renamed.keys():
        default1, default2 = RULES["adam"].options["betas"]
        renamed["betas"] = (renamed.pop("beta1", default1), renamed.pop("beta2", default2))
    return renamed
