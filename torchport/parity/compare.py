"""A port against the reference: every layer by itself, then the whole network, each entry against its limit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array, check_batch
from numpy_ref.functions import class_labels
from numpy_ref.layers import BatchNormalization, Layer, Pooling, Relu, SoftmaxWithLoss
from numpy_ref.network import Network
from torchport.choices import IEEE
from torchport.layers import EXACT, EXP, NORMALISE, kind_of, predicted
from torchport.layers.arithmetic import Arithmetic, Setting
from torchport.layers.loss import loss_limits, softmax_with_loss
from torchport.layers.smooth import running_limits
from torchport.layers.sums import own_limit
from torchport.parity.given import check_finite, unwrapped
from torchport.parity.report import LOCAL, Difference, Report, Row
from torchport.parity.trace import (
    Run,
    Step,
    align,
    backward,
    forward,
    gradients,
    judged,
    make_step,
    parameters,
    predicting,
    trace_module,
)
from torchport.weights import in_torch_terms

Loss = Callable[[Tensor, Tensor], Tensor]

OFFSET = "1e-7"  # as the book writes what keeps its logarithm finite


def check_parity(
    reference: Network,
    port: nn.Module,
    x: Array,
    t: Array,
    *,
    mode: str = IEEE,
    seed: int = 0,
    loss: Loss = softmax_with_loss,
    run: Run | None = None,
    name: str = "port",
) -> Report:
    """Compare port with reference, in training and in prediction, on the batch x (N, ...) and labels t (N,) or one-hot.

    The port's children must bear the names of the reference's layers, upper and lower case alike; it must hold the same
    weights, which is compared too. The reference is the oracle, in float64, on weights and inputs rounded to the port's
    dtype. Local rows give each module the reference's input and upstream gradient, which comes from a random gradient
    (seed) at the output; end-to-end rows run the port as a whole, through its loss: run, if given, in place of the port
    itself (torch.compile(port), say; where port is such a wrapper, it is run, and the module inside it judged). mode is
    "ieee", "tf32" (CUDA) or "bfloat16" (autocast); name is the report's. A known difference of definition is named, and
    no fault: a loss without the 1e-7 that the book adds inside its log.

    ValueError, TypeError for networks that do not pair up, dtypes other than float64 and float32, layers that are not
    registered, numbers that are not finite, or an unfit x or t.
    """
    inner = unwrapped(port)
    run, port = (run or port) if inner is not port else run, inner
    setting = Setting.of(port, mode)
    check_finite(check_batch("x", x), reference.params, port)
    steps = align(reference.layers, port, setting)
    passed, _ = forward(steps, setting.round(x))
    labels = class_labels(t, _logits_shape(passed[-1])).astype(np.int64)
    cotangent = np.random.default_rng(seed).standard_normal(passed[-1].shape)
    with judged(steps, setting):
        rows = _local_rows(setting, steps, passed[0], cotangent, labels, loss)
    return Report(tuple(rows), name, setting.name, setting.device, seed, 0)


def check_layer(name: str, layer: Layer, module: nn.Module, x: Array, dout: Array, setting: Setting) -> list[Row]:
    """Rows for one module against one layer of the reference, both given x and dout. ValueError, TypeError."""
    step = make_step(name, layer, module, setting)
    with judged([step], setting):
        return list(_layer_rows(setting, step, x, dout))


def check_loss(x: Array, t: Array, setting: Setting, loss: Loss = softmax_with_loss) -> list[Row]:
    """Rows for the port's loss, value and gradient, on logits x (N, C) against t. ValueError, TypeError."""
    with setting.computing():
        return list(_loss_rows(setting, x, class_labels(t, _logits_shape(x)).astype(np.int64), loss))


