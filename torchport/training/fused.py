"""Parts of a training step in a faster form: several operations as one, or in another order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from numpy_ref.functions import LOG_OFFSET
from torchport.networks import SimpleConvNet

POOLING = ((4, 1), (4, 1), (0, 0), (1, 1), False)  # kernel, stride, padding, dilation, ceil_mode


def arranged(net: nn.Module, tensor_cores: bool = False) -> nn.Module:
    """A module that computes the same as net from its parameters, in less time: of a SimpleConvNet a PoolFirst."""
    if not isinstance(net, SimpleConvNet):
        return net
    if pools_at_once(net):
        return PoolFirst(net, Gathered.of(net.conv1, net.input_dim))
    if tensor_cores or net.conv1.weight.is_cpu:  # oneDNN and tensor cores are faster so; no value changes
        nn.Module.to(net, memory_format=torch.channels_last)
    return PoolFirst(net)


class PoolFirst(nn.Module):
    """A SimpleConvNet's outputs with relu after pooling, where it has a quarter of the work.

    Equal to the bit, in outputs and gradients: relu is monotonic, so it keeps the maximum and its place; where a
    window holds nothing above 0, neither order passes a gradient. With gathered, convolution, pooling and relu are one
    operation, equal but for the order of its sums. So are the first affine layer and its relu.
    """

    def __init__(self, net: SimpleConvNet, gathered: Gathered | None = None) -> None:
        super().__init__()
        self.net = net
        self.gathered = gathered
        # Not on CUDA: a graph remembers memory that a larger batch would have resized.
        self.scratch = net.conv1.weight.new_empty(0) if net.conv1.weight.is_cpu else None

    def forward(self, input: Tensor) -> Tensor:
        """Logits (N, classes) of input (N, C, H, W)."""
        net = self.net
        if self.gathered is None:
            pooled = net.relu1(net.pool1(net.conv1(input)))
        else:
            pooled = conv_pool_relu(input, net.conv1, self.gathered, self.scratch)
        output: Tensor = net.affine2(affine_relu(net.flatten(pooled), net.affine1))
        return output


def affine_relu(input: Tensor, affine: nn.Linear) -> Tensor:
    """affine(input).relu() of input (N, inputs): on CUDA the product's own kernel adds the bias and cuts off."""
    if torch.is_autocast_enabled(input.device.type):  # which does not know this operation
        output: Tensor = affine(input).relu()
    else:
        output = _AffineRelu.apply(input, affine.weight, affine.bias)
    return output


class _AffineRelu(torch.autograd.Function):
    """torch's _addmm_activation, which has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = torch._addmm_activation(bias, input, weight.t())
        ctx.save_for_backward(input, weight, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        input, weight, output = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(grad_output, output, 0)
        grad_input = passed @ weight if ctx.needs_input_grad[0] else None
        return grad_input, passed.t() @ input, passed.sum(dim=0)


def log_likelihood(chances: Tensor, one_hot: Tensor, out: Tensor) -> None:
    """Into out () the sum over samples of log(chance of the label + 1e-7): the book's loss times -N.

    chances (N, classes) are the softmax; one_hot (N, classes), 0 or 1 in any dtype, stands for labels: whatever looks
    labels up waits for the host, or is slow where algorithms have to be deterministic.
    """
    torch.sum(torch.xlogy(one_hot, chances + LOG_OFFSET), dim=(0, 1), out=out)


def loss_gradient(chances: Tensor, one_hot: Tensor, n: float) -> Tensor:
    """(chances - one_hot) / n, in the memory of chances: of the book's mean loss over n samples by the logits."""
    return chances.sub_(one_hot).div_(n)


def pools_at_once(net: SimpleConvNet) -> bool:
    """Whether conv_pool_relu can compute net's convolution and pooling, on a device where it is faster."""
    conv = net.conv1
    return type(conv) is nn.Conv2d and conv.stride == (1, 1) and conv.weight.device.type == "cpu"


class Gathered(NamedTuple):
    """The indices by which conv_pool_relu gathers pixels and weights, for images of one size."""

    seen: Tensor  # of C * H * W padded pixels and a 1: (K * PH * PW,), with K = C * (FH + 1) * (FW + 1) + 1
    shifted: Tensor  # of a filter's C * FH * FW weights, its bias and a 0: (4 * K,)
    pooled: tuple[int, int]  # PH, PW

    @classmethod
    def of(cls, conv: nn.Conv2d, input_dim: Sequence[int]) -> Gathered:
        """For images of input_dim (C, H, W)."""
        device, (filter_h, filter_w) = conv.weight.device, conv.weight.shape[2:]
        channels, height, width = (size + 2 * int(pad) for size, pad in zip(input_dim, (0, *conv.padding), strict=True))
        one, bias = channels * height * width, channels * filter_h * filter_w
        pixels = torch.arange(one, device=device).view(channels, height, width)
        seen = pixels.unfold(1, filter_h + 1, 2).unfold(2, filter_w + 1, 2)  # (C, PH, PW, FH + 1, FW + 1)
        pooled = (seen.shape[1], seen.shape[2])
        weights = torch.arange(bias, device=device).view(channels, filter_h, filter_w)
        shifted = weights.new_full((4, channels, filter_h + 1, filter_w + 1), bias + 1)
        for copy, (y, x) in zip(shifted, itertools.product((0, 1), repeat=2), strict=True):
            copy[:, y : y + filter_h, x : x + filter_w] = weights
        return cls(
            torch.cat((seen.permute(0, 3, 4, 1, 2).flatten(), pixels.new_full((math.prod(pooled),), one))),
            torch.cat((shifted.flatten(1), weights.new_full((4, 1), bias)), dim=1).flatten(),
            pooled,
        )


