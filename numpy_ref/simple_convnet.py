"""The book's SimpleConvNet (Deep Learning from Scratch, section 7.5), and the sizes of square images in networks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from numpy_ref.checks import Array, check_int, check_mapping, check_number
from numpy_ref.layers import Affine, Convolution, Pooling, Relu
from numpy_ref.network import Network, given_or_drawn, numbered_shapes
from numpy_ref.util import conv_output_size

# Read-only, since every network made without conv_param shares it.
DEFAULT_CONV_PARAM: Mapping[str, int] = MappingProxyType({"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1})


class SimpleConvNet(Network):
    """conv - relu - pool - affine - relu - affine - softmax, on square images (N, C, H, W).

    params, W1 b1 W2 b2 W3 b3, are held as they are; without them W1, W2, W3 are drawn in that order from a normal
    distribution of standard deviation weight_init_std, from rng (None for NumPy's global stream), and biases are 0.
    ValueError for sizes that do not fit together (simple_convnet_sizes).
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param: Mapping[str, int] | None = None,
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float = 0.01,
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        conv_param = DEFAULT_CONV_PARAM if conv_param is None else conv_param
        std = check_number("weight_init_std", weight_init_std, 0)
        shapes = simple_convnet_sizes(input_dim, conv_param, hidden_size, output_size)
        values = given_or_drawn(params, shapes, lambda stream, shape: std * stream.randn(*shape), rng)
        super().__init__(
            {
                "Conv1": Convolution(values["W1"], values["b1"], conv_param["stride"], conv_param["pad"]),
                "Relu1": Relu(),
                "Pool1": Pooling(pool_h=2, pool_w=2, stride=2),
                "Affine1": Affine(values["W2"], values["b2"]),
                "Relu2": Relu(),
                "Affine2": Affine(values["W3"], values["b3"]),
            }
        )


def simple_convnet_sizes(
    input_dim: tuple[int, int, int], conv_param: Mapping[str, int], hidden_size: int, output_size: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of W1 b1 W2 b2 W3 b3 of a SimpleConvNet: convolution, 2x2 pooling, two Affine layers.

    ValueError that names the sizes where the image is not square, where the stride would leave image rows unseen, or
    where the convolution's output is odd, so that pooling would. The original crashes later, or drops them silently.
    """
    channels, image_size = check_image(input_dim)
    check_int("hidden_size", hidden_size, 1)
    check_int("output_size", output_size, 1)
    weight, conv_out = convolution_sizes(channels, image_size, conv_param)
    return numbered_shapes([weight, (weight[0] * pooled_size(conv_out) ** 2, hidden_size), (hidden_size, output_size)])


def check_image(input_dim: tuple[int, int, int]) -> tuple[int, int]:
    """Channels, and the pixels of a side, of square images (C, H, W). ValueError, TypeError for anything else."""
    if len(input_dim) != 3:
        raise ValueError(f"input_dim must be (channels, height, width), got {tuple(input_dim)}")
    channels, height, width = (check_int("input_dim", size, 1) for size in input_dim)
    if height != width:
        raise ValueError(f"input_dim must be a square image, got {height}x{width}")
    return channels, height


def convolution_sizes(
    channels: int, image_size: int, conv_param: Mapping[str, int]
) -> tuple[tuple[int, int, int, int], int]:
    """Shape of the W (FN, C, FH, FW) that conv_param describes, and the pixels of a side of the convolution's output.

    ValueError for other keys than DEFAULT_CONV_PARAM's, and where the stride would leave image rows unseen.
    """
    expected = sorted(DEFAULT_CONV_PARAM)
    if sorted(check_mapping("conv_param", conv_param)) != expected:
        raise ValueError(f"conv_param must have the keys {expected}, got {sorted(conv_param)}")
    filter_num = check_int("filter_num", conv_param["filter_num"], 1)
    filter_size, pad, stride = (conv_param[key] for key in ("filter_size", "pad", "stride"))
    conv_out = conv_output_size(image_size, filter_size, stride, pad)
    unseen = (image_size + 2 * pad - filter_size) % stride
    if unseen:
        raise ValueError(
            f"filter_size {filter_size} with stride {stride} and pad {pad} leaves {unseen} image rows unseen"
        )
    return (filter_num, channels, filter_size, filter_size), conv_out


def pooled_size(conv_out: int) -> int:
    """Half of a convolution's output, for 2x2 pooling. ValueError for an odd one, whose last row would be unseen."""
    if conv_out % 2:
        raise ValueError(f"the convolution's output must be even for 2x2 pooling, got {conv_out}x{conv_out}")
    return conv_out // 2
