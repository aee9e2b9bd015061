"""Which of the book's networks a set of parameters belongs to, by names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref import classic
from numpy_ref.checks import Array, check_int, check_mapping
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS, deep_convnet_sizes
from numpy_ref.multi_layer_net_extend import ACTIVATIONS as DENSE_ACTIVATIONS
from numpy_ref.network import Network, check_same_layout
from torchport.choices import ACTIVATIONS
from torchport.networks import SimpleConvNet
from torchport.twins import from_reference
from torchport.weights import architecture, shared_dtype

NETWORKS: dict[str, Callable[..., Network]] = {
    "SimpleConvNet": nr.SimpleConvNet,
    "DeepConvNet": nr.DeepConvNet,
    "TwoLayerNet": nr.TwoLayerNet,
    "ThreeLayerNet": nr.ThreeLayerNet,
    "MultiLayerNet": nr.MultiLayerNet,
    "LeNet5": nr.LeNet5,
    "AlexNet": nr.AlexNet,
}

AVERAGING = "LeNet5 with average subsampling"

# The weights' axes, in order: 4 for a convolution, 1 for a trained subsampling, 2 for Affine.
CONVOLUTIONAL = {
    "SimpleConvNet": (4, 2, 2),
    "DeepConvNet": (4, 4, 4, 4, 4, 4, 2, 2),
    "LeNet5": (4, 1, 4, 1, 2, 2, 2),
    AVERAGING: (4, 4, 2, 2, 2),
    "AlexNet": (4, 4, 4, 4, 4, 2, 2, 2),
}

DENSE = ("TwoLayerNet", "MultiLayerNet")  # with two weights, and with another number

# What may follow the layers, where it is not relu alone.
ACTIVATIONS_OF: dict[str, Collection[str]] = {
    **dict.fromkeys(("LeNet5", AVERAGING), classic.LENET_ACTIVATIONS),
    **dict.fromkeys(DENSE, DENSE_ACTIVATIONS),
}

CHAPTER_3 = [784, 50, 100, 10]  # the sizes of the trained parameters that come with it

NO_TRACE = "it leaves no trace in the parameters"

LISTED, NAMED = 24, 6  # arrays and differences in one message, at most


@dataclass(frozen=True)
class Architecture:
    """A class of numpy_ref and its arguments; str is the call, and note as a comment."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""  # what the parameters cannot tell, and was taken as the book has it

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W), or (D,) for fully connected networks."""
        return tuple(self.arguments.get("input_dim") or (self.arguments["input_size"],))

    @property
    def classes(self) -> int:
        """How many outputs there are."""
        return int(self.arguments["output_size"])

    def reference(self, params: Mapping[str, Array]) -> Network:
        """The NumPy network with copies of params. ValueError where they are not of this architecture."""
        copies = {name: np.array(value) for name, value in params.items()}
        return NETWORKS[self.name](**self.arguments, params=copies)

    def port(
        self, params: Mapping[str, Array], conv: str = "conv2d", device: torch.device | str | None = None
    ) -> nn.Sequential:
        """Its torch twin (SimpleConvNet, or what from_reference makes), in the dtype of params. Errors alike."""
        if self.name == "SimpleConvNet":
            conv_param = self.arguments["conv_param"]
            return SimpleConvNet.from_params(params, conv, conv_param["stride"], conv_param["pad"], device=device)
        return from_reference(self.reference(params), conv, device)

    @property
    def call(self) -> str:
        """How numpy_ref makes it."""
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def __str__(self) -> str:
        return f"{self.call}  # {self.note}" if self.note else self.call


def recognise(
    params: Mapping[str, Array], stride: int = 1, pad: int = 0, activation: str | None = None
) -> Architecture:
    """The network of the book that params belong to, by their names and shapes alone.

    Three things leave no trace there. stride and pad of a SimpleConvNet's convolution: others mean another image size.
    Those of a DeepConvNet are taken to be the book's. activation of a fully connected network, "relu" or "sigmoid":
    None is chapter 3's sigmoid for its sizes, 784-50-100-10, and relu for all others; of a LeNet5, "tanh" or "sigmoid",
    for which None is tanh. And whether a square weight is transposed.

    ValueError for anything else, which lists the arrays and says what the nearest network has otherwise, and for an
    argument that such a network does not have; TypeError for dtypes other than float16, float32, float64, or several.
    """
    shared_dtype(check_mapping("params", params))
    _check_options(stride, pad, activation)
    name = _name(params)
    _refuse_option("activation", activation, [None, *ACTIVATIONS_OF.get(name, ["relu"])], name)
    if name != "SimpleConvNet":
        _refuse_option("stride and pad", (stride, pad), [(1, 0)], name)
    if name in ("LeNet5", AVERAGING):
        return _lenet5(params, activation)
    if name == "AlexNet":
        return _alexnet(params)
    if name == "DeepConvNet":
        return _deep_convnet(params)
    if name in DENSE:
        return _fully_connected(name, params, activation)
    note = "" if (stride, pad) != (1, 0) else "stride 1 and pad 0 are taken: others would mean another image size"
    return Architecture(name, architecture(params, stride, pad), note)


def _name(params: Mapping[str, Array]) -> str:
    """Of the network whose parameters these are. ValueError where there is none, which says what the nearest has."""
    weights = [name for name in params if str(name).startswith("W")]
    if not weights:
        raise ValueError(f"the book's networks have parameters W1, b1, W2, b2 and so on, got {_listed(params)}")
    dense = DENSE[0] if len(weights) == 2 else DENSE[1]
    candidates = {**CONVOLUTIONAL, dense: (2,) * len(weights)}
    differences = {name: _differences(params, axes) for name, axes in candidates.items()}
    nearest = min(candidates, key=lambda name: (len(differences[name]), _other_kinds(params, candidates[name])))
    if differences[nearest]:
        raise _unknown(params, nearest, differences[nearest])
    return nearest


def _check_options(stride: int, pad: int, activation: str | None) -> None:
    check_int("stride", stride, 1)
    check_int("pad", pad, 0)
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)} or None, got {activation!r}")


def _refuse_option(name: str, value: object, possible: Sequence[object], network: str) -> None:
    if value not in possible:
        raise ValueError(f"{name} {value!r} cannot be {network}'s: leave it out")


def _fully_connected(name: str, params: Mapping[str, Array], activation: str | None) -> Architecture:
    weights = [params[f"W{number}"] for number in range(1, len(params) // 2 + 1)]
    sizes = [len(weights[0]), *(weight.shape[1] for weight in weights)]
    first, *hidden, last = sizes
    ends: dict[str, Any] = {"input_size": first, "output_size": last}
    if sizes == CHAPTER_3 and activation != "relu":
        note = "" if activation else f"sigmoid is taken, as in chapter 3: {NO_TRACE}"
        return Architecture("ThreeLayerNet", {**ends, "hidden_size_list": hidden}, note)
    note = "" if activation or not hidden else f"relu is taken, it may be sigmoid: {NO_TRACE}"
    inside: dict[str, Any] = {"hidden_size": hidden[0]} if len(hidden) == 1 else {"hidden_size_list": hidden}
    return Architecture(name, {**ends, **inside, "activation": activation or "relu"}, note)


def _deep_convnet(params: Mapping[str, Array]) -> Architecture:
    """Back from the rows of W7, a square for each filter of W6, through three poolings and six convolutions."""
    features, hidden_size = params["W7"].shape
    side = math.isqrt(features // len(params["W6"]))
    conv_params: list[dict[str, int]] = []
    for number in range(6, 0, -1):
        (filter_num, _, filter_size, _), default = params[f"W{number}"].shape, DEFAULT_CONV_PARAMS[number - 1]
        conv_params.insert(0, {**default, "filter_num": filter_num, "filter_size": filter_size})
        side = (side if number % 2 else 2 * side) - 1 + filter_size - 2 * default["pad"]
    if side < 1:
        raise _unknown(params, "DeepConvNet", [f"with the book's padding an image would have {side} pixels a side"])
    input_dim = params["W1"].shape[1], side, side
    check_same_layout(params, deep_convnet_sizes(input_dim, conv_params, hidden_size, params["b8"].size))
    others = {
        f"conv_param_{number}": param
        for number, (param, default) in enumerate(zip(conv_params, DEFAULT_CONV_PARAMS, strict=True), 1)
        if param != default
    }
    sizes = {"input_dim": input_dim, **others, "hidden_size": hidden_size, "output_size": params["b8"].size}
    return Architecture(
        "DeepConvNet", sizes, "the book's strides and pads are taken: they leave no trace in the parameters"
    )


def _lenet5(params: Mapping[str, Array], activation: str | None) -> Architecture:
    trainable = params["W2"].ndim == 1
    rows = params["W5" if trainable else "W3"].shape[0]
    # Back through two poolings and convolutions, of which the first has a pad.
    side = 2 * (2 * math.isqrt(rows // classic.LENET_FILTERS[1]) + 4) + 4 - 2 * classic.LENET_PAD
    sizes: dict[str, Any] = {
        "input_dim": (params["W1"].shape[1], side, side),
        "output_size": params["b7" if trainable else "b5"].size,
        "subsampling": "trainable" if trainable else "average",
    }
    check_same_layout(params, classic.lenet5_sizes(**sizes))
    note = "" if activation else f"tanh is taken, it may be sigmoid: {NO_TRACE}"
    return Architecture("LeNet5", {**sizes, "activation": activation or "tanh"}, note)


def _alexnet(params: Mapping[str, Array]) -> Architecture:
    side = math.isqrt(params["W6"].shape[0] // len(params["W5"]))
    sizes: dict[str, Any] = {
        # Back through three poolings and the first convolution: the others leave the size as it is.
        "input_dim": (params["W1"].shape[1], *(2 * [(2 * (2 * (2 * side + 1) + 1) + 1 - 1) * 4 + 11])),
        "output_size": params["b8"].size,
        "width": _alexnets_width(params),
    }
    check_same_layout(params, classic.alexnet_sizes(**sizes))
    return Architecture("AlexNet", sizes, "the paper's strides and pads are taken: they leave no trace")


def _alexnets_width(params: Mapping[str, Array]) -> float:
    """Of the widths at which each layer has as many filters or units as these, the plainest; any, where none has."""
    counts = [*(row[0] for row in classic.ALEXNET_CONVOLUTIONS), classic.ALEXNET_HIDDEN]
    found = [params[f"b{number}"].size for number in range(1, len(counts) + 1)]
    plain = found[-1] / classic.ALEXNET_HIDDEN
    if [classic.scaled(count, plain) for count in counts] == found:
        return plain
    low = max((n - 0.5) / count if n > 1 else 0 for n, count in zip(found, counts, strict=True))  # 1 at the least
    high = min((n + 0.5) / count for n, count in zip(found, counts, strict=True))
    return (low + high) / 2


def _differences(params: Mapping[str, Array], axes: Sequence[int]) -> list[str]:
    """What keeps params from being those of convolutions and Affine layers in this order."""
    expected = [f"{kind}{number}" for number in range(1, len(axes) + 1) for kind in "Wb"]
    found = [f"{name} is missing" for name in expected if name not in params]
    found += [f"{_shown(name)} is unexpected" for name in params if name not in expected]
    before: tuple[int, int] | None = None  # axes and outputs of the layer before, where they are known
    for number, ndim in enumerate(axes, 1):
        weight, bias = params.get(f"W{number}"), params.get(f"b{number}")
        if weight is None or weight.ndim != ndim or weight.size == 0:
            found += [] if weight is None else [f"W{number} {weight.shape} should have {ndim} axes, none of them empty"]
            before = None
            continue
        outputs, inputs = weight.shape[:2] if ndim == 4 else weight.shape[::-1] if ndim == 2 else 2 * weight.shape
        if ndim == 2 and bias is not None and bias.shape == (inputs,) != (outputs,):
            found.append(f"W{number} {weight.shape} is transposed: Affine's are (inputs, outputs)")
            outputs, inputs = inputs, outputs
        elif bias is not None and bias.shape != (outputs,):
            found.append(f"b{number} {bias.shape} should be {(outputs,)}")
        if ndim == 4 and weight.shape[2] != weight.shape[3]:
            found.append(f"W{number} {weight.shape} should have square filters")
        if before is not None and not _fits(inputs, ndim, *before):
            square = " times a square number" if before[0] > ndim else ""
            found.append(f"W{number} {weight.shape} should take {before[1]}{square} inputs")
        before = ndim, outputs
    return found


def _other_kinds(params: Mapping[str, Array], axes: Sequence[int]) -> int:
    """How many weights are of another kind of layer: of two networks with as many differences, which is nearer."""
    return sum(f"W{k}" in params and params[f"W{k}"].ndim != ndim for k, ndim in enumerate(axes, 1))


def _fits(inputs: int, ndim: int, ndim_before: int, outputs: int) -> bool:
    """Whether a layer takes that many inputs after one with so many outputs: an Affine takes a convolution's pixels."""
    if ndim_before == ndim or ndim != 2:
        return inputs == outputs
    return inputs >= outputs and outputs * math.isqrt(inputs // outputs) ** 2 == inputs


def _unknown(params: Mapping[str, Array], nearest: str, differences: Sequence[str]) -> ValueError:
    return ValueError(
        f"no network that is known here has {_listed(params)}; the nearest is {nearest}, but "
        f"{'; '.join(_first(NAMED, differences))}"
    )


def _listed(params: Mapping[str, Array]) -> str:
    return ", ".join(_first(LISTED, [f"{_shown(name)} {value.shape}" for name, value in params.items()])) or "no arrays"


def _first(count: int, texts: Sequence[str]) -> list[str]:
    return list(texts) if len(texts) <= count else [*texts[:count], f"and {len(texts) - count} more"]


def _shown(name: object) -> str:
    """A name from a stranger's file, short and on one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 40 else ascii(text)[:40] + "..."
