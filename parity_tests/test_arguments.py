"""No function of either package changes its arguments, and none needs them to be writable.

Each public function and method is called on arguments that are compared, to the bit, with what they were.
"""

from __future__ import annotations

import contextlib
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
from numpy_ref import checks, functions, networks, optimizers, pickles
from numpy_ref.checks import Array
from numpy_ref.im2col import pad_image
from torchport import evaluation, weights
from torchport.parity import Setting, bounds, cases, trace
from torchport.parity import compare as compare_arrays
from torchport.parity.compare import check_layer, check_loss, check_optimizer, check_parity

T = TypeVar("T")

SIZES: dict[str, Any] = {
    "input_dim": (1, 4, 4),
    "conv_param": {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1},
    "hidden_size": 3,
    "output_size": 4,
}


def leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Whatever value is made of, by where it stands: what networks and layers remember too."""
    if isinstance(value, nn.Module):
        parts: dict[Any, object] = {**dict(value.named_parameters()), "training": value.training}
    elif isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif type(value).__module__.startswith("numpy_ref."):
        parts = vars(value)
    else:
        yield path, value
        return
    yield path, list(parts)
    for name, part in parts.items():
        yield from leaves(part, f"{path}.{name}")


def state(value: object) -> object:
    """All that a function could change about a leaf, as something that == compares."""
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
            if isinstance(leaf, np.ndarray):
                leaf.flags.writeable = self._writeable
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


def convolution(a: Arguments) -> nr.Convolution:
    return nr.Convolution(a.array(2, 1, 3, 3), a.array(2))


def optimize_reference(a: Arguments) -> None:
    """params are moved by contract; gradients are not."""
    for rule in optimizers.OPTIMIZERS.values():
        params, optimizer = {"W": np.ones((2, 3))}, rule(0.1)
        grads = a.give({"W": np.ones((2, 3))})
        for _ in range(2):
            optimizer.update(params, grads)


def optimize_port(a: Arguments) -> None:
    """Likewise."""
    for name in optimizers.OPTIMIZERS:
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
    image = a.array(2, 1, 5, 5)
    kinds = nr.Pooling(2, 2, 1), nr.AveragePooling(2, 2, 1), nr.Flatten(), nr.Relu(), nr.Sigmoid()
    for layer in (convolution(a), nr.Affine(a.array(25, 3), a.array(3)), *kinds):
        bound_layer(a, layer, image)


def bound_layer(a: Arguments, layer: Any, x: Array) -> None:
    shape = layer.forward(x).shape
    rule, dout = bounds.rule_of(a.give(layer)), a.array(*shape)
    rule.forward(layer, x, a.sizes(*x.shape), FLOAT64.arithmetic)
    rule.backward(layer, x, a.sizes(*x.shape), dout, a.sizes(*shape), FLOAT64.arithmetic)


def check_networks(a: Arguments) -> None:
    for conv in torchport.networks.CONVOLUTIONS:
        reference = network()
        reference.gradient(np.ones((1, 1, 4, 4)), np.zeros(1, int))  # something to remember
        x, t = a.array(3, 1, 4, 4), a.labels(3)
        check_parity(a.give(reference), a.give(port(conv)), x, t).raise_if_failed()


def check_one_layer(a: Arguments) -> None:
    layer = a.give(nr.Affine(a.array(3, 2), a.array(2)))
    module = a.give(nn.Linear(3, 2, dtype=torch.float64))
    check_layer("affine", layer, module, a.array(4, 3), a.array(4, 2), FLOAT64)


def after_backward(a: Arguments) -> nr.Convolution:
    layer = convolution(a)
    layer.backward(np.ones_like(layer.forward(a.array(2, 1, 4, 5))))
    return a.give(layer)


def run_and_back(a: Arguments, *layers: Any) -> None:
    trace.forward(layers, a.array(2, 1, 5, 5))
    trace.backward(layers, a.array(2, 2, 3, 3))


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
    "pooling.Pooling": lambda a: (nr.Pooling(2, 2, 1, 1), a.array(2, 1, 4, 5)),
    "pooling.AveragePooling": lambda a: (nr.AveragePooling(2, 2, 1, 1), a.array(2, 1, 4, 5)),
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


def of_array(function: Callable[[Array], object], a: Arguments) -> object:
    return function(a.array(3, 4))


def lose(a: Arguments) -> None:
    for t in (a.labels(3), a.one_hot(3, 4)):
        layer = nr.SoftmaxWithLoss()
        layer.forward(a.array(3, 4), t)
        layer.backward()


def saved(a: Arguments) -> nr.SimpleConvNet:
    net = network()
    a.give(net.params)
    net.save_params(a.folder / "params.pkl")
    return net


Call = Callable[[Arguments], object]

CALLS: dict[str, Call] = {
    **{f"numpy_ref.{name}.forward": partial(forward, make) for name, make in LAYERS.items()},
    **{f"numpy_ref.{name}.backward": partial(backward, make) for name, make in LAYERS.items()},
    **{f"numpy_ref.layers.{name}": partial(forward, LAYERS[f"layers.{name}"]) for name in ("Affine", "Convolution")},
    "numpy_ref.layers.BatchNormalization": normalize,
    "numpy_ref.layers.SoftmaxWithLoss.forward": lose,
    "numpy_ref.layers.SoftmaxWithLoss.backward": lose,
    "numpy_ref.checks.check_array": lambda a: checks.check_array("x", a.array(2, 3), 2),
    "numpy_ref.checks.check_batch": lambda a: checks.check_batch("x", a.array(2, 3), 2),
    "numpy_ref.checks.check_shape": lambda a: checks.check_shape("x", a.array(2, 3), (2, 3)),
    **{
        f"numpy_ref.functions.{name}": partial(of_array, getattr(functions, name))
        for name in ("identity_function", "step_function", "sigmoid", "sigmoid_grad", "relu", "relu_grad", "softmax")
    },
    "numpy_ref.functions.sum_squared_error": lambda a: nr.sum_squared_error(a.array(3, 4), a.array(3, 4)),
    "numpy_ref.functions.class_labels": lambda a: functions.class_labels(a.one_hot(3, 4), (3, 4)),
    "numpy_ref.functions.cross_entropy_error": lambda a: nr.cross_entropy_error(a.sizes(3, 4), a.one_hot(3, 4)),
    "numpy_ref.functions.softmax_loss": lambda a: nr.softmax_loss(a.array(3, 4), a.labels(3)),
    "numpy_ref.im2col.pad_image": lambda a: [pad_image(a.array(2, 1, 3, 3), pad) for pad in (0, 1)],
    "numpy_ref.im2col.im2col": lambda a: [nr.im2col(a.array(2, 1, 4, 4), 2, 2, 1, pad) for pad in (0, 1)],
    "numpy_ref.im2col.im2col_by_window": lambda a: nr.im2col_by_window(a.array(2, 1, 4, 4), 2, 2),
    "numpy_ref.im2col.col2im": lambda a: nr.col2im(a.array(18, 4), (2, 1, 4, 4), 2, 2),
    "numpy_ref.im2col.shuffle_dataset": lambda a: nr.shuffle_dataset(
        a.array(5, 2), a.labels(5), np.random.RandomState(0)
    ),
    "numpy_ref.im2col.smooth_curve": lambda a: nr.smooth_curve(a.array(20)),
    "numpy_ref.networks.Network": lambda a: nr.Network(a.give({"Affine1": nr.Affine(a.array(3, 2), a.array(2))})),
    "numpy_ref.networks.Network.predict": lambda a: [
        network().predict(a.array(3, 1, 4, 4), flg) for flg in (True, False)
    ],
    "numpy_ref.networks.Network.loss": lambda a: network().loss(a.array(3, 1, 4, 4), a.one_hot(3, 4)),
    "numpy_ref.networks.Network.accuracy": lambda a: network().accuracy(a.array(3, 1, 4, 4), a.labels(3), 2),
    "numpy_ref.networks.Network.gradient": lambda a: saved(a).gradient(a.array(3, 1, 4, 4), a.labels(3)),
    "numpy_ref.networks.Network.numerical_gradient": lambda a: network().numerical_gradient(
        a.array(2, 1, 4, 4), a.labels(2)
    ),
    "numpy_ref.networks.Network.save_params": saved,
    "numpy_ref.networks.Network.load_params": lambda a: saved(a).load_params(a.folder / "params.pkl"),
    "numpy_ref.networks.Network.set_params": lambda a: network().set_params(a.params()),
    "numpy_ref.networks.SimpleConvNet": lambda a: nr.SimpleConvNet(**a.give(SIZES)),
    "numpy_ref.networks.check_same_layout": lambda a: networks.check_same_layout(
        a.give({"W": a.array(2)}), a.give({"W": (2,)})
    ),
    "numpy_ref.networks.simple_convnet_sizes": lambda a: networks.simple_convnet_sizes(**a.give(SIZES)),
    "numpy_ref.optimizers.Optimizer.update": optimize_reference,
    "numpy_ref.params.write_params": lambda a: nr.write_params(a.params(), a.folder / "params.pkl"),
    "numpy_ref.pickles.describe": lambda a: pickles.describe(a.array(2)),
    "numpy_ref.trainer.Trainer": train,
    "torchport.evaluation.predict_labels": lambda a: [
        evaluation.predict_labels(net, a.array(3, 1, 4, 4)) for net in (network(), port(), port("unfold"))
    ],
    "torchport.evaluation.evaluate_ports": lambda a: evaluation.evaluate_ports(
        a.params(), a.give(np.ones((3, 1, 4, 4), np.uint8)), a.labels(3)
    ),
    "torchport.im2col.im2col": lambda a: differentiate(torchport.im2col, a.leaf(2, 1, 4, 4), 2),
    "torchport.im2col.col2im": lambda a: differentiate(torchport.col2im, a.leaf(18, 4), (2, 1, 4, 4), 2),
    "torchport.layers.UnfoldConv2d.forward": lambda a: differentiate(
        a.give(torchport.UnfoldConv2d(1, 2, 3, dtype=torch.float64)), a.leaf(2, 1, 4, 4)
    ),
    "torchport.loss.softmax_with_loss": lambda a: [
        differentiate(torchport.softmax_with_loss, a.leaf(3, 4), a.give(torch.tensor(t)))
        for t in (a.labels(3), a.one_hot(3, 4))
    ],
    "torchport.loss.SoftmaxWithLoss.forward": lambda a: differentiate(
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
    "torchport.parity.bounds.Arithmetic.of_sum": lambda a: FLOAT64.arithmetic.of_sum(a.labels(3), a.sizes(3)),
    "torchport.parity.bounds.rule_of": bound,
    "torchport.parity.bounds.loss_limits": lambda a: bounds.loss_limits(
        a.array(3, 4), a.sizes(3, 4), a.labels(3), FLOAT64.arithmetic
    ),
    "torchport.parity.cases.seeded_params": lambda a: cases.seeded_params(0, a.params()),
    "torchport.parity.cases.reference_of": lambda a: cases.reference_of(a.params()).params["W1"].fill(0),
    "torchport.parity.cases.check_ports": lambda a: cases.check_ports(a.params(), a.array(3, 1, 4, 4), a.labels(3)),
    "torchport.parity.cases.check_twin": lambda a: cases.check_twin(
        a.give(nr.Affine(a.array(3, 2), a.array(2))), nn.Linear(3, 2), a.array(4, 3), np.random.default_rng(0), FLOAT64
    ),
    "torchport.parity.compare.check_parity": check_networks,
    "torchport.parity.compare.check_layer": check_one_layer,
    "torchport.parity.compare.check_loss": lambda a: check_loss(a.array(3, 4), a.labels(3), FLOAT64),
    "torchport.parity.compare.check_optimizer": lambda a: check_optimizer(
        nr.Adam, torchport.BookAdam, a.array(3), a.array(2, 3), FLOAT64
    ),
    "torchport.parity.compare.compare": lambda a: compare_arrays(a.array(3), a.array(3), a.sizes(3)),
    "torchport.parity.compare.Setting.of": lambda a: Setting.of(a.give(port())),
    "torchport.parity.compare.Setting.tensor": lambda a: FLOAT64.tensor(a.array(3)).add_(1),
    "torchport.parity.compare.Setting.compare": lambda a: FLOAT64.compare(a.leaf(3), a.array(3), a.sizes(3)),
    "torchport.parity.trace.align": lambda a: trace.align(a.give(network().layers), a.give(port())),
    "torchport.parity.trace.in_precision": lambda a: trace.in_precision(a.give(convolution(a)), torch.float32),
    "torchport.parity.trace.rounded": lambda a: trace.rounded(a.array(3), torch.float32),
    "torchport.parity.trace.in_torch_terms": lambda a: trace.in_torch_terms(a.give({"W": a.array(2, 3)})),
    "torchport.parity.trace.parameters": lambda a: trace.parameters(a.give(convolution(a))),
    "torchport.parity.trace.gradients": lambda a: trace.gradients(after_backward(a)),
    "torchport.parity.trace.forward": lambda a: run_and_back(a, nr.Relu(), convolution(a)),
    "torchport.parity.trace.backward": lambda a: run_and_back(a, nr.Relu(), convolution(a)),
    "torchport.parity.trace.trace_module": lambda a: trace.trace_module(
        a.give(nn.Linear(3, 2, dtype=torch.float64)), a.tensor(4, 3), a.tensor(4, 2)
    ),
    "torchport.parity.trace.trace_children": lambda a: trace.trace_children(a.give(port()), a.tensor(3, 1, 4, 4)),
    "torchport.parity.trace.trace_network": lambda a: trace.trace_network(
        a.give(port()), a.tensor(3, 1, 4, 4), a.give(torch.arange(3)), torchport.softmax_with_loss
    ),
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
    "torchport.weights.save_state_dict": lambda a: weights.save_state_dict(a.state_dict(), a.folder / "model.pt"),
}

# Reason, and the names.
EXEMPT: dict[str, tuple[str, ...]] = {
    "test_numerical_gradient_puts_every_entry_back": ("numpy_ref.gradient.numerical_gradient",),
    "takes numbers, text, paths, bytes or functions only": (
        "numpy_ref.checks.check_int",
        "numpy_ref.checks.check_number",
        "numpy_ref.files.replace_file",
        "numpy_ref.im2col.conv_output_size",
        "numpy_ref.layers.Dropout",
        *(
            f"numpy_ref.optimizers.{rule.__name__}"
            for rule in (optimizers.Optimizer, nr.SGD, nr.Momentum, nr.RMSprop, nr.AdaGrad, nr.Adam)
        ),
        "numpy_ref.params.read_params",
        "numpy_ref.pooling.Pooling",
        "numpy_ref.pickles.interpret",
        "torchport.cli.run",
        "torchport.cli.device",
        "torchport.cli.count",
        "torchport.data.mnist",
        "torchport.data.load_mnist",
        "torchport.im2col.pair",
        "torchport.im2col.output_size",
        "torchport.parity.bounds.Arithmetic.of",
        "torchport.parity.cases.seeded_batch",
    ),
    "draws from its argument, which is what it is for": ("numpy_ref.checks.random_stream",),
    "returns its argument": ("numpy_ref.checks.recorded",),
    "adds to its argument, which is what it is for": ("torchport.cli.add_geometry",),
    "an interface, without code": ("numpy_ref.layers.Layer.forward", "numpy_ref.layers.Layer.backward"),
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
    exempt = {name for names in EXEMPT.values() for name in names}
    assert not CALLS.keys() & exempt
    assert set(public_functions()) == CALLS.keys() | exempt


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
