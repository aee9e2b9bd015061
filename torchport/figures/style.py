"""What all pictures share: colours, sizes in inches, titles, frames, and writing PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from numpy_ref.checks import Array
from numpy_ref.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

# Okabe and Ito's colours (2008), which colour-blind readers can tell apart; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARK, INK, PALE = COLOURS[1], "#222222", "#bbbbbb"

Region = tuple[int, int, int, int]  # top, left, height and width, in pixels
LETTER = 0.092  # inches of a letter in a title


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write figure as a PNG, the same bytes for the same figure; path is replaced completely or not at all. OSError."""
    from torchport.figures.picture import png

    replace_file(path, png(figure))


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure with a title, width and height in inches, wider if the title needs it; notebooks show it."""
    from torchport.figures.picture import Picture  # here, since importing matplotlib takes half a second

    width = max(width, LETTER * max(map(len, title.splitlines()), default=0))
    figure = Picture(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=12, color=INK, parse_math=False)  # a file name may have dollar signs
    return figure


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Set the title and the axis labels of one part of a figure."""
    axes.set_title(title, fontsize=10.5, color=INK, parse_math=False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def frame(axes: Axes, region: Region, **look: object) -> None:
    """Draw a frame around the pixels of region."""
    from matplotlib.patches import Rectangle

    top, left, height, width = region
    style = {"fill": False, "edgecolor": MARK, "linewidth": 2, "clip_on": False, **look}
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **style))  # type: ignore[arg-type]


def bar(figure: Figure | SubFigure, image: AxesImage, beside: Sequence[Axes], text: str) -> None:
    """Add image's colour bar, labelled with text, beside these axes."""
    colour_bar = figure.colorbar(image, ax=list(beside), fraction=0.04, pad=0.02, aspect=25)
    colour_bar.ax.tick_params(labelsize=8)
    colour_bar.set_label(text, fontsize=9, color=INK)


def shape(array: Array | tuple[int, ...]) -> str:
    """The shape as text: "28 x 28"."""
    return " x ".join(map(str, array if isinstance(array, tuple) else array.shape))
