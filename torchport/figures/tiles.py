"""Many small arrays in rows and columns, as one image: filters, feature maps, windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array
from torchport.figures.greys import sharp
from torchport.figures.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

GROUND = "#d9e6f2"  # between tiles: no grey, so that white and black tiles have edges
GAP = 0.1  # between tiles, in widths of a tile
LABEL_POINTS, DIGIT = 7.5, 0.07  # of a tile's number, and the inches that its digits take
FINE = 20  # pixels of a tile's width at the least: those of smaller tiles are several each
LARGEST = 2.4  # inches of a tile: a single one need not fill the page


class Grid(NamedTuple):
    """Where tiles go, in pixels; each may have a head above it, for its number."""

    rows: int
    columns: int
    height: int
    width: int
    gap: int
    head: int = 0
    inches: float = 1.0  # of a tile's width
    fine: int = 1  # pixels a side that one of a tile's own becomes

    @classmethod
    def of(cls, n: int, tile: tuple[int, int], inches: float, wide: float, lines: float = 1.4) -> Grid:
        """For n tiles (H, W) in so many inches, about `wide` times as wide as high, with few places left empty.

        Heads have the height of so many lines of text.
        """
        fine = math.ceil(FINE / tile[1])
        height, width = (fine * side for side in tile)
        wish = math.sqrt(n * height / width * wide)
        near = range(max(1, math.ceil(0.75 * wish)), math.floor(1.35 * wish) + 2)
        columns = min(n, min(near, key=lambda number: (-n % number, abs(number - wish))))
        each = min(LARGEST, inches / (columns * (1 + GAP)))
        head = max(1, round(lines * LABEL_POINTS / 72 / each * width))
        return cls(-(-n // columns), columns, height, width, max(1, round(GAP * width)), head, each, fine)

    @property
    def tall(self) -> float:
        """Inches of the whole."""
        return self.rows * (self.head + self.height + self.gap) * self.inches / self.width

    def place(self, number: int) -> tuple[int, int]:
        """Top and left of a tile, below its head."""
        row, column = divmod(number, self.columns)
        return row * (self.head + self.height + self.gap) + self.head, column * (self.width + self.gap)

    def mosaic(self, tiles: Array) -> Array:
        """Tiles (n, H, W) as one array, masked where no tile is."""
        tiles = tiles.repeat(self.fine, axis=1).repeat(self.fine, axis=2)
        places = (self.rows * self.columns, self.head + self.height + self.gap, self.width + self.gap)
        whole = np.ma.array(np.zeros(places, tiles.dtype), mask=True)
        whole[: len(tiles), self.head : self.head + self.height, : self.width] = tiles
        rows = whole.reshape(self.rows, self.columns, *places[1:]).swapaxes(1, 2)
        return np.asanyarray(rows.reshape(self.rows * places[1], -1)[: -self.gap, : -self.gap])


def draw_tiles(axes: Axes, grid: Grid, tiles: Array, norm: Normalize, first: int = 0) -> AxesImage:
    """Tiles (n, H, W) on one scale, each with its number above, from first."""
    import matplotlib as mpl

    colours = mpl.colormaps["gray"].with_extremes(bad=GROUND)
    whole = grid.mosaic(tiles)
    drawn = axes.imshow(whole, cmap=colours, norm=norm, interpolation=sharp(whole))
    axes.set_axis_off()
    every = math.ceil((len(str(len(tiles))) + 0.5) * DIGIT / grid.inches)  # so that no numbers overlap
    look: dict[str, Any] = {"fontsize": LABEL_POINTS, "color": INK, "va": "bottom"}
    for number in range(len(tiles) if grid.head else 0):
        top, left = grid.place(number)
        if number % grid.columns % every == 0:
            axes.text(left - 0.5, top - 0.5 - 0.1 * grid.head, str(first + number), **look)
    return drawn


def stack_channels(weights: Array) -> Array:
    """Filters (FN, C, FH, FW) as tiles, the channels below each other, a masked row between; pixels made FINE."""
    _, channels, height, width = weights.shape
    fine = math.ceil(FINE / width)
    column = Grid(channels, 1, fine * height, fine * width, gap=1, fine=fine)
    return np.asanyarray(np.ma.stack([column.mosaic(each) for each in weights]))
