"""Checks of torch arguments, as numpy_ref.checks does of NumPy's: errors name the value received and the way out."""

from __future__ import annotations

import torch
from torch import Tensor


def check_tensor(name: str, value: object, ndim: int | None = None) -> Tensor:
    """Return value, a tensor (of ndim axes, if given) that is not empty. TypeError, ValueError."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.numel() == 0 or value.ndim == 0 or (ndim is not None and value.ndim != ndim):
        axes = "at least one axis" if ndim is None else f"{ndim} axes"
        raise ValueError(f"{name} must have {axes}, none of them empty, got shape {tuple(value.shape)}")
    return value


def check_floating(name: str, value: Tensor) -> Tensor:
    """Return value, a tensor of real floating-point numbers. TypeError."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {value.dtype}")
    return value


def check_goes_with(name: str, value: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless value is on weight's device, TypeError unless, outside autocast, it has its dtype."""
    if value.device != weight.device:
        raise ValueError(f"{name} is on {value.device}, the weights on {weight.device}: move one with .to()")
    if value.dtype != weight.dtype and not torch.is_autocast_enabled(value.device.type):
        way_out = "convert one with .to()"
        if value.dtype == torch.uint8:
            way_out = f"of images, 0 to 255, give .to({weight.dtype}) / 255, as the book does"
        raise TypeError(f"{name} has dtype {value.dtype}, the weights {weight.dtype}: {way_out}")


def check_device(name: str, value: torch.device | str | None) -> torch.device | str | None:
    """Return value, a device on which this machine can create a tensor, or None. ValueError."""
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ValueError(f"{name} {str(value)!r} cannot be used here ({reason:.160}): try cpu") from None
    return value


def check_computing_device(name: str) -> str:
    """Return name, a device on which this machine can compute. ValueError."""
    check_device("device", name)
    if torch.device(name).type == "meta":
        raise ValueError(f"device {name!r} holds no numbers: try cpu")
    return name


def check_floating_dtype(name: str, value: torch.dtype | None) -> torch.dtype | None:
    """Return value, a real floating-point dtype, or None. TypeError."""
    if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise TypeError(f"{name} must be a floating-point torch dtype, got {value!r}")
    return value
