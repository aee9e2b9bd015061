"""Judges a loss on the port's own output: its value, and its gradient there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numpy_ref.checks import Array
from numpy_ref.functions import LOG_OFFSET, softmax
from torchport.layers import EXP
from torchport.layers.arithmetic import Arithmetic, Setting, arithmetic_of
from torchport.layers.loss import OUTPUTS, LogSoftmax, loss_limits, softmax_with_loss
from torchport.layers.smooth import EXP_ULPS
from torchport.parity.calls import array_of, describe_error
from torchport.parity.compare import Difference, compare
from torchport.parity.rows import Row

Loss = Callable[[Tensor, Tensor], Tensor]
KNOWN = "the book adds 1e-7 inside the log, this loss does not"
DIFFERENTIATED = "the 1e-7 inside the log is differentiated too; the book's gradient ignores it"
LOGITS, LOG_PROBABILITIES, PROBABILITIES = OUTPUTS  # what a port may end in

# Relative tolerance for recognising what a loss takes; wide, so that a loss with a small mistake is recognised too.
TOLERANCE = 1e-2


def taken_by(loss: Loss, classes: int, setting: Setting) -> str:
    """What the loss takes, a name in OUTPUTS: logits, log-probabilities or probabilities; logits if none fits."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((classes, classes)), rng.permutation(classes)
    expected = -np.log(softmax(x)[np.arange(classes), labels]).mean()
    for name, make in OUTPUTS.items():
        try:
            with torch.no_grad():
                value = loss(setting.tensor(make().forward(x)), torch.tensor(labels, device=setting.device))
        except Exception:  # whatever a user's loss raises is reported later, when it is judged
            continue
        if isinstance(value, Tensor) and value.numel() == 1 and abs(value.item() - expected) < TOLERANCE * expected:
            return name
    return LOGITS


def check_loss(
    x: Array, t: Array, setting: Setting, loss: Loss = softmax_with_loss, takes: str = LOGITS, run: str = "loss"
) -> list[Row]:
    """Judge a loss by itself, value and gradient, on outputs x (N, C) against labels t (N,)."""
    leaf = setting.tensor(x).requires_grad_()
    try:
        with torch.enable_grad(), setting.judging():
            value = loss(leaf, torch.tensor(t, device=setting.device))
            value.backward()
    except Exception as error:  # whatever a user's loss raises
        return [Row(run, "loss", "output", EXP, Difference(note=f"the loss raised {describe_error(error)}"))]
    grad = None if leaf.grad is None else array_of(leaf.grad)
    return list(loss_rows(run, array_of(leaf), t, value, grad, arithmetic_of(setting.dtype), takes))


def loss_rows(
    run: str, x: Array, labels: Array, value: Any, grad: Array | None, a: Arithmetic, takes: str
) -> Iterator[Row]:
    """Yield rows for a loss: its value, and its gradient grad (N, C) at the port's output x (N, C), in arithmetic a."""

    def row(quantity: str, worst: Difference, cause: str = "", known: str = "") -> Row:
        return Row(run, "loss", quantity, EXP, worst, cause=cause, known=known)

    if not isinstance(value, Tensor) or value.numel() != 1:
        yield row("output", Difference(note=f"expected one number, got {value!r:.60}"))
        return
    actual = array_of(value).reshape(())
    worst = compare(actual, *_expected_value(x, labels, a, takes, LOG_OFFSET))
    is_known = worst.ratio > 1 >= compare(actual, *_expected_value(x, labels, a, takes, 0.0)).ratio
    expected, limit = _expected_gradient(x, labels, a, takes)
    chances = x if takes == PROBABILITIES else np.exp(x) if takes == LOG_PROBABILITIES else softmax(x)
    cause = "" if grad is None else _gradient_cause(grad, expected, limit, labels, chances[np.arange(len(x)), labels])
    yield row("output", worst, cause if worst.ratio > 1 else "", KNOWN if is_known else "")
    if grad is None:
        yield row("grad_input", Difference(note="no gradient arrives at the port's output"))
        return
    yield row("grad_input", compare(grad, expected, limit), cause)


def _expected_value(x: Array, labels: Array, a: Arithmetic, takes: str, offset: float) -> tuple[Array, Array]:
    """The mean of -log(p + offset) over the labels' probabilities p, and its limit."""
    n, rows, log_roundings = len(x), np.arange(len(x)), np.zeros(())
    if takes == PROBABILITIES:
        logs = np.log(x[rows, labels] + offset)
        log_roundings = EXP_ULPS * np.abs(logs) + 2
    else:
        logs = (LogSoftmax().forward(x) if takes == LOGITS else x)[rows, labels]
        logs = np.log(np.exp(logs) + offset) if offset else logs
    if takes == LOGITS:
        return np.asarray(-logs.mean()), np.asarray(loss_limits(x, labels, a, offset)[0])
    return np.asarray(-logs.mean()), np.asarray(a.u * np.mean(log_roundings + (n + 2) * np.abs(logs)))


def _expected_gradient(x: Array, labels: Array, a: Arithmetic, takes: str) -> tuple[Array, Array]:
    """The gradient (N, C) of the mean, without the 1e-7, which the book's gradient ignores; and its limit."""
    n, one_hot = len(x), np.eye(x.shape[1])[labels]
    if takes == LOGITS:
        return (softmax(x) - one_hot) / n, loss_limits(x, labels, a)[1]
    value = -one_hot / n if takes == LOG_PROBABILITIES else -one_hot / (n * x)
    return value, 4 * a.u * np.abs(value)


def _gradient_cause(grad: Array, expected: Array, limit: Array, labels: Array, chances: Array) -> str:
    """A sentence that names a factor, the derivative of the 1e-7, or label smoothing; "" if none makes grad expected.

    chances are the labels' probabilities (N,).
    """
    if grad.shape != expected.shape or compare(grad, expected, limit).ratio <= 1:
        return ""
    largest, n = np.unravel_index(np.abs(expected).argmax(), expected.shape), len(grad)
    ratio = float(grad[largest] / expected[largest])
    names = {float(n): f"{n}, the number of samples: a sum in place of the mean", 1 / n: f"1/{n}"}
    for factor in (*names, round(ratio), ratio) if np.isfinite(ratio) else ():
        if factor and compare(grad, factor * expected, 2 * abs(factor) * limit).ratio <= 1:
            return f"the gradient is the reference's times {names.get(factor, f'{factor:.6g}')}"
    if compare(grad, expected * (chances / (chances + LOG_OFFSET))[:, None], 4 * limit).ratio <= 1:
        return DIFFERENTIATED
    smoothed = (np.eye(expected.shape[1])[labels] - 1 / expected.shape[1]) / n
    share = np.vdot(smoothed, grad - expected) / np.vdot(smoothed, smoothed)
    is_smoothed = compare(grad, expected + share * smoothed, 4 * limit).ratio <= 1
    return f"the gradient is that of label smoothing by {share:.3g}" if is_smoothed else ""
