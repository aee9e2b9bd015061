"""Whose kernels take a step: torch's, or those of torchport.training.kernels."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from torchport.choices import Launched
from torchport.networks import Weights
from torchport.training.config import TORCH, TRITON, Config
from torchport.training.ranks import Ranks

# What a block of threads takes at once.
LARGEST = {"batch_size": 128, "hidden_size": 128, "output_size": 16}


def kernels_for(config: Config, weights: Weights, device: torch.device, ranks: Ranks) -> Launched:
    """As config chooses, or Triton's where they can. ValueError where they are chosen and do not take weights."""
    if config.kernels == TORCH or config.unfit_for_triton:
        return TORCH
    reason = misfit(config.batch_size, weights.architecture.arguments)
    if config.kernels == TRITON:
        if reason is not None:
            raise ValueError(f"kernels triton take {reason}: choose torch")
        return TRITON
    usable = device.type == "cuda" and ranks.size == 1 and find_spec("triton") is not None
    return TRITON if usable and reason is None and torch.cuda.get_device_capability(device) >= (8, 0) else TORCH


def misfit(batch_size: int, arguments: Mapping[str, Any]) -> str | None:
    """What Triton's kernels want otherwise of a batch, or of a SimpleConvNet's arguments; None where they take it."""
    given = {"batch_size": batch_size, **arguments}
    for name, largest in LARGEST.items():
        if given[name] > largest:
            return f"{name} of at most {largest}, got {given[name]}"
    stride, pad = (arguments["conv_param"][name] for name in ("stride", "pad"))
    return None if (stride, pad) == (1, 0) else f"stride 1 and pad 0, got {stride} and {pad}"
