"""The torch twin of any reference network: what it computes, what it holds, and what has no twin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from parity.cases import random_case
from torch import nn

import numpy_ref as nr
import torchport
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from numpy_ref.params import same_bits
from torchport.choices import Convolution
from torchport.layers import KINDS, LayerKind, register
from torchport.layers.selections import SAME
from torchport.networks import CONVOLUTIONS, from_reference
from torchport.networks.names import state_dict_keys, state_dict_of
from torchport.networks.ports import load_layer


def normalised(dtype: Any = np.float64) -> nr.Network:
    """Affine, batch normalisation that has seen batches, dropout, affine: (N, 4) to (N, 3)."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> Array:
        return rng.random(shape).astype(dtype)

    return nr.Network(
        {
            "Affine1": nr.Affine(array(4, 5), array(5)),
            "Norm": nr.BatchNormalization(array(5), array(5), 0.7, array(5), array(5)),
            "Dropout": nr.Dropout(0.3, np.random.RandomState(0)),
            "Affine2": nr.Affine(array(5, 3), array(3)),
        }
    )


def arrays(state_dict: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {key: value.cpu().numpy() for key, value in state_dict.items()}


# --- Any network


@pytest.mark.parametrize("conv", CONVOLUTIONS)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_random_networks_twin_has_its_state(conv: Convolution, device: str, seed: int) -> None:
    """That they agree is counted in parity/test_clean."""
    reference, _, _ = random_case(seed)
    state, expected = from_reference(reference, conv, device).state_dict(), state_dict_of(reference)
    assert same_bits(arrays(state), arrays(expected))


def test_simple_convnets_twin_is_torchports() -> None:
    reference = nr.SimpleConvNet(rng=np.random.RandomState(0))
    twin, own = from_reference(reference), torchport.SimpleConvNet(dtype=torch.float64)
    layers = {"1": "conv1", "2": "affine1", "3": "affine2"}
    kinds = {"W": "weight", "b": "bias"}
    assert state_dict_keys(reference) == {f"{k}{n}": f"{layers[n]}.{kinds[k]}" for n in layers for k in kinds}
    assert list(twin.state_dict()) == list(own.state_dict())
    assert [name for name, _ in twin.named_children()] == [name for name, _ in own.named_children()]
    own.load_state_dict(twin.state_dict(), strict=True)
    assert same_bits(torchport.to_params(own.state_dict()), reference.params)


@pytest.mark.parametrize(("conv", "kind"), CONVOLUTIONS.items())
def test_conv_names_the_convolution(conv: Convolution, kind: type[nn.Module]) -> None:
    assert type(from_reference(nr.SimpleConvNet(rng=np.random.RandomState(0)), conv).get_submodule("conv1")) is kind
    with pytest.raises(ValueError, match="conv must be one of conv2d, unfold, got 'im2col'"):
        from_reference(normalised(), conv="im2col")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_weights_dtype_is_kept(dtype: str) -> None:
    network = normalised(dtype)
    found = {value.dtype for value in from_reference(network).state_dict().values()}
    assert found == {torch.from_numpy(network.params["W1"]).dtype}


def test_mixed_dtypes_are_refused() -> None:
    network = nr.Network({"Affine1": nr.Affine(np.ones((2, 2)), np.ones(2, np.float32))})
    for function in (from_reference, state_dict_of):
        with pytest.raises(TypeError, match=r"must share one dtype, got \{'W1': 'float64', 'b1': 'float32'\}"):
            function(network)


def test_running_statistics_come_along() -> None:
    network, x = normalised(), np.random.default_rng(1).random((6, 4))
    twin = from_reference(network)
    norm: Any = network.layers["Norm"]
    np.testing.assert_array_equal(twin.get_buffer("norm.running_mean").numpy(), norm.running_mean, strict=True)
    twin(torch.from_numpy(x))  # in training mode, which moves them
    normalised_too = copy.deepcopy(network)
    normalised_too.predict(x, train_flg=True)
    moved: Any = normalised_too.layers["Norm"]
    np.testing.assert_allclose(twin.get_buffer("norm.running_mean").numpy(), moved.running_mean, rtol=1e-12)
    norm.running_mean = norm.running_var = None  # as before the first batch
    assert not from_reference(network).get_buffer("norm.running_var").any()


def test_nothing_is_shared_and_nothing_drawn() -> None:
    network = normalised()
    kept = copy.deepcopy(network.params)
    before = torch.get_rng_state()
    twin = from_reference(network)
    assert torch.equal(torch.get_rng_state(), before)
    for value in [*twin.state_dict().values(), *state_dict_of(network).values()]:
        value.zero_()
    assert same_bits(network.params, kept)


def test_a_flatten_stands_where_the_reference_flattens() -> None:
    affine = nr.Affine(np.ones((4, 2)), np.ones(2)), nr.Affine(np.ones((2, 2)), np.ones(2))

    def children(layers: dict[str, Layer]) -> list[str]:
        return [name for name, _ in from_reference(nr.Network(layers)).named_children()]

    assert children({"Relu": nr.Relu(), "A": affine[0], "B": affine[1]}) == ["relu", "flatten", "a", "b"]
    assert children({"Flat": nr.Flatten(), "Relu": nr.Relu(), "A": affine[0]}) == ["flat", "relu", "a"]


# --- Names


BAD_NAMES: dict[str, tuple[list[str], str]] = {
    "case": (["Relu1", "relu1"], "two layers would be called relu1"),
    "a dot": (["Relu.1"], r"layer 'relu\.1' needs another name"),
    "a method": (["Forward"], "layer 'forward' needs another name"),
    "none": ([""], "layer '' needs another name"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_names_that_modules_cannot_have_are_refused(case: str) -> None:
    names, says = BAD_NAMES[case]
    with pytest.raises(ValueError, match=says):
        from_reference(nr.Network({name: nr.Relu() for name in names}))


# --- Other kinds of layers


class Doubled(nr.Relu):
    """Not what its base class computes."""

    def forward(self, x: Array) -> Array:
        return 2 * super().forward(x)


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr("torchport.layers.kinds.KINDS", dict(KINDS))


def doubled(module: Callable[[Any, Convolution], nn.Module]) -> LayerKind:
    return LayerKind(Doubled, module, SAME, lambda rng: (Doubled(), rng.standard_normal((2, 3))))


@pytest.mark.usefixtures("kinds")
def test_an_unknown_layer_is_named_until_it_is_registered() -> None:
    network = nr.Network({"Conv1": nr.Convolution(np.ones((1, 1, 2, 2)), np.ones(1)), "Twice": Doubled()})
    says = r"the class Doubled are not known: .*torchport\.layers\.register\(LayerKind\(Doubled, \.\.\.\)\)"
    with pytest.raises(TypeError, match=says):
        from_reference(network)

    class Twice(nn.ReLU):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    asked: list[tuple[Any, str]] = []

    def factory(layer: Doubled, conv: str) -> nn.Module:
        asked.append((layer, conv))
        return Twice()

    register(doubled(factory))
    twin, x = from_reference(network, "unfold"), np.random.default_rng(0).standard_normal((2, 1, 3, 3))
    assert asked == [(network.layers["Twice"], "unfold")]
    np.testing.assert_allclose(twin(torch.from_numpy(x)).detach().numpy(), network.predict(x), rtol=1e-14)


@pytest.mark.usefixtures("kinds")
def test_a_registered_module_of_other_shapes_is_refused() -> None:
    register(doubled(lambda layer, conv: nn.PReLU()))
    with pytest.raises(ValueError, match=r"must have the shapes \{\}, got \{'weight': \(1,\)\}"):
        from_reference(nr.Network({"Twice": Doubled()}))
    with pytest.raises(ValueError, match=r"\{'weight': \(2, 3\), 'bias': \(2,\)\}, got"):
        load_layer(nn.Linear(2, 3), nr.Affine(np.ones((3, 2)), np.ones(2)))


def test_register_takes_a_kind_of_layers() -> None:
    with pytest.raises(TypeError, match="register takes a LayerKind of a class of layers, got <class"):
        register(nr.Relu)  # type: ignore[arg-type]


def test_running_statistics_are_saved_with_the_parameters(tmp_path: Path) -> None:
    """Without them a network that was loaded would predict something else."""
    network, other, x = normalised(), normalised(), np.random.default_rng(1).random((6, 4))
    network.predict(x, train_flg=True)
    network.save_params(tmp_path / "params.pkl")
    other.load_params(tmp_path / "params.pkl")
    np.testing.assert_array_equal(other.predict(x), network.predict(x))
    assert not np.array_equal(normalised().predict(x), network.predict(x))
    nr.write_params(network.params, tmp_path / "params.pkl")
    with pytest.raises(ValueError, match=r"missing \['running_mean1', 'running_var1'\]"):
        other.load_params(tmp_path / "params.pkl")
    np.testing.assert_array_equal(other.predict(x), network.predict(x))
