"""Network: named layers and a loss, the interface that all the book's networks share (chapter 5)."""

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

# Attributes of a layer that are trained, in the book's order.
PARAMETERS = ("W", "b", "gamma", "beta")

# Attributes of a BatchNormalization that are not trained, but used in prediction.
STATISTICS = ("running_mean", "running_var")

# Samples that go through the layers at a time: the im2col matrix of a whole test set would take gigabytes.
CHUNK = 100

# loss keeps what backward needs for up to this many samples; the original does so for any number.
KEPT_SAMPLES = 500


class Layers(dict[str, Layer]):
    """Layers in order, by name or position: the book's SimpleConvNet has a dict of them, its DeepConvNet a list."""

    def __getitem__(self, key: str | int) -> Any:
        return super().__getitem__(list(self)[key] if isinstance(key, int) else key)


class Network:
    """A network of named layers and a loss, with the book's interface.

    params holds the layers' own arrays: W1, b1 for the first layer that has them, W2, b2 for the second, gamma1, beta1
    for the first BatchNormalization and so on. Update them in place, or replace them with load_params. owners maps each
    parameter's name to its (layer name, attribute).
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
        """Return the outputs before the softmax, (N, C), for x (N, ...). ValueError.

        Unless train_flg is set, CHUNK samples go through the layers at a time (the original takes 7.6 GB for 10,000
        images), and the layers keep nothing for backward.
        """
        check_batch("x", x)
        if train_flg:
            return self._forward(x, train_flg)
        return np.concatenate([self._forward_copies(chunk, False) for chunk in _chunks(x)])

    def outputs(self, x: Array) -> dict[str, Array]:
        """Return each layer's output for the batch x in prediction, by name in order; layers keep nothing."""
        outputs: dict[str, Array] = {}
        for name, layer in self.layers.items():
            outputs[name] = x = _apply(copy.copy(layer), x, False)
        return outputs

    def loss(self, x: Array, t: Array, train_flg: bool = False) -> np.floating:
        """Return the mean loss of the batch x against t, labels (N,) or one-hot (N, C).

        More than KEPT_SAMPLES are computed in chunks, of which nothing is kept for backward (gradient keeps it for any
        number). The exception is a BatchNormalization in training, which needs all samples at once.
        """
        check_pair("x", x, "t", t := np.asarray(t))
        needs_whole_batch = train_flg and any(isinstance(each, BatchNormalization) for each in self.layers.values())
        if needs_whole_batch or len(x) <= KEPT_SAMPLES:
            return self._batch_loss(x, t, train_flg)
        for layer in (*self.layers.values(), self.last_layer):
            forget(layer)
        last = copy.copy(self.last_layer)
        chunks = zip(_chunks(x), _chunks(t), strict=True)
        losses = (last.forward(self._forward_copies(xs, train_flg), ts) * len(xs) for xs, ts in chunks)
        return np.float64(sum(losses) / len(x))

    def accuracy(self, x: Array, t: Array, batch_size: int = 100) -> float:
        """Return the share of samples that predict gets right, 0 to 1; the original drops a last partial batch.

        ValueError if x and t differ in length.
        """
        check_int("batch_size", batch_size, 1)
        check_pair("x", x, "t", t)
        right = 0
        for i in range(0, len(x), batch_size):
            y = self.predict(x[i : i + batch_size])
            right += int(np.sum(y.argmax(axis=1) == class_labels(t[i : i + batch_size], y.shape)))
        return right / len(x)

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return the gradient of the loss in every parameter, by name, computed by backpropagation."""
        self._batch_loss(x, t, train_flg=True)
        dout = self.last_layer.backward()
        for layer in reversed(self.layers.values()):
            dout = layer.backward(dout)
        return {name: getattr(self.layers[layer], f"d{attr}") for name, (layer, attr) in self.owners.items()}

    def numerical_gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return the same by central differences: two losses for each single number, so only for small networks."""
        return {
            name: numerical_gradient(lambda _: self.loss(x, t, train_flg=True), param)
            for name, param in self.params.items()
        }

    def save_params(self, file_name: str | Path = "params.pkl") -> None:
        """Write params as a pickle that the book's code can read; the file is replaced whole or not at all.

        It also holds the running statistics, which the original loses, as running_mean1, running_var1 and so on.
        """
        write_params({**self.params, **self.statistics}, file_name)

    def load_params(self, file_name: str | Path = "params.pkl") -> None:
        """Load parameters and running statistics from file_name, all or nothing. ParamsError, ValueError.

        The file is never unpickled; the original unpickles, and so executes, whatever it is given.
        """
        arrays, statistics = read_params(file_name), self.statistics
        check_same_layout(arrays, {name: value.shape for name, value in {**self.params, **statistics}.items()})
        self.set_params({name: arrays[name] for name in self.params})
        self.set_statistics(arrays)

    @property
    def statistics(self) -> dict[str, Array]:
        """Copies of the running statistics: running_mean1, running_var1 for the first BatchNormalization and so on."""
        layers = enumerate(self._normalisations, 1)
        return {f"{name}{number}": value for number, layer in layers for name, value in layer_statistics(layer).items()}

    @property
    def _normalisations(self) -> list[Layer]:
        return [layer for layer in self.layers.values() if isinstance(layer, BatchNormalization)]

    def set_params(self, params: Mapping[str, Array]) -> None:
        """Replace params by copies of float arrays with the same names and shapes. ValueError, TypeError."""
        check_params(params, {name: value.shape for name, value in self.params.items()})
        for name, (layer, attribute) in self.owners.items():
            self.params[name] = np.array(params[name])
            setattr(self.layers[layer], attribute, self.params[name])

    def set_statistics(self, statistics: Mapping[str, Array]) -> None:
        """Replace the running statistics by copies of running_mean1, running_var1 and so on."""
        for number, layer in enumerate(self._normalisations, 1):
            for attribute in STATISTICS:
                setattr(layer, attribute, np.array(statistics[f"{attribute}{number}"]))

    def _batch_loss(self, x: Array, t: Array, train_flg: bool) -> np.floating:
        return self.last_layer.forward(self._forward(x, train_flg), t)

    def _forward(self, x: Array, train_flg: bool) -> Array:
        for layer in self.layers.values():
            x = _apply(layer, x, train_flg)
        return x

    def _forward_copies(self, x: Array, train_flg: bool) -> Array:
        """Like _forward, through copies of the layers, so that these keep nothing."""
        for layer in self.layers.values():
            x = _apply(copy.copy(layer), x, train_flg)
        return x


