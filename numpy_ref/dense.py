"""The book's fully connected networks (Deep Learning from Scratch, chapters 3 to 6)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from numpy_ref.checks import check_int, check_number, random_stream
from numpy_ref.layers import Affine, Layer, Relu, Sigmoid
from numpy_ref.networks import Network

ACTIVATIONS: dict[str, type[Relu] | type[Sigmoid]] = {"relu": Relu, "sigmoid": Sigmoid}

# Variances times the number of inputs, by name: He et al. (2015); Glorot & Bengio (2010) as the book has it.
SCALES = {"relu": 2.0, "he": 2.0, "sigmoid": 1.0, "xavier": 1.0}


class TwoLayerNet(Network):
    """affine - relu - affine - softmax, of flat images (N, input_size): chapter 5's; chapter 4's with "sigmoid".

    W1 and W2 are drawn in that order from a normal distribution of standard deviation weight_init_std, from rng (None
    for NumPy's global stream); biases are 0. ValueError for sizes under 1 or another activation; TypeError.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: float = 0.01,
        activation: str = "relu",
        rng: np.random.RandomState | None = None,
    ) -> None:
        check_number("weight_init_std", weight_init_std, 0)
        kind = _check_activation(activation)
        sizes = _check_sizes(input_size, [hidden_size], output_size)
        first, second = _affine_layers(sizes, weight_init_std, rng)
        super().__init__({"Affine1": first, f"{kind.__name__}1": kind(), "Affine2": second})


class MultiLayerNet(Network):
    """Affine layers with an activation, "relu" or "sigmoid", between them (chapter 6): of flat images (N, input_size).

    The weights are drawn in order from a normal distribution, from rng (None for NumPy's global stream), of standard
    deviation weight_init_std: a number, "relu" or "he" for sqrt(2 / inputs), "sigmoid" or "xavier" for
    sqrt(1 / inputs); biases are 0. The original's weight_decay_lambda is left out: it changes the loss, which a port
    does not share. ValueError for sizes under 1 and names that are not these; TypeError.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: float | str = "relu",
        rng: np.random.RandomState | None = None,
    ) -> None:
        kind = _check_activation(activation)
        *hidden, last = _affine_layers(_check_sizes(input_size, hidden_size_list, output_size), weight_init_std, rng)
        layers: dict[str, Layer] = {}
        for number, affine in enumerate(hidden, 1):
            layers |= {f"Affine{number}": affine, f"Activation_function{number}": kind()}
        super().__init__({**layers, f"Affine{len(hidden) + 1}": last})


class ThreeLayerNet(MultiLayerNet):
    """784-50-100-10 with sigmoid (section 3.6): what the trained parameters that come with chapter 3 belong to.

    predict gives the outputs before the softmax, as all networks here do.
    """

    def __init__(
        self,
        input_size: int = 784,
        hidden_size_list: Sequence[int] = (50, 100),
        output_size: int = 10,
        rng: np.random.RandomState | None = None,
    ) -> None:
        if len(hidden_size_list) != 2:
            raise ValueError(f"hidden_size_list must have two sizes, got {list(hidden_size_list)}: use MultiLayerNet")
        super().__init__(input_size, hidden_size_list, output_size, "sigmoid", "sigmoid", rng)


def _affine_layers(sizes: Sequence[int], std: float | str, rng: np.random.RandomState | None) -> list[Affine]:
    stream = random_stream(rng)
    return [
        Affine(_standard_deviation(std, inputs) * stream.randn(inputs, outputs), np.zeros(outputs))
        for inputs, outputs in pairwise(sizes)
    ]


def _check_sizes(input_size: int, hidden_size_list: Sequence[int], output_size: int) -> list[int]:
    if isinstance(hidden_size_list, str) or not hasattr(hidden_size_list, "__iter__"):
        raise TypeError(f"hidden_size_list must be a list of sizes, got {hidden_size_list!r}")
    hidden = [check_int("a size in hidden_size_list", size, 1) for size in hidden_size_list]
    return [check_int("input_size", input_size, 1), *hidden, check_int("output_size", output_size, 1)]


def _check_activation(activation: str) -> type[Relu] | type[Sigmoid]:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation]


def _standard_deviation(std: float | str, inputs: int) -> float:
    if not isinstance(std, str):
        return check_number("weight_init_std", std, 0)
    if std.lower() not in SCALES:
        raise ValueError(f"weight_init_std must be a number or one of {', '.join(SCALES)}, got {std!r}")
    return float(np.sqrt(SCALES[std.lower()] / inputs))
