"""The book's DeepConvNet (Deep Learning from Scratch, section 8.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from numpy_ref.checks import Array, check_int
from numpy_ref.layers import Dropout, Pooling, Relu
from numpy_ref.network import Network
from numpy_ref.stack import Stack, check_conv_param, inputs_of, stacked

DROPOUT_RATIO = 0.5

# Filters and padding of the six convolutions: 3x3, stride 1. The fourth's wider pad makes 14 pixels 16, so that pooling
# can halve them twice more.
DEFAULT_CONV_PARAMS: tuple[Mapping[str, int], ...] = tuple(
    MappingProxyType({"filter_num": filter_num, "filter_size": 3, "pad": pad, "stride": 1})
    for filter_num, pad in ((16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1))
)


class DeepConvNet(Network):
    """Three times conv - relu - conv - relu - pool, then affine - relu - dropout - affine - dropout - softmax.

    On square images (N, C, H, W). params, W1 b1 to W8 b8, are held as they are; without them W1 to W8 are drawn in that
    order from a normal distribution of variance 2 / inputs (He et al. 2015), and biases are 0. They come from rng (None
    for NumPy's global stream), and so do the dropout masks. A conv_param that is None is DEFAULT_CONV_PARAMS'.
    ValueError for sizes that do not fit together (stack.weight_shapes).
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param_1: Mapping[str, int] | None = None,
        conv_param_2: Mapping[str, int] | None = None,
        conv_param_3: Mapping[str, int] | None = None,
        conv_param_4: Mapping[str, int] | None = None,
        conv_param_5: Mapping[str, int] | None = None,
        conv_param_6: Mapping[str, int] | None = None,
        hidden_size: int = 50,
        output_size: int = 10,
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        given = (conv_param_1, conv_param_2, conv_param_3, conv_param_4, conv_param_5, conv_param_6)
        conv_params = [
            default if param is None else param for param, default in zip(given, DEFAULT_CONV_PARAMS, strict=True)
        ]
        stack = deep_convnet_stack(conv_params, hidden_size, output_size, rng)
        super().__init__(stacked(input_dim, stack, _drawn, rng, params))

    def loss(self, x: Array, t: Array, train_flg: bool = True) -> np.floating:
        """Mean loss of the batch x against t, labels (N,) or one-hot (N, C); with dropout unless told otherwise.

        So does the original, which takes no train_flg here.
        """
        return super().loss(x, t, train_flg)


def deep_convnet_stack(
    conv_params: Sequence[Mapping[str, int]] = DEFAULT_CONV_PARAMS,
    hidden_size: int = 50,
    output_size: int = 10,
    rng: np.random.RandomState | None = None,
) -> Stack:
    """The layers of a DeepConvNet with these six convolutions. ValueError, TypeError for sizes under 1 and the like."""
    layers: dict[str, object] = {}
    for number, conv_param in enumerate(conv_params, 1):
        layers |= {f"Conv{number}": check_conv_param(conv_param), f"Relu{number}": Relu()}
        if number % 2 == 0:
            layers[f"Pool{number // 2}"] = Pooling(pool_h=2, pool_w=2, stride=2)
    return {
        **layers,
        "Affine1": check_int("hidden_size", hidden_size, 1),
        "Relu7": Relu(),
        "Dropout1": Dropout(DROPOUT_RATIO, rng),
        "Affine2": check_int("output_size", output_size, 1),
        "Dropout2": Dropout(DROPOUT_RATIO, rng),
    }


def _drawn(stream: np.random.RandomState, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt(2.0 / inputs_of(shape)) * stream.randn(*shape))
