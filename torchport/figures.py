"""Every picture, as a matplotlib Figure: no display is needed, and none is opened."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array, check_array, check_batch, check_int, check_pair
from numpy_ref.files import replace_file
from torchport.checks import check_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), which colour-blind readers tell apart; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

INK, PALE = "#222222", "#bbbbbb"
DPI = 120

GALLERY_COLUMNS = 10

# How a point of either accuracy is drawn; the open square is the larger, so that neither hides the other.
TEST_STYLE: dict[str, Any] = {"marker": "o", "markersize": 4}
TRAIN_STYLE: dict[str, Any] = {"marker": "s", "markersize": 7, "mfc": "none", "linestyle": "--", "linewidth": 1}
STEP_STYLE: dict[str, Any] = {"alpha": 0.25, "linewidth": 0.6}


class Curve(NamedTuple):
    """A training run, as curves shows it."""

    steps_per_epoch: int
    losses: Array  # (steps,)
    epochs: Array  # (evaluations,), from 1
    train_accuracy: Array  # (evaluations,), 0 to 1
    test_accuracy: Array  # (evaluations,), 0 to 1


def curves(runs: Mapping[str, Curve]) -> Figure:
    """Accuracies and losses of up to seven runs, by name, over epochs, with the last accuracies in figures.

    ValueError for no run or more than seven, runs without a step or an evaluation, unequal lengths; TypeError.
    """
    if not 1 <= len(runs) <= len(COLOURS):
        raise ValueError(f"curves can tell 1 to {len(COLOURS)} runs apart, got {len(runs)}: draw several pictures")
    for run in runs.values():
        check_batch("losses", run.losses)
        check_pair("epochs", run.epochs, "train_accuracy", run.train_accuracy)
        check_pair("epochs", run.epochs, "test_accuracy", run.test_accuracy)
    figure = _figure(10, 4.2 if len(runs) == 1 else 4.5 + 0.2 * len(runs))
    accuracy, loss = figure.subplots(1, 2)
    _draw_accuracies(accuracy, list(runs.values()))
    _draw_losses(loss, list(runs.values()))
    for axes in (accuracy, loss):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=PALE, linewidth=0.4)
        axes.set_xlim(left=0)
    if len(runs) > 1:
        _name_runs(figure, runs)
    return figure


def confusion_matrix(counts: Array) -> Figure:
    """Samples by class (rows) and prediction (columns), counts int (C, C), with the share of each class that is right.

    Only the mistakes are coloured: the right ones, far more, would drown them. ValueError, TypeError for other arrays.
    """
    _check_counts(counts)
    classes = len(counts)
    side = 0.6 * classes + 1
    figure = _figure(max(4.2, side + 0.4), side + 0.3)
    axes = figure.subplots()
    diagonal = np.eye(classes, dtype=bool)
    wrong = np.where(diagonal, 0, counts)
    axes.imshow(np.where(diagonal, 0.92, 1), cmap="gray", vmin=0, vmax=1)
    axes.imshow(np.ma.masked_equal(wrong, 0), cmap="YlOrBr", vmin=0, vmax=max(1, wrong.max()))
    for row, column in np.ndindex(*counts.shape):
        _write_count(axes, row, column, int(counts[row, column]), int(wrong.max()))
    total = counts.sum(axis=1)
    for row in range(classes):
        share = _percent(counts[row, row] / total[row]) if total[row] else "none"
        axes.text(classes - 0.4, row, share, va="center", fontsize=9, color=INK)
    axes.text(classes - 0.4, -0.7, "right", fontsize=9, color=INK)
    _rule_cells(axes, classes)
    _label(axes, "", "predicted", "true")
    right, of = int(np.trace(counts)), int(counts.sum())
    title = f"{right} of {of} right ({_percent(right / of)})" if of else "No samples"
    figure.suptitle(title + ("; the mistakes in colour" if right < of else ""), fontsize=11, color=INK)
    return figure


def mistakes(images: Array, truth: Array, predicted: Array, confidence: Array, most: int = 60) -> Figure:
    """A gallery of n mistakes, images uint8 (n, C, H, W): class, prediction and confidence (n,), 0 to 1, of each.

    The surest first, and most of them at most; of n = 0 a picture that says so. ValueError for unequal lengths or other
    than 1, 3 or 4 channels; TypeError.
    """
    check_int("most", most, 1)
    if check_images("images", images).shape[1] not in (1, 3, 4):
        raise ValueError(f"images must have 1, 3 or 4 channels to be shown, got shape {images.shape}")
    for name, values in (("truth", truth), ("predicted", predicted), ("confidence", confidence)):
        if check_array(name, values, ndim=1).shape != images.shape[:1]:
            raise ValueError(f"images and {name} must have one length, got {len(images)} and {len(values)}")
    if not len(images):
        figure = _figure(4, 1.2)
        figure.suptitle("No mistakes", y=0.5, va="center", fontsize=12, color=INK)
        return figure
    shown = np.argsort(-confidence, kind="stable")[:most]
    columns = min(GALLERY_COLUMNS, max(4, len(shown)))  # four, that there be room for the title
    rows = -(-len(shown) // columns)
    figure = _figure(columns, 1.3 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, shown, strict=False):
        axes.imshow(_picture(images[i]), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=PALE, linewidth=0.5)
        sure = f"{truth[i]}, seen as {predicted[i]}\n{_percent(confidence[i])} sure"
        axes.set_title(sure, fontsize=8.5, color=INK, pad=3)
    count = f"{len(shown)} of {len(images)}" if len(shown) < len(images) else str(len(images))
    title = "1 mistake" if len(images) == 1 else f"{count} mistakes, the surest first"
    figure.suptitle(title, fontsize=12, color=INK)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write figure as PNG, the same bytes for the same figure; the file is replaced whole or not at all. OSError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    replace_file(path, buffer.getvalue())


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # half a second, which only those who draw shall wait

    return Figure(figsize=(width, height), layout="constrained")


def _draw_accuracies(axes: Axes, runs: list[Curve]) -> None:
    for colour, run in zip(COLOURS, runs, strict=False):
        axes.plot(run.epochs, run.test_accuracy, color=colour, label="test", **TEST_STYLE)
        axes.plot(run.epochs, run.train_accuracy, color=colour, label="training", **TRAIN_STYLE)
    _label(axes, "Accuracy", "epoch", "")
    lowest = min(min(*run.train_accuracy, *run.test_accuracy) for run in runs)
    axes.set_ylim(lowest - 0.06 * (1 - lowest) - 0.001, 1.002)
    last = [f" (last {values[-1]:.4f})" for values in (runs[0].test_accuracy, runs[0].train_accuracy)]
    test, train = last if len(runs) == 1 else ("", "")  # else _name_runs tells them
    _explain(axes, runs, {f"test{test}": TEST_STYLE, f"training{train}": TRAIN_STYLE})


def _draw_losses(axes: Axes, runs: list[Curve]) -> None:
    """Every step's loss, and over all of them their running means: many steps hide what they follow."""
    widths, means = set(), []
    for colour, run in zip(COLOURS, runs, strict=False):
        at = np.arange(1, len(run.losses) + 1) / run.steps_per_epoch
        width = _smoothing(len(run.losses))
        mean = np.convolve(run.losses, np.ones(width) / width, mode="valid")
        axes.plot(at, run.losses, color=colour, zorder=2, label="each step", **STEP_STYLE)
        axes.plot(at[width - 1 :], mean, color=colour, zorder=3, label=f"mean of {width}")
        widths.add(width)
        means.append(mean)
    _label(axes, "Training loss", "epoch", "")
    _scale_losses(axes, np.concatenate(means))
    if widths != {1}:
        _explain(axes, runs, {"each step": STEP_STYLE, f"mean of {' or '.join(map(str, sorted(widths)))} steps": {}})


