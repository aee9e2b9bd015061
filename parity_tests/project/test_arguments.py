"""No public function of either package changes its arguments, or needs them to be writable.

While the tours below call the packages, every call of such a function is watched, wherever it comes from: arrays among
its arguments are read-only until it returns, and everything in its arguments is compared bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from reference.test_golden import CASES, run as golden
from torch import Tensor, nn

import numpy_ref as nr
import torchport
from numpy_ref import pickles
from numpy_ref.checks import Array
from torchport import evaluation, figures, moves, porting, subjects, training
from torchport.commands import hints
from torchport.data import drawn, glyphs, images
from torchport.data.preparation import Preparation
from torchport.files import Hints, load_network, stage_weights
from torchport.layers import KINDS, Setting, kinds, loss
from torchport.layers.arithmetic import arithmetic_of
from torchport.networks import Weights, from_reference, layouts, nearest
from torchport.networks.ports import load_layer
from torchport.parity import check_layer, check_loss, check_parity, gradients, probes
from torchport.parity.cases import seeded_params
from torchport.testing import assert_parity

T = TypeVar("T")

# --- How they are watched


def leaves(value: object, path: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, object]]:
    """Everything in value by its path, including what networks and layers remember."""
    if isinstance(value, nn.Module):
        parts: dict[Any, object] = {name: held(parameter) for name, parameter in value.named_parameters()}
        parts |= {name: held(parameter) for name, parameter in value.named_buffers()}
        for inside, module in value.named_modules():  # training, draw and whatever else a layer has
            parts |= {f"{inside}.{key}": part for key, part in vars(module).items() if not key.startswith("_")}
    elif isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif type(value).__module__.startswith(("numpy_ref.", "torchport.")) and hasattr(value, "__dict__"):
        parts = vars(value)
    else:
        yield path, value
        return
    yield path, list(parts)
    for name, part in parts.items():
        if id(part) not in above:
            yield from leaves(part, f"{path}.{name}", (*above, id(value)))


def held(parameter: Tensor) -> tuple[object, ...]:
    """What must be equal after a call; it may have been changed and put back in between."""
    grad = parameter.grad if parameter.is_leaf else None
    return parameter.requires_grad, state(grad), state(parameter.detach().clone().cpu().numpy())


def state(value: object) -> object:
    """Everything that a function could change in a leaf, except a random stream's state, which is there to advance."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.strides, value.tobytes()
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version, held(value)
    return repr(value) if isinstance(value, float) else value  # NaN is not itself


def states(arguments: Mapping[str, object]) -> dict[str, object]:
    return {path: state(leaf) for path, leaf in leaves(arguments, "")}


