"""Ports as people write them: the records that the catalogues keep, the networks ported, and ways to copy weights."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS
from torchport import BatchNormalization
from torchport.networks import from_reference
from torchport.parity.cases import seeded_batch, seeded_params

Build = Callable[[nr.Network], nn.Module]
Built = TypeVar("Built", bound=Build)
Module = TypeVar("Module", bound=nn.Module)
Step = Callable[[Any, Tensor], Any]
DTYPES = (torch.float64, torch.float32)

# What shows a mistake: the run of the port, in check_parity's words, or what a run leaves behind.
TRAINING, PREDICTION, INTEGERS, EXTREMES = "training", "prediction", "integers", "extremes"
ONE_SAMPLE, MORE_SAMPLES, AGAIN, LOSS = "1 sample", "N + 3 samples", "batch again", "loss"
EXTRA_PARAMETER, RANDOM_STATE, STATISTICS = "extra parameter", "random state", "running statistics"
ARGUMENT, STATE, EARLIER_OUTPUT = "argument", "state", "earlier output"


@dataclass(frozen=True)
class Reference:
    """A small network of the reference; calling it makes one, always with the same weights."""

    make: Callable[[], nr.Network]
    shape: tuple[int, ...]  # of a sample
    classes: int

    def __call__(self) -> nr.Network:
        return self.make()

    def batch(self, samples: int = 8, seed: int = 0) -> tuple[Array, Array]:
        """Standard normal samples (N, *shape) and labels (N,)."""
        return seeded_batch(seed, samples, self.shape, self.classes)


@dataclass(frozen=True)
class RightPort:
    """A port that computes and trains as the reference does."""

    name: str
    reference: Reference
    build: Build
    options: Mapping[str, Any] = field(default_factory=dict)  # of check_parity
    known: str = ""  # a word of the difference of definition that the report must name
    steps: bool = True  # whether a step of SGD keeps it equal: not with parameters of another meaning, or frozen ones
    dtypes: tuple[torch.dtype, ...] = DTYPES


@dataclass(frozen=True)
class WrongPort:
    """A port with one mistake, and how a report must blame it."""

    name: str
    reference: Reference
    build: Build
    layer: str  # two names, where it lies between them and either is right; none, where the layer says nothing
    quantity: str  # how it begins: "output", "grad_weight", "grad" for any gradient, "" for any
    lines: tuple[str, ...] = ()  # "file.py:12": one of them is blamed
    options: Mapping[str, Any] = field(default_factory=dict)  # of check_parity
    cause: str = ""  # a word that the cause must have
    sign: str = TRAINING  # what shows it
    only64: str = ""  # why float32 cannot show it

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return DTYPES[:1] if self.only64 else DTYPES


RIGHT_PORTS: list[RightPort] = []
WRONG_PORTS: list[WrongPort] = []


def right(
    reference: Reference,
    known: str = "",
    steps: bool = True,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    **options: Any,
) -> Callable[[Built], Built]:
    """Enter a class, or a function, that builds a right port of reference into the catalogue."""

    def enter(build: Built) -> Built:
        RIGHT_PORTS.append(RightPort(_name(build), reference, build, options, known, steps, dtypes))
        return build

    return enter


def wrong(
    reference: Reference,
    layer: str,
    quantity: str = "",
    cause: str = "",
    sign: str = TRAINING,
    only64: str = "",
    marked: Callable[..., Any] | None = None,
    **options: Any,
) -> Callable[[Built], Built]:
    """Enter a wrong port into the catalogue; a mark in its source, or in that of the class marked, shows the line."""

    def enter(build: Built) -> Built:
        lines = marked_lines(marked or build)
        WRONG_PORTS.append(
            WrongPort(_name(build), reference, build, layer, quantity, lines, options, cause, sign, only64)
        )
        return build

    return enter


def step(
    reference: Reference,
    layer: str,
    quantity: str,
    name: str,
    function: Step,
    blamed: str = "",
    cause: str = "",
    sign: str = TRAINING,
    only64: str = "",
) -> None:
    """Enter a port that is right but for function(module, x) in place of a layer; blamed is the layer, if another."""
    lines = (f"{Path(function.__code__.co_filename).name}:{function.__code__.co_firstlineno}",)
    build = partial(Stepwise, layer=layer, function=function)
    WRONG_PORTS.append(WrongPort(name, reference, build, blamed or layer, quantity, lines, {}, cause, sign, only64))


def in_loss(
    name: str,
    quantity: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    cause: str = "",
    only64: str = "",
    layer: str = "loss",
) -> None:
    """Enter a right port with a wrong loss(output, labels)."""
    WRONG_PORTS.append(
        WrongPort(name, SIMPLE, from_reference, layer, quantity, (), {"loss": loss}, cause, LOSS, only64)
    )


def marked_lines(build: Build) -> tuple[str, ...]:
    """The lines of the source that end in a mark, `# wrong` or `# missing`, as "file.py:12"."""
    file = Path(inspect.getsourcefile(build) or "")
    return tuple(f"{file.name}:{number}" for number in _marks(file)[build.__name__])


@cache
def _marks(file: Path) -> dict[str, list[int]]:
    """The lines of each definition in a file, parsed once; inspect.getsourcelines parses it for every class."""
    source = file.read_text(encoding="utf-8")
    marked = [n for n, line in enumerate(source.splitlines(), 1) if line.rstrip().endswith(("# wrong", "# missing"))]
    defined = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return {each.name: [n for n in marked if each.lineno <= n <= (each.end_lineno or 0)] for each in defined}


def _name(build: Build) -> str:
    return str(getattr(build, "__name__", build)).strip("_")


# --- Networks


def seeded(network: nr.Network) -> nr.Network:
    """network, given seeded weights at fan-in scale, biases, gammas around 1 and running statistics."""
    params = seeded_params(0, network.params)
    network.set_params({name: value + name.startswith("gamma") for name, value in params.items()})
    rng = np.random.default_rng(1)
    for layer in network.layers.values():
        if isinstance(layer, nr.BatchNormalization):
            features = np.shape(layer.gamma)
            layer.running_mean, layer.running_var = 0.3 * rng.standard_normal(features), 0.5 + rng.random(features)
    return network


def _simple(input_dim: tuple[int, int, int], hidden_size: int, pad: int = 0) -> nr.Network:
    conv_param = {"filter_num": 4, "filter_size": 3, "pad": pad, "stride": 1}
    return nr.SimpleConvNet(input_dim, conv_param, hidden_size, rng=np.random.RandomState(0))


def _deep() -> nr.Network:
    conv_params: dict[str, Any] = {
        f"conv_param_{k}": {**param, "filter_num": 4} for k, param in enumerate(DEFAULT_CONV_PARAMS, 1)
    }
    return seeded(nr.DeepConvNet((2, 12, 12), **conv_params, hidden_size=6, output_size=6))


def _equal() -> nr.Network:
    """A network whose second and third layer start with the same weights."""
    network = seeded(nr.MultiLayerNet(12, [8, 8], 8))
    network.set_params({**network.params, "W3": network.params["W2"], "b3": network.params["b2"]})
    return network


def _tied() -> nr.Network:
    """A network whose first two layers have the same parameters for good."""
    layers = seeded(nr.MultiLayerNet(8, [8, 8], 5)).layers
    layers["Affine2"].W, layers["Affine2"].b = layers["Affine1"].W, layers["Affine1"].b
    return nr.Network(layers)


def _own(**layers: Any) -> Callable[[], nr.Network]:
    """A network of these layers, each made by a function."""
    return lambda: seeded(nr.Network({name: make() for name, make in layers.items()}))


def _conv(*shape: int, stride: int = 1, pad: int = 0) -> Callable[[], nr.Convolution]:
    return lambda: nr.Convolution(np.zeros(shape), np.zeros(shape[0]), stride, pad)


def _affine(inputs: int, outputs: int) -> Callable[[], nr.Affine]:
    return lambda: nr.Affine(np.zeros((inputs, outputs)), np.zeros(outputs))


# 4 maps of 4 x 4 behind the pooling, so that any order of axes fits.
SIMPLE = Reference(lambda: seeded(_simple((1, 10, 10), 9)), (1, 10, 10), 10)
BOOK_START = Reference(lambda: _simple((1, 10, 10), 9), (1, 10, 10), 10)
# Padded, of two channels; its last layer is square, so that a transposed weight fits.
SQUARE = Reference(lambda: seeded(_simple((2, 8, 8), 10, pad=1)), (2, 8, 8), 10)
DEEP = Reference(_deep, (2, 12, 12), 6)
MLP = Reference(lambda: seeded(nr.MultiLayerNet(12, [9, 8], 5)), (12,), 5)
EQUAL = Reference(_equal, (12,), 8)
TIED = Reference(_tied, (8,), 5)
SIGMOID = Reference(lambda: seeded(nr.TwoLayerNet(12, 9, 5, activation="sigmoid")), (12,), 5)
NORMALISED = Reference(lambda: seeded(nr.MultiLayerNetExtend(12, [9, 8], 5, use_batchnorm=True)), (12,), 5)
DROPPED = Reference(
    lambda: seeded(nr.MultiLayerNetExtend(12, [9, 8], 5, use_dropout=True, dropout_ration=0.3)), (12,), 5
)
# Its masks are of one size, and the first follows a convolution.
DROPPED_MAPS = Reference(
    _own(
        Conv1=_conv(6, 1, 3, 3),
        Relu1=nr.Relu,
        Dropout1=lambda: nr.Dropout(0.4),
        Affine1=_affine(96, 96),
        Relu2=nr.Relu,
        Dropout2=lambda: nr.Dropout(0.4),
        Affine2=_affine(96, 5),
    ),
    (1, 6, 6),
    5,
)
# Its layers come in pairs of equal sizes, so that values tell only in a row which of two it is.
PAIRS = Reference(lambda: seeded(nr.MultiLayerNetExtend(12, [8, 8], 5, use_dropout=True, dropout_ration=0.3)), (12,), 5)
LENET = Reference(lambda: seeded(nr.LeNet5((1, 12, 12), subsampling="average")), (1, 12, 12), 10)
# The last pooling sees the whole map; the first leaves a fifth row and column unseen.
GLOBAL = Reference(
    _own(
        Conv1=_conv(6, 2, 3, 3, stride=2, pad=1),  # 9 x 9 to 5 x 5
        Relu1=nr.Relu,
        Pool1=lambda: nr.Pooling(2, 2),
        Pool2=lambda: nr.AveragePooling(2, 2),
        Affine1=_affine(6, 5),
    ),
    (2, 9, 9),
    5,
)
# Average pooling whose windows overlap and stand out over the border.
AVERAGED = Reference(
    _own(Conv1=_conv(4, 1, 3, 3), Tanh1=nr.Tanh, Pool1=lambda: nr.AveragePooling(3, 3, 2, 1), Affine1=_affine(64, 5)),
    (1, 10, 10),
    5,
)
# The book's batch normalisation of images: every pixel of every map is a feature.
NORMALISED_MAPS = Reference(
    _own(
        Conv1=_conv(4, 1, 3, 3),
        BatchNorm1=lambda: nr.BatchNormalization(np.ones(144), np.zeros(144)),
        Relu1=nr.Relu,
        Affine1=_affine(144, 5),
    ),
    (1, 8, 8),
    5,
)


# --- Modules that hold a network's weights


def tensors(reference: nr.Network) -> dict[str, Tensor]:
    """Copies of the reference's parameters in its own layout, in float64; an Affine's W is (D, H)."""
    return {name: torch.tensor(value) for name, value in reference.params.items()}


def filled(module: Module, weight: Tensor, bias: Tensor) -> Module:
    """module in float64 with copies of weight and bias, in torch's layout."""
    module.double().load_state_dict({"weight": weight, "bias": bias}, strict=False)
    return module


