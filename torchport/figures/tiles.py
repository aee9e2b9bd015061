"""Draws many small arrays (filters, feature maps, windows) in rows and columns, as one image."""

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

GROUND = "#d9e6f2"  # between tiles: not grey, so that white and black tiles have visible edges
GAP = 0.1  # between tiles, as a share of a tile's width
LABEL_POINTS, DIGIT = 7.5, 0.07  # size of a tile's number, and the width of each of its digits in inches
FINE = 20  # least width of a tile in pixels: those of smaller tiles are repeated
LARGEST = 2.4  # largest width of a tile in inches: a single one need not fill the page


class Grid(NamedTuple):
    """Where tiles go, in pixels; each may have a head, which is room for its number above it."""

    rows: int
    columns: int
    height: int
    width: int
    gap: int
    head: int = 0
    inches: float = 1.0  # width of a tile
    fine: int = 1  # how often each pixel of a tile is repeated along each axis

    @classmethod
    def of(cls, n: int, tile: tuple[int, int], inches: float, wide: float, lines: float = 1.4) -> Grid:
        """A grid for n tiles of shape (H, W), so many inches wide and about 1 / wide as high, with few empty places.

        Heads are as high as so many lines of text.
        """
        fine = math.ceil(FINE / tile[1])
        height, width = (fine * side for side in tile)
        ideal = math.sqrt(n * height / width * wide)
        near = range(max(1, math.ceil(0.75 * ideal)), math.floor(1.35 * ideal) + 2)
        columns = min(n, min(near, key=lambda number: (-n % number, abs(number - ideal))))
        tile_inches = min(LARGEST, inches / (columns * (1 + GAP)))
        head = max(1, round(lines * LABEL_POINTS / 72 / tile_inches * width))
        return cls(-(-n // columns), columns, height, width, max(1, round(GAP * width)), head, tile_inches, fine)

    @property
    def tall(self) -> float:
        """Height of the whole grid in inches."""
        return self.rows * (self.head + self.height + self.gap) * self.inches / self.width

    def place(self, number: int) -> tuple[int, int]:
        """Top and left of a tile in pixels, below its head."""
        row, column = divmod(number, self.columns)
        return row * (self.head + self.height + self.gap) + self.head, column * (self.width + self.gap)

    def mosaic(self, tiles: Array) -> Array:
        """tiles (n, H, W) as one array (height, width), masked between them."""
        tiles = tiles.repeat(self.fine, axis=1).repeat(self.fine, axis=2)
        places = (self.rows * self.columns, self.head + self.height + self.gap, self.width + self.gap)
        whole = np.ma.array(np.zeros(places, tiles.dtype), mask=True)
        whole[: len(tiles), self.head : self.head + self.height, : self.width] = tiles
        rows = whole.reshape(self.rows, self.columns, *places[1:]).swapaxes(1, 2)
        return np.asanyarray(rows.reshape(self.rows * places[1], -1)[: -self.gap, : -self.gap])


def draw_tiles(axes: Axes, grid: Grid, tiles: Array, norm: Normalize, first: int = 0) -> AxesImage:
    """Draw tiles (n, H, W) with one norm, each with its number above it, counted from first."""
    import matplotlib as mpl

    colours = mpl.colormaps["gray"].with_extremes(bad=GROUND)
    whole = grid.mosaic(tiles)
    image = axes.imshow(whole, cmap=colours, norm=norm, interpolation=sharp(whole))
    axes.set_axis_off()
    every = math.ceil((len(str(len(tiles))) + 0.5) * DIGIT / grid.inches)  # so that no numbers overlap
    style: dict[str, Any] = {"fontsize": LABEL_POINTS, "color": INK, "va": "bottom"}
    for number in range(len(tiles) if grid.head else 0):
        top, left = grid.place(number)
        if number % grid.columns % every == 0:
            axes.text(left - 0.5, top - 0.5 - 0.1 * grid.head, str(first + number), **style)
    return image


def stack_channels(weights: Array) -> Array:
    """Filters (FN, C, FH, FW) as tiles (FN, H, W): channels below each other with a masked row between them."""
    _, channels, height, width = weights.shape
    fine = math.ceil(FINE / width)
    column = Grid(channels, 1, fine * height, fine * width, gap=1, fine=fine)
    return np.asanyarray(np.ma.stack([column.mosaic(channels_of_filter) for channels_of_filter in weights]))
