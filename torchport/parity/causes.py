"""What a porter did wrong at a link that fails. A mistake is named only if with it the link holds, in every entry.

mistakes.py has what people do to results and to arrays, variants.py the layers that they have in others' places.
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

SAMPLES = 2  # which are tried before all
BY_BATCH = nr.Dropout | nr.BatchNormalization  # samples cannot be taken apart


@dataclass
class Deviation:
    """What lies outside its limits at a link: its output, or a gradient, all in the reference's layout."""

    name: str
    layer: Any  # for a gradient one that draws what the port drew
    x: Array  # (N, ...) as the port had it
    actual: Array
    a: Arithmetic
    limit: Array | float | None = None  # where it is the same with any mistake; else the layer's own
    quantity: str = "output"  # or grad_input, W, b, gamma, beta
    dout: Array | None = None
    predicting: bool = False  # judged by what it predicts, where that is another operation
    params: Mapping[str, Array] = field(default_factory=dict)  # what the port's calls take, by label
    others: Mapping[str, Array] = field(default_factory=dict)  # all parameters of the reference

    def __post_init__(self) -> None:
        if self.dout is None:
            self.layer = _as_drawn(self.layer, self.x, self.actual)
        self.predicts = self.predicting and kind_of(self.layer).prediction is not None
        self.made = self.make(self.layer, self.x, self.dout)
        by_sample = self.quantity in ("output", "grad_input") and not isinstance(self.layer, BY_BATCH)
        self.few = min(SAMPLES, len(self.x)) if by_sample else len(self.x)
        self.same_size = self.actual.size == self.made.size
        self.error = np.abs(self.value - self.made).max() if self.same_size else np.inf
        self.own = {name: np.atleast_1d(value) for name, value in parameters_of(self.layer).items()}
        self.dtype = _dtype(self.x, self.actual, *(() if self.dout is None else (self.dout,)), *self.own.values())
        self.u = arithmetic_of(self.dtype).u

    @property
    def value(self) -> Array:
        """actual in the shape of what should be."""
        return self.actual.reshape(self.made.shape)

    def make(self, layer: Any, x: Array, dout: Array | None) -> Array:
        """The quantity, of another layer, input or upstream gradient."""
        own = other(layer)
        made = own.forward(x, train_flg=False) if self.predicts else own.forward(x)
        return np.asarray(made if dout is None else gradients_of(own, dout)[self.quantity])

    def fits(self, value: Array, layer: Any, x: Array, made: Array) -> bool:
        """Whether value lies within the limits of what layer makes of x, which is made."""
        if self.limit is not None:
            return compare(value.reshape(made.shape), made, self.limit).ratio <= 1
        try:
            found = apply(Stage("", layer), x, self.a, actual=value, predicting=self.predicting)
            return compare(value.reshape(found.y.shape), found.y, found.limit, found.entry_limit).ratio <= 1
        except (ValueError, IndexError):  # with the mistake, the layer does not take it
            return False

    def holds_with(self, m: Mistake) -> bool:
        """Whether the link holds with the mistake, and errs by less than half: on few samples, and then on all."""
        for n in sorted({self.few, len(m.x)}):
            try:
                made = self.make(m.layer, m.x[:n], None if m.dout is None else m.dout[:n])
                shape = (len(m.x), *made.shape[1:]) if n < len(m.x) else made.shape
                value = m.step(self.actual.reshape(shape)[: len(made)], made)
                if not np.abs(value.reshape(made.shape) - made).max() <= self.error / 2:  # of NaN: not
                    return False
            except (ValueError, IndexError):  # the mistake's shapes are not the port's
                return False
            if (m.dout is None or n == len(m.x)) and not self.fits(value, m.layer, m.x[:n], made):
                return False  # limits of gradients are those of all samples
        return True

    @property
    def cause(self) -> str:
        """The mistake that makes the port's numbers, in a sentence; "" where none of these does."""
        if self.dout is None and not self.predicts and np.array_equal(self.actual.ravel(), self.x.ravel()):
            return f"{self.name} is missing: its input comes out as it is"
        if self.error == 0 or (self.dout is not None and not self.same_size):
            return ""
        with np.errstate(all="ignore"):  # what overflows explains nothing
            tried = _of_output(self) if self.dout is None else _of_gradient(self)
            return next((mistake.sentence for mistake in tried if self.holds_with(mistake)), "")


def _as_drawn(layer: Any, x: Array, actual: Array) -> Any:
    """The layer, drawing what the port drew, where it draws."""
    repeat = kind_of(layer).repeat
    try:
        return layer if repeat is None or actual.size != x.size else repeat(layer, x, *2 * (actual.reshape(x.shape),))
    except ValueError:  # it could not have drawn that
        return layer


def _dtype(*held: Array) -> torch.dtype:
    """The port's: the narrower of float32 and float64 that holds all these numbers."""
    return torch.float32 if all(np.array_equal(rounded(each, torch.float32), each) for each in held) else torch.float64


def _each(subject: str, pairs: Iterator[tuple[str, Any]], name: str, of: Mistake) -> Iterator[Mistake]:
    """The mistake with each of several layers, inputs, upstream gradients or steps, by the name of the field."""
    return (of._replace(sentence=f"{subject} {phrase}", **{name: each}) for phrase, each in pairs)


