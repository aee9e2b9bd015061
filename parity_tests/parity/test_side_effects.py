"""Masks whose entries are drawn each by itself are told from those whose entries go together."""

from __future__ import annotations

import numpy as np
import pytest

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
