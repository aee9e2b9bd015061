"""The book's softmax and cross-entropy, value and gradient (Deep Learning from Scratch, section 5.6.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from numpy_ref.checks import Array
from numpy_ref.functions import LOG_OFFSET, softmax
from torchport.checks import check_floating, check_tensor
from torchport.layers.arithmetic import Arithmetic
from torchport.layers.kinds import Near
from torchport.layers.smooth import EXP_ULPS


def softmax_with_loss(input: Tensor, target: Tensor) -> Tensor:
    """Mean of -log(softmax(input)[label] + 1e-7), a scalar, with the book's gradient (softmax(input) - target) / N.

    The gradient does not know of the 1e-7, so this is not the derivative of the value to the last bit; torch's own
    cross_entropy has this gradient, and a value without the 1e-7. input (N, C); target labels (N,), integers in
    0..C-1, or one-hot (N, C). ValueError for other shapes, labels out of range or an empty batch; TypeError for
    labels that are not integers.
    """
    return unchecked_loss(input, _labels(input, target))


def unchecked_loss(input: Tensor, labels: Tensor) -> Tensor:
    """softmax_with_loss for labels int64 (N,) in 0..C-1 that were checked before: nothing waits for the device."""
    loss: Tensor = _SoftmaxWithLoss.apply(input, labels.unsqueeze(1))
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
        of_label = y.gather(1, labels) - 1
        return y.scatter(1, labels, of_label) * grad_output / len(y), None


def _labels(input: Tensor, target: Tensor) -> Tensor:
    """target as int64 labels (N,), checked."""
    n, classes = check_floating("input", check_tensor("input", input, ndim=2)).shape
    if check_tensor("target", target).device != input.device:
        raise ValueError(f"target is on {target.device}, input on {input.device}: move one with .to()")
    if target.dtype.is_complex or target.dtype == torch.bool:
        raise TypeError(f"target must be integer labels or one-hot, got dtype {target.dtype}")
    if target.shape == input.shape:
        labels = target.argmax(dim=1)
        _require(((target == 0) | (target == 1)).all() & (target.sum(dim=1) == 1).all(), "target rows must be one-hot")
        return labels
    if target.shape != (n,):
        raise ValueError(f"target must be labels ({n},) or one-hot ({n}, {classes}), got shape {tuple(target.shape)}")
    if target.dtype.is_floating_point:
        raise TypeError(f"labels must be integers, got dtype {target.dtype}")
    labels = target.long()  # in uint8, 256 would wrap to 0
    _require((labels >= 0).all() & (labels < classes).all(), f"labels must be in 0..{classes - 1}", labels)
    return labels


def _require(condition: Tensor, expected: str, found: Tensor | None = None) -> None:
    # Reading the condition waits for the device, which a CUDA graph under capture cannot.
    if condition.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not condition:
        values = "" if found is None else f", got {found.min().item()} to {found.max().item()}"
        raise ValueError(expected + values)


def loss_limits(x: Near, labels: Array, a: Arithmetic, offset: float = LOG_OFFSET) -> tuple[float, Array]:
    """Limits of SoftmaxWithLoss's value, and of its gradient (N, C), on logits x (N, C) against labels (N,).

    offset is what the logarithm's argument is never under: 0 for a loss that does not add the book's.
    """
    n, classes = x.value.shape
    y, picked = softmax(x.value), (np.arange(n), labels)
    shift = x.value.max(axis=1, keepdims=True) - x.value
    # Relative error of softmax: of exp's rounded argument, here and on average in the sum; of exp in both; of the sum
    # (of C numbers of which each is a part of 1) and the quotient. torch's log_softmax, behind cross_entropy, rounds
    # the argument twice, and its gradient is one exp more.
    arguments = 2 * shift + 2 * (y * shift).sum(axis=1, keepdims=True)
    relative = a.u * (arguments + 2 * EXP_ULPS + 2) + a.of_sum(classes, 1.0)
    relative = relative + np.expm1(np.minimum(2 * x.limit.max(axis=1, keepdims=True), 100))  # no overflow
    y_limit = np.minimum(y * relative + a.tiny, 1)
    grad_limit = (y_limit + 2 * a.u * np.abs(y - np.eye(classes)[labels])) / n
    inside = y[picked] + max(offset, a.tiny)
    inside_relative = y_limit[picked] / inside + a.u
    size = np.abs(np.log(inside))
    # The log of what may be larger or smaller by that much, but is never under the offset.
    below = -np.log(np.maximum(1 - inside_relative, max(offset, a.tiny) / inside))
    per_sample = np.maximum(np.log1p(inside_relative), below) + EXP_ULPS * a.u * size
    return float(per_sample.mean() + a.of_sum(n, size.mean())), grad_limit