def _of_output(it: Deviation) -> Iterator[Mistake]:
    """What may have become of a layer's output: cheapest and likeliest first."""
    layer, x, none = it.layer, it.x, Mistake("", it.layer, it.x)
    factors = variants.factors(layer, len(x), it.made)
    yield from _given(it)
    if it.same_size:
        rounding = mistakes.in_place_of(it.made, 4 * it.u)
        yield none._replace(sentence="the result is right but for roundings", step=rounding)
        yield from _steps(it)
        yield from _each("the result", mistakes.uniform_changes(it.value, it.made, factors, it.u), "step", none)
    for attribute, parameter in it.own.items():
        changed = mistakes.changes(parameter, attribute, it.others)
        twins = ((phrase, other(layer, **{attribute: rounded(array, it.dtype)})) for phrase, array in changed)
        yield from _each(f"{it.name}.{MODULE_ATTRIBUTES[attribute]}", twins, "layer", none)
    inputs = ((phrase, rounded(array, it.dtype)) for phrase, array in mistakes.inputs(x))
    yield from _each("the input", inputs, "x", none)
    for kind, of_kind in variants.LAYERS.items():
        yield from of_kind(layer, x, not it.predicts) if isinstance(layer, kind) else ()
    yield from variants.precisions(layer, x, it.own, it.u)
    if it.same_size:
        yield from _each("the result", mistakes.dropped(it.value, it.made, factors, it.u), "step", none)


def _steps(it: Deviation) -> Iterator[Mistake]:
    """A function behind the layer, one in its place, a bias that is added elsewhere."""
    plain = partial(Mistake, layer=it.layer, x=it.x)
    if isinstance(it.layer, nr.Relu | nr.Sigmoid | nr.Tanh | Softmax):
        for name, step in mistakes.functions(it.value, it.x, it.u):
            yield plain(f"{name} in place of {it.name}", step=mistakes.instead(step, it.x))
    yield from (
        plain(f"{name} follows {it.name}", step=step) for name, step in mistakes.functions(it.value, it.made, it.u)
    )
    bias, axes = np.atleast_1d(getattr(it.layer, "b", 0.0)), range(it.made.ndim)
    for axis in axes if bias.size > 1 else ():
        if axis != 1 and it.made.shape[axis] == bias.size:
            wrong, right = (np.expand_dims(bias, [each for each in axes if each != place]) for place in (axis, 1))
            yield plain(
                f"the bias is added along axis {axis}, not 1", step=mistakes.in_place_of(it.made - right + wrong)
            )


def _given(it: Deviation) -> Iterator[Mistake]:
    """What the port's calls take for parameters, where with these, which are not the reference's, the link holds."""
    image = it.x.shape[1:] if isinstance(it.layer, nr.Affine) and it.x.ndim == 4 else ()
    choices = [
        [("", parameter), *((label, new) for label, tensor in it.params.items() for new in _read(tensor, parameter))]
        for parameter in it.own.values()
    ]
    for chosen in itertools.islice(itertools.product(*choices), 1, None):
        taken = list(zip(it.own, chosen, strict=True))
        mistake = Mistake("", other(it.layer, **{attribute: new for attribute, (_, new) in taken}), it.x)
        if it.holds_with(mistake):
            phrases = []
            for attribute, (label, new) in taken:
                known = mistakes.changes(it.own[attribute], attribute, it.others, image)
                known = ((phrase, rounded(changed, it.dtype)) for phrase, changed in known)
                phrases += [f"{label} {mistakes.described(new, it.own[attribute], known)}"] if label else []
            yield mistake._replace(sentence="; ".join(phrases))


def _read(tensor: Array, parameter: Array) -> Iterator[Array]:
    """Ways to read a tensor as a parameter, of numbers other than its own; of fewer, as one number a channel."""
    if tensor.size == parameter.size or (parameter.ndim == 1 and tensor.size and parameter.size % tensor.size == 0):
        for each in (tensor.T, tensor):
            new = np.repeat(each, parameter.size // tensor.size).reshape(parameter.shape)
            if not np.array_equal(new, parameter):
                yield new


def _of_gradient(it: Deviation) -> Iterator[Mistake]:
    """What may have become of a gradient: cheapest and likeliest first."""
    layer, x, dout, value, made, u = it.layer, it.x, it.dout, it.value, it.made, it.u
    assert dout is not None
    none, of_input = Mistake("", layer, x, dout), it.quantity == "grad_input"
    factors = variants.factors(layer, len(x), dout)
    yield none._replace(sentence="the gradient is right but for roundings", step=mistakes.in_place_of(made, 4 * u))
    yield from _each("the gradient", mistakes.uniform_changes(value, made, factors, u), "step", none)
    yield from _each("the gradient goes through", mistakes.piecewise_functions(value, made, u), "step", none)
    arrays = variants.slopes(layer, x, dout) if of_input else _of_parameter(it.own[it.quantity], value, made)
    allowed = 0 if isinstance(layer, nr.Relu) else 4 * u
    yield from _each(
        "the gradient", ((phrase, mistakes.in_place_of(array, allowed)) for phrase, array in arrays), "step", none
    )
    yield from _each("the upstream gradient", variants.parts(dout), "dout", none)
    if it.quantity == "W":
        yield from _each("in the gradient, the input", mistakes.of_batch(x), "x", none)
    else:
        yield from _each("the upstream gradient", mistakes.of_batch(dout), "dout", none)
    if of_input and "W" in it.own:
        twins = ((phrase, other(layer, W=array)) for phrase, array in mistakes.changes(it.own["W"], "W", {}))
        yield from _each(f"in the gradient, {it.name}.weight", twins, "layer", none)
    yield from _each("the gradient", mistakes.dropped(value, made, factors, u), "step", none)


def _of_parameter(parameter: Array, value: Array, made: Array) -> Arrays:
    decay = np.vdot(parameter, value - made) / np.vdot(parameter, parameter)
    yield f"has {decay:.6g} times the parameter added: weight decay", made + decay * parameter
    yield from mistakes.of_parameter(made)
