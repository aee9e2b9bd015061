"""recognise: the network that params belong to, by names and shapes, or the differences from the nearest one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference.networks import deep

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.classic import alexnet_stack
from numpy_ref.simple_convnet import DEFAULT_CONV_PARAM
from numpy_ref.stack import weight_shapes
from torchport.networks import CONVOLUTIONS, Hints, Weights, recognise
from torchport.networks.names import cast_params
from torchport.parity.cases import seeded_params

Params = dict[str, Any]


def simple(image: int, filter_num: int, filter_size: int, pad: int, stride: int) -> nr.Network:
    conv_param = {"filter_num": filter_num, "filter_size": filter_size, "pad": pad, "stride": stride}
    return nr.SimpleConvNet((2, image, image), conv_param, 6, 6)


# The network, recognise's other arguments, the line that it prints, and a word of its note.
KNOWN: dict[str, tuple[Callable[[], nr.Network], dict[str, Any], str, str]] = {
    "the book's": (
        nr.SimpleConvNet,
        {},
        "SimpleConvNet(input_dim=(1, 28, 28), conv_param={'filter_num': 30, 'filter_size': 5, 'pad': 0, 'stride': 1}, "
        "hidden_size=100, output_size=10)",
        "another image size",
    ),
    "with another activation": (
        lambda: nr.ConvNet((1, 28, 28), [DEFAULT_CONV_PARAM], [100], 10, [1], "sigmoid"),
        {"activation": "sigmoid"},
        "ConvNet(input_dim=(1, 28, 28), conv_params=[{'filter_num': 30, 'filter_size': 5, 'pad': 0, 'stride': 1}], "
        "hidden_size_list=[100], output_size=10, pool_after=[1], activation='sigmoid')",
        "pool=1 pad=0 are assumed, as in the book",
    ),
    "pooling that is told": (
        lambda: nr.ConvNet((2, 8, 8), [{**DEFAULT_CONV_PARAM, "pad": 2}] * 2, [6], 3, [2], "tanh"),
        {"activation": "tanh", "pool": [2], "pad": 2},
        "ConvNet(input_dim=(2, 8, 8), conv_params=[{'filter_num': 30, 'filter_size': 5, 'pad': 2, 'stride': 1}, "
        "{'filter_num': 30, 'filter_size': 5, 'pad': 2, 'stride': 1}], hidden_size_list=[6], output_size=3, "
        "pool_after=[2], activation='tanh')",
        "",
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
        "sigmoid is assumed",
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
    sizes = weight_shapes((3, 67, 67), alexnet_stack(7, width))
    params = {name: np.broadcast_to(np.float32(0), shape) for name, shape in sizes.items()}
    width_found = recognise(params).arguments["width"]
    assert weight_shapes((3, 67, 67), alexnet_stack(7, width_found)) == sizes
    if width in (1 / 8, 1 / 2, 1.0):
        assert width_found == width


@pytest.mark.parametrize("name", KNOWN)
def test_params_are_recognised(name: str) -> None:
    make, hints, line, note = KNOWN[name]
    network = make()
    network.set_params(cast_params(seeded_params(0, network.params), torch.float32))
    architecture = recognise(network.params, **hints)
    assert str(architecture) == (f"{line}  # {architecture.note}" if note else line)
    assert note in architecture.note
    again = architecture.reference(network.params)
    assert type(again) is type(network)
    assert type(eval(str(architecture), dict(vars(nr)))) is type(network)
    shape = architecture.arguments.get("input_dim") or (architecture.arguments["input_size"],)
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(x), network.predict(x))
    weights = Weights.of(network.params, Hints(**hints))
    assert weights.architecture == architecture
    for conv in CONVOLUTIONS:
        port = weights.port(conv).eval()
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
    "too large filters": (
        lambda: deep(4, 1, 1, 2),
        changed(W1=lambda w: np.zeros((1, 1, 1, 1)), W2=lambda w: np.zeros((1, 1, 1, 1))),
        "no DeepConvNet with the book's strides and pads has .*: an image would have 0 pixels a side: say where else",
    ),
    "half a normalisation": (
        lambda: nr.MultiLayerNetExtend(6, [5, 4], 3, use_batchnorm=True),
        without("beta1"),
        "MultiLayerNet, but beta1 is missing$",
    ),
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
    "stride": (nr.ThreeLayerNet, {"stride": 2}, ValueError, "stride 2 cannot be MultiLayerNet's: leave it out$"),
    "pad": (lambda: deep(4, 1, 1, 2), {"pad": 1}, ValueError, "pad 1 cannot be DeepConvNet's: leave it out$"),
    "pool": (nr.ThreeLayerNet, {"pool": [1]}, ValueError, r"pool \[1\] cannot be MultiLayerNet's"),
    "relu": (nr.LeNet5, {"activation": "relu"}, ValueError, "activation 'relu' cannot be LeNet5's"),
    "no activation": (nr.LeNet5, {"activation": "elu"}, ValueError, "one of relu, sigmoid, tanh or None, got 'elu'"),
    "no convolution": (nr.SimpleConvNet, {"pool": [2]}, ValueError, r"must name convolutions of 1 to 1, got \[2\]"),
    "no pooling told": (
        lambda: nr.ConvNet((1, 14, 14), [{**DEFAULT_CONV_PARAM, "filter_size": 3}] * 2, [6], 3, [2]),
        {"activation": "sigmoid"},
        ValueError,
        r"do not tell where 2x2 pooling stands\. .* 14 with pool=2 pad=0.*: give pool, .*\(--pool\), and pad$",
    ),
    "tanh": (nr.ThreeLayerNet, {"activation": "tanh"}, ValueError, "activation 'tanh' cannot be"),
    "no image": (nr.SimpleConvNet, {"pad": 20}, ValueError, "no SimpleConvNet with stride 1 and pad 20 has W1"),
    "a half": (nr.SimpleConvNet, {"stride": 0.5}, TypeError, "stride must be an integer, got 0.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_apply_are_refused(case: str) -> None:
    make, hints, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        recognise(make().params, **hints)


def test_params_of_another_architecture_are_refused() -> None:
    architecture = recognise(nr.ThreeLayerNet().params)
    with pytest.raises(ValueError, match=r"W1 is \(9, 50\), expected \(784, 50\)"):
        architecture.reference(nr.MultiLayerNet(9, [50, 100], 10).params)
