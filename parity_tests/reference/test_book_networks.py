"""The book's other networks, chapters 3 to 6 and 8: their layers and how they start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.classic import ONES, alexnet_stack
from numpy_ref.stack import weight_shapes
from reference.networks import deep


def test_the_deep_networks_layers_are_the_books() -> None:
    net = nr.DeepConvNet(rng=np.random.RandomState(0))
    block = [f"Conv{2 * k - 1} Relu{2 * k - 1} Conv{2 * k} Relu{2 * k} Pool{k}" for k in (1, 2, 3)]
    assert list(net.layers) == " ".join([*block, "Affine1 Relu7 Dropout1 Affine2 Dropout2"]).split()
    assert [layer.pad for layer in net.layers.values() if isinstance(layer, nr.Convolution)] == [1, 1, 1, 2, 1, 1]
    shapes = [(16, 1, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]
    assert [net.params[f"W{k}"].shape for k in range(1, 9)] == [*shapes, (1024, 50), (50, 10)]
    assert list(net.params) == [f"{kind}{k}" for k in range(1, 9) for kind in "Wb"]


# Those of which no start is recorded in golden/chapters.npz.
STARTS: dict[str, tuple[Callable[[np.random.RandomState], nr.Network], Callable[[int], float]]] = {
    "DeepConvNet": (lambda rng: nr.DeepConvNet(rng=rng), lambda inputs: np.sqrt(2.0 / inputs)),
    "ThreeLayerNet": (lambda rng: nr.ThreeLayerNet(8, (7, 6), 5, rng), lambda n: np.sqrt(1.0 / n)),
}


@pytest.mark.parametrize("name", STARTS)
def test_weights_are_drawn_in_order_from_one_stream(name: str) -> None:
    make, scale = STARTS[name]
    net, stream = make(np.random.RandomState(3)), np.random.RandomState(3)
    for key, value in net.params.items():
        if key.startswith("b"):
            assert not value.any()
            continue
        inputs = int(np.prod(value.shape[1:])) if value.ndim == 4 else value.shape[0]
        np.testing.assert_array_equal(value, scale(inputs) * stream.randn(*value.shape))


@pytest.mark.parametrize("network", [nr.TwoLayerNet(4, 3, 2, activation="sigmoid"), nr.ThreeLayerNet(4, (3, 3), 2)])
def test_affine_layers_have_a_sigmoid_between_them(network: nr.Network) -> None:
    kinds = [type(layer) for layer in network.layers.values()]
    assert kinds == [nr.Affine, nr.Sigmoid] * (len(kinds) // 2) + [nr.Affine]


def test_the_deep_networks_loss_has_dropout_as_the_books() -> None:
    nets = [deep(4, 2, 9, 3) for _ in range(3)]
    x, t = np.random.default_rng(0).standard_normal((4, 1, 4, 4)), np.array([0, 1, 2, 0])
    loss = nets[0].loss(x, t)
    assert loss == nets[1].loss(x, t, train_flg=True)
    assert loss != nets[2].loss(x, t, train_flg=False)


def test_lenets_layers_are_the_papers() -> None:
    """Of 32 x 32 pixels: the sizes of its figure 2, and the trained parameters of its section II.B up to F6.

    But for C3, which sees all six maps here (2,416 instead of 1,516), and the affine output.
    """
    net, x, shapes = nr.LeNet5(), np.zeros((1, 1, 28, 28)), []
    for name, layer in net.layers.items():
        x = layer.forward(x)
        shapes += [x.shape[1:]] if not name.startswith("Tanh") else []
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120,), (84,), (10,)]
    counts = [net.params[f"W{k}"].size + net.params[f"b{k}"].size for k in range(1, 8)]
    assert counts == [156, 12, 2416, 32, 48120, 10164, 850]
    kinds = "Convolution Tanh Subsampling Tanh Convolution Tanh Subsampling Tanh Affine Tanh Affine Tanh Affine"
    assert [type(layer).__name__ for layer in net.layers.values()] == kinds.split()
    kinds = "Convolution Sigmoid AveragePooling Convolution Sigmoid AveragePooling Affine Sigmoid Affine Sigmoid Affine"
    average = nr.LeNet5(subsampling="average", activation="sigmoid")
    assert [type(layer).__name__ for layer in average.layers.values()] == kinds.split()


def test_alexnets_layers_are_the_papers() -> None:
    """Its figure 2, in one stream: the split halves what the second, fourth and fifth convolution see."""
    shapes = weight_shapes((3, 227, 227), alexnet_stack())
    weights = [(96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
    assert [shapes[f"W{k}"] for k in range(1, 9)] == [*weights, (9216, 4096), (4096, 4096), (4096, 1000)]
    net = nr.AlexNet((3, 67, 67), width=1 / 64)
    norms = [f"Conv{k} Relu{k} Norm{k} Pool{k}" for k in (1, 2)]
    rest = "Conv3 Relu3 Conv4 Relu4 Conv5 Relu5 Pool5 Affine1 Relu6 Dropout1 Affine2 Relu7 Dropout2 Affine3"
    assert list(net.layers) == " ".join([*norms, rest]).split()
    assert [name for name, value in net.params.items() if value.all() and name[0] == "b"] == list(ONES)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "not square": (lambda: nr.DeepConvNet((1, 28, 27)), ValueError, "28x27"),
    "odd before a pool": (lambda: nr.DeepConvNet((1, 26, 26)), ValueError, "must be even for 2x2 pooling, got 15x15"),
    "keys": (lambda: nr.DeepConvNet(conv_param_3={"pad": 1}), ValueError, r"must have the keys .* got \['pad'\]"),
    "deep hidden size": (lambda: nr.DeepConvNet(hidden_size=0), ValueError, "hidden_size must be at least 1, got 0"),
    "input size": (lambda: nr.TwoLayerNet(0, 1, 1), ValueError, "input_size must be at least 1, got 0"),
    "a hidden size": (lambda: nr.MultiLayerNet(1, [2, 2.5], 1), TypeError, r"hidden_size_list must be .* 2\.5"),  # type: ignore[list-item]
    "no list": (lambda: nr.MultiLayerNet(1, 5, 1), TypeError, "must be a list of sizes, got 5"),  # type: ignore[arg-type]
    "activation": (lambda: nr.TwoLayerNet(1, 1, 1, activation="tanh"), ValueError, "one of relu, sigmoid, got 'tanh'"),
    "scale": (
        lambda: nr.MultiLayerNet(1, [], 1, weight_init_std="lecun"),
        ValueError,
        "he, sigmoid, xavier, got 'lecun'",
    ),
    "LeNet's subsampling": (lambda: nr.LeNet5(subsampling="max"), ValueError, "one of trainable, average, got 'max'"),
    "LeNet's activation": (lambda: nr.LeNet5(activation="relu"), ValueError, "one of tanh, sigmoid, got 'relu'"),
    "LeNet's image": (lambda: nr.LeNet5((1, 29, 29)), ValueError, "must be even for 2x2 pooling, got 29x29"),
    "AlexNet's image": (lambda: nr.AlexNet((3, 71, 71)), ValueError, "71 pixels does not fit: sizes are 67 [+] 32 k"),
    "AlexNet between": (lambda: nr.AlexNet((3, 83, 83)), ValueError, "83x83 pixels .* 67 [+] 32 k"),
    "AlexNet's paper": (lambda: nr.AlexNet((3, 224, 224)), ValueError, "224x224 pixels .* such as the paper's 227"),
    "AlexNet's width": (lambda: nr.AlexNet(width=0), ValueError, "width must be above 0, got 0"),
    "LRN's size": (lambda: nr.LocalResponseNormalization(4), ValueError, "size must be odd, .* got 4"),
    "LRN's k": (lambda: nr.LocalResponseNormalization(k=0), ValueError, "k must be above 0, got 0"),
    "subsampling's maps": (
        lambda: nr.Subsampling(np.ones(2), np.ones(2)).forward(np.ones((1, 3, 4, 4))),
        ValueError,
        r"x must be \(N, 2, H, W\), got shape \(1, 3, 4, 4\)",
    ),
    "negative scale": (
        lambda: nr.TwoLayerNet(1, 1, 1, -0.1),
        ValueError,
        "weight_init_std must be at least 0, got -0.1",
    ),
    "three layers": (
        lambda: nr.ThreeLayerNet(hidden_size_list=[5]),
        ValueError,
        r"two sizes, got \[5\]: use MultiLayerNet",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_sizes_that_do_not_fit_are_named(case: str) -> None:
    make, error, says = BAD[case]
    with pytest.raises(error, match=says):
        make()
