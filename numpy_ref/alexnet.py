"""AlexNet (Krizhevsky, Sutskever & Hinton, NIPS 2012)."""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import check_int, check_number, random_stream
from numpy_ref.classic import LocalResponseNormalization
from numpy_ref.im2col import conv_output_size
from numpy_ref.layers import Affine, Convolution, Dropout, Layer, Pooling, Relu
from numpy_ref.networks import Network, check_image, convolution_sizes, normal_weights, numbered_shapes

# filter_num, filter_size, stride, pad; which are followed by a normalisation and which by a pooling.
CONVOLUTIONS = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
NORMALISED, POOLED = (1, 2), (1, 2, 5)
HIDDEN = 4096
DROPOUT_RATIO = 0.5

# Section 5: so that relus get positive inputs at once.
ONES = ("b2", "b4", "b5", "b6", "b7")


def alexnet_sizes(
    input_dim: tuple[int, int, int] = (3, 227, 227), output_size: int = 1000, width: float = 1.0
) -> dict[str, tuple[int, ...]]:
    """Shapes of W1 b1 ... W8 b8 of an AlexNet with width times as many filters and hidden units.

    ValueError where a stride would leave image rows unseen: images of 67 + 32 k pixels a side fit.
    """
    channels, side = check_image(input_dim)
    check_int("output_size", output_size, 1)
    weights: list[tuple[int, ...]] = []
    for number, (filters, size, stride, pad) in enumerate(CONVOLUTIONS, 1):
        param = {"filter_num": scaled(filters, width), "filter_size": size, "pad": pad, "stride": stride}
        weight, side = convolution_sizes(channels, side, param)
        weights.append(weight)
        channels = weight[0]
        if number in POOLED:
            if (side - 3) % 2:
                raise ValueError(
                    f"an image of {input_dim[1]} pixels does not fit: sizes are 67 + 32 k, such as the paper's 227"
                )
            side = conv_output_size(side, 3, 2, 0)
    hidden = scaled(HIDDEN, width)
    weights += [(channels * side**2, hidden), (hidden, hidden), (hidden, output_size)]
    return numbered_shapes(weights)


def scaled(count: int, width: float) -> int:
    """width times count, at least 1. ValueError, TypeError for a width that is not above 0."""
    if check_number("width", width, 0) == 0:
        raise ValueError(f"width must be above 0, got {width}")
    return max(1, round(width * count))


class AlexNet(Network):
    """Five convolutions with relu, the first two normalised, overlapping max pooling after 1, 2 and 5; three affine.

    On square images (N, C, H, W). 227 pixels, where the paper says 224: its own 55 x 55 maps follow from 227 only. In
    one stream, not split over two GPUs. Dropout after each hidden layer. width scales the filters and hidden units.

    Weights are drawn in order from the paper's normal distribution of standard deviation 0.01, from rng (None for
    NumPy's global stream), from which the dropout masks come too; biases are 0 or, as there, 1. ValueError for sizes
    that do not fit (alexnet_sizes).
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (3, 227, 227),
        output_size: int = 1000,
        width: float = 1.0,
        weight_init_std: float = 0.01,
        rng: np.random.RandomState | None = None,
    ) -> None:
        shapes, std = alexnet_sizes(input_dim, output_size, width), check_number("weight_init_std", weight_init_std, 0)
        values = normal_weights(shapes, std, random_stream(rng), ONES)
        layers: dict[str, Layer] = {}
        for number, (_, _, stride, pad) in enumerate(CONVOLUTIONS, 1):
            layers[f"Conv{number}"] = Convolution(values[f"W{number}"], values[f"b{number}"], stride, pad)
            layers[f"Relu{number}"] = Relu()
            if number in NORMALISED:
                layers[f"Norm{number}"] = LocalResponseNormalization()
            if number in POOLED:
                layers[f"Pool{number}"] = Pooling(pool_h=3, pool_w=3, stride=2)
        for number in (6, 7):
            layers[f"Affine{number - 5}"] = Affine(values[f"W{number}"], values[f"b{number}"])
            layers[f"Relu{number}"] = Relu()
            layers[f"Dropout{number - 5}"] = Dropout(DROPOUT_RATIO, rng)
        layers["Affine3"] = Affine(values["W8"], values["b8"])
        super().__init__(layers)
