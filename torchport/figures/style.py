"""What all pictures share: colours for every reader, greys, sizes in inches, and PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

# Okabe and Ito's colours (2008), which colour-blind readers tell apart; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARK, INK, PALE = COLOURS[1], "#222222", "#bbbbbb"

# How arrays become grey, the greatest value white as in the book's text: each on a scale of its own, or all on one.
SCALES = EACH, SHARED = "each", "shared"
Region = tuple[int, int, int, int]  # top, left, height and width, in pixels
LETTER = 0.092  # inches of a title
WRITTEN = 9  # pixels a side: into larger arrays no values are written


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write figure as PNG, the same bytes for the same figure; the file is replaced whole or not at all. OSError."""
    from torchport.figures.picture import png

    replace_file(path, png(figure))


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """A figure with nothing but its title, in inches, wider where that needs it; a notebook shows it."""
    from torchport.figures.picture import Picture  # half a second, which only those who draw shall wait

    width = max(width, LETTER * max(map(len, title.splitlines()), default=0))
    figure = Picture(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=12, color=INK, parse_math=False)  # a file's name may have dollars
    return figure


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title and axes of one part of a figure."""
    axes.set_title(title, fontsize=10.5, color=INK, parse_math=False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


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


def frame(axes: Axes, region: Region, **look: object) -> None:
    """A frame around the pixels of region."""
    from matplotlib.patches import Rectangle

    top, left, height, width = region
    style = {"fill": False, "edgecolor": MARK, "linewidth": 2, "clip_on": False, **look}
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **style))  # type: ignore[arg-type]


def bar(figure: Figure | SubFigure, drawn: AxesImage, beside: Sequence[Axes], text: str) -> None:
    """The colour bar of drawn, beside those parts, with what its numbers are."""
    scale = figure.colorbar(drawn, ax=list(beside), fraction=0.04, pad=0.02, aspect=25)
    scale.ax.tick_params(labelsize=8)
    scale.set_label(text, fontsize=9, color=INK)


def own(array: Array) -> Normalize:
    """From the least value of array, or from 0 where nothing is below it, to its greatest."""
    return between(min(0.0, float(array.min())), float(array.max()))


def between(least: float, greatest: float) -> Normalize:
    """A scale; a wider one where both are equal."""
    from matplotlib.colors import Normalize

    return Normalize(least, greatest if greatest > least else least + 1)


def scale_of(*arrays: Array, two_sided: bool = False) -> Normalize:
    """One scale for all of arrays: from 0 where nothing is below it, as relu makes them, else with 0 in its middle."""
    largest = max(float(np.abs(array).max()) for array in arrays)
    signed = two_sided or min(float(array.min()) for array in arrays) < 0
    return between(-largest if signed else 0, largest)


def stretched(arrays: Array, from_zero: bool = False) -> Array:
    """Each of arrays (n, ...) from its least value, or from 0, to its greatest, as 0 to 1; 0 where all are equal."""
    axes = tuple(range(1, arrays.ndim))
    least = 0.0 if from_zero else arrays.min(axis=axes, keepdims=True)
    span = arrays.max(axis=axes, keepdims=True) - least
    return np.asarray((arrays - least) / np.where(span > 0, span, 1))


def sharp(array: Array) -> str:
    """Few pixels are shown as they are; many, which are shrunk, are averaged rather than skipped."""
    return "nearest" if max(array.shape) <= 600 else "auto"


def picture(image: Array) -> Array:
    """(C, H, W) as imshow takes it: (H, W) for one channel, else (H, W, C)."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def count(n: int, what: str) -> str:
    """1 filter, 2 filters."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def shape(array: Array | tuple[int, ...]) -> str:
    """28 x 28."""
    return " x ".join(map(str, array if isinstance(array, tuple) else array.shape))
