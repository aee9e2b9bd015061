"""How training runs went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array, check_pair
from torchport.figures.style import COLOURS, INK, PALE, label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "oD^vP*X"  # of the runs, which in print without colours differ by these

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


def curves(runs: Mapping[str, Curve], title: str = "") -> Figure:
    """Accuracies and losses of up to seven runs, by name, over epochs, with the last accuracies in figures.

    title is that of the picture, the run's name where there is one only.
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
    test, train = last if len(runs) == 1 else ("", "")  # else _name_runs tells them
    tested = TEST_STYLE if len(runs) == 1 else {}
    _explain(axes, runs, {f"test{test}": tested, f"training{train}": TRAIN_STYLE})


def _draw_losses(axes: Axes, runs: list[Curve]) -> None:
    """Every step's loss, and over all of them their running means: many steps hide what they follow."""
    widths, means = set(), []
    for colour, marker, run in zip(COLOURS, MARKERS, runs, strict=False):
        at = np.arange(1, len(run.losses) + 1) / run.steps_per_epoch
        width = max(1, min(100, len(run.losses) // 20))  # 100 for the book's 12,000 steps
        centres = at[: len(at) - width + 1] + (width - 1) / 2 / run.steps_per_epoch  # of the steps that a mean is of
        mean = np.convolve(run.losses, np.ones(width) / width, mode="valid")
        axes.plot(at, run.losses, color=colour, zorder=2, label="each step", **STEP_STYLE)
        last: dict[str, Any] = {"marker": marker, "markersize": 4, "markevery": [-1]}
        axes.plot(centres, mean, color=colour, zorder=3, label=f"mean of {width}", **last)
        widths.add(width)
        means.append(mean)
    label(axes, "Training loss", "epoch", "")
    _scale_losses(axes, np.concatenate(means))
    if widths != {1}:
        _explain(axes, runs, {"each step": STEP_STYLE, f"mean of {' or '.join(map(str, sorted(widths)))} steps": {}})


def _scale_losses(axes: Axes, means: Array) -> None:
    """A logarithmic axis where the means fall to a tenth, else one from 0."""
    # Not the steps: where the network is sure, the book's loss of one is negative, by up to 1e-7.
    low, high = means.min(), means.max()
    if not 0 < 10 * low <= high:
        axes.set_ylim(bottom=min(0, low))
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 2, 1.5 * high)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _explain(axes: Axes, runs: list[Curve], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """A legend of styles, in the run's colour where there is one run only."""
    from matplotlib.lines import Line2D

    colour = COLOURS[0] if len(runs) == 1 else INK
    handles = [Line2D([], [], color=colour, label=name, **style) for name, style in styles.items()]
    axes.legend(handles=handles, fontsize=9, framealpha=0.9, edgecolor="none")


def _name_runs(figure: Figure, runs: Mapping[str, Curve]) -> None:
    """Below the curves, each run's colour, marker, name and last test accuracy."""
    from matplotlib.lines import Line2D

    looks = list(zip(COLOURS, MARKERS, strict=True))[: len(runs)]
    handles = [Line2D([], [], color=colour, marker=marker, markersize=4, label="run") for colour, marker in looks]
    legend = figure.legend(handles=handles, loc="outside lower center", fontsize=9, frameon=False)
    for text, (name, run) in zip(legend.get_texts(), runs.items(), strict=True):
        text.set_parse_math(False)  # a name may have dollars, or start with the underscore that hides a label
        text.set_text(f"{name} (last test accuracy {run.test_accuracy[-1]:.4f})")
