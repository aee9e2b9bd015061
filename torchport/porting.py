"""Weights of any of the book's networks from one file format to another, checked before an old file is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.files import check_target, stage
from numpy_ref.params import read_back
from torchport.architectures import Architecture, recognise
from torchport.formats import FORMATS, Format, file_of, naming, read_stored
from torchport.onnx_files import INPUT, SUFFIX, check_packages, write_onnx
from torchport.parity import Report, Setting
from torchport.parity.cases import check_ports, seeded_batch
from torchport.states import state_dict_of, to_book_terms
from torchport.weights import DTYPES, cast_params, rounding_loss, shared_dtype

RUNS = ("training", "prediction", "batch")  # of parity.ALL: what the weights decide, not who wrote the port
BATCH_SIZE = 8  # samples on which the networks must agree

DEFAULTS: dict[str, Any] = {"stride": 1, "pad": 0, "activation": None}  # of recognise

# What parity is judged in: float32 holds what float16 does.
JUDGED = {torch.float64: torch.float64, torch.float32: torch.float32, torch.float16: torch.float32}


class NoParity(Exception):
    """The reference and a port disagree, so nothing was written; reports say where."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__("the networks do not agree")
        self.reports = reports


@dataclass(frozen=True)
class Ported:
    """What was ported, and what that changed."""

    architecture: Architecture
    found: str  # the dtypes in the source
    dtype: str  # that of the target
    values: int
    changed: int  # of the values, by rounding
    largest: float  # of these changes, relative to the value
    verdicts: tuple[str, ...]  # one of each port
    example: str  # three lines of Python that load the target and predict


def port(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    stride: int = 1,
    pad: int = 0,
    activation: str | None = None,
    force: bool = False,
) -> Ported:
    """Read source, a file or a training run's folder (formats.read_stored), and write target in the format it names.

    dtype is float64, float32 or float16; None keeps what was found, except that an ONNX file, for which onnxruntime
    has no float64 convolution, gets float32. stride, pad and activation are what leaves no trace in the weights
    (architectures.recognise). An existing target is replaced if force says so, once what was written reads back bit for
    bit and the reference and both ports that hold it agree on seeded input.

    NoParity where they do not; FileExistsError; ValueError, TypeError or OSError for files that cannot be read or
    written, and for weights of another network.
    """
    options = {"stride": stride, "pad": pad, "activation": activation}
    kind = _kind_of(target)
    if check_target(target, file_of(source)).exists() and not force:
        raise FileExistsError(f"{target} exists: give another name, or have it replaced with --force (force=True)")
    stored = read_stored(source)
    with naming(source):
        original = stored.params()
        if kind is None:
            dtype = _dtype_for_onnx(original, dtype)
        params = original if dtype is None else cast_params(original, dtype)
        found = recognise(params, stride, pad, activation)
    if kind is None:
        verdicts = _write_onnx(found, params, target, options)
    else:
        about = {"architecture": found.call, "layout": "torch", "source_sha256": stored.sha256}
        verdicts = _write(found, params, target, kind, about, options)
    name = str(params["W1"].dtype)
    changed, largest = rounding_loss(original, params)
    return Ported(
        architecture=found,
        found=", ".join(sorted({str(value.dtype) for value in original.values()})),
        dtype=name,
        values=sum(value.size for value in params.values()),
        changed=changed,
        largest=largest,
        verdicts=tuple(verdicts),
        example=example(target, found, name, options),
    )


def example(target: str | Path, architecture: Architecture, dtype: str, options: Mapping[str, Any]) -> str:
    """Three lines of Python that load target and predict: weights of this architecture and dtype, known by options."""
    name, suffix = repr(str(target)), Path(target).suffix.lower()
    shape = f"(1, {', '.join(map(str, architecture.input_shape))})"
    zeros = f"np.zeros({shape}, {dtype!r})"
    if suffix == SUFFIX:
        return (
            "import numpy as np, onnxruntime\n"
            f"session = onnxruntime.InferenceSession({name}, providers=['CPUExecutionProvider'])\n"
            f"print(session.run(None, {{{INPUT!r}: {zeros}}})[0].argmax(axis=1))"
        )
    if FORMATS[suffix].torch_terms:
        given = "".join(f", {key}={value!r}" for key, value in options.items() if value != DEFAULTS[key])
        return (
            "import torch, torchport\n"
            f"net = torchport.load_network({name}{given})\n"
            f"print(net(torch.zeros({shape}, dtype=torch.{dtype})).argmax(dim=1))"
        )
    load = f"load_params({name})" if suffix == ".pkl" else f"set_params(np.load({name}))"
    return (
        "import numpy as np, numpy_ref\n"
        f"net = numpy_ref.{architecture.call}; net.{load}\n"
        f"print(net.predict({zeros}).argmax(axis=1))"
    )


def _kind_of(target: str | Path) -> Format | None:
    """The format that target's name says, None for ONNX. ValueError."""
    suffix = Path(target).suffix.lower()
    if suffix == SUFFIX:
        check_packages()
    elif suffix not in FORMATS:
        raise ValueError(f"{target} must end in one of {', '.join([*FORMATS, SUFFIX])}, got {suffix or 'no suffix'}")
    return FORMATS.get(suffix)


def _dtype_for_onnx(params: Mapping[str, Array], dtype: torch.dtype | None) -> torch.dtype:
    if dtype == torch.float64:
        raise ValueError("onnxruntime has no float64 convolution: an ONNX file is float32 or float16, got float64")
    found = dtype or shared_dtype(params)
    return torch.float16 if found == torch.float16 else torch.float32


def _write(
    architecture: Architecture,
    params: Mapping[str, Array],
    target: str | Path,
    kind: Format,
    about: Mapping[str, str],
    options: Mapping[str, Any],
) -> list[str]:
    reference = architecture.reference(params)
    arrays = reference.params
    if kind.torch_terms:
        arrays = {key: value.numpy() for key, value in state_dict_of(reference).items()}
    with stage(target, kind.encode(arrays, about)) as staged:
        written = read_back(staged, arrays, kind.decode)
        own = to_book_terms(written) if kind.torch_terms else written
        in_c_order = {name: np.ascontiguousarray(value) for name, value in own.items()}
        verdicts = _check_parity(architecture, in_c_order, options)
        staged.commit()
    return verdicts


def _write_onnx(
    architecture: Architecture, params: Mapping[str, Array], target: str | Path, options: Mapping[str, Any]
) -> list[str]:
    verdicts = _check_parity(architecture, params, options)
    reference = architecture.reference(cast_params(params, torch.float64))
    x, _ = _batch(architecture)
    return [*verdicts, write_onnx(architecture.port(params), reference, x, target)]


def _check_parity(architecture: Architecture, params: Mapping[str, Array], options: Mapping[str, Any]) -> list[str]:
    """The verdict on each port. NoParity."""
    dtype = JUDGED[DTYPES[next(iter(params.values())).dtype]]
    reports = check_ports(params, *_batch(architecture), [Setting(dtype)], runs=RUNS, **options)
    if not all(report.ok for report in reports):
        raise NoParity(reports)
    return [report.verdict for report in reports]


def _batch(architecture: Architecture) -> tuple[Array, Array]:
    return seeded_batch(0, BATCH_SIZE, architecture.input_shape, architecture.classes)
