"""Reads what torch.save writes, without torch: its pickle is interpreted (numpy_ref.opcodes), never executed.

The formats are those of torch/serialization.py (_save and _legacy_save) and torch/_utils.py (_rebuild_tensor_v2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError
from numpy_ref.opcodes import StandIn, describe, interpret, interpret_first, vocabulary
from numpy_ref.params import MAX_BYTES, decode_or_explain
from numpy_ref.pickles import NUMPYS_AXES, VALUES, plain, widened
from torchport.files.npz import open_zip, unpack
from torchport.networks.nearest import printable, truncate

ZIP = b"PK\x03\x04"
# torch.save writes a zip file; before torch 1.6 it wrote several pickles, the first of them this magic number.
SIGNATURES = (ZIP, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")

_KINDS = "Half:f2 Float:f4 Double:f8 BFloat16:u2 Bool:? Byte:u1 Char:i1 Short:i2 Int:i4 Long:i8"
_DTYPES = dict(kind.split(":") for kind in _KINDS.split())
_WAY_OUT = "save the weights alone, with torch.save(net.state_dict(), path)"


def decode_pt(data: bytes, max_bytes: int = MAX_BYTES, notes: list[str] | None = None) -> object:
    """Return the object that torch.save was given as a tree (see numpy_ref.pickles.plain), with arrays for tensors.

    ParamsError for more than max_bytes of tensors, a whole network, and anything that torch.save does not write.
    """
    content = _decode_zip(data, max_bytes) if data.startswith(ZIP) else _decode_legacy(data)
    tree = plain(content, max_bytes, notes)
    if isinstance(tree, StandIn):
        raise ParamsError(f"holds {tree.what}, expected a state_dict: {_WAY_OUT}")
    if isinstance(tree, dict) and tree.keys() >= {"version", "step", "state"}:
        raise ParamsError("is the checkpoint of a run: name the run's folder, which has the trained weights")
    return tree


def decode_pickle(data: bytes, max_bytes: int = MAX_BYTES, notes: list[str] | None = None) -> object:
    """Return the object that pickle.dump was given, which may hold tensors, as a tree (see plain). ParamsError."""
    budget = len(data)

    def load_storage(arguments: Any) -> object:
        """Decode a storage, which is a legacy file by itself; None once these are longer than data, as by repeats."""
        nonlocal budget
        match arguments:
            case (bytes() | memoryview() as content,):
                budget -= len(content)
                return _decode_legacy(bytes(content)) if budget > 0 else None
        return None

    names = {**TENSORS, ("torch.storage", "_load_from_bytes"): load_storage}
    return decode_or_explain(data, lambda data: plain(interpret(data, names, lenient=True), max_bytes, notes))


def _decode_zip(data: bytes, max_bytes: int) -> object:
    with open_zip(data, max_bytes, "a .pt") as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ParamsError("a file in it occurs twice")
        folder = next((name[:-8] for name in members if name.endswith("/data.pkl") and name.count("/") == 1), None)
        if folder is None:
            names = ", ".join(truncate([printable(name) for name in members])) or "nothing"
            raise ParamsError(f"a zip file of {names}, without the data.pkl of a .pt file: unpack it first")
        if f"{folder}constants.pkl" in members:
            raise ParamsError(f"a TorchScript file: load it as net with torch.jit.load(path, 'cpu'), and {_WAY_OUT}")

        def content(name: str) -> bytes | memoryview:
            if folder + name not in members:
                raise ParamsError(f"lacks its file {name!r:.80}")
            return unpack(archive, members[folder + name], data)

        big = f"{folder}byteorder" in members and content("byteorder") == b"big"
        storages = _Storages(lambda key: content(f"data/{key}"), ">" if big else "<")
        return interpret(bytes(content("data.pkl")), TENSORS, True, storages.get)


def _decode_legacy(data: bytes) -> object:
    """Decode a file from before torch 1.6; its pickle is read twice, since the storages' contents follow it."""
    read = partial(interpret_first, data, TENSORS, True)
    _, end = read()
    version, end = read(start=end)
    system, start = read(start=end)
    if version != 1001 or not isinstance(system, dict):
        raise ParamsError(f"an old .pt file of an unknown version: {_WAY_OUT}")
    contents: dict[str, memoryview] = {}
    storages = _Storages(None, "<" if system.get("little_endian") is True else ">")
    _, end = read(storages.get, start)
    keys, end = read(start=end)
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages.sizes:
            raise ParamsError(f"an old .pt file with {describe(key)} for a storage of plain numbers: {_WAY_OUT}")
        end += 8  # the number of elements that follow
        contents[key] = memoryview(data)[end : end + storages.sizes[key]]
        end += storages.sizes[key]
    if end != len(data):
        raise ParamsError("damaged or truncated: its storages are not as long as they are said to be")
    return read(_Storages(contents.__getitem__, storages.byte_order).get, start)[0]


