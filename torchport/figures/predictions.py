"""Draws what a network gets right and wrong: the confusion matrix, and a gallery of mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numpy_ref.checks import Array, check_array, check_batch, check_int
from torchport.figures.greys import picture
from torchport.figures.style import INK, PALE, label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GALLERY_COLUMNS = 10


def confusion_matrix(counts: Array, name: str = "") -> Figure:
    """counts, int (C, C), of samples by class (rows) and prediction (columns), with the accuracy of each class.

    Only mistakes are coloured, since the many right ones would outshine them. name goes into the title.
    """
    _check_counts(counts)
    classes = len(counts)
    side = 0.6 * classes + 1
    right, total = int(np.trace(counts)), int(counts.sum())
    title = f"{right} of {total} right ({_percent(right / total)})" if total else "No samples"
    title += "; the mistakes in colour" if right < total else ""
    figure = new_figure(max(4.2, side + 0.4), side + 0.3, f"{name}\n{title}" if name else title)
    axes = figure.subplots()
    diagonal = np.eye(classes, dtype=bool)
    wrong = np.where(diagonal, 0, counts)
    axes.imshow(np.where(diagonal, 0.92, 1), cmap="gray", vmin=0, vmax=1)
    axes.imshow(np.ma.masked_equal(wrong, 0), cmap="YlOrBr", vmin=0, vmax=max(1, wrong.max()))
    for row, column in np.ndindex(*counts.shape):
        _write_count(axes, row, column, int(counts[row, column]), int(wrong.max()))
    for row, samples in enumerate(counts.sum(axis=1)):
        share = _percent(counts[row, row] / samples) if samples else "none"
        axes.text(classes - 0.4, row, share, va="center", fontsize=9, color=INK)
    axes.text(classes - 0.4, -0.7, "right", fontsize=9, color=INK)
    _rule_cells(axes, classes)
    label(axes, "", "predicted", "true")
    return figure


def mistakes(
    images: Array,
    truth: Array,
    predicted: Array,
    confidence: Array,
    most: int = 60,
    name: str = "",
    numbers: Array | None = None,
) -> Figure:
    """A gallery of n mistakes, images uint8 (n, C, H, W), with class, prediction and confidence (n,), 0 to 1.

    Shows at most `most` of them, the most confident first. numbers (n,) are those of the images in their data set; name
    goes into the title. For n = 0 the picture says that there are no mistakes.
    """
    check_int("most", most, 1)
    numbers = np.arange(len(images)) if numbers is None else numbers
    _check_gallery(images, truth=truth, predicted=predicted, confidence=confidence, numbers=numbers)
    start = f"{name}: " if name else ""
    if not len(images):
        return new_figure(4, 0.6, f"{start}no mistakes" if name else "No mistakes")
    order = np.argsort(-confidence, kind="stable")[:most]
    columns = min(GALLERY_COLUMNS, max(4, len(order)))
    rows = -(-len(order) // columns)
    count = f"{len(order)} of {len(images)}" if len(order) < len(images) else str(len(images))
    title = "1 mistake" if len(images) == 1 else f"{count} mistakes, the surest first"
    figure = new_figure(columns, 1.45 * rows + 0.4, start + title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(order) :]:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, order, strict=False):
        caption = f"image {numbers[i]}\n{truth[i]}, seen as {predicted[i]}\n{_percent(confidence[i])} sure"
        _draw_mistake(axes, images[i], caption)
    return figure


def _check_gallery(images: Array, **values: Array) -> None:
    if check_array("images", images, ndim=4).dtype != np.uint8 or images.shape[1] not in (1, 3, 4):
        raise ValueError(f"images must be uint8 of 1, 3 or 4 channels, got {images.dtype} of shape {images.shape}")
    for name, value in values.items():
        if check_array(name, value, ndim=1).shape != images.shape[:1]:
            raise ValueError(f"images and {name} must have the same length, got {len(images)} and {len(value)}")


def _draw_mistake(axes: Axes, image: Array, caption: str) -> None:
    axes.imshow(picture(image), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=PALE, linewidth=0.5)
    axes.set_title(caption, fontsize=8.5, color=INK, pad=3)


def _check_counts(counts: Array) -> None:
    rows, columns = check_batch("counts", counts, ndim=2).shape
    if rows != columns or counts.dtype.kind not in "iu" or counts.min() < 0:
        got = f"{counts.dtype} of shape {counts.shape} with minimum {counts.min()}"
        raise ValueError(f"counts must be a square array of integers of 0 or more, got {got}")


def _write_count(axes: Axes, row: int, column: int, count: int, largest: int) -> None:
    """Write the count of one cell of the confusion matrix; largest is that of the darkest mistake."""
    if not count and row != column:
        return
    right = row == column
    colour, weight = "white" if count > 0.6 * largest and not right else INK, "bold" if right else "normal"
    axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=colour, weight=weight)


def _rule_cells(axes: Axes, classes: int) -> None:
    """Draw lines between the cells, and the classes beside them."""
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    between = np.arange(classes - 1) + 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color=PALE, linewidth=0.4)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(color=PALE, linewidth=0.4)


def _percent(share: float) -> str:
    """share, 0 to 1, in percent; 100.0% only if it is exactly 1."""
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"
