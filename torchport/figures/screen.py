"""The only place where a window opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_display() -> None:
    """ValueError where no window can be opened."""
    from matplotlib import pyplot

    try:
        window = pyplot.figure()
        toolkit = window.canvas.required_interactive_framework
        pyplot.close(window)
    except ImportError as error:  # a backend that was asked for by name
        raise ValueError(_no_window(str(error))) from None
    if toolkit is None:
        raise ValueError(_no_window(f"matplotlib's backend is {pyplot.get_backend()}"))


def show(figure: Figure) -> None:
    """Open a window with figure, and wait until it is closed. ValueError where there is no display."""
    from matplotlib import pyplot

    check_display()
    window = pyplot.figure(figsize=tuple(figure.get_size_inches()))
    manager = window.canvas.manager
    assert manager is not None  # check_display has seen one
    # figure was made without pyplot, which opens windows for its own figures only: it takes the place of one.
    manager.canvas.figure = figure
    figure.set_canvas(manager.canvas)
    pyplot.show(block=True)


def _no_window(reason: str) -> str:
    return f"no window can be opened here ({reason}): leave out --show, and look at the file"
