"""How im2col makes rows of an image's windows (Deep Learning from Scratch, section 7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numpy_ref.checks import Array, check_int
from numpy_ref.util import conv_output_size, im2col, im2col_by_window, pad_image
from torchport.figures.style import COLOURS, INK, SIGNED, bar, label, new_figure, picture, symmetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WRITTEN = 9  # pixels a side: the values of larger windows are not written into them
NEAREST = 600  # rows: more would be skipped where there is not a pixel for each

# The two that the book's readers compare, by what is written over them.
WAYS = {"im2col": im2col, "im2col_by_window": im2col_by_window}


def columns(
    image: Array, filter_size: int, stride: int = 1, pad: int = 0, row: int | None = None, title: str = ""
) -> Figure:
    """The rows that im2col and im2col_by_window make of an image (C, H, W) of 0 to 1, their difference, and one row.

    row (None: the one of most contrast) is shown where it lies in the image, as a window, and as a row.
    ValueError for a row that is not there, and as conv_output_size.
    """
    _, height, width = image.shape
    out_h, out_w = (conv_output_size(side, filter_size, stride, pad) for side in (height, width))
    batch = image[np.newaxis]
    made = {name: make(batch, filter_size, filter_size, stride, pad) for name, make in WAYS.items()}
    row = int(made["im2col"].std(axis=1).argmax()) if row is None else check_int("row", row, 0)
    if row >= out_h * out_w:
        raise ValueError(f"row must be at most {out_h * out_w - 1}, as there are {out_h} x {out_w} windows, got {row}")
    top, left = (place * stride for place in divmod(row, out_w))
    figure = new_figure(11, 6.8)
    figure.suptitle(title, fontsize=12, color=INK)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[5.4, 1])[:, 0]
    where, what = upper.subfigures(1, 2, squeeze=False, width_ratios=[1, 2.1])[0]
    seen = pad_image(batch, pad)[0]
    window = seen[:, top : top + filter_size, left : left + filter_size]
    _show_window(where, seen, pad > 0, window, (top, left), row)
    _show_matrices(what, made, row)
    _show_row(lower.subplots(), made["im2col"][row], row)
    return figure


def _show_window(
    figure: SubFigure, image: Array, padded: bool, window: Array, corner: tuple[int, int], row: int
) -> None:
    """The image with a frame around the window, and below it the window alone, its channels side by side."""
    from matplotlib.patches import Rectangle

    whole, part = figure.subplots(2, 1)
    whole.imshow(picture(image), cmap="gray", vmin=0, vmax=1)
    (top, left), side = corner, window.shape[1]
    whole.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=COLOURS[4], linewidth=2))
    label(whole, f"image{', padded' * padded}: {_shape(image)}")
    flat = np.concatenate(list(window), axis=1)
    part.imshow(flat, cmap="gray", vmin=0, vmax=1)
    label(part, f"window of row {row}: {side} x {side} from ({top}, {left})")
    part.set_xticks([])
    part.set_yticks([])
    if max(flat.shape) <= WRITTEN:
        for place, value in np.ndenumerate(flat):
            _write(part, place[1], place[0], float(value))


def _show_matrices(figure: SubFigure, made: dict[str, Array], row: int) -> None:
    """Both matrices and their difference, the row between two pointers."""
    first, second = made.values()
    difference = first - second
    parts = figure.subplots(1, 3, sharey=True)
    for axes, (name, matrix) in zip(parts, made.items(), strict=False):
        axes.imshow(matrix, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation=_sharp(matrix))
        how = "all windows at once" if name == "im2col" else "window by window"
        label(axes, f"{how}\n{name}\n{_shape(matrix)}", "pixel of the window")
    drawn = parts[2].imshow(
        difference, cmap=SIGNED, norm=symmetric(difference), aspect="auto", interpolation=_sharp(difference)
    )
    label(parts[2], f"difference\nof the two\nat most {np.abs(difference).max():.2g}", "pixel of the window")
    bar(figure, drawn, [parts[2]], "")
    parts[0].set_ylabel("row: one per window")
    for axes in parts:
        axes.xaxis.get_major_locator().set_params(integer=True)
        for x, marker in ((-0.5, ">"), (first.shape[1] - 0.5, "<")):
            axes.plot(x, row, marker=marker, color=COLOURS[4], markersize=8, clip_on=False)


def _show_row(axes: Axes, row: Array, number: int) -> None:
    axes.imshow(row[np.newaxis], cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks([])
    if len(row) <= WRITTEN**2 // 3:
        for place, value in enumerate(row):
            _write(axes, place, 0, float(value))
    label(axes, f"row {number}: the same pixels, line after line")


def _write(axes: Axes, x: int, y: int, value: float) -> None:
    """A value of 0 to 1 on its own grey."""
    colour = "white" if value < 0.5 else "black"
    axes.text(x, y, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=8, color=colour)


def _sharp(matrix: Array) -> str:
    return "nearest" if len(matrix) <= NEAREST else "auto"


def _shape(array: Array) -> str:
    return " x ".join(map(str, array.shape))
