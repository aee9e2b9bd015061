"""Builds layers from a stack, the list of their sizes: the common part of the networks' constructors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numpy_ref.checks import Array, check_int, check_mapping, random_stream
from numpy_ref.classic_layers import Subsampling
from numpy_ref.layers import Affine, BatchNormalization, Convolution, Layer, WindowLayer
from numpy_ref.network import check_params
from numpy_ref.util import conv_output_size

# Maps a layer's name to a conv_param for a convolution, the number of outputs for an Affine, the class for a
# Subsampling or a BatchNormalization, and the layer itself if it has no parameters.
Stack = Mapping[str, Any]
Shape = tuple[int, ...]

CONV_PARAM = ["filter_num", "filter_size", "pad", "stride"]


def build_layers(
    input_dim: Shape,
    stack: Stack,
    draw: Callable[[np.random.RandomState, Shape], Array],
    rng: np.random.RandomState | None,
    params: Mapping[str, Array] | None,
    ones: Sequence[str] = (),
) -> dict[str, Layer]:
    """Return the layers of stack, for samples of shape input_dim (C, H, W) or (D,), holding params.

    If params is None, draw(stream, shape) makes W1, W2 and so on, in that order; the parameters in ones are 1, all
    others 0. ValueError, TypeError for sizes or params that do not fit.
    """
    shapes, stream = weight_shapes(input_dim, stack), random_stream(rng)
    if params is not None:
        check_params(params, shapes)
    else:
        params = {
            name: draw(stream, shape) if name.startswith("W") else np.full(shape, float(name in ones))
            for name, shape in shapes.items()
        }
    return {name: _make_layer(part, [params[key] for key in shapes]) for name, part, shapes in _walk(input_dim, stack)}


def weight_shapes(input_dim: Shape, stack: Stack) -> dict[str, Shape]:
    """Return the shapes of stack's parameters by name: W1, b1, W2, b2 and so on, gamma1, beta1 and so on.

    ValueError names the sizes if an image is not square, or if a stride or a pooling would leave some of its rows out.
    The original crashes later, or drops the rows silently.
    """
    return {key: shape for _, _, shapes in _walk(input_dim, stack) for key, shape in shapes.items()}


def inputs_of(shape: Shape) -> int:
    """Return the fan-in of a weight (FN, C, FH, FW) or (D, H): the number of inputs to one output."""
    return int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]


def _walk(input_dim: Shape, stack: Stack) -> Iterator[tuple[str, Any, dict[str, Shape]]]:
    """Yield each layer's name, its part of stack, and the names and shapes of its parameters."""
    if len(input_dim) not in (1, 3):
        raise ValueError(f"input_dim must be (channels, height, width), got {tuple(input_dim)}")
    channels, *sides = (check_int("input_dim", size, 1) for size in input_dim)
    if len(set(sides)) > 1:
        raise ValueError(f"input_dim must be a square image, got {sides[0]}x{sides[1]}")
    counts, side = Counter[str](), sides[0] if sides else 1
    for name, part in stack.items():
        shapes, channels, side = _sizes(part, channels, side)
        counts.update(shapes.keys())
        yield name, part, {f"{kind}{counts[kind]}": shape for kind, shape in shapes.items()}


def _sizes(part: Any, channels: int, side: int) -> tuple[dict[str, Shape], int, int]:
    """Return the shapes of a layer's parameters, and the channels and the side in pixels of its output."""
    features = channels * side**2
    if isinstance(part, int):
        return {"W": (features, part), "b": (part,)}, part, 1
    if part is BatchNormalization:
        return {"gamma": (features,), "beta": (features,)}, channels, side
    if part is Subsampling:
        return {"W": (channels,), "b": (channels,)}, channels, _pooled_side(side, 2, 2)
    if isinstance(part, WindowLayer):
        return {}, channels, _pooled_side(side, part.pool_h, part.stride)
    if not isinstance(part, Mapping):
        return {}, channels, side
    filters, size = part["filter_num"], part["filter_size"]
    return {"W": (filters, channels, size, size), "b": (filters,)}, filters, _convolved_side(side, part)


def _convolved_side(side: int, conv_param: Mapping[str, int]) -> int:
    size, pad, stride = (conv_param[key] for key in ("filter_size", "pad", "stride"))
    out = conv_output_size(side, size, stride, pad)
    if unseen := (side + 2 * pad - size) % stride:
        raise ValueError(f"filter_size {size} with stride {stride} and pad {pad} leaves {unseen} image rows unseen")
    return out


def _pooled_side(side: int, window: int, stride: int) -> int:
    if (side - window) % stride:
        kind = "even" if stride == window == 2 else f"{window} more than a multiple of {stride}"
        raise ValueError(f"the output must be {kind} for {window}x{window} pooling, got {side}x{side}")
    return conv_output_size(side, window, stride)


def check_conv_param(conv_param: Mapping[str, int]) -> Mapping[str, int]:
    """Return conv_param if it has exactly a convolution's four keys. ValueError, TypeError."""
    if sorted(check_mapping("conv_param", conv_param)) != CONV_PARAM:
        raise ValueError(f"conv_param must have the keys {CONV_PARAM}, got {sorted(conv_param)}")
    check_int("filter_num", conv_param["filter_num"], 1)
    return conv_param


def _make_layer(part: Any, values: Sequence[Array]) -> Any:
    if isinstance(part, Mapping):
        return Convolution(values[0], values[1], part["stride"], part["pad"])
    if isinstance(part, int):
        return Affine(*values)
    return part(*values) if isinstance(part, type) else part
