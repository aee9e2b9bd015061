"""What a porter did wrong at a link that fails. A mistake is named only if with it the link holds, in every entry."""

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
from numpy_ref.layers import Layer, WindowLayer
from numpy_ref.network import PARAMETERS
from torchport.layers import kind_of
from torchport.layers.arithmetic import arithmetic_of, rounded
from torchport.layers.loss import Softmax
from torchport.parity import mistakes, variants
from torchport.parity.mistakes import Mistake
from torchport.parity.variants import other

Fits = Callable[[Array, Array], bool]  # (value, what is made)
Make = Callable[[Any, Array, Any], Array]  # (layer, x, dout) -> what is compared

SAMPLES = 2  # tried first
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


def forward_cause(fault: Fault) -> str:
    """The mistake that makes the port's output of a link, in a sentence; "" where none of these does."""
    fault = fault._replace(layer=_as_drawn(fault.layer, fault.x, fault.actual))
    predict = partial(_forward, train_flg=False)
    training = not (by_batch := isinstance(fault.layer, BY_BATCH)) or not fault.fits(predict(fault.layer, fault.x), fault.layer, fault.x)
    make = _forward if training else predict
    if training and np.array_equal(fault.actual.ravel(), fault.x.ravel()):
        return f"{fault.name} is missing: its input comes out as it is"
    few = len(fault.x) if by_batch else SAMPLES

    made = make(fault.layer, fault.x, None)

    def explains(m: Mistake) -> bool:
        fits: Fits = lambda value, _: fault.fits(value, m.layer, m.x[: len(value)])
        return _explains(m, fault.actual, make, few, _error(fault.actual, made), fits)

    with np.errstate(all="ignore"):  # what overflows explains nothing
        found = _of_output(fault, made, training, explains)
        return next((mistake.sentence for mistake in found if explains(mistake)), "")


def gradient_cause(fault: GradientFault) -> str:
    """The mistake that makes the port's gradient of a link, in a sentence; "" where none of these does."""
    if (actual := fault.actual) is None:
        return "there is no gradient: something is detached, or made under no_grad"
    fault = fault._replace(layer=_as_drawn(fault.layer, fault.x, actual))
    by_sample = fault.quantity == "grad_input" and not isinstance(fault.layer, BY_BATCH)
    few, make = SAMPLES if by_sample else len(fault.x), partial(_backward, fault.quantity)

    made = make(fault.layer, fault.x, fault.dout)

    def explains(m: Mistake) -> bool:
        fits: Fits = lambda value, made: made.size < actual.size or fault.fits(value, made)
        return _explains(m, actual, make, few, _error(actual, made), fits)

    with np.errstate(all="ignore"):
        found = _of_gradient(fault, actual, made)
        return next((mistake.sentence for mistake in found if explains(mistake)), "")


def _error(value: Array, made: Array) -> float:
    return float(np.abs(value.reshape(made.shape) - made).max()) if value.size == made.size else math.inf


def _explains(m: Mistake, actual: Array, make: Make, few: int, error: float, fits: Fits) -> bool:
    """Whether the link holds with the mistake, and errs by less than half: on a few samples, and then on all."""
    for n in sorted({min(few, len(m.x)), len(m.x)}):
        try:
            made = make(m.layer, m.x[:n], None if m.dout is None else m.dout[:n])
            shape = (len(m.x), *made.shape[1:]) if n < len(m.x) else made.shape
            value = m.step(actual.reshape(shape)[: len(made)], made)
        except ValueError:  # the mistake's shapes are not the port's
            return False
        if not (_error(value, made) <= error / 2 and fits(value, made)):  # of NaN: not
            return False
    return True


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


def _parameters(layer: Layer) -> dict[str, Array]:
    """By attribute."""
    return {name: np.atleast_1d(getattr(layer, name)) for name in PARAMETERS if hasattr(layer, name)}


