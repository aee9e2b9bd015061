"""Infers the sizes of a network on images from the shapes of its parameters and its fixed strides, pads and windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count, takewhile

from numpy_ref.checks import Array
from numpy_ref.classic_layers import Subsampling
from numpy_ref.layers import WindowLayer
from numpy_ref.network import check_same_layout
from numpy_ref.stack import Stack, weight_shapes
from torchport.networks.nearest import list_shapes


def weights_of(params: Mapping[str, Array]) -> list[Array]:
    """Return W1, W2 and so on, up to the first missing number."""
    return [params[f"W{number}"] for number in takewhile(lambda number: f"W{number}" in params, count(1))]


def infer_sizes(
    params: Mapping[str, Array], stack: Stack, label: str, way_out: str = ""
) -> tuple[list[dict[str, int]], list[int], tuple[int, int, int]]:
    """Return the conv_params, the Affine outputs and the image shape (C, H, W) of a network with the layers of stack.

    Walks back from the number of rows of the first Affine, undoing each layer's stride, pad and window. ValueError,
    which names label, if params do not fit.
    """
    weights, sized = weights_of(params), dict(stack)
    channels, last_maps = weights[0].shape[1], [len(weight) for weight in weights if weight.ndim != 2][-1]
    side = math.isqrt(next(len(weight) for weight in weights if weight.ndim == 2) // last_maps)
    for name, part in reversed(sized.items()):
        if isinstance(part, int):
            sized[name] = weights.pop().shape[1]
        elif isinstance(part, Mapping):
            filters, _, size, _ = weights.pop().shape
            sized[name] = {**part, "filter_num": filters, "filter_size": size}
            side = (side - 1) * part["stride"] + size - 2 * part["pad"]
        elif part is Subsampling:
            weights.pop()
            side *= 2
        elif isinstance(part, WindowLayer):
            side = (side - 1) * part.stride + part.pool_h
    try:
        if side < 1:
            raise ValueError(f"an image would have {side} pixels a side")
        check_same_layout(params, weight_shapes((channels, side, side), sized))
    except ValueError as error:
        raise ValueError(f"no {label} has {list_shapes(params)}: {error}{way_out}") from None
    convs = [part for part in sized.values() if isinstance(part, dict)]
    outputs = [part for part in sized.values() if isinstance(part, int)]
    return convs, outputs, (channels, side, side)
