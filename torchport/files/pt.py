"""A state_dict as torch.save writes it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import numpy as np
import torch

from numpy_ref.checks import Array, check_mapping
from numpy_ref.files import ParamsError, over_limit
from numpy_ref.params import MAX_BYTES
from torchport.formats.npz import open_zip
from torchport.weights import state_dict_bytes, to_array

ZIP = b"PK\x03\x04"
# What torch.save writes: a zip file, and before torch 1.6 a row of pickles that starts with this number.
SIGNATURES = (ZIP, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def decode_pt(data: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """The tensors in data as arrays, loaded with weights_only=True.

    ParamsError for anything but a state_dict, and for more than max_bytes of tensors; TypeError for tensors of other
    dtypes than float16, float32, float64.
    """
    found = _load(data, max_bytes)
    if isinstance(found, dict) and found.keys() >= {"step", "state"}:
        raise ParamsError("is the checkpoint of a run: name the run's folder, which has the trained weights")
    tensors = {str(key): value for key, value in check_mapping("a state_dict", found).items()}
    arrays = {
        key: to_array(f"{key:.80}" if key.isprintable() else ascii(key)[:80], value) for key, value in tensors.items()
    }
    # A tensor may repeat a single number without end.
    if (size := sum(array.nbytes for array in arrays.values())) > max_bytes:
        raise over_limit(f"{size} bytes of tensors", max_bytes)
    return arrays


def encode_pt(arrays: Mapping[str, Array], _: Mapping[str, str] | None = None) -> bytes:
    """arrays as torch.save writes a state_dict, for torch.load(weights_only=True)."""
    return state_dict_bytes({key: torch.from_numpy(np.array(array, order="C")) for key, array in arrays.items()})


def _load(data: bytes, max_bytes: int) -> object:
    try:
        if data.startswith(ZIP):
            open_zip(data, max_bytes).close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it finds in a file that is refused below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ParamsError, MemoryError):
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to, with advice to run the file
        raise ParamsError(
            "this is no state_dict that torch.load(weights_only=True) reads: it is damaged, or holds something else "
            "than tensors; write one with torch.save(net.state_dict(), path)"
        ) from error
