"""The book's params to a state_dict and back, bit for bit, and refusals before anything is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from numpy_ref.checks import Array
from torchport import SimpleConvNet, to_params, to_state_dict
from torchport.networks.names import architecture, cast_params, rounding_loss
from torchport.parity.cases import seeded_params

Params = dict[str, Any]


@pytest.fixture
def params() -> Params:
    return seeded_params(3)


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_there_and_back_is_bit_identical(params: Params, dtype: torch.dtype) -> None:
    params = cast_params(params, dtype)
    params["W1"].flat[:3] = [-0.0, np.finfo(params["W1"].dtype).tiny / 4, np.finfo(params["W1"].dtype).max]
    back = to_params(to_state_dict(params))
    assert list(back) == list(params)
    assert all(same_bits(back[name], params[name]) for name in params)


def test_back_and_there_is_bit_identical(device: str) -> None:
    torch.manual_seed(1)
    state_dict = SimpleConvNet(dtype=torch.float64, device=device).state_dict()
    back = to_state_dict(to_params(state_dict))
    assert list(back) == list(state_dict)
    assert all(torch.equal(back[key], value.cpu()) for key, value in state_dict.items())


def test_affine_weights_are_transposed_and_convolutions_are_not(params: Params) -> None:
    state_dict = to_state_dict(params)
    assert same_bits(state_dict["affine1.weight"].numpy(), np.ascontiguousarray(params["W2"].T))
    assert same_bits(state_dict["conv1.weight"].numpy(), params["W1"])


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
    assert all(same_bits(value, params[name]) for name, value in to_params(to_state_dict(odd)).items())


def replaced(name: str, value: Any) -> Any:
    return lambda params: {**params, name: value(params[name])}


BAD_PARAMS: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": (lambda p: {k: v for k, v in p.items() if k != "b2"}, ValueError, r"missing \['b2'\]"),
    "extra": (lambda p: {**p, "W4": p["W3"]}, ValueError, r"unexpected \['W4'\]"),
    "integers": (replaced("b1", lambda v: v.astype(int)), TypeError, "b1 .*int64"),
    "complex": (replaced("b1", lambda v: v.astype(complex)), TypeError, "b1 .*complex128"),
    "a list": (replaced("b1", list), TypeError, "b1 .*list"),
    "mixed dtypes": (replaced("W3", lambda v: v.astype("f4")), TypeError, "one dtype.*float32"),
    "flat W1": (replaced("W1", lambda v: v.reshape(30, 25)), ValueError, r"W1 \(30, 25\)"),
    "transposed W2": (replaced("W2", lambda v: v.T), ValueError, r"W2 \(100, 4320\)"),
    "column bias": (replaced("b2", lambda v: v[:, None]), ValueError, r"b2 \(100, 1\)"),
    "short bias": (replaced("b3", lambda v: v[:9]), ValueError, r"b3 \(9,\)"),
    "empty": (replaced("W1", lambda v: v[:0]), ValueError, r"W1 \(0, 1, 5, 5\)"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_unfit_params_are_refused(params: Params, case: str) -> None:
    spoil, error, says = BAD_PARAMS[case]
    with pytest.raises(error, match=says):
        to_state_dict(spoil(params))
    with pytest.raises(error, match=says):
        SimpleConvNet.from_params(spoil(params))


BAD_STATE_DICTS: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != "conv1.bias"}, ValueError, "missing .*conv1.bias"),
    "extra": (lambda s: {**s, "fc.weight": s["affine1.weight"]}, ValueError, "unexpected .*fc.weight"),
    "bfloat16": (replaced("conv1.bias", lambda v: v.bfloat16()), TypeError, "conv1.bias .*bfloat16"),
    "an array": (replaced("conv1.bias", lambda v: v.numpy()), TypeError, "conv1.bias .*ndarray"),
    "untransposed": (replaced("affine1.weight", lambda v: v.T), ValueError, r"W2 \(100, 4320\)"),
    "mixed dtypes": (replaced("conv1.bias", lambda v: v.float()), TypeError, "one dtype"),
}


@pytest.mark.parametrize("case", BAD_STATE_DICTS)
def test_unfit_state_dicts_are_refused(params: Params, case: str) -> None:
    spoil, error, says = BAD_STATE_DICTS[case]
    with pytest.raises(error, match=says):
        to_params(spoil(to_state_dict(params)))


def test_architecture_that_does_not_fit_says_what_was_found(params: Params) -> None:
    with pytest.raises(ValueError, match=r"W2 \(4320, 100\)"):
        architecture({**params, "W1": params["W1"][:29], "b1": params["b1"][:29]})
    with pytest.raises(ValueError, match=r"stride 1 and pad 20"):
        architecture(params, pad=20)
    with pytest.raises(ValueError, match=r"W1 \(30, 1, 5, 4\)"):
        architecture({**params, "W1": params["W1"][..., :4]})


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
