"""Networks of named layers: the interface that the book's networks share (Deep Learning from Scratch, chapter 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from numpy_ref.checks import Array, check_array, check_batch, check_int, check_mapping, check_pair
from numpy_ref.functions import class_labels
from numpy_ref.gradient import numerical_gradient
from numpy_ref.layers import BatchNormalization, Dropout, Layer, SoftmaxWithLoss, forget
from numpy_ref.params import read_params, write_params

# Attributes of a layer that are trained, in the order in which the book names them.
PARAMETERS = ("W", "b", "gamma", "beta")

# What a BatchNormalization keeps besides, and predicts with.
STATISTICS = ("running_mean", "running_var")

# Samples that go through the layers at a time: the im2col matrix of a whole test set would take gigabytes.
CHUNK = 100

# Up to so many samples loss keeps what backward needs, as the original does with any number.
KEPT_SAMPLES = 500


class Layers(dict[str, Layer]):
    """Layers in order, by name or by position: the book's SimpleConvNet has a dict of them, its DeepConvNet a list."""

    def __getitem__(self, key: str | int) -> Any:
        return super().__getitem__(list(self)[key] if isinstance(key, int) else key)


class Network:
    """Layers by name, in order, and a loss: the book's interface for any network.

    params holds the layers' own arrays: W1, b1 for the first layer that has them, W2, b2 for the second, gamma1, beta1
    for the first BatchNormalization and so on. Update them in place, or replace them with load_params. owners says
    whose they are: parameter name to (layer name, attribute).
    """

    def __init__(self, layers: Mapping[str, Layer], last_layer: SoftmaxWithLoss | None = None) -> None:
        if not check_mapping("layers", layers):
            raise ValueError("a network needs at least one layer, got none")
        self.layers = Layers(layers)
        self.last_layer = SoftmaxWithLoss() if last_layer is None else last_layer
        self.owners = _number_parameters(self.layers)
        self.params: dict[str, Array] = {
            name: check_array(f"{name} of {layer}", getattr(self.layers[layer], attribute))
            for name, (layer, attribute) in self.owners.items()
        }

    def __repr__(self) -> str:
        """One line: SimpleConvNet(Conv1 Relu1 Pool1 Affine1 Relu2 Affine2: 433,890 parameters)."""
        parameters = sum(value.size for value in self.params.values())
        return f"{type(self).__name__}({' '.join(self.layers)}: {parameters:,} parameters)"

    def predict(self, x: Array, train_flg: bool = False) -> Array:
        """Outputs before the softmax, (N, C) for x (N, ...); layers keep nothing of it, unless train_flg. ValueError.

        CHUNK samples at a time, unless train_flg: the original takes 7.6 GB for 10,000 images.
        """
        check_batch("x", x)
        if train_flg:
            return self._forward(x, train_flg)
        return np.concatenate([self._passing(chunk, False) for chunk in _chunks(x)])

    def outputs(self, x: Array) -> dict[str, Array]:
        """What each layer makes of the batch x in prediction, by its name, in order; layers keep nothing of it."""
        found: dict[str, Array] = {}
        for name, layer in self.layers.items():
            found[name] = x = _apply(copy.copy(layer), x, False)
        return found

    def loss(self, x: Array, t: Array, train_flg: bool = False) -> np.floating:
        """Mean loss of the batch x against t, labels (N,) or one-hot (N, C).

        Of more than KEPT_SAMPLES in chunks, of which nothing is kept: backward needs a smaller batch, or gradient. Not
        where BatchNormalization trains, which needs all samples at once.
        """
        check_pair("x", x, "t", t := np.asarray(t))
        whole = train_flg and any(isinstance(layer, BatchNormalization) for layer in self.layers.values())
        if whole or len(x) <= KEPT_SAMPLES:
            return self._batch_loss(x, t, train_flg)
        for layer in (*self.layers.values(), self.last_layer):
            forget(layer)
        last = copy.copy(self.last_layer)
        chunks = zip(_chunks(x), _chunks(t), strict=True)
        return np.float64(sum(last.forward(self._passing(xs, train_flg), ts) * len(xs) for xs, ts in chunks) / len(x))

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
        self._batch_loss(x, t, train_flg=True)
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
        self.set_params({name: found[name] for name in self.params})
        self.set_statistics(found)

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
        check_params(params, {name: value.shape for name, value in self.params.items()})
        for name, (layer, attribute) in self.owners.items():
            self.params[name] = np.array(params[name])
            setattr(self.layers[layer], attribute, self.params[name])

    def set_statistics(self, statistics: Mapping[str, Array]) -> None:
        """Take over copies of running_mean1, running_var1 and so on, as statistics has them."""
        for number, layer in enumerate(self._normalising, 1):
            for attribute in STATISTICS:
                setattr(layer, attribute, np.array(statistics[f"{attribute}{number}"]))

    def _batch_loss(self, x: Array, t: Array, train_flg: bool) -> np.floating:
        return self.last_layer.forward(self._forward(x, train_flg), t)

    def _forward(self, x: Array, train_flg: bool) -> Array:
        for layer in self.layers.values():
            x = _apply(layer, x, train_flg)
        return x

    def _passing(self, x: Array, train_flg: bool) -> Array:
        """_forward through copies of the layers, which keep what they keep for themselves."""
        for layer in self.layers.values():
            x = _apply(copy.copy(layer), x, train_flg)
        return x


def _apply(layer: Layer, x: Array, train_flg: bool) -> Array:
    return layer.forward(x, train_flg) if isinstance(layer, Dropout | BatchNormalization) else layer.forward(x)


def _chunks(x: Array) -> Iterator[Array]:
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


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


def check_params(params: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """params are float arrays of these names and shapes. TypeError, ValueError."""
    for name, value in check_mapping("params", params).items():
        if check_array(f"parameter {name}", value).dtype.kind != "f":
            raise TypeError(f"parameter {name} must be floating point, got dtype {value.dtype}")
    check_same_layout(params, shapes)
