"""The table of file formats: for each its suffixes, how its files start, its decoder and its encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from numpy_ref.params import encode_params
from torchport.files.npz import MAGIC, decode_npy, decode_npz, encode_npz
from torchport.files.onnx_files import decode_onnx, encode_onnx
from torchport.files.pt import SIGNATURES, decode_pickle, decode_pt
from torchport.files.safe import decode_safetensors, encode_safetensors, is_safetensors
from torchport.networks import Weights
from torchport.networks.names import state_dict_bytes

Metadata = Mapping[str, str]


@dataclass(frozen=True)
class Format:
    """A file format.

    decode takes a file's bytes, max_bytes (the limit for unpacking them) and a list to which it adds notes; it returns
    arrays, possibly nested in dicts and lists. encode takes weights and metadata, which not every format can hold.
    """

    suffixes: tuple[str, ...]  # the first one is also its name
    matches: Callable[[bytes], bool]  # whether a file that starts with these bytes has this format
    decode: Callable[[bytes, int, list[str]], object]
    encode: Callable[[Weights, Metadata], bytes] | None = None
    torch_terms: bool = True  # conv1.weight in torch's layout; else W1 in the book's


def _starts_as_npz(data: bytes) -> bool:
    # In a zip's first entry the length of its name is at byte 26, the name at byte 30. An empty zip has no entry.
    name = data[30 : 30 + int.from_bytes(data[26:28], "little")]
    return data.startswith(b"PK\x05\x06") or (data.startswith(b"PK\x03\x04") and name.endswith(b".npy"))


def _starts_as_onnx(data: bytes) -> bool:
    return data[:1] == b"\x08" and data[2:3] in b"\x12:B"  # the fields ir_version and, perhaps, producer


def _encode_pt(weights: Weights, _: Metadata) -> bytes:
    return state_dict_bytes(weights.state_dict())


PKL = Format((".pkl",), lambda _: False, decode_pickle, lambda weights, _: encode_params(weights.arrays), False)
FORMATS = (
    PKL,
    Format((".npz",), _starts_as_npz, decode_npz, lambda weights, _: encode_npz(weights.arrays), False),
    Format((".npy",), lambda data: data.startswith(MAGIC), decode_npy),
    Format((".pt", ".pth"), lambda data: data.startswith(SIGNATURES), decode_pt, _encode_pt),
    Format(
        (".safetensors",), is_safetensors, lambda data, _, notes: decode_safetensors(data, notes), encode_safetensors
    ),
    Format((".onnx",), _starts_as_onnx, lambda data, *_: decode_onnx(data), lambda weights, _: encode_onnx(weights)),
)


def format_of(data: bytes) -> Format:
    """Return the format of a file by its first bytes; a pickle, which has no fixed start, if no other matches."""
    return next((each for each in FORMATS if each.matches(data)), PKL)


def format_named(target: str | Path) -> Format:
    """Return the format in which target is to be written, by its suffix. ValueError."""
    suffix = Path(target).suffix.lower()
    by_suffix = {name: each for each in FORMATS if each.encode is not None for name in each.suffixes}
    if suffix not in by_suffix:
        raise ValueError(f"{target} must end in one of {', '.join(by_suffix)}, got {suffix or 'no suffix'}")
    return by_suffix[suffix]
