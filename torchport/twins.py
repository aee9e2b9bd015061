"""The torch twin of any network that is made of numpy_ref's layers, and how to teach it further kinds of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.layers import Layer
from numpy_ref.network import Network
from torchport.checks import check_device
from torchport.layers import BatchNormalization, Dropout, Subsampling, UnfoldConv2d
from torchport.states import layer_parameters, layer_statistics
from torchport.weights import shared_dtype

# Makes the module for a layer; the second argument names the convolution, a key of CONVOLUTIONS.
Factory = Callable[[Any, str], nn.Module]

CONVOLUTIONS: dict[str, type[nn.Conv2d]] = {"conv2d": nn.Conv2d, "unfold": UnfoldConv2d}


def from_reference(network: Network, conv: str = "conv2d", device: torch.device | str | None = None) -> nn.Sequential:
    """The network's layers as torch modules, with copies of its weights, in their dtype; in training mode.

    The children bear the layers' names in lower case: Conv1 is conv1. A flatten goes before the first Affine, which in
    the reference flattens by itself. BatchNormalization's running statistics come along, as buffers. Nothing is drawn
    from torch's generator. The loss is no layer: that is torchport.softmax_with_loss.

    TypeError for a layer of a kind that has no factory (register), and for weights that are not all float16, all
    float32 or all float64; ValueError for names that two modules would share, or that no module can have.
    """
    check_convolution(conv)
    dtype, device = shared_dtype(network.params), check_device("device", device)
    twin, flat = nn.Sequential(), False
    for name, layer in network.layers.items():
        if isinstance(layer, nr.Affine) and not flat:
            _add(twin, "flatten", nn.Flatten())
        flat = flat or isinstance(layer, nr.Affine | nr.Flatten)
        module = _make(name, layer, conv).to(device, dtype)
        load_layer(module, layer)
        _add(twin, name.lower(), module)
    return twin


def register(kind: type, factory: Factory) -> None:
    """Let from_reference make factory(layer, conv) of every layer of exactly this kind, from now on.

    The layer's W and b, or gamma and beta, are copied into the module's weight and bias, a two-dimensional W
    transposed. To judge its parity too, add a rule to torchport.parity.bounds.RULES. TypeError.
    """
    if not isinstance(kind, type) or not callable(factory):
        raise TypeError(f"register takes a class of layers and a function (layer, conv), got {kind!r} and {factory!r}")
    FACTORIES[kind] = factory


def check_convolution(conv: str) -> type[nn.Conv2d]:
    """The class of the convolution of that name. ValueError."""
    if conv not in CONVOLUTIONS:
        raise ValueError(f"conv must be one of {', '.join(CONVOLUTIONS)}, got {conv!r}")
    return CONVOLUTIONS[conv]


def load_layer(module: nn.Module, layer: Layer) -> None:
    """Copy a reference layer's parameters and running statistics into its module, in the module's dtype.

    ValueError where the module's parameters have other names or shapes.
    """
    arrays, own = layer_parameters(layer), dict[str, Tensor](module.named_parameters())
    expected, found = ({name: tuple(value.shape) for name, value in side.items()} for side in (arrays, own))
    if found != expected:
        raise ValueError(f"the module's parameters must have the shapes {expected}, got {found}")
    own |= dict(module.named_buffers())
    with torch.no_grad():
        for name, value in {**arrays, **layer_statistics(layer)}.items():
            if name in own:  # a module may do without running statistics
                own[name].copy_(torch.tensor(np.array(value, order="C")))


def _make(name: str, layer: Layer, conv: str) -> nn.Module:
    # Of exactly that kind: a class that inherits from Relu may compute something else.
    if type(layer) not in FACTORIES:
        kind = type(layer).__name__
        raise TypeError(
            f"layer {name} is a {kind}, for which no torch module is known: say which with "
            f"torchport.networks.register({kind}, lambda layer, conv: ...)"
        )
    with torch.random.fork_rng(devices=[]):  # what it draws is overwritten
        return FACTORIES[type(layer)](layer, conv)


def _add(twin: nn.Sequential, name: str, module: nn.Module) -> None:
    if name in dict(twin.named_children()):
        raise ValueError(f"two layers would be called {name}: names must differ in more than upper and lower case")
    try:
        twin.add_module(name, module)
    except KeyError as error:  # a dot in it, empty, or a method's name
        raise ValueError(f"layer {name!r} needs another name: {error.args[0]}") from None


def _convolution(layer: nr.Convolution, conv: str) -> nn.Module:
    filters, channels, height, width = layer.W.shape
    return CONVOLUTIONS[conv](channels, filters, (height, width), layer.stride, layer.pad)


def _pooling(kind: Callable[..., nn.Module], border: float) -> Factory:
    def make(layer: nr.Pooling | nr.AveragePooling, _: str) -> nn.Module:
        size = layer.pool_h, layer.pool_w
        if 2 * layer.pad <= min(size):
            return kind(size, layer.stride, layer.pad)
        # torch's own padding goes up to half a window.
        return nn.Sequential(nn.ConstantPad2d(layer.pad, border), kind(size, layer.stride))

    return make


def _response_norm(layer: nr.LocalResponseNormalization, _: str) -> nn.Module:
    # torch takes the mean of the squares where the paper has their sum.
    return nn.LocalResponseNorm(layer.size, layer.alpha * layer.size, layer.exponent, layer.k)


FACTORIES: dict[type, Factory] = {
    nr.Convolution: _convolution,
    nr.Pooling: _pooling(nn.MaxPool2d, -torch.inf),
    nr.AveragePooling: _pooling(nn.AvgPool2d, 0.0),
    nr.Affine: lambda layer, _: nn.Linear(*layer.W.shape),
    nr.Flatten: lambda *_: nn.Flatten(),
    nr.Relu: lambda *_: nn.ReLU(),
    nr.Sigmoid: lambda *_: nn.Sigmoid(),
    nr.Tanh: lambda *_: nn.Tanh(),
    nr.Subsampling: lambda layer, _: Subsampling(len(layer.W), (layer.pool_h, layer.pool_w), layer.stride),
    nr.LocalResponseNormalization: _response_norm,
    nr.Dropout: lambda layer, _: Dropout(layer.dropout_ratio),
    nr.BatchNormalization: lambda layer, _: BatchNormalization(len(layer.gamma), layer.momentum),
}
