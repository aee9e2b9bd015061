"""check_parity sees as small mistakes as kill_table.py's tables say, and smaller ones than the rules of other tools."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import numpy_ref as nr
from numpy_ref.checks import Array
from parity import kill_table as table
from torchport.layers import Setting
from torchport.networks import from_reference
from torchport.parity import check_layer

BOUNDS = {torch.float64: 2.0**-44, torch.float32: 2.0**-16}
LONG = "SimpleConvNet", "affine1", "output"  # sums of 4,320 products


@pytest.mark.parametrize("dtype", table.DTYPES)
@pytest.mark.parametrize("name", ["SimpleConvNet", "DeepConvNet"])
def test_small_relative_errors_are_seen_in_every_layer(name: str, dtype: torch.dtype) -> None:
    """Of entries on one sample, and of single products on integers."""
    for run, found in table.runs_of(name):
        for layer, *link in found:
            for quantity, (entry, product) in table.sights(dtype, *link, exact=run == table.EXACT).items():
                error = product.error if run == table.EXACT else entry.error
                assert error <= BOUNDS[dtype] * (2 if (name, layer, quantity) == LONG else 1)


@pytest.mark.parametrize("dtype", table.DTYPES)
@pytest.mark.parametrize("quantity", ["output", "grad_input", "W", "b"])
@pytest.mark.parametrize(("name", "layer"), [("DeepConvNet", "affine1"), ("LeNet5", "subsample1")])
def test_an_error_is_seen_from_its_limit_on(name: str, layer: str, quantity: str, dtype: torch.dtype) -> None:
    """Four times the limit is, in the entries of the table; a quarter is not, where it leaves no trace in the calls."""
    reference, x, _ = table.network(name)
    (link,) = (link for found, *link in table.links(reference, x[:1]) if found == layer)
    for at, limit, _ in table.sights(dtype, *link)[quantity]:
        assert is_seen(dtype, quantity, at, 4 * limit, *link)
        assert quantity == "output" or not is_seen(dtype, quantity, at, limit / 4, *link)


def is_seen(
    dtype: torch.dtype, quantity: str, at: tuple[int, ...], error: float, layer: Any, x: Array, dout: Array
) -> bool:
    """Whether check_layer sees this error in one entry of a layer's output or gradient."""
    port = from_reference(nr.Network({"Layer": layer})).to(dtype)
    place = tuple(map(torch.tensor, at[::-1] if quantity == "W" and len(at) == 2 else at))

    def change(value: Tensor, *_: Any) -> Tensor:
        return value.index_put(place, torch.tensor(error, dtype=dtype), accumulate=True)

    where = {"output": "layer", "grad_input": "input", "W": "weight", "b": "bias"}[quantity]
    table.plant(port, "layer", where, change if where != "input" else lambda x: x.register_hook(change) and None)
    return not all(row.ok for row in check_layer("layer", layer, port, x, dout, Setting(dtype)))


@pytest.mark.parametrize(
    ("mistake", "scale"),
    [("one product of one entry", "fan-in"), ("dW times 1 + eps", "0.01"), ("relu leaks eps", "0.01")],
)
def test_no_other_rule_sees_a_smaller_mistake(mistake: str, scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SIZES", table.SIZES[1::2])  # half of them, the smallest among those
    found = table.smallest(mistake, "small SimpleConvNet", scale, torch.float32)
    assert found[table.ALL_RUNS] == max(table.SIZES)
    assert all(found[rule] <= found[table.ONE_RUN] for rule in table.RULES)
