"""Many small arrays in rows and columns: filters, feature maps, pooled maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from numpy_ref.checks import Array
from torchport.figures.style import INK, SIGNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

GAP = 0.12  # between tiles, in widths of a tile
LABEL_POINTS = 7.5
DIGIT = 0.07  # inches that a label's digit takes
LARGEST = 2.4  # inches of a tile: a single one need not fill the page


class Grid(NamedTuple):
    """Where n tiles go, in units of a tile's width: each tile has its label above."""

    rows: int
    columns: int
    aspect: float  # height of a tile
    head: float  # height of a label
    used: int  # columns that are: fewer where there are few tiles
    every: int  # tiles from label to label, so that none overlap

    @classmethod
    def of(cls, n: int, tile: tuple[int, int], width: float, shape: float, lines: float = 1.5) -> Grid:
        """For n tiles (H, W) in width inches, about shape times as wide as high, with few places left empty.

        Labels have the height of so many lines of text.
        """
        aspect = tile[0] / tile[1]
        wish = math.sqrt(n * aspect * shape)
        near = range(max(1, math.ceil(0.75 * wish)), math.floor(1.35 * wish) + 2)
        used = min(n, min(near, key=lambda columns: (-n % columns, abs(columns - wish))))
        columns = max(used, math.ceil(width / LARGEST))
        head = lines * LABEL_POINTS / 72 * columns / width
        every = math.ceil((len(str(n)) + 0.5) * DIGIT * columns / width)
        return cls(-(-n // used), columns, aspect, head, used, every)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the whole."""
        return self.columns * (1 + GAP) - GAP, self.rows * (self.aspect + self.head + GAP) - GAP

    def height(self, width: float) -> float:
        """Inches that it takes when it is width inches wide."""
        across, down = self.size
        return width * down / across

    def place(self, number: int) -> tuple[float, float]:
        """Left and top of a tile, below its label."""
        row, column = divmod(number, self.used)
        return (column + (self.columns - self.used) / 2) * (1 + GAP), row * (self.aspect + self.head + GAP) + self.head


def draw_tiles(
    axes: Axes,
    grid: Grid,
    tiles: Array,
    norm: Normalize,
    corners: Sequence[Array] = (),
    corner_norm: Normalize | None = None,
) -> AxesImage:
    """Tiles (n, H, W) on one scale, each with its number above and, if given, another small array beside the number."""
    for number, tile in enumerate(tiles):
        left, top = grid.place(number)
        drawn = axes.imshow(
            tile, extent=(left, left + 1, top + grid.aspect, top), cmap=SIGNED, norm=norm, interpolation=_sharp(tile)
        )
        if number % grid.used % grid.every == 0:
            axes.text(left, top - grid.head / 10, str(number), fontsize=LABEL_POINTS, color=INK, va="bottom")
    for number, corner in enumerate(corners):
        left, top = grid.place(number)
        bottom, side = top - grid.head / 10, 0.9 * grid.head
        axes.imshow(
            corner,
            extent=(left + 1 - side, left + 1, bottom, bottom - side),
            cmap=SIGNED,
            norm=corner_norm,
            interpolation="nearest",
        )
    width, height = grid.size
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # downwards
    axes.set_axis_off()
    return drawn


def stack_channels(weights: Array) -> Array:
    """Filters (FN, C, FH, FW) as tiles (FN, C*FH + C - 1, FW): the channels below each other, a masked row between."""
    fn, channels, fh, fw = weights.shape
    stacked = np.ma.array(np.zeros((fn, channels, fh + 1, fw), weights.dtype), mask=True)
    stacked[:, :, :fh] = weights
    return np.asanyarray(stacked.reshape(fn, -1, fw)[:, :-1])


def _sharp(tile: Array) -> str:
    """Few pixels are shown as they are; many, which are shrunk, are averaged rather than skipped."""
    return "nearest" if max(tile.shape) <= 64 else "auto"
