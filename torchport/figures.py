"""Every picture, as a matplotlib Figure: no display is needed, and none is opened."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array, check_array, check_pair
from numpy_ref.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), which colour-blind readers tell apart; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

INK, PALE = "#222222", "#bbbbbb"
DPI = 120
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Curve(NamedTuple):
    """A training run, as curves shows it."""

    steps_per_epoch: int
    losses: Array  # (steps,)
    epochs: Array  # (evaluations,), from 1
    train_accuracy: Array  # (evaluations,), 0 to 1
    test_accuracy: Array  # (evaluations,), 0 to 1


def curves(runs: Mapping[str, Curve]) -> Figure:
    """Accuracies and losses of runs, by name, over epochs. ValueError for no run."""
    if not runs:
        raise ValueError("curves needs at least one run, got none")
    figure = _figure(10, 4.2)
    accuracy, loss = figure.subplots(1, 2)
    for colour, (name, run) in zip(_cycled(len(runs)), runs.items(), strict=True):
        label = f"{name}, " if len(runs) > 1 else ""  # one run needs no name
        marker: dict[str, Any] = {"marker": "o", "markersize": 4, "color": colour}
        accuracy.plot(run.epochs, run.test_accuracy, label=f"{label}test", **marker)
        accuracy.plot(run.epochs, run.train_accuracy, label=f"{label}training", linestyle="--", mfc="white", **marker)
        at = np.arange(1, len(run.losses) + 1) / run.steps_per_epoch
        width = _smoothing(len(run.losses))
        loss.plot(at, run.losses, color=colour, alpha=0.25, linewidth=0.6)
        smooth = np.convolve(run.losses, np.ones(width) / width, mode="valid")
        loss.plot(at[width - 1 :], smooth, color=colour, label=f"{label}mean of {width} steps")
    _label(accuracy, "Accuracy", "epoch", "")
    lowest = min(min(*run.train_accuracy, *run.test_accuracy) for run in runs.values())
    accuracy.set_ylim(lowest - 0.06 * (1 - lowest) - 0.001, 1.002)
    accuracy.legend(frameon=False, fontsize=9)
    _label(loss, "Training loss", "epoch", "")
    loss.set_yscale("log")
    loss.legend(frameon=False, fontsize=9, loc="upper right")
    for axes in (accuracy, loss):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=PALE, linewidth=0.4)
        axes.set_xlim(left=0)
    return figure


def confusion_matrix(counts: Array) -> Figure:
    """Samples by class (rows) and prediction (columns), counts (C, C), with the share of each class that is right.

    Only the mistakes are coloured: the right ones, far more, would drown them. ValueError, TypeError for other arrays.
    """
    if check_array("counts", counts, ndim=2).shape[0] != counts.shape[1]:
        raise ValueError(f"counts must be square, got shape {counts.shape}")
    classes = len(counts)
    side = 0.6 * classes + 1
    figure = _figure(max(4, side + 0.4), side + 0.3)
    axes = figure.subplots()
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
    axes.imshow(np.ma.masked_equal(wrong, 0), cmap="YlOrBr", vmin=0, vmax=max(1, wrong.max()))
    for row, column in np.ndindex(*counts.shape):
        on_diagonal, count = row == column, counts[row, column]
        dark = not on_diagonal and count > 0.6 * wrong.max()
        style: dict[str, Any] = {"weight": "bold"} if on_diagonal else {}
        text = str(count) if count or on_diagonal else "·"
        colour = "white" if dark else INK if count or on_diagonal else PALE
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour, **style)
    total = counts.sum(axis=1)
    for row in range(classes):
        share = f"{counts[row, row] / total[row]:.1%}" if total[row] else "none"
        axes.text(classes - 0.4, row, share, va="center", fontsize=9, color=INK)
    axes.text(classes - 0.4, -0.75, "right", fontsize=9, color=INK)
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    right = int(np.trace(counts))
    _label(axes, "", "predicted", "true")
    figure.suptitle(f"{right} of {counts.sum()} right; the mistakes in colour", fontsize=11, color=INK)
    return figure


def mistakes(images: Array, truth: Array, predicted: Array, confidence: Array, most: int = 60) -> Figure:
    """A gallery of images (n, C, H, W), the first most of them, each with its class, the prediction and its confidence.

    In the order given, 0 to 1 in confidence; of n = 0 a picture that says so. ValueError for unequal lengths.
    """
    shown, columns = min(len(images), most), 10
    rows = max(1, -(-shown // columns))
    figure = _figure(10, 1.25 * rows + 0.7)
    grid = np.atleast_2d(figure.subplots(rows, columns, squeeze=False))
    for axes in grid.flat:
        axes.set_axis_off()
    if not shown:
        figure.suptitle("No mistakes", fontsize=12, color=INK)
        return figure
    check_pair("images", images, "truth", truth)
    for axes, image, is_, seems, sure in zip(
        grid.flat, images[:shown], truth[:shown], predicted[:shown], confidence[:shown], strict=False
    ):
        axes.imshow(_picture(image), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"{is_}, seen as {seems}\n{sure:.1%} sure", fontsize=8.5, color=INK, pad=3)
    count = f"{shown} of {len(images)}" if shown < len(images) else str(len(images))
    figure.suptitle(f"{count} mistake{'s' * (len(images) != 1)}, the surest first", fontsize=12, color=INK)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write figure as PNG, the same bytes for the same figure; the file is replaced whole or not at all. OSError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    data = buffer.getvalue()

    def verify(written: Path) -> None:
        if written.read_bytes() != data:
            raise OSError(f"{path}: what was written does not read back as it was")

    replace_file(path, data, verify)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # half a second, which only those who draw shall wait

    return Figure(figsize=(width, height), layout="constrained")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _cycled(n: int) -> Sequence[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _smoothing(steps: int) -> int:
    """Steps to average over: 1 for a handful, 100 for the book's 12,000."""
    return max(1, min(100, steps // 20))


def _picture(image: Array) -> Array:
    """(C, H, W) as imshow takes it: (H, W) for one channel, else (H, W, C)."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