@dataclass
class _Storages:
    """The storages that a file's pickle names by key; content returns the bytes of one, None before they are known."""

    content: Callable[[str], bytes | memoryview] | None
    byte_order: str  # "<" or ">"
    sizes: dict[str, int] = field(default_factory=dict)  # in bytes, by key
    cache: dict[tuple[str, str], StandIn] = field(default_factory=dict)

    def get(self, identity: object) -> StandIn:
        """Return the storage with this persistent id as a flat array in a StandIn. ParamsError."""
        match identity:
            case ("storage", StandIn(what=what), str(key), _, int(count), *view) if view in ([], [None]) and count >= 0:
                kind = what.removeprefix("the name torch.").removesuffix("Storage")
                if (key, kind) not in self.cache:
                    self.cache[key, kind] = self._read(key, kind, count)
                return self.cache[key, kind]
            case ("module", StandIn() as network, *_):  # in the legacy format: a class with its source code
                return network
        raise ParamsError("names something outside of its pickle that is no storage of torch's")

    def _read(self, key: str, kind: str, count: int) -> StandIn:
        if kind not in _DTYPES:
            return StandIn(f"a tensor of {kind}")
        dtype = np.dtype(self.byte_order + _DTYPES[kind])
        self.sizes[key] = size = count * dtype.itemsize
        if self.content is None:
            return StandIn("a tensor")
        content = self.content(key)
        if len(content) != size:
            raise ParamsError(f"its storage {key!r:.40} has {len(content)} bytes, expected {size}")
        array = np.frombuffer(content, dtype)
        return StandIn("a tensor of bfloat16", widened(array)) if kind == "BFloat16" else StandIn("a tensor", array)


def _call(name: str, arguments: Any) -> object:
    """Return what torch's function of that name would build, None if its arguments are unknown."""
    match name, arguments:
        case "_rebuild_tensor_v2", (StandIn(value=None) as unknown, *_):
            return unknown
        case "_rebuild_tensor_v2", (StandIn(value=np.ndarray()) as flat, at, tuple(size), tuple(stride), _, _, *bits):
            if bits and bits[0] != {}:
                way_out = "save tensor.resolve_conj().resolve_neg()"
                return StandIn(f"a tensor with the negative or the conjugate bit: {way_out}")
            return StandIn(flat.what, _as_strided(flat.value, at, size, stride))
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (StandIn() as tensor, *_):
            return tensor
        case "_rebuild_from_type_v2", (StandIn(what=what) as make, StandIn(), tuple(inner), *_) if what in _REBUILDERS:
            return make.value(inner)
        case "Size", (tuple(size),):
            return size
    return None


def _as_strided(storage: Array, start: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Array:
    """Return a view of storage, offset and strides in elements. ParamsError if it would reach beyond."""
    numbers = (start, *size, *stride)
    if len(size) != len(stride) or len(size) > NUMPYS_AXES or any(type(n) is not int or n < 0 for n in numbers):
        raise ParamsError("a tensor has sizes or strides that are none")
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage):
        raise ParamsError(f"a tensor reaches to number {last} of a storage of {len(storage)}")
    item = storage.itemsize
    return np.ndarray(size, storage.dtype, storage, start * item, [step * item for step in stride])


_REBUILDERS = ("the name torch._utils._rebuild_tensor_v2", "the name torch._utils._rebuild_parameter")
TENSORS = VALUES | vocabulary(
    _call,
    """torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state
    torch._tensor._rebuild_from_type_v2 torch.Size""",
)
