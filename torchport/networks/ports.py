"""Builds the torch port of any reference network whose layers are registered (torchport.layers)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.layers import Layer
from numpy_ref.network import Network, layer_statistics
from torchport.checks import check_device
from torchport.choices import Convolution
from torchport.layers import kind_of
from torchport.layers.sums import check_convolution
from torchport.networks.names import layer_parameters, shared_dtype


def from_reference(
    network: Network, conv: Convolution = "conv2d", device: torch.device | str | None = None
) -> nn.Sequential:
    """Return the network's layers as torch modules with copies of its weights, in their dtype, in training mode.

    Each child has its layer's name in lower case: Conv1 becomes conv1. A Flatten precedes the first Affine, which
    flattens by itself in the reference. BatchNormalization's running statistics become buffers. torch's generator is
    left untouched. The loss is not a layer: see torchport.softmax_with_loss.

    Raises TypeError for a layer whose kind is not registered, and for weights that are not all float16, all float32 or
    all float64; ValueError for a name that two modules would share or that no module can have.
    """
    check_convolution(conv)
    dtype, device = shared_dtype(network.params), check_device("device", device)
    port, flattened = nn.Sequential(), False
    for name, layer in network.layers.items():
        if isinstance(layer, nr.Affine) and not flattened:
            _add_module(port, "flatten", nn.Flatten())
        flattened = flattened or isinstance(layer, nr.Affine | nr.Flatten)
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
            module = kind_of(layer).module(layer, conv).to(device, dtype)
        load_layer(module, layer)
        _add_module(port, name.lower(), module)
    return port


def load_layer(module: nn.Module, layer: Layer) -> None:
    """Copy a reference layer's parameters and running statistics into its module, in the module's dtype.

    ValueError if the module's parameters have other names or shapes.
    """
    arrays, tensors = layer_parameters(layer), dict[str, Tensor](module.named_parameters())
    expected, actual = ({name: tuple(value.shape) for name, value in side.items()} for side in (arrays, tensors))
    if actual != expected:
        raise ValueError(f"the module's parameters must have the shapes {expected}, got {actual}")
    tensors |= dict(module.named_buffers())
    with torch.no_grad():
        for name, value in {**arrays, **layer_statistics(layer)}.items():
            if name in tensors:  # a module may have no running statistics
                tensors[name].copy_(torch.tensor(np.array(value, order="C")))


def _add_module(port: nn.Sequential, name: str, module: nn.Module) -> None:
    if name in dict(port.named_children()):
        raise ValueError(f"two layers would be called {name}: names must differ in more than upper and lower case")
    try:
        port.add_module(name, module)
    except KeyError as error:  # the name has a dot, is empty, or is a method's
        raise ValueError(f"layer {name!r} needs another name: {error.args[0]}") from None
