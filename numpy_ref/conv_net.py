"""ConvNet: any number of convolutions and Affine layers, as readers extend the book's SimpleConvNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from numpy_ref.checks import Array, check_int
from numpy_ref.classic_layers import Tanh
from numpy_ref.layers import Pooling, Relu, Sigmoid
from numpy_ref.multi_layer_net_extend import check_hidden, normal
from numpy_ref.network import Network
from numpy_ref.stack import Stack, build_layers, check_conv_param

ACTIVATIONS: dict[str, type[Relu] | type[Sigmoid] | type[Tanh]] = {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}


class ConvNet(Network):
    """conv - activation (- pool) for each of conv_params, affine - activation for each hidden size, then affine.

    On square images (N, C, H, W); pool_after lists the numbers, from 1, of the convolutions that a 2x2 max pooling
    follows. params (W1 b1 and so on) are used without copying. Without them, weights are drawn in order from a normal
    distribution of standard deviation weight_init_std (see MultiLayerNetExtend), from rng (None for NumPy's global
    stream), and biases are 0. ValueError for sizes that do not fit together (stack.weight_shapes); TypeError.
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int],
        conv_params: Sequence[Mapping[str, int]],
        hidden_size_list: Sequence[int],
        output_size: int = 10,
        pool_after: Sequence[int] = (),
        activation: str = "relu",
        weight_init_std: float | str = "relu",
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        sizes = [*check_hidden(hidden_size_list), check_int("output_size", output_size, 1)]
        stack = conv_net_stack(conv_params, sizes, pool_after, activation)
        super().__init__(build_layers(input_dim, stack, normal(weight_init_std), rng, params))


def conv_net_stack(
    conv_params: Sequence[Mapping[str, int]],
    affine_sizes: Sequence[int],
    pool_after: Sequence[int] = (),
    activation: str = "relu",
) -> Stack:
    """Return the layers of a ConvNet with affine_sizes[-1] outputs. ValueError for unknown names and numbers."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if unknown := set(pool_after) - set(range(1, len(conv_params) + 1)):
        raise ValueError(f"pool_after must name convolutions of 1 to {len(conv_params)}, got {sorted(unknown)}")
    kind, name = ACTIVATIONS[activation], activation.capitalize()
    stack: dict[str, object] = {}
    for number, conv_param in enumerate(conv_params, 1):
        stack |= {f"Conv{number}": check_conv_param(conv_param), f"{name}{number}": kind()}
        if number in pool_after:
            stack[f"Pool{number}"] = Pooling(pool_h=2, pool_w=2, stride=2)
    for number, size in enumerate(affine_sizes, 1):
        stack |= {f"Affine{number}": size, f"{name}{len(conv_params) + number}": kind()}
    stack.popitem()  # no activation after the last Affine
    return stack
