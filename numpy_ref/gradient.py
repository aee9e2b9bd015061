"""Central differences (Deep Learning from Scratch, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numpy_ref.checks import Array, check_array

STEP = 1e-4


def numerical_gradient(f: Callable[[Array], float | np.floating], x: Array) -> Array:
    """(f(x + h) - f(x - h)) / 2h in every entry of x (any shape), with h = 1e-4.

    x is moved in place, one entry at a time, so that f may also see it through a layer that holds it; every entry is
    put back, also when f raises. TypeError for integers, which cannot be moved by h.
    """
    if check_array("x", x).dtype.kind != "f":
        raise TypeError(f"x must be floating point to be moved by {STEP}, got dtype {x.dtype}")
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        try:
            x[index] = kept + STEP
            above = f(x)
            x[index] = kept - STEP
            below = f(x)
        finally:
            x[index] = kept
        grad[index] = (above - below) / (2 * STEP)
    return grad


# The book has a version for one axis, which its scripts import too.
_numerical_gradient_1d = numerical_gradient


def numerical_gradient_2d(f: Callable[[Array], float | np.floating], X: Array) -> Array:
    """numerical_gradient in each row of X (N, D), of which f gets one at a time; of X itself where it is (D,)."""
    if X.ndim == 1:
        return numerical_gradient(f, X)
    return np.array([numerical_gradient(f, x) for x in X])
