"""torch.save's files are read as torch.load reads them, without torch; anything else is refused in one line, fast."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from reference.crafted import Bomb, peak_of, same, text, tuples, zipped
from torch import nn

from files.test_formats import pt
from numpy_ref import ParamsError
from numpy_ref.pickles import StandIn
from torchport.files.pt import decode_pickle, decode_pt

WRITTEN: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, protocol 5": {"pickle_protocol": 5},
    "old": {"_use_new_zipfile_serialization": False},
}
DTYPES = (torch.float16, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@pytest.fixture(autouse=True)
def torch_load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call torch.load, which is otherwise forbidden, on a file that the test itself has written."""
    load = torch.load
    monkeypatch.delattr(torch, "load")
    return load


def arrays_of(value: Any) -> Any:
    """Return value with an array for each tensor."""
    match value:
        case torch.Tensor():
            return value.detach().numpy()
        case dict():
            return {key: arrays_of(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(arrays_of, value))
    return value


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 4)).train()


def checkpoint() -> dict[str, Any]:
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    return {"epoch": 3, "model": net.state_dict(), "optimizer": optimizer.state_dict(), "losses": [0.5, 1e-3]}


def of_one_storage() -> dict[str, torch.Tensor]:
    whole = torch.arange(6.0).reshape(2, 3)
    return {"a": whole[0], "b": whole[1], "whole": whole}


def with_attributes() -> dict[str, Any]:
    made = {"tensor": torch.arange(3.0), "parameter": nn.Parameter(torch.ones(2))}
    for value in made.values():
        value.tag = "x"  # type: ignore[attr-defined]
    return made


DENSE: dict[str, Callable[[], Any]] = {
    "a state_dict": lambda: network().state_dict(),
    "a checkpoint": checkpoint,
    "a tensor": lambda: torch.arange(3.0),
    "a list": lambda: [torch.ones(2), {"a": (torch.zeros(1), None)}],
    "a parameter": lambda: {"a": nn.Parameter(torch.ones(2))},
    "with attributes": with_attributes,
    "of no axes, or empty": lambda: {"a": torch.tensor(3.0), "b": torch.ones(0, 3), "c": torch.ones(3, 0)[1:]},
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "permuted": lambda: torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    "expanded": lambda: torch.arange(3.0).expand(4, 3),
    "of every second number": lambda: torch.arange(10.0)[3:9:2],
    "overlapping": lambda: torch.arange(6.0).as_strided((3, 2), (1, 2), 1),
    "of one storage": of_one_storage,
    "channels last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "NumPy's": lambda: {"W": np.arange(3.0), "n": [torch.Size([1, 2])]},
    **{str(dtype): partial(torch.tensor, [0, 1, 2], dtype=dtype) for dtype in DTYPES},
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("what", DENSE)
def test_tensors_are_read_as_torch_reads_them(what: str, how: str) -> None:
    value = DENSE[what]()
    expected = arrays_of(value) if what != "NumPy's" else {"W": np.arange(3.0), "n": [(1, 2)]}
    assert same(decode_pt(pt(value, **WRITTEN[how])), expected)


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_tensors_are_read(protocol: int) -> None:
    value = checkpoint()
    assert same(decode_pickle(pickle.dumps(value, protocol)), arrays_of(value))


def test_nothing_in_a_pickled_tensor_is_run(tmp_path: Path) -> None:
    content = pt([Bomb(tmp_path / "boom")], **WRITTEN["old"])

    class Inner:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (content,)

    assert same(decode_pickle(pickle.dumps({"W": Inner()})), {"W": ["an object of "]})
    assert not (tmp_path / "boom").exists()
    # The same content in many places would have to be read as many times.
    items: Any = decode_pickle(pickle.dumps([Inner() for _ in range(1000)]))
    assert same(items[-1], "an object of torch.storage")


@pytest.mark.parametrize("how", WRITTEN)
def test_bfloat16_is_widened(how: str) -> None:
    value = {"a": torch.randn(3, 2).bfloat16().t(), "b": torch.ones(2)}
    notes: list[str] = []
    tree = decode_pt(pt(value, **WRITTEN[how]), notes=notes)
    assert same(tree, {"a": value["a"].float().numpy(), "b": np.ones(2, np.float32)})
    assert notes == ["arrays widened from bfloat16 to float32, which is exact: 1"]


def pair() -> torch.Tensor:
    return torch.view_as_complex(torch.ones(2, 2))


NAMED: dict[str, tuple[Callable[[], Any], str]] = {
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "an object of .*nested_tensor"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "an object of .*sparse_tensor"),
    "meta": (lambda: torch.ones(2, device="meta"), "an object of .*meta_tensor"),
    "no tensor": (lambda: argparse.Namespace(lr=torch.ones(2)), "an object of argparse.Namespace"),
    "a path": (lambda: Path("x"), "an object of pathlib"),
    "a network": (network, "an object of torch.nn.modules.container.Sequential"),
    "a device": (lambda: torch.device("cpu"), "an object of torch.device"),
    "a dtype": (lambda: torch.float32, "the name torch.float32"),
}
# The old format stores one storage after the other, and the length of these is unknown.
NAMED_IN_A_ZIP: dict[str, tuple[Callable[[], Any], str]] = {
    "with the negative bit": (lambda: pair().conj().imag, "a tensor with the negative or the conjugate bit: save"),
    "complex": (pair, "a tensor of ComplexFloat"),
    "with the conjugate bit": (lambda: pair().conj(), "a tensor of ComplexFloat"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "an object of .*qtensor"),
    "of float8": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "an object of .*_rebuild_tensor_v3"),
}


