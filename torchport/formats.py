"""Weights from whatever file they are in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.params import read_params
from torchport.weights import to_params

# What torch.save writes: a zip file, and before torch 1.6 a row of pickles that starts with this number.
TORCH_SIGNATURES = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")

# In a run's folder; config.json comes after the first checkpoint.
CONFIG, MODEL, CHECKPOINT = "config.json", "model.pt", "checkpoint.pt"


def load_weights(path: str | Path) -> dict[str, Array]:
    """The book's params (W1 b1 W2 b2 W3 b3) in path: a params.pkl, a state_dict (.pt), or a training run's folder.

    What a file is, its first bytes tell and not its name; nothing in it is run. ValueError (ParamsError for a pickle),
    TypeError or OSError say what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        return _load_state_dict(_model_of_run(path))
    return _load_state_dict(path) if _is_torch(path) else read_params(path)


def _model_of_run(folder: Path) -> Path:
    if (folder / MODEL).exists():
        return folder / MODEL
    if (folder / CONFIG).exists() and (folder / CHECKPOINT).exists():
        raise ValueError(
            f"{folder} is a run that has not ended: go on with python scripts/train.py --out {folder} --resume"
        )
    raise ValueError(f"{folder} is no run's folder (it has no {MODEL}): name a params.pkl, a .pt file or such a folder")


def _is_torch(path: Path) -> bool:
    if not path.is_file():
        return False  # read_params says what it is
    with path.open("rb") as file:
        return file.read(max(map(len, TORCH_SIGNATURES))).startswith(TORCH_SIGNATURES)


def _load_state_dict(path: Path) -> dict[str, Array]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it finds in a file that is refused below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to, with advice to run the file
        raise ValueError(
            f"{path} is no state_dict that torch.load(weights_only=True) reads: it is damaged, or holds something else "
            f"than tensors; write one with torch.save(net.state_dict(), path)"
        ) from error
    if isinstance(found, dict) and found.keys() >= {"step", "state"}:
        raise ValueError(f"{path} is the checkpoint of a run: name the run's folder, which has the trained weights")
    try:
        params = to_params(found)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error
    spoiled = [name for name, value in params.items() if not np.isfinite(value).all()]
    if spoiled:
        raise ValueError(
            f"{path}: NaN or infinity in {', '.join(spoiled)}: take weights from before the training went astray"
        )
    return params
