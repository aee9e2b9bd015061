"""The digits of the fonts that matplotlib ships, as fields of distances to their outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from numpy_ref.checks import Array

# The fonts with ten digits at the ASCII codes in every matplotlib from 3.8 on: not cmti10, which came with 3.11.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmmi10"),
)
EM = 120  # pixels; the digits are at most 0.8 em high and wide
SIDE = 128  # of a field, in pixels
REACH = 12  # pixels: how far from an outline its distance is still told


def fields() -> tuple[Array, Array]:
    """Distance fields float32 (fonts, 10, SIDE, SIDE), and half of each digit's height and width (fonts, 10, 2).

    All in pixels of 1/EM em. Needs matplotlib, which draws the glyphs with the FreeType inside it.
    """
    drawn = [_bitmaps(name) for name in FONTS]
    sizes = np.array([[bitmap.shape for bitmap in font] for font in drawn]) / 2
    return np.stack([distances(np.stack([_centred(bitmap) for bitmap in font])) for font in drawn]), sizes


def _bitmaps(font: str) -> list[Array]:
    """The ten digits, bool (height, width), each cut to its ink."""
    # Here, not above: only who draws has to load them.
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    face = FT2Font(str(Path(get_data_path(), "fonts", "ttf", f"{font}.ttf")))
    face.set_size(EM, 72)  # 72 dots per inch: a point is a pixel
    found = []
    for digit in "0123456789":
        face.set_text(digit)
        face.draw_glyphs_to_bitmap(antialiased=True)
        ink = np.asarray(face.get_image()) >= 128
        rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
        found.append(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return found


def _centred(bitmap: Array) -> Array:
    """bitmap in the middle of a field without ink."""
    canvas = np.zeros((SIDE, SIDE), bool)
    top, left = (SIDE - bitmap.shape[0]) // 2, (SIDE - bitmap.shape[1]) // 2
    canvas[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
    return canvas


def distances(ink: Array) -> Array:
    """How far inside the ink a pixel lies, negative outside: float32 of ink's shape, bool (..., height, width).

    Euclidean, in pixels, from the middle of the pixel to the edge of the ink, cut off at REACH on both sides.
    """
    inside, outside = _to_nearest(~ink), _to_nearest(ink)
    return np.where(ink, inside - np.float32(0.5), np.float32(0.5) - outside)


def _to_nearest(target: Array) -> Array:
    """Distance of each pixel to the nearest one where target is True, at most REACH: float32, correctly rounded."""
    squares = np.where(target, 0, REACH**2).astype(np.int16)
    for axis in (-1, -2):  # the least of (column - c)^2 + (row - r)^2, over c and then over r
        squares = np.moveaxis(_least_parabola(np.moveaxis(squares, axis, -1)), -1, axis)
    return np.sqrt(squares.astype(np.float32))


def _least_parabola(lines: Array) -> Array:
    """The least of lines[..., i + step] + step^2 over all steps within REACH, for each i."""
    n = lines.shape[-1]
    padded = np.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(REACH, REACH)], constant_values=REACH**2)
    least = lines.copy()
    for step in range(-REACH, REACH + 1):
        np.minimum(least, padded[..., REACH + step : REACH + step + n] + np.int16(step * step), out=least)
    return least
