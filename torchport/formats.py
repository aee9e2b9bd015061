"""Weights from whatever file they are in."""

from __future__ import annotations

from pathlib import Path

import torch

from numpy_ref.checks import Array
from numpy_ref.params import read_params
from torchport.weights import to_params

ZIP_SIGNATURE = b"PK\x03\x04"  # what torch.save writes

MODEL, CHECKPOINT = "model.pt", "checkpoint.pt"  # in a run's folder


def load_weights(path: str | Path) -> dict[str, Array]:
    """The book's params (W1 b1 W2 b2 W3 b3) in path: a params.pkl, a state_dict (.pt), or a training run's folder.

    What a file is, its first bytes tell and not its name; nothing in it is run. ValueError (ParamsError for a pickle),
    TypeError or OSError say what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        return _load_state_dict(_model_of_run(path))
    return _load_state_dict(path) if _is_zip(path) else read_params(path)


def _model_of_run(folder: Path) -> Path:
    if (folder / MODEL).exists():
        return folder / MODEL
    if (folder / CHECKPOINT).exists():
        raise ValueError(
            f"{folder} is a run that has not ended: go on with python scripts/train.py --out {folder} --resume"
        )
    raise ValueError(f"{folder} is no run's folder (it has no {MODEL}): name a params.pkl, a .pt file or such a folder")


def _is_zip(path: Path) -> bool:
    if not path.is_file():
        return False  # read_params says what it is
    with path.open("rb") as file:
        return file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE


def _load_state_dict(path: Path) -> dict[str, Array]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is no state_dict that torch.load(weights_only=True) reads ({reason}): save net.state_dict()"
        ) from error
    try:
        return to_params(found)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error