def _scale_losses(axes: Axes, means: Array) -> None:
    """A logarithmic axis where the means fall to a tenth, else one from 0.

    The book's loss of a step is negative, by up to 1e-7, where the network is sure: such steps must not set the scale.
    """
    low, high = means.min(), means.max()
    if not 0 < 10 * low <= high:
        axes.set_ylim(bottom=min(0, low))
        return
    axes.set_yscale("log")
    axes.set_ylim(bottom=low / 10)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _explain(axes: Axes, runs: list[Curve], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """A legend of styles, in the run's colour where there is one run only."""
    from matplotlib.lines import Line2D

    colour = COLOURS[0] if len(runs) == 1 else INK
    handles = [Line2D([], [], color=colour, label=name, **style) for name, style in styles.items()]
    axes.legend(handles=handles, fontsize=9, framealpha=0.9, edgecolor="none")


def _name_runs(figure: Figure, runs: Mapping[str, Curve]) -> None:
    """Below the curves, each run's colour, name and last test accuracy."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label="run") for colour, _ in zip(COLOURS, runs, strict=False)]
    legend = figure.legend(handles=handles, loc="outside lower center", fontsize=9, frameon=False)
    for text, (name, run) in zip(legend.get_texts(), runs.items(), strict=True):
        text.set_parse_math(False)  # a name may have dollars, or start with the underscore that hides a label
        text.set_text(f"{name} (last test accuracy {run.test_accuracy[-1]:.4f})")


def _check_counts(counts: Array) -> None:
    """TypeError for other than integers; ValueError for other than a square of counts."""
    if check_batch("counts", counts, ndim=2).dtype.kind not in "iu":
        raise TypeError(f"counts must be integers, got dtype {counts.dtype}")
    if counts.shape[0] != counts.shape[1]:
        raise ValueError(f"counts must be square, got shape {counts.shape}")
    if counts.min() < 0:
        raise ValueError(f"counts must be 0 or more, got {counts.min()}")


def _write_count(axes: Axes, row: int, column: int, count: int, largest: int) -> None:
    """The number in a cell of the confusion matrix, where largest is the darkest mistake."""
    if row == column:
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=INK, weight="bold")
    elif count:
        colour = "white" if count > 0.6 * largest else INK
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=colour)


def _rule_cells(axes: Axes, classes: int) -> None:
    """Lines between the cells, and the classes beside them."""
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    between = np.arange(classes - 1) + 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color=PALE, linewidth=0.4)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(color=PALE, linewidth=0.4)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _percent(share: float) -> str:
    """share, 0 to 1, in percent; 100.0% is said only of all."""
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _smoothing(steps: int) -> int:
    """Steps to average over: 1 for a handful, 100 for the book's 12,000."""
    return max(1, min(100, steps // 20))


def _picture(image: Array) -> Array:
    """(C, H, W) as imshow takes it: (H, W) for one channel, else (H, W, C)."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
