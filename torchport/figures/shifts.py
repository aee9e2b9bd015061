"""Draws what moving an image changes, before and after pooling (Deep Learning from Scratch, section 7.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numpy_ref.checks import Array, check_pair
from torchport.figures.greys import own, show
from torchport.figures.style import COLOURS, PALE, label, new_figure, shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def shifts(
    pairs: Mapping[str, tuple[Array, Array]],
    pixels: Array,
    changes: Mapping[str, Array],
    accuracy: Mapping[str, Array],
    title: str = "",
) -> Figure:
    """Pairs of arrays (H, W) by name, each before and after a move; and two sets of curves against the moves.

    pixels (n,) are the moves. changes and accuracy have curves (n,) by name: the relative_change of the maps, and the
    share of moved images that are classified right, 0 to 1.
    """
    if not pairs:
        raise ValueError("shifts needs at least one pair, got none")
    for name, curve in (*changes.items(), *accuracy.items()):
        check_pair("pixels", pixels, name, curve)
    figure = new_figure(12, 2.5 * len(pairs) + 0.6, title)
    left = [[f"{name} {k}" for k in range(3)] for name in pairs for _ in range(2)]  # two rows a pair
    right = [*len(pairs) * ["changes"], *len(pairs) * ["accuracy"]]
    layout: list[Any] = [[*row, part] for row, part in zip(left, right, strict=True)]
    parts = figure.subplot_mosaic(layout, width_ratios=[1, 1, 1, 2])
    for name, pair in pairs.items():
        _show_pair([parts[f"{name} {k}"] for k in range(3)], name, *pair)
    _plot(parts["changes"], pixels, changes)
    label(
        parts["changes"],
        "how much all maps change: length of the difference\nover length of the map",
        "pixels to the right (left below 0)",
    )
    _plot(parts["accuracy"], pixels, accuracy)
    label(parts["accuracy"], "accuracy", "pixels by which the images are moved")
    return figure


def relative_change(still: Array, moved: Array) -> float:
    """The Euclidean norm of moved - still over that of still; 0 if still is 0."""
    length = float(np.linalg.norm(still))
    return float(np.linalg.norm(moved - still)) / length if length else 0.0


def _show_pair(row: Sequence[Axes], name: str, still: Array, moved: Array) -> None:
    norm = own(np.stack([still, moved]))
    titles = f"{name}: {shape(still)}", "moved by 1 pixel"
    for axes, values, title in zip(row, (still, moved), titles, strict=False):
        show(axes, values, norm)
        label(axes, title)
    difference = np.abs(moved - still)
    show(row[2], difference, own(np.stack([difference, still])))
    label(row[2], f"difference: {relative_change(still, moved):.0%} of the first")


def _plot(axes: Axes, pixels: Array, curves: Mapping[str, Array]) -> None:
    for colour, marker, (name, values) in zip(COLOURS, "os^v", curves.items(), strict=False):
        axes.plot(pixels, values, color=colour, marker=marker, markersize=4, label=name)
    axes.set_xticks(pixels[:: -(-len(pixels) // 12)])
    axes.set_ylim(0, max(1.02, *(1.05 * values.max() for values in curves.values())))
    axes.grid(color=PALE, linewidth=0.4)
    axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")
