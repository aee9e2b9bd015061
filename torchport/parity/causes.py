"""Finds the cause of a failing link. A mistake is named only if the link holds with it, in every entry.

mistakes.py lists mistakes made on results and arrays, variants.py other layers used in place of the right one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers import gradients_of, kind_of, other, parameters_of, rounded
from torchport.layers.arithmetic import Arithmetic, arithmetic_of
from torchport.layers.loss import Softmax
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity import mistakes, variants
from torchport.parity.compare import compare
from torchport.parity.mistakes import Arrays, Mistake
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
        changes = mistakes.changes(parameter, attribute, self.reference_params, image)
        candidates = ((phrase, rounded(changed, self.dtype)) for phrase, changed in changes)
        return mistakes.described(new, parameter, candidates)

    def parameter_cause(self, attribute: str) -> str:
        """A sentence on how the port's tensor nearest to a parameter differs from it; "" if none has its size."""
        parameter = self.parameters[attribute]
        readings = sorted(self.readings(parameter), key=lambda reading: float(np.linalg.norm(reading[1] - parameter)))
        return "; ".join(f"{label} {self.described(new, attribute)}" for label, new in readings[:1])

    @property
    def cause(self) -> str:
        """A sentence that names the mistake that gives the port's numbers; "" if none is found."""
        if self.dout is None and not self.predicts and np.array_equal(self.actual.ravel(), self.x.ravel()):
            return f"{self.name} is missing, or changes nothing here: its input comes out as it is"
        if self.error == 0 or (self.dout is not None and not self.same_size):
            return ""
        with np.errstate(all="ignore"):  # a mistake whose numbers overflow explains nothing
            tried = _output_mistakes(self) if self.dout is None else _gradient_mistakes(self)
            return next((mistake.sentence for mistake in tried if self.holds_with(mistake)), "")


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


def _with_each(subject: str, pairs: Iterator[tuple[str, Any]], field_name: str, base: Mistake) -> Iterator[Mistake]:
    """Yield base with each (phrase, value) of pairs: value in the named field, and the phrase as its sentence."""
    return (base._replace(sentence=f"{subject} {phrase}", **{field_name: value}) for phrase, value in pairs)


def _output_mistakes(deviation: Deviation) -> Iterator[Mistake]:
    """Yield mistakes that may explain a layer's output, the cheapest and likeliest first."""
    layer, x, u = deviation.layer, deviation.x, deviation.u
    none, expected = Mistake("", layer, x), deviation.expected
    factors = variants.factors(layer, len(x), expected)
    yield from _parameter_mistakes(deviation)
    if deviation.same_size:
        rounding = mistakes.in_place_of(expected, 4 * u)
        yield none._replace(sentence="the result is right but for roundings", step=rounding)
        yield from _function_mistakes(deviation)
        changes = mistakes.uniform_changes(deviation.value, expected, factors, u)
        yield from _with_each("the result", changes, "step", none)
    for attribute, parameter in deviation.parameters.items():
        changed = mistakes.changes(parameter, attribute, deviation.reference_params)
        twins = ((phrase, other(layer, **{attribute: rounded(array, deviation.dtype)})) for phrase, array in changed)
        yield from _with_each(f"{deviation.name}.{MODULE_ATTRIBUTES[attribute]}", twins, "layer", none)
    for kind, mistakes_of_kind in variants.LAYERS.items():
        yield from mistakes_of_kind(layer, x, not deviation.predicts) if isinstance(layer, kind) else ()
    # Normalisation undoes any scale but for eps, which would explain a small error that has nothing to do with it.
    undone = isinstance(layer, nr.BatchNormalization) and not deviation.predicts
    arrays = itertools.chain(() if undone else mistakes.scaled(x), mistakes.inputs(x))
    inputs = ((phrase, rounded(array, deviation.dtype)) for phrase, array in arrays)
    yield from _with_each("the input", inputs, "x", none)
    yield from variants.precisions(layer, x, deviation.parameters, u)
    if deviation.same_size:
        yield from _with_each("the result", mistakes.dropped(deviation.value, expected, factors, u), "step", none)