def _label(name: str, attribute: str) -> str:
    return f"{name}.{'weight' if attribute in ('W', 'gamma') else 'bias'}"


def _dtype(*held: Array) -> torch.dtype:
    """The port's: the narrower of float32 and float64 that holds all these numbers."""
    return torch.float32 if all(np.array_equal(rounded(each, torch.float32), each) for each in held) else torch.float64


def _factors(layer: Any, n: int, y: Array) -> dict[str, float]:
    """Numbers by which people multiply, for n samples and a result y (n, outputs, ...)."""
    pixels, r = math.prod(y.shape[2:]), getattr(layer, "dropout_ratio", 0)
    window = layer.pool_h * layer.pool_w if isinstance(layer, WindowLayer) else 1
    sizes = {"N": n, "pixels": pixels, "window": window, **({"N pixels": n * pixels} if pixels > 1 else {})}
    whole = {"2": 2, "255": 255, **{f"{name} ({k})": k for name, k in sizes.items() if k > 1}}
    parts = {f"1 / {name}": 1 / k for name, k in whole.items()}
    return {"-1": -1, **whole, **parts, **({"1 - r": 1 - r, "nn.Dropout's 1 / (1 - r)": 1 / (1 - r)} if r else {})}


def _of_output(fault: Fault, made: Array, training: bool, explains: Callable[[Mistake], bool]) -> Iterator[Mistake]:
    """Cheapest and likeliest first."""
    name, layer, x, value, *_ = fault
    own, plain, result = _parameters(layer), partial(Mistake, layer=layer, x=x), value.size == made.size
    u, factors = arithmetic_of(dtype := _dtype(x, value, *own.values())).u, _factors(layer, len(x), made)
    yield from _given(fault, own, dtype, explains)
    if result:
        value = value.reshape(made.shape)
        for phrase, step in mistakes.alike(value, made, factors, u):
            yield plain(f"the result {phrase}", step=step)
        yield from _steps(fault, value, made, u)
    for attribute, parameter in own.items():
        for phrase, changed in mistakes.changes(parameter, attribute == "gamma", fault.others):
            yield plain(
                f"{_label(name, attribute)} {phrase}", layer=other(layer, **{attribute: rounded(changed, dtype)})
            )
    yield from (plain(f"the input {phrase}", x=rounded(changed, dtype)) for phrase, changed in mistakes.inputs(x))
    for kind, others in variants.LAYERS.items():
        yield from others(layer, x, training) if isinstance(layer, kind) else ()
    yield from variants.precisions(layer, x, own, u)
    for phrase, step in mistakes.dropped(value, made, factors, u) if result else ():
        yield plain(f"the result {phrase}", step=step)


def _steps(fault: Fault, value: Array, made: Array, u: float) -> Iterator[Mistake]:
    """A function behind the layer, one in its place, a bias that is added elsewhere."""
    name, layer, x, *_ = fault
    plain = partial(Mistake, layer=layer, x=x)
    yield from (plain(f"{function} follows {name}", step=step) for function, step in mistakes.functions(value, made, u))
    if isinstance(layer, nr.Relu | nr.Sigmoid | nr.Tanh | Softmax):
        for function, step in mistakes.functions(value, x, u):
            yield plain(f"{function} in place of {name}", step=mistakes.instead(step, x))
    bias, axes = np.atleast_1d(getattr(layer, "b", 0.0)), range(made.ndim)
    for axis in axes if bias.size > 1 else ():
        if axis != 1 and made.shape[axis] == bias.size:
            wrong, right = (np.expand_dims(bias, [each for each in axes if each != place]) for place in (axis, 1))
            yield plain(f"the bias is added along axis {axis}, not 1", step=mistakes.added(wrong, right))


