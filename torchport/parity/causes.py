"""What a porter did wrong at a link that fails. A mistake is named only if with it the link holds, in every entry.

mistakes.py has what people do to results and to arrays, variants.py the layers that they have in others' places.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport.layers import kind_of
from torchport.layers.arithmetic import arithmetic_of, rounded
from torchport.layers.loss import Softmax
from torchport.parity import mistakes, variants
from torchport.parity.mistakes import Mistake
from torchport.parity.variants import other

SAMPLES = 2  # which are tried before all
BY_BATCH = nr.Dropout | nr.BatchNormalization  # samples cannot be taken apart, and prediction is another operation


class Fault(NamedTuple):
    """A link whose output lies outside its limits: x (N, ...) as the port had it, and what it made of it."""

    name: str
    layer: Layer
    x: Array
    actual: Array
    fits: Callable[[Array, Layer, Array], bool]  # (value, layer, x): whether value lies within layer's limits at x
    params: Mapping[str, Array]  # what the port's calls take, by label
    others: Mapping[str, Array]  # all parameters of the reference, in its layout


class GradientFault(NamedTuple):
    """A link whose gradient lies outside its limits: quantity is grad_input, W, b, gamma or beta."""

    name: str
    layer: Layer
    x: Array
    dout: Array
    quantity: str
    actual: Array | None  # in the reference's layout; None where there is no gradient
    fits: Callable[[Array, Array], bool]  # (value, expected): whether value lies within the limits around expected


class _Trial(NamedTuple):
    """How a mistake is tried on a link whose value is actual: on few samples, and then on all."""

    actual: Array
    make: Callable[[Any, Array, Any], Array]  # (layer, x, dout) -> what is compared
    fits: Callable[[Mistake, Array, Array], bool]  # (mistake, value, what is made with it)
    few: int
    error: float  # the largest, without a mistake

    def explains(self, m: Mistake) -> bool:
        """Whether the link holds with the mistake, and errs by less than half."""
        for n in sorted({min(self.few, len(m.x)), len(m.x)}):
            try:
                made = self.make(m.layer, m.x[:n], None if m.dout is None else m.dout[:n])
                shape = (len(m.x), *made.shape[1:]) if n < len(m.x) else made.shape
                value = m.step(self.actual.reshape(shape)[: len(made)], made)
            except (ValueError, IndexError):  # the mistake's shapes are not the port's
                return False
            if not (_error(value, made) <= self.error / 2 and self.fits(m, value, made)):  # of NaN: not
                return False
        return True

    def cause(self, tried: Iterator[Mistake]) -> str:
        """The sentence of the first mistake that explains the link's value, or nothing."""
        with np.errstate(all="ignore"):  # what overflows explains nothing
            return next((mistake.sentence for mistake in tried if self.explains(mistake)), "")


def forward_cause(fault: Fault) -> str:
    """The mistake that makes the port's output of a link, in a sentence; "" where none of these does."""
    layer, x, actual = _as_drawn(fault.layer, fault.x, fault.actual), fault.x, fault.actual
    by_batch, predict = isinstance(layer, BY_BATCH), partial(_forward, train_flg=False)
    training = not (by_batch and fault.fits(predict(layer, x), layer, x))
    if training and np.array_equal(actual.ravel(), x.ravel()):
        return f"{fault.name} is missing: its input comes out as it is"
    make = _forward if training else predict
    made, few = make(layer, x), len(x) if by_batch else SAMPLES

    def fits(m: Mistake, value: Array, _: Array) -> bool:
        return fault.fits(value, m.layer, m.x[: len(value)])

    trial = _Trial(actual, make, fits, few, _error(actual, made))
    return trial.cause(_of_output(fault._replace(layer=layer), made, training, trial))


