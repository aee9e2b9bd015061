"""ONNX files: torch writes them, onnx reads them, onnxruntime runs them. The last two packages are optional."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import torch

from numpy_ref.checks import Array
from torchport.networks import DTYPES, Weights

INPUT, OUTPUT = "input", "logits"


def decode_onnx(data: bytes) -> dict[str, Array]:
    """Return the initializers of the model in data, except int64 ones, which are shapes. ValueError."""
    check_packages()
    import onnx

    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's exceptions have no common base
        reason = " ".join(str(error).split())
        raise ValueError(f"damaged, truncated or not an ONNX file ({reason:.200}): fetch or copy it again") from None
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.INT64]
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in weights}


def encode_onnx(weights: Weights) -> bytes:
    """Return the port as a model from "input" (N, ...), N of any size, to "logits". ValueError without the packages."""
    check_packages()
    import onnx

    if weights.dtype == torch.float64:
        raise ValueError("onnxruntime has no float64 convolution: an ONNX file is float32 or float16, got float64")
    buffer, example = io.BytesIO(), torch.zeros((1, *weights.architecture.input_shape), dtype=weights.dtype)
    export: Any = torch.onnx.export  # its annotations leave out that it accepts a buffer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, but its successor needs another package
        export(
            weights.port().eval(),
            (example,),
            buffer,
            dynamo=False,
            do_constant_folding=False,  # folding would replace a weight that a layer reshapes by the reshaped one
            keep_initializers_as_inputs=True,  # else equal initializers, such as biases of 0, would be merged
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    for initializer in model.graph.input[1:]:
        model.graph.input.remove(initializer)
    return bytes(model.SerializeToString(deterministic=True))


def predictions(content: bytes, x: Array) -> tuple[Array, torch.dtype]:
    """Return the logits (N, classes) that onnxruntime computes for x (N, ...), and the model's dtype. ValueError."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        dtype = np.dtype({"tensor(float)": "f4", "tensor(float16)": "f2"}[session.get_inputs()[0].type])
        return session.run([OUTPUT], {INPUT: x.astype(dtype)})[0], DTYPES[dtype]
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ValueError(f"onnxruntime does not run the ONNX model: {error}") from None


def check_packages() -> None:
    """Raise ValueError if onnx or onnxruntime is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX files need two more packages ({error}): pip install onnx onnxruntime") from None
