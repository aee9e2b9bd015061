"""Reads weights from files of any format, and writes them: the target is replaced whole or not at all.

formats.py decodes the bytes, containers.py finds the network among the arrays, conversion.py turns it into Weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import check_int
from numpy_ref.files import Staged, read_file, stage
from numpy_ref.params import MAX_BYTES, same_bits
from torchport.choices import Activation, Convolution
from torchport.files.containers import array_sets, find_network
from torchport.files.conversion import one_line, to_weights
from torchport.files.formats import Format, format_named, format_of
from torchport.files.safe import is_safetensors, metadata_of
from torchport.networks import Hints, Source, Weights
from torchport.networks.hints import NO_HINTS

# The files of a run's folder. The first checkpoint precedes config.json; the last three are written at the end.
CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.pt"
MODEL, PARAMS, CURVES = "model.pt", "params.pkl", "curves.png"
TRAINED = ("data", "data_dir", "images")  # the options in a run's configuration that say what it was trained on


def _read(path: str | Path, max_bytes: int = MAX_BYTES) -> tuple[object, Source]:
    """Return what path holds, a file of any format or a run's folder, and its Source; nothing in it is executed.

    The file's first bytes decide its format, not its name. ValueError (ParamsError), TypeError or OSError.
    """
    file, notes = file_of(path), list[str]()
    data = read_file(file, check_int("max_bytes", max_bytes, 1))
    file_format = format_of(data)
    with naming(file):
        value = file_format.decode(data, max_bytes, notes)
        metadata = {**_run_config(file), **(metadata_of(data) if is_safetensors(data) else {})}
    trained = {name: metadata[name] for name in TRAINED if isinstance(metadata.get(name), str)}
    digest = hashlib.sha256(data).hexdigest()
    return value, Source(file, file_format.suffixes[0], digest, tuple(notes), trained=trained)


def listing(path: str | Path) -> str:
    """Return a table of the arrays in path: name, shape, dtype, memory order, extremes and a digest of the bytes."""
    rows = [("array", "shape", "dtype", "order", "min", "max", "SHA-256 of the bytes in C order")]
    for array_set in islice(array_sets(_read(path)[0]), 1):
        for name, array in array_set.arrays.items():
            orders = {"C": array.flags.c_contiguous, "F": array.flags.f_contiguous}
            order = ", ".join(filter(orders.get, orders)) or "neither"
            extremes = f"{array.min():.6g}", f"{array.max():.6g}"
            digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            label = name if name.isprintable() else ascii(name)
            rows.append((label, str(array.shape), str(array.dtype), order, *extremes, digest))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def read_weights(
    path: str | Path,
    hints: Hints = NO_HINTS,
    *,
    dtype: torch.dtype | None = None,
    max_bytes: int = MAX_BYTES,
    allow_nonfinite: bool = False,
) -> Weights:
    """Read the weights of any supported network from path, whatever the names and layout of the arrays there.

    Args:
        path: A params.pkl, .npz, .npy, .pt, .safetensors or .onnx file, or a training run's folder.
        hints: What the file cannot tell.
        dtype: The dtype to round to: float16, float32 or float64. None keeps the file's.
        max_bytes: Limit on the size of the file, packed and unpacked.
        allow_nonfinite: Whether NaN and infinity are accepted.

    Returns:
        Weights; their source.steps say how the file's arrays were converted to the book's parameters.

    Raises:
        ValueError: If the file is unsuitable, or can be read in several ways; the message says which, and what decides.
        TypeError: For mixed dtypes, or others than float16, float32 and float64, unless dtype is given.
        OSError: If the file cannot be read.

    Example:
        >>> import numpy_ref, tempfile
        >>> from torchport.files import read_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy_ref.TwoLayerNet(784, 50, 10).save_params(f"{folder}/params.pkl")
        ...     weights = read_weights(f"{folder}/params.pkl")
        >>> weights.architecture.name
        'TwoLayerNet'
    """
    value, source = _read(path, max_bytes)
    with naming(path):
        return find_network(value, hints.part, partial(to_weights, hints, source, dtype, allow_nonfinite))


def load_network(
    path: str | Path,
    conv: Convolution = "conv2d",
    stride: int = 1,
    pad: int = 0,
    activation: Activation | None = None,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    **hints: Any,
) -> nn.Sequential:
    """Return the torch network that the weights in path belong to, in evaluation mode.

    Args:
        path: A file of weights of any format, or a training run's folder (see files.read_weights).
        conv: The convolution, "conv2d" or "unfold".
        stride: The stride of the convolutions in pixels, which weights do not show.
        pad: Their padding in pixels, which weights do not show either.
        activation: "relu", "sigmoid" or "tanh", which weights do not show either; None for the book's.
        device: The device of the network.
        dtype: The dtype of the network: float16, float32 or float64. None keeps the file's.
        hints: The remaining fields of files.Hints: pool, flatten, kernels, affine, order, part.

    Returns:
        A SimpleConvNet, or an nn.Sequential of layers with the reference's names.

    Raises:
        ValueError, TypeError, OSError: As read_weights does; also for an unknown conv or device.

    Example:
        >>> import numpy_ref, tempfile, torch, torchport
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy_ref.SimpleConvNet().save_params(f"{folder}/params.pkl")
        ...     net = torchport.load_network(f"{folder}/params.pkl", dtype=torch.float32)
        >>> net(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    all_hints = Hints(stride, pad, activation, **hints)
    return read_weights(path, all_hints, dtype=dtype).port(conv, device).eval()


@dataclass(frozen=True)
class StagedWeights:
    """Weights in a temporary file beside their target, which commit replaces."""

    staged: Staged
    written: Weights
    format: Format

    def read(self) -> Weights:
        """Read the temporary file back. OSError unless it holds the written weights, bit for bit."""
        read_back = partial(to_weights, self.written.geometry, self.written.source, None, True)
        try:
            value = self.format.decode(self.staged.path.read_bytes(), MAX_BYTES, [])
            back = find_network(value, None, read_back)
        except (ValueError, TypeError) as error:
            raise OSError(f"{self.staged.name}: what was written does not read back: {error}") from None
        if not same_bits(self.written.arrays, back.arrays):
            raise OSError(f"{self.staged.name}: what was written does not read back as it was")
        return back

    def commit(self) -> None:
        """Move the temporary file to the target."""
        self.staged.commit()


@contextmanager
def stage_weights(weights: Weights, target: str | Path) -> Iterator[StagedWeights]:
    """Write weights to a temporary file beside target, in the format of target's suffix. ValueError, OSError."""
    file_format = format_named(target)
    assert file_format.encode is not None
    about = {"architecture": weights.architecture.call, "layout": "torch"}
    if weights.source.sha256:
        about["source_sha256"] = weights.source.sha256
    trained = weights.source.trained
    about |= {name: value for name, value in trained.items() if name != "data_dir"}  # this machine's path is no use
    with stage(target, file_format.encode(weights, about)) as staged:
        yield StagedWeights(staged, weights, file_format)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Prefix the message of a ValueError or TypeError raised inside with path."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {one_line(str(error))}") from error


def _run_config(file: Path) -> Mapping[str, str]:
    """Return the configuration of the run that wrote file, empty if file is no run's model.pt or params.pkl."""
    try:
        config = json.loads((file.parent / CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and file.name in (MODEL, PARAMS) else {}


def file_of(path: str | Path) -> Path:
    """Return path itself, or the weights file inside if it is a run's folder. ValueError for any other folder."""
    folder = Path(path)
    if not folder.is_dir():
        return folder
    if (folder / MODEL).exists():
        return folder / MODEL
    if (folder / CONFIG).exists() and (folder / CHECKPOINT).exists():
        raise ValueError(
            f"{folder} is a run that has not ended: go on with python scripts/train.py --out {folder} --resume"
        )
    raise ValueError(f"{folder} is not a run's folder (it has no {MODEL}): name a file of weights or such a folder")