class Watch:
    """A profiler: Python calls it at each call and return; it records which functions ran and what they changed."""

    def __init__(self, functions: Mapping[CodeType, str]) -> None:
        self.functions, self.seen, self.changed, self.depth = functions, set[str](), set[str](), 0
        self.running: dict[int, tuple[dict[str, object], dict[str, object]]] = {}
        self.frozen: list[Array] = []

    def __enter__(self) -> Watch:
        sys.setprofile(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def __call__(self, frame: FrameType, event: str, result: object) -> None:
        name = self.functions.get(frame.f_code) if event in ("call", "return") else None
        if name and event == "call":
            self.seen.add(name)
            if name not in EXCUSED:
                self.begin(frame, WRITTEN.get(name, ""))
            self.depth += 1
        elif name and event == "return":
            self.depth -= 1
            if id(frame) in self.running:
                self.end(name, *self.running.pop(id(frame)), result)

    def begin(self, frame: FrameType, written: str) -> None:
        names = set(inspect.getargs(frame.f_code).args) - {"self", "cls", written}
        arguments = {name: frame.f_locals[name] for name in names}
        if not self.depth:  # inside, views of what is frozen may be handed on to be written to
            self.frozen = [leaf for _, leaf in leaves(arguments, "") if isinstance(leaf, np.ndarray) and frozen(leaf)]
        self.running[id(frame)] = arguments, states(arguments)

    def end(self, name: str, arguments: dict[str, object], before: dict[str, object], result: object) -> None:
        after = states(arguments)
        if name in COPIES and any(np.may_share_memory(*pair) for pair in product(arrays(result), arrays(arguments))):
            self.changed.add(f"{name}: its result is no copy")
        self.changed |= {name + path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        for array in [] if self.depth else 2 * self.frozen:  # a view after what it is a view of
            with contextlib.suppress(ValueError):
                array.flags.writeable = True


def arrays(value: object) -> list[Array]:
    """The arrays in value, and its tensors as arrays that share their memory."""
    parts = [leaf for _, leaf in leaves(value.state_dict() if isinstance(value, nn.Module) else value, "")]
    return [
        leaf if isinstance(leaf, np.ndarray) else leaf.detach().numpy()
        for leaf in parts
        if isinstance(leaf, np.ndarray | Tensor)
    ]


def frozen(array: Array) -> bool:
    """Make array read-only; whether it was writable before."""
    could, array.flags.writeable = array.flags.writeable, False
    return could


def modules() -> Iterator[Any]:
    for package in (nr, torchport):
        yield package
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                yield importlib.import_module(info.name)


def public_functions() -> Iterator[tuple[str, Any]]:
    """Path and function of each public function, method and constructor in the source of either package."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            path = f"{module.__name__}.{getattr(value, '__qualname__', name)}"
            if inspect.isclass(value):
                for key, part in vars(value).items():
                    method = part.__func__ if isinstance(part, classmethod | staticmethod) else part
                    written = inspect.isfunction(method) and method.__code__.co_filename == module.__file__
                    if written and (key == "__init__" or not key.startswith("_")):
                        yield path + (f".{key}" if key != "__init__" else ""), method
            elif inspect.isfunction(value):
                yield path, value


# Types that cannot be changed, or that are meant to be, such as random streams.
UNCHANGING = {
    "int",
    "float",
    "str",
    "bool",
    "bytes",
    "memoryview",
    "Path",
    "None",
    "tuple",
    "torch",
    "device",
    "dtype",
    "np",
}
UNCHANGING |= {"random", "RandomState", "Size2d", "Order", "Ranks", "Vocabulary", "Setting", "Config", "LayerKind"}


def can_change_arguments(function: Callable[..., Any]) -> bool:
    """Whether function has arguments that it could change: not only numbers, text, bytes, paths and functions."""
    parameters = inspect.signature(function).parameters
    annotations = [str(parameters[name].annotation) for name in parameters.keys() - {"self", "cls"}]
    words = [re.findall(r"[^\W\d]\w*", re.sub(r"Callable\[.*\]", "", annotation)) for annotation in annotations]
    return not all(set(names) <= UNCHANGING for names in words)


WATCHED = {
    inspect.unwrap(function).__code__: path for path, function in public_functions() if can_change_arguments(function)
}

# The one argument that the function writes to by contract.
WRITTEN = {
    "numpy_ref.optimizer.Optimizer.update": "params",
    "torchport.loading.filling.load_params": "port",
    "torchport.networks.ports.load_layer": "module",
    "torchport.training.state.put_back": "own",
    "torchport.training.fused.conv_pool_relu": "scratch",
    "torchport.training.fused.log_likelihood": "out",
    "torchport.training.fused.loss_gradient": "chances",
}

# Functions whose results must be copies, so that callers may write to them.
COPIES = (
    "numpy_ref.pickles.native",
    "numpy_ref.pickles.widened",
    "numpy_ref.util.im2col",
    "torchport.data.images.pixels",
    "torchport.layers.arithmetic.Setting.round",
    "torchport.layers.arithmetic.Setting.tensor",
    "torchport.loading.filling.params_from",
    "torchport.networks.names.state_dict_of",
    "torchport.networks.simple_convnet.SimpleConvNet.from_params",
    "torchport.networks.weights.to_params",
    "torchport.networks.weights.to_state_dict",
)

# Why they are not watched, and which; * stands for all that follows.
RECORDS = """arrays backward calls causes derived_weights deviation expected forward judgement lines links mistakes
    parameters picture places preparation recording rows runs side_effects stages subject variants"""
EXEMPT: dict[str, tuple[str, ...]] = {
    "moves an entry and puts it back: test_numerical_gradient_puts_x_back": ("numpy_ref.gradient.*",),
    "is part of check_parity, on records of a run": (
        *(f"torchport.parity.{room}.*" for room in RECORDS.split()),
        *("torchport.parity.losses.loss_rows", "torchport.parity.losses.taken_by"),
    ),
    "is part of load_params, on the port that it fills": (
        *(f"torchport.loading.{room}.*" for room in ("places", "proof", "uses", "writing")),
    ),
    "is part of train, on what it has made": (
        *(
            f"torchport.training.{part}*"
            for part in ("device_data.DeviceData", "kernel_step.", "torch_learner.", "state.Masks")
        ),
    ),
    "adds to its argument, or forgets what it remembers, which is what it is for": (
        *("numpy_ref.layers.forget", "torchport.layers.kinds.gradients_of", "torchport.commands.cli.*"),
        *("torchport.files.pt.decode_pickle", "numpy_ref.pickles.read_values", "torchport.figures.style.*"),
        "torchport.optimizers.BookAdam.add_param_group",
    ),
    "is what a script does with its command line": ("torchport.commands.*", "torchport.subjects.start_of"),
    "needs packages that may be missing, or data": (
        *("torchport.files.onnx_files.*", "torchport.subjects.load_samples", "torchport.data.glyphs.distances"),
    ),
    "takes records of numbers and text, looks at them, or gives back views": (
        *("torchport.porting.NoParity", "torchport.parity.gradients.gradient_*", "torchport.parity.page.to_fragment"),
        *("torchport.training.folder.read_curves", "numpy_ref.opcodes.describe"),
        "torchport.optimizers.in_pieces",
    ),
    "is an interface, without code": ("numpy_ref.layers.Layer.*", "torchport.training.state.Learner.*"),
}


PATTERNS = [pattern for patterns in EXEMPT.values() for pattern in patterns]
EXCUSED = {name for pattern in PATTERNS for name in fnmatch.filter(WATCHED.values(), pattern)}


# --- The tours

CONV = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
IMAGES, LABELS = np.arange(64, dtype=np.uint8).reshape(4, 1, 4, 4), np.arange(4)
ONE_HOT, FLOAT64 = np.eye(4), Setting(torch.float64)
X = np.random.default_rng(0).standard_normal((4, 1, 4, 4))


def network() -> nr.SimpleConvNet:
    net = nr.SimpleConvNet((1, 4, 4), CONV, 3, 4)
    net.set_params(seeded_params(0, net.params))
    return net


def varied() -> nr.Network:
    """A network that draws random numbers (Dropout) and keeps statistics (BatchNormalization)."""
    norm = nr.BatchNormalization(np.ones(4), np.zeros(4), 0.9, np.zeros(4), np.ones(4))
    conv, pool = nr.Convolution(np.ones((2, 1, 3, 3)), np.ones(2)), nr.AveragePooling(2, 2, 1)
    affine, dropout = nr.Affine(np.arange(8.0).reshape(2, 4), np.ones(4)), nr.Dropout(0.5, np.random.RandomState(0))
    return nr.Network({"Conv": conv, "Pool": pool, "Affine": affine, "Norm": norm, "Dropout": dropout})


def layers(_: Path) -> None:
    """Every registered kind of layer, and its torch module."""
    for kind in KINDS.values():
        layer, x = kind.sample(np.random.default_rng(0))
        module = kind.module(layer, "unfold").double()
        load_layer(module, layer)
        dout = np.ones_like(copy.copy(layer).forward(x))
        check_layer("it", layer, module, x, dout, FLOAT64)
        layer.backward(0 * layer.forward(x) + dout)
        kinds.predicted(layer, x), kind.about(layer)
    arithmetic_of(torch.float32).of_transforms(1, np.ones((1, 1)))


def reference(folder: Path) -> None:
    """The book's functions, layers, networks and training."""
    for case in CASES:
        if not case.startswith(("simple_convnet", "trainer")):
            golden(case)
    for layer in (nr.MulLayer(), nr.AddLayer()):
        layer.backward(layer.forward(X, X))
    pickles.widened(np.ones(2, np.uint16))
    nr.smooth_curve(np.arange(20.0)), nr.shuffle_dataset(X, LABELS), nr.identity_function(X)
    nr.softmax_loss(X[:, 0, 0], LABELS)
    net = network()
    nr.Trainer(net, X, LABELS, X, ONE_HOT, epochs=1, optimizer="Adam", optimizer_param={"lr": 0.1}).train()
    net.numerical_gradient(X, LABELS), net.accuracy(X, LABELS), net.outputs(X)
    net.save_params(folder / "params.pkl")
    net.load_params(folder / "params.pkl")
    flat = X.reshape(4, 16)
    for kind in (nr.TwoLayerNet, nr.Chapter4TwoLayerNet):
        kind(16, 3, 4, params=nr.TwoLayerNet(16, 3, 4).params).gradient(flat, ONE_HOT)
    norm = nr.MultiLayerNetExtend(16, [3], 4, weight_decay_lambda=0.1, use_batchnorm=True)
    norm.set_statistics({"running_mean1": np.zeros(3), "running_var1": np.ones(3)})
    (
        norm.gradient(flat, LABELS),
        norm.loss(flat, LABELS),
        nr.Chapter4TwoLayerNet(16, 3, 4).predict(flat),
        nr.ThreeLayerNet(4, [3, 2], 2),
        nr.LeNet5((1, 12, 12), 2),
    )
    nr.AlexNet((1, 67, 67), 2, 1 / 64), nr.ConvNet((1, 4, 4), [CONV], [3], 4, [1])
    nr.DeepConvNet((1, 4, 4), {**CONV, "pad": 1}).loss(X, LABELS)


def torch_modules(_: Path) -> None:
    port, leaf = from_reference(network()), torch.from_numpy(X.copy()).requires_grad_()
    torchport.col2im(torchport.im2col(leaf, 2), (4, 1, 4, 4), 2)
    for conv in torchport.networks.CONVOLUTIONS:
        port = torchport.SimpleConvNet.from_params(network().params, conv)
        for t in (LABELS, ONE_HOT):
            torchport.SoftmaxWithLoss()(port(leaf), torch.tensor(t)).backward()
        for rule in nr.optimizer.OPTIMIZERS:
            torchport.make_optimizer(rule, port.parameters()).step()
    for output in (loss.Identity, loss.Softmax, loss.LogSoftmax):
        layer = output()
        layer.backward(layer.forward(X[:, 0, 0]))


def files_and_ports(folder: Path) -> None:
    """Weights are written, read, ported, inspected and evaluated."""
    weights = Weights.of(network().params, Hints(pool=[1]))
    with stage_weights(weights, folder / "params.pkl") as staged:
        porting.check_staged(staged)
        staged.commit()
    for name in ("model.pt", "model.npz", "model.safetensors"):
        porting.port(folder / "params.pkl", folder / name, hints=Hints(pool=[1]))
    load_network(folder / "model.pt", pool=[1])
    subjects.load_subject(folder / "model.pt", Hints(pool=[1], order=["conv1", "affine1", "affine2"]))
    torchport.to_params(torchport.to_state_dict(network().params))
    arrays = {key: value.numpy() for key, value in weights.port().state_dict().items()}
    found, _ = layouts.to_params(arrays, Hints(flatten="hwc"))
    with pytest.raises(ValueError, match="nearest is SimpleConvNet"):
        nearest.nearest_network({**found, "W9": np.ones(2)})
    evaluation.evaluate_ports(weights, IMAGES, LABELS)
    result = evaluation.classify(weights.port(), IMAGES, LABELS)
    result.to_text(), result.to_json(weights="params.pkl"), result.mistakes_figure(IMAGES)
    hints.hint(weights, Weights.port, IMAGES, LABELS, Preparation(), result)


def loading(_: Path) -> None:
    port = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3))
    port = nn.Sequential(*port, nn.ReLU(), nn.Linear(3, 4)).double()
    torchport.load_params(port, network(), X)
    torchport.params_from(port, network(), X)


