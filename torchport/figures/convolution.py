"""What a convolution layer has learned, and what it makes of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from numpy_ref.checks import Array, check_shape
from torchport.figures.style import COLOURS, INK, bar, count, label, new_figure, picture, symmetric
from torchport.figures.tiles import Grid, draw_tiles, stack_channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL, WIDE = 4.0, 10.0  # inches


def filters(panels: Mapping[str, Array], layer: str = "W", channels: int = 8) -> Figure:
    """All filters (FN, C, FH, FW) of one layer, by what they are ("before", "after"), side by side on one scale.

    The scale has 0 in its middle, so the sign of a weight is a colour, and is the same for all panels. A filter of
    several channels is a column of them, the first channels only. ValueError for no panel, or unequal shapes.
    """
    if not panels:
        raise ValueError("filters needs at least one panel, got none")
    first, *_ = panels.values()
    shown = min(channels, first.shape[1])
    stacks = {name: stack_channels(check_shape(name, value, first.shape)[:, :shown]) for name, value in panels.items()}
    grid = Grid.of(len(first), stacks[next(iter(stacks))].shape[1:], PANEL, shape=1.3)
    norm = symmetric(*(value[:, :shown] for value in panels.values()), root=True)  # the start is 50 times smaller
    figure = new_figure(PANEL * len(panels) + 1.1, grid.height(PANEL) + 0.95)
    parts = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, stack) in zip(parts, stacks.items(), strict=True):
        drawn = draw_tiles(axes, grid, stack, norm)
        label(axes, f"{name}\nstandard deviation {panels[name].std():.2g}")
    figure.set_layout_engine("constrained", wspace=0.06)  # panels apart, as tiles are not
    bar(figure, drawn, list(parts), "weight (root scale)")
    note = "" if first.shape[1] == 1 else f"\nits channels below each other: {_first(shown, first.shape[1])}"
    figure.suptitle(f"{layer}: {count(len(first), 'filter')} of {_shape(first[0, 0])}{note}", fontsize=12, color=INK)
    return figure


def responses(image: Array, weights: Array, maps: Array, title: str = "") -> Figure:
    """An image (C, H, W) of 0 to 1, and what each filter (FN, C, FH, FW) makes of it, maps (FN, OH, OW), on one scale.

    Each map has its filter beside its number, the mean of its channels. ValueError for shapes that do not go together.
    """
    if len(weights) != len(maps):
        raise ValueError(f"weights and maps must be of as many filters, got {len(weights)} and {len(maps)}")
    grid = Grid.of(len(maps), maps.shape[1:], 0.75 * WIDE, shape=1.7, lines=3)
    figure = new_figure(WIDE + 1, max(grid.height(0.75 * WIDE), 2.5) + 0.9)
    before, after = figure.subplots(1, 2, width_ratios=[1, 3.2])
    _show_image(before, image)
    label(before, f"image\n{_shape(image)}")
    small = weights.mean(axis=1)
    drawn = draw_tiles(after, grid, maps, symmetric(maps, root=True), small, symmetric(small, root=True))
    label(after, f"after each of {count(len(maps), 'filter')}, without bias\n{_shape(maps)}")
    bar(figure, drawn, [after], "response (root scale)")
    figure.suptitle(title, fontsize=12, color=INK)
    return figure


def feature_maps(image: Array, maps: Mapping[str, Array], probabilities: Array, truth: int, title: str = "") -> Figure:
    """One image (C, H, W) on its way through layers: their maps (FN, OH, OW) by name, then probabilities (classes,).

    All maps are on one scale with 0 in its middle, so that a relu is seen to leave the positive ones as they were.
    ValueError for no maps or other shapes.
    """
    if not maps:
        raise ValueError("feature_maps needs the maps of at least one layer, got none")
    grids = {name: Grid.of(len(found), found.shape[1:], WIDE, shape=4) for name, found in maps.items()}
    heights = [2.4, *(grid.height(WIDE) + 0.35 for grid in grids.values())]
    figure = new_figure(WIDE + 0.9, sum(heights) + 0.5)
    top, *below = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    first, last = top.subplots(1, 2, width_ratios=[1, 3])
    _show_image(first, image)
    label(first, f"image: {_shape(image)}")
    _bars(last, probabilities, truth)
    norm = symmetric(*maps.values(), root=True)
    for part, (name, found) in zip(below, maps.items(), strict=True):
        axes = part.subplots()
        drawn = draw_tiles(axes, grids[name], found, norm)
        label(axes, f"{name}: {_shape(found)}")
        bar(part, drawn, [axes], "root scale")
    figure.suptitle(title, fontsize=12, color=INK)
    return figure


def _show_image(axes: Axes, image: Array) -> None:
    axes.imshow(picture(image), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])


def _bars(axes: Axes, probabilities: Array, truth: int) -> None:
    """A bar for each class, the true one hatched, with numbers on those that can be seen."""
    found = int(probabilities.argmax())
    bars = axes.bar(range(len(probabilities)), probabilities, color=COLOURS[0])
    bars[truth].set_hatch("//")
    bars[truth].set_edgecolor("white")
    for place, share in enumerate(probabilities):
        if share >= 0.001:
            axes.text(place, share + 0.02, f"{share:.1%}", ha="center", fontsize=8, color=INK)
    axes.set_xticks(range(len(probabilities)))
    axes.set_ylim(0, 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    right = "right" if found == truth else f"wrong, it is {truth}"
    label(axes, f"probabilities: seen as {found}, {right} (the true class hatched)")


def _shape(array: Array) -> str:
    return " x ".join(map(str, array.shape))


def _first(shown: int, of: int) -> str:
    return f"all {of}" if shown == of else f"the first {shown} of {of}"
