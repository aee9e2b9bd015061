"""Argument checks of constructors and forward: each error names the value received and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
T = TypeVar("T")


def check_int(name: str, value: object, minimum: int) -> int:
    """Return value as an int of at least minimum. TypeError, ValueError."""
    # A tuple of types, since torch 2.6 cannot compile a union.
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_index(name: str, value: object, count: int, what: str) -> int:
    """Return value as an index below count; what names the counted things in the error. TypeError, ValueError."""
    index = check_int(name, value, 0)
    if index >= count:
        raise ValueError(f"{name} must be at most {count - 1}, as there are {count} {what}, got {index}")
    return index


def check_number(name: str, value: object, low: float, high: float = float("inf")) -> float:
    """Return value as a finite float, low <= value <= high. TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if not low <= value <= high:
        limits = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise ValueError(f"{name} must be {limits}, got {value}")
    return float(value)


def check_array(name: str, value: object, ndim: int | None = None) -> Array:
    """Return value, an array of real numbers (of ndim axes, if given). TypeError, ValueError."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    if value.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {value.shape}")
    return value


def check_batch(name: str, value: object, ndim: int | None = None) -> Array:
    """Return value, an array with at least one sample along its first axis. TypeError, ValueError."""
    x = check_array(name, value, ndim)
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {x.shape}")
    return x


def check_shape(name: str, value: object, expected: tuple[int, ...]) -> Array:
    """Return value, an array of exactly the expected shape, without broadcasting. TypeError, ValueError."""
    x = check_array(name, value)
    if x.shape != expected:
        raise ValueError(f"{name} must have shape {expected}, got {x.shape}")
    return x


def check_mapping(name: str, value: object) -> Mapping[Any, Any]:
    """Return value, a dict or another mapping. TypeError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict or another mapping, got {type(value).__name__}")
    return value


def check_pair(x_name: str, x: object, t_name: str, t: object) -> None:
    """Check that x and t are batches of the same length. TypeError, ValueError."""
    x_length, t_length = len(check_batch(x_name, x)), len(check_batch(t_name, t))
    if x_length != t_length:
        raise ValueError(f"{x_name} and {t_name} must have one length, got {x_length} and {t_length}")


def random_stream(rng: np.random.RandomState | None) -> np.random.RandomState:
    """Return rng, or NumPy's global stream, which np.random.seed sets, for None. TypeError."""
    if rng is None:
        # The module has the methods of its hidden global RandomState.
        return cast(np.random.RandomState, np.random)
    if not isinstance(rng, np.random.RandomState):
        raise TypeError(f"rng must be a np.random.RandomState or None, got {type(rng).__name__}")
    return rng


def recorded(value: T | None, layer: object) -> T:
    """Return value, which forward has kept for backward. RuntimeError if it is None."""
    if value is None:
        raise RuntimeError(
            f"{type(layer).__name__}.backward needs forward first: a network's predict, and its loss of more than 500 "
            f"samples, keep nothing for it; gradient does, whatever the number"
        )
    return value
