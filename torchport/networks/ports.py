"""The torch twin of any network whose kinds of layers are registered (torchport.layers)."""

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
    """The network's layers as torch modules, with copies of its weights, in their dtype; in training mode.

    The children bear the layers' names in lower case: Conv1 is conv1. A flatten goes before the first Affine, which in
    the reference flattens by itself. BatchNormalization's running statistics come along, as buffers. Nothing is drawn
    from torch's generator. The loss is no layer: that is torchport.softmax_with_loss.

    TypeError for a layer of a kind that is not registered, and for weights that are not all float16, all
    float32 or all float64; ValueError for names that two modules would share, or that no module can have.
    """
    check_convolution(conv)
    dtype, device = shared_dtype(network.params), check_device("device", device)
    twin, flat = nn.Sequential(), False
    for name, layer in network.layers.items():
        if isinstance(layer, nr.Affine) and not flat:
            _add(twin, "flatten", nn.Flatten())
        flat = flat or isinstance(layer, nr.Affine | nr.Flatten)
        module = _make(layer, conv).to(device, dtype)
        load_layer(module, layer)
        _add(twin, name.lower(), module)
    return twin


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


def _make(layer: Layer, conv: Convolution) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # what it draws is overwritten
        return kind_of(layer).module(layer, conv)


def _add(twin: nn.Sequential, name: str, module: nn.Module) -> None:
    if name in dict(twin.named_children()):
        raise ValueError(f"two layers would be called {name}: names must differ in more than upper and lower case")
    try:
        twin.add_module(name, module)
    except KeyError as error:  # a dot in it, empty, or a method's name
        raise ValueError(f"layer {name!r} needs another name: {error.args[0]}") from None
