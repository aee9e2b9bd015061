"""Where the book's parameter names and layouts meet torch's: dict of arrays to state_dict, and back.

The one difference of layout: the book's Affine computes x W + b, torch's Linear x W^T + b, so two-dimensional weights
are transposed. Flattening runs over C, H, W on both sides, so nothing is permuted.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array, check_mapping
from numpy_ref.network import check_same_layout
from numpy_ref.simple_convnet import simple_convnet_sizes
from torchport.layers.terms import (
    MODULE_ATTRIBUTES as MODULE_ATTRIBUTES,
    in_torch_terms as in_torch_terms,
    to_torch_layout as to_torch_layout,
)

# SimpleConvNet's parameters: the book's name and the key in a state_dict.
STATE_DICT_KEYS = {
    "W1": "conv1.weight",
    "b1": "conv1.bias",
    "W2": "affine1.weight",
    "b2": "affine1.bias",
    "W3": "affine2.weight",
    "b3": "affine2.bias",
}

AXES = {"W1": 4, "b1": 1, "W2": 2, "b2": 1, "W3": 2, "b3": 1}
DTYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype("f2"): torch.float16,
    np.dtype("f4"): torch.float32,
    np.dtype("f8"): torch.float64,
}


def to_state_dict(params: Mapping[str, Array]) -> dict[str, Tensor]:
    """SimpleConvNet's params (W1 b1 W2 b2 W3 b3) as a state_dict of copies, bit for bit, in the same dtype.

    ValueError for missing or extra names and shapes that do not fit each other; TypeError for dtypes other than
    float16, float32 or float64, or mixed ones. Everything is checked before anything is copied.
    """
    _check_params(params)
    return {
        key: torch.from_numpy(np.array(to_torch_layout(params[name]), order="C", dtype=params[name].dtype))
        for name, key in STATE_DICT_KEYS.items()
    }


def to_params(state_dict: Mapping[str, Tensor]) -> dict[str, Array]:
    """The inverse of to_state_dict: SimpleConvNet's state_dict, from any device, as the book's params. Errors alike."""
    check_mapping("state_dict", state_dict)
    missing = sorted(set(STATE_DICT_KEYS.values()) - set(state_dict))
    extra = sorted(set(state_dict) - set(STATE_DICT_KEYS.values()))
    if missing or extra:
        raise ValueError(f"not a SimpleConvNet's state_dict: missing {missing}, unexpected {extra}")
    params = {name: to_torch_layout(to_array(key, state_dict[key])) for name, key in STATE_DICT_KEYS.items()}
    _check_params(params)
    return {name: np.array(value, order="C") for name, value in params.items()}


def to_array(key: str, value: object) -> Array:
    """The tensor that stands under key in a state_dict, on the CPU. TypeError unless dense and float16, 32 or 64."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{key} must be a float16, float32 or float64 tensor, got {type(value).__name__}")
    if value.dtype not in DTYPES.values() or value.layout != torch.strided or value.is_meta:
        found = f"{value.dtype} ({value.layout}) on {value.device}"
        raise TypeError(f"{key} must be a dense float16, float32 or float64 tensor, got {found}")
    array: Array = value.detach().cpu().numpy()
    return array


def architecture(params: Mapping[str, Array], stride: int = 1, pad: int = 0) -> dict[str, Any]:
    """The arguments of the SimpleConvNet that params belong to: input_dim, conv_param, hidden_size, output_size.

    ValueError that says which shapes were found where no square image gives them with this stride and pad.
    """
    _check_params(params)
    filter_num, channels, filter_h, filter_w = params["W1"].shape
    features, hidden_size = params["W2"].shape
    pooled = math.isqrt(features // filter_num)
    image = (2 * pooled - 1) * stride + filter_h - 2 * pad
    if filter_h != filter_w or filter_num * pooled**2 != features or image < 1:
        raise ValueError(
            f"no SimpleConvNet with stride {stride} and pad {pad} has {_shapes(params)}: expected square filters and "
            f"W2 of {filter_num} * k * k rows"
        )
    found = {
        "input_dim": (channels, image, image),
        "conv_param": {"filter_num": filter_num, "filter_size": filter_h, "pad": pad, "stride": stride},
        "hidden_size": hidden_size,
        "output_size": params["W3"].shape[1],
    }
    check_same_layout(params, simple_convnet_sizes(**found))
    return found


def cast_params(params: Mapping[str, Array], dtype: torch.dtype) -> dict[str, Array]:
    """Copies of params, each entry rounded to dtype. ValueError for values that it cannot hold; TypeError."""
    if dtype not in DTYPES.values():
        raise TypeError(f"dtype must be float16, float32 or float64, got {dtype}")
    target = next(ours for ours, theirs in DTYPES.items() if theirs == dtype)
    largest = torch.finfo(dtype).max
    for name, value in params.items():
        greatest = float(np.max(np.abs(value), where=np.isfinite(value), initial=0))
        if greatest > largest:
            raise ValueError(f"{name} holds {greatest:g}, more than {dtype} can: keep its dtype")
    return {name: value.astype(target) for name, value in params.items()}


def rounding_loss(params: Mapping[str, Array], cast: Mapping[str, Array]) -> tuple[int, float]:
    """How many entries cast_params has changed, and the largest change relative to its entry."""
    before = np.concatenate([params[name].ravel() for name in params]).astype(np.float64)
    after = np.concatenate([cast[name].ravel() for name in params]).astype(np.float64)
    changed = before != after
    if not changed.any():
        return 0, 0.0
    return int(changed.sum()), float(np.max(np.abs(after - before)[changed] / np.abs(before[changed])))


def state_dict_bytes(state_dict: Mapping[str, Tensor]) -> bytes:
    """What torch.save writes for state_dict."""
    buffer = io.BytesIO()
    torch.save(dict(state_dict), buffer)
    return buffer.getvalue()


def shared_dtype(params: Mapping[str, Array]) -> torch.dtype | None:
    """That of all params, None where there are none. TypeError for several, or none of float16, float32, float64."""
    for name, value in params.items():
        if not isinstance(value, np.ndarray) or value.dtype not in DTYPES:
            found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{name} must be a float16, float32 or float64 array, got {found}")
    if len({value.dtype for value in params.values()}) > 1:
        raise TypeError(f"parameters must share one dtype, got { ({n: str(v.dtype) for n, v in params.items()}) }")
    return next((DTYPES[value.dtype] for value in params.values()), None)


def _check_params(params: Mapping[str, Array]) -> None:
    """Names, axes, dtypes, and sizes that two parameters share."""
    check_mapping("params", params)
    missing, extra = sorted(AXES.keys() - params.keys()), sorted(params.keys() - AXES.keys())
    if missing or extra:
        raise ValueError(f"not a SimpleConvNet's parameters: missing {missing}, unexpected {extra}")
    shared_dtype(params)
    if any(value.ndim != AXES[name] or value.size == 0 for name, value in params.items()):
        raise ValueError(
            f"expected W1 (FN, C, FH, FW), W2 (D, H), W3 (H, classes) and b1, b2, b3, got {_shapes(params)}"
        )
    outputs = {"b1": params["W1"].shape[0], "b2": params["W2"].shape[1], "b3": params["W3"].shape[1]}
    wrong = [name for name, size in outputs.items() if len(params[name]) != size]
    if wrong or params["W3"].shape[0] != params["W2"].shape[1]:
        raise ValueError(f"parameters do not fit each other: {_shapes(params)}")


def _shapes(params: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in params.items())
