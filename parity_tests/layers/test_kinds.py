"""What holds for every kind of layer that is registered, on its own sample."""

from __future__ import annotations

import copy
import doctest
from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from layers.judging import ratios
from numpy_ref.checks import Array
from numpy_ref.layers import forget
from torchport.layers import EXACT, KINDS, OUTPUTS, Setting, kind_of, kinds, predicted
from torchport.networks.ports import load_layer

BY_NAME = {kind.__name__: kind for kind in KINDS}
BOOKS = {name: kind for name, kind in BY_NAME.items() if kind not in OUTPUTS.values()}  # which check x


@pytest.fixture(params=BY_NAME)
def sample(request: pytest.FixtureRequest, rng: np.random.Generator) -> tuple[Any, Array]:
    """A layer and an input of it."""
    return KINDS[BY_NAME[request.param]].sample(rng)


def test_every_layer_of_numpy_ref_is_registered() -> None:
    several = {nr.MulLayer, nr.AddLayer, nr.SoftmaxWithLoss}  # of two inputs, or of a target
    found = {value for value in vars(nr).values() if isinstance(value, type) and hasattr(value, "backward")}
    assert KINDS.keys() == (found - several) | set(OUTPUTS.values())


def test_no_argument_is_changed_or_needs_to_be_writable(sample: tuple[Any, Array]) -> None:
    layer, x = sample
    x.flags.writeable = False
    dout = np.ones_like(layer.forward(x))
    dout.flags.writeable = False
    layer.backward(dout)


def test_float32_stays_float32(sample: tuple[Any, Array]) -> None:
    layer, x = sample
    for name in ("W", "b", "gamma", "beta"):
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name).astype(np.float32))
    y = layer.forward(x.astype(np.float32))
    dx = layer.backward(y)
    grads = [getattr(layer, grad) for grad in ("dW", "db", "dgamma", "dbeta") if hasattr(layer, grad)]
    assert {array.dtype for array in (y, dx, *grads)} == {np.dtype(np.float32)}


class OneDraw(np.random.RandomState):
    """The same numbers at every call."""

    def rand(self, *shape: int) -> Array:  # type: ignore[override]
        return np.random.RandomState(2).rand(*shape)


def test_backward_is_the_derivative_of_forward(sample: tuple[Any, Array], rng: np.random.Generator) -> None:
    """Central differences of a random projection of the output, in x and in every parameter."""
    layer, x = sample
    if isinstance(layer, nr.Dropout):
        layer.rng = OneDraw()
    dout = rng.standard_normal(layer.forward(x).shape)
    dx = layer.backward(dout)
    found: dict[str, tuple[Any, Any]] = {"x": (x, dx)}
    found |= {name: (getattr(layer, name), getattr(layer, f"d{name}")) for name in ("W", "b") if hasattr(layer, name)}
    if isinstance(layer, nr.BatchNormalization):
        found |= {"gamma": (layer.gamma, layer.dgamma), "beta": (layer.beta, layer.dbeta)}
    for name, (value, grad) in found.items():
        expected = nr.numerical_gradient(lambda _: float(np.sum(layer.forward(x) * dout)), value)
        # Truncation is of order h^2 = 1e-8 of the third derivative, which batch normalisation makes large.
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("sample", BOOKS, indirect=True)
def test_backward_needs_what_forward_keeps(sample: tuple[Any, Array]) -> None:
    layer, x = sample
    with pytest.raises(RuntimeError, match="needs forward first"):
        layer.backward(x)
    layer.backward(layer.forward(x))
    forget(layer)
    with pytest.raises(RuntimeError, match="needs forward first"):
        layer.backward(x)
    assert not [name for name, value in vars(layer).items() if np.shape(value) == x.shape]


@pytest.mark.parametrize("sample", BOOKS, indirect=True)
def test_forward_refuses_what_is_no_batch(sample: tuple[Any, Array]) -> None:
    layer, x = sample
    with pytest.raises(ValueError, match=r"\(0, "):
        layer.forward(x[:0])
    with pytest.raises(TypeError, match="list"):
        layer.forward(x.tolist())
    with pytest.raises(TypeError, match="complex128"):
        layer.forward(x.astype(complex))


def test_a_nan_is_computed_with(sample: tuple[Any, Array]) -> None:
    """As the book does; who judges names it."""
    layer, x = sample
    x.flat[0] = np.nan
    assert layer.forward(x).shape == copy.copy(layer).forward(np.zeros_like(x)).shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_its_module_is_within_its_limits(
    sample: tuple[Any, Array], dtype: torch.dtype, rng: np.random.Generator
) -> None:
    layer, x = sample
    dout = rng.standard_normal(copy.copy(layer).forward(x).shape)
    module = kind_of(layer).module(layer, "conv2d").to(dtype)
    load_layer(module, layer)
    found = ratios(layer, module, x, dout, Setting(dtype))
    assert max(found.values()) <= 1, found


def test_its_limits_are_not_loose(sample: tuple[Any, Array], rng: np.random.Generator) -> None:
    """In float64 no limit is above 1e-12 of the largest entry; what is moved or selected has none at all."""
    layer, x = sample
    rule, arithmetic = kind_of(layer).rule, Setting().arithmetic
    y = copy.copy(layer).forward(x)
    limit = rule.forward(layer, x, arithmetic)
    dout = rng.standard_normal(y.shape)
    limits = rule.backward(layer, x, dout, arithmetic)
    assert np.max(limit) <= (0 if rule.name == EXACT else 1e-12 * np.abs(y).max())
    ran = copy.copy(layer)
    ran.forward(x)
    assert np.max(limits.grad_input) <= 1e-12 * np.abs(ran.backward(dout)).max()


def test_what_it_predicts_is_what_forward_predicts(sample: tuple[Any, Array]) -> None:
    layer, x = sample
    expected = nr.Network({"Layer": copy.copy(layer)}).predict(x)
    np.testing.assert_array_equal(predicted(layer, x), expected)


def test_a_picture_says_something_of_it(sample: tuple[Any, Array]) -> None:
    layer, _ = sample
    assert kind_of(layer).about(layer)


def test_the_example_of_a_kind_of_ones_own_does_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", dict(KINDS))
    found = doctest.testmod(kinds)
    assert found.attempted > 8
    assert found.failed == 0


class Slotted:
    """A layer without a __dict__, whose number is set through a property."""

    __slots__ = ("kept",)

    @property
    def number(self) -> int:
        return self.kept

    @number.setter
    def number(self, value: int) -> None:
        self.kept = value


def test_a_copy_has_other_attributes_however_they_are_kept() -> None:
    layer = Slotted()
    layer.number = 1
    assert (kinds.other(layer, number=2).number, layer.number) == (2, 1)
