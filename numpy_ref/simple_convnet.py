"""The book's SimpleConvNet (Deep Learning from Scratch, section 7.5)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from numpy_ref.checks import Array, check_int, check_number
from numpy_ref.layers import Pooling, Relu
from numpy_ref.network import Network
from numpy_ref.stack import Stack, build_layers, check_conv_param

# Read-only, since every network made without conv_param shares it.
DEFAULT_CONV_PARAM: Mapping[str, int] = MappingProxyType({"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1})


class SimpleConvNet(Network):
    """conv - relu - pool - affine - relu - affine - softmax, on square images (N, C, H, W).

    params (W1 b1 W2 b2 W3 b3) are used without copying. Without them, W1, W2, W3 are drawn in that order from a normal
    distribution of standard deviation weight_init_std, from rng (None for NumPy's global stream), and biases are 0.
    ValueError for sizes that do not fit together (stack.weight_shapes).
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
        std = check_number("weight_init_std", weight_init_std, 0)
        stack = simple_convnet_stack(DEFAULT_CONV_PARAM if conv_param is None else conv_param, hidden_size, output_size)
        super().__init__(build_layers(input_dim, stack, lambda stream, shape: std * stream.randn(*shape), rng, params))


def simple_convnet_stack(conv_param: Mapping[str, int], hidden_size: int = 100, output_size: int = 10) -> Stack:
    """Return the layers of a SimpleConvNet. ValueError, TypeError for sizes below 1 and a wrong conv_param."""
    return {
        "Conv1": check_conv_param(conv_param),
        "Relu1": Relu(),
        "Pool1": Pooling(pool_h=2, pool_w=2, stride=2),
        "Affine1": check_int("hidden_size", hidden_size, 1),
        "Relu2": Relu(),
        "Affine2": check_int("output_size", output_size, 1),
    }
