"""Limits of several layers in one piece: right ports are within, wrong ones are not."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from parity.cases import random_case
from torchport.layers import Setting, kind_of
from torchport.layers.modules import Dropout
from torchport.layers.terms import MODULE_ATTRIBUTES, to_torch_layout
from torchport.networks import from_reference
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.parity.probes import Probed, check_predictions, probe

SETTING = Setting(torch.float32)


class OneDraw(np.random.RandomState):
    """The same numbers at every call."""

    def rand(self, *shape: int) -> Array:  # type: ignore[override]
        return np.random.RandomState(3).rand(*shape)


def case(seed: int) -> tuple[nr.Network, Array, Array]:
    """A network that float32 holds, an input and an upstream gradient."""
    network, x, _ = random_case(seed)
    network.set_params({name: SETTING.round(value) for name, value in network.params.items()})
    for layer in network.layers.values():
        if isinstance(layer, nr.Dropout):
            layer.rng = OneDraw()
    dout = np.random.default_rng([seed, 1]).standard_normal(copy.deepcopy(network).predict(x).shape)
    return network, SETTING.round(x), SETTING.round(dout)


def computed(network: nr.Network, x: Array, dout: Array, factor: float = 1) -> list[Array]:
    """Output, input's and parameters' gradients of the torch port, the output times factor."""
    port = from_reference(network).float()
    for module in port.modules():
        if isinstance(module, Dropout):
            module.draw = lambda shape, device: torch.tensor(OneDraw().rand(*shape), device=device)
    leaf = SETTING.tensor(x).requires_grad_()
    with SETTING.judging():
        y = factor * port(leaf)
        grads = torch.autograd.grad(y, [leaf, *port.parameters()], SETTING.tensor(dout))
    return [each.detach().double().numpy() for each in (y, *grads)]


def judged(probed: Probed, found: list[Array]) -> Iterator[tuple[Array, Array, Array]]:
    """error, limit and what was expected, in the order of computed."""
    for actual, (key, value) in zip(found, probed.values.items(), strict=True):
        of_parameter = key[1] in MODULE_ATTRIBUTES
        expected, limit = (to_torch_layout(each) if of_parameter else each for each in (value, probed.limits[key]))
        assert actual.shape == expected.shape == limit.shape
        yield np.abs(actual - expected), limit, expected


def ratio(error: Array, limit: Array) -> float:
    return float(np.max(np.divide(error, limit, out=np.where(error > 0, np.inf, 0), where=limit > 0)))


def size(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def test_no_right_port_is_above_its_limits(request: pytest.FixtureRequest) -> None:
    """In float32; nor are the limits idle."""
    found, looseness = [], []
    for seed in range(request.config.getoption("--cases") or 24):
        network, x, dout = case(seed)
        layers = list(network.layers.values())
        probed = probe(layers, x, dout, SETTING.arithmetic)
        for error, limit, expected in judged(probed, computed(network, x, dout)):
            found.append(ratio(error, limit))
            looseness += [size(limit) / size(expected)] if size(expected) > 1e-9 else []
    assert 0.05 < max(found) <= 1
    assert np.median(looseness) < 1e-4


@pytest.mark.parametrize("seed", [3, 14, 15, 92, 65])
def test_an_error_of_a_ten_thousandth_is_seen(seed: int) -> None:
    network, x, dout = case(seed)
    probed = probe(list(network.layers.values()), x, dout, SETTING.arithmetic)
    for error, limit, expected in judged(probed, computed(network, x, dout, factor=1.0001)):
        assert ratio(error, limit) > 1 or size(expected) < 1e-9


def test_of_one_layer_they_are_the_layers_own() -> None:
    rng, a = np.random.default_rng(0), SETTING.arithmetic
    for layer in (nr.Affine(rng.standard_normal((10, 5)), rng.standard_normal(5)), nr.Sigmoid()):
        x, dout = rng.standard_normal((4, 10)), rng.standard_normal((4, 5 if isinstance(layer, nr.Affine) else 10))
        probed, rule = probe([layer], x, dout, a), kind_of(layer).rule
        own = {"output": rule.forward(layer, x, a), **rule.backward(layer, x, dout, a).each}
        assert [*probed.limits] == [(0, name) for name in own]
        for name, limit in own.items():
            np.testing.assert_array_equal(probed.limits[0, name], limit)


def test_where_a_layer_predicts_otherwise_its_own_limit_is_that_of_the_prediction() -> None:
    dropout, x, a = nr.Dropout(0.3), np.random.default_rng(0).standard_normal((4, 10)), SETTING.arithmetic
    limit = kind_of(dropout).prediction
    assert limit is not None
    np.testing.assert_array_equal(probe([dropout], x, None, a, prediction=True).output[1], limit(dropout, x, a))


def test_layers_that_only_move_data_have_none() -> None:
    x, dout = np.random.default_rng(0).standard_normal((2, 3, 4, 4)), np.ones((2, 12))
    probed = probe([nr.Relu(), nr.Pooling(2, 2), nr.Relu(), nr.Flatten()], x, dout, SETTING.arithmetic)
    assert [limit.any() for limit in probed.limits.values()] == [False, False]


def test_they_are_what_is_derived() -> None:
    """x w v: the first product, off by l, is passed on with v; the second is off by itself."""
    w, v, x, a = np.array([[3.0]]), np.array([[-5.0]]), np.array([[2.0]]), SETTING.arithmetic
    first, second = nr.Affine(w, 0.0), nr.Affine(v, 0.0)
    probed = probe([first, second], x, np.ones((1, 1)), a)
    own = [kind_of(first).rule.forward(layer, value, a).item() for layer, value in ((first, x), (second, x * w))]
    value, limit = probed.output
    assert limit.item() == pytest.approx(8 * 5 * own[0] + own[1])
    assert value.item() == -30


def test_a_branch_that_rounding_may_take_is_allowed() -> None:
    """A unit that is 0 but for rounding: the gradient behind its relu may be there or not."""
    layers: list[Layer] = [nr.Affine(np.array([[1.0], [-1.0]]), 0.0), nr.Relu()]
    found = probe(layers, np.full((1, 2), 7.0), np.ones((1, 1)), SETTING.arithmetic)
    assert not found.values[0, "grad_input"].any()
    assert (found.limits[0, "grad_input"] >= 1).all()


def test_nothing_underflows() -> None:
    layers: list[Layer] = [nr.Affine(np.full((2, 2), 1e-200), 0.0), nr.Relu()]
    assert probe(layers, np.ones((1, 2)), None, Setting().arithmetic).output[1].min() > 1e-216


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_predictions_of_another_program_are_judged(dtype: torch.dtype) -> None:
    network, x, _ = case(8)
    port = from_reference(network).to(dtype).eval()
    found = port(torch.tensor(x, dtype=dtype)).detach().numpy()
    training = port.train()(torch.tensor(x, dtype=dtype)).detach().numpy()
    assert any(kind_of(layer).prediction for layer in network.layers.values())
    assert 0 < check_predictions(network, x, found, dtype).ratio <= 1
    for wrong in (found * np.float32(1 + 2e-4), training):
        assert check_predictions(network, x, wrong, dtype).ratio > 1


@pytest.mark.parametrize("factor", [0, 1 - 1e-4])
def test_predictions_of_a_deep_network_that_are_not_its_own_are_told(factor: float) -> None:
    """Nothing is left of a limit that is carried through ten layers: this one is measured with errors put in."""
    reference = nr.DeepConvNet(rng=np.random.RandomState(0))
    reference.set_params(seeded_params(0, reference.params))
    x, _ = seeded_batch(0, 4)
    found = SETTING.round(reference.predict(SETTING.round(x)))
    assert check_predictions(reference, x, found, torch.float32).ratio < 0.1
    assert check_predictions(reference, x, factor * found, torch.float32).ratio > 1
