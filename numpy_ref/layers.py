"""The book's layers (Deep Learning from Scratch, chapters 5 to 7), each with forward and backward.

Layers hold their parameters without copying, so that they see an optimizer's updates in place. No argument is changed,
and every result has the dtype that NumPy gives the operation: float32 stays float32, where the original's convolution
and pooling convert it to float64. Only the loss, a single number, is always np.float64.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from numpy_ref.checks import (
    Array,
    check_array,
    check_batch,
    check_int,
    check_number,
    check_shape,
    random_stream,
    recorded,
)

# The book's scripts star-import its layers to get its functions and im2col too.
from numpy_ref.functions import *  # noqa: F403
from numpy_ref.functions import class_labels, cross_entropy_of_labels, sigmoid, softmax
from numpy_ref.util import col2im as col2im, conv_output_size, im2col as im2col, pad_image


class Layer(Protocol):
    """The interface of a layer. Parameters, if any, are the attributes W and b, or gamma and beta."""

    def forward(self, x: Array) -> Array: ...

    def backward(self, dout: Array) -> Array: ...


def forget(layer: object) -> None:
    """Drop what forward has kept for backward: the attributes that the layer's class lists in KEPT."""
    for name in getattr(layer, "KEPT", ()):
        setattr(layer, name, None)


class MulLayer:
    """x * y, for numbers or arrays (section 5.4)."""

    KEPT = ("x", "y")

    def __init__(self) -> None:
        self.x: Any = None
        self.y: Any = None

    def forward(self, x: Any, y: Any) -> Any:
        self.x, self.y = x, y
        return x * y

    def backward(self, dout: Any) -> tuple[Any, Any]:
        return dout * recorded(self.y, self), dout * recorded(self.x, self)


class AddLayer:
    """x + y, for numbers or arrays (section 5.4)."""

    def forward(self, x: Any, y: Any) -> Any:
        return x + y

    def backward(self, dout: Any) -> tuple[Any, Any]:
        return dout, dout


class Relu:
    """max(0, x), with no gradient where x <= 0. The original's backward writes into its argument; this one does not."""

    KEPT = ("mask",)

    def __init__(self) -> None:
        self.mask: Array | None = None  # True where x <= 0

    def forward(self, x: Array) -> Array:
        self.mask = check_batch("x", x) <= 0
        return np.where(self.mask, x.dtype.type(0), x)

    def backward(self, dout: Array) -> Array:
        return np.where(recorded(self.mask, self), dout.dtype.type(0), dout)


class Sigmoid:
    """1 / (1 + exp(-x))."""

    KEPT = ("out",)

    def __init__(self) -> None:
        self.out: Array | None = None

    def forward(self, x: Array) -> Array:
        self.out = sigmoid(check_batch("x", x))
        return self.out

    def backward(self, dout: Array) -> Array:
        out = recorded(self.out, self)
        return np.asarray(dout * (1.0 - out) * out)


class Flatten:
    """(N, C, H, W) to (N, C*H*W), in C, H, W order, as a layer of its own; Affine flattens by itself too."""

    KEPT = ("x_shape",)

    def __init__(self) -> None:
        self.x_shape: tuple[int, ...] | None = None

    def forward(self, x: Array) -> Array:
        self.x_shape = check_batch("x", x).shape
        return x.reshape(len(x), -1)

    def backward(self, dout: Array) -> Array:
        return dout.reshape(recorded(self.x_shape, self))


class Affine:
    """x W + b for W (D, H), so W is the transpose of torch's Linear.weight; x is (N, D) or (N, C, H, W) with C*H*W = D.

    b is (H,) or a plain number. ValueError for other shapes.
    """

    KEPT = ("x", "x_shape")

    def __init__(self, W: Array, b: Array | float) -> None:
        self.W = _check_weight(W, ndim=2)
        self.b = _check_bias(b, W.shape[1])
        self.x: Array | None = None  # (N, D)
        self.x_shape: tuple[int, ...] | None = None
        self.dW: Array | None = None
        self.db: Array | None = None

    def forward(self, x: Array) -> Array:
        flat = check_batch("x", x).reshape(len(x), -1)
        if flat.shape[1] != self.W.shape[0]:
            raise ValueError(f"x of shape {x.shape} has {flat.shape[1]} features, W {self.W.shape} takes {len(self.W)}")
        self.x, self.x_shape = flat, x.shape
        return np.asarray(flat @ self.W + self.b)

    def backward(self, dout: Array) -> Array:
        self.dW = recorded(self.x, self).T @ dout
        self.db = np.sum(dout, axis=0)
        return np.asarray((dout @ self.W.T).reshape(recorded(self.x_shape, self)))