def parity(folder: Path) -> None:
    """Right ports, one that draws random numbers, and a wrong one, for which causes are tried."""
    drawing = varied()
    report = assert_parity(drawing, from_reference(drawing, "unfold"), X, LABELS, runs=["training"])
    report.to_html(about={"weights": "drawn"}), report.to_text([*report.rows])
    wrong = from_reference(drawing)
    wrong.get_submodule("affine").register_parameter("weight", nn.Parameter(torch.ones(4, 2, dtype=torch.float64)))
    assert not check_parity(drawing, wrong, X, LABELS, runs=["training"])
    two = nr.TwoLayerNet(16, 3, 4)
    check_parity(two, from_reference(two), X.reshape(4, 16), LABELS).raise_if_failed()
    probes.check_predictions(network(), X, network().predict(X), torch.float32)
    check_loss(X[:, 0, 0], LABELS, FLOAT64)
    torchport.parity.page.save(folder, torchport.parity.page.to_dict([report.to_dict()], command="python"))
    grads = gradients.port_gradients(torchport.SimpleConvNet.from_params(network().params), X, LABELS)
    gradients.gradient_check(network(), X, LABELS, grads)


def pictures(_: Path) -> None:
    subject = subjects.seeded_subject(0, Weights.of(network().params).architecture)
    figures.architecture(subjects.boxes(subject))
    outputs = subject.network.outputs(X)
    figures.feature_maps(X[0], {k: v[0] for k, v in subjects.maps_of(outputs, ["conv1"]).items()}, X[0, 0, 0], 1)
    figures.filters({"W": network().params["W1"]})
    figures.responses(X[0], network().params["W1"], outputs["Conv1"][0])
    figures.path(subjects.stages(subject, X[0]))
    figures.columns(X[0], 3, pad=1)
    figures.confusion_matrix(np.eye(3, dtype=int))
    figures.mistakes(IMAGES, LABELS, LABELS, np.ones(4))
    figures.curves({"run": figures.Curve(2, np.ones(4), np.arange(2), np.ones(2), np.ones(2))})
    moved = moves.changes(subject, X, [0, 1]), moves.accuracies(subject, IMAGES, LABELS, [0, 1])
    figures.shifts(moves.pair(subject, X[0]), np.arange(2), *moved)


