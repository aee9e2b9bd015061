"""A state_dict as safetensors keeps it: a header in JSON, then the arrays' bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError
from numpy_ref.pickles import native, view_of

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


def is_safetensors(data: bytes) -> bool:
    """Whether data starts as such a file: the header's length, under 4 GiB, in 8 bytes, and a brace."""
    return data[4:9] == b"\0\0\0\0{"


def decode_safetensors(data: bytes) -> dict[str, Array]:
    """The arrays in data, float16, float32 or float64. ParamsError."""
    import safetensors  # here, so that importing torchport does not

    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ParamsError(f"damaged, truncated or not a safetensors file ({error}): fetch or copy it again") from None
    if len({name for name, _ in found}) < len(found):
        raise ParamsError("a key stands twice")
    return {name: _array(name, **about) for name, about in found}


def encode_safetensors(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """arrays, and what is told of them in the header; equal ones make equal bytes."""
    from safetensors.numpy import save

    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    content = save(contiguous, metadata=dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(metadata)  # in its own order: save's is another one in every process
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[end:]


def _array(name: str, dtype: str, shape: list[int], data: bytes) -> Array:
    if dtype not in _DTYPES:
        raise ParamsError(f"{name!r:.80} has dtype {dtype}, expected float16, float32 or float64")
    return native(view_of(data, tuple(shape), _DTYPES[dtype]))