@pytest.mark.parametrize(
    ("what", "how"), [(w, h) for w in NAMED for h in WRITTEN] + [(w, "zip") for w in NAMED_IN_A_ZIP]
)
@pytest.mark.filterwarnings("ignore")  # torch warns of nested and quantised tensors
def test_what_is_no_dense_tensor_is_named_and_what_is_beside_it_read(what: str, how: str) -> None:
    make, says = (NAMED | NAMED_IN_A_ZIP)[what]
    tree: Any = decode_pt(pt({"odd": make(), "W": torch.ones(2)}, **WRITTEN[how]))
    assert same(tree["W"], np.ones(2, np.float32))
    assert isinstance(tree["odd"], StandIn)
    assert re.match(says, tree["odd"].what)


def test_nothing_is_run(tmp_path: Path) -> None:
    for options in WRITTEN.values():
        assert same(decode_pt(pt([Bomb(tmp_path / "boom"), 1], **options)), ["an object of ", 1])
        assert not (tmp_path / "boom").exists()


# --- Refusals


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
K0, HUGE, MINUS = b"K\0", b"\x8a\x09" + bytes(8) + b"\x01", b"J\xff\xff\xff\xff"  # 0, 2**64, -1


def tensor(
    start: bytes = K0, size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", storage: bytes = STORAGE
) -> bytes:
    """Return the pickle of a list with a tensor of four numbers, or of something close to that."""
    return b"\x80\x02](ctorch._utils\n_rebuild_tensor_v2\n(" + storage + start + size + stride + b"\x89}tRe."


def of(count: bytes) -> bytes:
    """Like tensor, with a storage that claims to have count numbers."""
    return tensor(storage=STORAGE.replace(b"K\x04tQ", count + b"tQ"))


def saved(content: bytes, packing: int = zipfile.ZIP_STORED) -> bytes:
    """Return a .pt file of this pickle and a storage of four numbers."""
    numbers = np.arange(4, dtype="<f4").tobytes()
    return zipped({"x/data.pkl": content, "x/version": b"3\n", "x/data/0": numbers}, packing)


def script() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def flipped(content: bytes, inside: bytes) -> bytes:
    """Return the file with one bit changed in the part that equals inside."""
    assert content.count(inside) == 1
    return content.replace(inside, bytes([inside[0] ^ 1]) + inside[1:])


def two_of_a_name() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own
        buffer = io.BytesIO(saved(tensor()))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("x/data/0", bytes(16))
    return buffer.getvalue()


def damaged_packing() -> bytes:
    content = bytearray(saved(tensor(), zipfile.ZIP_DEFLATED))
    content[content.index(b"x/data/0") + 9] ^= 0x10
    return bytes(content)


def without_checksums() -> bytes:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return pt({"W": torch.ones(1)})
    finally:
        torch.serialization.set_crc32_options(before)


