"""The six update rules agree with the reference step by step; test_training.py tests whole runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from parity.steps import check_optimizer

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.optimizer import OPTIMIZERS
from torchport import make_optimizer
from torchport.optimizers import (
    FLUSH_INTERVAL,
    MAX_PIECES,
    MOMENTS,
    NEGLIGIBLE,
    RULES,
    BookAdam,
    in_pieces,
    torch_options,
)
from torchport.parity import Setting

OURS_AND_THEIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sgd": ({"lr": 0.1}, {"lr": 0.1}),
    "momentum": ({"lr": 0.1, "momentum": 0.5}, {"lr": 0.1, "momentum": 0.5}),
    "nesterov": ({"lr": 0.1, "momentum": 0.95}, {"lr": 0.1, "momentum": 0.95}),
    "adagrad": ({"lr": 0.1}, {"lr": 0.1}),
    "rmsprop": ({"lr": 0.1, "decay_rate": 0.9}, {"lr": 0.1, "alpha": 0.9}),
    "adam": ({"lr": 0.1, "beta1": 0.8, "beta2": 0.99}, {"lr": 0.1, "betas": (0.8, 0.99)}),
}


def gradients(rng: np.random.Generator, scale: float) -> Array:
    """Twenty gradients, with zeros and entries far below the 1e-7 that three of the rules add."""
    grads = scale * rng.standard_normal((20, 4, 7))
    grads[:, 0] = 0
    grads[:, 1] *= 1e-9
    return grads


@pytest.mark.parametrize("scale", [1, 1e-4], ids=["large", "small"])
@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps(name: str, defaults: bool, scale: float, setting: Setting, rng: np.random.Generator) -> None:
    ours, theirs = ({}, {}) if defaults else OURS_AND_THEIRS[name]
    assert torch_options(ours) == theirs
    start, grads = rng.standard_normal((4, 7)), gradients(rng, scale)
    rows = check_optimizer(
        lambda: OPTIMIZERS[name](**ours), lambda params: make_optimizer(name, params, **theirs), start, grads, setting
    )
    assert len(rows) == 20
    assert [str(row) for row in rows if not row.ok] == []


def wrong_eps(eps: float) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    return lambda params: torch.optim.Adam(params, lr=0.001, eps=eps)


@pytest.mark.parametrize("eps", [1e-7, 1e-8, 1e-7 / np.sqrt(1 - 0.999)])
def test_no_constant_eps_makes_torchs_adam_the_books(eps: float, rng: np.random.Generator) -> None:
    """The reason for BookAdam; this also shows that test_twenty_steps can fail for so small a difference."""
    rows = check_optimizer(nr.Adam, wrong_eps(eps), rng.standard_normal((4, 7)), gradients(rng, 1), Setting())
    assert not all(row.ok for row in rows)


def test_float32_stays_float32(rng: np.random.Generator) -> None:
    for rule in OPTIMIZERS.values():
        params, optimizer = {"p": rng.standard_normal(3).astype(np.float32)}, rule()
        optimizer.update(params, {"p": np.ones(3, np.float32)})
        states = [v for k, v in vars(optimizer).items() if isinstance(v, dict)]
        assert {state["p"].dtype for state in states} <= {np.dtype(np.float32)}


def turned(value: torch.Tensor) -> torch.Tensor:
    """The same values with the last two axes swapped in memory."""
    return value.mT.contiguous().mT


@pytest.mark.parametrize(
    ("of_param", "of_grad", "of_moments"),
    [
        (turned, torch.clone, torch.clone),
        (torch.clone, turned, torch.clone),
        (torch.clone, torch.clone, turned),
        (turned, turned, turned),
        (torch.clone, lambda value: value[..., :1].expand(value.shape), torch.clone),
        (lambda value: torch.cat((value, value), dim=-1)[..., : value.shape[-1]], torch.clone, torch.clone),
        (lambda value: value.contiguous(memory_format=torch.channels_last), torch.clone, turned),
        *[(lambda value: value.contiguous(memory_format=torch.channels_last),) * 3],
    ],
)
def test_adam_does_not_care_how_tensors_lie_in_memory(
    of_param: Any, of_grad: Any, of_moments: Any, rng: np.random.Generator
) -> None:
    start, grads = (torch.from_numpy(rng.standard_normal((*n, 4, 3, 5, 2))) for n in ((), (4,)))
    reached = []
    for lies in ((torch.Tensor.contiguous,) * 3, (of_param, of_grad, of_moments)):
        param = lies[0](start.clone()).requires_grad_()
        optimizer = BookAdam([param])
        for name in MOMENTS:
            optimizer.state[param][name] = lies[2](torch.zeros_like(start))
        for grad in grads:
            param.grad = lies[1](of_grad(grad))
            optimizer.step()
        reached.append(param.detach())
    torch.testing.assert_close(*reached, rtol=0, atol=1e-15)


def test_adam_keeps_its_state_through_a_state_dict(rng: np.random.Generator) -> None:
    grads = torch.from_numpy(rng.standard_normal((6, 5)))
    whole, first, second = (torch.zeros(5, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def run(param: torch.Tensor, optimizer: BookAdam, steps: torch.Tensor) -> BookAdam:
        for grad in steps:
            param.grad = grad
            optimizer.step()
        return optimizer

    run(whole, BookAdam([whole]), grads)
    saved = run(first, BookAdam([first]), grads[:3]).state_dict()
    del saved["param_groups"][0]["rate"]  # as of before there was one
    second.data = first.data.clone()
    resumed = BookAdam([second])
    resumed.load_state_dict(saved)
    run(second, resumed, grads[3:])
    assert torch.equal(whole, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_adams_moments_become_0_before_they_are_subnormal(dtype: torch.dtype) -> None:
    """Those of a parameter without a gradient in that step become 0, too; larger moments stay."""
    silent, absent = (torch.nn.Parameter(torch.zeros(4, dtype=dtype)) for _ in range(2))
    optimizer = BookAdam([silent, absent], betas=(0.9, 0.9))
    moments = torch.tensor([[-1.5, -1, 1, 1.5], [-1.5, -0.5, 0.5, 1.5]], dtype=dtype) * NEGLIGIBLE[dtype]
    state = {i: {"exp_avg": moments[i].clone(), "exp_avg_sq": moments[i].abs()} for i in range(2)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    silent.grad = torch.zeros_like(silent)
    for _ in range(FLUSH_INTERVAL - 1):
        optimizer.step()
        for moment in optimizer.state[silent].values():
            assert (moment.abs().double() * 1e-5 > torch.finfo(dtype).tiny).all()
    optimizer.step()
    assert [moment.any().item() for moment in optimizer.state[silent].values()] == [False, False]
    kept = moments[1] * (moments[1].abs() > NEGLIGIBLE[dtype])
    assert torch.equal(optimizer.state[absent]["exp_avg"], kept)
    assert torch.equal(optimizer.state[absent]["exp_avg_sq"], kept.abs())


def test_adam_forgets_nothing_of_float16() -> None:
    """float16's smallest normal number, 6e-5, is too large to be dropped."""
    weights = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))
    optimizer = BookAdam([weights])
    for _ in range(2 * FLUSH_INTERVAL):
        weights.grad = torch.full_like(weights, 1e-2)
        optimizer.step()
    expected = 1 - 0.9 ** (2 * FLUSH_INTERVAL)
    assert optimizer.state[weights]["exp_avg"].item() / 1e-2 == pytest.approx(expected, rel=1e-2)


