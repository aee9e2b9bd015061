"""Translates a reference layer's parameters into torch's names and layout."""

from __future__ import annotations

from collections.abc import Mapping

from numpy_ref.checks import Array

# The attribute of a reference layer -> that of its torch module.
MODULE_ATTRIBUTES = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}


def to_torch_layout(value: Array) -> Array:
    """A parameter of a reference layer in its torch module's layout: an Affine weight transposed, else as it is."""
    return value.T if value.ndim == 2 else value


def in_torch_terms(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """A reference layer's parameters, or their gradients or limits, by torch's names and in its layout."""
    return {MODULE_ATTRIBUTES[name]: to_torch_layout(value) for name, value in arrays.items()}