OLD = pt({"W": torch.arange(4.0)}, **WRITTEN["old"])
NUMBERS = np.arange(4, dtype="<f4").tobytes()
WAY_OUT = r"torch\.save\(net\.state_dict\(\), path\)"
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "another bit in a tensor": (lambda: flipped(pt(torch.arange(4.0)), NUMBERS), "checksum"),
    "another bit in the pickle": (lambda: flipped(pt({"abc": 1}), b"abc"), "checksum"),
    "another bit in what is packed": (damaged_packing, r"damaged, truncated or not a \.pt file"),
    "no checksums": (without_checksums, r"torch\.serialization\.set_crc32_options\(False\)"),
    "a network": (lambda: pt(network()), f"an object of .*Sequential, .*{WAY_OUT}"),
    "a network, old": (lambda: pt(network(), **WRITTEN["old"]), f"an object of .*Sequential, .*{WAY_OUT}"),
    "TorchScript": (script, rf"a TorchScript file: .*torch\.jit\.load.* {WAY_OUT}"),
    "no pickle": (lambda: zipped({"x/y": b""}), r"without the data\.pkl"),
    "a pickle too deep": (lambda: zipped({"x/y/data.pkl": b""}), r"without the data\.pkl"),
    "a file twice": (two_of_a_name, "occurs twice"),
    "keys 1 and '1'": (lambda: pt({1: torch.ones(1), "1": torch.ones(1)}), "the key 1 occurs twice"),
    "keys 1 and '1', old": (lambda: pt([{1: 1, "1": 1}], **WRITTEN["old"]), "the key 1 occurs twice"),
    "bytes behind the pickle": (lambda: saved(tensor() + b"."), "1 bytes follow"),
    "old, cut": (lambda: OLD[:-1], "not as long as"),
    "old, longer": (lambda: OLD + b"x", "not as long as"),
    "old, of version 1002": (lambda: OLD.replace(b"M\xe9\x03", b"M\xea\x03"), "an old .pt file of an unknown version"),
    "old, complex": (lambda: pt([pair()], **WRITTEN["old"]), r"an old \.pt file with a str for a storage of plain"),
    "old, a number too many": (lambda: OLD.replace(b"K\x04\x85", b"K\x05\x85"), "reaches to number 4 of a storage"),
}
NONE = "sizes or strides that are none"
TENSORS: dict[str, tuple[bytes, str]] = {
    "a storage elsewhere": (tensor().replace(text("0"), text("../0")), r"lacks its file 'data/\.\./0'"),
    "a short storage": (of(b"K\x05"), "has 16 bytes, expected 20"),
    "a long storage": (of(b"K\x03"), "has 16 bytes, expected 12"),
    "a negative storage": (of(MINUS), "no storage of torch's"),
    "another identity": (b"\x80\x02K\x01Q.", "no storage of torch's"),
    "a part of a storage": (tensor(storage=STORAGE[:-2] + b"K\x01K\x02\x86tQ"), "no storage of torch's"),
    "one number too many": (tensor(size=b"K\x05\x85"), "reaches to number 4 of a storage of 4"),
    "one number too far": (tensor(start=b"K\x01"), "reaches to number 4 of a storage of 4"),
    "one step too far": (tensor(size=b"K\x02\x85", stride=b"K\x04\x85"), "reaches to number 4 of a storage of 4"),
    "a start of 2**64": (tensor(start=HUGE), "reaches to number 18446744073709551619 of"),
    "a size of 2**64": (tensor(size=HUGE + b"\x85", stride=b"K\0\x85"), "damaged"),
    "none of 2**64": (tensor(size=K0 + HUGE + b"\x86", stride=b"K\0K\0\x86"), "damaged"),
    "a negative start": (tensor(start=MINUS), NONE),
    "a negative size": (tensor(size=MINUS + b"\x85"), NONE),
    "a negative stride": (tensor(start=b"K\x03", stride=MINUS + b"\x85"), NONE),
    "a stride too few": (tensor(stride=b")"), NONE),
    "a size that is a bool": (tensor(size=b"\x88\x85"), NONE),
    "a size that is a list": (tensor(size=b"]\x85"), NONE),
    "100 axes": (tensor(K0, b"(" + b"K\x01" * 100 + b"t", b"(" + b"K\0" * 100 + b"t"), NONE),
}