def data(_: Path) -> None:
    images.digit(np.eye(30)), images.sample(IMAGES, 1), images.pixels(IMAGES)
    for how in ("0-255", "inverted", "normalized"):
        Preparation.parse(how).apply(X, np.float64)
    fields = np.random.default_rng(0).random((2, 10, glyphs.SIDE, glyphs.SIDE), np.float32)
    drawn.draw(fields, np.full((2, 10, 2), 40.0), np.random.RandomState(0), np.random.RandomState(1), 3)


def run_of_training(folder: Path) -> None:
    digits = (np.arange(400) % 251).astype(np.uint8).reshape(4, 1, 10, 10)
    samples = training.Samples(digits, LABELS, digits, LABELS, 4)
    for model in ("conv2d", "numpy"):
        training.train(
            training.Config(model=model, epochs=1, batch_size=3, device="cpu"),
            samples=samples,
            out=folder / model,
        )
        training.resume(folder / model, epochs=2, samples=samples)
    again = training.Config(init=str(folder / "numpy"), epochs=1, batch_size=3, device="cpu")
    training.train(again, samples=samples)


TOURS = [layers, reference, torch_modules, files_and_ports, loading, parity, pictures, data, run_of_training]


pytestmark = pytest.mark.filterwarnings("ignore:the mean loss of epoch")  # after a few steps


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """The Watch after all tours. torch is set to warn of every read-only array, not only of a process's first."""
    before, watcher = torch.is_warn_always_enabled(), Watch(WATCHED)
    torch.set_warn_always(True)
    for late in ("torch._dynamo", "matplotlib.backends.backend_agg"):  # which would take long to import while watched
        importlib.import_module(late)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchport.training.folder.curves", lambda runs: Figure((1, 1)))
        for tour in TOURS:
            with watcher:
                tour(tmp_path_factory.mktemp(tour.__name__))
    yield watcher
    torch.set_warn_always(before)


