"""Draws how im2col makes a matrix from an image's windows (Deep Learning from Scratch, section 7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from numpy_ref.checks import Array, check_index
from numpy_ref.util import conv_output_size, im2col, im2col_by_window, pad_image
from torchport.figures.greys import between, sharp, show, write
from torchport.figures.style import COLOURS, MARK, frame, label, new_figure, shape
from torchport.figures.tiles import Grid, draw_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = (0.0, 1.0)

# Two ways to compute the same matrix: by slices, as in the book, and by windows.
WAYS = {"im2col": im2col, "im2col_by_window": im2col_by_window}


def columns(
    image: Array, filter_size: int, stride: int = 1, pad: int = 0, row: int | None = None, title: str = ""
) -> Figure:
    """im2col of an image (C, H, W) of 0 to 1: its windows, its slices, the matrix that both make, and one row of it.

    Each part marks the pixels of that row (None: the row with most contrast).
    """
    height, width = (conv_output_size(side, filter_size, stride, pad) for side in image.shape[1:])
    out = height, width
    batch = image[np.newaxis]
    matrix, other = (compute(batch, filter_size, filter_size, stride, pad) for compute in WAYS.values())
    row = int(matrix.std(axis=1).argmax()) if row is None else check_index("row", row, len(matrix), "windows")
    figure = new_figure(13, 9, title)
    layout: list[Any] = [["image", "windows", "slices"], ["window", "windows", "slices"], 3 * ["matrix"], 3 * ["row"]]
    parts = figure.subplot_mosaic(layout, width_ratios=[1, 2, 2], height_ratios=[2.7, 2.7, 1.6, 0.7])
    place = divmod(row, out[1])
    _show_image(parts["image"], pad_image(batch, pad)[0], pad, filter_size, stride, place)
    windows = matrix.reshape(-1, len(image) * filter_size, filter_size)
    show(parts["window"], windows[row], between(*GREY))
    label(parts["window"], f"window {row}: {filter_size} x {filter_size}")
    _show_windows(parts["windows"], windows, out, row)
    _show_slices(parts["slices"], matrix.T.reshape(-1, *out), filter_size, place)
    _show_matrix(parts["matrix"], matrix, float(np.abs(matrix - other).max()), row)
    _show_row(parts["row"], matrix[row], row)
    figure.draw_without_rendering()  # the layout's first pass leaves too little room beside images that stay square
    return figure


def _show_image(axes: Axes, image: Array, pad: int, side: int, stride: int, place: tuple[int, int]) -> None:
    """Draw the padded image, with frames around the window at place (row and column of windows) and the next one."""
    axes.imshow(image.mean(axis=0), cmap="gray", vmin=0, vmax=1)
    top, left = (index * stride for index in place)
    unpadded = (image.shape[1] - 2 * pad, image.shape[2] - 2 * pad)
    if left + stride + side <= image.shape[2]:
        frame(axes, (top, left + stride, side, side), linewidth=1.2, linestyle="--", edgecolor=COLOURS[4])
    frame(axes, (top, left, side, side))
    if pad:
        frame(axes, (pad, pad, *unpadded), linewidth=1.2, linestyle=":", edgecolor=COLOURS[5])
    padded = f", padded by {pad}\n(dotted: without)" if pad else ""
    step = f"framed: window at ({top}, {left})\ndashed: the next one, stride {stride}"
    label(axes, f"image: {shape(unpadded)}{padded}", step)


def _show_windows(axes: Axes, windows: Array, out: tuple[int, int], row: int) -> None:
    _, height, width = windows.shape
    grid = Grid(*out, height, width, gap=1)
    draw_tiles(axes, grid, windows, between(*GREY))
    frame(axes, (*(place - 0.5 for place in grid.place(row)), height + 1, width + 1))
    label(axes, f"by window: {len(windows)} windows in {shape(out)} places,\neach becomes a row of the matrix")


def _show_slices(axes: Axes, slices: Array, across: int, place: tuple[int, int]) -> None:
    """Draw the slices, each with a dot at the pixel that goes into the row."""
    count, height, width = slices.shape
    grid = Grid(count // across, across, height, width, gap=max(1, width // 12))
    draw_tiles(axes, grid, slices, between(*GREY))
    dots = np.array([grid.place(number) for number in range(count)]) + place
    axes.plot(dots[:, 1], dots[:, 0], "s", color=MARK, markersize=2.5)
    title = f"by slice: {count} slices of {height} x {width}, one for each pixel\nof the filter; each becomes a column"
    label(axes, title)


def _show_matrix(axes: Axes, matrix: Array, difference: float, row: int) -> None:
    axes.imshow(matrix.T, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation=sharp(matrix))
    axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # matplotlib's is a MaxNLocator
    for y, marker in ((-0.5, "v"), (matrix.shape[1] - 0.5, "^")):
        axes.plot(row, y, marker=marker, color=MARK, markersize=8, clip_on=False)
    both = f"the two ways differ by up to {difference:.2g}" if difference else "the same by window and by slice"
    label(axes, f"the matrix, {shape(matrix)}, laid on its side: {both}", "row, one for each window", "column")


def _show_row(axes: Axes, row: Array, number: int) -> None:
    axes.imshow(row[np.newaxis], cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.set(xticks=[], yticks=[])
    if len(row) <= 30:
        write(axes, row[np.newaxis], between(*GREY))
    label(axes, f"row {number}: the window's pixels, line after line")