def conv_pool_relu(input: Tensor, conv: nn.Conv2d, gathered: Gathered, scratch: Tensor | None = None) -> Tensor:
    """F.max_pool2d(conv(input), 2).relu() for a conv of stride 1 with bias: (N, FN, PH, PW).

    The 2 x 2 outputs of a window of pooling see (FH + 1) x (FW + 1) pixels. Filters in four copies, each shifted to one
    of these outputs, times those pixels and a 1 for the bias give all four: one product of less skinny matrices, with
    36 pixels a window to gather for the book's filters instead of 4 * 25. Images lie side by side, so that a pixel of
    all of them is one run of memory.

    scratch is memory for that product, in conv's dtype, resized as needed: allocating it in every call costs time. Any
    number of calls may share it, one at a time.
    """
    # Side by side they are max_pool2d's channels, of which it wants at least one; and autocast knows no given memory.
    if not len(input) or torch.is_autocast_enabled(input.device.type):
        return F.max_pool2d(conv(input), 2).relu()
    pad_h, pad_w = int(conv.padding[0]), int(conv.padding[1])
    padded = F.pad(input, (pad_w, pad_w, pad_h, pad_h)) if pad_h or pad_w else input
    pixels = torch.cat((padded.flatten(1).t(), padded.new_ones(1, len(padded))))  # (C * H * W + 1, N)
    seen = pixels.index_select(0, gathered.seen)  # (K * PH * PW, N)
    output: Tensor = _LargestOfFour.apply(seen, conv.weight, conv.bias, gathered, scratch)
    return output


class _LargestOfFour(torch.autograd.Function):
    """The largest of a filter's four products with each window, where it is above 0, else 0.

    What torch's operators compute one by one, in fewer allocations: fresh memory costs more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, seen: Tensor, weight: Tensor, bias: Tensor, gathered: Gathered, scratch: Tensor | None
    ) -> Tensor:
        filters = len(weight)
        weights = torch.cat((weight.flatten(1), bias[:, None], bias.new_zeros(filters, 1)), dim=1)
        wide = weights.index_select(1, gathered.shifted).view(filters * 4, -1)  # (4 * FN, K)
        columns = seen.view(wide.shape[1], -1)  # (K, PH * PW * N)
        # As pixels of images whose channels are the rest of a row, side by side in memory as max_pool2d likes it.
        memory = None if scratch is None else scratch.resize_(len(wide), columns.shape[1])
        product = torch.mm(wide, columns, out=memory)
        pixels = product.view(filters, 4, 1, -1).permute(0, 3, 1, 2)
        largest, where = torch.ops.aten.max_pool2d_with_indices(pixels, *POOLING)
        output: Tensor = largest.view(filters, *gathered.pooled, -1).permute(3, 0, 1, 2)
        output.relu_()
        ctx.save_for_backward(wide, columns, where, output, gathered.shifted)
        ctx.pixels, ctx.weight_shape = pixels, weight.shape
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        wide, columns, where, output, shifted = ctx.saved_tensors
        pixels: Tensor = ctx.pixels
        filters = len(pixels)
        # First side by side as the output is: an operation on two orders of memory takes eight times as long.
        upstream, kept = (each.permute(1, 2, 3, 0).reshape(filters, -1) for each in (grad_output, output))
        passed = torch.ops.aten.threshold_backward(upstream, kept, 0)
        upstream = passed.view(filters, 1, 1, -1).permute(0, 3, 1, 2)
        # Into the memory of the product, of which only the shape is needed, whatever it holds by now.
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(upstream, pixels, *POOLING, where, grad_input=pixels)
        grad = pixels.permute(0, 2, 3, 1).view(filters * 4, -1)
        # The transposed product costs less: its longer side is shared among threads.
        grad_wide = torch.mm(columns, grad.t()).t().reshape(filters, -1)
        grad_weights = grad_wide.new_zeros(filters, math.prod(ctx.weight_shape[1:]) + 2)
        grad_weights.index_add_(1, shifted, grad_wide)
        grad_seen = torch.mm(wide.t(), grad).view(-1, len(output)) if ctx.needs_input_grad[0] else None
        return grad_seen, grad_weights[:, :-2].view(ctx.weight_shape), grad_weights[:, -2], None, None