class SoftmaxWithLoss:
    """Mean cross-entropy of softmax(x) against t: labels (N,) or one-hot (N, C).

    The value adds 1e-7 inside the log; the gradient, (softmax(x) - t) / N, ignores that. backward(dout) scales by dout,
    which the original ignores.
    """

    KEPT = ("y", "t", "labels")

    def __init__(self) -> None:
        self.loss: np.floating | None = None
        self.y: Array | None = None  # (N, C)
        self.t: Array | None = None  # as given
        self.labels: Array | None = None  # (N,), t as class numbers

    def forward(self, x: Array, t: Array) -> np.floating:
        n, classes = check_batch("x", x, ndim=2).shape
        self.labels = class_labels(np.asarray(t), (n, classes))
        self.t = t
        self.y = softmax(x)
        self.loss = cross_entropy_of_labels(self.y, self.labels)
        return self.loss

    def backward(self, dout: float = 1) -> Array:
        dx = recorded(self.y, self).copy()
        dx[np.arange(len(dx)), recorded(self.labels, self)] -= 1
        return np.asarray(dx * dout / len(dx))


class Dropout:
    """Zero where rand <= dropout_ratio in training; x * (1 - dropout_ratio) in prediction (Srivastava et al. 2014).

    Training does not rescale, unlike torch's Dropout. The mask is drawn from rng, None for NumPy's global stream.
    """

    KEPT = ("mask",)

    def __init__(self, dropout_ratio: float = 0.5, rng: np.random.RandomState | None = None) -> None:
        self.dropout_ratio = check_number("dropout_ratio", dropout_ratio, 0, 1)
        self.rng = random_stream(rng)
        self.mask: Array | None = None

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        if not train_flg:
            return np.asarray(check_batch("x", x) * (1.0 - self.dropout_ratio))
        self.mask = self.rng.rand(*check_batch("x", x).shape) > self.dropout_ratio
        return np.asarray(x * self.mask)

    def backward(self, dout: Array) -> Array:
        return np.asarray(dout * recorded(self.mask, self))


class BatchNormalization:
    """(x - mean) / sqrt(var + 1e-6) * gamma + beta per feature (Ioffe & Szegedy 2015); gamma, beta (D,) or numbers.

    x is (N, D), or (N, C, H, W) taken as (N, C*H*W): D features, not one per channel. Unlike torch's BatchNorm the
    running variance is biased, and momentum is the weight of the old running value. ValueError for only one of the
    two running values, which the original throws away.
    """

    EPS = 10e-7  # as the book writes it: 1e-6
    KEPT = ("x_shape", "xn", "std")

    def __init__(
        self,
        gamma: Array | float,
        beta: Array | float,
        momentum: float = 0.9,
        running_mean: Array | None = None,
        running_var: Array | None = None,
    ) -> None:
        if (running_mean is None) != (running_var is None):
            name = "running_var" if running_mean is None else "running_mean"
            raise ValueError(f"running_mean and running_var must be given together, got only {name}")
        self.gamma = gamma
        self.beta = beta
        self.momentum = check_number("momentum", momentum, 0, 1)
        self.running_mean = running_mean
        self.running_var = running_var
        self.x_shape: tuple[int, ...] | None = None
        self.xn: Array | None = None  # (N, D), normalised
        self.std: Array | None = None  # (D,)
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        flat = check_batch("x", x).reshape(len(x), -1)  # (N, D)
        self._check_features(flat.shape[1])
        if self.running_mean is None or self.running_var is None:
            self.running_mean, self.running_var = np.zeros((2, flat.shape[1]), dtype=flat.dtype)
        if not train_flg:
            xn = (flat - self.running_mean) / np.sqrt(self.running_var + self.EPS)
            return np.asarray(self.gamma * xn + self.beta).reshape(x.shape)
        self.x_shape, mean = x.shape, flat.mean(axis=0)
        centred = flat - mean
        var = np.mean(centred**2, axis=0)
        self.std = np.sqrt(var + self.EPS)
        self.xn = centred / self.std
        self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
        self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        return np.asarray(self.gamma * self.xn + self.beta).reshape(x.shape)

    def backward(self, dout: Array) -> Array:
        xn, std, x_shape = recorded(self.xn, self), recorded(self.std, self), recorded(self.x_shape, self)
        flat = dout.reshape(xn.shape)
        self.dbeta = flat.sum(axis=0)
        self.dgamma = np.sum(xn * flat, axis=0)
        # The mean and the variance depend on x: subtract dout's projections on the constant and on xn.
        dx = self.gamma / std * (flat - self.dbeta / len(flat) - xn * (self.dgamma / len(flat)))
        return np.asarray(dx).reshape(x_shape)

    def _check_features(self, features: int) -> None:
        for name in ("gamma", "beta", "running_mean", "running_var"):
            value = getattr(self, name)
            if value is not None and np.ndim(value) != 0:
                check_shape(name, value, (features,))


