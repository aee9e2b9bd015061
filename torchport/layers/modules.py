"""Torch modules for layers of the book that torch lacks or defines differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numpy_ref.checks import check_int, check_number
from numpy_ref.layers import BatchNormalization as ReferenceBatchNormalization
from torchport.checks import check_floating, check_goes_with, check_tensor
from torchport.layers.columns import im2col, output_size, pair


class UnfoldConv2d(nn.Conv2d):
    """nn.Conv2d computed by im2col and a matrix product, as in section 7.4.3 of the book, with the same parameters.

    input is (N, C, H, W), the output (N, out_channels, OH, OW). Raises ValueError for options that the book's
    convolution lacks: groups, dilation, padding by name or with other numbers than 0, and no filters.
    """

    def forward(self, input: Tensor) -> Tensor:
        stride, padding = self._stride_and_padding()
        if check_tensor("input", input, ndim=4).shape[1] != self.in_channels:
            raise ValueError(f"input must be (N, {self.in_channels}, H, W), got shape {tuple(input.shape)}")
        check_goes_with("input", input, self.weight)
        if self.out_channels == 0:
            raise ValueError("out_channels must be at least 1, got 0")
        n, _, h, w = input.shape
        kernel = (self.kernel_size[0], self.kernel_size[1])
        out_h, out_w = output_size(h, w, kernel, stride, padding)
        col = im2col(input, kernel, stride, padding).unflatten(0, (n, out_h * out_w))  # (N, OH*OW, C*KH*KW)
        filters = self.weight.flatten(1).expand(n, -1, -1)  # (N, out_channels, C*KH*KW)
        # One product for each image: its result has the memory layout that the next layers expect.
        columns = col.transpose(1, 2)
        bias = None if self.bias is None else self.bias[:, None].expand(n, -1, -1)  # (N, out_channels, 1)
        out: Tensor = torch.bmm(filters, columns) if bias is None else torch.baddbmm(bias, filters, columns)
        return out.view(n, self.out_channels, out_h, out_w)

    def _stride_and_padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or isinstance(self.padding, str):
            raise ValueError(
                f"UnfoldConv2d takes groups=1, dilation=1 and zero padding in pixels, got groups={self.groups}, "
                f"dilation={self.dilation}, padding={self.padding!r}, padding_mode={self.padding_mode!r}: use nn.Conv2d"
            )
        return (self.stride[0], self.stride[1]), (self.padding[0], self.padding[1])


class Subsampling(nn.Module):
    """LeNet-5's trainable subsampling: each window's sum times weight plus bias, both (channels,).

    input is (N, channels, H, W). Raises ValueError for another number of channels, TypeError for another dtype.
    """

    def __init__(self, channels: int, size: int | tuple[int, int] = 2, stride: int = 2) -> None:
        super().__init__()
        self.size, self.stride = pair("size", size), check_int("stride", stride, 1)
        # Initially the mean of a window.
        self.weight = nn.Parameter(torch.full((check_int("channels", channels, 1),), 1 / (self.size[0] * self.size[1])))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Tensor) -> Tensor:
        if check_tensor("input", input, ndim=4).shape[1] != len(self.weight):
            raise ValueError(f"input must be (N, {len(self.weight)}, H, W), got shape {tuple(input.shape)}")
        check_goes_with("input", input, self.weight)
        # Not by divisor_override=1, which ONNX lacks and torch's exporter silently drops.
        sums = F.avg_pool2d(input, self.size, self.stride) * (self.size[0] * self.size[1])
        return sums * self.weight[:, None, None] + self.bias[:, None, None]


class Dropout(nn.Module):
    """The book's Dropout: zero where a uniform draw is <= dropout_ratio in training, x * (1 - dropout_ratio) in eval.

    nn.Dropout instead scales the kept entries in training. draw(shape, device=...) makes the uniform numbers; another
    function than torch.rand can repeat a mask.
    """

    def __init__(self, dropout_ratio: float = 0.5, draw: Callable[..., Tensor] = torch.rand) -> None:
        super().__init__()
        self.dropout_ratio = check_number("dropout_ratio", dropout_ratio, 0, 1)
        self.draw = draw

    def forward(self, input: Tensor) -> Tensor:
        check_floating("input", check_tensor("input", input))
        if not self.training:
            return input * (1 - self.dropout_ratio)
        return input * (self.draw(input.shape, device=input.device) > self.dropout_ratio)


class BatchNormalization(nn.Module):
    """The book's batch normalisation of num_features = D features: input (N, D), or (N, C, H, W) with C*H*W = D.

    Differences from nn.BatchNorm1d and 2d: eps is 1e-6; the running variance is biased and starts at 0; momentum is the
    weight of the old running value; each pixel of each channel is a feature of its own.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, momentum: float = 0.9, **place: Any) -> None:
        super().__init__()
        self.num_features = check_int("num_features", num_features, 1)
        self.momentum = check_number("momentum", momentum, 0, 1)
        self.weight = nn.Parameter(torch.ones(num_features, **place))
        self.bias = nn.Parameter(torch.zeros(num_features, **place))
        self.register_buffer("running_mean", torch.zeros(num_features, **place))
        self.register_buffer("running_var", torch.zeros(num_features, **place))

    def forward(self, input: Tensor) -> Tensor:
        check_goes_with("input", check_tensor("input", input), self.weight)
        flat = input.flatten(1)  # (N, D)
        if flat.shape[1] != self.num_features:
            raise ValueError(f"input of shape {tuple(input.shape)} must have {self.num_features} features a sample")
        mean, var = self._statistics(flat) if self.training else (self.running_mean, self.running_var)
        normalised = (flat - mean) / (var + ReferenceBatchNormalization.EPS).sqrt()
        return (self.weight * normalised + self.bias).view_as(input)

    def _statistics(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and biased variance (D,) of the batch; also updates the running ones."""
        mean = flat.mean(dim=0)
        var = (flat - mean).square().mean(dim=0)
        with torch.no_grad():
            self.running_mean.mul_(self.momentum).add_((1 - self.momentum) * mean)
            self.running_var.mul_(self.momentum).add_((1 - self.momentum) * var)
        return mean, var


def window_module(kind: Callable[..., nn.Module], border: float) -> Callable[[Any, str], nn.Module]:
    """A LayerKind.module that makes kind with a pooling layer's windows; border is the value of padding."""

    def make(layer: Any, _: str) -> nn.Module:
        size = layer.pool_h, layer.pool_w
        if 2 * layer.pad <= min(size):
            return kind(size, layer.stride, layer.pad)
        # torch allows padding only up to half a window.
        return nn.Sequential(nn.ConstantPad2d(layer.pad, border), kind(size, layer.stride))

    return make


def window_about(layer: Any) -> str:
    """A description of a pooling layer's windows."""
    return f"{layer.pool_h} x {layer.pool_w}, stride {layer.stride}" + (f", pad {layer.pad}" if layer.pad else "")
