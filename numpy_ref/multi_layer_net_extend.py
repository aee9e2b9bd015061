"""The book's fully connected network with batch normalisation and dropout (Deep Learning from Scratch, chapter 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from numpy_ref.checks import Array, check_int, check_number
from numpy_ref.layers import BatchNormalization, Dropout, Relu, Sigmoid
from numpy_ref.network import Network
from numpy_ref.stack import build_layers, inputs_of

ACTIVATIONS: dict[str, type[Relu] | type[Sigmoid]] = {"relu": Relu, "sigmoid": Sigmoid}

# Variance of the initial weights times the number of inputs: He et al. (2015); Glorot & Bengio (2010) as in the book.
SCALES = {"relu": 2.0, "he": 2.0, "sigmoid": 1.0, "xavier": 1.0}


class MultiLayerNetExtend(Network):
    """affine - batch normalisation - activation - dropout for each hidden size, then affine: on images (N, input_size).

    activation is "relu" or "sigmoid"; use_batchnorm and use_dropout switch normalisation and dropout on. params (W1 b1
    ... and gamma1 beta1 ...) are used without copying. Without them, weights are drawn in order from a normal
    distribution of standard deviation weight_init_std (a number, "relu" or "he" for sqrt(2 / inputs), "sigmoid" or
    "xavier" for sqrt(1 / inputs)), gammas are 1 and the rest is 0. Weights and dropout masks are drawn from rng (None
    for NumPy's global stream). The loss adds weight_decay_lambda / 2 times the sum of all squared weights. ValueError
    for sizes below 1 and unknown names; TypeError.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: float | str = "relu",
        weight_decay_lambda: float = 0,
        use_dropout: bool = False,
        dropout_ration: float = 0.5,
        use_batchnorm: bool = False,
        rng: np.random.RandomState | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> None:
        kind = check_activation(activation)
        self.weight_decay_lambda = check_number("weight_decay_lambda", weight_decay_lambda, 0)
        stack: dict[str, object] = {}
        for number, size in enumerate(check_hidden(hidden_size_list), 1):
            stack[f"Affine{number}"] = size
            if use_batchnorm:
                stack[f"BatchNorm{number}"] = BatchNormalization
            stack[f"Activation_function{number}"] = kind()
            if use_dropout:
                stack[f"Dropout{number}"] = Dropout(dropout_ration, rng)
        stack[f"Affine{len(hidden_size_list) + 1}"] = check_int("output_size", output_size, 1)
        gammas = [f"gamma{number}" for number in range(1, len(hidden_size_list) + 1)]
        inputs = (check_int("input_size", input_size, 1),)
        super().__init__(build_layers(inputs, stack, normal(weight_init_std), rng, params, gammas))

    def loss(self, x: Array, t: Array, train_flg: bool = False) -> np.floating:
        """Return the mean loss of the batch x against t, labels (N,) or one-hot (N, C), plus the weight decay."""
        squares = sum(np.sum(value**2) for name, value in self.params.items() if name.startswith("W"))
        return np.float64(super().loss(x, t, train_flg) + 0.5 * self.weight_decay_lambda * squares)

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return the gradient of the loss, weight decay included, in every parameter, by backpropagation."""
        grads = super().gradient(x, t)
        decay = {name: self.weight_decay_lambda * self.params[name] for name in grads if name.startswith("W")}
        return {name: grad + decay[name] if name in decay else grad for name, grad in grads.items()}


def normal(std: float | str) -> Callable[[np.random.RandomState, tuple[int, ...]], Array]:
    """Return a function that draws normal weights (stream, shape) of standard deviation std, or scaled as in SCALES."""
    if not isinstance(std, str):
        number = check_number("weight_init_std", std, 0)
        return lambda stream, shape: number * stream.randn(*shape)
    if std.lower() not in SCALES:
        raise ValueError(f"weight_init_std must be a number or one of {', '.join(SCALES)}, got {std!r}")
    variance = SCALES[std.lower()]
    return lambda stream, shape: np.sqrt(variance / inputs_of(shape)) * stream.randn(*shape)


def check_hidden(hidden_size_list: Sequence[int]) -> list[int]:
    """Return the sizes as a list, each at least 1. ValueError, TypeError."""
    if isinstance(hidden_size_list, str) or not hasattr(hidden_size_list, "__iter__"):
        raise TypeError(f"hidden_size_list must be a list of sizes, got {hidden_size_list!r}")
    return [check_int("a size in hidden_size_list", size, 1) for size in hidden_size_list]


def check_activation(activation: str) -> type[Relu] | type[Sigmoid]:
    """Return the layer class of that name. ValueError."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation]