def _given(
    fault: Fault, own: dict[str, Array], dtype: torch.dtype, explains: Callable[[Mistake], bool]
) -> Iterator[Mistake]:
    """What the port's calls take for parameters, where with these, which are not the reference's, the link holds."""
    choices = [
        [("", parameter), *((label, new) for label, tensor in fault.params.items() for new in _read(tensor, parameter))]
        for parameter in own.values()
    ]
    for chosen in itertools.product(*choices):
        new = {attribute: array for attribute, (_, array) in zip(own, chosen, strict=True)}
        mistake = Mistake("", other(fault.layer, **new), fault.x)
        if any(label for label, _ in chosen) and explains(mistake):
            image = fault.x.shape[1:] if new[next(iter(new))].ndim == 2 and fault.x.ndim == 4 else ()
            phrases = []
            for (label, array), (attribute, parameter) in zip(chosen, own.items(), strict=True):
                known = mistakes.changes(
                    parameter, attribute == "gamma", fault.others, image if attribute == "W" else ()
                )
                known = ((phrase, rounded(changed, dtype)) for phrase, changed in known)
                phrases += [f"{label} {mistakes.described(array, parameter, known)}"] if label else []
            yield mistake._replace(sentence="; ".join(phrases))


def _read(tensor: Array, parameter: Array) -> Iterator[Array]:
    """Ways to read a tensor as a parameter, of numbers other than its own; of fewer, as one number a channel."""
    if tensor.size == parameter.size or (parameter.ndim == 1 and tensor.size and parameter.size % tensor.size == 0):
        for each in (tensor.T, tensor):
            new = np.repeat(each, parameter.size // tensor.size).reshape(parameter.shape)
            if not np.array_equal(new, parameter):
                yield new


def _of_gradient(fault: GradientFault, actual: Array, made: Array) -> Iterator[Mistake]:
    """Cheapest and likeliest first."""
    name, layer, x, dout, quantity, *_ = fault
    own, plain = _parameters(layer), partial(Mistake, layer=layer, x=x, dout=dout)
    u, factors = arithmetic_of(dtype := _dtype(x, dout, actual, *own.values())).u, _factors(layer, len(x), dout)
    if actual.size != made.size:
        return
    value = actual.reshape(made.shape)
    steps = (
        mistakes.alike(value, made, factors, u),
        mistakes.functions(value, made, u),
        mistakes.dropped(value, made, factors, u),
    )
    yield from (plain(f"the gradient {phrase}", step=step) for phrase, step in itertools.chain(*steps))
    arrays = _of_input(layer, x, dout) if quantity == "grad_input" else _of_parameter(own[quantity], value, made)
    allowed = 0 if isinstance(layer, nr.Relu) else 4 * u
    yield from (plain(f"the gradient {phrase}", step=mistakes.equal(array, allowed)) for phrase, array in arrays)
    for phrase, changed in itertools.chain(variants.parts(dout), mistakes.inputs(dout)):
        yield plain(f"the upstream gradient {phrase}", dout=rounded(changed, dtype))
    for phrase, changed in mistakes.inputs(x):
        yield plain(f"the input {phrase}, in the gradient", x=rounded(changed, dtype))
    for attribute, parameter in own.items():
        for phrase, changed in (
            mistakes.changes(parameter, attribute == "gamma", {}) if quantity == "grad_input" else ()
        ):
            yield plain(
                f"{_label(name, attribute)} {phrase}, in the gradient", layer=other(layer, **{attribute: changed})
            )


def _of_input(layer: Any, x: Array, dout: Array) -> mistakes.Arrays:
    if dout.size == x.size:
        yield "is the upstream one as it is", dout.reshape(x.shape)
    for phrase, slope in variants.SLOPES.get(type(layer), {}).items():
        yield phrase.format(zeros=np.sum(x == 0)), slope(_ran(layer, x), x, dout)


def _of_parameter(parameter: Array, value: Array, made: Array) -> mistakes.Arrays:
    decay = np.vdot(parameter, value - made) / np.vdot(parameter, parameter)
    yield f"has {decay:.6g} times the parameter added: weight decay", made + decay * parameter
    yield from mistakes.rearranged(made, mistakes.letters_of(made))
