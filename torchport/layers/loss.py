"""The book's softmax and cross-entropy (Deep Learning from Scratch, section 5.6.3), and the last layers of ports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from numpy_ref.checks import Array, check_batch, recorded
from numpy_ref.functions import LOG_OFFSET, softmax
from torchport.checks import check_floating, check_tensor
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import EXP, LayerKind, Limits, Rule, other, register
from torchport.layers.selections import SAME
from torchport.layers.smooth import EXP_ULPS


def softmax_with_loss(input: Tensor, target: Tensor) -> Tensor:
    """Mean of -log(softmax(input)[label] + 1e-7), a scalar, with the book's gradient (softmax(input) - target) / N.

    The gradient ignores the 1e-7, so it is not exactly the derivative of the value; torch's cross_entropy has the same
    gradient, and a value without the 1e-7. input is (N, C); target is labels (N,), integers in 0..C-1, or one-hot
    (N, C). Raises ValueError for other shapes, labels out of range or an empty batch, TypeError for labels that are
    not integers.
    """
    loss: Tensor = _SoftmaxWithLoss.apply(input, _labels(input, target).unsqueeze(1))
    return loss


class SoftmaxWithLoss(nn.Module):
    """softmax_with_loss as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return softmax_with_loss(input, target)


class _SoftmaxWithLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, labels: Tensor) -> Tensor:
        y = input.softmax(dim=1)  # (N, C)
        ctx.save_for_backward(y, labels)
        return -(y.gather(1, labels) + LOG_OFFSET).log().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        y, labels = ctx.saved_tensors
        # Not by scatter, which takes many operations on CUDA under deterministic algorithms.
        one_hot = labels == torch.arange(y.shape[1], device=y.device)
        return (y - one_hot.to(y.dtype)) * grad_output / len(y), None


def _labels(input: Tensor, target: Tensor) -> Tensor:
    """target as int64 labels (N,), checked."""
    n, classes = check_floating("input", check_tensor("input", input, ndim=2)).shape
    if check_tensor("target", target).device != input.device:
        raise ValueError(f"target is on {target.device}, input on {input.device}: move one with .to()")
    if target.dtype.is_complex or target.dtype == torch.bool:
        raise TypeError(f"target must be integer labels or one-hot, got dtype {target.dtype}")
    if target.shape == input.shape:
        labels = target.argmax(dim=1)
        _check(((target == 0) | (target == 1)).all() & (target.sum(dim=1) == 1).all(), "target rows must be one-hot")
        return labels
    if target.shape != (n,):
        raise ValueError(f"target must be labels ({n},) or one-hot ({n}, {classes}), got shape {tuple(target.shape)}")
    if target.dtype.is_floating_point:
        raise TypeError(f"labels must be integers, got dtype {target.dtype}")
    labels = target.long()  # in uint8, 256 would wrap to 0
    _check((labels >= 0).all() & (labels < classes).all(), f"labels must be in 0..{classes - 1}", labels)
    return labels


def _check(condition: Tensor, expected: str, labels: Tensor | None = None) -> None:
    # Reading the condition waits for the device, which is not possible while a CUDA graph is captured.
    if condition.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not condition:
        values = "" if labels is None else f", got {labels.min().item()} to {labels.max().item()}"
        raise ValueError(expected + values)


def _softmax_and_error(x: Array, a: Arithmetic) -> tuple[Array, Array]:
    """softmax(x) (N, C), and its relative limit.

    That has the errors of exp's rounded argument, in the entry and on average in the sum (torch's log_softmax rounds it
    twice); of exp in both; of the sum (C numbers that are shares of 1); and of the quotient.
    """
    y, shift = softmax(x), x.max(axis=1, keepdims=True) - x
    arguments = 2 * shift + 2 * (y * shift).sum(axis=1, keepdims=True)
    return y, a.u * (arguments + 2 * EXP_ULPS + 2) + a.of_sum(x.shape[1], 1.0)


class Identity:
    """The last layer of a port that returns logits."""

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, dout: Array) -> Array:
        return dout


class Softmax:
    """softmax of x (N, C)."""

    out: Array | None = None  # softmax(x), set by forward

    def forward(self, x: Array) -> Array:
        self.out = softmax(check_batch("x", x, ndim=2))
        return self.out

    def backward(self, dout: Array) -> Array:
        y = recorded(self.out, self)
        return np.asarray(y * (dout - (y * dout).sum(axis=1, keepdims=True)))


class LogSoftmax(Softmax):
    """log(softmax(x)) of x (N, C), without underflow."""

    def forward(self, x: Array) -> Array:
        super().forward(x)
        shifted = x - x.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    def backward(self, dout: Array) -> Array:
        return np.asarray(dout - recorded(self.out, self) * dout.sum(axis=1, keepdims=True))


