"""A file of weights into the state_dict of a module of one's own: in its place once it is proved and reads back."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors, save as save_safetensors
from torch import Tensor, nn

from numpy_ref.files import check_target, stage
from torchport.loading.filling import Loaded, load_params
from torchport.networks import Weights
from torchport.networks.names import state_dict_bytes

SUFFIXES = (".pt", ".safetensors")


def write_into(port: nn.Module, weights: Weights, target: str | Path, *, force: bool = False) -> Loaded:
    """Fill port with weights (load_params), and write its state_dict to target, a .pt or .safetensors file.

    FileExistsError; LoadError, ValueError, TypeError or OSError: then nothing is written.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"the state_dict of a module of one's own goes into {' or '.join(SUFFIXES)}, got {target}")
    if check_target(target, weights.source.path).exists() and not force:
        raise FileExistsError(f"{target} exists: give another name, or have it replaced with --force (force=True)")
    loaded = load_params(port, weights)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in port.state_dict().items()}
    with stage(target, _encoded(state, suffix)) as staged:
        written = _decoded(staged.path.read_bytes(), suffix)
        if written.keys() != state.keys() or not all(torch.equal(state[key], written[key]) for key in state):
            raise OSError(f"{target}: what was written does not read back as it was")
        staged.commit()
    return loaded


def _encoded(state: dict[str, Tensor], suffix: str) -> bytes:
    return bytes(save_safetensors(state)) if suffix == ".safetensors" else state_dict_bytes(state)


def _decoded(data: bytes, suffix: str) -> dict[str, Tensor]:
    is_safe = suffix == ".safetensors"
    found: dict[str, Tensor] = load_safetensors(data) if is_safe else torch.load(io.BytesIO(data), weights_only=True)
    return found
