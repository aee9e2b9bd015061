"""Other ways to run a port that must not change what it computes: compiled, channels last, deterministic, on CUDA."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, make_optimizer, softmax_with_loss
from torchport.choices import Convolution
from torchport.networks.names import cast_params
from torchport.parity import Setting, check_parity
from torchport.parity.cases import seeded_batch, seeded_params

CONVS = ["conv2d", "unfold"]
# Two channels: with one, channels last is no other order.
SIZES = ((2, 12, 12), {"filter_num": 5, "filter_size": 5, "pad": 0, "stride": 1}, 20, 10)


def build(conv: Convolution, setting: Setting) -> tuple[nr.SimpleConvNet, SimpleConvNet, Array, Array]:
    reference = nr.SimpleConvNet(*SIZES)
    reference.set_params(seeded_params(0, reference.params))
    port = SimpleConvNet.from_params(cast_params(reference.params, setting.dtype), conv, device=setting.device)
    return reference, port, *seeded_batch(0, 16, SIZES[0])


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler, and c++ is not there")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("conv", CONVS)
def test_compiled(conv: Convolution, device: str) -> None:
    reference, port, x, t = build(conv, Setting(torch.float32, device))
    report = check_parity(reference, port, x, t, run=torch.compile(port, fullgraph=True), runs=["training"])
    report.raise_if_failed()
    assert {row.quantity for row in report.rows if row.run == "in one piece"} == {"output", "grad_weight", "grad_bias"}


@pytest.mark.parametrize("conv", CONVS)
def test_channels_last(conv: Convolution, setting: Setting) -> None:
    """Of the weights, and in one run of the samples too."""
    reference, port, x, t = build(conv, setting)
    report = check_parity(reference, port.to(memory_format=torch.channels_last), x, t, runs=["training", "extremes"])
    report.raise_if_failed()
    assert "channels_last" in report.runs


def train(port: SimpleConvNet, x: Tensor, t: Tensor) -> SimpleConvNet:
    """A few steps of the book's Adam."""
    port = copy.deepcopy(port)
    optimizer = make_optimizer("adam", port.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        softmax_with_loss(port(x), t).backward()
        optimizer.step()
    return port


@pytest.mark.parametrize("conv", CONVS)
def test_a_second_run_is_bit_identical(conv: Convolution, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torch.use_deterministic_algorithms, which raises for an operation that has no such form."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's matrix products need it to be deterministic
    _, port, x, t = build(conv, setting)
    inputs, labels = setting.tensor(x), torch.tensor(t, device=setting.device)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = train(port, inputs, labels), train(port, inputs, labels)
    finally:
        torch.use_deterministic_algorithms(before)
    assert not torch.equal(first.conv1.weight, port.conv1.weight)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


class InLess(nn.Module):
    """Autocasts, and says nothing of it in its output's dtype."""

    def __init__(self, port: SimpleConvNet) -> None:
        super().__init__()
        self.port = port

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            output: Tensor = self.port(x).float()
        return output


def test_bfloat16_is_not_float32(device: str) -> None:
    """The lower precision is seen: autocast outputs judged by float32's limits fail."""
    reference, port, x, t = build("unfold", Setting(torch.float32, device))
    first = check_parity(reference, InLess(port), x, t, runs=["training"]).first_divergence
    assert first is not None
    assert (first.layer, first.quantity, first.cause) == ("conv1", "output", "computed in bfloat16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TensorFloat-32 is CUDA's")
def test_tf32_within_its_own_limits_and_not_within_float32s() -> None:
    reference, port, x, t = build("unfold", Setting(torch.float32, "cuda:0"))
    check_parity(reference, port, x, t, mode="tf32").raise_if_failed()
