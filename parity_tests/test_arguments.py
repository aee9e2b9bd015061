"""No function of either package changes its arguments, and none needs them to be writable.

Each public function and method is called on arguments that are compared, to the bit, with what they were.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import importlib
import inspect
import pkgutil
import re
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
    conv_net,
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
from numpy_ref.optimizer import OPTIMIZERS
from numpy_ref.util import pad_image
from torchport import (
    evaluation,
    figures,
    hints,
    moves,
    porting,
    subjects,
    training,
)
from torchport.choices import Convolution
from torchport.data import drawn, glyphs, images
from torchport.data.images import check_images
from torchport.data.preparation import Preparation
from torchport.figures.shifts import relative_change
from torchport.files import Hints, containers, load_network, npz, pt, safe, stage_weights
from torchport.layers import arithmetic, kinds, loss, modules as layer_modules, smooth, sums, terms
from torchport.loading import load_params, params_from
from torchport.networks import (
    Architecture,
    Geometry,
    Layout,
    Source,
    Weights,
    architectures,
    from_reference,
    layouts,
    names,
    nearest,
)
from torchport.networks.ports import load_layer
from torchport.parity import (
    Report,
    Setting,
    cases,
    check_layer,
    check_loss,
    check_parity,
    compare as compare_arrays,
    gradients,
    integers,
    page,
    probes,
)
from torchport.testing import assert_parity
from torchport.training.folder import Record, curve_of
from torchport.training.fused import (
    Gathered,
    PoolFirst,
    affine_relu,
    conv_pool_relu,
    log_likelihood,
    one_hot_rows,
    pools_at_once,
)
from torchport.training.samples import cut_and_checked
from torchport.training.state import all_finite, copied, put_back

T = TypeVar("T")

SIZES: dict[str, Any] = {
    "input_dim": (1, 4, 4),
    "conv_param": {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1},
    "hidden_size": 3,
    "output_size": 4,
}

SHAPES = {name: value.shape for name, value in nr.SimpleConvNet(**SIZES).params.items()}

DEEP_SIZES: dict[str, Any] = {
    "input_dim": (1, 4, 4),
    "conv_param_2": {**deep_convnet.DEFAULT_CONV_PARAMS[1], "filter_num": 2},
}


def leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Whatever value is made of, by where it stands: what networks and layers remember too."""
    if isinstance(value, nn.Module):
        # Parameters and buffers are watched for what they hold: they may be put back.
        held = [*value.named_parameters(), *value.named_buffers()]
        parts: dict[Any, object] = {name: state(each.detach().cpu().numpy()) for name, each in held}
        parts |= {f"{name}.grad": (each.requires_grad, state(each.grad)) for name, each in held}
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

    def weights(self) -> Weights:
        return self.give(Weights.of(self.params()))

    def state_dict(self) -> dict[str, Tensor]:
        return self.give(port().state_dict())


def network() -> nr.SimpleConvNet:
    return nr.SimpleConvNet(**SIZES, rng=np.random.RandomState(0))


def port(conv: Convolution = "conv2d") -> torchport.SimpleConvNet:
    return torchport.SimpleConvNet.from_params(network().params, conv)


def give_hint(a: Arguments) -> None:
    """Of weights that are right for no reading of the images."""
    images, labels, weights = a.give(np.ones((8, 1, 4, 4), np.uint8)), a.labels(8), a.weights()
    found = evaluation.classify(weights.port(), images, labels)
    hints.hint(weights, Weights.port, images, labels, a.give(Preparation()), a.give(found))


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


def recognised(a: Arguments) -> Architecture:
    return a.give(architectures.recognise(a.params()))


def port_a_file(a: Arguments) -> None:
    """Written, read, ported and looked at, with all that can be told."""
    source, hints = a.folder / "params.pkl", a.give(Hints(pool=[1], order=["conv1", "affine1", "affine2"]))
    with stage_weights(a.weights(), source) as staged:
        porting.check_staged(a.give(staged))
        staged.commit()
    plain = a.give(Hints(pool=[1]))
    porting.port(source, a.folder / "model.pt", hints=plain)
    load_network(a.folder / "model.pt", pool=a.give([1]))
    subjects.load_subject(a.folder / "model.pt", hints)


