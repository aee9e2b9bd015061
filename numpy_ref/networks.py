"""Networks of named layers, and the book's SimpleConvNet (Deep Learning from Scratch, section 7.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from numpy_ref.checks import (
    Array,
    check_array,
    check_attributes,
    check_batch,
    check_floating,
    check_int,
    check_mapping,
    check_number,
    check_pair,
    random_stream,
)
from numpy_ref.functions import class_labels
from numpy_ref.gradient import numerical_gradient
from numpy_ref.im2col import conv_output_size
from numpy_ref.layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    Layer,
    Pooling,
    Relu,
    SoftmaxWithLoss,
)
from numpy_ref.params import read_params, write_params

# Attributes of a layer that are trained, in the order in which the book names them.
PARAMETERS = ("W", "b", "gamma", "beta")

# What a BatchNormalization keeps besides, and predicts with.
STATISTICS = ("running_mean", "running_var")

# Samples that predict takes at a time: the im2col matrix of a whole test set would take gigabytes.
PREDICT_CHUNK = 100

# Read-only, since every network made without conv_param shares it.
DEFAULT_CONV_PARAM: Mapping[str, int] = MappingProxyType({"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1})


class Network:
    """Layers by name, in order, and a loss: the book's interface for any network.

    params holds the layers' own arrays: W1, b1 for the first layer that has them, W2, b2 for the second, gamma1, beta1
    for the first BatchNormalization and so on. Update them in place, or replace them with load_params. owners says
    whose they are: parameter name to (layer name, attribute).
    """

    def __init__(self, layers: Mapping[str, Layer], last_layer: SoftmaxWithLoss | None = None) -> None:
        if not check_mapping("layers", layers):
            raise ValueError("a network needs at least one layer, got none")
        self.layers = {name: check_attributes(f"layer {name}", layers[name], "forward backward") for name in layers}
        last_layer = SoftmaxWithLoss() if last_layer is None else last_layer
        self.last_layer = check_attributes("last_layer", last_layer, "forward backward")
        self.owners = _number_parameters(self.layers)
        self.params: dict[str, Array] = {
            name: check_array(f"{name} of {layer}", getattr(self.layers[layer], attribute))
            for name, (layer, attribute) in self.owners.items()
        }

    def predict(self, x: Array, train_flg: bool = False) -> Array:
        """Outputs before the softmax, (N, C) for x (N, ...). ValueError for N = 0.

        PREDICT_CHUNK samples at a time, unless train_flg: the original takes 7.6 GB for 10,000 images.
        """
        check_batch("x", x)
        if train_flg:
            return self._forward(x, train_flg)
        chunks = [self._forward(x[i : i + PREDICT_CHUNK], False) for i in range(0, len(x), PREDICT_CHUNK)]
        return np.concatenate(chunks)

    def loss(self, x: Array, t: Array, train_flg: bool = False) -> np.floating:
        """Mean loss of the batch x against t, labels (N,) or one-hot (N, C)."""
        return self.last_layer.forward(self._forward(x, train_flg), t)

    def accuracy(self, x: Array, t: Array, batch_size: int = 100) -> float:
        """Share of x that predict gets right, 0 to 1, over every sample: the original drops a last partial batch.

        ValueError where x and t differ in length.
        """
        check_int("batch_size", batch_size, 1)
        check_pair("x", x, "t", t)
        right = 0
        for i in range(0, len(x), batch_size):
            y = self.predict(x[i : i + batch_size])
            right += int(np.sum(y.argmax(axis=1) == class_labels(t[i : i + batch_size], y.shape)))
        return right / len(x)

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Gradient of the loss in every parameter, by backpropagation; the names of params."""
        self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward()
        for layer in reversed(self.layers.values()):
            dout = layer.backward(dout)
        return {name: getattr(self.layers[layer], f"d{attr}") for name, (layer, attr) in self.owners.items()}

    def numerical_gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """The same by central differences: two losses for every single parameter, so for small networks only."""
        return {
            name: numerical_gradient(lambda _: self.loss(x, t, train_flg=True), param)
            for name, param in self.params.items()
        }

    def save_params(self, file_name: str | Path = "params.pkl") -> None:
        """Write params as a pickle that the book's code reads; the file is replaced whole or not at all.

        Running statistics, which the original loses, go along as running_mean1, running_var1 and so on.
        """
        write_params({**self.params, **self.statistics}, file_name)

    def load_params(self, file_name: str | Path = "params.pkl") -> None:
        """Take over the arrays of file_name, running statistics too, all or nothing. ParamsError, ValueError.

        The file is read without unpickling; the original unpickles, so runs, whatever it is given.
        """
        found, statistics = read_params(file_name), self.statistics
        check_same_layout(found, {name: value.shape for name, value in {**self.params, **statistics}.items()})
        kept = {name: check_floating(f"statistic {name}", found[name]) for name in statistics}
        self.set_params({name: found[name] for name in self.params})
        for number, layer in enumerate(self._normalising, 1):
            for attribute in STATISTICS:
                setattr(layer, attribute, np.array(kept[f"{attribute}{number}"]))

    @property
    def statistics(self) -> dict[str, Array]:
        """Copies of running_mean1, running_var1 of the first BatchNormalization and so on; none without one."""
        layers = enumerate(self._normalising, 1)
        return {f"{name}{number}": value for number, layer in layers for name, value in layer_statistics(layer).items()}

    @property
    def _normalising(self) -> list[Layer]:
        return [layer for layer in self.layers.values() if isinstance(layer, BatchNormalization)]

    def set_params(self, params: Mapping[str, Array]) -> None:
        """Take over copies of params, float arrays of this network's names and shapes. ValueError, TypeError."""
        for name, value in check_mapping("params", params).items():
            check_floating(f"parameter {name}", value)
        check_same_layout(params, {name: value.shape for name, value in self.params.items()})
        for name, (layer, attribute) in self.owners.items():
            self.params[name] = np.array(params[name])
            setattr(self.layers[layer], attribute, self.params[name])

    def _forward(self, x: Array, train_flg: bool) -> Array:
        for layer in self.layers.values():
            x = layer.forward(x, train_flg) if isinstance(layer, Dropout | BatchNormalization) else layer.forward(x)
        return x


