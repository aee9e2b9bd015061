"""No function of either package changes its arguments, and none needs them to be writable.

Each public function and method is called on arguments that are compared, to the bit, with what they were.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import numpy_ref as nr
import torchport
from numpy_ref import (
    checks,
    classic,
    deep_convnet,
    files,
    functions,
    layers,
    multi_layer_net_extend,
    network as ref_network,
    params,
    pickles,
    simple_convnet,
    stack,
)
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from numpy_ref.optimizer import OPTIMIZERS, Optimizer
from numpy_ref.util import pad_image
from torchport import (
    architectures,
    benchmark,
    drawn,
    evaluation,
    figures,
    glyphs,
    images,
    states,
    subjects,
    training,
    weights,
)
from torchport.formats import npz, pt, safe
from torchport.images import check_images
from torchport.layers import arithmetic, kinds, loss, modules as layer_modules, smooth, sums
from torchport.layers.kinds import Near
from torchport.networks import from_reference
from torchport.parity import (
    Report,
    Setting,
    cases,
    check_optimizer,
    compare as compare_arrays,
    differences,
    given,
    independent,
    page,
    trace,
)
from torchport.parity.compare import check_layer, check_loss, check_parity, check_predictions
from torchport.training.pooled import Gathered, PoolFirst, conv_pool_relu, pools_at_once
from torchport.training.samples import cut_and_checked
from torchport.training.state import all_finite, copied, put_back
from torchport.twins import load_layer

T = TypeVar("T")

SIZES: dict[str, Any] = {
    "input_dim": (1, 4, 4),
    "conv_param": {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1},
    "hidden_size": 3,
    "output_size": 4,
}

SHAPES = simple_convnet.simple_convnet_sizes(**SIZES)

DEEP_SIZES: dict[str, Any] = {
    "input_dim": (1, 4, 4),
    "conv_param_2": {**deep_convnet.DEFAULT_CONV_PARAMS[1], "filter_num": 2},
}


def leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Whatever value is made of, by where it stands: what networks and layers remember too."""
    if isinstance(value, nn.Module):
        parts: dict[Any, object] = dict(value.named_parameters())
        # Buffers are watched for their values only: they may be put back.
        parts |= {name: state(buffer.cpu().numpy()) for name, buffer in value.named_buffers()}
        for path_inside, module in value.named_modules():  # training, draw and whatever else a layer has
            parts |= {f"{path_inside}.{key}": part for key, part in vars(module).items() if not key.startswith("_")}
    elif isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif type(value).__module__.startswith(("numpy_ref.", "torchport.")):
        parts = vars(value)
    else:
        yield path, value
        return
    yield path, list(parts)
    for name, part in parts.items():
        yield from leaves(part, f"{path}.{name}")


def state(value: object) -> object:
    """All that a function could change about a leaf, as something that == compares.

    Not what a random stream will draw next: it is there to be drawn from.
    """
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.strides, value.tobytes()
    if isinstance(value, Tensor):
        grad = None if value.grad is None else state(value.grad)
        return value.dtype, value.shape, value.requires_grad, value._version, grad, state(value.detach().cpu().numpy())
    return value


