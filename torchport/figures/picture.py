"""A matplotlib Figure that notebooks show even if pyplot was never imported."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

DPI = 120


class Picture(Figure):
    """The Figure that every function of torchport.figures returns."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """figure as the bytes of a PNG, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