def read_names(a: Arguments) -> None:
    """Of arrays in whatever layout: what comes out is written to."""
    arrays = a.give({key: value.numpy() for key, value in port().state_dict().items()})
    for keys, layout in ((arrays, Layout(order=["conv1", "affine1", "affine2"])), (a.params(), Layout(flatten="hwc"))):
        found, _ = layouts.to_params(keys, a.give(layout))
        nearest.listed(a.give(found))
        nearest.nearest(found)
        nearest.weights_of(found)
    nearest.first(1, a.give(["a", "b"]))
    nearest.shown(a.give(["a"]))
    assert list(containers.array_sets(a.give({"net": arrays, "epoch": [1]})))
    containers.contents_of(a.give({"epoch": [1]}))


def statistics(a: Arguments) -> None:
    net = nr.MultiLayerNetExtend(4, [3], 2, use_batchnorm=True)
    found = a.give({"running_mean1": a.array(3), "running_var1": a.sizes(3)})
    net.set_statistics(found)
    net.predict(np.ones((5, 4)), train_flg=True)
    both = a.give({**net.params, **found})
    architectures.without_statistics(both)
    Weights.of(both).reference().predict(np.ones((5, 4)), train_flg=True)


def own_network(a: Arguments) -> None:
    sizes = a.give([a.give(dict(SIZES["conv_param"]))])
    conv_net.conv_net_stack(sizes, a.give([3, 4]), a.give([1]))
    nr.ConvNet((1, 4, 4), sizes, a.give([3]), 4, a.give([1]), params=a.params())


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


def two_layers(a: Arguments) -> None:
    for kind in (nr.TwoLayerNet, nr.Chapter4TwoLayerNet):
        params = a.give({"W1": a.array(4, 3), "b1": a.array(3), "W2": a.array(3, 2), "b2": a.array(2)})
        kind(4, 3, 2, params=params).gradient(a.array(5, 4), a.labels(5, 2))


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
    """The rule of every kind of layer, on layers that remember nothing, and their sums entry by entry."""
    for make in LAYERS.values():
        layer, x = make(a)
        twin = copy.copy(layer)
        y, kind = twin.forward(x), kinds.kind_of(layer)
        layer, dout = a.give(layer), a.array(*y.shape)
        kind.rule.forward(layer, x, FLOAT64.arithmetic)
        kind.rule.backward(layer, x, dout, FLOAT64.arithmetic)
        kinds.class_name(layer)
        kinds.predicted(layer, x)
        if kind.prediction:
            kind.prediction(layer, x, FLOAT64.arithmetic)
        if kind.repeat:
            kind.repeat(layer, x, a.give(y), None)
        if kind.rule.products:
            terms = a.give(kind.rule.products(layer, x, dout, "output", (0,) * y.ndim))
            sums.own_limit(terms, FLOAT64.arithmetic)


def check_networks(a: Arguments) -> None:
    """Right ports, of a reference that remembers something."""
    reference = network()
    reference.gradient(np.ones((1, 1, 4, 4)), np.zeros(1, int))
    for conv in torchport.networks.CONVOLUTIONS:
        check_parity(a.give(reference), a.give(port(conv)), a.array(3, 1, 4, 4), a.labels(3)).raise_if_failed()


def assert_networks(a: Arguments) -> None:
    """A right port that draws, and a wrong one, for which causes are tried."""
    drawing, other = varied(a)
    assert_parity(drawing, a.give(other), a.array(4, 1, 4, 4), a.labels(4))
    wrong = from_reference(drawing)
    wrong.get_submodule("affine").register_parameter("weight", nn.Parameter(torch.ones(4, 2, dtype=torch.float64)))
    assert not check_parity(drawing, a.give(wrong), a.array(4, 1, 4, 4), a.labels(4), runs=["training"])


def draw_integers(a: Arguments) -> None:
    case = a.give(integers.integer_case(a.give(network()), (1, 4, 4), 4, 0))
    assert integers.homogeneous(a.give(case.network))
    integers.scaled(case, 2.0)


def probe_layers(a: Arguments) -> None:
    chain: list[Layer] = [convolution(a), nr.Relu(), nr.Pooling(2, 2)]
    probes.probe(a.give(chain), a.array(2, 1, 4, 4), a.array(2, 2, 1, 1), FLOAT64.arithmetic)


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


