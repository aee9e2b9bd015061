"""Each format: how it is detected, what is refused in one line, and how much memory reading takes.

reference/test_refusals.py has what the book's own reader refuses, test_reading.py what people have.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.crafted import npy, npz, peak_of, zipped
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from numpy_ref import ParamsError
from numpy_ref.checks import Array
from numpy_ref.params import MAX_BYTES
from torchport.files import read_weights
from torchport.files.formats import FORMATS, Format, format_of
from torchport.files.npz import MAX_FILES, decode_npz, encode_npz
from torchport.files.pt import decode_pt
from torchport.files.safe import decode_safetensors
from torchport.networks import Weights

MIB = 2**20


def one_npy(header: str, content: bytes = bytes(8), version: int = 1) -> bytes:
    """Return a .npz of one .npy file, W, with this header."""
    text = header.encode() + b"\n"
    return zipped({"W.npy": b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + content})


def header(dtype: str = "'<f8'", shape: str = "(1,)") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"


ONE = npy(np.ones(1))


def twice() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for _ in range(2):
                archive.writestr("W.npy", ONE)
    return buffer.getvalue()


def encrypted() -> bytes:
    """Return a .npz whose file is marked as encrypted."""
    content = bytearray(npz(W=np.ones(1)))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def lying(declared: int) -> bytes:
    """Return a deflated .npz whose directory declares this size of W, which has 64 MiB."""
    content = bytearray(zipped({"W.npy": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, declared)
    return bytes(content)


def safe(
    dtype: str = "F64", shape: str = "[1]", size: int = 8, names: tuple[str, ...] = ("W",), step: int = 1
) -> bytes:
    """Return a safetensors file of zeros with a header; with a step of 0 all names share the same bytes."""
    about = [
        f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{k * step * size},{(k * step + 1) * size}]}}'
        for k, name in enumerate(names)
    ]
    text = f"{{{','.join(about)}}}".encode()
    return struct.pack("<Q", len(text)) + text + bytes(size * (1 + step * (len(names) - 1)))


def pt(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def net(kind: Any = float, first: Any = 1, **others: Any) -> dict[str, Any]:
    """Return the weights of a network with one layer and this first number."""
    return {"W1": np.array([[first, 1]], kind), "b1": np.ones(2, kind), **others}


def tensors(**changed: Any) -> dict[str, Any]:
    return {"affine1.weight": torch.ones(2, 1), "affine1.bias": torch.ones(2), **changed}


NOTHING = "holds a dict of nothing, expected a dict of arrays, the weights of a network"
NAN = "'W1' holds NaN or infinity: take weights from before training went wrong, or .* allow_nonfinite=True"

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "npz of nothing": (lambda: zipped({}), NOTHING),
    "npz of objects": (lambda: npz(W=np.array([{}], dtype=object)), r"holds a dict of W \(a list\), expected a dict"),
    "npz of integers": (lambda: npz(**net(int)), r"W1 has dtype int64: give .*\(--dtype float32\)"),
    "npz of complex": (lambda: npz(W=np.ones(2, complex)), r"dtype '<c16'"),
    "npz of records": (lambda: npz(W=np.ones(2, "f8,f4")), r"dtype \[\('f0', '<f8'\)"),
    "npz, 0-d": (lambda: npz(W=np.float64(1)), r"W \(a number\), expected"),
    "npz, empty": (lambda: npz(W1=np.ones((0, 3))), r"W1 \(3, 0\) should have 2 axes, none of them empty"),
    "npz, NaN": (lambda: npz(**net(first=np.nan)), NAN),
    "npz, a long name": (lambda: npz(**{"W" * 300: np.ones(1)}), r"'W{39}\.\.\. \(1,\)$"),
    "npz, twice": (twice, "the key 'W' occurs twice"),
    "npz with text": (lambda: zipped({"W.npy": ONE, "W.txt": b""}), "holds the file 'W.txt', expected .npy"),
    "npz, no header": (lambda: zipped({"W.npy": b"\x93NUMPY"}), "'W' does not begin with a NumPy"),
    "npz, code for a header": (lambda: one_npy("__import__('os').mkdir('boom')"), "'W' does not begin with a NumPy"),
    "npz, code for a dtype": (lambda: one_npy(header("__import__('os')")), r"W \(an array of dtype __import__"),
    "npz, version 9": (lambda: one_npy(header(), version=9), "'W' does not begin with a NumPy"),
    "npz, too long": (lambda: one_npy(header(shape="(2,)")), r"shape \(2,\) and dtype float64 has 8 bytes of content"),
    "npz, too short": (
        lambda: one_npy(header(shape="(1,)"), bytes(16)),
        r"shape \(1,\) and dtype float64 has 16 bytes",
    ),
    "npz, negative": (lambda: one_npy(header(shape="(-1,)")), "'W' does not begin with a NumPy"),
    "npz, overflowing": (lambda: one_npy(header(shape=f"({2**62}, {2**62})")), "has 8 bytes of content"),
    "npz, no bytes of an overflow": (lambda: one_npy(header(shape=f"(0, {2**62}, {2**62})"), b""), "npz|shape"),
    "npz, 65 axes": (lambda: one_npy(header(shape=f"({'1, ' * 65})")), r"shape \(1, 1, .* has 8 bytes"),
    "npz, lzma": (lambda: zipped({"W.npy": bytes(9)}, zipfile.ZIP_LZMA), "'W.npy' in it is encrypted, or packed"),
    "npz, encrypted": (encrypted, "'W.npy' in it is encrypted"),
    "npz, declared too large": (lambda: lying(2**31), f"{2**31} bytes unpacked, over the limit of {2**30}"),
    "npz, declared too small": (lambda: lying(100), "damaged|does not start"),
    "npz, many files": (lambda: zipped({f"{k}.npy": b"" for k in range(MAX_FILES + 1)}), "a zip of 10001 files"),
    "safetensors of nothing": (lambda: save({}), NOTHING),
    "safetensors of float8": (lambda: safe("F8_E4M3", size=1), r"W \(an array of dtype F8_E4M3\), expected"),
    "safetensors of integers": (lambda: save(net(int)), "W1 has dtype int64: give"),
    "safetensors, 0-d": (lambda: save({"W": np.ones(())}), r"W \(a number\), expected"),
    "safetensors, empty": (lambda: save({"W1": np.ones((3, 0))}), r"W1 \(3, 0\) should have 2 axes, none of them"),
    "safetensors, infinity": (lambda: save(net(first=np.inf)), NAN),
    "safetensors, twice": (lambda: safe(names=("W", "W"), step=0), "the key 'W' occurs twice"),
    "safetensors, a field twice": (lambda: safe(shape='[1],"shape":[1]'), "the key 'shape' occurs twice|damaged"),
    "safetensors, too long": (lambda: safe(shape="[2]"), "damaged, truncated or not a safetensors file"),
    "safetensors, overflowing": (lambda: safe(shape=f"[{2**62},{2**62}]"), "damaged, truncated"),
    "safetensors, no JSON": (lambda: struct.pack("<Q", 9) + b"{" * 9, "damaged, truncated"),
    "pt, empty": (lambda: pt(tensors(**{"affine1.weight": torch.ones(2, 0)})), r"W1 \(0, 2\) should have 2 axes"),
    "pt of nothing": (lambda: pt({}), NOTHING),
    "pt, one number without end": (lambda: pt({"W": torch.ones(1).expand(2**29)}), f"{2**31} bytes of arrays, over"),
    "pt, packed": (lambda: zipped({"x/data.pkl": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED), "is no opcode"),
    "pt, another zip": (lambda: zipped({"weights": b""}), r"without the data\.pkl of a \.pt file"),
    "pt, cut": (lambda: pt(tensors())[:-100], "damaged, truncated or not a .pt file"),
    "pt, a key of two lines": (lambda: pt({"a\nb": 1}), r"holds a dict of 'a\\nb'\.\.\. \(a number\), expected"),
    "pt, two lines beside a network": (
        lambda: pt({**tensors(), "a\nb": torch.ones(3)}),
        r"but 'a\\nb'\.\.\. is unexpected",
    ),
    "pt, integers": (
        lambda: pt({key: value.long() for key, value in tensors().items()}),
        "W1 has dtype int64: give the dtype",
    ),
    "pt, a whole network": (lambda: pt(torch.nn.Linear(2, 1)), r"holds an object of .*Linear, .*net\.state_dict\(\)"),
    "pt, one tensor": (lambda: pt([torch.ones(1)]), r"0 weights have 1 biases: 0 \(1,\)$"),
    "pt, a run's checkpoint": (lambda: pt({"version": 1, "step": 3, "state": {}}), "is the checkpoint of a run: name"),
    "pt, complex": (
        lambda: pt(tensors(**{"affine1.bias": torch.ones(2) * 1j})),
        r"b1 is missing; .*; left out: affine1\.bias \(a tensor of ComplexFloat\)$",
    ),
    "pt, sparse": (
        lambda: pt(tensors(**{"affine1.bias": torch.ones(2).to_sparse()})),
        r"left out: affine1\.bias \(an object of .*sparse_tensor",
    ),
    "pt, NaN": (lambda: pt(tensors(**{"affine1.weight": torch.ones(2, 1) / 0})), NAN),
    "onnx": (lambda: b"\x08\x08\x12\x07pytorch", "damaged, truncated or not an ONNX file|need two more packages"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, says = REFUSED[case]
    (path := tmp_path / "weights").write_bytes(make())
    with pytest.raises((ValueError, TypeError), match=says) as refusal:
        read_weights(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < len(str(path)) + 400


def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {"W1": rng.standard_normal((4, 3)), "b1": np.ones(3)}


def encoded(kind: Format, about: dict[str, str] | None = None) -> bytes:
    assert kind.encode is not None
    return kind.encode(Weights.of(arrays()), about or {})


WRITTEN = {kind.suffixes[0]: kind for kind in FORMATS if kind.encode and kind.suffixes != (".onnx",)}
OLD = pt({"W": torch.arange(4.0)}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("suffix", [*WRITTEN, "old .pt"])
def test_truncation_at_any_byte_is_refused(suffix: str) -> None:
    content, kind = (OLD, WRITTEN[".pt"]) if suffix == "old .pt" else (encoded(WRITTEN[suffix]), WRITTEN[suffix])
    for length in range(0, len(content), 1 + (len(content) > 1000)):
        with pytest.raises(ParamsError):
            kind.decode(content[:length], MAX_BYTES, [])


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_format_is_known_by_its_first_bytes(suffix: str) -> None:
    assert format_of(encoded(WRITTEN[suffix])[:64]) is WRITTEN[suffix]


def test_safetensors_come_in_the_files_own_order() -> None:
    names = tuple("qwertzuiop")
    assert tuple(decode_safetensors(safe(names=names))) == names


def test_an_npz_is_unpacked_no_further_than_it_declares() -> None:
    content = lying(100)
    assert peak_of(lambda: decode_npz(content)) < 2 * MIB


def test_as_much_as_the_limits_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_npz(arrays())
    size = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(content)).infolist())
    monkeypatch.setattr("torchport.files.npz.MAX_FILES", 2)
    assert decode_npz(content, max_bytes=size).keys() == arrays().keys()
    with pytest.raises(ParamsError, match=f"{size} bytes unpacked, over the limit of {size - 1}:"):
        decode_npz(content, max_bytes=size - 1)
    with pytest.raises(ParamsError, match="a zip of 3 files, over the limit of 2"):
        decode_npz(encode_npz({**arrays(), "b": np.ones(1)}))


def test_limits_can_be_set() -> None:
    with pytest.raises(ParamsError, match="over the limit of 10"):
        decode_pt(pt({"W": torch.ones(1)}), max_bytes=10)
    with pytest.raises(ParamsError, match="120 bytes of arrays, over the limit of 100"):
        decode_pt(pt({"W": torch.ones(30)}, _use_new_zipfile_serialization=False), max_bytes=100)


def test_what_numpy_compresses_orders_and_swaps_is_read() -> None:
    buffer = io.BytesIO()
    odd: dict[str, Any] = {"W1": np.asfortranarray(arrays()["W1"].astype(">f4")), "b1": np.ones(3, np.float16)}
    np.savez_compressed(buffer, **odd)
    arrays_read: Any = decode_npz(buffer.getvalue())
    assert [(array.dtype, array.flags.f_contiguous) for array in arrays_read.values()] == [("f4", True), ("f2", True)]
    assert all(np.array_equal(arrays_read[name], odd[name]) and arrays_read[name].flags.writeable for name in odd)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_npy_headers_of_every_version_are_read(version: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, arrays()["W1"], version=version)
    assert buffer.getvalue()[6:8] == bytes(version)
    arrays_read = decode_npz(zipped({"W.npy": buffer.getvalue()}))
    np.testing.assert_array_equal(arrays_read["W"], arrays()["W1"], strict=True)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_equal_arrays_make_equal_files(suffix: str) -> None:
    about = {letter: letter for letter in "qwertzuiop"}
    assert encoded(WRITTEN[suffix], about) == encoded(WRITTEN[suffix], about)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int32, np.uint16, np.int64, np.bool_])
def test_safetensors_of_numbers_are_read(dtype: Any) -> None:
    numbers = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    np.testing.assert_array_equal(decode_safetensors(save({"W": numbers}))["W"], numbers, strict=True)


def test_safetensors_of_bfloat16_are_widened() -> None:
    numbers = torch.tensor([[1.5, -2.0], [torch.inf, 3.0]])
    content = save_torch({"W": numbers.bfloat16(), "b": numbers})
    notes: list[str] = []
    arrays_read = decode_safetensors(content, notes)
    for name in ("W", "b"):
        np.testing.assert_array_equal(arrays_read[name], numbers.numpy(), strict=True)
    assert notes == ["arrays widened from bfloat16 to float32, which is exact: 1"]


def test_a_damaged_npz_is_found_by_its_checksum() -> None:
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = bytearray(zipped({"W.npy": ONE}, packing))
        content[content.index(b"PK\x01\x02") - 2] ^= 1
        with pytest.raises(ParamsError, match=r"damaged, truncated or not a \.npz file"):
            decode_npz(bytes(content))


@pytest.mark.parametrize("start", [b"\x08\x0a\x12\x07pytorch", b"\x08\x0a:\x07\x0a\x05", b"\x08\x07B\x02\x10\x0d"])
def test_a_model_for_onnx_is_one_whoever_wrote_it(start: bytes) -> None:
    assert format_of(start).suffixes == (".onnx",)
