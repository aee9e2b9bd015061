"""The filters of whatever holds some: arrays, a network of torch or of NumPy, or a file."""

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
    """The filters (FN, C, FH, FW) of one convolution layer; options are filter_panels' scale and channels.

    Args:
        source: An array or tensor, several by name ("before", "after"), a torch module, a network of numpy_ref, the
            parameters of either, or the path of a file of weights or of a run's folder.
        title: What the picture's title says before the number of filters.
        layer: Which of a network's parameters, as conv1.weight or W1; None for the first convolution's.
        only: Which filter alone; None for all.

    Raises:
        ValueError: For a network without convolutions, another layer, a filter that is not there, unequal shapes; as
            read_weights for a file.

    >>> filters(np.eye(3).reshape(1, 1, 3, 3), "an edge").axes[0].get_title()
    'weights 0 to 1'
    """
    panels = {name: weights_of(value, layer) for name, value in _named(source).items()}
    if only is None:
        return filter_panels(panels, title or "filters", **options)
    check_index("only", only, min(map(len, panels.values())), "filters")
    return filter_panels({name: w[[only]] for name, w in panels.items()}, title or "filters", first=only, **options)


def weights_of(source: Any, layer: str | None = None) -> Array:
    """The weights (FN, C, FH, FW) of a convolution layer of source, which is as filters takes it. ValueError."""
    if isinstance(source, str | Path):
        from torchport.files import read_weights  # which brings torch

        source = read_weights(source)
    if callable(getattr(source, "named_parameters", None)):
        source = dict(source.named_parameters())
    source = getattr(source, "params", source)
    if not isinstance(source, Mapping):
        return _array(source)
    found = {name: value for name, value in source.items() if value.ndim == 4}
    if not found:
        raise ValueError(f"source has no convolution layer, only {', '.join(source)}")
    if layer is not None and layer not in found:
        raise ValueError(f"layer must be one of {', '.join(found)}, got {layer!r}")
    return _array(found[layer or next(iter(found))])


def _named(source: Any) -> Mapping[str, Any]:
    """Panels by name: a mapping of which every value is some, else one."""
    if isinstance(source, Mapping) and all(getattr(value, "ndim", 4) == 4 for value in source.values()):
        return source
    return {Path(source).name if isinstance(source, str | Path) else "": source}


def _array(value: Any) -> Array:
    value = value.detach().cpu().double().numpy() if hasattr(value, "detach") else np.asarray(value)
    if value.ndim != 4:
        raise ValueError(f"filters must have 4 axes (FN, C, FH, FW), got shape {value.shape}")
    return np.asarray(value)
