"""What all pictures share: colours for every reader, sizes in inches, and PNG files."""

from __future__ import annotations

import io
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

# Numbers of both signs: blue below 0, grey at it, yellow above. Lightness rises all the way, so that the sign is still
# there for colour-blind readers and in print without colours (Nunez et al. 2018), unlike where both ends are dark.
SIGNED = "cividis"

INK, PALE = "#222222", "#bbbbbb"
DPI = 120


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write figure as PNG, the same bytes for the same figure; the file is replaced whole or not at all. OSError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    replace_file(path, buffer.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # half a second, which only those who draw shall wait

    return Figure(figsize=(width, height), layout="constrained")


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title and axes of one part of a figure."""
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def bar(figure: Figure | SubFigure, drawn: AxesImage, beside: Sequence[Axes], text: str) -> None:
    """The colour bar of drawn, beside those parts, with what its numbers are."""
    scale = figure.colorbar(drawn, ax=list(beside), fraction=0.04, pad=0.02, aspect=25)
    scale.ax.tick_params(labelsize=8)
    scale.set_label(text, fontsize=9, color=INK)


def count(n: int, what: str) -> str:
    """1 filter, 2 filters."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def picture(image: Array) -> Array:
    """(C, H, W) as imshow takes it: (H, W) for one channel, else (H, W, C)."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def symmetric(*arrays: Array, root: bool = False) -> Normalize:
    """One scale for all of arrays, with 0 in its middle: to the greatest magnitude, or to 1 where all are 0.

    With root, colours go by the square root of the magnitude, which shows small numbers beside far larger ones.
    """
    from matplotlib.colors import FuncNorm, Normalize

    largest = max(float(np.abs(array).max()) for array in arrays) or 1.0
    if root:
        return FuncNorm((_signed_root, _signed_square), -largest, largest)
    return Normalize(-largest, largest)


def _signed_root(x: Array) -> Array:
    return np.asanyarray(np.sign(x) * np.sqrt(np.abs(x)))


def _signed_square(x: Array) -> Array:
    return np.asanyarray(np.sign(x) * np.square(x))