class Arguments:
    """Makes arguments, read-only where that is asked for, and knows what they were."""

    def __init__(self, folder: Path, writeable: bool) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)
        self._writeable = writeable
        self._given: list[tuple[object, dict[str, object]]] = []

    def give(self, value: T) -> T:
        """value, watched from now on."""
        for _, leaf in leaves(value, ""):
            if isinstance(leaf, np.ndarray) and not self._writeable:
                leaf.flags.writeable = False
        self._given.append((value, {path: state(leaf) for path, leaf in leaves(value, "")}))
        return value

    def changed(self) -> list[str]:
        """Where an argument, by its number, is no longer what it was."""
        found = []
        for number, (value, before) in enumerate(self._given):
            after = {path: state(leaf) for path, leaf in leaves(value, "")}
            found += [f"{number}{path}" for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        return found

    def array(self, *shape: int) -> Array:
        """Of either sign, with some zeros."""
        return self.give(np.round(self.rng.standard_normal(shape), 1))

    def sizes(self, *shape: int) -> Array:
        """Small positive numbers, as limits are."""
        return self.give(0.01 * self.rng.random(shape))

    def labels(self, n: int, classes: int = 4) -> Array:
        return self.give(np.arange(n) % classes)

    def one_hot(self, n: int, classes: int) -> Array:
        return self.give(np.eye(classes)[np.arange(n) % classes])

    def tensor(self, *shape: int) -> Tensor:
        return self.give(torch.from_numpy(self.rng.standard_normal(shape)))

    def leaf(self, *shape: int) -> Tensor:
        return self.give(torch.from_numpy(self.rng.standard_normal(shape)).requires_grad_())

    def params(self) -> dict[str, Array]:
        return self.give(cases.seeded_params(0, network().params))

    def state_dict(self) -> dict[str, Tensor]:
        return self.give(port().state_dict())


def network() -> nr.SimpleConvNet:
    return nr.SimpleConvNet(**SIZES, rng=np.random.RandomState(0))


def port(conv: str = "conv2d") -> torchport.SimpleConvNet:
    return torchport.SimpleConvNet.from_params(network().params, conv)


def some_samples(a: Arguments) -> training.Samples:
    images = a.give((np.arange(4 * 100) % 251).astype(np.uint8).reshape(4, 1, 10, 10))
    return a.give(training.Samples(images, a.labels(4), images, a.labels(4), 4))


def train_and_resume(a: Arguments) -> None:
    for model in ("conv2d", "unfold", "numpy"):
        config, samples = a.give(training.Config(model=model, epochs=1, batch_size=3, device="cpu")), some_samples(a)
        training.train(config, samples=samples, out=a.folder / model)
        training.resume(a.folder / model, epochs=2, samples=samples)


def convolution(a: Arguments) -> nr.Convolution:
    return nr.Convolution(a.array(2, 1, 3, 3), a.array(2))


def recognised(a: Arguments) -> architectures.Architecture:
    return a.give(architectures.recognise(a.params()))


def look_at(a: Arguments) -> None:
    subjects.boxes(a.give(subjects.seeded_subject(0, recognised(a))))


def look_into(a: Arguments) -> None:
    """Layers remember what they were given; weights stay."""
    net = network()
    a.give(net.params)
    subjects.maps_of(a.give(net.outputs(a.array(2, 1, 4, 4))), a.give(["conv1"]))
    layer = a.give(subjects.convolution(net)[1])
    kinds.kind_of(layer).about(layer)


def extend(a: Arguments) -> None:
    net = nr.MultiLayerNetExtend(4, a.give([3, 2]), 4, weight_decay_lambda=0.1, use_batchnorm=True)
    a.give(net.params)
    net.loss(a.array(5, 4), a.labels(5))
    net.gradient(a.array(5, 4), a.labels(5))


def combine(a: Arguments) -> None:
    for layer in (nr.MulLayer(), nr.AddLayer()):
        layer.forward(a.array(2, 3), a.array(2, 3))
        layer.backward(a.array(2, 3))


def window(a: Arguments) -> None:
    layer = layers.WindowLayer(2, 2)
    layer.windows(a.array(2, 1, 4, 4), 0)
    layer.per_window(layer.image(a.array(8)))
    layer.scatter(a.array(8, 4))


def optimize_reference(a: Arguments) -> None:
    """params are moved by contract; gradients are not."""
    for rule in OPTIMIZERS.values():
        params, optimizer = {"W": np.ones((2, 3))}, rule(0.1)
        grads = a.give({"W": np.ones((2, 3))})
        for _ in range(2):
            optimizer.update(params, grads)


def optimize_port(a: Arguments) -> None:
    """Likewise."""
    for name in OPTIMIZERS:
        param = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
        param.grad = a.tensor(2, 3)
        optimizer = torchport.make_optimizer(name, [param])
        for _ in range(2):
            optimizer.step()


def train(a: Arguments) -> None:
    """The network is trained by contract; the data are not."""
    data = a.array(5, 1, 4, 4), a.labels(5), a.array(3, 1, 4, 4), a.one_hot(3, 4)
    options, rng = a.give({"lr": 0.1}), np.random.RandomState(0)
    nr.Trainer(
        network(), *data, epochs=2, mini_batch_size=2, optimizer="Adam", optimizer_param=options, rng=rng
    ).train()


def bound(a: Arguments) -> None:
    """The rule of every kind of layer, which must not spoil what the layer remembers of its forward."""
    for make in LAYERS.values():
        layer, x = make(a)
        oracle = trace.make_step("layer", layer, torchport.Dropout(), FLOAT64).oracle  # which repeats its mask
        shape = oracle.forward(x).shape
        rule, near = kinds.kind_of(a.give(oracle)).rule, Near(x, a.sizes(*x.shape))
        rule.forward(oracle, near, FLOAT64.arithmetic)
        kinds.class_name(oracle)
        rule.backward(oracle, near, Near(a.array(*shape), a.sizes(*shape)), FLOAT64.arithmetic)


def check_networks(a: Arguments) -> None:
    for conv in torchport.networks.CONVOLUTIONS:
        reference = network()
        reference.gradient(np.ones((1, 1, 4, 4)), np.zeros(1, int))  # something to remember
        x, t = a.array(3, 1, 4, 4), a.labels(3)
        check_parity(a.give(reference), a.give(port(conv)), x, t).raise_if_failed()
    drawing, other = varied(a)
    check_parity(drawing, a.give(other), a.array(4, 1, 4, 4), a.labels(4)).raise_if_failed()


def varied(a: Arguments) -> tuple[nr.Network, nn.Module]:
    """A network that draws and keeps statistics, and its port, with a module in evaluation mode inside another."""
    layers: dict[str, Layer] = {
        "Conv": convolution(a),
        "Pool": nr.AveragePooling(2, 2, 1),
        "Affine": nr.Affine(a.array(2, 4), a.array(4)),
        "Norm": nr.BatchNormalization(a.array(4), a.array(4), 0.9, a.array(4), a.sizes(4)),
        "Dropout": nr.Dropout(0.5, np.random.RandomState(0)),
    }
    reference = a.give(nr.Network(layers))
    other = from_reference(reference, "unfold")
    other.get_submodule("norm").add_module("inner", nn.Identity().eval())
    return reference, other


def check_layers(a: Arguments) -> None:
    reference, other = varied(a)
    for name in ("Affine", "Norm", "Dropout"):
        x = a.array(4, 2 if name == "Affine" else 4)
        module = a.give(other.get_submodule(name.lower()))
        rows = check_layer(name, reference.layers[name], module, x, a.array(4, 4), FLOAT64)
        assert all(row.ok for row in rows)


def judge(a: Arguments) -> None:
    reference, other = varied(a)
    with trace.judged(trace.align(reference.layers, a.give(other), FLOAT64), FLOAT64):
        other(a.tensor(4, 1, 4, 4))


def check_gradients(a: Arguments) -> None:
    reference, x, t = a.give(network()), a.array(2, 1, 4, 4), a.labels(2)
    found = a.give(independent.port_gradients(a.give(port()), x, t))
    assert all(row.ok for row in independent.gradient_check(reference, x, t, found))
    given = a.give(differences.central_differences(reference, x, t))
    independent.judge_gradients(given, found)


def show(a: Arguments) -> None:
    report = Report(tuple(check_loss(a.array(3, 4), a.labels(3), FLOAT64)), "port", "float64", "cpu", 0, 0)
    evaluation = a.give({"samples": 3, "agreeing": 3, "accuracy": {"numpy": 1.0}, "memory": None})
    page.save(a.folder, a.give([report]), command="python", evaluation=evaluation)


def predictions(a: Arguments) -> None:
    reference, other = varied(a)
    aligned = trace.align(reference.layers, a.give(other), FLOAT64)
    near = Near(a.array(4, 1, 4, 4), a.sizes(4, 1, 4, 4))
    with trace.judged(aligned, FLOAT64), trace.predicting(aligned):
        other(FLOAT64.tensor(near.value))
        for step in aligned:
            near = kinds.predict(a.give(step.oracle), a.give(near), FLOAT64.arithmetic)


def steps(a: Arguments) -> list[trace.Step]:
    layers: dict[str, Layer] = {"Relu": nr.Relu(), "Conv": convolution(a)}
    return [trace.make_step(name, a.give(layer), nn.Identity(), FLOAT64) for name, layer in layers.items()]


def after_backward(a: Arguments) -> nr.Convolution:
    layer = convolution(a)
    layer.backward(np.ones_like(layer.forward(a.array(2, 1, 4, 5))))
    return a.give(layer)


def run_and_back(a: Arguments) -> None:
    passed, ran = trace.forward(a.give(steps(a)), a.array(2, 1, 5, 5))
    a.give(passed)
    trace.backward(ran, a.array(2, 2, 3, 3))


def differentiate(function: Callable[..., Tensor], x: Tensor, *others: Any) -> object:
    return torch.autograd.grad(function(x, *others).sum(), x)


FLOAT64 = Setting(torch.float64)

# How to make each layer, and an input of it.
LAYERS: dict[str, Callable[[Arguments], tuple[Any, Array]]] = {
    "layers.Relu": lambda a: (nr.Relu(), a.array(2, 3)),
    "layers.Sigmoid": lambda a: (nr.Sigmoid(), a.array(2, 3)),
    "layers.Flatten": lambda a: (nr.Flatten(), a.array(2, 3, 4, 5)),
    "layers.Affine": lambda a: (nr.Affine(a.array(12, 5), a.array(5)), a.array(2, 3, 2, 2)),
    "layers.Convolution": lambda a: (convolution(a), a.array(2, 1, 4, 5)),
    "layers.Dropout": lambda a: (nr.Dropout(rng=np.random.RandomState(0)), a.array(2, 3)),
    "layers.BatchNormalization": lambda a: (nr.BatchNormalization(a.sizes(3), a.sizes(3)), a.array(4, 3)),
    "layers.Pooling": lambda a: (nr.Pooling(2, 2, 1, 1), a.array(2, 1, 4, 5)),
    "layers.AveragePooling": lambda a: (nr.AveragePooling(2, 2, 1, 1), a.array(2, 1, 4, 5)),
    "classic_layers.Tanh": lambda a: (nr.Tanh(), a.array(2, 3)),
    "classic_layers.Subsampling": lambda a: (nr.Subsampling(a.array(3), a.array(3)), a.array(2, 3, 4, 4)),
    "classic_layers.LocalResponseNormalization": lambda a: (nr.LocalResponseNormalization(), a.array(2, 3, 4, 4)),
}


def forward(make: Callable[[Arguments], tuple[Any, Array]], a: Arguments) -> Array:
    layer, x = make(a)
    return np.asarray(layer.forward(x))


def backward(make: Callable[[Arguments], tuple[Any, Array]], a: Arguments) -> None:
    """Twice, with another forward in between."""
    layer, x = make(a)
    dout = a.array(*layer.forward(x).shape)
    layer.backward(dout)
    layer.forward(x)
    layer.backward(dout)


def normalize(a: Arguments) -> None:
    layer = nr.BatchNormalization(a.sizes(3), a.sizes(3), 0.9, running_mean=a.array(3), running_var=a.sizes(3))
    for train_flg in (True, False):
        layer.forward(a.array(4, 3), train_flg)


def normalize_port(a: Arguments) -> None:
    """Training moves the running statistics by contract; evaluation does not."""
    module = torchport.BatchNormalization(3, dtype=torch.float64)
    differentiate(module, a.leaf(4, 3))
    differentiate(a.give(module.eval()), a.leaf(4, 3))


def of_array(function: Callable[[Array], object], a: Arguments) -> object:
    return function(a.array(3, 4))


def lose(a: Arguments) -> None:
    for t in (a.labels(3), a.one_hot(3, 4)):
        layer = nr.SoftmaxWithLoss()
        layer.forward(a.array(3, 4), t)
        layer.backward()


def draw(a: Arguments) -> None:
    fields = a.give(a.rng.random((2, 10, glyphs.SIDE, glyphs.SIDE), np.float32))
    drawn.draw(fields, a.give(np.full((2, 10, 2), 40.0)), np.random.RandomState(0), np.random.RandomState(1), 3)


def saved(a: Arguments) -> nr.SimpleConvNet:
    net = network()
    a.give(net.params)
    net.save_params(a.folder / "params.pkl")
    return net


def read_back(a: Arguments) -> dict[str, Array]:
    arrays = a.params()
    with files.stage(a.folder / "params.pkl", params.encode_params(arrays)) as staged:
        return params.read_back(staged, arrays, params.decode_params)


Call = Callable[[Arguments], object]

CALLS: dict[str, Call] = {
    **{f"numpy_ref.{name}.forward": partial(forward, make) for name, make in LAYERS.items()},
    **{f"numpy_ref.{name}.backward": partial(backward, make) for name, make in LAYERS.items()},
    **{f"numpy_ref.layers.{name}": partial(forward, LAYERS[f"layers.{name}"]) for name in ("Affine", "Convolution")},
    "numpy_ref.layers.BatchNormalization": normalize,
    **{
        f"numpy_ref.layers.{kind}.{way}": combine
        for kind in ("MulLayer", "AddLayer")
        for way in ("forward", "backward")
    },
    **{f"numpy_ref.layers.WindowLayer.{part}": window for part in ("windows", "image", "per_window", "scatter")},
    "numpy_ref.layers.SoftmaxWithLoss.forward": lose,
    "numpy_ref.layers.SoftmaxWithLoss.backward": lose,
    "torchport.checks.check_tensor": lambda a: torchport.checks.check_tensor("x", a.tensor(2, 3), 2),
    "torchport.images.check_images": lambda a: check_images("x", a.give(np.ones((3, 1, 4, 4), np.uint8))),
    "torchport.checks.check_floating": lambda a: torchport.checks.check_floating("x", a.tensor(2, 3)),
    "torchport.checks.check_goes_with": lambda a: torchport.checks.check_goes_with("x", a.tensor(2), a.tensor(3)),
    "numpy_ref.checks.check_array": lambda a: checks.check_array("x", a.array(2, 3), 2),
    "numpy_ref.checks.check_mapping": lambda a: checks.check_mapping("x", a.params()),
    "numpy_ref.checks.check_pair": lambda a: checks.check_pair("x", a.array(2, 3), "t", a.labels(2)),
    "numpy_ref.checks.check_batch": lambda a: checks.check_batch("x", a.array(2, 3), 2),
    "numpy_ref.checks.check_shape": lambda a: checks.check_shape("x", a.array(2, 3), (2, 3)),
    **{
        f"numpy_ref.functions.{name}": partial(of_array, getattr(functions, name))
        for name in ("identity_function", "step_function", "sigmoid", "sigmoid_grad", "relu", "relu_grad", "softmax")
    },
    "numpy_ref.functions.sum_squared_error": lambda a: nr.sum_squared_error(a.array(3, 4), a.array(3, 4)),
    "numpy_ref.functions.class_labels": lambda a: functions.class_labels(a.one_hot(3, 4), (3, 4)),
    "numpy_ref.functions.cross_entropy_error": lambda a: nr.cross_entropy_error(a.sizes(3, 4), a.one_hot(3, 4)),
    "numpy_ref.functions.cross_entropy_of_labels": lambda a: functions.cross_entropy_of_labels(
        a.sizes(3, 4), a.labels(3)
    ),
    "numpy_ref.functions.softmax_loss": lambda a: nr.softmax_loss(a.array(3, 4), a.labels(3)),
    "numpy_ref.util.pad_image": lambda a: [pad_image(a.array(2, 1, 3, 3), pad) for pad in (0, 1)],
    "numpy_ref.util.im2col": lambda a: [nr.im2col(a.array(2, 1, 4, 4), 2, 2, 1, pad) for pad in (0, 1)],
    "numpy_ref.util.im2col_by_window": lambda a: nr.im2col_by_window(a.array(2, 1, 4, 4), 2, 2),
    "numpy_ref.util.col2im": lambda a: nr.col2im(a.array(18, 4), (2, 1, 4, 4), 2, 2),
    "numpy_ref.util.shuffle_dataset": lambda a: nr.shuffle_dataset(
        a.array(5, 2), a.labels(5), np.random.RandomState(0)
    ),
    "numpy_ref.util.smooth_curve": lambda a: nr.smooth_curve(a.array(20)),
    "numpy_ref.network.Network": lambda a: nr.Network(a.give({"Affine1": nr.Affine(a.array(3, 2), a.array(2))})),
    "numpy_ref.network.Network.predict": lambda a: [
        network().predict(a.array(3, 1, 4, 4), flg) for flg in (True, False)
    ],
    "numpy_ref.network.Network.loss": lambda a: network().loss(a.array(3, 1, 4, 4), a.one_hot(3, 4)),
    "numpy_ref.network.Network.accuracy": lambda a: network().accuracy(a.array(3, 1, 4, 4), a.labels(3), 2),
    "numpy_ref.network.Network.gradient": lambda a: saved(a).gradient(a.array(3, 1, 4, 4), a.labels(3)),
    "numpy_ref.network.Network.numerical_gradient": lambda a: network().numerical_gradient(
        a.array(2, 1, 4, 4), a.labels(2)
    ),
    "numpy_ref.network.Network.save_params": saved,
    "numpy_ref.network.Network.load_params": lambda a: saved(a).load_params(a.folder / "params.pkl"),
    "numpy_ref.network.Network.set_params": lambda a: network().set_params(a.params()),
    "numpy_ref.deep_convnet.DeepConvNet": lambda a: nr.DeepConvNet(**a.give(DEEP_SIZES)),
    "numpy_ref.deep_convnet.DeepConvNet.loss": lambda a: nr.DeepConvNet(**DEEP_SIZES).loss(
        a.array(2, 1, 4, 4), a.labels(2)
    ),
    "numpy_ref.deep_convnet.deep_convnet_sizes": lambda a: deep_convnet.deep_convnet_sizes(
        (1, 4, 4), a.give(deep_convnet.DEFAULT_CONV_PARAMS), 3, 4
    ),
    "numpy_ref.classic.LeNet5": lambda a: nr.LeNet5(a.give((1, 12, 12)), 2),
    "numpy_ref.classic.lenet5_sizes": lambda a: classic.lenet5_sizes(a.give((1, 12, 12))),
    "numpy_ref.classic.AlexNet": lambda a: nr.AlexNet(a.give((1, 67, 67)), 2, 1 / 64),
    "numpy_ref.classic.alexnet_sizes": lambda a: classic.alexnet_sizes(a.give((1, 67, 67))),
    "numpy_ref.multi_layer_net.ThreeLayerNet": lambda a: nr.ThreeLayerNet(4, a.give([3, 2]), 2),
    "numpy_ref.network.Network.outputs": lambda a: network().outputs(a.array(3, 1, 4, 4)),
    "numpy_ref.network.check_params": lambda a: ref_network.check_params(a.params(), a.give({**SHAPES})),
    "numpy_ref.stack.check_conv_param": lambda a: stack.check_conv_param(a.give(dict(SIZES["conv_param"]))),
    "numpy_ref.stack.inputs_of": lambda a: stack.inputs_of(a.give((2, 1, 3, 3))),
    "numpy_ref.stack.weight_shapes": lambda a: stack.weight_shapes(a.give((1, 4, 4)), a.give({"Affine1": 3})),
    "numpy_ref.stack.stacked": lambda a: stack.stacked(
        (1, 4, 4), a.give({"Affine1": 3}), lambda stream, shape: stream.randn(*shape), None, None, a.give(["b1"])
    ),
    "numpy_ref.multi_layer_net.Chapter4TwoLayerNet.predict": lambda a: nr.Chapter4TwoLayerNet(4, 3, 2).predict(
        a.array(3, 4)
    ),
    "numpy_ref.multi_layer_net_extend.check_hidden": lambda a: multi_layer_net_extend.check_hidden(a.give([3, 2])),
    **{
        f"numpy_ref.multi_layer_net_extend.MultiLayerNetExtend{method}": extend for method in ("", ".loss", ".gradient")
    },
    "numpy_ref.simple_convnet.SimpleConvNet": lambda a: nr.SimpleConvNet(**a.give(SIZES)),
    "numpy_ref.network.check_same_layout": lambda a: ref_network.check_same_layout(
        a.give({"W": a.array(2)}), a.give({"W": (2,)})
    ),
    "numpy_ref.simple_convnet.simple_convnet_sizes": lambda a: simple_convnet.simple_convnet_sizes(**a.give(SIZES)),
    "numpy_ref.optimizer.Optimizer.update": optimize_reference,
    "numpy_ref.params.write_params": lambda a: nr.write_params(a.params(), a.folder / "params.pkl"),
    "numpy_ref.pickles.describe": lambda a: pickles.describe(a.array(2)),
    "numpy_ref.pickles.native": lambda a: pickles.native(a.array(2)).fill(1),
    "numpy_ref.trainer.Trainer": train,
    "torchport.evaluation.predict": lambda a: [
        evaluation.predict(net, a.array(3, 1, 4, 4)) for net in (network(), a.give(port()), a.give(port("unfold")))
    ],
    "torchport.evaluation.evaluate_ports": lambda a: evaluation.evaluate_ports(
        a.params(), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.classify": lambda a: evaluation.classify(
        network(), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.check_fits": lambda a: evaluation.check_fits(
        a.params(), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.check_takes": lambda a: evaluation.check_takes(
        architectures.recognise(a.params()), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.Classification.to_text": lambda a: a.give(
        evaluation.Classification(a.labels(4), a.labels(4), a.sizes(4), 4)
    ).to_text(),
    "torchport.evaluation.Classification.to_json": lambda a: a.give(
        evaluation.Classification(a.labels(4), a.labels(4), a.sizes(4), 4)
    ).to_json(weights="params.pkl"),
    "torchport.benchmark.rounds.spread": lambda a: benchmark.spread(a.sizes(4)),
    "torchport.benchmark.rounds.ratio": lambda a: benchmark.ratio(a.sizes(4), a.sizes(4)),
    "torchport.figures.runs.curves": lambda a: figures.curves(
        a.give({"run": figures.Curve(2, a.sizes(4), a.labels(2), a.sizes(2), a.sizes(2))})
    ),
    "torchport.figures.predictions.confusion_matrix": lambda a: figures.confusion_matrix(a.give(np.eye(3, dtype=int))),
    "torchport.figures.predictions.mistakes": lambda a: figures.mistakes(
        a.give(np.ones((2, 1, 4, 4), np.uint8)), a.labels(2), a.labels(2), a.sizes(2)
    ),
    "torchport.figures.boxes.architecture": lambda a: figures.architecture(a.give([figures.Box("a", "", (1,), 2)])),
    "torchport.figures.convolution.filters": lambda a: figures.filters(a.give({"W": a.array(2, 3, 4, 4)})),
    "torchport.figures.convolution.responses": lambda a: figures.responses(
        a.sizes(1, 6, 6), a.array(2, 1, 4, 4), a.array(2, 3, 3)
    ),
    "torchport.figures.convolution.feature_maps": lambda a: figures.feature_maps(
        a.sizes(1, 4, 4), a.give({"conv1": a.array(2, 3, 3)}), a.sizes(4), 1
    ),
    "torchport.figures.windows.columns": lambda a: figures.columns(a.sizes(1, 4, 4), 3, pad=1),
    "torchport.images.pixels": lambda a: np.negative(
        found := images.pixels(a.give(np.ones((2, 1, 3, 3), np.uint8))), out=found
    ),
    "torchport.images.sample": lambda a: images.sample(a.give(np.ones((2, 1, 3, 3), np.uint8)), 1),
    **dict.fromkeys(("torchport.subjects.boxes", "torchport.subjects.seeded_subject"), look_at),
    **{f"torchport.subjects.{name}": look_into for name in ("convolution", "maps_of")},
    "torchport.layers.columns.im2col": lambda a: differentiate(torchport.im2col, a.leaf(2, 1, 4, 4), 2),
    "torchport.layers.columns.col2im": lambda a: differentiate(torchport.col2im, a.leaf(18, 4), (2, 1, 4, 4), 2),
    "torchport.drawn.draw": draw,
    "torchport.glyphs.distances": lambda a: glyphs.distances(a.give(np.eye(5, dtype=bool))),
    "torchport.layers.modules.UnfoldConv2d.forward": lambda a: differentiate(
        a.give(torchport.UnfoldConv2d(1, 2, 3, dtype=torch.float64)), a.leaf(2, 1, 4, 4)
    ),
    "torchport.layers.modules.Dropout.forward": lambda a: [
        differentiate(a.give(module), a.leaf(4, 3)) for module in (torchport.Dropout(), torchport.Dropout().eval())
    ],
    "torchport.layers.modules.BatchNormalization.forward": normalize_port,
    "torchport.layers.modules.Subsampling.forward": lambda a: differentiate(
        torchport.Subsampling(1).double(), a.leaf(2, 1, 4, 4)
    ),
    "numpy_ref.classic_layers.Subsampling": lambda a: nr.Subsampling(a.array(3), a.array(3)),
    "numpy_ref.classic_layers.LocalResponseNormalization.neighbours": lambda a: (
        nr.LocalResponseNormalization().neighbours(a.array(2, 3, 4, 4))
    ),
    "torchport.layers.loss.softmax_with_loss": lambda a: [
        differentiate(torchport.softmax_with_loss, a.leaf(3, 4), a.give(torch.tensor(t)))
        for t in (a.labels(3), a.one_hot(3, 4))
    ],
    "torchport.layers.loss.unchecked_loss": lambda a: differentiate(
        loss.unchecked_loss, a.leaf(3, 4), a.give(torch.arange(3))
    ),
    "torchport.optimizers.torch_options": lambda a: torchport.optimizers.torch_options(a.give({"beta1": 0.5})),
    "torchport.training.pooled.pools_at_once": lambda a: pools_at_once(a.give(port())),
    "torchport.training.pooled.Gathered.of": lambda a: Gathered.of(a.give(torch.nn.Conv2d(1, 2, 3)), a.give([1, 4, 4])),
    "torchport.training.pooled.conv_pool_relu": lambda a: differentiate(
        conv_pool_relu,
        a.leaf(2, 1, 4, 4),
        conv := torch.nn.Conv2d(1, 2, 3, dtype=torch.float64),
        a.give(Gathered.of(conv, (1, 4, 4))),
    ),
    "torchport.training.pooled.PoolFirst.forward": lambda a: differentiate(PoolFirst(port()), a.leaf(2, 1, 4, 4)),
    "torchport.training.loop.train": train_and_resume,
    "torchport.training.samples.cut_and_checked": lambda a: cut_and_checked(some_samples(a), 2),
    "torchport.training.state.copied": lambda a: copied(a.give({"a": {"b": a.tensor(2)}})),
    "torchport.training.state.all_finite": lambda a: all_finite(a.give({"a": {"b": a.tensor(2)}})),
    "torchport.training.state.put_back": lambda a: put_back({"a": torch.zeros(2)}, a.give({"a": a.tensor(2).float()})),
    "torchport.layers.loss.SoftmaxWithLoss.forward": lambda a: differentiate(
        torchport.SoftmaxWithLoss(), a.leaf(3, 4), a.give(torch.arange(3))
    ),
    "torchport.networks.SimpleConvNet": lambda a: torchport.SimpleConvNet(**a.give(SIZES)),
    "torchport.networks.SimpleConvNet.from_params": lambda a: torchport.SimpleConvNet.from_params(a.params()),
    "torchport.networks.SimpleConvNet.forward": lambda a: [
        differentiate(a.give(port(conv)), a.leaf(3, 1, 4, 4)) for conv in torchport.networks.CONVOLUTIONS
    ],
    "torchport.optimizers.BookAdam": lambda a: torchport.BookAdam([a.leaf(2, 3)]),
    "torchport.optimizers.BookAdam.step": optimize_port,
    "torchport.optimizers.make_optimizer": optimize_port,
    "torchport.layers.arithmetic.Arithmetic.of_sum": lambda a: FLOAT64.arithmetic.of_sum(a.labels(3), a.sizes(3)),
    **{f"torchport.layers.kinds.{name}": bound for name in ("kind_of", "class_name", "LayerKind.about")},
    "torchport.layers.modules.window_about": lambda a: layer_modules.window_about(a.give(nr.Pooling(2, 2))),
    "torchport.layers.kinds.Near.exactly": lambda a: Near.exactly(a.array(3)).limit.fill(1),
    "torchport.layers.arithmetic.Arithmetic.of_products": lambda a: FLOAT64.arithmetic.of_products(
        a.labels(3), a.sizes(3), a.array(3), a.sizes(3)
    ),
    "torchport.layers.sums.own_limit": lambda a: sums.own_limit(
        a.give(kinds.Terms([a.array(3), a.array(3)], 0.5)), FLOAT64.arithmetic
    ),
    "torchport.layers.smooth.running_limits": lambda a: smooth.running_limits(
        a.give(nr.BatchNormalization(a.sizes(3), a.sizes(3), 0.9, a.array(3), a.sizes(3))),
        a.array(4, 3),
        FLOAT64.arithmetic,
    ),
    "torchport.layers.loss.loss_limits": lambda a: loss.loss_limits(
        Near(a.array(3, 4), a.sizes(3, 4)), a.labels(3), FLOAT64.arithmetic
    ),
    "torchport.twins.from_reference": varied,
    "torchport.twins.load_layer": lambda a: load_layer(nn.Linear(3, 2), a.give(nr.Affine(a.array(3, 2), a.array(2)))),
    "torchport.architectures.recognise": recognised,
    "torchport.architectures.Architecture.reference": lambda a: [
        np.negative(value, out=value) for value in recognised(a).reference(a.params()).params.values()
    ],
    "torchport.architectures.Architecture.port": lambda a: recognised(a).port(a.params()),
    "torchport.states.layer_parameters": lambda a: states.layer_parameters(a.give(convolution(a))),
    "numpy_ref.network.layer_statistics": lambda a: [
        np.negative(value, out=value)
        for layer in varied(a)[0].layers.values()
        for value in ref_network.layer_statistics(layer).values()
    ],
    "torchport.states.state_dict_keys": lambda a: states.state_dict_keys(varied(a)[0]),
    "torchport.states.state_dict_of": lambda a: [
        value.zero_() for value in states.state_dict_of(varied(a)[0]).values()
    ],
    "torchport.states.update_reference": lambda a: states.update_reference(network(), a.state_dict()),
    "torchport.layers.kinds.Near.within": lambda a: Near.within(a.array(3), a.sizes(3)).limit.fill(1),
    "torchport.layers.kinds.predict": predictions,
    "torchport.parity.trace.predicting": predictions,
    "torchport.parity.cases.seeded_params": lambda a: cases.seeded_params(0, a.params()),
    "torchport.parity.cases.check_ports": lambda a: cases.check_ports(a.params(), a.array(3, 1, 4, 4), a.labels(3)),
    "torchport.parity.compare.check_parity": check_networks,
    "torchport.parity.compare.check_layer": check_layers,
    "torchport.parity.given.unwrapped": lambda a: given.unwrapped(a.give(port())),
    "torchport.parity.given.check_finite": lambda a: given.check_finite(a.array(3), a.params(), a.give(port())),
    "torchport.parity.compare.check_loss": lambda a: check_loss(a.array(3, 4), a.labels(3), FLOAT64),
    "torchport.parity.optimizers.check_optimizer": lambda a: check_optimizer(
        nr.Adam, torchport.BookAdam, a.array(3), a.array(2, 3), FLOAT64
    ),
    "torchport.parity.compare.compare": lambda a: compare_arrays(a.array(3), a.array(3), a.sizes(3)),
    "torchport.parity.differences.central_differences": check_gradients,
    **{
        f"torchport.parity.independent.{name}": check_gradients
        for name in ("gradient_check", "judge_gradients", "port_gradients")
    },
    "torchport.parity.independent.taylor_slope": lambda a: independent.taylor_slope(
        lambda x: float((x**2).sum()), a.array(3), a.array(3), a.array(3), [0.1, 0.01]
    ),
    "torchport.parity.independent.adjoint_gap": lambda a: independent.adjoint_gap(
        lambda x: 2 * x, lambda y: 2 * y, a.array(3), a.array(3), terms=(1, 1)
    ),
    **{f"torchport.parity.page.{name}": show for name in ("all_agree", "environment", "save", "to_dict", "to_html")},
    "torchport.parity.compare.check_predictions": lambda a: check_predictions(
        a.give(network()), a.array(3, 1, 4, 4), a.array(3, 4), torch.float32
    ),
    "torchport.states.book_params": lambda a: states.book_params(a.give(port().state_dict())),
    "torchport.states.to_book_terms": lambda a: np.negative(
        states.to_book_terms(a.give({"affine1.weight": a.array(2, 3)}))["W1"]
    ),
    "numpy_ref.params.check_arrays": lambda a: params.check_arrays(a.params()),
    "numpy_ref.params.encode_params": lambda a: params.encode_params(a.params()),
    "numpy_ref.params.read_back": read_back,
    "numpy_ref.params.write_arrays": lambda a: params.write_arrays(
        a.folder / "x.pkl", given := a.params(), params.encode_params(given), params.decode_params
    ),
    "torchport.formats.npz.encode_npz": lambda a: npz.encode_npz(a.params()),
    "torchport.formats.pt.encode_pt": lambda a: pt.encode_pt(a.params()),
    "torchport.formats.safe.encode_safetensors": lambda a: safe.encode_safetensors(a.params(), a.give({"k": "v"})),
    "torchport.layers.arithmetic.Setting.of": lambda a: Setting.of(a.give(port())),
    "torchport.layers.arithmetic.Setting.tensor": lambda a: FLOAT64.tensor(a.array(3)).add_(1),
    "torchport.layers.arithmetic.Setting.round": lambda a: FLOAT64.round(a.array(3)).fill(1),
    "torchport.layers.arithmetic.rounded": lambda a: arithmetic.rounded(a.array(3), torch.float64).fill(1),
    "torchport.parity.trace.align": lambda a: trace.align(a.give(network().layers), a.give(port()), FLOAT64),
    "torchport.parity.trace.make_step": steps,
    "torchport.parity.trace.judged": judge,
    "torchport.weights.in_torch_terms": lambda a: weights.in_torch_terms(a.give({"W": a.array(2, 3)})),
    "torchport.parity.trace.parameters": lambda a: trace.parameters(a.give(convolution(a))),
    "torchport.parity.trace.gradients": lambda a: trace.gradients(after_backward(a)),
    "torchport.parity.trace.forward": run_and_back,
    "torchport.parity.trace.backward": run_and_back,
    "torchport.parity.trace.trace_module": lambda a: trace.trace_module(
        a.give(nn.Linear(3, 2, dtype=torch.float64)), a.tensor(4, 3), a.tensor(4, 2)
    ),
    "torchport.parity.trace.trace_children": lambda a: trace.trace_children(a.give(port()), a.tensor(3, 1, 4, 4)),
    "torchport.parity.trace.trace_network": lambda a: trace.trace_network(
        a.give(net := port()), net, a.tensor(3, 1, 4, 4), a.give(torch.arange(3)), torchport.softmax_with_loss
    ),
    "torchport.weights.shared_dtype": lambda a: weights.shared_dtype(a.params()),
    "torchport.weights.to_array": lambda a: weights.to_array("conv1.weight", a.tensor(2, 3)),
    "torchport.weights.to_torch_layout": lambda a: weights.to_torch_layout(a.array(2, 3)),
    "torchport.weights.to_state_dict": lambda a: [
        value.add_(1) for value in torchport.to_state_dict(a.params()).values()
    ],
    "torchport.weights.to_params": lambda a: [
        np.negative(value, out=value) for value in torchport.to_params(a.state_dict()).values()
    ],
    "torchport.weights.architecture": lambda a: weights.architecture(a.params()),
    "torchport.weights.cast_params": lambda a: weights.cast_params(a.params(), torch.float32),
    "torchport.weights.rounding_loss": lambda a: weights.rounding_loss(a.params(), a.params()),
    "torchport.weights.state_dict_bytes": lambda a: weights.state_dict_bytes(a.state_dict()),
}

# Reason, and the names; * at the end stands for all of a module.
# Called by train, with whose samples, configuration and folder they work.
PARTS_OF_TRAINING = (
    "torchport.training.folder.RunFolder*",
    "torchport.training.folder.numbered_folder",
    "torchport.training.learners.TorchLearner*",
    "torchport.training.result.Clock.on",
    "torchport.training.run.Run*",
    "torchport.training.loop.resume",
    "torchport.training.ranks.*",
    "torchport.training.masks.Masks*",
    "torchport.training.reference.NumpyLearner*",
    "torchport.training.samples.orders",
)

EXEMPT: dict[str, tuple[str, ...]] = {
    "test_numerical_gradient_puts_every_entry_back": ("numpy_ref.gradient.numerical_gradient*",),
    "takes numbers, text, paths, bytes or functions only": (
        "numpy_ref.checks.check_int",
        "numpy_ref.multi_layer_net.TwoLayerNet",
        "numpy_ref.layers.WindowLayer",
        "numpy_ref.multi_layer_net.Chapter4TwoLayerNet",
        "numpy_ref.multi_layer_net_extend.check_activation",
        "numpy_ref.multi_layer_net_extend.normal",
        "numpy_ref.classic.scaled",
        "numpy_ref.checks.check_number",
        "torchport.checks.check_device",
        "torchport.checks.check_computing_device",
        "torchport.checks.check_floating_dtype",
        "numpy_ref.files.replace_file",
        "numpy_ref.files.check_target",
        "numpy_ref.files.over_limit",
        "numpy_ref.files.stage",
        "numpy_ref.util.conv_output_size",
        "numpy_ref.layers.Dropout",
        *(
            f"numpy_ref.optimizer.{rule.__name__}"
            for rule in (Optimizer, nr.SGD, nr.Momentum, nr.RMSprop, nr.AdaGrad, nr.Adam)
        ),
        "numpy_ref.params.read_params",
        "numpy_ref.layers.Pooling",
        "numpy_ref.pickles.damaged",
        "numpy_ref.pickles.interpret",
        "numpy_ref.pickles.read_arrays",
        "numpy_ref.pickles.view_of",
        "torchport.cli.run",
        "torchport.cli.device",
        "torchport.images.read_image",
        "torchport.subjects.load_subject",
        "torchport.subjects.short_name",
        "torchport.training.history.*",
        "torchport.cli.count",
        "torchport.cli.path",
        "torchport.cli.number",
        "torchport.cli.Parser*",
        "torchport.evaluation.memory_text",
        "numpy_ref.files.read_file",
        "numpy_ref.params.decode_params",
        "torchport.formats.kinds.format_of",
        "torchport.formats.loading.*",
        "torchport.formats.npz.decode_npz",
        "torchport.formats.npz.open_zip",
        "torchport.formats.pt.decode_pt",
        "torchport.formats.safe.decode_safetensors",
        "torchport.formats.safe.is_safetensors",
        "torchport.layers.arithmetic.arithmetic_of",
        "torchport.porting.port",
        "torchport.training.config.Config.from_json",
        "torchport.training.graph.captured",
        "torchport.training.learners.uses_graphs",
        "torchport.training.result.Stopped",
        "torchport.training.samples.load_samples",
        "torchport.data.load",
        "torchport.data.mnist",
        "torchport.layers.sums.check_convolution",
        "torchport.layers.kinds.register",
        "torchport.layers.modules.window_module",
        "torchport.data.load_mnist",
        "torchport.drawn.make",
        "torchport.layers.columns.pair",
        "torchport.layers.columns.output_size",
        "torchport.layers.modules.Dropout",
        "torchport.layers.modules.BatchNormalization",
        "torchport.layers.modules.Subsampling",
        "numpy_ref.classic_layers.LocalResponseNormalization",
        "torchport.parity.cases.seeded_batch",
        "torchport.parity.cases.book_gradient_case",
        "torchport.parity.picture.Scale.of",
        "torchport.parity.picture.Scale.place",
        "torchport.parity.report.Report.to_html",
        "torchport.parity.report.table",
        "torchport.layers.arithmetic.Setting.allows",
    ),
    "takes frozen records of numbers and text": (
        "torchport.porting.NoParity",
        "torchport.porting.example",
        "torchport.parity.independent.gradient_table",
        "torchport.parity.independent.gradient_verdict",
        "torchport.parity.picture.draw",
        "torchport.parity.picture.title_of",
    ),
    "forgets what its argument remembers, which is what it is for": ("numpy_ref.layers.forget",),
    "draws from its argument, which is what it is for": ("numpy_ref.checks.random_stream",),
    "returns its argument": ("numpy_ref.checks.recorded",),
    "adds to its argument, which is what it is for": (
        "torchport.cli.add_windows",
        "torchport.cli.add_geometry",
        "torchport.cli.add_field",
        "torchport.optimizers.BookAdam.add_param_group",
    ),
    "puts its argument before what an error says": ("torchport.formats.loading.naming",),
    "wraps its argument": ("torchport.training.pooled.PoolFirst", "torchport.training.pooled.arranged"),
    "draws on its argument": ("torchport.figures.style.*", "torchport.figures.tiles.draw_tiles"),
    "is part of figures.filters": ("torchport.figures.tiles.Grid.*", "torchport.figures.tiles.stack_channels"),
    "is a part of visualize.py filters, and only reads": ("torchport.subjects.start_of",),
    "needs packages that may be missing": ("torchport.onnx_files.write_onnx",),
    "is part of training.train": PARTS_OF_TRAINING,
    "measures what it makes itself": (
        *(f"torchport.benchmark.{module}.*" for module in ("contenders", "device", "machine", "memory")),
        "torchport.benchmark.rounds.interleave",
    ),
    "an interface, without code": (
        "numpy_ref.layers.Layer.forward",
        "numpy_ref.layers.Layer.backward",
        "torchport.training.learners.Learner.*",
    ),
}


@pytest.fixture(autouse=True)
def every_warning() -> Iterator[None]:
    """torch warns of a read-only array once in a process only, unless it is told to."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.parametrize("writeable", [True, False], ids=["writable", "read-only"])
@pytest.mark.parametrize("name", CALLS)
def test_no_argument_is_changed(name: str, writeable: bool, tmp_path: Path) -> None:
    arguments = Arguments(tmp_path, writeable)
    CALLS[name](arguments)
    assert arguments.changed() == []


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_numerical_gradient_puts_every_entry_back(fails: bool, tmp_path: Path) -> None:
    arguments = Arguments(tmp_path, writeable=True)
    x = arguments.array(3, 4)
    seen = []

    def function(moved: Array) -> float:
        seen.append(arguments.changed())
        if fails and len(seen) == 6:
            raise RuntimeError
        return float(moved.sum())

    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        nr.numerical_gradient(function, x)
    assert all(seen)
    assert arguments.changed() == []


def modules() -> Iterator[ModuleType]:
    for package in (nr, torchport):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def takes_arguments(function: Callable[..., Any]) -> bool:
    """Whether it has a parameter besides self or cls."""
    return bool(set(inspect.signature(function).parameters) - {"self", "cls"})


def public_functions() -> Iterator[str]:
    """Functions, methods and constructors that are written out in either package and take an argument."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            path = f"{module.__name__}.{getattr(value, '__qualname__', name)}"
            if inspect.isclass(value):
                yield from public_methods(value, path)
            elif inspect.isfunction(value) and takes_arguments(value):
                yield path


def public_methods(kind: type, path: str) -> Iterator[str]:
    for name, value in vars(kind).items():
        method = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not inspect.isfunction(method) or not takes_arguments(method):
            continue
        # dataclasses and protocols come with an __init__ that nobody wrote.
        if name == "__init__" and inspect.getsourcefile(method) == inspect.getsourcefile(kind):
            yield path
        elif not name.startswith("_"):
            yield f"{path}.{name}"


def test_every_public_function_is_called_or_exempt() -> None:
    public = set(public_functions())
    exempt = {pattern: set(fnmatch.filter(public, pattern)) for names in EXEMPT.values() for pattern in names}
    assert all(exempt.values())  # or there is nothing to exempt any more
    assert not CALLS.keys() & set().union(*exempt.values())
    assert public == CALLS.keys() | set().union(*exempt.values())


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (np.zeros(3), lambda x: x.fill(1)),
        (np.zeros(3), lambda x: np.negative(x, out=x)),  # to -0.0, which is equal
        (torch.zeros(3), lambda x: x.add_(0)),
        (torch.zeros(3), lambda x: x.requires_grad_()),
        ({"W": np.zeros(3)}, lambda x: x["W"].fill(1)),
        ({"W": np.zeros(3)}, lambda x: x.update(b=0)),
        ([1, 2], lambda x: x.pop()),
        (nn.Linear(2, 2), lambda x: x.eval()),
        (nn.Sequential(nn.ReLU()), lambda x: x[0].eval()),
        (torchport.Dropout(), lambda x: setattr(x, "draw", torch.randn)),
        (torchport.BatchNormalization(2), lambda x: x(torch.ones(3, 2))),
        (nn.Linear(2, 2), lambda x: x(torch.ones(2)).sum().backward()),
        (nr.Relu(), lambda x: x.forward(np.ones(2))),
    ],
)
def test_a_change_is_noticed(value: Any, change: Callable[[Any], object], tmp_path: Path) -> None:
    arguments = Arguments(tmp_path, writeable=True)
    arguments.give(value)
    assert arguments.changed() == []
    change(value)
    assert arguments.changed()
