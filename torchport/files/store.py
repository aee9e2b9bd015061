"""Weights from whatever file they are in, and into one, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array, check_int
from numpy_ref.files import Staged, read_file, stage
from numpy_ref.params import MAX_BYTES, check_arrays, same_bits
from torchport.choices import Activation, Convolution
from torchport.files.containers import ArraySet, array_sets, only_network
from torchport.files.formats import Format, format_named, format_of
from torchport.files.safe import is_safetensors, metadata_of
from torchport.networks import DTYPES, Hints, Source, Weights, cast_params
from torchport.networks.hints import NO_HINTS
from torchport.networks.layouts import to_params
from torchport.networks.nearest import NoNetworkError, listed
from torchport.networks.recognition import recognised

# In a run's folder; config.json comes after the first checkpoint.
CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.pt"
MODEL, PARAMS, CURVES = "model.pt", "params.pkl", "curves.png"  # in the end
TRAINED = ("data", "data_dir", "images")  # of a configuration: on what

Params = Mapping[str, Array]

MAX_LINE = 2000  # characters of what is said of a file
ORDER = "order leaves out layers that it does not name (--order)"


def _read(path: str | Path, max_bytes: int = MAX_BYTES) -> tuple[object, Source]:
    """What is in path, a file of any format or a training run's folder, and where it comes from; nothing in it is run.

    Its first bytes tell what a file is, not its name. ValueError (ParamsError), TypeError or OSError.
    """
    file, notes = file_of(path), list[str]()
    data = read_file(file, check_int("max_bytes", max_bytes, 1))
    kind = format_of(data)
    with naming(file):
        value = kind.decode(data, max_bytes, notes)
        told = {**_run_beside(file), **(metadata_of(data) if is_safetensors(data) else {})}
    trained = {name: told[name] for name in TRAINED if isinstance(told.get(name), str)}
    digest = hashlib.sha256(data).hexdigest()
    return value, Source(file, kind.suffixes[0], digest, tuple(notes), trained=trained)


def listing(path: str | Path) -> str:
    """A line for each array in path: name, shape, dtype, memory order, least and greatest, a digest of its bytes."""
    rows = [("array", "shape", "dtype", "order", "min", "max", "SHA-256 of the bytes in C order")]
    for each in islice(array_sets(_read(path)[0]), 1):
        for name, array in each.arrays.items():
            orders = {"C": array.flags.c_contiguous, "F": array.flags.f_contiguous}
            order = ", ".join(filter(orders.get, orders)) or "neither"
            ends = f"{array.min():.6g}", f"{array.max():.6g}"
            digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            printable = name if name.isprintable() else ascii(name)
            rows.append((printable, str(array.shape), str(array.dtype), order, *ends, digest))
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
    """The weights in path, of whichever network, under whatever names and in whichever layout they are there.

    Args:
        path: A params.pkl, .npz, .npy, .pt, .safetensors or .onnx file, or a training run's folder.
        hints: What the file cannot tell.
        dtype: To which they are rounded: float16, float32 or float64. None for as they are.
        max_bytes: Of the file, packed or unpacked.
        allow_nonfinite: Whether NaN and infinity may be among them.

    Returns:
        Weights, whose source.steps say what was done to make the book's parameters of what the file holds.

    Raises:
        ValueError: What is wrong with the file, or which readings there are and what chooses between them.
        TypeError: For other dtypes than float16, float32 and float64, or several, unless dtype is given.
        OSError: For a file that cannot be read.

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
        return only_network(value, hints.part, partial(_weights, hints, source, dtype, allow_nonfinite))


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
    """The torch network that the weights in path belong to, in evaluation mode.

    Args:
        path: A file of weights of any format, or a training run's folder (files.read_weights).
        conv: The convolution, "conv2d" or "unfold".
        stride: Of a SimpleConvNet's convolution, in pixels: it leaves no trace in the weights.
        pad: Likewise.
        activation: Likewise: "relu", "sigmoid" or "tanh"; None for the book's.
        device: Where to.
        dtype: Of the network: float16, float32 or float64. None for that of the file.
        hints: What else a file cannot tell, as of files.Hints: pool, flatten, kernels, affine, order, part.

    Returns:
        A SimpleConvNet, or an nn.Sequential of layers with the reference's names.

    Raises:
        ValueError, TypeError, OSError: As read_weights; for another conv or device too.

    Example:
        >>> import numpy_ref, tempfile, torch, torchport
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy_ref.SimpleConvNet().save_params(f"{folder}/params.pkl")
        ...     net = torchport.load_network(f"{folder}/params.pkl", dtype=torch.float32)
        >>> net(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """
    told = Hints(stride, pad, activation, **hints)
    return read_weights(path, told, dtype=dtype).port(conv, device).eval()


