"""What each format is called, how its files start, and how its bytes become arrays and arrays its bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numpy_ref.checks import Array
from numpy_ref.params import MAX_BYTES, decode_params, encode_params
from torchport.formats.npz import decode_npz, encode_npz
from torchport.formats.pt import SIGNATURES as PT_SIGNATURES, decode_pt, encode_pt
from torchport.formats.safe import decode_safetensors, encode_safetensors, is_safetensors


@dataclass(frozen=True)
class Format:
    """One format; encode takes arrays, and what is to be told about them (if it can be).

    decode takes a file's bytes, and max_bytes, beyond which it does not unpack them.
    """

    suffix: str
    torch_terms: bool  # conv1.weight in torch's layout; else W1 in the book's
    starts: Callable[[bytes], bool]
    decode: Callable[..., object]
    encode: Callable[[Mapping[str, Array], Mapping[str, str]], bytes]


def _starts_as_npz(data: bytes) -> bool:
    # A zip's first entry: its name's length is at byte 26, the name at byte 30. A zip of nothing has none.
    name = data[30 : 30 + int.from_bytes(data[26:28], "little")]
    return data.startswith(b"PK\x05\x06") or (data.startswith(b"PK\x03\x04") and name.endswith(b".npy"))


def _packed(decode: Callable[[bytes], object]) -> Callable[..., object]:
    """decode, for a format whose arrays take no more than the file does."""
    return lambda data, max_bytes=MAX_BYTES: decode(data)


PKL = Format(".pkl", False, lambda _: False, _packed(decode_params), lambda arrays, _: encode_params(arrays))
FORMATS = {
    kind.suffix: kind
    for kind in (
        PKL,
        Format(".npz", False, _starts_as_npz, decode_npz, encode_npz),
        Format(".pt", True, lambda data: data.startswith(PT_SIGNATURES), decode_pt, encode_pt),
        Format(".safetensors", True, is_safetensors, _packed(decode_safetensors), encode_safetensors),
    )
}


def format_of(data: bytes) -> Format:
    """The format of a file by its first bytes; what has none of the known starts is taken to be a pickle."""
    return next((kind for kind in FORMATS.values() if kind.starts(data)), PKL)
