"""Checks of gradients by values of the forward pass alone: Taylor remainders, adjoints.

An adjoint's limit is derived; a Taylor remainder needs none, since its slope says whether the gradient is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from numpy_ref.checks import Array, check_shape
from torchport.layers.arithmetic import Setting
from torchport.parity.compare import Difference, compare


def taylor_slope(
    f: Callable[[Array], float], grad: Array, theta: Array, direction: Array, steps: Sequence[float]
) -> float:
    """Slope of |f(theta + h v) - f(theta) - h <grad, v>| against h, both as logarithms, over steps h > 0.

    2 where grad is the gradient of f at theta, 1 where it is not, as long as no step is so large that a kink is
    crossed or so small that rounding shows (Farrell et al., SIAM J. Sci. Comput. 35(4), 2013). theta, grad and
    direction v have one shape. ValueError for other shapes, fewer than two steps, and a remainder of 0 or NaN.
    """
    check_shape("grad", grad, theta.shape)
    check_shape("direction", direction, theta.shape)
    if len(set(steps)) < 2 or min(steps) <= 0:
        raise ValueError(f"steps must be two or more different ones above 0, got {list(steps)}")
    start, slope = f(theta), float(np.sum(grad * direction))
    remainders = [abs(f(theta + h * direction) - start - h * slope) for h in steps]
    if not all(0 < remainder < math.inf for remainder in remainders):
        raise ValueError(f"remainders must be above 0 and finite to have a slope, got {remainders}")
    return float(np.polyfit(np.log(steps), np.log(remainders), 1)[0])


def adjoint_gap(
    forward: Callable[[Array], Array],
    backward: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    terms: tuple[int, int],
    magnitude: Callable[[Array], Array] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Difference:
    """<forward(x), y> against <x, backward(y)>: equal for a linear map and its adjoint, up to rounding in dtype.

    terms are the lengths of the sums that forward and backward make per entry; magnitude is forward with absolute
    weights, None where it has none. With S = <magnitude |x|, |y|> the limit is c(K) u S for either side; u contains
    that of float64, which covers the inner products. ValueError for shapes that do not fit, or dtype.
    """
    arithmetic = Setting(dtype).arithmetic
    size = _inner((magnitude or forward)(np.abs(x)), np.abs(y))
    limit = sum(arithmetic.of_sum(length, size) for length in terms)
    return compare(np.asarray(_inner(forward(x), y)), np.asarray(_inner(x, backward(y))), limit)


def _inner(a: Array, b: Array) -> float:
    check_shape("the second of an inner product", b, a.shape)
    return math.fsum(np.multiply(a, b, dtype=np.float64).ravel())
