"""Central differences (Deep Learning from Scratch, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numpy_ref.checks import Array, check_array

STEP = 1e-4


def numerical_gradient(f: Callable[[Array], float | np.floating], x: Array) -> Array:
    """Return (f(x + h) - f(x - h)) / 2h for every entry of x (any shape), with h = 1e-4.

    x is changed in place, one entry at a time, so that f also sees the change through a layer that holds x. Every entry
    is restored, also if f raises. TypeError for integers, which cannot change by h.
    """
    if check_array("x", x).dtype.kind != "f":
        raise TypeError(f"x must be floating point to be moved by {STEP}, got dtype {x.dtype}")
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        original = x[index]
        try:
            x[index] = original + STEP
            above = f(x)
            x[index] = original - STEP
            below = f(x)
        finally:
            x[index] = original
        grad[index] = (above - below) / (2 * STEP)
    return grad


# The book's name for its version for one axis, which its scripts import too.
_numerical_gradient_1d = numerical_gradient


def numerical_gradient_2d(f: Callable[[Array], float | np.floating], X: Array) -> Array:
    """Return the numerical_gradient in each row of X (N, D), where f takes one row; or in X itself if it is (D,)."""
    if X.ndim == 1:
        return numerical_gradient(f, X)
    return np.array([numerical_gradient(f, x) for x in X])