@dataclass(frozen=True)
class StagedWeights:
    """Weights in a file beside its target, whose place it takes with commit."""

    staged: Staged
    written: Weights
    format: Format

    def read(self) -> Weights:
        """What is in the file: the weights, bit for bit. OSError for anything else."""
        try:
            found = self.format.decode(self.staged.path.read_bytes(), MAX_BYTES, [])
            back = only_network(found, None, partial(_weights, self.written.geometry, self.written.source, None, True))
        except (ValueError, TypeError) as error:
            raise OSError(f"{self.staged.name}: what was written does not read back: {error}") from None
        if not same_bits(self.written.arrays, back.arrays):
            raise OSError(f"{self.staged.name}: what was written does not read back as it was")
        return back

    def commit(self) -> None:
        """Take the target's place."""
        self.staged.commit()


@contextmanager
def stage_weights(weights: Weights, target: str | Path) -> Iterator[StagedWeights]:
    """weights in a new file beside target, in the format that target's name says. ValueError, OSError."""
    kind = format_named(target)
    assert kind.encode is not None
    about = {"architecture": weights.architecture.call, "layout": "torch"}
    if weights.source.sha256:
        about["source_sha256"] = weights.source.sha256
    about |= {name: told for name, told in weights.source.trained.items() if name != "data_dir"}  # as on this machine
    with stage(target, kind.encode(weights, about)) as staged:
        yield StagedWeights(staged, weights, kind)


def _weights(
    hints: Hints, source: Source, dtype: torch.dtype | None, allow_nonfinite: bool, each: ArraySet, beside: Params
) -> Weights:
    params, said = to_params(each.arrays, hints)
    try:
        recognised(params, hints.geometry)  # first: what is no network needs no other dtype
    except NoNetworkError as error:
        way_out = [ORDER] * (" is unexpected" in str(error) and "gamma1" not in params)
        raise NoNetworkError("; ".join([str(error), *said, *way_out])) from None
    steps = [*source.steps, *[f"in the part {each.place!r}"] * bool(each.place), *each.left_out, *said]
    steps += [f"left out beside it: {listed(beside)}"] * bool(beside)
    dtypes = sorted({str(value.dtype) for value in params.values()})
    source = replace(source, steps=tuple(map(_one_line, steps)), dtypes=tuple(dtypes))
    cast = _one_dtype(params, dtype)
    check_arrays(cast, allow_nonfinite)
    return Weights.of(cast, hints.geometry, source.rounded(params, cast))


def _one_dtype(params: Mapping[str, Array], dtype: torch.dtype | None) -> dict[str, Array]:
    """params in dtype, or in their own. TypeError where that is none of a network's, or several."""
    if wrong := next((name for name, value in params.items() if value.dtype.kind not in "fiu"), None):
        raise TypeError(f"{wrong} has dtype {params[wrong].dtype}, expected float16, float32 or float64")
    if dtype is not None:
        return cast_params(params, dtype)
    for name, value in params.items():
        if value.dtype not in DTYPES:
            raise TypeError(f"{name} has dtype {value.dtype}: give the dtype that all should have (--dtype float32)")
    if len({value.dtype for value in params.values()}) > 1:
        listing = ", ".join(f"{name} {value.dtype}" for name, value in params.items())
        raise TypeError(f"the dtypes differ, {listing}: give the one that all should have (--dtype float32)")
    return dict(params)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Have a ValueError or TypeError of what is inside begin with path."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {_one_line(str(error))}") from error


def _one_line(text: str) -> str:
    """text, some of which may be names from a stranger's file, as a terminal can show it."""
    return (text if text.isprintable() else ascii(text)[1:-1])[:MAX_LINE]


def _run_beside(file: Path) -> Mapping[str, str]:
    """The configuration beside a run's weights, as a run names them; nothing where there is none."""
    try:
        config = json.loads((file.parent / CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and file.name in (MODEL, PARAMS) else {}


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
