"""A state_dict for any reference network, and back: its parameters, and batch normalisation's running statistics."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from numpy_ref.network import Network, check_same_layout, layer_statistics as layer_statistics
from torchport.weights import MODULE_ATTRIBUTES, in_torch_terms, shared_dtype, to_array, to_torch_layout

# The parameters of the book's networks: convolutions first, perhaps each with a trained subsampling, then Affine.
_BOOK_KEY = re.compile(r"(conv|subsample|affine)([1-9]\d{0,3})\.(weight|bias)")


def layer_parameters(layer: Layer) -> dict[str, Array]:
    """The trained arrays of a reference layer, by its module's names and in its layout: weight, bias."""
    return in_torch_terms({name: getattr(layer, name) for name in MODULE_ATTRIBUTES if hasattr(layer, name)})


def state_dict_keys(network: Network) -> dict[str, str]:
    """The key in the twin's state_dict for every parameter's name: W1 is conv1.weight where Conv1 has it."""
    return {
        name: f"{layer.lower()}.{MODULE_ATTRIBUTES[attribute]}" for name, (layer, attribute) in network.owners.items()
    }


def state_dict_of(network: Network) -> dict[str, Tensor]:
    """The state_dict of network's twin (torchport.networks.from_reference): copies, bit for bit, in the same dtype.

    TypeError for dtypes other than float16, float32 or float64, or mixed ones.
    """
    shared_dtype(network.params)
    return {
        f"{name.lower()}.{own}": torch.from_numpy(np.array(value, order="C"))
        for name, layer in network.layers.items()
        for own, value in {**layer_parameters(layer), **layer_statistics(layer)}.items()
    }


def to_book_terms(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of a state_dict of one of the book's networks under the book's names, W1 b1 W2 ..., in its layout; views.

    ValueError for keys other than conv1.weight, conv1.bias, ..., affine1.weight, affine1.bias and so on.
    """
    found = {key: _BOOK_KEY.fullmatch(key) for key in arrays}
    if unexpected := [f"{key:.80}" for key, match in found.items() if match is None]:
        raise ValueError(
            f"not a state_dict of the book's networks: unexpected {unexpected[:6]}, expected conv1.weight, conv1.bias, "
            f"affine1.weight, affine1.bias and so on"
        )
    parts = {key: match.groups() for key, match in found.items() if match}
    last = {kind: max((int(n) for k, n, _ in parts.values() if k == kind), default=0) for kind in ("conv", "subsample")}
    step = 2 if last["subsample"] else 1  # conv1, subsample1, conv2, subsample2
    starts = {"conv": 1 - step, "subsample": 0, "affine": sum(last.values())}
    places = {
        key: (starts[kind] + int(number) * (1 if kind == "affine" else step), "Wb"[own == "bias"])
        for key, (kind, number, own) in parts.items()
    }
    return {
        f"{places[key][1]}{places[key][0]}": to_torch_layout(arrays[key])
        for key in sorted(places, key=lambda key: places[key])
    }


def book_params(state_dict: Mapping[str, Tensor]) -> dict[str, Array]:
    """Copies of a state_dict of one of the book's networks, from any device, under the book's names and in its layout.

    ValueError as to_book_terms; TypeError for dtypes other than float16, float32 or float64.
    """
    arrays = {key: to_array(key, value) for key, value in state_dict.items()}
    return {name: np.array(value, order="C") for name, value in to_book_terms(arrays).items()}


def update_reference(network: Network, state_dict: Mapping[str, Tensor]) -> None:
    """Give network copies of what its twin's state_dict holds, from any device: the inverse of state_dict_of.

    All or nothing. ValueError for missing or extra keys and other shapes than network's; TypeError for dtypes other
    than float16, float32 or float64, or mixed ones.
    """
    expected = state_dict_of(network)
    arrays = {key: to_array(key, value) for key, value in state_dict.items()}
    shared_dtype(arrays)
    check_same_layout(arrays, {key: tuple(value.shape) for key, value in expected.items()})
    network.set_params(
        {name: np.array(to_torch_layout(arrays[key]), order="C") for name, key in state_dict_keys(network).items()}
    )
    for name, layer in network.layers.items():
        for own in layer_statistics(layer):
            setattr(layer, own, np.array(arrays[f"{name.lower()}.{own}"]))
