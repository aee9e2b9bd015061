"""Maps arrays to grey: the greatest value is white, as in the book; each array on its own scale, or all on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numpy_ref.checks import Array
from torchport.figures.style import PALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

EACH = "each"
SCALES = (EACH, "shared")
WRITTEN = 9  # pixels a side of the largest array that has its values written into it


def greyed(arrays: Array, scale: str, shared: Normalize, from_zero: bool = False) -> tuple[Array, Normalize]:
    """arrays (n, ...) and their norm: for "each" stretched to 0 to 1, for "shared" unchanged with the norm shared."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    return (stretched(arrays, from_zero), between(0, 1)) if scale == EACH else (arrays, shared)


def stretched(arrays: Array, from_zero: bool = False) -> Array:
    """Each of arrays (n, ...) mapped from its least value (or 0) and its greatest to 0 and 1; 0 if these are equal."""
    axes = tuple(range(1, arrays.ndim))
    least = 0.0 if from_zero else arrays.min(axis=axes, keepdims=True)
    span = arrays.max(axis=axes, keepdims=True) - least
    return np.asarray((arrays - least) / np.where(span > 0, span, 1))


def scale_of(*arrays: Array, two_sided: bool = False) -> Normalize:
    """One norm for all arrays: from 0 if none has negative values, as after relu, else with 0 in its middle."""
    largest = max(float(np.abs(array).max()) for array in arrays)
    signed = two_sided or min(float(array.min()) for array in arrays) < 0
    return between(-largest if signed else 0, largest)


def own(array: Array) -> Normalize:
    """A norm from the least value of array, or from 0 if none is negative, to its greatest."""
    return between(min(0.0, float(array.min())), float(array.max()))


def between(least: float, greatest: float) -> Normalize:
    """A norm from least to greatest; to least + 1 if they are equal."""
    from matplotlib.colors import Normalize

    return Normalize(least, greatest if greatest > least else least + 1)


def show(axes: Axes, array: Array, norm: Normalize) -> None:
    """Draw an array (H, W) without ticks, with its values written into it if there is room."""
    axes.imshow(array, cmap="gray", norm=norm, interpolation=sharp(array))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=PALE, linewidth=0.8)
    if max(array.shape) <= WRITTEN:
        write(axes, array, norm)


def write(axes: Axes, array: Array, norm: Normalize) -> None:
    """Write the values of array (H, W) into its pixels, in white on dark ones and in black on light ones."""
    digits = 2 if np.abs(array).max() >= 0.1 else 3
    for (y, x), value in np.ndenumerate(array):
        colour = "white" if norm(value) < 0.5 else "black"
        text = f"{round(value, digits) + 0.0:.{digits}f}".replace("0.", ".")  # + 0.0 turns -0.0 into 0.0
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=colour)


def sharp(array: Array) -> str:
    """imshow's interpolation: small arrays keep their pixels; large ones, which are shrunk, are averaged."""
    return "nearest" if max(array.shape) <= 600 else "auto"


def picture(image: Array) -> Array:
    """image (C, H, W) as imshow takes it: (H, W) if it has one channel, else (H, W, C)."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
