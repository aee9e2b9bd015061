"""The twins of the book's networks agree with them, layer by layer and end to end.

Random ones are in layers/test_geometries.py (SimpleConvNet.from_params) and parity/test_clean.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from reference.networks import deep

import numpy_ref as nr
from torchport.choices import Convolution
from torchport.networks import CONVOLUTIONS, from_reference
from torchport.networks.names import cast_params, state_dict_keys
from torchport.parity import Setting, check_parity
from torchport.parity.cases import seeded_params
from torchport.parity.given import ALL


def simple(input_dim: tuple[int, int, int], pad: int, stride: int, hidden_size: int, classes: int) -> nr.Network:
    conv_param = {"filter_num": 2, "filter_size": 3, "pad": pad, "stride": stride}
    return nr.SimpleConvNet(input_dim, conv_param, hidden_size, classes)


# The network, the shape of a batch, and the classes.
NETWORKS: dict[str, tuple[Callable[[], nr.Network], tuple[int, ...], int]] = {
    "SimpleConvNet, the book's": (nr.SimpleConvNet, (4, 1, 28, 28), 10),
    "SimpleConvNet, stride 2": (lambda: simple((2, 11, 11), 1, 2, 9, 4), (5, 2, 11, 11), 4),
    "SimpleConvNet, square layers": (lambda: simple((1, 6, 6), 0, 1, 8, 8), (8, 1, 6, 6), 8),
    "DeepConvNet, the book's": (lambda: nr.DeepConvNet(rng=np.random.RandomState(0)), (2, 1, 28, 28), 10),
    "DeepConvNet, small": (lambda: deep(12, 3, 7, 5, channels=2), (5, 2, 12, 12), 5),
    "DeepConvNet, one of everything": (lambda: deep(4, 1, 1, 2), (1, 1, 4, 4), 2),
    "TwoLayerNet": (lambda: nr.TwoLayerNet(784, 50, 10), (8, 784), 10),
    "TwoLayerNet of images, chapter 4": (lambda: nr.TwoLayerNet(60, 8, 8, activation="sigmoid"), (8, 2, 5, 6), 8),
    "ThreeLayerNet": (nr.ThreeLayerNet, (8, 784), 10),
    "MultiLayerNet, chapter 6": (lambda: nr.MultiLayerNet(784, [100] * 4, 10), (8, 784), 10),
    "MultiLayerNet with sigmoid": (lambda: nr.MultiLayerNet(9, (8, 8, 7), 4, "sigmoid", "xavier"), (8, 9), 4),
    "MultiLayerNet without hidden layers": (lambda: nr.MultiLayerNet(9, [], 4), (1, 9), 4),
    "LeNet5": (nr.LeNet5, (2, 1, 28, 28), 10),
    "LeNet5, average and sigmoid": (lambda: nr.LeNet5((2, 12, 12), 3, "average", "sigmoid"), (4, 2, 12, 12), 3),
    "ConvNet": (
        lambda: nr.ConvNet((2, 8, 8), [{"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 1}] * 2, [5], 3, [2]),
        (4, 2, 8, 8),
        3,
    ),
    "MultiLayerNetExtend": (lambda: nr.MultiLayerNetExtend(9, [8, 7], 4, use_batchnorm=True), (8, 9), 4),
    "AlexNet, a 32nd as wide": (lambda: nr.AlexNet((3, 67, 67), 7, 1 / 32), (2, 3, 67, 67), 7),
}


MANY = 500  # values of a sample: 128 of larger ones take seconds
LARGE = "training", "prediction", "batch"


# Without convolutions, both twins are one.
@pytest.mark.parametrize(
    ("name", "conv"),
    [(name, conv) for name in NETWORKS for conv in CONVOLUTIONS if "Layer" not in name or conv == "conv2d"],
)
def test_the_twin_agrees(name: str, conv: Convolution, setting: Setting) -> None:
    make, shape, classes = NETWORKS[name]
    reference, rng = make(), np.random.default_rng(0)
    reference.set_params(cast_params(seeded_params(1, reference.params), setting.dtype))
    twin = from_reference(reference, conv, setting.device)
    assert {parameter.dtype for parameter in twin.parameters()} == {setting.dtype}
    every = np.prod(shape[1:]) < MANY and (conv == "conv2d" or name.startswith("SimpleConvNet"))
    runs = ALL if every else LARGE
    x, t = rng.standard_normal(shape), rng.integers(0, classes, shape[0])
    report = check_parity(reference, twin, x, np.eye(classes)[t] if conv == "unfold" else t, runs=runs)
    report.raise_if_failed()
    rows = {(row.run, row.layer, row.quantity) for row in report.rows}
    for key, run in product(state_dict_keys(reference).values(), {"training", "batch", "integers"} & set(runs)):
        layer, attribute = key.split(".")
        assert {(run, layer, f"grad_{attribute}"), (run, layer, "output")} <= rows
    assert {("prediction", name.lower(), "output") for name in reference.layers if name.startswith("Dropout")} <= rows