def gradient_cause(fault: GradientFault) -> str:
    """The mistake that makes the port's gradient of a link, in a sentence; "" where none of these does."""
    if (actual := fault.actual) is None:
        return "there is no gradient: something is detached, or made under no_grad"
    layer, x, make = _as_drawn(fault.layer, fault.x, actual), fault.x, partial(_backward, fault.quantity)
    by_sample = fault.quantity == "grad_input" and not isinstance(layer, BY_BATCH)
    made, few = make(layer, x, fault.dout), SAMPLES if by_sample else len(x)
    if actual.size != made.size:
        return ""

    def fits(_: Mistake, value: Array, expected: Array) -> bool:
        return value.size < made.size or fault.fits(value, expected)  # the limits are those of all samples

    trial = _Trial(actual, make, fits, few, _error(actual, made))
    return trial.cause(_of_gradient(fault._replace(layer=layer), actual.reshape(made.shape), made))


def _error(value: Array, made: Array) -> float:
    return float(np.abs(value.reshape(made.shape) - made).max()) if value.size == made.size else math.inf


def _forward(layer: Any, x: Array, _: Any = None, **flags: bool) -> Array:
    return np.asarray(other(layer).forward(x, **flags))


def _ran(layer: Any, x: Array) -> Any:
    """A copy of the layer, after its forward."""
    own = other(layer)
    own.forward(x)
    return own


def _backward(quantity: str, layer: Any, x: Array, dout: Array) -> Array:
    own = _ran(layer, x)
    grad_input = own.backward(dout)
    return np.asarray(grad_input if quantity == "grad_input" else getattr(own, f"d{quantity}"))


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


def _of_output(fault: Fault, made: Array, training: bool, trial: _Trial) -> Iterator[Mistake]:
    """What may have become of a layer's output: cheapest and likeliest first."""
    name, layer, x, value, *_ = fault
    own, none, same_size = variants.parameters(layer), Mistake("", layer, x), value.size == made.size
    u, factors = arithmetic_of(dtype := _dtype(x, value, *own.values())).u, variants.factors(layer, len(x), made)
    yield from _given(fault, own, dtype, trial)
    if same_size:
        value = value.reshape(made.shape)
        yield from _steps(fault, value, made, u)
        yield from _each("the result", mistakes.alike(value, made, factors, u), "step", none)
    for attribute, parameter in own.items():
        changed = mistakes.changes(parameter, attribute, fault.others)
        twins = ((phrase, other(layer, **{attribute: rounded(array, dtype)})) for phrase, array in changed)
        yield from _each(f"{name}.{mistakes.LABELS[attribute]}", twins, "layer", none)
    yield from _each("the input", ((phrase, rounded(array, dtype)) for phrase, array in mistakes.inputs(x)), "x", none)
    for kind, of_kind in variants.LAYERS.items():
        yield from of_kind(layer, x, training) if isinstance(layer, kind) else ()
    yield from variants.precisions(layer, x, own, u)
    if same_size:
        yield from _each("the result", mistakes.dropped(value, made, factors, u), "step", none)


def _steps(fault: Fault, value: Array, made: Array, u: float) -> Iterator[Mistake]:
    """A function behind the layer, one in its place, a bias that is added elsewhere."""
    name, layer, x, *_ = fault
    plain = partial(Mistake, layer=layer, x=x)
    if isinstance(layer, nr.Relu | nr.Sigmoid | nr.Tanh | Softmax):
        for function, step in mistakes.functions(value, x, u):
            yield plain(f"{function} in place of {name}", step=mistakes.instead(step, x))
    yield from (plain(f"{function} follows {name}", step=step) for function, step in mistakes.functions(value, made, u))
    bias, axes = np.atleast_1d(getattr(layer, "b", 0.0)), range(made.ndim)
    for axis in axes if bias.size > 1 else ():
        if axis != 1 and made.shape[axis] == bias.size:
            wrong, right = (np.expand_dims(bias, [each for each in axes if each != place]) for place in (axis, 1))
            step = mistakes.in_place(made - right + wrong)
            yield plain(f"the bias is added along axis {axis}, not 1", step=step)


