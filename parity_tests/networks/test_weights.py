"""Weights; the book's params to a state_dict and back, bit for bit, and refusals before anything is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.params import same_bits
from torchport import SimpleConvNet, to_params, to_state_dict
from torchport.choices import Convolution
from torchport.networks import CONVOLUTIONS, Hints, Weights, recognise
from torchport.networks.names import cast_params, rounding_loss
from torchport.parity.cases import seeded_params

Params = dict[str, Any]


@pytest.fixture
def params() -> Params:
    return seeded_params(3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_there_and_back_is_bit_identical(params: Params, dtype: torch.dtype) -> None:
    params = cast_params(params, dtype)
    params["W1"].flat[:3] = [-0.0, np.finfo(params["W1"].dtype).tiny / 4, np.finfo(params["W1"].dtype).max]
    back = to_params(to_state_dict(params))
    assert list(back) == list(params)
    assert same_bits(back, params)


def test_back_and_there_is_bit_identical(device: str) -> None:
    torch.manual_seed(1)
    state_dict = SimpleConvNet(dtype=torch.float64, device=device).state_dict()
    back = to_state_dict(to_params(state_dict))
    assert list(back) == list(state_dict)
    assert all(torch.equal(back[key], value.cpu()) for key, value in state_dict.items())


def test_affine_weights_are_transposed_and_convolutions_are_not(params: Params) -> None:
    state_dict = to_state_dict(params)
    np.testing.assert_array_equal(state_dict["affine1.weight"].numpy(), params["W2"].T, strict=True)
    np.testing.assert_array_equal(state_dict["conv1.weight"].numpy(), params["W1"], strict=True)


def test_results_share_no_memory(params: Params) -> None:
    state_dict = to_state_dict(params)
    back = to_params(state_dict)
    for name, value in params.items():
        assert not np.shares_memory(back[name], value)
    for value in state_dict.values():
        value.zero_()
    assert all(value.any() for value in [*back.values(), *params.values()])


def test_fortran_order_and_strides_do_not_matter(params: Params) -> None:
    odd = {name: np.repeat(np.asfortranarray(value), 2, axis=0)[::2] for name, value in params.items()}
    assert same_bits(to_params(to_state_dict(odd)), params)


def replaced(name: str, value: Any) -> Any:
    return lambda params: {**params, name: value(params[name])}


BAD_PARAMS: dict[str, tuple[Any, type[Exception], str]] = {
    "integers": (replaced("b1", lambda v: v.astype(int)), TypeError, "b1 .*int64"),
    "complex": (replaced("b1", lambda v: v.astype(complex)), TypeError, "b1 .*complex128"),
    "a list": (replaced("b1", list), TypeError, "b1 .*list"),
    "mixed dtypes": (replaced("W3", lambda v: v.astype("f4")), TypeError, "one dtype.*float32"),
    "transposed W2": (replaced("W2", lambda v: v.T), ValueError, r"W2 \(100, 4320\) is transposed"),
    "half the statistics": (lambda p: {**p, "running_mean1": p["b1"]}, ValueError, "unexpected .*running_mean1"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_unfit_params_are_refused(params: Params, case: str) -> None:
    """test_architectures.py has the other params that recognise refuses."""
    spoil, error, says = BAD_PARAMS[case]
    for take in (to_state_dict, SimpleConvNet.from_params, Weights.of):
        with pytest.raises(error, match=says):
            take(spoil(params))


BAD_STATE_DICTS: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != "conv1.bias"}, ValueError, r"missing \['conv1.bias'\]"),
    "extra": (
        lambda s: {**s, "fc.weight": s["affine1.weight"]},
        ValueError,
        r"but W4 \(4320, 100\) should take 10 inputs",
    ),
    "bfloat16": (replaced("conv1.bias", lambda v: v.bfloat16()), TypeError, "conv1.bias .*bfloat16"),
    "an array": (replaced("conv1.bias", lambda v: v.numpy()), TypeError, "conv1.bias .*ndarray"),
    "untransposed": (replaced("affine1.weight", lambda v: v.T), ValueError, r"\(4320, 100\), expected \(100, 4320\)"),
    "mixed dtypes": (replaced("conv1.bias", lambda v: v.float()), TypeError, "one dtype"),
    "other names": (
        lambda s: {k.replace("affine", "fc"): v for k, v in s.items()},
        ValueError,
        r"missing \['affine1.bias', .*\], unexpected \['fc1.bias'",
    ),
}


@pytest.mark.parametrize("case", BAD_STATE_DICTS)
def test_unfit_state_dicts_are_refused(params: Params, case: str) -> None:
    spoil, error, says = BAD_STATE_DICTS[case]
    with pytest.raises(error, match=says):
        to_params(spoil(to_state_dict(params)))


# --- Weights


def test_weights_make_networks_of_their_own(params: Params) -> None:
    weights = Weights.of(params)
    for made in (weights.reference(), weights.port(), weights.port("unfold")):
        x = np.ones((2, 1, 28, 28))
        before = made.predict(x) if isinstance(made, nr.Network) else made(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(before, weights.reference().predict(x), rtol=1e-12)
        for value in made.params.values() if isinstance(made, nr.Network) else made.state_dict().values():
            value[...] = 0
    assert all(value.all() for name, value in weights.params.items() if name.startswith("W"))


def test_what_was_told_is_carried(params: Params) -> None:
    weights = Weights.of(params, Hints(stride=2, pad=1)).astype(torch.float32)
    assert weights.geometry.arguments == {"stride": 2, "pad": 1}
    assert weights.port().get_submodule("conv1").stride == (2, 2)
    assert weights.architecture.input_shape == (1, 49, 49)


@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_a_port_has_the_stride_and_pad_of_its_architecture(params: Params, conv: Convolution) -> None:
    """Weights that were made with their architecture carry no hints."""
    weights = Weights(recognise(params, stride=2, pad=1), params)
    x = np.random.default_rng(0).standard_normal((2, 1, 49, 49))
    logits = weights.port(conv).eval()(torch.tensor(x)).detach()
    np.testing.assert_allclose(logits, weights.reference().predict(x), rtol=1e-12)


def test_rounding_is_kept_in_the_source(params: Params) -> None:
    source = Weights.of(params).astype(torch.float32).source
    assert (source.changed, source.largest) == rounding_loss(params, cast_params(params, torch.float32))
    assert Weights.of(params).astype(torch.float64).source.changed == 0


def test_running_statistics_are_carried_beside_the_parameters() -> None:
    net = nr.MultiLayerNetExtend(6, [5, 4], 3, use_batchnorm=True, rng=np.random.RandomState(0))
    net.predict(np.random.default_rng(0).standard_normal((7, 6)), train_flg=True)
    weights = Weights.of({**net.params, **net.statistics})
    assert weights.architecture.name == "MultiLayerNetExtend"
    assert weights.params.keys() == net.params.keys()
    assert "are assumed" not in weights.architecture.note.replace("relu is assumed", "")
    x = np.random.default_rng(1).standard_normal((3, 6))
    np.testing.assert_array_equal(weights.reference().predict(x), net.predict(x))
    np.testing.assert_allclose(weights.port().eval()(torch.tensor(x)).detach(), net.predict(x), rtol=1e-12)
    without = Weights.of(net.params)
    assert "running_mean1, running_var1, running_mean2, running_var2 are not there" in without.architecture.note
    assert without.statistics["running_var2"].tolist() == [1, 1, 1, 1]


def test_float32_says_what_it_loses(params: Params) -> None:
    cast = cast_params(params, torch.float32)
    changed, largest = rounding_loss(params, cast)
    assert changed > 400_000
    assert 1e-8 < largest <= 2**-24
    assert rounding_loss(cast, cast_params(cast, torch.float64)) == (0, 0.0)
    assert rounding_loss({"W": np.array([4.0, -4, 8])}, {"W": np.array([4.0, -5, 9])}) == (2, 0.25)


def test_values_that_float32_cannot_hold_are_refused(params: Params) -> None:
    params["W3"][0, 0] = -np.finfo(np.float32).max
    assert cast_params(params, torch.float32)["W3"][0, 0] == -np.finfo(np.float32).max
    params["W3"][0, 0] = -1e39
    with pytest.raises(ValueError, match=r"W3 holds 1e\+39"):
        cast_params(params, torch.float32)
    with pytest.raises(TypeError, match="bfloat16"):
        cast_params(params, torch.bfloat16)
