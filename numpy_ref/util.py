"""Images as matrices (Deep Learning from Scratch, section 7.4), and two helpers for data and curves."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numpy_ref.checks import Array, check_array, check_batch, check_int, check_shape, random_stream

SMOOTHING_WINDOW = 11


def conv_output_size(input_size: int, filter_size: int, stride: int = 1, pad: int = 0) -> int:
    """(input_size + 2 * pad - filter_size) // stride + 1, in pixels: floored, as torch does.

    ValueError for sizes below 1, a negative pad, or a filter larger than the padded image.
    """
    check_int("input_size", input_size, 1)
    check_int("filter_size", filter_size, 1)
    check_int("stride", stride, 1)
    check_int("pad", pad, 0)
    if filter_size > input_size + 2 * pad:
        raise ValueError(
            f"a filter of {filter_size} pixels does not fit an image of {input_size} pixels padded by {pad} a side"
        )
    return (input_size + 2 * pad - filter_size) // stride + 1


def pad_image(x: Array, pad: int, value: float = 0) -> Array:
    """Return x (N, C, H, W) with pad pixels of value added on each of the four sides; a copy in x's dtype."""
    n, c, h, w = x.shape
    padded = np.full((n, c, h + 2 * pad, w + 2 * pad), value, dtype=x.dtype)
    padded[:, :, pad : pad + h, pad : pad + w] = x
    return padded


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """Return every window of input_data (N, C, H, W) as one row: (N*OH*OW, C*FH*FW), in the dtype of the input.

    Rows run over (n, out_y, out_x), columns over (c, fy, fx). ValueError as in conv_output_size. The original converts
    every dtype to float64; here the dtype is kept.
    """
    n, c, h, w = check_batch("input_data", input_data, ndim=4).shape
    out_h = conv_output_size(h, filter_h, stride, pad)
    out_w = conv_output_size(w, filter_w, stride, pad)
    padded = pad_image(input_data, pad) if pad else input_data
    windows = sliding_window_view(padded, (filter_h, filter_w), axis=(2, 3))[:, :, ::stride, ::stride]
    rows = np.array(windows.transpose(0, 2, 3, 1, 4, 5), order="C")  # (N, OH, OW, C, FH, FW), a copy: it is writable
    return rows.reshape(n * out_h * out_w, c * filter_h * filter_w)


def im2col_by_window(input_data: Array, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """Like im2col, as a loop over the windows: slower, but easier to read, and correct for every stride.

    The version that circulates moves its window by 1 pixel whatever the stride is.
    """
    n, c, h, w = check_batch("input_data", input_data, ndim=4).shape
    out_h = conv_output_size(h, filter_h, stride, pad)
    out_w = conv_output_size(w, filter_w, stride, pad)
    padded = pad_image(input_data, pad)
    col = np.empty((n, out_h, out_w, c * filter_h * filter_w), dtype=input_data.dtype)
    for out_y in range(out_h):
        for out_x in range(out_w):
            top, left = out_y * stride, out_x * stride
            window = padded[:, :, top : top + filter_h, left : left + filter_w]  # (N, C, FH, FW)
            col[:, out_y, out_x] = window.reshape(n, -1)
    return col.reshape(n * out_h * out_w, -1)


def col2im(
    col: Array, input_shape: tuple[int, int, int, int], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> Array:
    """Sum the rows of col (N*OH*OW, C*FH*FW) into images of input_shape: the adjoint of im2col, in col's dtype.

    ValueError if col does not fit input_shape. The original converts every dtype to float64.
    """
    if len(input_shape) != 4 or min(input_shape) < 1:
        raise ValueError(f"input_shape must be (N, C, H, W) with no empty axis, got {tuple(input_shape)}")
    n, c, h, w = input_shape
    out_h = conv_output_size(h, filter_h, stride, pad)
    out_w = conv_output_size(w, filter_w, stride, pad)
    check_shape("col", col, (n * out_h * out_w, c * filter_h * filter_w))
    windows = col.reshape(n, out_h, out_w, c, filter_h, filter_w)
    # Channels last in memory, as in the rows: this is faster than rearranging them on the way.
    padded = np.zeros((n, h + 2 * pad, w + 2 * pad, c), dtype=col.dtype)
    for y in range(filter_h):
        for x in range(filter_w):
            # One offset inside the filter touches each pixel at most once, so += adds them all.
            padded[:, y : y + stride * out_h : stride, x : x + stride * out_w : stride] += windows[..., y, x]
    return padded[:, pad : pad + h, pad : pad + w].transpose(0, 3, 1, 2)


def shuffle_dataset(x: Array, t: Array, rng: np.random.RandomState | None = None) -> tuple[Array, Array]:
    """Return x and t in one random order along their first axis. ValueError if their lengths differ."""
    check_array("x", x)
    check_array("t", t)
    if len(x) != len(t):
        raise ValueError(f"x and t must have one length, got {len(x)} and {len(t)}")
    order = random_stream(rng).permutation(len(x))
    return x[order], t[order]


def smooth_curve(x: Array) -> Array:
    """Return a moving average of x (n,) for plots: a Kaiser window of 11 (beta 2), ends mirrored. ValueError for n < 6.

    As in the book, the left end is mirrored without its edge sample and the right end with it.
    """
    x = check_array("x", np.asarray(x), ndim=1)
    half = SMOOTHING_WINDOW // 2
    if len(x) <= half:
        raise ValueError(f"x must have at least {half + 1} samples, got {len(x)}")
    weights = np.kaiser(SMOOTHING_WINDOW, 2)
    mirrored = np.concatenate([x[half:0:-1], x, x[: -half - 1 : -1]])
    return np.convolve(weights / weights.sum(), mirrored, mode="valid")
