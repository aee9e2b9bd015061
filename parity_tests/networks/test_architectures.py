"""The book's other networks, chapters 3 to 6 and 8: parity of their twins, their start, and which params are whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.classic import ONES, alexnet_sizes
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS
from torchport.networks import CONVOLUTIONS, from_reference
from torchport.networks.architectures import recognise
from torchport.networks.names import cast_params, state_dict_keys
from torchport.parity import Setting, check_parity
from torchport.parity.cases import seeded_params
from torchport.parity.given import ALL

Params = dict[str, Any]


def deep(image: int, filters: int, hidden_size: int, output_size: int, channels: int = 1) -> nr.DeepConvNet:
    """A DeepConvNet with so many filters in every convolution."""
    conv_params: Any = {
        f"conv_param_{number}": {**param, "filter_num": filters} for number, param in enumerate(DEFAULT_CONV_PARAMS, 1)
    }
    rng = np.random.RandomState(0)
    return nr.DeepConvNet(
        (channels, image, image), **conv_params, hidden_size=hidden_size, output_size=output_size, rng=rng
    )


# The network, the shape of a batch, and the classes.
NETWORKS: dict[str, tuple[Callable[[], nr.Network], tuple[int, ...], int]] = {
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
    "LeNet5, average and sigmoid": (
        lambda: nr.LeNet5((2, 12, 12), 3, "average", "sigmoid"),
        (4, 2, 12, 12),
        3,
    ),
    "AlexNet, a 32nd as wide": (lambda: nr.AlexNet((3, 67, 67), 7, 1 / 32), (2, 3, 67, 67), 7),
}


MANY = 500  # values of a sample: 128 of larger ones take seconds
LARGE = "training", "prediction", "batch"


# Without convolutions, both twins are one.
@pytest.mark.parametrize(
    ("name", "conv"),
    [(name, conv) for name in NETWORKS for conv in CONVOLUTIONS if "Layer" not in name or conv == "conv2d"],
)
def test_the_twin_agrees(name: str, conv: str, setting: Setting) -> None:
    make, shape, classes = NETWORKS[name]
    reference, rng = make(), np.random.default_rng(0)
    reference.set_params(cast_params(seeded_params(1, reference.params), setting.dtype))
    twin = from_reference(reference, conv, setting.device)
    assert {parameter.dtype for parameter in twin.parameters()} == {setting.dtype}
    runs = ALL if np.prod(shape[1:]) < MANY else LARGE
    report = check_parity(reference, twin, rng.standard_normal(shape), rng.integers(0, classes, shape[0]), runs=runs)
    report.raise_if_failed()
    rows = {(row.run, row.layer, row.quantity) for row in report.rows}
    for key in state_dict_keys(reference).values():
        layer, attribute = key.split(".")
        assert ("batch", layer, f"grad_{attribute}") in rows
    assert {("prediction", name.lower(), "output") for name in reference.layers if name.startswith("Dropout")} <= rows


# --- How they start


def test_the_deep_networks_layers_are_the_books() -> None:
    net = nr.DeepConvNet(rng=np.random.RandomState(0))
    block = [f"Conv{2 * k - 1} Relu{2 * k - 1} Conv{2 * k} Relu{2 * k} Pool{k}" for k in (1, 2, 3)]
    assert list(net.layers) == " ".join([*block, "Affine1 Relu7 Dropout1 Affine2 Dropout2"]).split()
    assert [layer.pad for layer in net.layers.values() if isinstance(layer, nr.Convolution)] == [1, 1, 1, 2, 1, 1]
    shapes = [(16, 1, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]
    assert [net.params[f"W{k}"].shape for k in range(1, 9)] == [*shapes, (1024, 50), (50, 10)]
    assert list(net.params) == [f"{kind}{k}" for k in range(1, 9) for kind in "Wb"]


STARTS: dict[str, tuple[Callable[[np.random.RandomState], nr.Network], Callable[[int], float]]] = {
    "DeepConvNet": (lambda rng: nr.DeepConvNet(rng=rng), lambda inputs: np.sqrt(2.0 / inputs)),
    "TwoLayerNet": (lambda rng: nr.TwoLayerNet(784, 50, 10, rng=rng), lambda _: 0.01),
    "MultiLayerNet": (lambda rng: nr.MultiLayerNet(8, [7, 6], 5, rng=rng), lambda n: np.sqrt(2.0 / n)),
    "xavier": (lambda rng: nr.MultiLayerNet(8, [7], 5, "sigmoid", "Xavier", rng=rng), lambda n: np.sqrt(1.0 / n)),
    "ThreeLayerNet": (lambda rng: nr.ThreeLayerNet(8, (7, 6), 5, rng), lambda n: np.sqrt(1.0 / n)),
    "a number": (lambda rng: nr.MultiLayerNet(8, [7], 5, "relu", 0.5, rng=rng), lambda _: 0.5),
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


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (nr.TwoLayerNet(4, 3, 2), nr.Relu),
        (nr.TwoLayerNet(4, 3, 2, activation="sigmoid"), nr.Sigmoid),
        (nr.ThreeLayerNet(4, (3, 3), 2), nr.Sigmoid),
        (nr.MultiLayerNet(4, [3, 3, 3], 2), nr.Relu),
        (nr.MultiLayerNet(4, [3, 3, 3], 2, "sigmoid"), nr.Sigmoid),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nr.Network) else value.__name__,
)
def test_affine_layers_have_the_activation_between_them(network: nr.Network, kind: type) -> None:
    kinds = [type(layer) for layer in network.layers.values()]
    assert kinds == [nr.Affine, kind] * (len(kinds) // 2) + [nr.Affine]


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
    shapes = alexnet_sizes()
    weights = [(96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
    assert [shapes[f"W{k}"] for k in range(1, 9)] == [*weights, (9216, 4096), (4096, 4096), (4096, 1000)]
    net = nr.AlexNet((3, 67, 67), width=1 / 64)
    norms = [f"Conv{k} Relu{k} Norm{k} Pool{k}" for k in (1, 2)]
    rest = "Conv3 Relu3 Conv4 Relu4 Conv5 Relu5 Pool5 Affine1 Relu6 Dropout1 Affine2 Relu7 Dropout2 Affine3"
    assert list(net.layers) == " ".join([*norms, rest]).split()
    assert [name for name, value in net.params.items() if value.all() and name[0] == "b"] == list(ONES)


SMALL: dict[str, tuple[Callable[[], nr.Network], tuple[int, ...]]] = {
    "DeepConvNet": (lambda: deep(4, 2, 3, 3), (3, 1, 4, 4)),
    "TwoLayerNet": (lambda: nr.TwoLayerNet(5, 4, 3), (3, 5)),
    "MultiLayerNet": (lambda: nr.MultiLayerNet(5, [4, 4], 3, "sigmoid"), (3, 5)),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_the_losses_slope(name: str) -> None:
    net, x = SMALL[name][0](), np.random.default_rng(1).standard_normal(SMALL[name][1])
    net.set_params(seeded_params(4, net.params))
    for layer in net.layers.values():
        if isinstance(layer, nr.Dropout):
            layer.dropout_ratio = 0.0  # another mask at every call has no slope
    t = np.array([0, 1, 2])
    found, expected = net.gradient(x, t), net.numerical_gradient(x, t)
    for key in net.params:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-6)
    assert max(np.abs(value).max() for value in found.values()) > 0.01


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


# --- Which parameters are whose


def simple(image: int, filter_num: int, filter_size: int, pad: int, stride: int) -> nr.Network:
    conv_param = {"filter_num": filter_num, "filter_size": filter_size, "pad": pad, "stride": stride}
    return nr.SimpleConvNet((2, image, image), conv_param, 6, 6)


# The network, what recognise is told, the line that it prints, and a word of its note.
KNOWN: dict[str, tuple[Callable[[], nr.Network], dict[str, Any], str, str]] = {
    "the book's": (
        nr.SimpleConvNet,
        {},
        "SimpleConvNet(input_dim=(1, 28, 28), conv_param={'filter_num': 30, 'filter_size': 5, 'pad': 0, 'stride': 1}, "
        "hidden_size=100, output_size=10)",
        "another image size",
    ),
    "stride 2, pad 1": (
        lambda: simple(11, 3, 3, 1, 2),
        {"stride": 2, "pad": 1},
        "SimpleConvNet(input_dim=(2, 11, 11), conv_param={'filter_num': 3, 'filter_size': 3, 'pad': 1, 'stride': 2}, "
        "hidden_size=6, output_size=6)",
        "",
    ),
    "chapter 8": (nr.DeepConvNet, {}, "DeepConvNet(input_dim=(1, 28, 28), hidden_size=50, output_size=10)", "pads"),
    "another first convolution": (
        lambda: nr.DeepConvNet((3, 20, 20), {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}),
        {},
        "DeepConvNet(input_dim=(3, 20, 20), conv_param_1={'filter_num': 4, 'filter_size': 3, 'pad': 1, 'stride': 1}, "
        "hidden_size=50, output_size=10)",
        "pads",
    ),
    "chapter 3": (
        nr.ThreeLayerNet,
        {},
        "ThreeLayerNet(input_size=784, output_size=10, hidden_size_list=[50, 100])",
        "sigmoid is taken",
    ),
    "chapter 3's sizes with relu": (
        lambda: nr.MultiLayerNet(784, [50, 100], 10),
        {"activation": "relu"},
        "MultiLayerNet(input_size=784, output_size=10, hidden_size_list=[50, 100], activation='relu')",
        "",
    ),
    "chapter 5": (
        lambda: nr.TwoLayerNet(784, 50, 10),
        {},
        "TwoLayerNet(input_size=784, output_size=10, hidden_size=50, activation='relu')",
        "may be sigmoid",
    ),
    "chapter 4": (
        lambda: nr.TwoLayerNet(784, 50, 10, activation="sigmoid"),
        {"activation": "sigmoid"},
        "TwoLayerNet(input_size=784, output_size=10, hidden_size=50, activation='sigmoid')",
        "",
    ),
    "square layers": (
        lambda: nr.MultiLayerNet(8, [8, 8], 8),
        {},
        "MultiLayerNet(input_size=8, output_size=8, hidden_size_list=[8, 8], activation='relu')",
        "may be sigmoid",
    ),
    "LeNet-5": (
        nr.LeNet5,
        {},
        "LeNet5(input_dim=(1, 28, 28), output_size=10, subsampling='trainable', activation='tanh')",
        "may be sigmoid",
    ),
    "LeNet-5 without trained subsampling": (
        lambda: nr.LeNet5((3, 32, 32), 4, "average", "sigmoid"),
        {"activation": "sigmoid"},
        "LeNet5(input_dim=(3, 32, 32), output_size=4, subsampling='average', activation='sigmoid')",
        "",
    ),
    "AlexNet": (
        lambda: nr.AlexNet((2, 67, 67), 4, 1 / 64),
        {},
        "AlexNet(input_dim=(2, 67, 67), output_size=4, width=0.015625)",
        "the paper's strides",
    ),
    "one layer": (
        lambda: nr.MultiLayerNet(9, [], 4),
        {},
        "MultiLayerNet(input_size=9, output_size=4, hidden_size_list=[], activation='relu')",
        "",
    ),
}


@pytest.mark.parametrize("width", [0.0001, 0.0043, 0.037, 0.043, 0.056, 0.069, 1 / 8, 0.3, 1 / 2, 1.0, 1.3])
def test_alexnets_width_is_found_in_the_counts_of_all_layers(width: float) -> None:
    sizes = alexnet_sizes((3, 67, 67), 7, width)
    params = {name: np.broadcast_to(np.float32(0), shape) for name, shape in sizes.items()}
    found = recognise(params).arguments["width"]
    assert alexnet_sizes((3, 67, 67), 7, found) == sizes
    if width in (1 / 8, 1 / 2, 1.0):
        assert found == width


@pytest.mark.parametrize("name", KNOWN)
def test_params_are_recognised(name: str) -> None:
    make, told, line, note = KNOWN[name]
    network = make()
    network.set_params(cast_params(seeded_params(0, network.params), torch.float32))
    found = recognise(network.params, **told)
    assert str(found) == (f"{line}  # {found.note}" if note else line)
    assert note in found.note
    again = found.reference(network.params)
    assert type(again) is type(network)
    assert type(eval(str(found), dict(vars(nr)))) is type(network)
    shape = found.arguments.get("input_dim") or (found.arguments["input_size"],)
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(x), network.predict(x))
    for conv in CONVOLUTIONS:
        port = found.port(network.params, conv).eval()
        np.testing.assert_allclose(port(torch.from_numpy(x)).detach().numpy(), network.predict(x), rtol=1e-3, atol=1e-4)
    assert not np.shares_memory(again.params["W1"], network.params["W1"])


def without(*names: str) -> Callable[[Params], Params]:
    return lambda params: {name: value for name, value in params.items() if name not in names}


def changed(**functions: Callable[[Array], Any]) -> Callable[[Params], Params]:
    return lambda params: {**params, **{name: function(params[name]) for name, function in functions.items()}}


NEAR: dict[str, tuple[Callable[[], nr.Network], Callable[[Params], Params], str]] = {
    "transposed W2": (
        nr.SimpleConvNet,
        changed(W2=np.transpose),
        r"SimpleConvNet, but W2 \(100, 4320\) is transposed: ",
    ),
    "missing b3": (
        nr.SimpleConvNet,
        without("b3"),
        r"W3 \(100, 10\); the nearest is SimpleConvNet, but b3 is missing$",
    ),
    "extra W4": (nr.SimpleConvNet, lambda p: {**p, "W4": p["W3"]}, "nearest is SimpleConvNet, but W4 is unexpected$"),
    "flat filters": (nr.SimpleConvNet, changed(W1=lambda w: w.reshape(30, 25)), r"W1 \(30, 25\) should have 4 axes"),
    "no square": (
        nr.SimpleConvNet,
        changed(W1=lambda w: w[:29], b1=lambda b: b[:29]),
        "29 times a square number inputs$",
    ),
    "oblong filters": (
        nr.SimpleConvNet,
        changed(W1=lambda w: w[..., :4]),
        r"\(30, 1, 5, 4\) should have square filters$",
    ),
    "column bias": (nr.SimpleConvNet, changed(b2=lambda b: b[:, None]), r"b2 \(100, 1\) should be \(100,\)$"),
    "empty": (nr.SimpleConvNet, changed(W3=lambda w: w[:0]), r"W3 \(0, 10\) should have 2 axes, none of them empty$"),
    "a row short": (
        nr.DeepConvNet,
        changed(W7=lambda w: w[1:]),
        r"DeepConvNet, but W7 \(1023, 50\) should take 64 times",
    ),
    "another filter count": (
        nr.DeepConvNet,
        changed(W4=lambda w: w[:, 1:]),
        r"W4 \(32, 31, 3, 3\) should take 32 inputs$",
    ),
    "no last layer": (nr.DeepConvNet, without("W8", "b8"), "DeepConvNet, but W8 is missing; b8 is missing$"),
    "too large filters": (
        lambda: deep(4, 1, 1, 2),
        changed(W1=lambda w: np.zeros((1, 1, 1, 1)), W2=lambda w: np.zeros((1, 1, 1, 1))),
        "DeepConvNet, but with the book's padding an image would have 0 pixels a side$",
    ),
    "statistics": (nr.ThreeLayerNet, lambda p: {**p, "gamma1": p["b1"]}, "MultiLayerNet, but gamma1 is unexpected$"),
    "transposed": (nr.ThreeLayerNet, changed(W2=np.transpose), r"MultiLayerNet, but W2 \(100, 50\) is transposed"),
    "inside": (nr.ThreeLayerNet, changed(W2=lambda w: w[1:]), r"W2 \(49, 100\) should take 50 inputs$"),
    "two layers": (lambda: nr.TwoLayerNet(4, 3, 2), without("b1"), "TwoLayerNet, but b1 is missing$"),
    "no weights": (
        nr.SimpleConvNet,
        lambda p: {"conv1.weight": p["W1"]},
        r"W1, b1, .* got conv1\.weight \(30, 1, 5, 5\)$",
    ),
    "nothing": (nr.SimpleConvNet, lambda p: {}, "got no arrays$"),
    "a hundred": (
        nr.SimpleConvNet,
        lambda p: {f"W{k}": p["b1"] for k in range(100)},
        r"W23 \(30,\), and 76 more; the nearest .*; and \d+ more$",
    ),
    "a name of two lines": (nr.SimpleConvNet, lambda p: {**p, "a\nb": p["b1"]}, r"but 'a\\nb'\.\.\. is unexpected$"),
}


@pytest.mark.parametrize("case", NEAR)
def test_near_misses_are_told(case: str) -> None:
    make, spoil, says = NEAR[case]
    params = spoil(make().params)
    with pytest.raises(ValueError, match=says) as failure:
        recognise(params)
    assert "\n" not in str(failure.value)
    assert all(f"{name} {value.shape}" in str(failure.value) for name, value in list(params.items())[:6])


REFUSED: dict[str, tuple[Callable[[], nr.Network], dict[str, Any], type[Exception], str]] = {
    "stride": (nr.ThreeLayerNet, {"stride": 2}, ValueError, r"stride and pad \(2, 0\) cannot be MultiLayerNet's"),
    "pad": (lambda: deep(4, 1, 1, 2), {"pad": 1}, ValueError, r"\(1, 1\) cannot be DeepConvNet's: leave it out"),
    "sigmoid": (nr.SimpleConvNet, {"activation": "sigmoid"}, ValueError, "'sigmoid' cannot be SimpleConvNet's"),
    "tanh": (nr.ThreeLayerNet, {"activation": "tanh"}, ValueError, "activation 'tanh' cannot be"),
    "no image": (nr.SimpleConvNet, {"pad": 20}, ValueError, "no SimpleConvNet with stride 1 and pad 20 has W1"),
    "a half": (nr.SimpleConvNet, {"stride": 0.5}, TypeError, "stride must be an integer, got 0.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_apply_are_refused(case: str) -> None:
    make, told, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        recognise(make().params, **told)


def test_params_of_another_architecture_are_refused() -> None:
    found = recognise(nr.ThreeLayerNet().params)
    with pytest.raises(ValueError, match=r"W1 is \(9, 50\), expected \(784, 50\)"):
        found.reference(nr.MultiLayerNet(9, [50, 100], 10).params)
    with pytest.raises(TypeError, match="int64"):
        recognise({"W1": np.ones((2, 2), int), "b1": np.ones(2, int)})
