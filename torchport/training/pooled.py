"""SimpleConvNet's layers in the order in which they cost least, for training and evaluation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from torchport.networks import SimpleConvNet

POOLING = ((4, 1), (4, 1), (0, 0), (1, 1), False)  # kernel, stride, padding, dilation, ceil_mode


def arranged(net: nn.Module) -> nn.Module:
    """net itself, or what computes the same from its parameters in less time: a PoolFirst of a SimpleConvNet."""
    if not isinstance(net, SimpleConvNet):
        return net
    if not pools_at_once(net):  # oneDNN and cuDNN are faster so; the layout changes, no value does
        nn.Module.to(net, memory_format=torch.channels_last)
    return PoolFirst(net)


class PoolFirst(nn.Module):
    """A SimpleConvNet's outputs with relu after pooling, where it has a quarter of the work.

    Equal to the bit, in outputs and gradients: relu is monotonic, so it keeps the maximum and its place; where a
    window holds nothing above 0, neither order passes a gradient. On the CPU an nn.Conv2d is convolved and pooled at
    once, equal but for the order of its sums.
    """

    def __init__(self, net: SimpleConvNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, input: Tensor) -> Tensor:
        """Logits (N, classes) of input (N, C, H, W)."""
        net = self.net
        at_once = pools_at_once(net)
        pooled = conv_pool_relu(input, net.conv1) if at_once else net.relu1(net.pool1(net.conv1(input)))
        output: Tensor = net.affine2(net.relu2(net.affine1(net.flatten(pooled))))
        return output


def pools_at_once(net: SimpleConvNet) -> bool:
    """Whether net's first two layers are ones for conv_pool_relu, on a device where that is faster."""
    conv = net.conv1
    return type(conv) is nn.Conv2d and conv.stride == (1, 1) and conv.weight.device.type == "cpu"


def conv_pool_relu(input: Tensor, conv: nn.Conv2d) -> Tensor:
    """F.max_pool2d(conv(input), 2).relu() for a conv of stride 1 with bias: (N, FN, OH // 2, OW // 2).

    The 2 x 2 outputs of a window of pooling see (FH + 1) x (FW + 1) pixels. Filters in four copies, each shifted to
    one of these outputs, times those pixels give all four: one product of less skinny matrices, with 36 pixels a window
    to gather for the book's filters instead of 4 * 25.
    """
    filter_h, filter_w = conv.weight.shape[2:]
    pad_h, pad_w = int(conv.padding[0]), int(conv.padding[1])
    padded = F.pad(input, (pad_w, pad_w, pad_h, pad_h)) if pad_h or pad_w else input
    windows = padded.unfold(2, filter_h + 1, 2).unfold(3, filter_w + 1, 2)  # (N, C, PH, PW, FH + 1, FW + 1)
    output: Tensor = _LargestOfFour.apply(windows, conv.weight, conv.bias)
    return output


class _LargestOfFour(torch.autograd.Function):
    """The largest of four products a window, plus a bias, where it is above 0.

    As torch's operators one by one, but for what they would allocate anew: fresh memory costs more than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, _, out_h, out_w = windows.shape[:4]
        filters = len(bias)
        shifted = weight.new_zeros(4, *weight.shape[:2], *windows.shape[4:])  # (4, FN, C, FH + 1, FW + 1)
        for copy in _shifts(shifted):
            copy.copy_(weight)
        wide = shifted.view(4 * filters, -1)  # (4 * FN, K) with K = C * (FH + 1) * (FW + 1)
        rows = windows.permute(0, 2, 3, 1, 4, 5).reshape(n, out_h * out_w, wide.shape[1])  # (N, P, K)
        four = torch.bmm(wide.expand(n, -1, -1), rows.transpose(1, 2))  # (N, 4 * FN, P)
        # The four as pixels of an image whose channels are all the rest, side by side in memory as max_pool2d likes it.
        pixels = four.view(n, 4, 1, filters * out_h * out_w).permute(0, 3, 1, 2)
        largest, where = torch.ops.aten.max_pool2d_with_indices(pixels, *POOLING)
        output: Tensor = largest.permute(0, 2, 3, 1).view(n, filters, out_h, out_w)
        output.add_(bias[:, None, None]).relu_()
        ctx.save_for_backward(wide, rows, where, output)
        ctx.pixels, ctx.window = pixels, shifted.shape[2:]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        wide, rows, where, output = ctx.saved_tensors
        n, filters = output.shape[:2]
        passed = torch.ops.aten.threshold_backward(grad_output, output, 0)
        pixels: Tensor = ctx.pixels
        upstream = passed.reshape(n, 1, 1, pixels.shape[1]).permute(0, 3, 1, 2)
        # Into the memory of the four products, of which only the shape is needed.
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(upstream, pixels, *POOLING, where, grad_input=pixels)
        four = pixels.permute(0, 2, 3, 1).view(n, 4 * filters, rows.shape[1])
        first, *others = _shifts(torch.bmm(four, rows).sum(dim=0).view(4, filters, *ctx.window))
        grad_weight = sum(others, first)
        grad_windows = None
        if ctx.needs_input_grad[0]:
            grad_rows = torch.matmul(four.transpose(1, 2), wide)  # (N, P, K)
            grad_windows = grad_rows.view(n, *output.shape[2:], *ctx.window).permute(0, 3, 1, 2, 4, 5)
        return grad_windows, grad_weight, passed.sum(dim=(0, 2, 3))


def _shifts(shifted: Tensor) -> list[Tensor]:
    """Of (4, FN, C, FH + 1, FW + 1), where the filter lies in each of the four: views (FN, C, FH, FW)."""
    height, width = shifted.shape[3] - 1, shifted.shape[4] - 1
    places = ((y, x) for y in (0, 1) for x in (0, 1))
    return [shifted[i, :, :, y : y + height, x : x + width] for i, (y, x) in enumerate(places)]
