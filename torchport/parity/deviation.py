"""Deviation, a quantity of one link outside its limits, with what is needed to find its cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers import gradients_of, kind_of, other, parameters_of, rounded
from torchport.layers.arithmetic import Arithmetic, arithmetic_of
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity import arrays
from torchport.parity.compare import compare
from torchport.parity.mistakes import Mistake
from torchport.parity.stages import Stage, apply

SAMPLES = 2  # samples on which a mistake is tried before all of them
BY_BATCH = nr.Dropout | nr.BatchNormalization  # layers that cannot be tried on a part of the batch


@dataclass
class Deviation:
    """An output or gradient outside its limits at one link, and its operands, all in the reference's layout."""

    name: str
    layer: Any  # for a gradient, one that repeats what the port drew
    x: Array  # (N, ...), the port's own input
    actual: Array
    a: Arithmetic
    limit: Array | float | None = None  # None: the layer's rule gives it for each mistake
    quantity: str = "output"  # or grad_input, W, b, gamma, beta
    dout: Array | None = None
    predicting: bool = False
    port_tensors: Mapping[str, Array] = field(default_factory=dict)  # what the port's calls take besides x, by label
    reference_params: Mapping[str, Array] = field(default_factory=dict)  # of all layers, by stage and torch's name

    def __post_init__(self) -> None:
        if self.dout is None:
            self.layer = _repeating_draw(self.layer, self.x, self.actual)
        self.predicts = self.predicting and kind_of(self.layer).prediction is not None
        self.expected = self.compute(self.layer, self.x, self.dout)
        by_sample = self.quantity in ("output", "grad_input") and not isinstance(self.layer, BY_BATCH)
        self.few_samples = min(SAMPLES, len(self.x)) if by_sample else len(self.x)
        self.same_size = self.actual.size == self.expected.size
        self.error = np.abs(self.value - self.expected).max() if self.same_size else np.inf
        self.parameters = {name: np.atleast_1d(value) for name, value in parameters_of(self.layer).items()}
        douts = () if self.dout is None else (self.dout,)
        self.dtype = _held_dtype(self.x, self.actual, *douts, *self.parameters.values())
        self.u = arithmetic_of(self.dtype).u

    @property
    def value(self) -> Array:
        """actual in the shape of expected."""
        return self.actual.reshape(self.expected.shape)

    def compute(self, layer: Any, x: Array, dout: Array | None) -> Array:
        """The deviation's quantity, computed with this layer, input and upstream gradient."""
        twin = other(layer)
        y = twin.forward(x, train_flg=False) if self.predicts else twin.forward(x)
        return np.asarray(y if dout is None else gradients_of(twin, dout)[self.quantity])

    def fits(self, value: Array, layer: Any, x: Array, expected: Array) -> bool:
        """Whether value lies within the limits of expected, which layer makes of x."""
        if self.limit is not None:
            return compare(value.reshape(expected.shape), expected, self.limit).ratio <= 1
        try:
            applied = apply(Stage("", layer), x, self.a, actual=value, predicting=self.predicting)
            return applied.difference(value).ratio <= 1
        except (ValueError, IndexError):  # the layer with the mistake does not take x
            return False

    def holds_with(self, m: Mistake) -> bool:
        """Whether the link holds with mistake m, and with at most half the error; tried on few samples, then on all."""
        for n in sorted({self.few_samples, len(m.x)}):
            try:
                expected = self.compute(m.layer, m.x[:n], None if m.dout is None else m.dout[:n])
                shape = (len(m.x), *expected.shape[1:]) if n < len(m.x) else expected.shape
                value = m.step(self.actual.reshape(shape)[: len(expected)], expected)
                if not np.abs(value.reshape(expected.shape) - expected).max() <= self.error / 2:  # also if it is NaN
                    return False
            except (ValueError, IndexError):  # the mistake gives other shapes than the port
                return False
            has_limit = m.dout is None or n == len(m.x)  # limits of gradients are those of all samples
            if has_limit and not self.fits(value, m.layer, m.x[:n], expected):
                return False
        return True

    def readings(self, parameter: Array) -> Iterator[tuple[str, Array]]:
        """Yield (label, array): the port's tensors in the shape of parameter, unless equal to it.

        For a vector, a tensor of fewer numbers is repeated, as one number for each channel.
        """
        for label, tensor in self.port_tensors.items():
            is_shared = parameter.ndim == 1 and tensor.size and parameter.size % tensor.size == 0
            for array in (tensor.T, tensor) if tensor.size == parameter.size or is_shared else ():
                new = np.repeat(array, parameter.size // tensor.size).reshape(parameter.shape)
                if not np.array_equal(new, parameter):
                    yield label, new

    def described(self, new: Array, attribute: str) -> str:
        """How new, a tensor of the port, differs from a parameter, in words."""
        image = self.x.shape[1:] if isinstance(self.layer, nr.Affine) and self.x.ndim == 4 else ()
        parameter = self.parameters[attribute]
        changes = arrays.changes(parameter, attribute, self.reference_params, image)
        candidates = ((phrase, rounded(changed, self.dtype)) for phrase, changed in changes)
        phrase = arrays.described(new, parameter, candidates)
        is_another = phrase.removeprefix("is ") in self.reference_params
        return phrase + f", in place of {self.name}.{MODULE_ATTRIBUTES[attribute]}" * is_another

    def parameter_cause(self, attribute: str) -> str:
        """A sentence on how the port's tensor nearest to a parameter differs from it; "" if none has its size."""
        parameter = self.parameters[attribute]
        readings = sorted(self.readings(parameter), key=lambda reading: float(np.linalg.norm(reading[1] - parameter)))
        return "; ".join(f"{label} {self.described(new, attribute)}" for label, new in readings[:1])


def _repeating_draw(layer: Any, x: Array, actual: Array) -> Any:
    """The layer; one that draws random numbers as a copy that repeats what the port drew to make actual of x."""
    repeat = kind_of(layer).repeat
    try:
        return layer if repeat is None or actual.size != x.size else repeat(layer, x, *2 * (actual.reshape(x.shape),))
    except ValueError:  # it cannot have drawn that
        return layer


def _held_dtype(*arrays: Array) -> torch.dtype:
    """The port's dtype: float32 if it holds all these numbers exactly, else float64."""
    is_single = all(np.array_equal(rounded(array, torch.float32), array) for array in arrays)
    return torch.float32 if is_single else torch.float64