def _given(fault: Fault, own: Mapping[str, Array], dtype: torch.dtype, trial: _Trial) -> Iterator[Mistake]:
    """What the port's calls take for parameters, where with these, which are not the reference's, the link holds."""
    image = fault.x.shape[1:] if isinstance(fault.layer, nr.Affine) and fault.x.ndim == 4 else ()
    choices = [
        [("", parameter), *((label, new) for label, tensor in fault.params.items() for new in _read(tensor, parameter))]
        for parameter in own.values()
    ]
    for chosen in itertools.islice(itertools.product(*choices), 1, None):
        taken = list(zip(own, chosen, strict=True))
        mistake = Mistake("", other(fault.layer, **{attribute: new for attribute, (_, new) in taken}), fault.x)
        if trial.explains(mistake):
            phrases = []
            for attribute, (label, new) in taken:
                known = mistakes.changes(own[attribute], attribute, fault.others, image)
                known = ((phrase, rounded(changed, dtype)) for phrase, changed in known)
                phrases += [f"{label} {mistakes.described(new, own[attribute], known)}"] if label else []
            yield mistake._replace(sentence="; ".join(phrases))


def _read(tensor: Array, parameter: Array) -> Iterator[Array]:
    """Ways to read a tensor as a parameter, of numbers other than its own; of fewer, as one number a channel."""
    if tensor.size == parameter.size or (parameter.ndim == 1 and tensor.size and parameter.size % tensor.size == 0):
        for each in (tensor.T, tensor):
            new = np.repeat(each, parameter.size // tensor.size).reshape(parameter.shape)
            if not np.array_equal(new, parameter):
                yield new


def _of_gradient(fault: GradientFault, value: Array, made: Array) -> Iterator[Mistake]:
    """What may have become of a gradient: cheapest and likeliest first."""
    name, layer, x, dout, quantity, *_ = fault
    own, none, of_input = variants.parameters(layer), Mistake("", layer, x, dout), quantity == "grad_input"
    u, factors = arithmetic_of(_dtype(x, dout, value, *own.values())).u, variants.factors(layer, len(x), dout)
    yield from _each("the gradient", mistakes.alike(value, made, factors, u), "step", none)
    yield from _each("the gradient goes through", mistakes.bends(value, made, u), "step", none)
    arrays = _of_input(layer, x, dout) if of_input else _of_parameter(own[quantity], value, made)
    allowed = 0 if isinstance(layer, nr.Relu) else 4 * u
    steps = ((phrase, mistakes.in_place(array, allowed)) for phrase, array in arrays)
    yield from _each("the gradient", steps, "step", none)
    yield from _each("the upstream gradient", variants.parts(dout), "dout", none)
    if quantity == "W":
        yield from _each("in the gradient, the input", mistakes.of_batch(x), "x", none)
    else:
        yield from _each("the upstream gradient", mistakes.of_batch(dout), "dout", none)
    changed = mistakes.changes(own["W"], "W", {}) if of_input and "W" in own else iter(())
    twins = ((phrase, other(layer, W=array)) for phrase, array in changed)
    yield from _each(f"in the gradient, {name}.weight", twins, "layer", none)
    yield from _each("the gradient", mistakes.dropped(value, made, factors, u), "step", none)


def _of_input(layer: Any, x: Array, dout: Array) -> mistakes.Arrays:
    if dout.size == x.size:
        yield "is the upstream one as it is", dout.reshape(x.shape)
    for phrase, slope in variants.SLOPES.get(type(layer), {}).items():
        yield phrase.format(zeros=np.sum(x == 0)), slope(_ran(layer, x), x, dout)


def _of_parameter(parameter: Array, value: Array, made: Array) -> mistakes.Arrays:
    decay = np.vdot(parameter, value - made) / np.vdot(parameter, parameter)
    yield f"has {decay:.6g} times the parameter added: weight decay", made + decay * parameter
    yield from mistakes.of_parameter(made)
