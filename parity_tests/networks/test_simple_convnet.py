"""The book's SimpleConvNet in torch: its names, its start, its sizes; that it agrees is in test_agreement.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import numpy_ref as nr
from torchport import SimpleConvNet
from torchport.choices import Convolution
from torchport.networks.names import state_dict_keys
from torchport.parity.cases import seeded_params

CONVS: list[Convolution] = ["conv2d", "unfold"]


def test_both_ports_load_each_others_weights(device: str) -> None:
    torch.manual_seed(0)
    nets = {conv: SimpleConvNet(conv=conv, dtype=torch.float64, device=device) for conv in CONVS}
    for here, there in (CONVS, CONVS[::-1]):
        with torch.no_grad():
            nets[here].conv1.weight.add_(1)
        nets[there].load_state_dict(nets[here].state_dict(), strict=True)
        assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets.values()), strict=True))
    assert list(nets["unfold"].state_dict()) == list(state_dict_keys(nr.SimpleConvNet()).values())
    assert [name for name, _ in nets["unfold"].named_children()] == [
        *("conv1", "relu1", "pool1", "flatten", "affine1", "relu2", "affine2")
    ]


def test_weights_start_as_the_books_do() -> None:
    torch.manual_seed(0)
    net = SimpleConvNet()
    assert not any(value.any() for name, value in net.named_parameters() if name.endswith("bias"))
    # The standard deviation of n samples is known to 1 / sqrt(2 n): five times that is 0.5 % at 432,000 samples.
    assert net.affine1.weight.std().item() == pytest.approx(0.01, rel=0.006)


def test_from_params_copies() -> None:
    params = seeded_params(0)
    port = SimpleConvNet.from_params(params)
    params["W1"][...] = 0
    assert port.conv1.weight.all()


def test_a_slice_is_a_plain_sequential() -> None:
    net = SimpleConvNet()
    head = net[:4]
    assert [name for name, _ in head.named_children()] == ["conv1", "relu1", "pool1", "flatten"]
    assert head(torch.zeros(2, 1, 28, 28)).shape == (2, 4320)
    assert net[0] is net.conv1


BAD_SIZES: list[tuple[dict[str, Any], str]] = [
    ({"input_dim": (1, 28, 27)}, "28x27"),
    ({"input_dim": (28, 28)}, r"\(28, 28\)"),
    ({"input_dim": (0, 28, 28)}, "got 0"),
    ({"input_dim": (1, 27, 27)}, "23x23"),
    ({"input_dim": (1, 3, 3)}, "5 pixels does not fit an image of 3"),
    ({"conv_param": {"filter_num": 3}}, "filter_size"),
    ({"conv_param": {"filter_num": 3, "filter_size": 5, "pad": 0, "stride": 2}}, "1 image rows unseen"),
    ({"conv_param": {"filter_num": -3, "filter_size": 5, "pad": 0, "stride": 1}}, "-3"),
    ({"conv_param": {"filter_num": 3, "filter_size": 5, "pad": -1, "stride": 1}}, "-1"),
    ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
    ({"output_size": -1}, "-1"),
]


@pytest.mark.parametrize("network", [nr.SimpleConvNet, SimpleConvNet], ids=["numpy", "torch"])
@pytest.mark.parametrize(("sizes", "says"), BAD_SIZES, ids=[says for _, says in BAD_SIZES])
def test_sizes_that_do_not_fit_are_named(network: Any, sizes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        network(**sizes)


@pytest.mark.parametrize("network", [nr.SimpleConvNet, SimpleConvNet], ids=["numpy", "torch"])
def test_sizes_of_the_wrong_type_are_named(network: Any) -> None:
    with pytest.raises(TypeError, match=r"2\.5"):
        network(hidden_size=2.5)