def test_adam_makes_what_a_loaded_state_lacks() -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    optimizer = BookAdam([weights])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {"exp_avg": torch.ones(2)}}})
    weights.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[weights]["exp_avg_sq"].shape == (2,)


class Replayed(BookAdam):
    """BookAdam as in a CUDA graph: the caller writes each step's rate where the step reads it, and counts steps."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            place = {"dtype": group["params"][0].dtype, "device": group["params"][0].device}
            group["rate"] = torch.tensor(self.next_rates(group, 1)[0], **place)
            super().step()
            group["step"] += 1


def test_adam_as_a_cuda_graph_takes_it(setting: Setting, rng: np.random.Generator) -> None:
    """The same step works on the CPU, too, where no graph needs it."""
    rows = check_optimizer(nr.Adam, Replayed, rng.standard_normal((4, 7)), gradients(rng, 20), setting)
    assert [str(row) for row in rows if not row.ok] == []


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 1 - 1e-9)], ids=["the book's", "one that 1e9 steps do not end"])
def test_rates_from_a_table_are_those_of_steps_that_count(betas: Any, device: str, rng: np.random.Generator) -> None:
    """Equal up to rounding, whether tensors are updated by one kernel or in parts."""
    start = [
        torch.tensor(rng.standard_normal(shape), dtype=torch.float32, device=device) for shape in ((3, 5), (40000,))
    ]
    ends = []
    for kind in (BookAdam, Replayed):
        params = [value.clone().requires_grad_() for value in start]
        optimizer = kind(params, betas=betas)
        for _ in range(5):
            for param in params:
                param.grad = param.detach().cos()
            optimizer.step()
        ends.append(params)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2 * 5 * 5 * 2**-24)


def test_rates_are_the_books(rng: np.random.Generator) -> None:
    optimizer = BookAdam([torch.zeros(1, requires_grad=True)], lr=0.1)
    optimizer.param_groups[0]["step"] += 3
    expected = [0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) for t in (4, 5)]
    assert optimizer.next_rates(optimizer.param_groups[0], 2) == expected
    assert optimizer.param_groups[0]["step"] == 3


@pytest.mark.parametrize("sizes", [[(30, 1, 5, 5), (30,), (100, 4320), (100,), (10, 100), (10,)], [(7,)], [(2,)] * 50])
def test_pieces_are_all_of_the_memory_in_one_launch(sizes: list[tuple[int, ...]]) -> None:
    tensors = [torch.rand(size) for size in sizes]
    pieces = in_pieces(tensors)
    assert len(pieces) <= max(MAX_PIECES, len(tensors))
    assert torch.equal(torch.cat(pieces), torch.cat([tensor.flatten() for tensor in tensors]))
    pieces[-1].fill_(2)
    assert (tensors[-1] == 2).any()


def test_rules_have_the_references_names() -> None:
    assert RULES.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("adamw", {}, ValueError, "adamw"),
        ("sgd", {"momentun": 0.9}, TypeError, "momentun"),
        ("adam", {"lr": -1.0}, ValueError, "-1.0"),
        ("adam", {"betas": (0.9, 1.0)}, ValueError, "betas"),
        ("adam", {"betas": (0.9,)}, ValueError, "two numbers"),
        ("sgd", {"momentum": 0.9}, TypeError, "momentum=0.9"),
        ("sgd", {"lr": float("nan")}, ValueError, "nan"),
        ("nesterov", {"momentum": 1.5}, ValueError, "1.5"),
        (None, {}, ValueError, "None"),
    ],
)
def test_bad_options_are_refused(name: Any, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_optimizer(name, [torch.zeros(1, requires_grad=True)], **options)


def test_adams_other_beta_is_the_books() -> None:
    assert torch_options({"beta2": 0.99}) == {"betas": (0.9, 0.99)}


@pytest.mark.parametrize(
    ("grads", "error", "says"),
    [
        ({}, ValueError, "same names"),
        ({"p": np.ones(3), "q": np.ones(1)}, ValueError, "q"),
        ({"p": np.ones(1)}, ValueError, r"\(3,\).*\(1,\)"),
    ],
)
def test_the_reference_refuses_gradients_that_do_not_fit(grads: Any, error: type[Exception], says: str) -> None:
    params = {"p": np.zeros(3)}
    with pytest.raises(error, match=says):
        nr.SGD().update(params, grads)
    assert not params["p"].any()


def test_the_reference_refuses_integers() -> None:
    with pytest.raises(TypeError, match="int64"):
        nr.SGD().update({"p": np.zeros(3, int)}, {"p": np.ones(3)})
