"""What training really runs is judged by the same engine: pooling first, and convolution to relu as one operation."""

from __future__ import annotations

import pytest
import torch

import numpy_ref as nr
from torchport import SimpleConvNet
from torchport.parity import ALL, check_parity
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.training.fused import Gathered, PoolFirst

IMAGE = (1, 12, 12)
FILTERS = {"filter_num": 5, "filter_size": 5, "pad": 0, "stride": 1}


def trained(gathered: bool, dtype: torch.dtype) -> tuple[nr.SimpleConvNet, PoolFirst]:
    reference = nr.SimpleConvNet(IMAGE, FILTERS, hidden_size=9)
    reference.set_params(seeded_params(0, reference.params))
    port = SimpleConvNet.from_params(reference.params).to(dtype)
    return reference, PoolFirst(port, Gathered.of(port.conv1, IMAGE) if gathered else None)


@pytest.mark.parametrize("gathered", [False, True], ids=["pooled first", "one operation"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_the_step_that_training_runs_is_right(gathered: bool, dtype: torch.dtype, layout: torch.memory_format) -> None:
    reference, port = trained(gathered, dtype)
    runs = ALL if layout == torch.contiguous_format else ["training", "batch"]
    report = check_parity(reference, port.to(memory_format=layout), *seeded_batch(0, 8, IMAGE), runs=runs)
    assert report.ok, report.verdict


def test_a_slip_in_the_one_operation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its index of the filters, by one: the blame lies on the three layers, which are seen in one piece."""
    reference, port = trained(True, torch.float64)
    assert port.gathered is not None
    port.gathered = port.gathered._replace(shifted=port.gathered.shifted.roll(1))
    row = check_parity(reference, port, *seeded_batch(0, 8, IMAGE), runs=["training"]).first_divergence
    assert row is not None
    assert row.layer == "conv1"
