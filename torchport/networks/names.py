"""Translates between the book's parameter names and layouts and torch's: W1 is conv1.weight.

The layouts differ in one way: the book's Affine computes x W + b, torch's Linear x W^T + b, so two-dimensional weights
are transposed. Both flatten images in the order C, H, W, so nothing is permuted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from numpy_ref.network import Network, layer_statistics
from torchport.layers.kinds import parameters_of
from torchport.layers.terms import MODULE_ATTRIBUTES, in_torch_terms

DTYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype("f2"): torch.float16,
    np.dtype("f4"): torch.float32,
    np.dtype("f8"): torch.float64,
}


def to_array(key: str, value: object) -> Array:
    """Return a state_dict's value as an array on the CPU. TypeError, naming key, unless dense and float16, 32 or 64."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{key} must be a float16, float32 or float64 tensor, got {type(value).__name__}")
    if value.dtype not in DTYPES.values() or value.layout != torch.strided or value.is_meta:
        actual = f"{value.dtype} ({value.layout}) on {value.device}"
        raise TypeError(f"{key} must be a dense float16, float32 or float64 tensor, got {actual}")
    array: Array = value.detach().cpu().numpy()
    return array


def cast_params(params: Mapping[str, Array], dtype: torch.dtype) -> dict[str, Array]:
    """Return copies of params rounded to dtype. ValueError for values out of its range; TypeError for other dtypes."""
    if dtype not in DTYPES.values():
        raise TypeError(f"dtype must be float16, float32 or float64, got {dtype}")
    target = next(numpy_dtype for numpy_dtype, torch_dtype in DTYPES.items() if torch_dtype == dtype)
    largest = torch.finfo(dtype).max
    for name, value in params.items():
        greatest = float(np.max(np.abs(value), where=np.isfinite(value), initial=0))
        if greatest > largest:
            raise ValueError(f"{name} holds {greatest:g}, more than {dtype} can: keep its dtype")
    return {name: value.astype(target) for name, value in params.items()}


def rounding_loss(params: Mapping[str, Array], cast: Mapping[str, Array]) -> tuple[int, float]:
    """Return how many entries cast_params has changed, and the largest change relative to its entry."""
    before = np.concatenate([params[name].ravel() for name in params]).astype(np.float64)
    after = np.concatenate([cast[name].ravel() for name in params]).astype(np.float64)
    changed = before != after
    if not changed.any():
        return 0, 0.0
    return int(changed.sum()), float(np.max(np.abs(after - before)[changed] / np.abs(before[changed])))


def state_dict_bytes(state_dict: Mapping[str, Tensor]) -> bytes:
    """Return the bytes that torch.save writes for state_dict."""
    buffer = io.BytesIO()
    torch.save(dict(state_dict), buffer)
    return buffer.getvalue()


def shared_dtype(params: Mapping[str, Array]) -> torch.dtype | None:
    """Return the one dtype of all params, None if there are none. TypeError for several, or not float16, 32 or 64."""
    for name, value in params.items():
        if not isinstance(value, np.ndarray) or value.dtype not in DTYPES:
            actual = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{name} must be a float16, float32 or float64 array, got {actual}")
    if len({value.dtype for value in params.values()}) > 1:
        raise TypeError(f"parameters must share one dtype, got { ({n: str(v.dtype) for n, v in params.items()}) }")
    return next((DTYPES[value.dtype] for value in params.values()), None)


def layer_parameters(layer: Layer) -> dict[str, Array]:
    """Return a reference layer's parameters under its module's names and in its layout: weight, bias."""
    return in_torch_terms(parameters_of(layer))


def state_dict_keys(network: Network) -> dict[str, str]:
    """Map each parameter's name to its key in the port's state_dict: W1 to conv1.weight if Conv1 owns it."""
    return {
        name: f"{layer.lower()}.{MODULE_ATTRIBUTES[attribute]}" for name, (layer, attribute) in network.owners.items()
    }


def state_dict_of(network: Network) -> dict[str, Tensor]:
    """Return the state_dict of network's port (from_reference): copies, bit for bit, in the same dtype.

    TypeError for dtypes other than float16, float32 or float64, or mixed ones.
    """
    shared_dtype(network.params)
    return {
        f"{name.lower()}.{attribute}": torch.from_numpy(np.array(value, order="C"))
        for name, layer in network.layers.items()
        for attribute, value in {**layer_parameters(layer), **layer_statistics(layer)}.items()
    }
