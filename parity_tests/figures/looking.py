"""Reads from a figure's artists what is drawn in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from numpy_ref.checks import Array


def titled(figure: Figure, start: str) -> Axes:
    """The only axes of figure whose title begins with start."""
    (match,) = (axes for axes in figure.axes if axes.get_title().startswith(start))
    return match


def shown(axes: Axes) -> Array:
    """The first image in axes, as a masked array if any entry is masked."""
    image: Array = np.ma.asarray(axes.images[0].get_array())
    return image if np.ma.is_masked(image) else np.asarray(image)


def tiles(axes: Axes, shape: tuple[int, ...]) -> Array:
    """The unmasked blocks of the first image in axes, as tiles (n, *shape), row by row."""
    image = shown(axes)
    visible: Array = ~np.ma.getmaskarray(image)
    rows, columns = _runs(np.asarray(visible.any(axis=1))), _runs(np.asarray(visible.any(axis=0)))
    blocks = (image[top:bottom, left:right] for top, bottom in rows for left, right in columns)
    whole_blocks = [np.asarray(block) for block in blocks if not np.ma.getmaskarray(block).any()]
    return np.array([block[:: len(block) // shape[0], :: block.shape[1] // shape[1]] for block in whole_blocks])


def limits(axes: Axes) -> tuple[float, float]:
    """The values that are black and white in the first image in axes."""
    (image, *_) = axes.images
    assert image.get_cmap().name == "gray"
    return image.get_clim()


def written(axes: Axes) -> dict[tuple[float, float], str]:
    """The texts in axes by position (x, y)."""
    return {text.get_position(): text.get_text() for text in axes.texts}


def framed(axes: Axes, number: int = 0) -> tuple[int, int, int, int]:
    """Top, left, height and width of a frame in axes, in pixels."""
    patch = axes.patches[number]
    left, top = patch.get_xy()  # type: ignore[attr-defined]
    sides = patch.get_height(), patch.get_width()  # type: ignore[attr-defined]
    return round(top + 0.5), round(left + 0.5), *map(round, sides)


def scales(figure: Figure) -> list[str]:
    """The labels of figure's colour bars."""
    return [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]


def explained(axes: Axes) -> list[str]:
    """The entries of axes' legend."""
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def draw(figure: Figure) -> None:
    """Lay figure out, which is when matplotlib warns, and check that titles and x labels fit in and do not overlap."""
    canvas: Any = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # rendering pixels would take most of the time
    renderer = canvas.get_renderer()
    texts = [axes.title for axes in figure.axes if axes.get_title()]
    texts += [axes.xaxis.label for axes in figure.axes if axes.get_xlabel()]
    texts += [figure._suptitle] if figure._suptitle else []  # type: ignore[attr-defined]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0, texts[number]
        assert box.x1 <= figure.bbox.x1, texts[number]
        assert box.y0 >= 0, texts[number]
        assert box.y1 <= figure.bbox.y1, texts[number]
        for other in boxes[:number]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0, texts[number]


def _runs(mask: Array) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each run of True."""
    ends = np.flatnonzero(np.diff([False, *mask, False]))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))