@pytest.mark.parametrize("case", [*FILES, *TENSORS])
def test_anything_else_is_refused_in_one_line(case: str) -> None:
    make, says = FILES[case] if case in FILES else (partial(saved, TENSORS[case][0]), TENSORS[case][1])
    with pytest.raises(ParamsError, match=says) as refusal:
        decode_pt(make())
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


def test_crafted_files_are_refused_for_their_flaw_alone(torch_load: Callable[..., Any]) -> None:
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert same(decode_pt(saved(tensor(), packing)), [np.arange(4, dtype=np.float32)])
    # torch's own reader has no opcode for the short text of protocol 4
    content = re.sub(rb"\x8c(.)", lambda match: b"X" + match[1] + bytes(3), tensor())
    assert same([torch_load(io.BytesIO(saved(content))).pop().numpy()], [np.arange(4, dtype=np.float32)])


def test_the_other_byte_order_is_read() -> None:
    content = np.arange(4, dtype=">f4").tobytes()
    tree = decode_pt(zipped({"x/data.pkl": tensor(), "x/byteorder": b"big", "x/data/0": content}))
    assert same(tree, [np.arange(4, dtype=np.float32)])


BYTES = b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"  # 2 GiB of them
HOSTILE: dict[str, bytes] = {
    "a hash that takes forever": b"}" + tuples(60) + b"K\x01s",
    "an ordered dict of it": b"ccollections\nOrderedDict\n](]" + tuples(60) + b"aK\x01e\x85R",
    "a bytearray of 2 GiB": BYTES,
    "a counter of zeros": b"ccollections\nCounter\n" + BYTES + b"\x85R",
    "a set of a bytearray": b"c__builtin__\nset\n" + BYTES + b"\x85R",
    "a size of a bytearray": b"ctorch\nSize\n" + BYTES + b"\x85R",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_would_take_forever_takes_nothing(case: str) -> None:
    content = saved(b"\x80\x02](K\x01" + HOSTILE[case] + b"e.")
    assert peak_of(lambda: decode_pt(content)) < 2**20
    tree: Any = decode_pt(content)
    assert tree[0] == 1


@pytest.mark.parametrize("how", WRITTEN)
def test_memory_is_in_proportion_to_the_file(how: str) -> None:
    content = pt({"W": torch.rand(1024, 1024), "V": torch.rand(1024, 1024).t()}, **WRITTEN[how])
    assert peak_of(lambda: decode_pt(content)) < 1.1 * len(content)  # not counting the file's own bytes


def test_one_storage_takes_no_more_than_the_limit_under_many_names() -> None:
    content = pt([torch.ones(1000)] * 20)
    assert same(decode_pt(content, 80_000), [np.ones(1000, np.float32)] * 20)
    with pytest.raises(ParamsError, match="80000 bytes of arrays, over the limit of 79999"):
        decode_pt(content, 79_999)


SAMPLES = {
    how: pt({"W": torch.arange(6.0).reshape(2, 3).t(), "n": [1, {"b": torch.ones(2)}]}, **WRITTEN[how])
    for how in WRITTEN
}
EDITS = st.tuples(st.integers(0, 2**16), st.integers(0, 255))


def spoilt(how: str, edits: list[tuple[int, int]]) -> bytes:
    """Return a sample with some bytes changed; in a zip file those of the pickle, with correct checksums."""
    files = {"": SAMPLES[how]}
    if how != "old":
        with zipfile.ZipFile(io.BytesIO(SAMPLES[how])) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name in ("", "archive/data.pkl"))
    content = bytearray(files[name])
    for place, byte in edits:
        content[place % len(content)] = byte
    return bytes(content) if how == "old" else zipped({**files, name: bytes(content)})


@settings(max_examples=300, deadline=2000)
@given(how=st.sampled_from([*WRITTEN]), edits=st.lists(EDITS, min_size=1, max_size=4))
def test_any_pickle_in_a_file_is_read_or_refused(how: str, edits: list[tuple[int, int]]) -> None:
    content, says = spoilt(how, edits), ""
    tracemalloc.start()
    try:
        decode_pt(content)
    except ParamsError as error:
        says = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert says.isprintable()
    assert len(says) < 400
    assert peak < 2**19
