"""Weights from whatever file they are in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array, check_int
from numpy_ref.files import read_file
from numpy_ref.params import MAX_BYTES, check_arrays
from torchport.architectures import recognise
from torchport.formats.kinds import Format, format_of
from torchport.states import to_book_terms

# In a run's folder; config.json comes after the first checkpoint.
CONFIG, MODEL, CHECKPOINT = "config.json", "model.pt", "checkpoint.pt"


@dataclass(frozen=True)
class Stored:
    """What a file holds: arrays under its own names, in its own layout and order; the SHA-256 of all its bytes."""

    arrays: dict[str, Array]
    format: Format
    sha256: str

    def params(self) -> dict[str, Array]:
        """The arrays under the book's names, in its layout and in C order. ValueError for names that have none."""
        params = to_book_terms(self.arrays) if self.format.torch_terms else self.arrays
        return {name: np.ascontiguousarray(value) for name, value in params.items()}

    def to_text(self) -> str:
        """A line for each array: name, shape, dtype, memory order, least and greatest, and a digest of its bytes."""
        rows = [("array", "shape", "dtype", "order", "min", "max", "SHA-256 of the bytes in C order")]
        for name, array in self.arrays.items():
            ends = f"{array.min():.6g}", f"{array.max():.6g}"
            digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            printable = name if name.isprintable() else ascii(name)
            rows.append((printable, str(array.shape), str(array.dtype), _order(array), *ends, digest))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def read_stored(path: str | Path, *, max_bytes: int = MAX_BYTES, allow_nonfinite: bool = False) -> Stored:
    """The arrays in path: a params.pkl, .npz, .pt or .safetensors file, or a training run's folder.

    Its first bytes tell what a file is, not its name; nothing in it is run. ValueError (ParamsError), TypeError or
    OSError say what is wrong with it: more than max_bytes, packed or unpacked, and NaN or infinity too, unless allowed.
    """
    file = file_of(path)
    data = read_file(file, check_int("max_bytes", max_bytes, 1))
    if data[:1] == b"\x08" and data[2:3] == b"\x12":
        raise ValueError(f"{file}: this is an ONNX file, which is only written: name the weights that it was made of")
    kind = format_of(data)
    with naming(file):
        arrays = check_arrays(kind.decode(data, max_bytes), allow_nonfinite)
    return Stored(arrays, kind, hashlib.sha256(data).hexdigest())


def load_weights(path: str | Path, *, max_bytes: int = MAX_BYTES, allow_nonfinite: bool = False) -> dict[str, Array]:
    """The book's params (W1, b1, W2 ...) in path, of whichever network: as read_stored. Errors alike."""
    stored = read_stored(path, max_bytes=max_bytes, allow_nonfinite=allow_nonfinite)
    with naming(path):
        return stored.params()


def load_network(
    path: str | Path,
    conv: str = "conv2d",
    stride: int = 1,
    pad: int = 0,
    activation: str | None = None,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """The torch network that the weights in path belong to, in their dtype and in evaluation mode.

    stride, pad and activation are what leaves no trace in the weights (architectures.recognise). Errors are those of
    load_weights and recognise; ValueError for another conv or device.
    """
    params = load_weights(path)
    with naming(path):
        architecture = recognise(params, stride, pad, activation)
    return architecture.port(params, conv, device).eval()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Have a ValueError or TypeError of what is inside begin with path."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from error


def _order(array: Array) -> str:
    """C, F, both for what is stored alike in either, or neither."""
    kinds = {"C": array.flags.c_contiguous, "F": array.flags.f_contiguous}
    return ", ".join(kind for kind, is_so in kinds.items() if is_so) or "neither"


def file_of(path: str | Path) -> Path:
    """The file of weights that path names: itself, or that of a run's folder. ValueError for any other folder."""
    folder = Path(path)
    if not folder.is_dir():
        return folder
    if (folder / MODEL).exists():
        return folder / MODEL
    if (folder / CONFIG).exists() and (folder / CHECKPOINT).exists():
        raise ValueError(
            f"{folder} is a run that has not ended: go on with python scripts/train.py --out {folder} --resume"
        )
    raise ValueError(f"{folder} is no run's folder (it has no {MODEL}): name a file of weights or such a folder")