def _apply(layer: Layer, x: Array, train_flg: bool) -> Array:
    return layer.forward(x, train_flg) if isinstance(layer, Dropout | BatchNormalization) else layer.forward(x)


def _chunks(x: Array) -> Iterator[Array]:
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


def _number_parameters(layers: Mapping[str, Layer]) -> dict[str, tuple[str, str]]:
    """Map parameter names to (layer name, attribute): the k-th W is called W<k>, the k-th gamma gamma<k>."""
    owners: dict[str, tuple[str, str]] = {}
    for layer_name, layer in layers.items():
        for attribute in PARAMETERS:
            if hasattr(layer, attribute):
                number = 1 + sum(attr == attribute for _, attr in owners.values())
                owners[f"{attribute}{number}"] = (layer_name, attribute)
    return owners


def layer_statistics(layer: Layer) -> dict[str, Array]:
    """Return running_mean and running_var (D,) of a BatchNormalization, zeros before its first batch; else nothing."""
    if not isinstance(layer, BatchNormalization):
        return {}
    gamma = np.asarray(layer.gamma)
    statistics = {name: getattr(layer, name) for name in STATISTICS}
    # In the parameters' dtype, as in torch: after a batch of another dtype the reference's statistics have that one.
    return {
        name: np.array(np.broadcast_to(0 if value is None else value, gamma.shape), gamma.dtype)
        for name, value in statistics.items()
    }


def check_same_layout(params: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that params have exactly the expected names and shapes. ValueError lists the differences."""
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
    """Check that params are float arrays with these names and shapes. TypeError, ValueError."""
    for name, value in check_mapping("params", params).items():
        if check_array(f"parameter {name}", value).dtype.kind != "f":
            raise TypeError(f"parameter {name} must be floating point, got dtype {value.dtype}")
    check_same_layout(params, shapes)
