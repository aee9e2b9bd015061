"""LeNet-5 and AlexNet, which the book describes in section 7.6.

LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86(11), 1998, section II.B; Krizhevsky, Sutskever & Hinton, NIPS 2012.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from numpy_ref.checks import Array, check_int, check_number
from numpy_ref.classic_layers import LocalResponseNormalization, Subsampling, Tanh
from numpy_ref.layers import AveragePooling, Dropout, Pooling, Relu, Sigmoid
from numpy_ref.network import Network
from numpy_ref.stack import Stack, build_layers, inputs_of

LENET_ACTIVATIONS: dict[str, type[Tanh] | type[Sigmoid]] = {"tanh": Tanh, "sigmoid": Sigmoid}
SUBSAMPLING = ("trainable", "average")
LENET_FILTERS, LENET_HIDDEN = (6, 16), (120, 84)
LENET_PAD = 2  # pads MNIST's 28 x 28 pixels to the paper's 32 x 32
LENET_RANGE = 2.4  # the paper's: initial weights lie within 2.4 / inputs

# filter_num, filter_size, stride, pad; and the numbers of those followed by a normalisation, by a pooling.
ALEXNET_CONVOLUTIONS = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
NORMALISED, POOLED = (1, 2), (1, 2, 5)
ALEXNET_HIDDEN = 4096
DROPOUT_RATIO = 0.5
ONES = ("b2", "b4", "b5", "b6", "b7")  # AlexNet's paper, section 5: relus get positive inputs from the start


class LeNet5(Network):
    """conv 6 - subsample - conv 16 - subsample - affine 120 - affine 84 - affine, on square images (N, C, H, W).

    The activation, "tanh" or "sigmoid", follows every convolution and affine but the last, and subsampling if that is
    "trainable" and not "average". The first convolution pads 28 x 28 pixels to the paper's 32 x 32. Unlike in the
    paper, the second one sees all six maps, tanh has no scale factors, and the output is affine, for a softmax.

    params are used without copying. Without them, weights are drawn in order from the paper's uniform distribution
    within 2.4 / inputs, from rng (None for NumPy's global stream), biases are 0, and subsampling starts as the mean.
    ValueError for sizes that do not fit together (stack.weight_shapes) and unknown names.
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        output_size: int = 10,
        subsampling: str = "trainable",
        activation: str = "tanh",
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        if activation not in LENET_ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(LENET_ACTIVATIONS)}, got {activation!r}")
        stack = lenet5_stack(output_size, subsampling, LENET_ACTIVATIONS[activation])
        super().__init__(build_layers(input_dim, stack, _lenet_weight, rng, params))


def lenet5_stack(
    output_size: int = 10, subsampling: str = "trainable", squash: type[Tanh] | type[Sigmoid] = Tanh
) -> Stack:
    """Return the layers of a LeNet5. ValueError, TypeError."""
    if subsampling not in SUBSAMPLING:
        raise ValueError(f"subsampling must be one of {', '.join(SUBSAMPLING)}, got {subsampling!r}")
    parts: dict[str, object] = {}
    for number, (filters, pad) in enumerate(zip(LENET_FILTERS, (LENET_PAD, 0), strict=True), 1):
        parts[f"Conv{number}"] = {"filter_num": filters, "filter_size": 5, "pad": pad, "stride": 1}
        if subsampling == "trainable":
            parts[f"Subsample{number}"] = Subsampling
        else:
            parts[f"Pool{number}"] = AveragePooling(2, 2)
    parts |= {f"Affine{number}": outputs for number, outputs in enumerate(LENET_HIDDEN, 1)}
    stack, number = dict[str, object](), 0
    for name, part in parts.items():
        stack[name] = part
        if not name.startswith("Pool"):
            number += 1
            stack[f"{squash.__name__}{number}"] = squash()
    return {**stack, "Affine3": check_int("output_size", output_size, 1)}


def _lenet_weight(stream: np.random.RandomState, shape: tuple[int, ...]) -> Array:
    if len(shape) == 1:
        return np.full(shape, 0.25)  # the mean of a subsampling's four pixels
    bound = LENET_RANGE / inputs_of(shape)
    return stream.uniform(-bound, bound, shape)


class AlexNet(Network):
    """Five convolutions with relu, the first two normalised, overlapping max pooling after 1, 2 and 5; three affine.

    On square images (N, C, H, W) of 227 pixels; the paper says 224, but its 55 x 55 maps follow from 227 only. In one
    stream, not split over two GPUs. Dropout after each hidden affine. width scales the numbers of filters and units.

    params are used without copying. Without them, weights are drawn in order from the paper's normal distribution of
    standard deviation 0.01, and biases are 0 or, as in the paper, 1. Weights and dropout masks are drawn from rng (None
    for NumPy's global stream). ValueError for sizes that do not fit together: images need 67 + 32 k pixels a side.
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (3, 227, 227),
        output_size: int = 1000,
        width: float = 1.0,
        weight_init_std: float = 0.01,
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        std = check_number("weight_init_std", weight_init_std, 0)
        if any(side < 67 or (side - 67) % 32 for side in input_dim[1:]):
            sizes = "x".join(map(str, input_dim[1:]))
            raise ValueError(f"an image of {sizes} pixels does not fit: sizes are 67 + 32 k, such as the paper's 227")
        stack = alexnet_stack(output_size, width, rng)
        layers = build_layers(input_dim, stack, lambda stream, shape: std * stream.randn(*shape), rng, params, ONES)
        super().__init__(layers)


def alexnet_stack(output_size: int = 1000, width: float = 1.0, rng: np.random.RandomState | None = None) -> Stack:
    """Return the layers of an AlexNet with width times as many filters and hidden units. ValueError, TypeError."""
    stack: dict[str, object] = {}
    for number, (filters, size, stride, pad) in enumerate(ALEXNET_CONVOLUTIONS, 1):
        filter_num = scaled(filters, width)
        stack[f"Conv{number}"] = {"filter_num": filter_num, "filter_size": size, "pad": pad, "stride": stride}
        stack[f"Relu{number}"] = Relu()
        if number in NORMALISED:
            stack[f"Norm{number}"] = LocalResponseNormalization()
        if number in POOLED:
            stack[f"Pool{number}"] = Pooling(pool_h=3, pool_w=3, stride=2)
    for number in (1, 2):
        stack[f"Affine{number}"] = scaled(ALEXNET_HIDDEN, width)
        stack[f"Relu{number + 5}"] = Relu()
        stack[f"Dropout{number}"] = Dropout(DROPOUT_RATIO, rng)
    return {**stack, "Affine3": check_int("output_size", output_size, 1)}


def scaled(count: int, width: float) -> int:
    """Return width times count, rounded, at least 1. ValueError, TypeError for a width that is not above 0."""
    if check_number("width", width, 0) == 0:
        raise ValueError(f"width must be above 0, got {width}")
    return max(1, round(width * count))
