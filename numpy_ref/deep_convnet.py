"""The book's DeepConvNet (Deep Learning from Scratch, section 8.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from numpy_ref.checks import Array, check_int
from numpy_ref.layers import Dropout, Pooling, Relu
from numpy_ref.network import Network
from numpy_ref.stack import Stack, build_layers, check_conv_param, inputs_of

DROPOUT_RATIO = 0.5

# The six convolutions: 3x3, stride 1. The fourth one's wider pad turns 14 pixels into 16, which pooling can halve twice
# more.
DEFAULT_CONV_PARAMS: tuple[Mapping[str, int], ...] = tuple(
    MappingProxyType({"filter_num": filter_num, "filter_size": 3, "pad": pad, "stride": 1})
    for filter_num, pad in ((16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1))
)


class DeepConvNet(Network):
    """Three times conv - relu - conv - relu - pool, then affine - relu - dropout - affine - dropout - softmax.

    On square images (N, C, H, W). params (W1 b1 to W8 b8) are used without copying. Without them, W1 to W8 are drawn in
    that order from a normal distribution of variance 2 / inputs (He et al. 2015), and biases are 0. Weights and dropout
    masks are drawn from rng (None for NumPy's global stream). conv_params default to DEFAULT_CONV_PARAMS. ValueError
    for sizes that do not fit together (stack.weight_shapes).
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
        arguments = (conv_param_1, conv_param_2, conv_param_3, conv_param_4, conv_param_5, conv_param_6)
        conv_params = [
            default if param is None else param for param, default in zip(arguments, DEFAULT_CONV_PARAMS, strict=True)
        ]
        stack = deep_convnet_stack(conv_params, hidden_size, output_size, rng)
        super().__init__(build_layers(input_dim, stack, _draw_he, rng, params))

    def loss(self, x: Array, t: Array, train_flg: bool = True) -> np.floating:
        """Return the mean loss of the batch x against t, labels (N,) or one-hot (N, C); with dropout by default.

        The original always applies dropout here: its loss takes no train_flg.
        """
        return super().loss(x, t, train_flg)


def deep_convnet_stack(
    conv_params: Sequence[Mapping[str, int]] = DEFAULT_CONV_PARAMS,
    hidden_size: int = 50,
    output_size: int = 10,
    rng: np.random.RandomState | None = None,
) -> Stack:
    """Return the layers of a DeepConvNet with these six convolutions. ValueError, TypeError for sizes below 1."""
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


def _draw_he(stream: np.random.RandomState, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt(2.0 / inputs_of(shape)) * stream.randn(*shape))
