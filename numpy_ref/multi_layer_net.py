"""The book's fully connected networks (Deep Learning from Scratch, chapters 3 to 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from numpy_ref.checks import Array, check_int
from numpy_ref.functions import softmax
from numpy_ref.multi_layer_net_extend import MultiLayerNetExtend, check_activation, normal
from numpy_ref.network import Network
from numpy_ref.stack import build_layers


class TwoLayerNet(Network):
    """affine - relu - affine - softmax, on flat images (N, input_size), as in chapter 5: predict returns the scores.

    activation may be "sigmoid" instead. params (W1 b1 W2 b2) are used without copying. Without them, W1 and W2 are
    drawn in that order from a normal distribution of standard deviation weight_init_std, from rng (None for NumPy's
    global stream), and biases are 0. ValueError for sizes below 1 or another activation; TypeError.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: float = 0.01,
        activation: str = "relu",
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        kind = check_activation(activation)
        stack = {
            "Affine1": check_int("hidden_size", hidden_size, 1),
            f"{kind.__name__}1": kind(),
            "Affine2": check_int("output_size", output_size, 1),
        }
        inputs = (check_int("input_size", input_size, 1),)
        super().__init__(build_layers(inputs, stack, normal(weight_init_std), rng, params))


class Chapter4TwoLayerNet(TwoLayerNet):
    """affine - sigmoid - affine, where predict returns the softmax: what chapter 4 calls TwoLayerNet."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: float = 0.01,
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size, weight_init_std, "sigmoid", rng, params)

    def predict(self, x: Array, train_flg: bool = False) -> Array:
        """Return the probabilities (N, C) for x (N, D). ValueError for N = 0."""
        return softmax(super().predict(x, train_flg))


class MultiLayerNet(MultiLayerNetExtend):
    """Affine layers with an activation between them, as in chapter 6, on flat images (N, input_size)."""


class ThreeLayerNet(MultiLayerNet):
    """784-50-100-10 with sigmoid (section 3.6): the network of the trained parameters that come with chapter 3.

    predict returns the outputs before the softmax.
    """

    def __init__(
        self,
        input_size: int = 784,
        hidden_size_list: Sequence[int] = (50, 100),
        output_size: int = 10,
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        if len(hidden_size_list) != 2:
            raise ValueError(f"hidden_size_list must have two sizes, got {list(hidden_size_list)}: use MultiLayerNet")
        super().__init__(input_size, hidden_size_list, output_size, "sigmoid", "sigmoid", rng=rng, params=params)
