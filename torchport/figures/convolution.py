"""Draws the filters of a convolution layer, and what they make of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from numpy_ref.checks import Array, check_shape
from torchport.figures import greys
from torchport.figures.greys import EACH
from torchport.figures.style import COLOURS, INK, MARK, Region, bar, frame, label, new_figure, shape
from torchport.figures.tiles import Grid, draw_tiles, stack_channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PANEL, WIDE = 4.4, 10.0  # inches


class Stage(NamedTuple):
    """One array (H, W) in the picture that path draws, perhaps with a framed region, which may reach into padding."""

    name: str
    values: Array
    region: Region | None = None
    sign: str = "\N{RIGHTWARDS ARROW}"  # drawn before it


def filter_panels(
    panels: Mapping[str, Array], title: str = "", *, scale: str = EACH, channels: int = 8, first: int = 0
) -> Figure:
    """Panels side by side by name ("before", "after"), each with all filters (FN, C, FH, FW) of one layer.

    scale is "each" (every filter from its least weight to its greatest, as in the book) or "shared" (one scale for all
    panels, with 0 in its middle). The channels of a filter are drawn below each other, at most so many. Filters are
    numbered from first; a single filter has its weights written into it.
    """
    if not panels:
        raise ValueError("filters needs at least one panel, got none")
    like, *_ = panels.values()
    visible = {name: check_shape(name, value, like.shape)[:, :channels] for name, value in panels.items()}
    shared = greys.scale_of(*visible.values(), two_sided=True)
    grey_panels = {name: greys.greyed(weights, scale, shared) for name, weights in visible.items()}
    tiles, *_ = (_tiles(values) for values, _ in grey_panels.values())
    grid = Grid.of(len(tiles), tiles.shape[1:], PANEL, wide=1.3)
    lines = _title_lines(title, like, channels, scale, first)
    height = max(grid.tall, 2) + 0.9 + 0.25 * len(lines)
    figure = new_figure(PANEL * max(len(panels), 1.4) + 0.8, height, "\n".join(lines))
    parts = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, (values, norm)) in zip(parts, grey_panels.items(), strict=True):
        weights = visible[name]
        label(axes, f"{name}\nweights {weights.min():.2g} to {weights.max():.2g}".strip())
        if len(tiles) == 1:
            greys.show(axes, weights[0, 0], greys.between(weights.min(), weights.max()) if scale == EACH else shared)
        else:
            image = draw_tiles(axes, grid, _tiles(values), norm, 0 if len(like) == 1 else first)
    if scale != EACH and len(tiles) > 1:
        bar(figure, image, list(parts), "weight")
    return figure


def _title_lines(title: str, weights: Array, channels: int, scale: str, first: int) -> list[str]:
    """The lines of filter_panels' title."""
    single, total = len(weights) == 1, weights.shape[1]
    lines = [f"{title}: {f'filter {first},' if single else f'{len(weights)} filters of'} {shape(weights[0, 0])}"]
    if total > 1:
        which = f"all {total}" if total <= channels else f"the first {channels} of {total}"
        lines.append(f"{'its channels' if single else 'the channels below each other'}, {which}")
    each = "in each, black is the least weight, white the greatest"
    return [*lines, each if scale == EACH else "black below 0, grey at 0, white above"]


def _tiles(weights: Array) -> Array:
    """Filters (FN, C, FH, FW) as tiles (n, H, W); a single filter as one tile for each channel."""
    return weights[0] if len(weights) == 1 else stack_channels(weights)


def responses(image: Array, weights: Array, maps: Array, title: str = "", *, scale: str = EACH) -> Figure:
    """An image (C, H, W) of 0 to 1, and the maps (FN, OH, OW) that the filters weights (FN, C, FH, FW) make of it.

    Above each map is its filter, as the mean over channels. scale, "each" or "shared", is that of the maps.
    """
    if len(weights) != len(maps):
        raise ValueError(f"weights and maps must have the same number of filters, got {len(weights)} and {len(maps)}")
    grid = Grid.of(len(maps), maps.shape[1:], 0.75 * WIDE, wide=1.7, lines=3)
    figure = new_figure(WIDE + 1, max(grid.tall, 2.5) + 0.9, title)
    left, right = figure.subplots(1, 2, width_ratios=[1, 3.2])
    _show_image(left, image)
    left.set_anchor("N")
    _draw_maps(figure, right, grid, maps, scale)
    _draw_filters(right, grid, greys.stretched(weights.mean(axis=1)))
    label(right, f"after each of {len(maps)} filters, without bias: {shape(maps)}\n{_grey(maps, scale)}")
    return figure