def _number_parameters(layers: Mapping[str, Layer]) -> dict[str, tuple[str, str]]:
    """Parameter name to (layer name, attribute): the k-th W is W<k>, the k-th gamma gamma<k>."""
    owners: dict[str, tuple[str, str]] = {}
    for layer_name, layer in layers.items():
        for attribute in PARAMETERS:
            if hasattr(layer, attribute):
                number = 1 + sum(attr == attribute for _, attr in owners.values())
                owners[f"{attribute}{number}"] = (layer_name, attribute)
    return owners


def layer_statistics(layer: Layer) -> dict[str, Array]:
    """running_mean and running_var (D,) of a BatchNormalization, zeros before its first batch; of others, nothing."""
    if not isinstance(layer, BatchNormalization):
        return {}
    gamma = np.asarray(layer.gamma)
    found = {name: getattr(layer, name) for name in STATISTICS}
    # In the parameters' dtype, as torch has it: after a batch of another one, the reference's have that.
    return {
        name: np.array(np.broadcast_to(0 if value is None else value, gamma.shape), gamma.dtype)
        for name, value in found.items()
    }


def check_same_layout(params: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Names and shapes of params are the expected ones, all of them. ValueError that lists what differs."""
    check_mapping("params", params)
    missing, extra = sorted(expected.keys() - params.keys()), sorted(params.keys() - expected.keys())
    if missing or extra:
        raise ValueError(f"parameters do not fit: missing {missing}, unexpected {extra}")
    wrong = [
        f"{name} is {tuple(params[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if tuple(params[name].shape) != shape
    ]
    if wrong:
        raise ValueError(f"parameters of another architecture: {'; '.join(wrong)}")


def simple_convnet_sizes(
    input_dim: tuple[int, int, int], conv_param: Mapping[str, int], hidden_size: int, output_size: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of W1 b1 W2 b2 W3 b3 of a SimpleConvNet: convolution, 2x2 pooling, two Affine layers.

    ValueError that names the sizes where the image is not square, where the stride would leave image rows unseen, or
    where the convolution's output is odd, so that pooling would. The original crashes later, or drops them silently.
    """
    channels, image_size = check_image(input_dim)
    weight, conv_out = convolution_sizes(channels, image_size, conv_param)
    check_int("hidden_size", hidden_size, 1)
    check_int("output_size", output_size, 1)
    return {
        "W1": weight,
        "b1": weight[:1],
        "W2": (weight[0] * pooled_size(conv_out) ** 2, hidden_size),
        "b2": (hidden_size,),
        "W3": (hidden_size, output_size),
        "b3": (output_size,),
    }


def check_image(input_dim: tuple[int, int, int]) -> tuple[int, int]:
    """Channels, and the pixels of a side, of square images (C, H, W). ValueError, TypeError for anything else."""
    if len(input_dim) != 3:
        raise ValueError(f"input_dim must be (channels, height, width), got {tuple(input_dim)}")
    channels, height, width = (check_int("input_dim", size, 1) for size in input_dim)
    if height != width:
        raise ValueError(f"input_dim must be a square image, got {height}x{width}")
    return channels, height


def convolution_sizes(
    channels: int, image_size: int, conv_param: Mapping[str, int]
) -> tuple[tuple[int, int, int, int], int]:
    """Shape of the W (FN, C, FH, FW) that conv_param describes, and the pixels of a side of the convolution's output.

    ValueError for other keys than DEFAULT_CONV_PARAM's, and where the stride would leave image rows unseen.
    """
    expected = sorted(DEFAULT_CONV_PARAM)
    if set(check_mapping("conv_param", conv_param)) != set(expected):
        raise ValueError(f"conv_param must have the keys {expected}, got {sorted(conv_param)}")
    filter_num = check_int("filter_num", conv_param["filter_num"], 1)
    filter_size, pad, stride = (conv_param[key] for key in ("filter_size", "pad", "stride"))
    conv_out = conv_output_size(image_size, filter_size, stride, pad)
    unseen = (image_size + 2 * pad - filter_size) % stride
    if unseen:
        raise ValueError(
            f"filter_size {filter_size} with stride {stride} and pad {pad} leaves {unseen} image rows unseen"
        )
    return (filter_num, channels, filter_size, filter_size), conv_out


def pooled_size(conv_out: int) -> int:
    """Half of a convolution's output, for 2x2 pooling. ValueError for an odd one, whose last row would be unseen."""
    if conv_out % 2:
        raise ValueError(f"the convolution's output must be even for 2x2 pooling, got {conv_out}x{conv_out}")
    return conv_out // 2


def numbered_shapes(weights: Sequence[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of W1 b1, W2 b2 and so on: an Affine has a bias for each column, others for each entry of axis 0."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, shape in enumerate(weights, 1):
        shapes |= {f"W{number}": shape, f"b{number}": shape[1:] if len(shape) == 2 else shape[:1]}
    return shapes


def normal_weights(
    shapes: Mapping[str, tuple[int, ...]], std: float, stream: np.random.RandomState, ones: Sequence[str] = ()
) -> dict[str, Array]:
    """W1, W2 and so on, drawn in order from a normal distribution; biases of 0, of 1 those in ones."""
    return {
        name: std * stream.randn(*shape) if name.startswith("W") else np.full(shape, float(name in ones))
        for name, shape in shapes.items()
    }


class SimpleConvNet(Network):
    """conv - relu - pool - affine - relu - affine - softmax, on square images (N, C, H, W).

    W1, W2, W3 are drawn in that order from a normal distribution of standard deviation weight_init_std, from rng (None
    for NumPy's global stream); biases are 0. ValueError for sizes that do not fit together (simple_convnet_sizes).
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param: Mapping[str, int] | None = None,
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float = 0.01,
        rng: np.random.RandomState | None = None,
    ) -> None:
        conv_param = DEFAULT_CONV_PARAM if conv_param is None else conv_param
        shapes = simple_convnet_sizes(input_dim, conv_param, hidden_size, output_size)
        std = check_number("weight_init_std", weight_init_std, 0)
        values = normal_weights(shapes, std, random_stream(rng))
        super().__init__(
            {
                "Conv1": Convolution(values["W1"], values["b1"], conv_param["stride"], conv_param["pad"]),
                "Relu1": Relu(),
                "Pool1": Pooling(pool_h=2, pool_w=2, stride=2),
                "Affine1": Affine(values["W2"], values["b2"]),
                "Relu2": Relu(),
                "Affine2": Affine(values["W3"], values["b3"]),
            }
        )
