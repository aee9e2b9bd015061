"""ONNX files: written by torch, read with onnx, run by onnxruntime, both of them optional."""

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
    """The initialisers in data but shapes, int64. ValueError for a damaged file, and without the package onnx."""
    check_packages()
    import onnx

    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have no common base
        reason = " ".join(str(error).split())
        raise ValueError(f"damaged, truncated or not an ONNX file ({reason:.200}): fetch or copy it again") from None
    weights = [each for each in model.graph.initializer if each.data_type != onnx.TensorProto.INT64]
    return {each.name: onnx.numpy_helper.to_array(each) for each in weights}


def encode_onnx(weights: Weights) -> bytes:
    """The port as a model of batches "input" of any size, to "logits". ValueError without the packages."""
    check_packages()
    import onnx

    if weights.dtype == torch.float64:
        raise ValueError("onnxruntime has no float64 convolution: an ONNX file is float32 or float16, got float64")
    buffer, example = io.BytesIO(), torch.zeros((1, *weights.architecture.input_shape), dtype=weights.dtype)
    export: Any = torch.onnx.export  # which takes a buffer too, whatever its annotations say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated; the other one needs a further package
        export(
            weights.port().eval(),
            (example,),
            buffer,
            dynamo=False,
            do_constant_folding=False,  # of a weight that a layer reshapes, another one would be written
            keep_initializers_as_inputs=True,  # else of equal ones, such as biases of 0, one would be written
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    for initializer in model.graph.input[1:]:
        model.graph.input.remove(initializer)
    return bytes(model.SerializeToString(deterministic=True))


def predictions(content: bytes, x: Array) -> tuple[Array, torch.dtype]:
    """What onnxruntime makes of x (N, ...) with the model in content, and in which dtype. ValueError."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        kind = np.dtype({"tensor(float)": "f4", "tensor(float16)": "f2"}[session.get_inputs()[0].type])
        return session.run([OUTPUT], {INPUT: x.astype(kind)})[0], DTYPES[kind]
    except Exception as error:  # onnxruntime raises exceptions of its own, without a common base
        raise ValueError(f"onnxruntime does not run the ONNX model: {error}") from None


def check_packages() -> None:
    """ValueError where onnx or onnxruntime is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX files need another package ({error}): pip install 'torchport[onnx]'") from None
