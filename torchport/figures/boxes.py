"""Draws the layers of a network as boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchport.figures.style import COLOURS, INK, new_figure, shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, STEP, BOX = 7.4, 0.52, 0.34  # inches: width of the picture, distance from box to box, height of a box
WIDE, OUTPUT, COUNT = 3.75, 4.05, 5.4  # inches from the left: end of the boxes, start of two columns

# Layers of a family have one colour in every network; any other layer is black.
FAMILIES = (
    ("Convolution",),
    ("Affine", "Flatten"),
    ("Relu", "Sigmoid", "Tanh"),
    ("Pooling", "AveragePooling", "Subsampling"),
    ("BatchNormalization", "LocalResponseNormalization"),
    ("Dropout",),
)
COLOUR = {kind: colour for family, colour in zip(FAMILIES, COLOURS, strict=False) for kind in family}


class Box(NamedTuple):
    """A layer in the picture that architecture draws."""

    name: str
    about: str  # "30 filters 5 x 5"
    shape: tuple[int, ...]  # of its output, without the batch
    parameters: int
    kind: str = ""  # name of its class in numpy_ref


def architecture(boxes: Sequence[Box], title: str = "") -> Figure:
    """boxes from top to bottom, each with its output's shape and its number of parameters beside it."""
    if not boxes:
        raise ValueError("architecture needs at least one box, got none")
    total = sum(box.parameters for box in boxes)
    heading = f"{title}: {total:,} parameters" if title else f"{total:,} parameters"
    figure = new_figure(WIDTH, STEP * (len(boxes) + 1) + 0.9, heading)
    axes = figure.subplots()
    for number, box in enumerate(boxes):
        _draw(axes, box, number * STEP, COLOUR.get(box.kind, COLOURS[-1]), total)
        if number:
            ends = (WIDE / 2, number * STEP), (WIDE / 2, (number - 1) * STEP + BOX)
            axes.annotate("", *ends, arrowprops={"arrowstyle": "->", "color": INK})
    for x, head in {0.0: "layer", OUTPUT: "output", COUNT: "parameters"}.items():
        axes.text(x, -0.2, head, fontsize=9, style="italic", color=INK)
    axes.set_xlim(-0.03, WIDTH)
    axes.set_ylim(len(boxes) * STEP, -0.4)  # downwards
    axes.set_axis_off()
    return figure


def _draw(axes: Axes, box: Box, top: float, colour: str, total: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={BOX / 5}"
    axes.add_patch(FancyBboxPatch((0, top), WIDE, BOX, boxstyle=style, facecolor=f"{colour}33", edgecolor=colour))
    middle = top + BOX / 2
    axes.text(0.1, middle, box.name, fontsize=10, weight="bold", va="center", color=INK)
    axes.text(1.15, middle, box.about, fontsize=9, va="center", color=INK)
    axes.text(OUTPUT, middle, shape(box.shape), fontsize=10, va="center", color=INK)
    if box.parameters:
        share = f"{box.parameters:,}  ({box.parameters / total:.1%})"
        axes.text(COUNT, middle, share, fontsize=10, va="center", color=INK)
