"""The book's convolution as a torch module."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from torchport.im2col import im2col, output_size


class UnfoldConv2d(nn.Conv2d):
    """nn.Conv2d by im2col and one matrix product, as in section 7.4.3 of the book; the same parameters and names.

    input (N, C, H, W), output (N, out_channels, OH, OW). ValueError for what the book's convolution does not have:
    groups, dilation, padding by name or other than with zeros.
    """

    def forward(self, input: Tensor) -> Tensor:
        stride, padding = self._stride_and_padding()
        if input.ndim != 4 or input.shape[1] != self.in_channels:
            raise ValueError(f"input must be (N, {self.in_channels}, H, W), got shape {tuple(input.shape)}")
        n, _, h, w = input.shape
        kernel = (self.kernel_size[0], self.kernel_size[1])
        out_h, out_w = output_size(h, w, kernel, stride, padding)
        col = im2col(input, kernel, stride, padding)  # (N*OH*OW, C*KH*KW)
        out = F.linear(col, self.weight.flatten(1), self.bias)  # (N*OH*OW, out_channels)
        return out.reshape(n, out_h, out_w, self.out_channels).permute(0, 3, 1, 2)

    def _stride_and_padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or isinstance(self.padding, str):
            raise ValueError(
                f"UnfoldConv2d takes groups=1, dilation=1 and zero padding in pixels, got groups={self.groups}, "
                f"dilation={self.dilation}, padding={self.padding!r}, padding_mode={self.padding_mode!r}: use nn.Conv2d"
            )
        return (self.stride[0], self.stride[1]), (self.padding[0], self.padding[1])
