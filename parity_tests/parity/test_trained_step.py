"""What training really runs is judged by the same engine: pooling first, and several layers as one operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import numpy_ref as nr
from torchport import SimpleConvNet
from torchport.choices import BFLOAT16, IEEE, TF32
from torchport.parity import ALL, check_parity
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.training.fused import Gathered, PoolFirst, arranged

IMAGE = (1, 12, 12)
FILTERS = {"filter_num": 5, "filter_size": 5, "pad": 0, "stride": 1}


def trained(dtype: torch.dtype, device: str = "cpu") -> tuple[nr.SimpleConvNet, SimpleConvNet]:
    reference = nr.SimpleConvNet(IMAGE, FILTERS, hidden_size=9)
    reference.set_params(seeded_params(0, reference.params))
    return reference, SimpleConvNet.from_params(reference.params, device=device).to(dtype)


@pytest.mark.parametrize("gathered", [False, True], ids=["pooled first", "one operation"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_the_step_that_training_runs_is_right(
    gathered: bool, dtype: torch.dtype, layout: torch.memory_format, device: str
) -> None:
    reference, net = trained(dtype, device)
    port = PoolFirst(net, Gathered.of(net.conv1, IMAGE) if gathered else None).to(memory_format=layout)
    runs = ALL if layout == torch.contiguous_format else ["training", "batch"]
    report = check_parity(reference, port, *seeded_batch(0, 8, IMAGE), runs=runs)
    assert report.ok, report.verdict


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [(torch.float64, IEEE), (torch.float32, IEEE), (torch.float32, TF32), (torch.float32, BFLOAT16)],
    ids=["float64", "float32", "tf32", "bfloat16"],
)
def test_the_step_is_right_as_it_is_arranged_here(dtype: torch.dtype, mode: Any, device: str) -> None:
    """In the layout and the order that each device and precision is given."""
    if mode == TF32 and torch.device(device).type != "cuda":
        pytest.skip("TensorFloat-32 needs a CUDA device")
    reference, net = trained(dtype, device)
    port = arranged(net, tensor_cores=mode != IEEE)
    report = check_parity(reference, port, *seeded_batch(0, 8, IMAGE), mode=mode, runs=["training", "batch"])
    assert report.ok, report.verdict


def test_a_slip_in_the_one_operation_is_caught() -> None:
    """Its index of the filters, by one: the blame lies on the three layers, which are seen in one piece."""
    reference, net = trained(torch.float64)
    gathered = Gathered.of(net.conv1, IMAGE)
    port = PoolFirst(net, gathered._replace(shifted=gathered.shifted.roll(1)))
    row = check_parity(reference, port, *seeded_batch(0, 8, IMAGE), runs=["training"]).first_divergence
    assert row is not None
    assert row.layer == "conv1"


@pytest.mark.parametrize("slip", ["value", "gradient"])
def test_a_slip_in_affine_and_relu_is_caught(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that is forgotten, or a gradient that relu lets through."""
    reference, net = trained(torch.float64)
    if slip == "value":
        slipped = torch._addmm_activation
        monkeypatch.setattr(torch, "_addmm_activation", lambda bias, x, weight: slipped(0 * bias, x, weight))
    else:
        monkeypatch.setattr(torch.ops.aten, "threshold_backward", lambda grad, *_: grad)
    row = check_parity(reference, PoolFirst(net), *seeded_batch(0, 8, IMAGE), runs=["training"]).first_divergence
    assert row is not None
    assert row.layer.startswith("affine1")
