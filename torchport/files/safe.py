"""Reads and writes .safetensors files: a header in JSON, followed by the arrays' bytes."""

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
    """Return whether data starts as such a file: the header's length, under 4 GiB, in 8 bytes, then a brace."""
    return data[4:9] == b"\0\0\0\0{"


def decode_safetensors(data: bytes, notes: list[str] | None = None) -> dict[str, Array | StandIn]:
    """Return the arrays in data, in the file's order; bfloat16 becomes float32, with a note, other dtypes a StandIn.

    ParamsError for anything else.
    """
    import safetensors  # here, to keep it out of import torchport

    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ParamsError(f"damaged, truncated or not a safetensors file ({error}): fetch or copy it again") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_unique_keys)
    if notes is not None and (count := sum(entry["dtype"] == "BF16" for _, entry in entries)):
        notes.append(f"arrays widened from bfloat16 to float32, which is exact: {count}")
    entries.sort(key=lambda named: header[named[0]]["data_offsets"])  # deserialize returns them in a random order
    return {name: _to_array(**entry) for name, entry in entries}


def encode_safetensors(weights: Weights, metadata: Mapping[str, str]) -> bytes:
    """Return a file of the port's state_dict, with metadata in its header; equal arguments give equal bytes."""
    from safetensors.torch import save

    content = save(weights.state_dict(), metadata=dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(metadata)  # in its own order: save's differs between processes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[end:]


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata in the header of data, which decode_safetensors must have accepted."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__") or {})


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise ParamsError(f"the key {duplicate!r:.80} occurs twice")
    return dict(pairs)


def _to_array(dtype: str, shape: list[int], data: bytes) -> Array | StandIn:
    if dtype not in _DTYPES:
        return StandIn(f"an array of dtype {dtype}")
    array = view_of(data, tuple(shape), _DTYPES[dtype])
    return widened(array) if dtype == "BF16" else native(array)
