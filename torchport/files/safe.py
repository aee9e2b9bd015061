"""A state_dict as safetensors keeps it: a header in JSON, then the arrays' bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError
from numpy_ref.pickles import StandIn, native, view_of, widened
from torchport.networks import Weights

_DTYPES: dict[str, np.dtype[Any]] = {
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"{sign}{bits}": np.dtype(f"<{sign.lower()}{bits // 8}") for sign in "IU" for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype("?"),
    "BF16": np.dtype("<u2"),
}


def is_safetensors(data: bytes) -> bool:
    """Whether data starts as such a file: the header's length, under 4 GiB, in 8 bytes, and a brace."""
    return data[4:9] == b"\0\0\0\0{"


def decode_safetensors(data: bytes, notes: list[str] | None = None) -> dict[str, Array | StandIn]:
    """The arrays in data, in its order, bfloat16 as float32, of which notes gets a line; a StandIn for other dtypes.

    ParamsError for anything else.
    """
    import safetensors  # here, so that importing torchport does not

    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ParamsError(f"damaged, truncated or not a safetensors file ({error}): fetch or copy it again") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_checked)
    if notes is not None and (count := sum(about["dtype"] == "BF16" for _, about in found)):
        notes.append(f"arrays widened from bfloat16 to float32, which is exact: {count}")
    found.sort(key=lambda each: header[each[0]]["data_offsets"])  # it comes in another order every time
    return {name: _array(**about) for name, about in found}


def encode_safetensors(weights: Weights, metadata: Mapping[str, str]) -> bytes:
    """The port's state_dict, and what is told of it in the header; equal ones make equal bytes."""
    from safetensors.torch import save

    content = save(weights.state_dict(), metadata=dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(metadata)  # in its own order: save's is another one in every process
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[end:]


def metadata_of(data: bytes) -> dict[str, str]:
    """What is told in the header of a file that decode_safetensors has read."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__") or {})


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ParamsError(f"the key {twice!r:.80} stands twice")
    return dict(pairs)


def _array(dtype: str, shape: list[int], data: bytes) -> Array | StandIn:
    if dtype not in _DTYPES:
        return StandIn(f"an array of dtype {dtype}")
    array = view_of(data, tuple(shape), _DTYPES[dtype])
    return widened(array) if dtype == "BF16" else native(array)
