"""How arrays become grey: the greatest value white, as in the book, each on a scale of its own or all on one."""

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
WRITTEN = 9  # pixels a side: into larger arrays no values are written


def greyed(arrays: Array, scale: str, shared: Normalize, from_zero: bool = False) -> tuple[Array, Normalize]:
    """Arrays (n, ...) and their scale: each its own, from 0 to 1, or shared as it is. ValueError for another."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    return (stretched(arrays, from_zero), between(0, 1)) if scale == EACH else (arrays, shared)


def stretched(arrays: Array, from_zero: bool = False) -> Array:
    """Each of arrays (n, ...) from its least value, or from 0, to its greatest, as 0 to 1; 0 where all are equal."""
    axes = tuple(range(1, arrays.ndim))
    least = 0.0 if from_zero else arrays.min(axis=axes, keepdims=True)
    span = arrays.max(axis=axes, keepdims=True) - least
    return np.asarray((arrays - least) / np.where(span > 0, span, 1))


def scale_of(*arrays: Array, two_sided: bool = False) -> Normalize:
    """One scale for all of arrays: from 0 where nothing is below it, as relu makes them, else with 0 in its middle."""
    largest = max(float(np.abs(array).max()) for array in arrays)
    signed = two_sided or min(float(array.min()) for array in arrays) < 0
    return between(-largest if signed else 0, largest)


def own(array: Array) -> Normalize:
    """From the least value of array, or from 0 where nothing is below it, to its greatest."""
    return between(min(0.0, float(array.min())), float(array.max()))


def between(least: float, greatest: float) -> Normalize:
    """A scale; a wider one where both are equal."""
    from matplotlib.colors import Normalize

    return Normalize(least, greatest if greatest > least else least + 1)


def show(axes: Axes, array: Array, norm: Normalize) -> None:
    """One array (H, W), without ticks, with its values written into it where there is room for them."""
    axes.imshow(array, cmap="gray", norm=norm, interpolation=sharp(array))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=PALE, linewidth=0.8)
    if max(array.shape) <= WRITTEN:
        write(axes, array, norm)


def write(axes: Axes, array: Array, norm: Normalize) -> None:
    """The values of array (H, W), each on its own grey."""
    digits = 2 if np.abs(array).max() >= 0.1 else 3
    for (y, x), value in np.ndenumerate(array):
        colour = "white" if norm(value) < 0.5 else "black"
        text = f"{round(value, digits) + 0.0:.{digits}f}".replace("0.", ".")  # of -0.0, 0.0
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=colour)


def sharp(array: Array) -> str:
    """Few pixels are shown as they are; many, which are shrunk, are averaged rather than skipped."""
    return "nearest" if max(array.shape) <= 600 else "auto"


def picture(image: Array) -> Array:
    """(C, H, W) as imshow takes it: (H, W) for one channel, else (H, W, C)."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
