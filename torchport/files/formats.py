"""What each format is called, how its files start, and how its bytes become arrays and weights its bytes."""

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

About = Mapping[str, str]


@dataclass(frozen=True)
class Format:
    """One format: decode takes a file's bytes, max_bytes, beyond which it does not unpack them, and a list for notes.

    What it gives may be nested: dicts, lists, arrays. encode takes weights, and what is to be told (if it can be).
    """

    suffixes: tuple[str, ...]  # the first one is its name
    starts: Callable[[bytes], bool]
    decode: Callable[[bytes, int, list[str]], object]
    encode: Callable[[Weights, About], bytes] | None = None
    torch_terms: bool = True  # conv1.weight in torch's layout; else W1 in the book's


def _starts_as_npz(data: bytes) -> bool:
    # A zip's first entry: its name's length is at byte 26, the name at byte 30. A zip of nothing has none.
    name = data[30 : 30 + int.from_bytes(data[26:28], "little")]
    return data.startswith(b"PK\x05\x06") or (data.startswith(b"PK\x03\x04") and name.endswith(b".npy"))


def _starts_as_onnx(data: bytes) -> bool:
    return data[:1] == b"\x08" and data[2:3] in b"\x12:B"  # its version, and who wrote it, if it says so


def _pt(weights: Weights, _: About) -> bytes:
    return state_dict_bytes(weights.state_dict())


PKL = Format((".pkl",), lambda _: False, decode_pickle, lambda weights, _: encode_params(weights.arrays), False)
FORMATS = (
    PKL,
    Format((".npz",), _starts_as_npz, decode_npz, lambda weights, _: encode_npz(weights.arrays), False),
    Format((".npy",), lambda data: data.startswith(MAGIC), decode_npy),
    Format((".pt", ".pth"), lambda data: data.startswith(SIGNATURES), decode_pt, _pt),
    Format(
        (".safetensors",), is_safetensors, lambda data, _, notes: decode_safetensors(data, notes), encode_safetensors
    ),
    Format((".onnx",), _starts_as_onnx, lambda data, *_: decode_onnx(data), lambda weights, _: encode_onnx(weights)),
)


def format_of(data: bytes) -> Format:
    """The format of a file by its first bytes; what has none of the known starts is taken to be a pickle."""
    return next((kind for kind in FORMATS if kind.starts(data)), PKL)


def format_named(target: str | Path) -> Format:
    """The format that a file to be written has, by its suffix. ValueError."""
    suffix = Path(target).suffix.lower()
    written = [kind for kind in FORMATS if kind.encode is not None]
    for kind in written:
        if suffix in kind.suffixes:
            return kind
    known = ", ".join(name for kind in written for name in kind.suffixes)
    raise ValueError(f"{target} must end in one of {known}, got {suffix or 'no suffix'}")
