"""SimpleConvNet's layers in the order in which they cost least, for training and evaluation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchport.networks import SimpleConvNet


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
        pooled = convolve_and_pool(input, net.conv1) if pools_at_once(net) else net.pool1(net.conv1(input))
        output: Tensor = net.affine2(net.relu2(net.affine1(net.flatten(net.relu1(pooled)))))
        return output


def pools_at_once(net: SimpleConvNet) -> bool:
    """Whether net's first two layers are ones for convolve_and_pool, on a device where that is faster."""
    conv = net.conv1
    return type(conv) is nn.Conv2d and conv.stride == (1, 1) and conv.weight.device.type == "cpu"


def convolve_and_pool(input: Tensor, conv: nn.Conv2d) -> Tensor:
    """F.max_pool2d(conv(input), 2) for a conv of stride 1 with bias: (N, FN, OH // 2, OW // 2).

    The 2 x 2 outputs of a window of pooling see (FH + 1) x (FW + 1) pixels. Filters in four copies, each shifted to
    one of these outputs, times those pixels give all four: one product of less skinny matrices, with 36 pixels a window
    to gather for the book's filters instead of 4 * 25.
    """
    n, _, height, width = input.shape
    filters, _, filter_h, filter_w = conv.weight.shape
    pad_h, pad_w = int(conv.padding[0]), int(conv.padding[1])
    out_h, out_w = (height + 2 * pad_h - filter_h + 1) // 2, (width + 2 * pad_w - filter_w + 1) // 2
    shifted = torch.stack([F.pad(conv.weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)])
    padded = F.pad(input, (pad_w, pad_w, pad_h, pad_h))
    windows = padded.unfold(2, filter_h + 1, 2).unfold(3, filter_w + 1, 2).permute(0, 1, 4, 5, 2, 3)
    wide = shifted.flatten(0, 1).flatten(1)  # (4 * FN, C * (FH + 1) * (FW + 1))
    outputs = torch.bmm(wide.expand(n, -1, -1), windows.reshape(n, wide.shape[1], out_h * out_w))
    # The four as pixels of an image whose channels are all the rest, side by side in memory as max_pool2d likes it.
    pixels = outputs.view(n, 4, 1, filters * out_h * out_w).permute(0, 3, 1, 2)
    largest = F.max_pool2d(pixels, (4, 1)).permute(0, 2, 3, 1).reshape(n, filters, out_h, out_w)
    assert conv.bias is not None  # a SimpleConvNet's
    return largest + conv.bias[:, None, None]