class Convolution:
    """Cross-correlation of x (N, C, H, W) with W (FN, C, FH, FW), plus b: (N, FN, OH, OW), by im2col.

    b is (FN,) or a plain number. ValueError for other shapes or a filter larger than the padded image; a stride that
    does not divide is floored, as torch does.
    """

    KEPT = ("x", "col", "col_W")

    def __init__(self, W: Array, b: Array | float, stride: int = 1, pad: int = 0) -> None:
        self.W = _check_weight(W, ndim=4)
        self.b = _check_bias(b, W.shape[0])
        self.stride = check_int("stride", stride, 1)
        self.pad = check_int("pad", pad, 0)
        self.x: Array | None = None  # (N, C, H, W)
        self.col: Array | None = None  # (N*OH*OW, C*FH*FW)
        self.col_W: Array | None = None  # (C*FH*FW, FN)
        self.dW: Array | None = None
        self.db: Array | None = None

    def forward(self, x: Array) -> Array:
        n, c, h, w = check_batch("x", x, ndim=4).shape
        fn, channels, fh, fw = self.W.shape
        if c != channels:
            raise ValueError(f"x of shape {x.shape} has {c} channels, W {self.W.shape} takes {channels}")
        out_h = conv_output_size(h, fh, self.stride, self.pad)
        out_w = conv_output_size(w, fw, self.stride, self.pad)
        # Convert to the dtype of the product before im2col, which repeats each pixel for every filter position.
        col = im2col(x.astype(np.result_type(x, self.W), copy=False), fh, fw, self.stride, self.pad)
        self.x, self.col, self.col_W = x, col, self.W.reshape(fn, -1).T
        out = col @ self.col_W  # (N*OH*OW, FN)
        # In place if the dtype allows it: a second array of this size costs more than the addition.
        keeps_dtype = np.result_type(out, self.b) == out.dtype
        out = np.add(out, self.b, out=out if keeps_dtype else None)
        return np.asarray(out.reshape(n, out_h, out_w, fn).transpose(0, 3, 1, 2))

    def backward(self, dout: Array) -> Array:
        x, col, col_W = recorded(self.x, self), recorded(self.col, self), recorded(self.col_W, self)
        fn, _, fh, fw = self.W.shape
        rows = dout.transpose(0, 2, 3, 1).reshape(-1, fn)  # (N*OH*OW, FN)
        self.db = np.sum(rows, axis=0)
        self.dW = (rows.T @ col).reshape(self.W.shape)
        return col2im(rows @ col_W.T, x.shape, fh, fw, self.stride, self.pad)


