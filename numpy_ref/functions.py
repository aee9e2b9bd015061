"""Activations and losses (Deep Learning from Scratch, chapters 3 and 4)."""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import Array, check_array, check_batch

# Keeps the argument of log above zero. SoftmaxWithLoss.backward ignores it, so that it is not quite the derivative.
LOG_OFFSET = 1e-7


def identity_function(x: Array) -> Array:
    """Return x itself."""
    return x


def step_function(x: Array) -> Array:
    """1 where x > 0, else 0, as integers; shape of x."""
    return np.array(x > 0, dtype=np.int64)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); shape of x."""
    return np.asarray(1 / (1 + np.exp(-x)))


def sigmoid_grad(x: Array) -> Array:
    """Derivative of sigmoid at x; shape of x."""
    y = sigmoid(x)
    return np.asarray((1.0 - y) * y)


def relu(x: Array) -> Array:
    """max(0, x); shape of x."""
    return np.asarray(np.maximum(0, x))


def relu_grad(x: Array) -> Array:
    """1 where x >= 0, else 0. At 0 this is 1, where the layer Relu passes nothing back: the book has both."""
    grad = np.zeros_like(x)
    grad[x >= 0] = 1
    return grad


def softmax(x: Array) -> Array:
    """Softmax over the last axis, shifted by the row maximum; x is (N, C) or (C,)."""
    check_batch("x", x)
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return np.asarray(e / np.sum(e, axis=-1, keepdims=True))


def sum_squared_error(y: Array, t: Array) -> np.floating:
    """0.5 * sum((y - t)**2) over every entry. ValueError where the shapes differ; TypeError for complex numbers.

    Floats are taken as they are, whole numbers as float64: the original lets unsigned ones wrap.
    """
    y, t = check_array("y", np.asarray(y)), check_array("t", np.asarray(t))
    if y.shape != t.shape:
        raise ValueError(f"y and t must have one shape, got {y.shape} and {t.shape}")
    common = np.result_type(y, t)
    error = np.subtract(y, t, dtype=common if common.kind == "f" else np.float64)
    return np.float64(0.5 * np.sum(error**2))


# The same sum under the name that some printings use: it is not divided by N.
mean_squared_error = sum_squared_error


def class_labels(t: Array, shape: tuple[int, int]) -> Array:
    """Return t, labels (N,) or (N, 1) or one-hot (N, C), as labels 0..C-1 (N,); shape is (N, C), that of the outputs.

    TypeError for labels that are not integers; ValueError for a wrong shape, a label out of range or a row that is not
    one-hot. A column (N, 1) is accepted since the book's gradient check passes one.
    """
    n, classes = shape
    t = check_array("t", t)
    if t.shape == shape:
        if not (np.isin(t, (0, 1)).all() and (t.sum(axis=1) == 1).all()):
            raise ValueError(f"t of shape {t.shape} must be one-hot: a single 1 in every row, else 0")
        return np.asarray(t.argmax(axis=1))
    if t.shape not in ((n,), (n, 1)):
        raise ValueError(f"t must be labels ({n},) or one-hot {shape}, got shape {t.shape}")
    if t.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {t.dtype}")
    if t.min() < 0 or t.max() >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, got {t.min()} to {t.max()}")
    return t.reshape(n)


def cross_entropy_error(y: Array, t: Array) -> np.floating:
    """Mean of -log(y[label] + 1e-7) over the batch; y (N, C) or (C,), t labels or one-hot. ValueError, TypeError."""
    y, t = check_batch("y", y), np.asarray(t)
    if y.ndim == 1:
        y, t = y[np.newaxis], t[np.newaxis]
    if y.ndim != 2:
        raise ValueError(f"y must be (N, C) or (C,), got shape {y.shape}")
    return cross_entropy_of_labels(y, class_labels(t, (y.shape[0], y.shape[1])))


def cross_entropy_of_labels(y: Array, labels: Array) -> np.floating:
    """cross_entropy_error of y (N, C) for the labels (N,) that class_labels returns."""
    n = len(y)
    return np.float64(-np.sum(np.log(y[np.arange(n), labels] + LOG_OFFSET)) / n)


def softmax_loss(x: Array, t: Array) -> np.floating:
    """cross_entropy_error of softmax(x)."""
    return cross_entropy_error(softmax(x), t)