def linear(reference: nr.Network, number: int) -> nn.Linear:
    """nn.Linear with W<number> and b<number>."""
    weight, bias = tensors(reference)[f"W{number}"], tensors(reference)[f"b{number}"]
    return filled(nn.Linear(*weight.shape), weight.T, bias)


def conv2d(reference: nr.Network, number: int, **options: Any) -> nn.Conv2d:
    """nn.Conv2d with W<number> and b<number>; options are nn.Conv2d's."""
    weight, bias = tensors(reference)[f"W{number}"], tensors(reference)[f"b{number}"]
    filters, channels, height, width = weight.shape
    return filled(nn.Conv2d(channels, filters, (height, width), **options), weight, bias)


def fill_norm(module: Module, reference: nr.Network, number: int) -> Module:
    """A batch normalisation with gamma<number>, beta<number> and the running statistics of that number."""
    values = tensors(reference)
    with torch.no_grad():
        filled(module, values[f"gamma{number}"], values[f"beta{number}"])
    for name in ("running_mean", "running_var"):
        getattr(module, name).copy_(torch.tensor(reference.statistics[f"{name}{number}"]))
    return module


class Convnet(nn.Module):
    """conv1, fc1 and fc2 of a SimpleConvNet."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv1 = conv2d(reference, 1, padding=reference.layers[0].pad)
        self.fc1, self.fc2 = linear(reference, 2), linear(reference, 3)


class Perceptron(nn.Module):
    """fc1, fc2 and fc3 of three affine layers."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (linear(reference, number) for number in (1, 2, 3))


class NormalisedPerceptron(Perceptron):
    """Three affine layers with the book's normalisations after the first two."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.bn1 = fill_norm(BatchNormalization(9), reference, 1)
        self.bn2 = fill_norm(BatchNormalization(8), reference, 2)


class Stepwise(nn.Module):
    """Right layers by the reference's names in lower case; function(module, x) replaces the layer name, or comes before
    all of them ("input"), or after all ("output").
    """

    def __init__(self, reference: nr.Network, layer: str, function: Step) -> None:
        super().__init__()
        self.net, self.layer, self.function = from_reference(reference), layer, function
        assert layer in ("input", "output", *dict(self.net.named_children()))

    def forward(self, x: Tensor) -> Any:
        x = self.function(self.net, x) if self.layer == "input" else x
        for name, module in self.net.named_children():
            x = self.function(module, x) if self.layer == name else module(x)
        return self.function(self.net, x) if self.layer == "output" else x
