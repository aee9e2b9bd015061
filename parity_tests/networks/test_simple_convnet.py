"""The book's SimpleConvNet: both ports against the reference, layer by layer and end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet
from torchport.choices import Convolution
from torchport.networks.names import cast_params, state_dict_keys
from torchport.parity import Setting, check_parity
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.parity.given import ALL

LARGE = "training", "prediction", "batch", "integers"
CONVS: list[Convolution] = ["conv2d", "unfold"]

# input_dim, filter_num, filter_size, pad, stride, hidden_size, output_size, batch
ARCHITECTURES = {
    "the book's": ((1, 28, 28), 30, 5, 0, 1, 100, 10, 4),
    "three channels, padded": ((3, 8, 8), 4, 3, 1, 1, 6, 5, 7),
    "stride 2": ((2, 11, 11), 3, 3, 1, 2, 9, 4, 5),
    "stride 3": ((1, 13, 13), 5, 4, 0, 3, 7, 3, 4),
    "square layers": ((1, 6, 6), 2, 3, 0, 1, 8, 8, 8),
    "batch of one": ((1, 10, 10), 5, 3, 0, 1, 8, 10, 1),
    "one of everything": ((1, 2, 2), 1, 1, 0, 1, 1, 2, 1),
}


def build(name: str, seed: int = 0) -> tuple[nr.SimpleConvNet, Array, Array, dict[str, Any]]:
    """A reference at fan-in scale with biases, a batch, and the geometry that parameters do not show."""
    input_dim, filters, size, pad, stride, hidden, classes, batch = ARCHITECTURES[name]
    conv_param = {"filter_num": filters, "filter_size": size, "pad": pad, "stride": stride}
    reference = nr.SimpleConvNet(input_dim, conv_param, hidden, classes)
    reference.set_params(seeded_params(seed, reference.params))
    return reference, *seeded_batch(seed, batch, input_dim, classes), {"stride": stride, "pad": pad}


def port_of(reference: nr.SimpleConvNet, conv: Convolution, setting: Setting, **geometry: int) -> SimpleConvNet:
    params = cast_params(reference.params, setting.dtype)
    return SimpleConvNet.from_params(params, conv, **geometry, device=setting.device)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_port_agrees_with_the_reference(name: str, conv: Convolution, setting: Setting) -> None:
    reference, x, t, geometry = build(name)
    runs = LARGE if name == "the book's" else ALL  # 128 of its samples take seconds
    report = check_parity(reference, port_of(reference, conv, setting, **geometry), x, t, runs=runs)
    report.raise_if_failed()
    rows = {(row.run, row.layer, row.quantity) for row in report.rows}
    gradients = {tuple(key.split(".")) for key in state_dict_keys(reference).values()}
    for run in ("training", "integers", "batch"):
        assert {(run, layer, f"grad_{attribute}") for layer, attribute in gradients} <= rows
        assert {(run, layer, "output") for layer in ("conv1", "relu1", "pool1", "affine1", "relu2", "affine2")} <= rows
    assert {("batch", "conv1", "grad_input"), ("batch", "loss", "output"), ("prediction", "affine2", "output")} <= rows


@pytest.mark.parametrize("conv", CONVS)
def test_one_hot_labels(conv: Convolution, setting: Setting) -> None:
    reference, x, t, geometry = build("three channels, padded")
    port = port_of(reference, conv, setting, **geometry)
    check_parity(reference, port, x, np.eye(5)[t], runs=["batch"]).raise_if_failed()


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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_from_params_infers_the_architecture(name: str) -> None:
    reference, x, _, geometry = build(name)
    port = SimpleConvNet.from_params(reference.params, **geometry)
    assert port.input_dim == ARCHITECTURES[name][0]
    assert port.conv1.weight.dtype == torch.float64
    assert port(torch.from_numpy(x)).shape == reference.predict(x).shape


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
