"""The digits of matplotlib's fonts, as fields of signed distances to their outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from numpy_ref.checks import Array

# The fonts that have ten digits at the ASCII codes in every matplotlib from 3.8 on; cmti10 came with 3.11 only.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmmi10"),
)
EM = 120  # pixels; the digits are at most 0.8 em high and wide
SIDE = 128  # of a field, in pixels
REACH = 12  # pixels: distances are cut off here


def fields() -> tuple[Array, Array]:
    """Distance fields float32 (fonts, 10, SIDE, SIDE), and half of each digit's height and width (fonts, 10, 2).

    All in pixels of 1/EM em. Needs matplotlib, which draws the glyphs with the FreeType inside it.
    """
    bitmaps = [_bitmaps(name) for name in FONTS]
    halves = np.array([[bitmap.shape for bitmap in font] for font in bitmaps]) / 2
    return np.stack([distances(np.stack([_centred(bitmap) for bitmap in font])) for font in bitmaps]), halves


def _bitmaps(font: str) -> list[Array]:
    """The ten digits, bool (height, width), each cut to its ink."""
    # Here, not above: only drawing needs them.
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    face = FT2Font(str(Path(get_data_path(), "fonts", "ttf", f"{font}.ttf")))
    face.set_size(EM, 72)  # 72 dots per inch: a point is a pixel
    bitmaps = []
    for digit in "0123456789":
        face.set_text(digit)
        face.draw_glyphs_to_bitmap(antialiased=True)
        ink = np.asarray(face.get_image()) >= 128
        rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
        bitmaps.append(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return bitmaps


def _centred(bitmap: Array) -> Array:
    """bitmap in the middle of an empty field, bool (SIDE, SIDE)."""
    canvas = np.zeros((SIDE, SIDE), bool)
    top, left = (SIDE - bitmap.shape[0]) // 2, (SIDE - bitmap.shape[1]) // 2
    canvas[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
    return canvas


def distances(ink: Array) -> Array:
    """Signed distance of each pixel to the edge of ink, bool (..., height, width), as float32; positive inside.

    Euclidean, in pixels, from the middle of the pixel, cut off at REACH on both sides.
    """
    inside, outside = _to_nearest(~ink), _to_nearest(ink)
    return np.where(ink, inside - np.float32(0.5), np.float32(0.5) - outside)


def _to_nearest(target: Array) -> Array:
    """Distance of each pixel to the nearest one in target, at most REACH: float32, correctly rounded."""
    squares = np.where(target, 0, REACH**2).astype(np.int16)
    for axis in (-1, -2):  # minimises (column - c)^2 + (row - r)^2 over c, then over r
        squares = np.moveaxis(_least_parabola(np.moveaxis(squares, axis, -1)), -1, axis)
    return np.sqrt(squares.astype(np.float32))


def _least_parabola(lines: Array) -> Array:
    """For each i, the minimum of lines[..., i + step] + step^2 over all steps within REACH."""
    n = lines.shape[-1]
    padded = np.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(REACH, REACH)], constant_values=REACH**2)
    least = lines.copy()
    for step in range(-REACH, REACH + 1):
        np.minimum(least, padded[..., REACH + step : REACH + step + n] + np.int16(step * step), out=least)
    return least
