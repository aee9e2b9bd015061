"""What .npz, .pt and .safetensors files are refused, each in one line; test_reader.py has the pickles."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from numpy_ref import ParamsError
from numpy_ref.checks import Array
from torchport.files import FORMATS, format_of, load_weights, read_stored
from torchport.files.npz import MAX_FILES, decode_npz, encode_npz
from torchport.files.pt import decode_pt
from torchport.files.safe import decode_safetensors

MIB = 2**20


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, content: bytes = bytes(8), version: int = 1) -> bytes:
    """A .npz of one .npy, W, with this header."""
    text = header.encode() + b"\n"
    return zipped({"W.npy": b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + content})


def header(dtype: str = "'<f8'", shape: str = "(1,)") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"


ONE = zipfile.ZipFile(io.BytesIO(npz(W=np.ones(1)))).read("W.npy")


def twice() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for _ in range(2):
                archive.writestr("W.npy", ONE)
    return buffer.getvalue()


def encrypted() -> bytes:
    """A .npz that says of its file that it is."""
    content = bytearray(npz(W=np.ones(1)))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def lying(declared: int) -> bytes:
    """A deflated .npz whose directory declares another size of W than it has: 64 MiB."""
    content = bytearray(zipped({"W.npy": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, declared)
    return bytes(content)


def safe(
    dtype: str = "F64", shape: str = "[1]", size: int = 8, names: tuple[str, ...] = ("W",), step: int = 1
) -> bytes:
    """A safetensors file of zeros, from its header's text; a step of 0 gives each name the same ones."""
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


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "npz of nothing": (lambda: zipped({}), "no arrays: the dict is empty"),
    "npz of objects": (lambda: npz(W=np.array([{}], dtype=object)), "'W' is a list, expected an array of floats"),
    "npz of integers": (lambda: npz(W=np.ones(2, int)), "'W' has dtype int64, expected float16"),
    "npz of complex": (lambda: npz(W=np.ones(2, complex)), r"dtype '<c16'"),
    "npz of records": (lambda: npz(W=np.ones(2, "f8,f4")), r"dtype \[\('f0', '<f8'\)"),
    "npz, 0-d": (lambda: npz(W=np.float64(1)), r"'W' has shape \(\)"),
    "npz, empty": (lambda: npz(W=np.ones((0, 3))), r"'W' has shape \(0, 3\)"),
    "npz, NaN": (lambda: npz(W=np.array([np.nan])), "'W' holds NaN or infinity"),
    "npz, a long name": (lambda: npz(**{"W" * 300: np.ones(1)}), "a name of more than 256 bytes"),
    "npz, twice": (twice, "the key 'W' stands twice"),
    "npz with text": (lambda: zipped({"W.npy": ONE, "W.txt": b""}), "holds the file 'W.txt', expected .npy"),
    "npz, no header": (lambda: zipped({"W.npy": b"\x93NUMPY"}), "'W' does not begin with a NumPy"),
    "npz, code for a header": (lambda: npy("__import__('os').mkdir('boom')"), "'W' does not begin with a NumPy"),
    "npz, code for a dtype": (lambda: npy(header("__import__('os')")), "'W' is an array of dtype __import__"),
    "npz, version 9": (lambda: npy(header(), version=9), "'W' does not begin with a NumPy"),
    "npz, too long": (lambda: npy(header(shape="(2,)")), r"shape \(2,\) and dtype float64 has 8 bytes of content"),
    "npz, too short": (lambda: npy(header(shape="(1,)"), bytes(16)), r"shape \(1,\) and dtype float64 has 16 bytes"),
    "npz, negative": (lambda: npy(header(shape="(-1,)")), "'W' does not begin with a NumPy"),
    "npz, overflowing": (lambda: npy(header(shape=f"({2**62}, {2**62})")), "has 8 bytes of content"),
    "npz, no bytes of an overflow": (lambda: npy(header(shape=f"(0, {2**62}, {2**62})"), b""), "npz|shape"),
    "npz, 65 axes": (lambda: npy(header(shape=f"({'1, ' * 65})")), r"shape \(1, 1, .* has 8 bytes"),
    "npz, lzma": (lambda: zipped({"W.npy": bytes(9)}, zipfile.ZIP_LZMA), "'W.npy' in it is encrypted, or packed"),
    "npz, encrypted": (encrypted, "'W.npy' in it is encrypted"),
    "npz, declared too large": (lambda: lying(2**31), f"{2**31} bytes unpacked, over the limit of {2**30}"),
    "npz, declared too small": (lambda: lying(100), "damaged|does not start"),
    "npz, many files": (lambda: zipped({f"{k}.npy": b"" for k in range(MAX_FILES + 1)}), "a zip of 10001 files"),
    "safetensors of nothing": (lambda: save({}), "no arrays: the dict is empty"),
    "safetensors of float8": (lambda: safe("F8_E4M3", size=1), "'W' is an array of dtype F8_E4M3, expected"),
    "safetensors of integers": (lambda: save({"W": np.ones(2, int)}), "'W' has dtype int64"),
    "safetensors, 0-d": (lambda: save({"W": np.ones(())}), r"'W' has shape \(\)"),
    "safetensors, empty": (lambda: save({"W": np.ones((3, 0))}), r"'W' has shape \(3, 0\)"),
    "safetensors, infinity": (lambda: save({"W": np.array([np.inf])}), "'W' holds NaN or infinity"),
    "safetensors, twice": (lambda: safe(names=("W", "W"), step=0), "the key 'W' stands twice"),
    "safetensors, a field twice": (
        lambda: safe(shape='[1],"shape":[1]'),
        "the key 'shape' stands twice|damaged",
    ),
    "safetensors, too long": (lambda: safe(shape="[2]"), "damaged, truncated or not a safetensors file"),
    "safetensors, overflowing": (lambda: safe(shape=f"[{2**62},{2**62}]"), "damaged, truncated"),
    "safetensors, no JSON": (lambda: struct.pack("<Q", 9) + b"{" * 9, "damaged, truncated"),
    "safetensors, another key": (lambda: save({"fc.weight": np.ones((1, 1))}), r"unexpected \['fc.weight'\]"),
    "pt, empty": (lambda: pt({"conv1.weight": torch.ones(0)}), r"'conv1.weight' has shape \(0,\)"),
    "pt of nothing": (lambda: pt({}), "no arrays: the dict is empty"),
    "pt, one number without end": (lambda: pt({"W": torch.ones(1).expand(2**29)}), f"{2**31} bytes of arrays, over"),
    "pt, packed": (lambda: zipped({"x/data.pkl": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED), "is no opcode"),
    "pt, a state_dict in a dict": (lambda: pt({"net": {"W": torch.ones(1)}}), "'net' is a dict, expected an array"),
    "pt, a key of two lines": (lambda: pt({"a\nb": 1}), r"'a\\nb' is a int, expected an array"),
    "pt, integers": (lambda: pt({"W": torch.ones(1, dtype=torch.int64)}), "'W' has dtype int64, expected float16"),
    "onnx": (lambda: b"\x08\x08\x12\x07pytorch", "an ONNX file, which is only written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, says = REFUSED[case]
    (path := tmp_path / "weights").write_bytes(make())
    with pytest.raises((ValueError, TypeError), match=says) as refusal:
        load_weights(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < len(str(path)) + 400


def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {"affine1.weight": rng.standard_normal((3, 4)), "affine1.bias": np.ones(3)}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_truncation_at_any_byte_is_refused(suffix: str) -> None:
    kind = FORMATS[suffix]
    content = kind.encode(arrays(), {})
    for length in range(len(content)):
        with pytest.raises(ParamsError):
            kind.decode(content[:length])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_format_is_known_by_its_first_bytes(suffix: str) -> None:
    assert format_of(FORMATS[suffix].encode(arrays(), {})[:64]).suffix == suffix


def test_an_npz_is_unpacked_no_further_than_it_declares() -> None:
    content = lying(100)
    tracemalloc.start()
    with pytest.raises(ParamsError):
        decode_npz(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MIB


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
        decode_npz(encode_npz(arrays()), max_bytes=10)
    with pytest.raises(ParamsError, match="over the limit of 10"):
        decode_pt(pt({"W": torch.ones(1)}), max_bytes=10)
    with pytest.raises(ParamsError, match="120 bytes of arrays, over the limit of 100"):
        decode_pt(pt({"W": torch.ones(30)}, _use_new_zipfile_serialization=False), max_bytes=100)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_an_error_offers_can_be_had(suffix: str, tmp_path: Path) -> None:
    names = ("conv1.weight", "affine1.bias") if FORMATS[suffix].torch_terms else ("W1", "b2")
    path, spoilt = tmp_path / "weights", {names[0]: np.ones((2, 1, 3, 3)), names[1]: np.array([np.nan, 1, 2])}
    path.write_bytes(FORMATS[suffix].encode(spoilt, {}))
    for read in (read_stored, load_weights):
        with pytest.raises(ParamsError, match="allow_nonfinite=True"):
            read(path)
        with pytest.raises(ParamsError, match=r"over the limit of 150.* with a larger max_bytes"):
            read(path, max_bytes=150, allow_nonfinite=True)
        read(path, max_bytes=10_000, allow_nonfinite=True)


def test_the_limit_is_also_of_what_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "weights.npz", W1=np.zeros(10_000))
    with pytest.raises(ParamsError, match="bytes unpacked, over the limit of 10000: read it from Python with a larger"):
        load_weights(tmp_path / "weights.npz", max_bytes=10_000)
    assert (tmp_path / "weights.npz").stat().st_size < 10_000


def test_what_numpy_compresses_orders_and_swaps_is_read() -> None:
    buffer = io.BytesIO()
    odd: dict[str, Any] = {
        "W1": np.asfortranarray(arrays()["affine1.weight"].astype(">f4")),
        "b1": np.ones(3, np.float16),
    }
    np.savez_compressed(buffer, **odd)
    found: Any = decode_npz(buffer.getvalue())
    assert [(array.dtype, array.flags.f_contiguous) for array in found.values()] == [("f4", True), ("f2", True)]
    assert all(np.array_equal(found[name], odd[name]) and found[name].flags.writeable for name in odd)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_npy_headers_of_every_version_are_read(version: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, arrays()["affine1.weight"], version=version)
    assert buffer.getvalue()[6:8] == bytes(version)
    found = decode_npz(zipped({"W.npy": buffer.getvalue()}))
    np.testing.assert_array_equal(found["W"], arrays()["affine1.weight"], strict=True)


def test_equal_arrays_make_equal_files() -> None:
    about = {letter: letter for letter in "qwertzuiop"}
    for kind in FORMATS.values():
        assert kind.encode(arrays(), about) == kind.encode(arrays(), about)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int32, np.uint16, np.int64, np.bool_])
def test_safetensors_of_numbers_are_read(dtype: Any) -> None:
    numbers = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    np.testing.assert_array_equal(decode_safetensors(save({"W": numbers}))["W"], numbers, strict=True)


def test_safetensors_of_bfloat16_are_widened() -> None:
    numbers = torch.tensor([[1.5, -2.0], [torch.inf, 3.0]])
    content = save_torch({"W": numbers.bfloat16(), "b": numbers})
    notes: list[str] = []
    found = decode_safetensors(content, notes)
    for name in ("W", "b"):
        np.testing.assert_array_equal(found[name], numbers.numpy(), strict=True)
    assert notes == ["arrays widened from bfloat16 to float32, which is exact: 1"]


def test_a_damaged_npz_is_found_by_its_checksum() -> None:
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = bytearray(zipped({"W.npy": ONE}, packing))
        content[content.index(b"PK\x01\x02") - 2] ^= 1
        with pytest.raises(ParamsError, match=r"damaged, truncated or not a \.npz file"):
            decode_npz(bytes(content))


def test_a_table_of_arrays_says_how_they_are_stored(tmp_path: Path) -> None:
    odd = {"a\nb": np.asfortranarray(np.eye(2, 3)), "W": np.arange(6.0).reshape(2, 3), "b": np.array([np.nan])}
    (path := tmp_path / "x.pkl").write_bytes(pickle.dumps(odd))
    rows = [line.split("  ") for line in read_stored(path, allow_nonfinite=True).to_text().splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [row[:6] for row in cells] == [
        ["array", "shape", "dtype", "order", "min", "max"],
        [r"'a\nb'", "(2, 3)", "float64", "F", "0", "1"],
        ["W", "(2, 3)", "float64", "C", "0", "5"],
        ["b", "(1,)", "float64", "C, F", "nan", "nan"],
    ]
    assert cells[2][6] == hashlib.sha256(np.arange(6.0).tobytes()).hexdigest()
