"""im2col and col2im on tensors, with rows and columns in the order of numpy_ref.util."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from numpy_ref.util import conv_output_size
from torchport.checks import check_floating, check_tensor

Size2d = int | tuple[int, int]


def pair(name: str, value: Size2d) -> tuple[int, int]:
    """value as a pair, (value, value) for an int, as torch reads kernel_size, stride and padding. Raises TypeError."""
    if isinstance(value, tuple) and len(value) == 2:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value), int(value)
    raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")


def output_size(height: int, width: int, kernel_size: Size2d, stride: Size2d, padding: Size2d) -> tuple[int, int]:
    """(OH, OW) of a convolution over height x width pixels, floored. Raises ValueError if the kernel does not fit."""
    sizes = zip((height, width), *_pairs(kernel_size, stride, padding), strict=True)
    out_h, out_w = (conv_output_size(*size) for size in sizes)
    return out_h, out_w


def _pairs(kernel_size: Size2d, stride: Size2d, padding: Size2d) -> tuple[tuple[int, int], ...]:
    return pair("kernel_size", kernel_size), pair("stride", stride), pair("padding", padding)


def im2col(input: Tensor, kernel_size: Size2d, stride: Size2d = 1, padding: Size2d = 0) -> Tensor:
    """The windows of input (N, C, H, W) as rows: (N*OH*OW, C*KH*KW). Raises ValueError if the kernel does not fit.

    Rows run over (n, out_y, out_x), columns over (c, ky, kx).
    """
    n, c, h, w = check_tensor("input", input, ndim=4).shape
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w) = _pairs(kernel_size, stride, padding)
    out_h, out_w = output_size(h, w, kernel_size, stride, padding)
    padded = F.pad(input, (pad_w, pad_w, pad_h, pad_h))
    windows = padded.unfold(2, kernel_h, stride_h).unfold(3, kernel_w, stride_w)  # (N, C, OH, OW, KH, KW)
    # Column-major in memory: a column is a shifted image, which is copied in rows of OW pixels instead of KW.
    return windows.permute(1, 4, 5, 0, 2, 3).reshape(c * kernel_h * kernel_w, n * out_h * out_w).t()


def col2im(
    col: Tensor, input_size: tuple[int, int, int, int], kernel_size: Size2d, stride: Size2d = 1, padding: Size2d = 0
) -> Tensor:
    """Add the rows of im2col back into images of input_size (N, C, H, W): im2col's adjoint. Raises ValueError."""
    if len(input_size) != 4 or min(input_size) < 1:
        raise ValueError(f"input_size must be (N, C, H, W) with no empty axis, got {tuple(input_size)}")
    n, c, h, w = input_size
    kernel_h, kernel_w = pair("kernel_size", kernel_size)
    out_h, out_w = output_size(h, w, kernel_size, stride, padding)
    expected = (n * out_h * out_w, c * kernel_h * kernel_w)
    if tuple(check_floating("col", check_tensor("col", col)).shape) != expected:
        raise ValueError(f"col must have shape {expected} for an image of {tuple(input_size)}, got {tuple(col.shape)}")
    by_image = col.reshape(n, out_h * out_w, -1).transpose(1, 2)  # (N, C*KH*KW, OH*OW), as torch's fold takes it
    kernel, step, pad = _pairs(kernel_size, stride, padding)
    return F.fold(by_image, (h, w), kernel, padding=pad, stride=step)