def _softmax_forward(_: Softmax, x: Array, a: Arithmetic) -> Array:
    y, relative = _softmax_and_error(x, a)
    return np.minimum(y * relative + a.tiny, 1)


def _softmax_backward(_: Softmax, x: Array, dout: Array, a: Arithmetic) -> Limits:
    (y, relative), size = _softmax_and_error(x, a), np.abs(dout)
    # dx = y (d - m) with m the mean of d weighted by y: errors of y, of each term of m, of m's sum, and four roundings.
    mean = (y * dout).sum(axis=1, keepdims=True)
    terms = (y * size * (relative + 4 * a.u)).sum(axis=1, keepdims=True)
    m_limit = terms + a.of_sum(y.shape[1], (y * size).sum(axis=1, keepdims=True))
    return Limits(y * (relative * np.abs(dout - mean) + m_limit + 4 * a.u * (size + np.abs(mean))) + a.tiny)


def _log_forward(layer: LogSoftmax, x: Array, a: Arithmetic) -> Array:
    """The limit of log(softmax(x)), of x - max - log(sum), and of x - logsumexp(x), whose rounding is of max's size."""
    y = np.abs(other(layer).forward(x))
    return np.asarray(_softmax_and_error(x, a)[1] + a.u * (EXP_ULPS * y + np.abs(x).max(axis=1, keepdims=True)))


def _log_backward(layer: LogSoftmax, x: Array, dout: Array, a: Arithmetic) -> Limits:
    """Limits of d - y sum(d), y being exp(output); log(softmax(x)) instead rounds each d / y times y before the sum."""
    y, size, total = _softmax_and_error(x, a)[0], np.abs(dout), np.abs(dout.sum(axis=1, keepdims=True))
    relative = _log_forward(layer, x, a) + EXP_ULPS * a.u
    sums = a.of_sum(x.shape[1] + 3, size.sum(axis=1, keepdims=True))
    return Limits(y * (relative * total + sums) + 4 * a.u * (size + y * total) + a.tiny)


def loss_limits(x: Array, labels: Array, a: Arithmetic, offset: float = LOG_OFFSET) -> tuple[float, Array]:
    """Limits of SoftmaxWithLoss's value, and of its gradient (N, C), on logits x (N, C) against labels (N,).

    offset is added inside the logarithm; with 0 the limit of the value is that of log_softmax.

    The gradient (y - t) / N has the error of y and three more roundings: of the difference, and two of the product with
    the rounded reciprocal of N, which is how CUDA divides by a number, and how the mean may be written. That of
    log_softmax, g - y sum(g) for g = t / N, has two roundings, and one of y. That of logsumexp takes y as exp(x - lse),
    with the rounding of lse in its argument.
    """
    (y, relative), (n, classes), picked = _softmax_and_error(x, a), x.shape, (np.arange(len(x)), labels)
    y_limit = np.minimum(y * relative + a.tiny, 1)
    log_sum = (x - LogSoftmax().forward(x))[:, :1]
    grad_limit = (y_limit + a.u * y * np.abs(log_sum) + 3 * a.u * np.abs(y - np.eye(classes)[labels])) / n
    if offset == 0:
        limit, size = _log_forward(LogSoftmax(), x, a)[picked], np.abs(LogSoftmax().forward(x)[picked])
    else:
        inside = y[picked] + offset
        off = y_limit[picked] / inside + a.u
        # The log of a number that may be off by that factor in either direction, but is never below the offset.
        size, below = np.abs(np.log(inside)), -np.log(np.maximum(1 - off, offset / inside))
        limit = np.maximum(np.log1p(off), below) + EXP_ULPS * a.u * size
    return float(limit.mean() + a.of_sum(n, size.mean())), grad_limit


def _scores(rng: np.random.Generator) -> Array:
    return 3 * rng.standard_normal((4, 5))


PLAIN, LOG = Rule(EXP, _softmax_forward, _softmax_backward), Rule(EXP, _log_forward, _log_backward)

register(
    LayerKind(Identity, lambda *_: nn.Identity(), SAME, lambda rng: (Identity(), _scores(rng))),
    LayerKind(Softmax, lambda *_: nn.Softmax(1), PLAIN, lambda rng: (Softmax(), _scores(rng))),
    LayerKind(LogSoftmax, lambda *_: nn.LogSoftmax(1), LOG, lambda rng: (LogSoftmax(), _scores(rng))),
)

# What a port may return, and the layer that computes it from logits.
OUTPUTS: dict[str, type] = {"logits": Identity, "log-probabilities": LogSoftmax, "probabilities": Softmax}
