"""Writes the state_dict of a user's module filled with weights, once that is proved and the file reads back."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors, save as save_safetensors
from torch import Tensor, nn

from numpy_ref.files import check_target, stage
from torchport.loading.filling import Loaded, load_params
from torchport.networks import Weights
from torchport.networks.names import state_dict_bytes

# By suffix: encoder and decoder.
FORMATS: dict[str, tuple[Callable[[dict[str, Tensor]], bytes], Callable[[bytes], dict[str, Tensor]]]] = {
    ".pt": (state_dict_bytes, lambda data: torch.load(io.BytesIO(data), weights_only=True)),
    ".safetensors": (save_safetensors, load_safetensors),
}


def write_into(port: nn.Module, weights: Weights, target: str | Path, *, force: bool = False) -> Loaded:
    """Fill port with weights (load_params), and write its state_dict to target, a .pt or .safetensors file.

    Nothing is written on FileExistsError, LoadError, ValueError, TypeError or OSError.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"the state_dict of a module of one's own goes into {' or '.join(FORMATS)}, got {target}")
    if check_target(target, weights.source.path).exists() and not force:
        raise FileExistsError(f"{target} exists: give another name, or have it replaced with --force (force=True)")
    loaded = load_params(port, weights)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in port.state_dict().items()}
    encode, decode = FORMATS[suffix]
    with stage(target, encode(state)) as staged:
        written = decode(staged.path.read_bytes())
        if written.keys() != state.keys() or not all(torch.equal(state[key], written[key]) for key in state):
            raise OSError(f"{target}: what was written does not read back as it was")
        staged.commit()
    return loaded