def _function_mistakes(deviation: Deviation) -> Iterator[Mistake]:
    """Yield functions in place of the layer or after it, and a bias added along another axis."""
    name, layer, x, value, expected = deviation.name, deviation.layer, deviation.x, deviation.value, deviation.expected
    plain = partial(Mistake, layer=layer, x=x)
    if isinstance(layer, nr.Relu | nr.Sigmoid | nr.Tanh | Softmax):
        for function, step in mistakes.functions(value, x, deviation.u):
            yield from _if_it_tells(deviation, plain(f"{function} in place of {name}", step=mistakes.instead(step, x)))
    for function, step in mistakes.functions(value, expected, deviation.u):
        yield from _if_it_tells(deviation, plain(f"{function} follows {name}", step=step))
    bias, axes = np.atleast_1d(getattr(layer, "b", 0.0)), range(expected.ndim)
    for axis in axes if bias.size > 1 else ():
        if axis != 1 and expected.shape[axis] == bias.size:
            wrong, right = (np.expand_dims(bias, [a for a in axes if a != kept]) for kept in (axis, 1))
            step = mistakes.in_place_of(expected - right + wrong)
            yield plain(f"the bias is added along axis {axis}, not 1", step=step)


def _if_it_tells(deviation: Deviation, mistake: Mistake) -> Iterator[Mistake]:
    """Yield mistake if the link holds with it, and not as well without it: elu changes no number of a sigmoid's."""
    expected = deviation.expected
    if deviation.holds_with(mistake) and not np.array_equal(mistake.step(expected, expected), expected):
        yield mistake


def _parameter_mistakes(deviation: Deviation) -> Iterator[Mistake]:
    """Yield choices of the port's tensors as the layer's parameters, other than the right ones, that hold."""
    layer, parameters = deviation.layer, deviation.parameters
    choices = [[("", parameter), *deviation.readings(parameter)] for parameter in parameters.values()]
    for choice in itertools.islice(itertools.product(*choices), 1, None):
        new_params = dict(zip(parameters, (new for _, new in choice), strict=True))
        mistake = Mistake("", other(layer, **new_params), deviation.x)
        if deviation.holds_with(mistake):
            phrases = []
            for attribute, (label, new) in zip(parameters, choice, strict=True):
                phrases += [f"{label} {deviation.described(new, attribute)}"] if label else []
            yield mistake._replace(sentence="; ".join(phrases))


def _gradient_mistakes(deviation: Deviation) -> Iterator[Mistake]:
    """Yield mistakes that may explain a gradient, the cheapest and likeliest first."""
    layer, x, dout, u = deviation.layer, deviation.x, deviation.dout, deviation.u
    value, expected, parameters = deviation.value, deviation.expected, deviation.parameters
    assert dout is not None
    none, of_input = Mistake("", layer, x, dout), deviation.quantity == "grad_input"
    factors = variants.factors(layer, len(x), dout)
    yield none._replace(sentence="the gradient is right but for roundings", step=mistakes.in_place_of(expected, 4 * u))
    yield from _with_each("the gradient", mistakes.uniform_changes(value, expected, factors, u), "step", none)
    yield from _with_each("the gradient goes through", mistakes.piecewise_functions(value, expected, u), "step", none)
    if of_input:
        arrays = variants.slopes(layer, x, dout)
    else:
        arrays = _parameter_gradients(parameters[deviation.quantity], value, expected)
    allowed = 0 if isinstance(layer, nr.Relu) else 4 * u
    steps = ((phrase, mistakes.in_place_of(array, allowed)) for phrase, array in arrays)
    yield from _with_each("the gradient", steps, "step", none)
    yield from _with_each("the upstream gradient", variants.parts(dout), "dout", none)
    if deviation.quantity == "W":
        yield from _with_each("in the gradient, the input", mistakes.of_batch(x), "x", none)
    else:
        yield from _with_each("the upstream gradient", mistakes.of_batch(dout), "dout", none)
    if of_input and "W" in parameters:
        twins = ((phrase, other(layer, W=array)) for phrase, array in mistakes.changes(parameters["W"], "W", {}))
        yield from _with_each(f"in the gradient, {deviation.name}.weight", twins, "layer", none)
    yield from _with_each("the gradient", mistakes.dropped(value, expected, factors, u), "step", none)


def _parameter_gradients(parameter: Array, value: Array, expected: Array) -> Arrays:
    """Yield what may be in place of a parameter's gradient: weight decay added, and other arrangements of it."""
    decay = np.vdot(parameter, value - expected) / np.vdot(parameter, parameter)
    # First a number as people write it: where a sum has no terms, not even the fit's rounding is allowed.
    for factor in (float(f"{decay:.3g}"), decay):
        yield f"has {factor:.6g} times the parameter added: weight decay", expected + factor * parameter
    yield from mistakes.of_parameter(expected)
