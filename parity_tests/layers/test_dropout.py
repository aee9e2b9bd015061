"""Dropout in training is judged with the mask that the port drew, which must be plausible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers import Setting, kind_of, predicted
from torchport.layers.selections import chance_limit

RATIO = 0.4


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """An input with half of its entries 0, and a mask."""
    return np.maximum(rng.standard_normal(shape), 0), rng.random(shape) > RATIO


def repeated(ratio: float, x: Array, y: Array, dx: Array | None) -> nr.Dropout:
    repeat = kind_of(nr.Dropout()).repeat
    assert repeat is not None
    layer: nr.Dropout = repeat(nr.Dropout(ratio, np.random.RandomState(0)), x, y, dx)
    return layer


def test_the_layer_repeats_the_mask_of_the_port_as_often_as_it_is_asked(rng: np.random.Generator) -> None:
    x, mask = drawn(rng, (100, 30))
    layer = repeated(RATIO, x, x * mask, 3.0 * mask)
    for _ in range(2):
        np.testing.assert_array_equal(layer.forward(x), x * mask)
        np.testing.assert_array_equal(layer.backward(np.ones_like(x)), mask)


def test_without_a_gradient_zeros_count_as_kept(rng: np.random.Generator) -> None:
    x, mask = drawn(rng, (100, 30))
    layer = repeated(RATIO, x, x * mask, None)
    np.testing.assert_array_equal(layer.forward(x), x * mask)
    np.testing.assert_array_equal(layer.backward(np.ones_like(x)), mask | (x == 0))


def test_the_layer_itself_keeps_its_stream(rng: np.random.Generator) -> None:
    layer, (x, mask) = nr.Dropout(RATIO, np.random.RandomState(0)), drawn(rng, (100, 30))
    repeat = kind_of(layer).repeat
    assert repeat is not None
    repeat(layer, x, x * mask, None).forward(x)
    np.testing.assert_array_equal(layer.rng.rand(3), np.random.RandomState(0).rand(3))


def test_the_other_share_of_entries_is_refused(rng: np.random.Generator) -> None:
    x, mask = drawn(rng, (100, 30))
    with pytest.raises(ValueError, match=r"kept (39|40|41)\.\d+% of 1\d{3} entries, where 60\.000% were expected"):
        repeated(RATIO, x, x * ~mask, None)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_where_nothing_is_drawn_nothing_may_differ(ratio: float) -> None:
    x, y = np.ones((4, 5)), np.full((4, 5), 1 - ratio)
    np.testing.assert_array_equal(repeated(ratio, x, y, None).forward(x), y)
    y[0, 0] = ratio
    with pytest.raises(ValueError, match=r"kept (95|5)\.000% of 20 entries"):
        repeated(ratio, x, y, None)


@pytest.mark.parametrize("ratio", [0.01, 0.4, 0.99])
@pytest.mark.parametrize("size", [1, 10, 1000])
def test_no_mask_that_is_drawn_is_refused(ratio: float, size: int, rng: np.random.Generator) -> None:
    x = np.ones((1, size))
    for _ in range(300):
        repeated(ratio, x, 1.0 * (rng.random(x.shape) > ratio), None)


@pytest.mark.parametrize(("variance", "largest", "tests"), [(0.2, 1.0, 1), (50.0, 0.5, 1), (1e4, 0.3, 2**15)])
def test_the_limit_of_chance_is_bernsteins(variance: float, largest: float, tests: int) -> None:
    limit = chance_limit(variance, largest, tests)
    probability = 2 * np.exp(-(limit**2) / 2 / (variance + largest * limit / 3))
    assert probability == pytest.approx(3.05e-8 / tests, rel=0.01)


def test_its_prediction_is_within_its_limit(rng: np.random.Generator) -> None:
    layer, limit = nr.Dropout(1 / 3), kind_of(nr.Dropout()).prediction
    assert limit is not None
    x = rng.standard_normal((50, 40)).astype(np.float32)
    error = np.abs(x * np.float32(1 - layer.dropout_ratio) - predicted(layer, x.astype(np.float64)))
    allowed = limit(layer, x.astype(np.float64), Setting(torch.float32).arithmetic)
    assert 0.2 < np.max(error / allowed) <= 1