def compare(
    actual: Array, expected: Array, limit: Array | float, own: Callable[[tuple[int, ...]], float] | None = None
) -> Difference:
    """The entry of actual whose distance from expected is the greatest multiple of its limit.

    Shapes must be equal: nothing is broadcast. NaN must stand where NaN is expected, and infinities with their sign;
    anything else that is not finite fails. own gives an entry that is above its limit the one of its own products.
    """
    if actual.shape != expected.shape:
        return Difference(note=f"shape {actual.shape}, expected {expected.shape}")
    limit = np.broadcast_to(limit, expected.shape)
    agree = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        size = np.sqrt(np.mean(np.square(expected)))
        error = np.where(agree, 0, np.abs(actual - expected))
        if own is not None:
            limit = _widened(error, limit, own)
        ratio = np.where(agree, 0, error / limit)
    ratio = np.where(agree | np.isfinite(actual) & np.isfinite(expected), ratio, np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    return Difference(
        shape=actual.shape,
        index=index,
        expected=float(expected[index]),
        actual=float(actual[index]),
        error=float(error[index]),
        limit=float(limit[index]),
        ratio=float(ratio[index]),
        loose=int(np.sum(limit >= size)) if size > 0 else 0,
    )


def _widened(error: Array, limit: Array, own: Callable[[tuple[int, ...]], float]) -> Array:
    """limit, but own's where it is wider, for the entries that error exceeds: up to the first that exceeds both."""
    found, above = np.array(limit), np.flatnonzero(error > limit)
    for flat in above[np.argsort(-(error.flat[above] / limit.flat[above]))]:
        index = tuple(int(i) for i in np.unravel_index(flat, error.shape))
        found[index] = max(found[index], own(index))
        if not error[index] <= found[index]:
            break
    return found


def _compare(
    setting: Setting,
    actual: Tensor | None,
    expected: Array,
    limit: Array | float,
    own: Callable[[tuple[int, ...]], float] | None = None,
) -> Difference:
    """compare, after a look at the dtype; None is what a port lacks: a parameter, or a gradient for it."""
    if actual is None:
        return Difference(note="the port has none")
    if not isinstance(actual, Tensor):
        return Difference(note=f"expected a tensor, got {type(actual).__name__}")
    if not setting.allows(actual.dtype):
        return Difference(note=f"dtype {actual.dtype}, expected {setting.dtype}")
    return compare(actual.detach().to("cpu", torch.float64).numpy(), expected, limit, own)


def _logits_shape(logits: Array) -> tuple[int, int]:
    if logits.ndim != 2:
        raise ValueError(f"the loss takes outputs (N, classes), got shape {logits.shape}")
    return logits.shape[0], logits.shape[1]


def _local_rows(
    setting: Setting, steps: list[Step], x: Array, cotangent: Array, labels: Array, loss: Loss
) -> list[Row]:
    """Every layer by itself on what the reference recorded: forward in order, the loss, backward from it."""
    passed, ran = forward(steps, x)
    upstream = backward(ran, cotangent)
    by_layer = [list(_layer_rows(setting, step, *pair)) for step, *pair in zip(steps, passed, upstream, strict=False)]
    onward = [row for rows in by_layer for row in rows if not row.quantity.startswith("grad")]
    back = [row for rows in reversed(by_layer) for row in rows if row.quantity.startswith("grad")]
    return [*onward, *_loss_rows(setting, passed[-1], labels, loss), *back]


def _layer_rows(setting: Setting, step: Step, x: Array, dout: Array) -> Iterator[Row]:
    """One module by itself, on what the port can hold of x and dout."""
    x, dout = setting.round(x), setting.round(dout)
    oracle, rule = copy.copy(step.oracle), kind_of(step.oracle).rule
    arithmetic = setting.arithmetic
    yield from _parameter_rows(setting, step)
    if prediction := kind_of(step.oracle).prediction:
        with predicting([step]):
            found = step.module(setting.tensor(x))
        limit = prediction(step.oracle, x, arithmetic)
        worst = _compare(setting, found, predicted(step.oracle, x), limit)
        yield Row(LOCAL, step.name, "prediction", rule.name, worst)
    try:
        output, grads = trace_module(step.module, setting.tensor(x), setting.tensor(dout))
    except Exception as error:  # whatever a user's module raises
        yield Row(LOCAL, step.name, "output", rule.name, _raised(error))
        return
    limit = rule.forward(step.oracle, x, arithmetic)
    own = _own_limits(step.oracle, x, dout, arithmetic)
    worst = _compare(setting, output, oracle.forward(x), limit, own("output"))
    yield Row(LOCAL, step.name, "output", rule.name, worst)
    if isinstance(oracle, BatchNormalization):
        yield from _running_rows(setting, step, oracle, x)
    limits = rule.backward(step.oracle, x, dout, arithmetic)
    expected = {"input": oracle.backward(dout), **gradients(oracle)}
    for name, limit in {"input": limits.grad_input, **in_torch_terms(limits.grads)}.items():
        worst = _compare(setting, grads.get(name), expected[name], limit, own(f"grad_{name}"))
        yield Row(LOCAL, step.name, f"grad_{name}", rule.name, worst)
    if isinstance(step.oracle, Relu | Pooling):
        yield _tie_row(setting, step, x.shape)


def _running_rows(setting: Setting, step: Step, ran: BatchNormalization, x: Array) -> Iterator[Row]:
    """The running statistics after x, which both sides have seen."""
    before: Any = step.oracle
    for name, limit in running_limits(before, x, setting.arithmetic).items():
        worst = _compare(setting, getattr(step.module, name, None), getattr(ran, name), limit)
        yield Row(LOCAL, step.name, name, NORMALISE, worst)


def _tie_row(setting: Setting, step: Step, shape: tuple[int, ...]) -> Row:
    """The gradient where a relu's input is exactly 0 and a pooling's maxima tie, whatever batch was given.

    On small whole numbers, which every dtype holds exactly: any difference is one of definition.
    """
    rng = np.random.default_rng(0)
    oracle, x = copy.copy(step.oracle), rng.integers(-1, 2, shape).astype(np.float64)
    dout = rng.integers(1, 4, oracle.forward(x).shape).astype(np.float64)
    expected = oracle.backward(dout)
    try:
        _, grads = trace_module(step.module, setting.tensor(x), setting.tensor(dout))
    except Exception as error:  # whatever a user's module raises
        return Row(LOCAL, step.name, "grad_input at ties", EXACT, _raised(error))
    worst = _compare(setting, grads.get("input"), expected, 0)
    cause = "of equal maxima, the book's gradient goes to the first in row order"
    if isinstance(step.oracle, Relu):
        cause = "only where its input is exactly 0 (blank patches with zero bias): the book's gradient there is 0"
    explains = worst.ratio > 1 and worst.index and (isinstance(step.oracle, Pooling) or x[worst.index] == 0)
    return Row(LOCAL, step.name, "grad_input at ties", EXACT, worst, cause if explains else "")


def _own_limits(
    layer: Layer, x: Array, dout: Array, a: Arithmetic
) -> Callable[[str], Callable[[tuple[int, ...]], float] | None]:
    """For a quantity in torch's terms, the limit of one entry by its own products; None where the rule has none."""
    products = kind_of(layer).rule.products
    names = {"grad_weight": "W", "grad_bias": "b"}

    def of_quantity(quantity: str) -> Callable[[tuple[int, ...]], float] | None:
        if products is None:
            return None

        def of_entry(index: tuple[int, ...]) -> float:
            place = index[::-1] if quantity == "grad_weight" and len(index) == 2 else index
            return own_limit(products(layer, x, dout, names.get(quantity, quantity), place), a)

        return of_entry

    return of_quantity


def _parameter_rows(setting: Setting, step: Step) -> Iterator[Row]:
    """Whether both sides hold the same weights."""
    own = dict(step.module.named_parameters())
    for name, value in parameters(step.layer, setting.dtype).items():
        yield Row(LOCAL, step.name, name, EXACT, _compare(setting, own.get(name), value, 0))


def _loss_rows(setting: Setting, logits: Array, labels: Array, loss: Loss) -> Iterator[Row]:
    """The loss by itself."""
    x = setting.round(logits)
    head = SoftmaxWithLoss()
    head.forward(x, labels)
    # Given logits in the parameters' dtype, autocast computes the loss in it too.
    arithmetic = Setting(setting.dtype, setting.device).arithmetic
    _, grad_limit = loss_limits(x, labels, arithmetic)
    leaf = setting.tensor(x).requires_grad_()
    try:
        found = loss(leaf, torch.tensor(labels, device=setting.device))
        (grad,) = torch.autograd.grad(found, leaf, allow_unused=True)
    except Exception as error:  # whatever a user's loss raises
        yield Row(LOCAL, "loss", "output", EXP, _raised(error))
        return
    yield _loss_row(setting, LOCAL, found, x, labels, arithmetic)
    yield Row(LOCAL, "loss", "grad_input", EXP, _compare(setting, grad, head.backward(), grad_limit))


def _loss_row(setting: Setting, view: str, found: Tensor, x: Array, labels: Array, a: Arithmetic) -> Row:
    """The loss's value; where it is the one without the book's offset, a known difference."""
    value, shifted = SoftmaxWithLoss().forward(x, labels), x - x.max(axis=1, keepdims=True)
    worst = _compare(setting, found, np.asarray(value, dtype=float), loss_limits(x, labels, a)[0])
    without = np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])
    limit, _ = loss_limits(x, labels, a, offset=0)
    if worst.ratio > 1 >= _compare(setting, found, np.asarray(without), limit).ratio:
        return Row(
            view, "loss", "output", EXP, worst, known=f"the book adds {OFFSET} inside the log, this loss does not"
        )
    return Row(view, "loss", "output", EXP, worst)


def _raised(error: Exception) -> Difference:
    first = (str(error).splitlines() or [""])[0]
    return Difference(note=f"the port raised {type(error).__name__}: {first}")
