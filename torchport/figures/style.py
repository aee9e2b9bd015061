"""What all pictures share: colours for every reader, sizes in inches, and PNG files."""

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

# Okabe and Ito's colours (2008), which colour-blind readers tell apart; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARK, INK, PALE = COLOURS[1], "#222222", "#bbbbbb"

Region = tuple[int, int, int, int]  # top, left, height and width, in pixels
LETTER = 0.092  # inches of a title


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


def shape(array: Array | tuple[int, ...]) -> str:
    """28 x 28."""
    return " x ".join(map(str, array if isinstance(array, tuple) else array.shape))
