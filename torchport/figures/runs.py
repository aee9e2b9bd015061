"""Draws the accuracies and losses of training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array, check_pair
from torchport.figures.style import COLOURS, INK, PALE, label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "oD^vP*X"  # one for each run, to tell them apart in print without colours

# How points of the two accuracies are drawn; the open square is larger, so that neither hides the other.
TEST_STYLE: dict[str, Any] = {"marker": "o", "markersize": 4}
TRAIN_STYLE: dict[str, Any] = {"marker": "s", "markersize": 7, "mfc": "none", "linestyle": "--", "linewidth": 1}
STEP_STYLE: dict[str, Any] = {"alpha": 0.25, "linewidth": 0.6}


class Curve(NamedTuple):
    """What curves draws of one training run."""

    steps_per_epoch: int
    losses: Array  # (steps,)
    epochs: Array  # (evaluations,), from 1
    train_accuracy: Array  # (evaluations,), 0 to 1
    test_accuracy: Array  # (evaluations,), 0 to 1


def curves(runs: Mapping[str, Curve], title: str = "") -> Figure:
    """Accuracies and losses of up to seven runs, by name, against epochs; the legend has the last accuracies.

    title is that of the picture; without it, a single run's name is.
    """
    if not 1 <= len(runs) <= len(COLOURS):
        raise ValueError(f"curves can tell 1 to {len(COLOURS)} runs apart, got {len(runs)}: draw several pictures")
    for run in runs.values():
        check_pair("train_accuracy", run.train_accuracy, "test_accuracy", run.test_accuracy)
    height = 4.5 if len(runs) == 1 else 4.7 + 0.2 * len(runs)
    figure = new_figure(10, height, title or (next(iter(runs)) if len(runs) == 1 else ""))
    accuracy, loss = figure.subplots(1, 2)
    _draw_accuracies(accuracy, list(runs.values()))
    _draw_losses(loss, list(runs.values()))
    for axes in (accuracy, loss):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=PALE, linewidth=0.4)
    if len(runs) > 1:
        _name_runs(figure, runs)
    return figure


def _draw_accuracies(axes: Axes, runs: list[Curve]) -> None:
    for colour, marker, run in zip(COLOURS, MARKERS, runs, strict=False):
        axes.plot(run.epochs, run.test_accuracy, color=colour, label="test", **{**TEST_STYLE, "marker": marker})
        axes.plot(run.epochs, run.train_accuracy, color=colour, label="training", **TRAIN_STYLE)
    label(axes, "Accuracy", "epoch", "")
    lowest = min(min(*run.train_accuracy, *run.test_accuracy) for run in runs)
    axes.set_ylim(lowest - 0.06 * (1 - lowest) - 0.001, 1.002)
    last = [f" (last {values[-1]:.4f})" for values in (runs[0].test_accuracy, runs[0].train_accuracy)]
    test, train = last if len(runs) == 1 else ("", "")  # for several runs, _name_runs writes them
    test_style = TEST_STYLE if len(runs) == 1 else {}
    _add_legend(axes, runs, {f"test{test}": test_style, f"training{train}": TRAIN_STYLE})


def _draw_losses(axes: Axes, runs: list[Curve]) -> None:
    """Each step's loss, and above them the running means, since single steps scatter too much to show the trend."""
    widths, means = set(), []
    for colour, marker, run in zip(COLOURS, MARKERS, runs, strict=False):
        epochs = np.arange(1, len(run.losses) + 1) / run.steps_per_epoch
        width = max(1, min(100, len(run.losses) // 20))  # 100 for the book's 12,000 steps
        centres = epochs[: len(epochs) - width + 1] + (width - 1) / 2 / run.steps_per_epoch  # of each mean's steps
        mean = np.convolve(run.losses, np.ones(width) / width, mode="valid")
        axes.plot(epochs, run.losses, color=colour, zorder=2, label="each step", **STEP_STYLE)
        last: dict[str, Any] = {"marker": marker, "markersize": 4, "markevery": [-1]}
        axes.plot(centres, mean, color=colour, zorder=3, label=f"mean of {width}", **last)
        widths.add(width)
        means.append(mean)
    label(axes, "Training loss", "epoch", "")
    _scale_losses(axes, np.concatenate(means))
    if widths != {1}:
        _add_legend(axes, runs, {"each step": STEP_STYLE, f"mean of {' or '.join(map(str, sorted(widths)))} steps": {}})


def _scale_losses(axes: Axes, means: Array) -> None:
    """Make the axis logarithmic if the means fall to a tenth, else start it at 0."""
    # The means, not single steps: if the network is sure, the book's loss of a step is negative, by up to 1e-7.
    low, high = means.min(), means.max()
    if not 0 < 10 * low <= high:
        axes.set_ylim(bottom=min(0, low))
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 2, 1.5 * high)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _add_legend(axes: Axes, runs: list[Curve], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Add a legend of styles by name, in the run's colour if there is only one run."""
    from matplotlib.lines import Line2D

    colour = COLOURS[0] if len(runs) == 1 else INK
    handles = [Line2D([], [], color=colour, label=name, **style) for name, style in styles.items()]
    axes.legend(handles=handles, fontsize=9, framealpha=0.9, edgecolor="none")


def _name_runs(figure: Figure, runs: Mapping[str, Curve]) -> None:
    """Write below the curves each run's name and last test accuracy, with its colour and marker."""
    from matplotlib.lines import Line2D

    looks = list(zip(COLOURS, MARKERS, strict=True))[: len(runs)]
    handles = [Line2D([], [], color=colour, marker=marker, markersize=4, label="run") for colour, marker in looks]
    legend = figure.legend(handles=handles, loc="outside lower center", fontsize=9, frameon=False)
    for text, (name, run) in zip(legend.get_texts(), runs.items(), strict=True):
        text.set_parse_math(False)  # a name may have dollars, or start with the underscore that hides a label
        text.set_text(f"{name} (last test accuracy {run.test_accuracy[-1]:.4f})")