class WindowLayer:
    """Base of the pooling layers: handles their windows, (N, C, H, W) to (N, C, OH, OW), each channel by itself."""

    KEPT: tuple[str, ...] = ("x",)

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        self.pool_h = check_int("pool_h", pool_h, 1)
        self.pool_w = check_int("pool_w", pool_w, 1)
        self.stride = check_int("stride", stride, 1)
        self.pad = check_int("pad", pad, 0)
        if pad >= min(pool_h, pool_w):
            raise ValueError(
                f"pad must be smaller than the window {pool_h}x{pool_w}, got {pad}: a window would be empty"
            )
        self.x: Array | None = None  # (N, C, H, W)

    def windows(self, x: Array, padding_value: float) -> Array:
        """Return the windows of x (N, C, H, W), one per row: (N*OH*OW*C, PH*PW)."""
        self.x = check_batch("x", x, ndim=4)
        padded = pad_image(x, self.pad, padding_value) if self.pad else x
        return im2col(padded, self.pool_h, self.pool_w, self.stride).reshape(-1, self.pool_h * self.pool_w)

    def image(self, per_window: Array) -> Array:
        """Reshape one value per window, (N*OH*OW*C,), to (N, C, OH, OW)."""
        n, c, h, w = recorded(self.x, self).shape
        out_h = conv_output_size(h, self.pool_h, self.stride, self.pad)
        out_w = conv_output_size(w, self.pool_w, self.stride, self.pad)
        return per_window.reshape(n, out_h, out_w, c).transpose(0, 3, 1, 2)

    def per_window(self, dout: Array) -> Array:
        """Flatten dout (N, C, OH, OW) in the order of the windows, (N*OH*OW*C,)."""
        return dout.transpose(0, 2, 3, 1).reshape(-1)

    def scatter(self, dwindows: Array) -> Array:
        """Sum the windows' gradients (N*OH*OW*C, PH*PW) into the image; gradients of the padding are dropped."""
        shape = recorded(self.x, self).shape
        rows = dwindows.reshape(-1, shape[1] * self.pool_h * self.pool_w)
        return col2im(rows, shape, self.pool_h, self.pool_w, self.stride, self.pad)


class Pooling(WindowLayer):
    """Max pooling; the gradient goes to the first maximum of a window in row order.

    Padding never wins the maximum (the original pads with zeros, and forgets pad in its output size). ValueError for a
    pad as large as the window.
    """

    KEPT = ("x", "arg_max")

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        super().__init__(pool_h, pool_w, stride, pad)
        self.arg_max: Array | None = None  # (N*OH*OW*C,), index inside the window

    def forward(self, x: Array) -> Array:
        check_batch("x", x, ndim=4)
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        windows = self.windows(x, lowest)
        self.arg_max = windows.argmax(axis=1)
        # Index with the known positions of the maxima: NumPy's max is slow over so short an axis.
        return self.image(windows[np.arange(len(windows)), self.arg_max])

    def backward(self, dout: Array) -> Array:
        arg_max = recorded(self.arg_max, self)
        dwindows = np.zeros((len(arg_max), self.pool_h * self.pool_w), dtype=dout.dtype)
        dwindows[np.arange(len(arg_max)), arg_max] = self.per_window(dout)
        return self.scatter(dwindows)


class AveragePooling(WindowLayer):
    """Mean of each window; padding counts as zeros, as in torch's AvgPool2d. The book only mentions it."""

    def forward(self, x: Array) -> Array:
        return self.image(self.windows(x, 0).mean(axis=1))

    def backward(self, dout: Array) -> Array:
        area = self.pool_h * self.pool_w
        return self.scatter(np.repeat(self.per_window(dout / area)[:, np.newaxis], area, axis=1))


def _check_weight(W: Array, ndim: int) -> Array:
    """Return W, an array of ndim axes, none of them empty. ValueError, TypeError."""
    if check_array("W", W, ndim).size == 0:
        raise ValueError(f"W must have no empty axis, got shape {W.shape}")
    return W


def _check_bias(b: Array | float, outputs: int) -> Array | float:
    """Return b, one number per output, or a plain number for all, as in the book's filter demo."""
    if np.ndim(b) == 0:
        return check_number("b", b, -np.inf)
    return check_shape("b", b, (outputs,))
