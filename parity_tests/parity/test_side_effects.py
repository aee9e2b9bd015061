"""Masks whose entries go together are told; and running statistics are judged on a known input only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

import numpy_ref as nr
from torchport.networks import from_reference
from torchport.parity import check_parity
from torchport.parity.cases import seeded_params
from torchport.parity.side_effects import _dependence


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.7])
def test_masks_drawn_by_themselves_do_not_depend_on_each_other(keep: float, rng: np.random.Generator) -> None:
    for size in (3, 100, 3000):
        for _ in range(100):
            one, two = (np.where(rng.random(size) < 0.6, (rng.random(size) < keep) - keep, 0) for _ in range(2))
            assert _dependence(one, one, keep) is None
            assert _dependence(one, two, keep) is None


@pytest.mark.parametrize("distance", [0, 1, 300])
def test_the_distance_of_what_goes_together_is_told(distance: int, rng: np.random.Generator) -> None:
    one = (rng.random(3000) < 0.7) - 0.7
    assert _dependence(one, np.roll(one, distance), 0.7) == distance


def test_pairs_and_copies_within_a_mask_are_told(rng: np.random.Generator) -> None:
    half = (rng.random(1500) < 0.7) - 0.7
    for mask, distance in ((np.repeat(half, 2), 1), (np.tile(half, 2), 1500)):
        assert _dependence(mask, mask, 0.7) == distance


def test_a_missing_bias_is_told_before_the_statistics_that_it_moves(rng: np.random.Generator) -> None:
    """It is taken away by the normalisation after it, so that the two are judged together."""
    reference = nr.MultiLayerNetExtend(6, [5], 4, use_batchnorm=True)
    reference.set_params(
        {name: value + name.startswith("gamma") for name, value in seeded_params(0, reference.params).items()}
    )
    port: Any = from_reference(reference)
    norm = nn.BatchNorm1d(5, eps=1e-6).double()
    norm.load_state_dict({**norm.state_dict(), **port.batchnorm1.state_dict()})
    port.batchnorm1, port.affine1.bias = norm, None
    first = check_parity(reference, port, rng.standard_normal((8, 6)), np.arange(8) % 4).first_divergence
    assert first is not None
    assert (first.layer, first.quantity) == ("affine1", "bias")