def test_no_argument_is_changed(watch: Watch) -> None:
    assert watch.changed == set()


def test_every_public_function_is_watched_or_exempt(watch: Watch) -> None:
    assert sorted(set(WATCHED.values()) - EXCUSED - watch.seen) == []
    assert [
        pattern for pattern in (*WRITTEN, *COPIES, *PATTERNS) if not fnmatch.filter(WATCHED.values(), pattern)
    ] == []


CHANGES: list[tuple[Any, Any]] = [
    (np.zeros(3), lambda x: x.fill(1)),
    (np.zeros(3), lambda x: np.negative(x, out=x)),  # to -0.0, which is equal
    ({"W": np.zeros(3)}, lambda x: x["W"].fill(1)),
    ({"W": np.zeros(3)}, lambda x: x.update(b=0)),
    ([1, 2], lambda x: x.pop()),
    (torch.zeros(3), lambda x: x.add_(0)),
    (torch.zeros(3), lambda x: x.requires_grad_()),
    (nn.Linear(2, 2), lambda x: x.eval()),
    (nn.Linear(2, 2), lambda x: nn.init.zeros_(x.weight)),
    (nn.Linear(2, 2), lambda x: x(torch.ones(2)).sum().backward()),
    (nn.Sequential(nn.ReLU()), lambda x: x[0].eval()),
    (torchport.Dropout(), lambda x: setattr(x, "draw", torch.randn)),
    (torchport.BatchNormalization(2), lambda x: x(torch.ones(3, 2))),
    (nr.Relu(), lambda x: x.forward(np.ones(2))),
]


@pytest.mark.parametrize(("value", "change"), CHANGES)
def test_a_change_is_noticed(value: Any, change: Any) -> None:
    watch = Watch({change.__code__: "change"})
    watch.depth = 1  # or an array would be read-only
    with watch:
        change(value)
    assert watch.changed


def test_arrays_are_read_only_in_the_first_call_and_not_after_it() -> None:
    x = np.zeros((2, 3))
    both = [x, x[0]]
    with Watch({fill.__code__: "fill"}), pytest.raises(ValueError, match="read-only"):
        fill(both)
    assert x.flags.writeable
    assert both[1].flags.writeable


def fill(arrays: list[Array]) -> None:
    arrays[1].fill(1)


def given_back(value: T) -> T:
    return value


def test_a_result_that_is_no_copy_is_noticed() -> None:
    for value in (np.zeros(3), torch.zeros(3), {"W": np.zeros(3)}):
        watch = Watch({given_back.__code__: COPIES[0]})
        with watch:
            given_back(value)
        assert watch.changed
