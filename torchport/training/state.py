"""Nested dicts of tensors and numbers: what a learner is at one moment, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def copied(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """state with copies of its tensors, on the CPU."""
    return {
        key: copied(value) if isinstance(value, Mapping) else value.detach().to("cpu", copy=True)
        for key, value in state.items()
    }


def put_back(own: Mapping[Any, Any], saved: Mapping[Any, Any], where: str = "state") -> None:
    """Copy the values of saved into own's tensors, which stay where they are. ValueError where the two differ in kind.

    All is compared before anything is copied.
    """
    pairs = list(_pairs(own, saved, where))
    for target, value in pairs:
        target.copy_(value)


def all_finite(state: Mapping[Any, Any]) -> bool:
    """Whether no tensor of state holds a NaN or an infinity."""
    return all(
        all_finite(value) if isinstance(value, Mapping) else bool(torch.isfinite(value).all())
        for value in state.values()
    )


def _pairs(own: Mapping[Any, Any], saved: Any, where: str) -> Iterator[tuple[Tensor, Tensor]]:
    if not isinstance(saved, Mapping) or own.keys() != saved.keys():
        found = sorted(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(f"{where} of another network or update rule: expected {sorted(map(str, own))}, got {found}")
    for key, target in own.items():
        if isinstance(target, Mapping):
            yield from _pairs(target, saved[key], f"{where}.{key}")
            continue
        value = saved[key]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (target.shape, target.dtype):
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{where}.{key}: expected {target.dtype} {tuple(target.shape)}, got {found}")
        yield target, value
