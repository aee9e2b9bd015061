"""Argument checks shared by the package: each error names the value received and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
T = TypeVar("T")


def check_int(name: str, value: object, minimum: int) -> int:
    """Return value as an int of at least minimum. TypeError, ValueError."""
    # A tuple of types, since torch 2.6 cannot compile a union of them.
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_number(name: str, value: object, low: float, high: float = float("inf")) -> float:
    """Return value as a finite float with low <= value <= high. TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not (np.isfinite(number) and low <= number <= high):
        limits = f"between {low} and {high}"
        if high == float("inf"):
            limits = f"at least {low}" if np.isfinite(number) else "finite"
        raise ValueError(f"{name} must be {limits}, got {value}")
    return number


def check_array(name: str, value: object, ndim: int | None = None) -> Array:
    """Return value, a real numeric ndarray (of ndim axes, if given). TypeError, ValueError."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    if value.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {value.shape}")
    return value


def check_floating(name: str, value: object) -> Array:
    """Return value, a floating-point ndarray: an update in place would truncate any other. TypeError."""
    array = check_array(name, value)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must be floating point, got dtype {array.dtype}")
    return array


def check_batch(name: str, value: object, ndim: int | None = None) -> Array:
    """Return value, an array with at least one sample along its first axis. TypeError, ValueError."""
    x = check_array(name, value, ndim)
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {x.shape}")
    return x


def check_shape(name: str, value: object, expected: tuple[int, ...]) -> Array:
    """Return value, an array of exactly the expected shape: nothing is ever broadcast. ValueError."""
    x = check_array(name, value)
    if x.shape != expected:
        raise ValueError(f"{name} must have shape {expected}, got {x.shape}")
    return x


def check_pair(x_name: str, x: object, t_name: str, t: object) -> None:
    """x and t are batches of one length. TypeError, ValueError."""
    x_length, t_length = len(check_batch(x_name, x)), len(check_batch(t_name, t))
    if x_length != t_length:
        raise ValueError(f"{x_name} and {t_name} must have one length, got {x_length} and {t_length}")


def check_mapping(name: str, value: object) -> Mapping[Any, Any]:
    """Return value, a dict or another mapping. TypeError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict or another mapping, got {type(value).__name__}")
    return value


def check_attributes(name: str, value: T, attributes: str) -> T:
    """Return value, an object with all of attributes, of whatever class. TypeError."""
    if not all(hasattr(value, attribute) for attribute in attributes.split()):
        raise TypeError(f"{name} must be an object with {attributes}, got {type(value).__name__}")
    return value


def random_stream(rng: np.random.RandomState | None) -> np.random.RandomState:
    """Return rng, or NumPy's global stream (the one np.random.seed sets) for None. TypeError."""
    if rng is None:
        # The module offers the methods of its hidden global RandomState.
        return cast(np.random.RandomState, np.random)
    if not isinstance(rng, np.random.RandomState):
        raise TypeError(f"rng must be a np.random.RandomState or None, got {type(rng).__name__}")
    return rng


def recorded(value: T | None, layer: object) -> T:
    """What forward kept for backward. RuntimeError before the first forward."""
    if value is None:
        raise RuntimeError(f"{type(layer).__name__}.backward needs forward first")
    return value
