"""What is seen of one run of a port: calls and their order, values, lines, gradients, and what a run leaves behind."""

from __future__ import annotations

import inspect
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchport.parity.calls import UNSEEN, Call, Record
from torchport.parity.parameters import _layouts
from torchport.parity.recording import record

Function = Callable[[Any, Tensor], Any]
X = np.arange(-6.0, 6.0).reshape(3, 4)


class Port(nn.Module):
    """Computes function(self, x); with a weight, a buffer and two layers to use."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.register_buffer("scale", torch.full((4,), 2.0, dtype=torch.float64))
        self.body = nn.Sequential(nn.Tanh(), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def recorded(function: Function, sizes: tuple[int, ...] = (12,), device: str = "cpu") -> Record:
    port = Port(function).to(device)
    return record(port, torch.tensor(X, device=device), frozenset(sizes))


def last(found: Record) -> Call:
    """The call that made what was returned."""
    (call,) = found.returned
    return call


# --- Calls, and where the data goes


def through_a_view(port: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.view(-1)[:6].zero_()
    return y


def into_a_slice(port: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    return y


def as_out(port: Any, x: Tensor) -> Tensor:
    y = torch.empty(3, 4, dtype=x.dtype, device=x.device)
    torch.mul(x, 3, out=y)
    return y


def by_numpy(port: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(np.maximum((x * 2).cpu().numpy(), 0)).to(x.device) + 1


def per_sample(port: Any, x: Tensor) -> Tensor:
    found: Tensor = torch.vmap(lambda row: row * 2)(x)
    return found


# What is computed, the functions on the data's way to the output, and the output.
WAYS: dict[str, tuple[Function, str, Any]] = {
    "nothing": (lambda port, x: x, "", X),
    "modules": (lambda port, x: port.body(x), "tanh relu", np.maximum(np.tanh(X), 0)),
    "functions": (lambda port, x: F.relu(x).neg(), "relu neg", -np.maximum(X, 0)),
    "in place": (lambda port, x: (x * 2).relu_().add_(1), "mul relu_ add_", 2 * np.maximum(X, 0) + 1),
    "a parameter": (lambda port, x: x * port.weight.exp(), "mul", X * np.e),
    "a buffer": (lambda port, x: port.scale * x, "mul", 2 * X),
    "a mask": (lambda port, x: x * (x > 0), "gt mul", np.maximum(X, 0)),
    "through a view": (
        through_a_view,
        "mul view __getitem__ zero_ zero_",
        2 * np.where(np.arange(12) < 6, 0, X.flat).reshape(X.shape),
    ),
    "into a slice": (into_a_slice, "__getitem__ __setitem__", np.pad(X[:, :-1], ((0, 0), (1, 0)))),
    "out=": (as_out, "mul", 3 * X),
    "complex": (lambda port, x: torch.fft.ifft(torch.fft.fft(x)).real, "fft_fft fft_ifft real", X),
    "NumPy": (by_numpy, f"mul {UNSEEN} add", np.maximum(2 * X, 0) + 1),
    "vmap": (per_sample, UNSEEN, 2 * X),
}


def way(found: Record) -> list[str]:
    """The functions by which the data reaches the output, in order, but for moves between devices."""
    seen, todo = set[int](), [last(found).number]
    while todo:
        number = todo.pop()
        if number not in seen and found.calls[number].of_data:
            seen.add(number)
            todo += found.calls[number].parents
    return [name for number in sorted(seen - {0}) if (name := found.calls[number].name) not in ("cpu", "to")]


@pytest.mark.parametrize("name", WAYS)
def test_the_datas_way_is_seen(name: str, device: str) -> None:
    function, names, value = WAYS[name]
    found = recorded(function, device=device)
    assert way(found) == names.split()
    np.testing.assert_allclose(np.asarray(last(found).array), value, atol=1e-15)


def test_a_value_is_that_of_its_call_whatever_happens_to_the_tensor_later() -> None:
    found = recorded(lambda port, x: (x * 2).relu_().add_(1))
    values = [call.value for call in found.calls if call.of_data]
    for value, expected in zip(values, (X, 2 * X, 2 * np.maximum(X, 0), 2 * np.maximum(X, 0) + 1), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_only_what_can_end_a_layer_is_kept() -> None:
    found = recorded(lambda port, x: (x.sum(1) * 2)[:, None] * x, sizes=(12,))
    assert [call.value is not None for call in found.calls if call.of_data] == [True, False, False, False, True]


def test_parameters_and_buffers_are_called_by_name_and_stay_apart_from_the_data() -> None:
    found = recorded(lambda port, x: x * port.weight + port.scale + torch.zeros_like(x))
    names = {call.label: call for call in found.calls if call.label}
    assert names.keys() == {"weight", "scale"}
    assert [call.of_data for call in names.values()] == [False, False]
    assert (names["weight"].is_leaf, names["scale"].is_leaf) == (True, False)
    assert not next(call for call in found.calls if call.name == "zeros_like").of_data


@pytest.mark.parametrize(
    ("function", "returned"),
    [
        (lambda port, x: (x * 1, [x * 2, "text"]), ["mul", "mul"]),
        (lambda port, x: {"a": x.exp(), "b": None, "c": x}, ["exp", ""]),
        (lambda port, x: x.max(dim=1), ["max", "max"]),
        (lambda port, x: None, []),
    ],
    ids=["tuple", "dict", "named tuple", "none"],
)
def test_all_tensors_that_are_returned_are_found(function: Function, returned: list[str]) -> None:
    assert [call.name for call in recorded(function).returned] == returned


# --- Lines


class OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


def helper(x: Tensor) -> Tensor:
    return x.relu()  # here


def of_several_lines(port: Any, x: Tensor) -> Tensor:
    y = x * 2
    return (
        y.exp()  # here
    )


def of_a_module(port: Any, x: Tensor) -> Any:
    return port.body[1](x)  # here


def of_a_sequential(port: Any, x: Tensor) -> Any:
    return port.body(x)  # here: body.1 (ReLU)


def of_a_function(port: Any, x: Tensor) -> Any:
    return OwnRelu.apply(x)  # here


def of_a_slice(port: Any, x: Tensor) -> Tensor:
    y = x * 2
    y[0] = 1  # here
    return y


def of_a_helper(port: Any, x: Tensor) -> Tensor:
    return helper(x)


def of_an_array(port: Any, x: Tensor) -> Tensor:
    y = torch.from_numpy((x * 2).cpu().numpy()).to(x.device)  # before
    return y.relu()  # here


def marked(function: Callable[..., Any], mark: str = "# here") -> str:
    """The line of a function that ends in the mark, and what is said behind it: "file.py:12, body.1 (ReLU)"."""
    lines, first = inspect.getsourcelines(function)
    number, line = next((number, line) for number, line in enumerate(lines, first) if mark in line)
    _, _, rest = line.strip().partition(f"{mark}: ")
    return f"{Path(__file__).name}:{number}" + (f", {rest}" if rest else "")


LINES = (of_several_lines, of_a_module, of_a_sequential, of_a_function, of_a_slice, of_an_array)


@pytest.mark.parametrize("function", [*LINES, of_a_helper], ids=lambda function: function.__name__)
def test_a_call_has_its_authors_line(function: Function) -> None:
    assert last(recorded(function)).where == marked(helper if function is of_a_helper else function)


def test_a_call_by_torch_alone_has_its_modules_path() -> None:
    port = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh()))
    found = record(port, torch.tensor(X), frozenset([12]))
    assert [(call.where, call.module) for call in found.calls[1:]] == [("0 (ReLU)", "0"), ("1.0 (Tanh)", "1.0")]


def test_an_error_of_the_port_is_kept_with_its_line() -> None:
    def raises(port: Any, x: Tensor) -> Tensor:
        y = x.relu()
        return y @ y  # here

    found = recorded(raises)
    assert isinstance(found.error, RuntimeError)
    assert (found.raised, found.returned, found.calls[-1].name) == (marked(raises), [], "relu")


# --- Random numbers


def of_torch(port: Any, x: Tensor) -> Tensor:
    return x + torch.rand(4).to(x)  # here


def of_dropout(port: Any, x: Tensor) -> Tensor:
    return F.dropout(x.cpu(), 0.5)  # here


def of_numpy(port: Any, x: Tensor) -> Tensor:
    return x * np.random.rand()  # here


def of_python(port: Any, x: Tensor) -> Tensor:
    return x * random.random()  # here


def of_its_own_stream(port: Any, x: Tensor) -> Tensor:
    return x * np.random.default_rng(0).random()


@pytest.mark.parametrize(
    "function", [of_torch, of_dropout, of_numpy, of_python], ids=lambda function: function.__name__
)
def test_what_draws_is_seen_at_its_line(function: Function, device: str) -> None:
    assert recorded(function, device=device).drew == marked(function)


def test_a_stream_of_ones_own_moves_nobody_elses() -> None:
    assert recorded(of_its_own_stream).drew is None


# --- Gradients


def doubled_on_the_way(port: Any, x: Tensor) -> Any:
    y = x * port.weight
    y.register_hook(lambda grad: 2 * grad)
    return y.relu()


def changed_later(port: Any, x: Tensor) -> Any:
    y = x * port.weight
    return (y + 0).mul_(3).relu_()


# A function, the call whose gradient is looked at, and that gradient where the output's is 1 everywhere.
GRADIENTS: dict[str, tuple[Function, str, Any]] = {
    "an operation": (lambda port, x: (x * port.weight).relu(), "mul", X > 0),
    "the output": (lambda port, x: (x * port.weight).relu(), "relu", np.ones(X.shape)),
    "after hooks": (doubled_on_the_way, "mul", 2.0 * (X > 0)),
    "before in-place calls": (changed_later, "mul", 3.0 * (X > 0)),
    "between in-place calls": (changed_later, "mul_", X > 0),
    "a Function of one's own": (
        lambda port, x: OwnRelu.apply(x * port.weight).neg(),
        "clamp",
        -np.ones(X.shape),
    ),
    "a parameter": (lambda port, x: (x * port.weight).relu(), "", (X * (X > 0)).sum(0)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_that_arrives_at_a_call_is_kept(name: str, device: str) -> None:
    function, at, expected = GRADIENTS[name]
    found = recorded(function, device=device)
    call = next(call for call in found.calls if call.name == at and call.requires_grad)
    call.watch()
    last(found).tensor.sum().backward()
    np.testing.assert_array_equal(call.grad, expected)


def test_no_gradient_is_said() -> None:
    found = recorded(lambda port, x: (x * port.weight).detach().relu())
    assert [call.requires_grad for call in found.calls if call.of_data] == [False, True, False, False]


@pytest.mark.parametrize("shape", [(12, 2), (12, 1), (2, 12)])
def test_every_layout_of_a_weight_is_looked_at_once(shape: tuple[int, int]) -> None:
    """Of an Affine behind an image of 3 x 2 x 2: what lies the same in memory is the same."""
    value = np.arange(24.0)[: math.prod(shape)].reshape(shape)
    ways = [shape, *([(3, 2, 2, shape[1])] if shape[0] == 12 else [])]
    every = [value.reshape(way).transpose(order) for way in ways for order in itertools.permutations(range(len(way)))]
    found = [value.reshape(way).transpose(order).tobytes() for way, order in _layouts(value, (3, 2, 2))]
    assert len(found) == len(set(found))
    assert set(found) == {each.tobytes() for each in every}
