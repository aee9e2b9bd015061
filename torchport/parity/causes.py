"""Finds the cause of a failing link. A mistake is named only if the link holds with it, in every entry.

mistakes.py lists mistakes made on results, arrays.py those made on inputs and parameters, and variants.py other layers
used in place of the right one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.layers import other, rounded
from torchport.layers.loss import Softmax
from torchport.layers.terms import MODULE_ATTRIBUTES
from torchport.parity import arrays, mistakes, variants
from torchport.parity.arrays import Arrays
from torchport.parity.deviation import Deviation
from torchport.parity.mistakes import Mistake


def cause_of(deviation: Deviation) -> str:
    """A sentence that names the mistake that gives the port's numbers; "" if none is found."""
    unchanged = np.array_equal(deviation.actual.ravel(), deviation.x.ravel())
    if unchanged and deviation.dout is None and not deviation.predicts:
        return f"{deviation.name} is missing, or changes nothing here: its input comes out as it is"
    if deviation.error == 0 or (deviation.dout is not None and not deviation.same_size):
        return ""
    with np.errstate(all="ignore"):  # a mistake whose numbers overflow explains nothing
        tried = _output_mistakes(deviation) if deviation.dout is None else _gradient_mistakes(deviation)
        return next((mistake.sentence for mistake in tried if deviation.holds_with(mistake)), "")


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
        changed = arrays.changes(parameter, attribute, deviation.reference_params)
        twins = ((phrase, other(layer, **{attribute: rounded(array, deviation.dtype)})) for phrase, array in changed)
        yield from _with_each(f"{deviation.name}.{MODULE_ATTRIBUTES[attribute]}", twins, "layer", none)
    for kind, mistakes_of_kind in variants.LAYERS.items():
        yield from mistakes_of_kind(layer, x, not deviation.predicts) if isinstance(layer, kind) else ()
    # Normalisation undoes any scale but for eps, which would explain a small error that has nothing to do with it.
    undone = isinstance(layer, nr.BatchNormalization) and not deviation.predicts
    changed = itertools.chain(() if undone else arrays.scaled(x), arrays.inputs(x))
    inputs = ((phrase, rounded(array, deviation.dtype)) for phrase, array in changed)
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
        is_loss = name == "output" and function.endswith("softmax")
        hint = ", which is right for a loss that takes it: if yours does, give it as loss" if is_loss else ""
        yield from _if_it_tells(deviation, plain(f"{function} follows {name}{hint}", step=step))
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
        gradients = variants.slopes(layer, x, dout)
    else:
        gradients = _parameter_gradients(parameters[deviation.quantity], value, expected)
    allowed = 0 if isinstance(layer, nr.Relu) else 4 * u
    steps = ((phrase, mistakes.in_place_of(array, allowed)) for phrase, array in gradients)
    yield from _with_each("the gradient", steps, "step", none)
    yield from _with_each("the upstream gradient", variants.parts(dout), "dout", none)
    if deviation.quantity == "W":
        yield from _with_each("in the gradient, the input", arrays.of_batch(x), "x", none)
    else:
        yield from _with_each("the upstream gradient", arrays.of_batch(dout), "dout", none)
    if of_input and "W" in parameters:
        twins = ((phrase, other(layer, W=array)) for phrase, array in arrays.changes(parameters["W"], "W", {}))
        yield from _with_each(f"in the gradient, {deviation.name}.weight", twins, "layer", none)
    yield from _with_each("the gradient", mistakes.dropped(value, expected, factors, u), "step", none)


def _parameter_gradients(parameter: Array, value: Array, expected: Array) -> Arrays:
    """Yield what may be in place of a parameter's gradient: weight decay added, and other arrangements of it."""
    decay = np.vdot(parameter, value - expected) / np.vdot(parameter, parameter)
    # First a number as people write it: where a sum has no terms, not even the fit's rounding is allowed.
    for factor in (float(f"{decay:.3g}"), decay):
        yield f"has {factor:.6g} times the parameter added: weight decay", expected + factor * parameter
    yield from arrays.of_parameter(expected)
