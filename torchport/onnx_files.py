"""ONNX files: written by torch, checked with onnx and onnxruntime, both of them optional."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array
from numpy_ref.files import stage
from numpy_ref.network import Network
from torchport.parity.probes import check_predictions
from torchport.weights import DTYPES

SUFFIX = ".onnx"
INPUT, OUTPUT = "input", "logits"


def check_packages() -> None:
    """ValueError where onnx or onnxruntime is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX files need another package ({error}): pip install 'torchport[onnx]'") from None


def write_onnx(net: nn.Module, reference: Network, x: Array, path: str | Path) -> str:
    """Write net as an ONNX model of batches "input" of any size, to "logits", whole or not at all.

    Before the file takes path's place, it must hold net's weights bit for bit, and onnxruntime's predictions for x
    (N, ...) must be those of reference, the same network in float64, within derived limits. Returns a line that says
    so. ValueError where one does not hold, or a package is missing; OSError.
    """
    check_packages()
    with stage(path, _exported(net, x)) as staged:
        content = staged.path.read_bytes()
        _check_weights(content, net.state_dict())
        verdict = _check_outputs(content, reference, x)
        staged.commit()
    return verdict


def _exported(net: nn.Module, x: Array) -> bytes:
    buffer = io.BytesIO()
    example = torch.tensor(x, dtype=next(net.parameters()).dtype)
    export: Any = torch.onnx.export  # which takes a buffer too, whatever its annotations say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated; the other one needs a further package
        export(
            net.eval(),
            (example,),
            buffer,
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
        )
    return buffer.getvalue()


def _check_weights(content: bytes, state_dict: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    found = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for key, value in state_dict.items():
        expected, own = value.numpy(), found.get(key, np.zeros(0))
        if (own.dtype, own.shape, own.tobytes()) != (expected.dtype, expected.shape, expected.tobytes()):
            raise ValueError(f"the ONNX model that torch wrote does not hold {key} as it is")


def _check_outputs(content: bytes, reference: Network, x: Array) -> str:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        kind = np.dtype({"tensor(float)": "f4", "tensor(float16)": "f2"}[session.get_inputs()[0].type])
        found = session.run([OUTPUT], {INPUT: x.astype(kind)})[0]
    except Exception as error:  # onnxruntime raises exceptions of its own, without a common base
        raise ValueError(f"onnxruntime does not run the ONNX model: {error}") from None
    difference = check_predictions(reference, x, found, DTYPES[kind])
    if difference.ratio > 1:
        raise ValueError(f"onnxruntime predicts otherwise than the reference: {difference}")
    return f"parity: onnxruntime in {kind}, largest error/limit {difference.ratio:.2g}"
