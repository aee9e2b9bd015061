"""LeNet-5 (LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86(11), 1998, section II.B)."""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import Array, check_int, random_stream
from numpy_ref.classic import Subsampling, Tanh
from numpy_ref.layers import Affine, AveragePooling, Convolution, Layer, Sigmoid
from numpy_ref.networks import Network, check_image, convolution_sizes, numbered_shapes, pooled_size

ACTIVATIONS: dict[str, type[Tanh] | type[Sigmoid]] = {"tanh": Tanh, "sigmoid": Sigmoid}
SUBSAMPLING = ("trainable", "average")

FILTERS, HIDDEN = (6, 16), (120, 84)
PAD = 2  # makes the 32 x 32 pixels of the paper of MNIST's 28 x 28

# The paper's range of a weight, times the number of inputs.
RANGE = 2.4


def lenet5_sizes(
    input_dim: tuple[int, int, int] = (1, 28, 28), output_size: int = 10, subsampling: str = "trainable"
) -> dict[str, tuple[int, ...]]:
    """Shapes of a LeNet5's parameters: W1 b1 ... W5 b5, or with trainable subsampling up to W7 b7.

    ValueError for an image that the convolutions and poolings do not divide evenly, or another subsampling.
    """
    channels, side = check_image(input_dim)
    check_int("output_size", output_size, 1)
    if subsampling not in SUBSAMPLING:
        raise ValueError(f"subsampling must be one of {', '.join(SUBSAMPLING)}, got {subsampling!r}")
    weights: list[tuple[int, ...]] = []
    for filters, pad in zip(FILTERS, (PAD, 0), strict=True):
        param = {"filter_num": filters, "filter_size": 5, "pad": pad, "stride": 1}
        weight, side = convolution_sizes(channels, side, param)
        side, channels = pooled_size(side), filters
        weights += [weight, (filters,)] if subsampling == "trainable" else [weight]
    inputs = channels * side**2, *HIDDEN
    weights += zip(inputs, (*HIDDEN, output_size), strict=True)
    return numbered_shapes(weights)


class LeNet5(Network):
    """conv 6 - subsample - conv 16 - subsample - affine 120 - affine 84 - affine, on square images (N, C, H, W).

    With an activation, "tanh" or "sigmoid", after every layer but the last, and after subsampling where that is
    "trainable"; else it is "average". The first convolution pads 28 x 28 pixels to the paper's 32 x 32. Otherwise than
    there, the second one sees all six maps, tanh has no scale factors, and the output is affine, for a softmax.

    Weights are drawn in order from the paper's uniform distribution within 2.4 / inputs, from rng (None for NumPy's
    global stream); biases are 0, and subsampling starts as the mean. ValueError for sizes that do not fit
    (lenet5_sizes) and other names.
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        output_size: int = 10,
        subsampling: str = "trainable",
        activation: str = "tanh",
        rng: np.random.RandomState | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        shapes = lenet5_sizes(input_dim, output_size, subsampling)
        stream, squash, layers = random_stream(rng), ACTIVATIONS[activation], dict[str, Layer]()
        drawn = iter([_drawn(shapes[name], stream) for name in shapes if name.startswith("W")])

        def add(name: str, layer: Layer) -> None:
            layers[name] = layer
            squashes = sum(isinstance(each, squash) for each in layers.values())
            if name not in ("Affine3", "Pool1", "Pool2"):
                layers[f"{squash.__name__}{squashes + 1}"] = squash()

        for number, (filters, pad) in enumerate(zip(FILTERS, (PAD, 0), strict=True), 1):
            add(f"Conv{number}", Convolution(next(drawn), np.zeros(filters), 1, pad))
            if subsampling == "trainable":
                add(f"Subsample{number}", Subsampling(next(drawn), np.zeros(filters)))
            else:
                add(f"Pool{number}", AveragePooling(2, 2))
        for number, outputs in enumerate((*HIDDEN, output_size), 1):
            add(f"Affine{number}", Affine(next(drawn), np.zeros(outputs)))
        super().__init__(layers)


def _drawn(shape: tuple[int, ...], stream: np.random.RandomState) -> Array:
    if len(shape) == 1:
        return np.full(shape, 0.25)  # of a subsampling's four pixels
    inputs = shape[0] if len(shape) == 2 else np.prod(shape[1:])
    return stream.uniform(-RANGE / inputs, RANGE / inputs, shape)
