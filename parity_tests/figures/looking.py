"""What is drawn in a figure, by its artists."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from numpy_ref.checks import Array


def titled(figure: Figure, start: str) -> Axes:
    """The one part of a figure whose title starts so."""
    (found,) = (axes for axes in figure.axes if axes.get_title().startswith(start))
    return found


def shown(axes: Axes) -> Array:
    """The first image on one part of a figure, masked where it is."""
    image: Array = np.ma.asarray(axes.images[0].get_array())
    return image if np.ma.is_masked(image) else np.asarray(image)


def tiles(axes: Axes, shape: tuple[int, ...]) -> Array:
    """What is not masked of the first image, as tiles (n, *shape), line after line."""
    image = shown(axes)
    there: Array = ~np.ma.getmaskarray(image)
    rows, columns = _runs(np.asarray(there.any(axis=1))), _runs(np.asarray(there.any(axis=0)))
    blocks = (image[top:bottom, left:right] for top, bottom in rows for left, right in columns)
    kept = [np.asarray(block) for block in blocks if not np.ma.getmaskarray(block).any()]
    return np.array([block[:: len(block) // shape[0], :: block.shape[1] // shape[1]] for block in kept])


def limits(axes: Axes) -> tuple[float, float]:
    """What black and white stand for in the first image."""
    (image, *_) = axes.images
    assert image.get_cmap().name == "gray"
    return image.get_clim()


def written(axes: Axes) -> dict[tuple[float, float], str]:
    """What is written on one part of a figure, by its place (x, y)."""
    return {text.get_position(): text.get_text() for text in axes.texts}


def framed(axes: Axes, number: int = 0) -> tuple[int, int, int, int]:
    """Top, left, height and width of a frame, in pixels."""
    patch = axes.patches[number]
    left, top = patch.get_xy()  # type: ignore[attr-defined]
    sides = patch.get_height(), patch.get_width()  # type: ignore[attr-defined]
    return round(top + 0.5), round(left + 0.5), *map(round, sides)


def scales(figure: Figure) -> list[str]:
    """What the colour bars of a figure say."""
    return [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]


def explained(axes: Axes) -> list[str]:
    """What the legend of axes says."""
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def draw(figure: Figure) -> None:
    """Have all of figure drawn, which is when matplotlib warns, and see that no two titles overlap."""
    canvas: Any = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # pixels, which nobody looks at, would take most of the time
    renderer = canvas.get_renderer()
    texts = [axes.title for axes in figure.axes if axes.get_title()]
    texts += [figure._suptitle] if figure._suptitle else []  # type: ignore[attr-defined]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0, texts[number]
        assert box.x1 <= figure.bbox.x1, texts[number]
        for other in boxes[:number]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0, texts[number]


def _runs(there: Array) -> list[tuple[int, int]]:
    """First and last + 1 of each run of True."""
    ends = np.flatnonzero(np.diff([False, *there, False]))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))
