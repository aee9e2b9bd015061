"""Max and average pooling (Deep Learning from Scratch, section 7.4.4)."""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import Array, check_batch, check_int, check_shape, recorded
from numpy_ref.im2col import col2im, conv_output_size, im2col, pad_image


class _Pooling2d:
    """The windows that max and average pooling share: (N, C, H, W) to (N, C, OH, OW), each channel by itself."""

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        self.pool_h = check_int("pool_h", pool_h, 1)
        self.pool_w = check_int("pool_w", pool_w, 1)
        self.stride = check_int("stride", stride, 1)
        self.pad = check_int("pad", pad, 0)
        if pad >= min(pool_h, pool_w):
            raise ValueError(
                f"pad must be smaller than the window {pool_h}x{pool_w}, got {pad}: a window would be empty"
            )
        self.x_shape: tuple[int, int, int, int] | None = None

    def windows(self, x: Array, padding_value: float) -> Array:
        """One window a row, (N*OH*OW*C, PH*PW)."""
        n, c, h, w = check_batch("x", x, ndim=4).shape
        self.x_shape = (n, c, h, w)
        padded = pad_image(x, self.pad, padding_value) if self.pad else x
        return im2col(padded, self.pool_h, self.pool_w, self.stride).reshape(-1, self.pool_h * self.pool_w)

    def _output_shape(self, x_shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        n, c, h, w = x_shape
        out_h = conv_output_size(h, self.pool_h, self.stride, self.pad)
        out_w = conv_output_size(w, self.pool_w, self.stride, self.pad)
        return n, c, out_h, out_w

    def _image(self, per_window: Array) -> Array:
        """One value a window, (N*OH*OW*C,), as (N, C, OH, OW)."""
        n, c, out_h, out_w = self._output_shape(recorded(self.x_shape, self))
        return per_window.reshape(n, out_h, out_w, c).transpose(0, 3, 1, 2)

    def per_window(self, dout: Array) -> Array:
        """dout (N, C, OH, OW) in the order of the windows, (N*OH*OW*C,)."""
        check_shape("dout", dout, self._output_shape(recorded(self.x_shape, self)))
        return dout.transpose(0, 2, 3, 1).reshape(-1)

    def scatter(self, dwindows: Array) -> Array:
        """Add the windows' gradients (N*OH*OW*C, PH*PW) into the image; what falls on padding is dropped."""
        n, c, h, w = recorded(self.x_shape, self)
        rows = dwindows.reshape(-1, c * self.pool_h * self.pool_w)
        return col2im(rows, (n, c, h, w), self.pool_h, self.pool_w, self.stride, self.pad)


class Pooling(_Pooling2d):
    """Max pooling; the gradient goes to the first maximum of a window in row order.

    Padding never wins the maximum (the original pads with zeros, and forgets pad in its output size). ValueError for a
    pad as large as the window.
    """

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        super().__init__(pool_h, pool_w, stride, pad)
        self.arg_max: Array | None = None  # (N*OH*OW*C,), index inside the window

    def forward(self, x: Array) -> Array:
        check_batch("x", x, ndim=4)
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        windows = self.windows(x, lowest)
        self.arg_max = windows.argmax(axis=1)
        # Where the maxima are is known by now, and NumPy's max over so short an axis is slow.
        return self._image(windows[np.arange(len(windows)), self.arg_max])

    def backward(self, dout: Array) -> Array:
        arg_max = recorded(self.arg_max, self)
        upstream = self.per_window(dout)
        dwindows = np.zeros((len(arg_max), self.pool_h * self.pool_w), dtype=dout.dtype)
        dwindows[np.arange(len(arg_max)), arg_max] = upstream
        return self.scatter(dwindows)


class AveragePooling(_Pooling2d):
    """Mean of each window; padding counts as zeros, as in torch's AvgPool2d. The book names it and leaves it out."""

    def forward(self, x: Array) -> Array:
        return self._image(self.windows(x, 0).mean(axis=1))

    def backward(self, dout: Array) -> Array:
        area = self.pool_h * self.pool_w
        share = self.per_window(dout) / area
        return self.scatter(np.repeat(share[:, np.newaxis], area, axis=1))
