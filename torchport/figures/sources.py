"""Draws the filters of arrays, of a network in torch or NumPy, or of a file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from numpy_ref.checks import Array, check_index
from torchport.figures.convolution import filter_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def filters(
    source: Any, title: str = "", *, layer: str | None = None, only: int | None = None, **options: Any
) -> Figure:
    """The filters (FN, C, FH, FW) of one convolution layer. options are scale and channels of filter_panels.

    Args:
        source: An array or tensor, a torch module, a network of numpy_ref, the parameters of either, the path of a file
            of weights or of a run's folder; or a dict with several of these by name ("before", "after").
        title: What the picture's title says before the number of filters.
        layer: Name of a parameter, such as conv1.weight or W1; None for the first convolution's weights.
        only: Number of the only filter to show; None for all.

    Raises:
        ValueError: If there is no convolution, no such layer or no such filter, or if shapes differ; for a file, as
            read_weights.

    >>> filters(np.eye(3).reshape(1, 1, 3, 3), "an edge").axes[0].get_title()
    'weights 0 to 1'
    """
    panels = {name: weights_of(value, layer) for name, value in _named(source).items()}
    if only is None:
        return filter_panels(panels, title or "filters", **options)
    check_index("only", only, min(map(len, panels.values())), "filters")
    return filter_panels({name: w[[only]] for name, w in panels.items()}, title or "filters", first=only, **options)


def weights_of(source: Any, layer: str | None = None) -> Array:
    """The weights (FN, C, FH, FW) of a convolution layer of source, one of those that filters takes. ValueError."""
    if isinstance(source, str | Path):
        from torchport.files import read_weights  # here, since it imports torch

        source = read_weights(source)
    if callable(getattr(source, "named_parameters", None)):
        source = dict(source.named_parameters())
    source = getattr(source, "params", source)
    if not isinstance(source, Mapping):
        return _array(source)
    kernels = {name: value for name, value in source.items() if value.ndim == 4}
    if not kernels:
        raise ValueError(f"source has no convolution layer, only {', '.join(source)}")
    if layer is not None and layer not in kernels:
        raise ValueError(f"layer must be one of {', '.join(kernels)}, got {layer!r}")
    return _array(kernels[layer or next(iter(kernels))])


def _named(source: Any) -> Mapping[str, Any]:
    """source by panel name: source itself if it is a dict of panels, else one panel."""
    if isinstance(source, Mapping) and all(getattr(value, "ndim", 4) == 4 for value in source.values()):
        return source
    return {Path(source).name if isinstance(source, str | Path) else "": source}


def _array(value: Any) -> Array:
    value = value.detach().cpu().double().numpy() if hasattr(value, "detach") else np.asarray(value)
    if value.ndim != 4:
        raise ValueError(f"filters must have 4 axes (FN, C, FH, FW), got shape {value.shape}")
    return np.asarray(value)
