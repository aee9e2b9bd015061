"""How time grows with size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torchport.figures.style import COLOURS, INK, PALE, label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "oD^vP*X"


def growth(panels: Mapping[str, Mapping[str, Mapping[int, tuple[float, float, float]]]], floor: str = "") -> Figure:
    """Seconds a step over sizes, a panel for what grows: by contender and size the median and the quartiles.

    Both scales are logarithmic, so a straight line of slope 1 grows in proportion; floor names the contender that none
    can beat, drawn as a dashed line. ValueError for no panel.
    """
    if not panels:
        raise ValueError("growth needs at least one panel, got none")
    figure = new_figure(4.2 * len(panels), 4.6)
    parts = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (what, contenders) in zip(parts, panels.items(), strict=True):
        for colour, marker, (name, values) in zip(COLOURS, MARKERS, contenders.items(), strict=False):
            sizes = sorted(values)
            median, low, high = ([values[size][part] for size in sizes] for part in range(3))
            line = {"color": INK, "linestyle": "--"} if name == floor else {"color": colour, "marker": marker}
            axes.plot(sizes, median, label=name, markersize=4, **line)
            axes.fill_between(sizes, low, high, color=line["color"], alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size}" for size in sizes], fontsize=8, rotation=45)
        axes.set_xticks([], minor=True)
        axes.grid(color=PALE, linewidth=0.4)
        label(axes, "", what.replace("_", " "), "")
    parts[0].set_ylabel("seconds a step")
    figure.legend(
        *parts[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(contenders), frameon=False
    )
    return figure