def _draw_filters(axes: Axes, grid: Grid, filters: Array) -> None:
    """Draw each filter (FH, FW) at the right end of its map's head."""
    limits, side = axes.axis(), 0.85 * grid.head
    for number, values in enumerate(filters):
        top, left = grid.place(number)
        right, bottom = left + grid.width - 0.5, top - 0.5 - 0.1 * grid.head
        extent = (right - side, right, bottom, bottom - side)
        axes.imshow(values, extent=extent, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.axis(limits)


def feature_maps(
    image: Array,
    maps: Mapping[str, Array],
    probabilities: Array,
    truth: int | None,
    title: str = "",
    *,
    scale: str = EACH,
) -> Figure:
    """An image (C, H, W), the maps (FN, OH, OW) of layers by name, and the probabilities (classes,).

    truth is the image's class, None if unknown. scale is "each", one for every map, or "shared", one for all maps of a
    layer; both start at 0 if a layer has no negative values, as after relu.
    """
    if not maps:
        raise ValueError("feature_maps needs the maps of at least one layer, got none")
    grids = {name: Grid.of(len(values), values.shape[1:], WIDE, wide=4) for name, values in maps.items()}
    heights = [2.4, *(grid.tall + 0.35 for grid in grids.values())]
    figure = new_figure(WIDE + 0.9, sum(heights) + 0.5, title)
    top, *below = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    first, last = top.subplots(1, 2, width_ratios=[1, 3])
    _show_image(first, image)
    _bars(last, probabilities, truth)
    for part, (name, values) in zip(below, maps.items(), strict=True):
        axes = part.subplots()
        _draw_maps(part, axes, grids[name], values, scale)
        label(axes, f"{name}: {shape(values)}, {_grey(values, scale)}")
    return figure


def path(stages: Sequence[Stage], title: str = "") -> Figure:
    """The stages from left to right, such as an image, a filter and their maps, each on its own scale."""
    if not stages:
        raise ValueError("path needs at least one stage, got none")
    figure = new_figure(2.7 * len(stages), 3.6, title)
    figure.set_layout_engine("constrained", wspace=0.12)  # room for the signs
    parts = figure.subplots(1, len(stages), squeeze=False)[0]
    for axes, stage in zip(parts, stages, strict=True):
        norm = greys.own(stage.values)
        greys.show(axes, stage.values, norm)
        label(axes, f"{stage.name}\n{shape(stage.values)}", f"black {norm.vmin:.2g}, white {norm.vmax:.2g}")
        if stage.region:
            frame(axes, _clipped(stage.region, stage.values))
        if axes is not parts[0]:
            centred = {"transform": axes.transAxes, "ha": "center", "va": "center"}
            axes.text(-0.08, 0.5, stage.sign, fontsize=16, color=INK, **centred)
    if any(stage.region for stage in stages):
        figure.supxlabel("framed: the pixels from which one pixel of the last is computed", fontsize=10, color=MARK)
    return figure


def _clipped(region: Region, array: Array) -> Region:
    """The part of region that lies in array, without padding."""
    top, left, height, width = region
    bottom, right = min(top + height, array.shape[0]), min(left + width, array.shape[1])
    top, left = max(top, 0), max(left, 0)
    return top, left, bottom - top, right - left


def _draw_maps(figure: Figure | SubFigure, axes: Axes, grid: Grid, maps: Array, scale: str) -> None:
    image = draw_tiles(axes, grid, *greys.greyed(maps, scale, greys.scale_of(maps), from_zero=maps.min() >= 0))
    if scale != EACH:
        bar(figure, image, [axes], "")


def _grey(maps: Array, scale: str) -> str:
    """What black and white mean, for the label of maps."""
    if scale != EACH:
        return "on one scale"
    return f"each from {'0' if maps.min() >= 0 else 'its least'} (black) to its greatest (white)"


def _show_image(axes: Axes, image: Array) -> None:
    axes.imshow(greys.picture(image), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    label(axes, f"image: {shape(image)}")


def _bars(axes: Axes, probabilities: Array, truth: int | None) -> None:
    """A bar for each class, the true one hatched; bars from 0.1% are labelled."""
    predicted = int(probabilities.argmax())
    bars = axes.bar(range(len(probabilities)), probabilities, color=COLOURS[0])
    if truth is not None:
        bars[truth].set_hatch("//")
        bars[truth].set_edgecolor("white")
    for place, share in enumerate(probabilities):
        if share >= 0.001:
            axes.text(place, share + 0.02, f"{share:.1%}", ha="center", fontsize=8, color=INK)
    axes.set_xticks(range(len(probabilities)))
    axes.set_ylim(0, 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    verdict = "right" if predicted == truth else f"wrong, it is {truth}"
    label(
        axes,
        f"probabilities: seen as {predicted}" + f", {verdict} (the true class hatched)" * (truth is not None),
        "class",
    )
