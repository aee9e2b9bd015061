"""The order of layers with arbitrary names; files/test_reading.py has the files that people have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.networks import Hints, Weights, layouts
from torchport.networks.nearest import can_follow
from torchport.networks.order import MAX_LAYERS
from torchport.parity.cases import seeded_params


def square(*names: str) -> dict[str, Array]:
    """Affine layers with six inputs and outputs each."""
    return {f"{name}.{part}": np.ones((6,) * axes) for name in names for part, axes in (("weight", 2), ("bias", 1))}


def test_layers_of_every_kind_are_found_in_any_order() -> None:
    params = seeded_params(0, nr.LeNet5((1, 12, 12), 3).params)
    keys = {key: value.numpy() for key, value in Weights.of(params).state_dict().items()}
    for order in (sorted(keys), sorted(keys, reverse=True)):
        restored, _ = layouts.to_params({key: keys[key] for key in order})
        assert list(restored) == list(params)
        assert all(np.array_equal(restored[name], params[name]) for name in params)


def test_an_order_is_looked_for_in_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine layers fit each other in 9! orders, and a tenth fits none of them."""
    steps = 0

    def counted(*sizes: Any) -> bool:
        nonlocal steps
        steps += 1
        assert steps < 200_000
        return can_follow(*sizes)

    monkeypatch.setattr("torchport.networks.order.can_follow", counted)
    arrays = {**square(*"abcdefghi"), "out.weight": np.ones((5, 7)), "out.bias": np.ones(5)}
    assert list(layouts.to_params(arrays)[0])[-2:] == ["W10", "b10"]
    assert steps > 2_000


def test_an_order_of_very_many_layers_is_told_or_refused() -> None:
    names = sorted(f"fc{number}" for number in range(MAX_LAYERS + 1))
    with pytest.raises(ValueError, match=r"the order of 101 layers is not searched for: .*\(--order\)"):
        layouts.to_params(square(*names))
    params, _ = layouts.to_params(square(*names), Hints(order=names))
    assert len(params) == 2 * len(names)
