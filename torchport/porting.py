"""Converts weights from one file format to another, and checks them before an old file is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from numpy_ref.checks import Array
from numpy_ref.files import check_target
from torchport.files import Hints, file_of, naming, read_weights, stage_weights
from torchport.files.formats import Format, format_named
from torchport.files.onnx_files import INPUT, predictions
from torchport.files.store import StagedWeights
from torchport.networks import Weights
from torchport.networks.hints import NO_HINTS
from torchport.parity import Report, Setting
from torchport.parity.cases import check_ports, seeded_batch
from torchport.parity.probes import check_predictions

RUNS = ("training", "prediction", "batch")  # the runs of parity.ALL that depend on the weights
BATCH_SIZE = 8  # samples on which the networks must agree
ONNX = ".onnx"

# The dtype in which parity is checked, by that of the weights: float32 represents every float16 value.
CHECK_DTYPES = {torch.float64: torch.float64, torch.float32: torch.float32, torch.float16: torch.float32}


class NoParity(Exception):
    """Raised if the reference and a port disagree, so that nothing was written; reports say where."""

    def __init__(self, reports: Sequence[Report]) -> None:
        super().__init__("the networks do not agree")
        self.reports = reports


@dataclass(frozen=True)
class Ported:
    """The result of port."""

    weights: Weights  # as written; their source says how the file's arrays were converted and rounded
    format: Format
    verdicts: tuple[str, ...]  # one for each port
    example: str  # three lines of Python that load the target and predict

    @property
    def holds(self) -> str:
        """What the target holds: the state_dict of a port, or the params of a reference network."""
        name = self.weights.architecture.name
        if not self.format.torch_terms:
            return f"the params of numpy_ref.{name}"
        twin = "torchport.SimpleConvNet" if name == "SimpleConvNet" else f"torchport.from_reference(numpy_ref.{name})"
        return f"the state_dict of {twin}"

    @property
    def values(self) -> int:
        """Number of parameters."""
        return sum(value.size for value in self.weights.params.values())


def port(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    hints: Hints = NO_HINTS,
    force: bool = False,
) -> Ported:
    """Read weights, write them in another format, and prove that every network agrees on what was written.

    The target appears only after the new file reads back bit for bit, and after the reference and both ports that hold
    it agree on seeded input.

    Args:
        source: A file of weights of any format, or a training run's folder (see files.read_weights).
        target: The file to write: .pkl, .npz, .pt, .safetensors or .onnx.
        dtype: float64, float32 or float16. None keeps the source's, except that an ONNX file gets float32 in place of
            float64, since onnxruntime has no float64 convolution.
        hints: What the file cannot tell.
        force: Whether to replace an existing target.

    Returns:
        The weights as written, the verdict on each port, and an example that loads the target.

    Raises:
        NoParity: If the networks do not agree.
        FileExistsError: If target exists and force is not set.
        ValueError, TypeError, OSError: If a file cannot be read or written, or its weights belong to no known network.

    Example:
        >>> import numpy_ref, tempfile, torchport
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy_ref.TwoLayerNet(9, 5, 3).save_params(f"{folder}/params.pkl")
        ...     ported = torchport.porting.port(f"{folder}/params.pkl", f"{folder}/model.pt")
        >>> ported.weights.architecture.name, ported.values
        ('TwoLayerNet', 68)
    """
    file_format = format_named(target)
    if check_target(target, file_of(source)).exists() and not force:
        raise FileExistsError(f"{target} exists: give another name, or have it replaced with --force (force=True)")
    weights = read_weights(source, hints, dtype=dtype)
    if file_format.suffixes == (ONNX,) and dtype is None and weights.dtype == torch.float64:
        with naming(source):
            weights = weights.astype(torch.float32)
    with stage_weights(weights, target) as staged:
        verdicts = check_staged(staged)
        staged.commit()
    return Ported(weights, file_format, verdicts, example(target, weights))


def check_staged(staged: StagedWeights) -> tuple[str, ...]:
    """Return the verdict on each port with the file's weights, and on an ONNX file's own predictions. NoParity."""
    weights = staged.read()
    architecture = weights.architecture
    x, t = seeded_batch(0, BATCH_SIZE, architecture.input_shape, architecture.classes)
    reports = check_ports(weights, x, t, [Setting(CHECK_DTYPES[weights.dtype])], runs=RUNS)
    if not all(report.ok for report in reports):
        raise NoParity(reports)
    verdicts = tuple(report.verdict for report in reports)
    return (*verdicts, _check_onnxruntime(staged, x)) if staged.format.suffixes == (ONNX,) else verdicts


def _check_onnxruntime(staged: StagedWeights, x: Array) -> str:
    """Return the verdict on onnxruntime's predictions for x (N, ...). ValueError if they are not the reference's."""
    logits, dtype = predictions(staged.staged.path.read_bytes(), x)
    difference = check_predictions(staged.written.astype(torch.float64).reference(), x, logits, dtype)
    if difference.ratio > 1:
        raise ValueError(f"onnxruntime predicts otherwise than the reference: {difference}")
    return f"parity: onnxruntime in {str(dtype).removeprefix('torch.')}, largest error/limit {difference.ratio:.2g}"


def example(target: str | Path, weights: Weights) -> str:
    """Return three lines of Python that load target and predict."""
    arguments = "".join(f", {name}={value!r}" for name, value in weights.geometry.arguments.items())
    name, suffix, dtype = repr(str(target)), Path(target).suffix.lower(), str(weights.dtype).removeprefix("torch.")
    shape = f"(1, {', '.join(map(str, weights.architecture.input_shape))})"
    zeros = f"np.zeros({shape}, {dtype!r})"
    if suffix == ONNX:
        return (
            "import numpy as np, onnxruntime\n"
            f"session = onnxruntime.InferenceSession({name}, providers=['CPUExecutionProvider'])\n"
            f"print(session.run(None, {{{INPUT!r}: {zeros}}})[0].argmax(axis=1))"
        )
    if suffix in (".pkl", ".npz"):
        load = f"net.load_params({name})" if suffix == ".pkl" else f"net.set_params(np.load({name}))"
        if suffix == ".npz" and weights.statistics:
            load = f"found = np.load({name}); net.set_params({{key: found[key] for key in net.params}}); "
            load += "net.set_statistics(found)"
        return (
            "import numpy as np, numpy_ref\n"
            f"net = numpy_ref.{weights.architecture.call}; {load}\n"
            f"print(net.predict({zeros}).argmax(axis=1))"
        )
    return (
        "import torch, torchport\n"
        f"net = torchport.load_network({name}{arguments})\n"
        f"print(net(torch.zeros({shape}, dtype=torch.{dtype})).argmax(dim=1))"
    )