def check_gradients(a: Arguments) -> None:
    reference, x, t = a.give(network()), a.array(2, 1, 4, 4), a.labels(2)
    found = a.give(gradients.port_gradients(a.give(port()), x, t))
    assert all(row.ok for row in gradients.gradient_check(reference, x, t, found))
    given = a.give(gradients.central_differences(reference, x, t))
    gradients.judge_gradients(given, found)


def show(a: Arguments) -> None:
    """Every way to tell a report: the rows are frozen, their records are not."""
    report = Report(tuple(check_loss(a.array(3, 4), a.labels(3), FLOAT64)), "port", "float64", "cpu", 0, ("loss",))
    evaluation = a.give({"samples": 3, "agreeing": 3, "accuracy": {"numpy": 1.0}, "memory": None})
    records = a.give([a.give(report.to_dict())])
    page.save(a.folder, a.give(page.to_dict(records, command="python", evaluation=evaluation)))
    page.to_fragment(records[0])
    report.to_html(about=a.give({"weights": "drawn"}))
    report.to_text(a.give([*report.rows]))


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


OUTPUTS: dict[str, Callable[[Arguments], tuple[Any, Array]]] = {
    "Identity": lambda a: (loss.Identity(), a.array(2, 3)),
    "Softmax": lambda a: (loss.Softmax(), a.array(2, 3)),
    "LogSoftmax": lambda a: (loss.LogSoftmax(), a.array(2, 3)),
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
    **dict.fromkeys(("numpy_ref.conv_net.ConvNet", "numpy_ref.conv_net.conv_net_stack"), own_network),
    "numpy_ref.network.Network.set_statistics": statistics,
    "torchport.networks.architectures.without_statistics": statistics,
    **dict.fromkeys(
        (
            *(f"torchport.files.store.{name}" for name in ("load_network", "read_weights", "stage_weights")),
            *(f"torchport.porting.{name}" for name in ("port", "check_staged")),
            "torchport.subjects.load_subject",
        ),
        port_a_file,
    ),
    **dict.fromkeys(
        (
            *(f"torchport.networks.nearest.{name}" for name in ("first", "listed", "nearest", "shown", "weights_of")),
            *(f"torchport.files.containers.{name}" for name in ("array_sets", "contents_of")),
            "torchport.networks.layouts.to_params",
        ),
        read_names,
    ),
    "torchport.networks.architectures.recognised": lambda a: architectures.recognised(
        a.params(), a.give(Geometry(pool=[1]))
    ),
    "torchport.networks.weights.Weights.of": lambda a: [
        value.zero_() for value in Weights.of(a.params(), a.give(Geometry(pool=[1]))).port().state_dict().values()
    ],
    "torchport.networks.weights.Source.rounded": lambda a: Source().rounded(a.params(), a.params()),
    **{f"numpy_ref.{name}.forward": partial(forward, make) for name, make in LAYERS.items()},
    **{f"numpy_ref.{name}.backward": partial(backward, make) for name, make in LAYERS.items()},
    **{f"torchport.layers.loss.{name}.forward": partial(forward, make) for name, make in OUTPUTS.items()},
    **{f"torchport.layers.loss.{name}.backward": partial(backward, make) for name, make in OUTPUTS.items()},
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
    "torchport.data.images.check_images": lambda a: check_images("x", a.give(np.ones((3, 1, 4, 4), np.uint8))),
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
    "numpy_ref.deep_convnet.deep_convnet_stack": lambda a: deep_convnet.deep_convnet_stack(
        a.give(deep_convnet.DEFAULT_CONV_PARAMS), 3, 4
    ),
    "numpy_ref.classic.LeNet5": lambda a: nr.LeNet5(a.give((1, 12, 12)), 2),
    "numpy_ref.classic.AlexNet": lambda a: nr.AlexNet(a.give((1, 67, 67)), 2, 1 / 64),
    "numpy_ref.multi_layer_net.TwoLayerNet": two_layers,
    "numpy_ref.multi_layer_net.Chapter4TwoLayerNet": two_layers,
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
    "numpy_ref.simple_convnet.simple_convnet_stack": lambda a: simple_convnet.simple_convnet_stack(
        a.give(SIZES["conv_param"])
    ),
    "numpy_ref.optimizer.Optimizer.update": optimize_reference,
    "numpy_ref.params.write_params": lambda a: nr.write_params(a.params(), a.folder / "params.pkl"),
    "numpy_ref.opcodes.describe": lambda a: pickles.describe(a.array(2)),
    "numpy_ref.pickles.native": lambda a: pickles.native(a.array(2)).fill(1),
    "numpy_ref.pickles.widened": lambda a: pickles.widened(a.give(np.ones(2, np.uint16))).fill(1),
    "numpy_ref.trainer.Trainer": train,
    "torchport.evaluation.predict": lambda a: [
        evaluation.predict(net, a.array(3, 1, 4, 4)) for net in (network(), a.give(port()), a.give(port("unfold")))
    ],
    "torchport.evaluation.evaluate_ports": lambda a: evaluation.evaluate_ports(
        a.weights(), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.compare_predictions": lambda a: evaluation.compare_predictions(
        a.give({"numpy": network(), "torch": port()}), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.classify": lambda a: evaluation.classify(
        network(), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.hints.hint": give_hint,
    "torchport.evaluation.check_takes": lambda a: evaluation.check_takes(
        architectures.recognise(a.params()), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.evaluation.Classification.to_text": lambda a: a.give(
        evaluation.Classification(a.labels(4), a.labels(4), a.sizes(4), 4)
    ).to_text(),
    "torchport.evaluation.Classification.to_json": lambda a: a.give(
        evaluation.Classification(a.labels(4), a.labels(4), a.sizes(4), 4)
    ).to_json(weights="params.pkl"),
    "torchport.figures.runs.curves": lambda a: figures.curves(
        a.give({"run": figures.Curve(2, a.sizes(4), a.labels(2), a.sizes(2), a.sizes(2))})
    ),
    "torchport.figures.predictions.confusion_matrix": lambda a: figures.confusion_matrix(a.give(np.eye(3, dtype=int))),
    "torchport.figures.predictions.mistakes": lambda a: figures.mistakes(
        a.give(np.ones((2, 1, 4, 4), np.uint8)), a.labels(2), a.labels(2), a.sizes(2)
    ),
    "torchport.figures.boxes.architecture": lambda a: figures.architecture(a.give([figures.Box("a", "", (1,), 2)])),
    "torchport.figures.sources.filters": lambda a: figures.filters(a.give({"W": a.array(2, 3, 4, 4)})),
    "torchport.figures.convolution.path": lambda a: figures.path(a.give([figures.Stage("a", a.sizes(3, 3))])),
    "torchport.figures.shifts.shifts": lambda a: figures.shifts(
        a.give({"a": (a.sizes(2, 2), a.sizes(2, 2))}), a.labels(3), a.give({"b": a.sizes(3)}), a.give({"c": a.sizes(3)})
    ),
    "torchport.figures.shifts.relative_change": lambda a: relative_change(a.sizes(2, 2), a.sizes(2, 2)),
    "torchport.evaluation.Classification.mistakes_figure": lambda a: a.give(
        evaluation.Classification(a.labels(2), 1 - a.labels(2), a.sizes(2), 4)
    ).mistakes_figure(a.give(np.ones((2, 1, 4, 4), np.uint8))),
    "torchport.moves.moved": lambda a: moves.moved(a.sizes(2, 1, 4, 4), 1, -1),
    "torchport.figures.convolution.responses": lambda a: figures.responses(
        a.sizes(1, 6, 6), a.array(2, 1, 4, 4), a.array(2, 3, 3)
    ),
    "torchport.figures.convolution.feature_maps": lambda a: figures.feature_maps(
        a.sizes(1, 4, 4), a.give({"conv1": a.array(2, 3, 3)}), a.sizes(4), 1
    ),
    "torchport.figures.windows.columns": lambda a: figures.columns(a.sizes(1, 4, 4), 3, pad=1),
    "torchport.data.images.pixels": lambda a: np.negative(
        found := images.pixels(a.give(np.ones((2, 1, 3, 3), np.uint8))), out=found
    ),
    "torchport.data.preparation.Preparation.apply": lambda a: [
        Preparation.parse(how).apply(a.sizes(2, 3), np.float64) for how in ("0-255", "inverted", "normalized")
    ],
    "torchport.data.images.digit": lambda a: images.digit(a.give(np.eye(30))),
    "torchport.data.images.sample": lambda a: images.sample(a.give(np.ones((2, 1, 3, 3), np.uint8)), 1),
    **dict.fromkeys(("torchport.subjects.boxes", "torchport.subjects.seeded_subject"), look_at),
    **{f"torchport.subjects.{name}": look_into for name in ("convolution", "maps_of")},
    "torchport.layers.columns.im2col": lambda a: differentiate(torchport.im2col, a.leaf(2, 1, 4, 4), 2),
    "torchport.layers.columns.col2im": lambda a: differentiate(torchport.col2im, a.leaf(18, 4), (2, 1, 4, 4), 2),
    "torchport.data.drawn.draw": draw,
    "torchport.data.glyphs.distances": lambda a: glyphs.distances(a.give(np.eye(5, dtype=bool))),
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
    "torchport.training.fused.one_hot_rows": lambda a: one_hot_rows(
        a.array(2, 1, 2, 2).astype(np.uint8), a.labels(2), 4
    ),
    "torchport.training.fused.log_likelihood": lambda a: log_likelihood(
        a.tensor(2, 3).abs(), a.tensor(2, 3), torch.zeros(())
    ),
    "torchport.training.fused.affine_relu": lambda a: differentiate(
        lambda x: affine_relu(x, torch.nn.Linear(4, 2).double()), a.leaf(3, 4)
    ),
    "torchport.training.folder.curve_of": lambda a: curve_of(a.array(1), (Record(1, 1, 0.0, 0.0, 0.0),)),
    "torchport.optimizers.torch_options": lambda a: torchport.optimizers.torch_options(a.give({"beta1": 0.5})),
    "torchport.training.fused.pools_at_once": lambda a: pools_at_once(a.give(port())),
    "torchport.training.fused.Gathered.of": lambda a: Gathered.of(a.give(torch.nn.Conv2d(1, 2, 3)), a.give([1, 4, 4])),
    "torchport.training.fused.conv_pool_relu": lambda a: differentiate(
        conv_pool_relu,
        a.leaf(2, 1, 4, 4),
        conv := torch.nn.Conv2d(1, 2, 3, dtype=torch.float64),
        a.give(Gathered.of(conv, (1, 4, 4))),
    ),
    "torchport.training.fused.PoolFirst.forward": lambda a: differentiate(PoolFirst(port()), a.leaf(2, 1, 4, 4)),
    "torchport.training.loop.train": train_and_resume,
    "torchport.training.samples.cut_and_checked": lambda a: cut_and_checked(some_samples(a), 2),
    "torchport.training.state.copied": lambda a: copied(a.give({"a": {"b": a.tensor(2)}})),
    "torchport.training.state.all_finite": lambda a: all_finite(a.give({"a": {"b": a.tensor(2)}})),
    "torchport.training.state.put_back": lambda a: put_back({"a": torch.zeros(2)}, a.give({"a": a.tensor(2).float()})),
    "torchport.layers.loss.SoftmaxWithLoss.forward": lambda a: differentiate(
        torchport.SoftmaxWithLoss(), a.leaf(3, 4), a.give(torch.arange(3))
    ),
    "torchport.networks.simple_convnet.SimpleConvNet": lambda a: torchport.SimpleConvNet(**a.give(SIZES)),
    "torchport.networks.simple_convnet.SimpleConvNet.from_params": lambda a: torchport.SimpleConvNet.from_params(
        a.params()
    ),
    "torchport.networks.simple_convnet.SimpleConvNet.forward": lambda a: [
        differentiate(a.give(port(conv)), a.leaf(3, 1, 4, 4)) for conv in torchport.networks.CONVOLUTIONS
    ],
    "torchport.optimizers.BookAdam": lambda a: torchport.BookAdam([a.leaf(2, 3)]),
    "torchport.optimizers.BookAdam.step": optimize_port,
    "torchport.optimizers.make_optimizer": optimize_port,
    "torchport.layers.arithmetic.Arithmetic.of_sum": lambda a: FLOAT64.arithmetic.of_sum(a.labels(3), a.sizes(3)),
    **{f"torchport.layers.kinds.{name}": bound for name in ("kind_of", "class_name", "predicted", "LayerKind.about")},
    "torchport.layers.modules.window_about": lambda a: layer_modules.window_about(a.give(nr.Pooling(2, 2))),
    "torchport.layers.arithmetic.Arithmetic.of_products": lambda a: FLOAT64.arithmetic.of_products(
        a.labels(3), a.sizes(3), a.array(3), a.sizes(3)
    ),
    "torchport.layers.sums.own_limit": bound,
    "torchport.layers.smooth.running_limits": lambda a: smooth.running_limits(
        a.give(nr.BatchNormalization(a.sizes(3), a.sizes(3), 0.9, a.array(3), a.sizes(3))),
        a.array(4, 3),
        FLOAT64.arithmetic,
    ),
    "torchport.layers.loss.loss_limits": lambda a: loss.loss_limits(a.array(3, 4), a.labels(3), FLOAT64.arithmetic),
    "torchport.networks.ports.from_reference": varied,
    "torchport.networks.ports.load_layer": lambda a: load_layer(
        nn.Linear(3, 2), a.give(nr.Affine(a.array(3, 2), a.array(2)))
    ),
    "torchport.networks.architectures.recognise": recognised,
    "torchport.networks.architectures.Architecture.reference": lambda a: [
        np.negative(value, out=value) for value in recognised(a).reference(a.params()).params.values()
    ],
    "torchport.networks.names.layer_parameters": lambda a: names.layer_parameters(a.give(convolution(a))),
    "numpy_ref.network.layer_statistics": lambda a: [
        np.negative(value, out=value)
        for layer in varied(a)[0].layers.values()
        for value in ref_network.layer_statistics(layer).values()
    ],
    "torchport.networks.names.state_dict_keys": lambda a: names.state_dict_keys(varied(a)[0]),
    "torchport.networks.names.state_dict_of": lambda a: [
        value.zero_() for value in names.state_dict_of(varied(a)[0]).values()
    ],
    "torchport.networks.names.update_reference": lambda a: names.update_reference(network(), a.state_dict()),
    "torchport.parity.cases.seeded_params": lambda a: cases.seeded_params(0, a.params()),
    "torchport.parity.cases.check_ports": lambda a: cases.check_ports(a.weights(), a.array(3, 1, 4, 4), a.labels(3)),
    **dict.fromkeys(("torchport.parity.certificate.check_parity", "torchport.testing.assert_parity"), check_networks),
    **{f"torchport.parity.integers.{name}": draw_integers for name in ("integer_case", "homogeneous", "scaled")},
    "torchport.parity.probes.probe": probe_layers,
    "torchport.loading.filling.load_params": lambda a: load_params(port(), a.give(network()), a.array(3, 1, 4, 4)),
    "torchport.loading.filling.params_from": lambda a: [
        np.negative(value, out=value)
        for value in params_from(a.give(port()), a.give(network()), a.array(3, 1, 4, 4)).values()
    ],
    "torchport.parity.certificate.check_layer": check_layers,
    "torchport.parity.losses.check_loss": lambda a: check_loss(a.array(3, 4), a.labels(3), FLOAT64),
    "torchport.parity.compare.compare": lambda a: compare_arrays(a.array(3), a.array(3), a.sizes(3)),
    **{
        f"torchport.parity.gradients.{name}": check_gradients
        for name in ("central_differences", "gradient_check", "judge_gradients", "port_gradients")
    },
    **{f"torchport.parity.page.{name}": show for name in ("environment", "save", "to_dict", "to_fragment", "to_html")},
    **{f"torchport.parity.report.Report.{name}": show for name in ("to_html", "to_text")},
    "torchport.parity.probes.check_predictions": lambda a: probes.check_predictions(
        a.give(network()), a.array(3, 1, 4, 4), a.array(3, 4), torch.float32
    ),
    "numpy_ref.params.check_arrays": lambda a: params.check_arrays(a.params()),
    "numpy_ref.params.encode_params": lambda a: params.encode_params(a.params()),
    "numpy_ref.params.read_back": read_back,
    "numpy_ref.params.write_arrays": lambda a: params.write_arrays(
        a.folder / "x.pkl", given := a.params(), params.encode_params(given), params.decode_params
    ),
    "torchport.files.npz.encode_npz": lambda a: npz.encode_npz(a.params()),
    "torchport.files.pt.encode_pt": lambda a: pt.encode_pt(a.params()),
    "torchport.files.safe.encode_safetensors": lambda a: safe.encode_safetensors(a.params(), a.give({"k": "v"})),
    "torchport.layers.arithmetic.Setting.of": lambda a: Setting.of(a.give(port())),
    "torchport.layers.arithmetic.Setting.tensor": lambda a: FLOAT64.tensor(a.array(3)).add_(1),
    "torchport.layers.arithmetic.Setting.round": lambda a: FLOAT64.round(a.array(3)).fill(1),
    "torchport.layers.arithmetic.rounded": lambda a: arithmetic.rounded(a.array(3), torch.float64).fill(1),
    "torchport.layers.terms.in_torch_terms": lambda a: terms.in_torch_terms(a.give({"W": a.array(2, 3)})),
    "torchport.networks.names.shared_dtype": lambda a: names.shared_dtype(a.params()),
    "torchport.networks.names.to_array": lambda a: names.to_array("conv1.weight", a.tensor(2, 3)),
    "torchport.layers.terms.to_torch_layout": lambda a: terms.to_torch_layout(a.array(2, 3)),
    "torchport.networks.weights.to_state_dict": lambda a: [
        value.add_(1) for value in torchport.to_state_dict(a.params()).values()
    ],
    "torchport.networks.weights.to_params": lambda a: [
        np.negative(value, out=value) for value in torchport.to_params(a.state_dict()).values()
    ],
    "torchport.networks.names.cast_params": lambda a: names.cast_params(a.params(), torch.float32),
    "torchport.networks.names.rounding_loss": lambda a: names.rounding_loss(a.params(), a.params()),
    "torchport.networks.names.state_dict_bytes": lambda a: names.state_dict_bytes(a.state_dict()),
}

# Reason, and the names; * at the end stands for all of a module.
# Called by train, with whose samples, configuration and folder they work.
PARTS_OF_TRAINING = (
    "torchport.training.folder.RunFolder*",
    "torchport.training.torch_learner.TorchLearner*",
    "torchport.training.run.Run*",
    "torchport.training.loop.resume",
    "torchport.training.ranks.*",
    "torchport.training.state.Masks*",
    "torchport.training.numpy_learner.NumpyLearner*",
)

# Called by check_parity on what it is given, and on records of a run.
PARTS_OF_PARITY = (
    *(f"torchport.parity.{room}.*" for room in ("recording", "links", "judgement", "runs", "lines", "left")),
    *(
        f"torchport.parity.{room}.*"
        for room in ("subject", "forward", "backward", "parameters", "causes", "mistakes", "variants")
    ),
    *(f"torchport.parity.{room}.*" for room in ("computed", "given")),
    "torchport.parity.losses.loss_rows",
    "torchport.parity.losses.taken_by",
)

# Called by load_params on a port that it fills, or puts back.
PARTS_OF_LOADING = tuple(f"torchport.loading.{room}.*" for room in ("uses", "places", "proof"))

EXEMPT: dict[str, tuple[str, ...]] = {
    "takes what may be anything, and looks at it": (
        "numpy_ref.checks.check_int",
        "numpy_ref.checks.check_number",
        "numpy_ref.pickles.view_of",
        "numpy_ref.opcodes.StandIn.*",
        "numpy_ref.params.looked_at",
        "torchport.files.npz.unpack",
        "torchport.cli.Parser",
        "torchport.layers.modules.BatchNormalization",
        "torchport.layers.selections.exactly",
        "torchport.training.folder.read_curves",
    ),
    "test_numerical_gradient_puts_every_entry_back": ("numpy_ref.gradient.numerical_gradient*",),
    "takes frozen records of numbers and text": (
        "torchport.porting.NoParity",
        "torchport.porting.example",
        "torchport.parity.gradients.gradient_table",
        "torchport.parity.gradients.gradient_verdict",
        "torchport.parity.picture.*",
        "torchport.parity.text.*",
    ),
    "forgets what its argument remembers, which is what it is for": ("numpy_ref.layers.forget",),
    "draws from its argument, which is what it is for": ("torchport.layers.kinds.image",),
    "takes what argparse gives, for one command": ("torchport.cli.hints", "torchport.commands.*"),
    "makes a few numbers and texts of its argument": (
        "numpy_ref.classic.lenet5_stack",
        "torchport.files.formats.Format.told",
    ),
    "returns its argument, or views of it": ("numpy_ref.checks.recorded", "torchport.optimizers.in_pieces"),
    "works in the memory of its argument, as it says": ("torchport.training.fused.loss_gradient",),
    "adds a line to notes, which is what they are for": (
        "numpy_ref.params.decode_values",
        "numpy_ref.pickles.plain",
        "numpy_ref.pickles.read_values",
        "torchport.files.*.decode_*",
    ),
    "adds to its argument, which is what it is for": (
        "torchport.cli.add_images",
        "torchport.cli.add_windows",
        "torchport.cli.add_hints",
        "torchport.cli.add_output",
        "torchport.cli.add_field",
        "torchport.optimizers.BookAdam.add_param_group",
    ),
    "wraps its argument": ("torchport.training.fused.PoolFirst", "torchport.training.fused.arranged"),
    "draws on its argument": (
        "torchport.figures.style.*",
        "torchport.figures.greys.*",
        "torchport.figures.picture.*",
        "torchport.figures.tiles.*",
    ),
    "is part of figures.filters": (
        "torchport.figures.convolution.filter_panels",
        "torchport.figures.sources.weights_of",
    ),
    "is a part of visualize.py, and only reads": (
        "torchport.moves.a*",
        "torchport.moves.changes",
        "torchport.moves.pair",
        "torchport.subjects.Subject.*",
        "torchport.subjects.load_samples",
        "torchport.subjects.sta*",
    ),
    "needs packages that may be missing": ("torchport.files.onnx_files.*",),
    "is part of training.train": PARTS_OF_TRAINING,
    "is part of loading.load_params": PARTS_OF_LOADING,
    "fills its argument, which is what it is for": ("torchport.loading.writing.write_into",),
    "is part of check_parity": PARTS_OF_PARITY,
    "an interface, without code": (
        "numpy_ref.layers.Layer.forward",
        "numpy_ref.layers.Layer.backward",
        "torchport.training.state.Learner.*",
    ),
}


pytestmark = [
    pytest.mark.usefixtures("no_drawing"),
    pytest.mark.filterwarnings("ignore:the mean loss of epoch"),  # of runs too short to learn anything
]


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
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


# What cannot be changed, or is there to be: a stream is drawn from.
UNCHANGING = {"int", "float", "str", "bool", "bytes", "memoryview", "Path", "None", "tuple", "Size2d", "Order", "Ranks"}
UNCHANGING |= {
    "torch",
    "device",
    "dtype",
    "np",
    "random",
    "RandomState",
    "Vocabulary",
    "Setting",
    "Config",
    "LayerKind",
}


def can_change_arguments(function: Callable[..., Any]) -> bool:
    """Whether it takes more, besides self or cls, than numbers, text, bytes, paths and functions."""
    parameters = inspect.signature(function).parameters
    annotations = [str(parameters[name].annotation) for name in parameters.keys() - {"self", "cls"}]
    words = [re.findall(r"[^\W\d]\w*", re.sub(r"Callable\[.*\]", "", each)) for each in annotations]
    return not all(set(each) <= UNCHANGING for each in words)


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, methods and constructors that are written out in either package."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            path = f"{module.__name__}.{getattr(value, '__qualname__', name)}"
            if inspect.isclass(value):
                yield from public_methods(value, path)
            elif inspect.isfunction(value):
                yield path, value


def public_methods(kind: type, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(kind).items():
        method = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not inspect.isfunction(method):
            continue
        # dataclasses and protocols come with an __init__ that nobody wrote.
        if name == "__init__" and inspect.getsourcefile(method) == inspect.getsourcefile(kind):
            yield path, method
        elif not name.startswith("_"):
            yield f"{path}.{name}", method


def test_every_public_function_is_called_or_exempt() -> None:
    public = dict(public_functions())
    needed = {path for path, function in public.items() if can_change_arguments(function)}
    exempt = {pattern: set(fnmatch.filter(needed, pattern)) for names in EXEMPT.values() for pattern in names}
    assert [pattern for pattern, found in exempt.items() if not found] == []  # or there is nothing to exempt any more
    excused = set[str]().union(*exempt.values())
    assert not CALLS.keys() & excused
    assert needed - excused - CALLS.keys() == set()
    assert CALLS.keys() - public.keys() == set()


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
