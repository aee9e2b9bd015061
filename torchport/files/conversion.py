"""Turns one set of a file's arrays into Weights: the book's names and layout, the architecture, one dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from numpy_ref.checks import Array
from numpy_ref.params import check_arrays
from torchport.files.containers import ArraySet
from torchport.networks import DTYPES, Hints, Source, Weights, cast_params
from torchport.networks.layouts import to_params
from torchport.networks.nearest import NoNetworkError, list_shapes
from torchport.networks.recognition import recognise_with_hints

MAX_LINE = 2000  # characters of a message on a file
ORDER = "order leaves out layers that it does not name (--order)"


def to_weights(
    hints: Hints,
    source: Source,
    dtype: torch.dtype | None,
    allow_nonfinite: bool,
    array_set: ArraySet,
    remaining: Mapping[str, Array],
) -> Weights:
    """Return the Weights made of array_set, one of the sets in a file; remaining are the file's other arrays."""
    params, conversions = to_params(array_set.arrays, hints)
    try:
        architecture = recognise_with_hints(params, hints.geometry)  # first: another dtype would not make it a network
    except NoNetworkError as error:
        way_out = [ORDER] * (" is unexpected" in str(error) and "gamma1" not in params)
        raise NoNetworkError("; ".join([str(error), *conversions, *way_out])) from None
    place = [f"in the part {array_set.place!r}"] * bool(array_set.place)
    steps = [*source.steps, *place, *array_set.left_out, *conversions]
    steps += [f"left out beside it: {list_shapes(remaining)}"] * bool(remaining)
    dtypes = sorted({str(value.dtype) for value in params.values()})
    source = replace(source, steps=tuple(map(one_line, steps)), dtypes=tuple(dtypes))
    cast = _to_one_dtype(params, dtype)
    check_arrays(cast, allow_nonfinite)
    return Weights.of(cast, hints.geometry, source.rounded(params, cast), architecture)


def _to_one_dtype(params: Mapping[str, Array], dtype: torch.dtype | None) -> dict[str, Array]:
    """Return params in dtype, or unchanged for None. TypeError if they then are no floats or of several dtypes."""
    if wrong := next((name for name, value in params.items() if value.dtype.kind not in "fiu"), None):
        raise TypeError(f"{wrong} has dtype {params[wrong].dtype}, expected float16, float32 or float64")
    if dtype is not None:
        return cast_params(params, dtype)
    for name, value in params.items():
        if value.dtype not in DTYPES:
            raise TypeError(f"{name} has dtype {value.dtype}: give the dtype that all should have (--dtype float32)")
    if len({value.dtype for value in params.values()}) > 1:
        listing = ", ".join(f"{name} {value.dtype}" for name, value in params.items())
        raise TypeError(f"the dtypes differ, {listing}: give the one that all should have (--dtype float32)")
    return dict(params)


def one_line(text: str) -> str:
    """Return text, which may contain names from an untrusted file, in printable characters and at most MAX_LINE."""
    return (text if text.isprintable() else ascii(text)[1:-1])[:MAX_LINE]
