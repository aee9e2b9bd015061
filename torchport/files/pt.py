"""What torch.save writes, read without torch: its pickle is interpreted, and nothing in it is ever run.

Source: torch/serialization.py (_save and _legacy_save), torch/_utils.py (_rebuild_tensor_v2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError
from numpy_ref.params import MAX_BYTES
from numpy_ref.pickles import NUMPYS_AXES, VALUES, StandIn, Vocabulary, describe, interpret_first, plain, widened
from torchport.files.npz import open_zip, unpack
from torchport.networks.names import state_dict_bytes

ZIP = b"PK\x03\x04"
# What torch.save writes: a zip file, and before torch 1.6 a row of pickles that starts with this number.
SIGNATURES = (ZIP, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")

_NETWORK = "save the weights alone, with torch.save(net.state_dict(), path)"
_DTYPES = {
    "Half": "f2",
    "Float": "f4",
    "Double": "f8",
    "BFloat16": "u2",
    "Bool": "?",
    "Byte": "u1",
    "Char": "i1",
    "Short": "i2",
    "Int": "i4",
    "Long": "i8",
}


def decode_pt(data: bytes, max_bytes: int = MAX_BYTES, notes: list[str] | None = None) -> object:
    """What torch.save was given, as numpy_ref.pickles.plain gives it: arrays in place of tensors.

    ParamsError for more than max_bytes of tensors, a whole network, and anything that torch.save does not write.
    """
    found = plain(_from_zip(data, max_bytes) if data.startswith(ZIP) else _from_row(data), max_bytes, notes)
    if isinstance(found, StandIn):
        raise ParamsError(f"holds {found.what}, expected a state_dict: {_NETWORK}")
    if isinstance(found, dict) and found.keys() >= {"version", "step", "state"}:
        raise ParamsError("is the checkpoint of a run: name the run's folder, which has the trained weights")
    return found


def encode_pt(arrays: Mapping[str, Array], _: Mapping[str, str] | None = None) -> bytes:
    """arrays as torch.save writes a state_dict, for torch.load(weights_only=True)."""
    return state_dict_bytes({key: torch.from_numpy(np.array(array, order="C")) for key, array in arrays.items()})


def _from_zip(data: bytes, max_bytes: int) -> object:
    with open_zip(data, max_bytes, "a .pt") as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ParamsError("a file in it stands twice")
        folders = [name.removesuffix("data.pkl") for name in members if name.count("/") == 1]
        folder = next((folder for folder in folders if f"{folder}data.pkl" in members), None)
        if folder is None:
            raise ParamsError("a zip file without the data.pkl of a .pt file")
        if f"{folder}constants.pkl" in members:
            raise ParamsError("a TorchScript file: load it with torch.jit.load(path, 'cpu') as net, and " + _NETWORK)

        def content(name: str) -> bytes:
            if folder + name not in members:
                raise ParamsError(f"lacks its file {name!r:.80}")
            return unpack(archive, members[folder + name])

        big = f"{folder}byteorder" in members and content("byteorder") == b"big"
        storages = _Storages(lambda key: content(f"data/{key}"), ">" if big else "<")
        pickle = content("data.pkl")
        found, end = interpret_first(pickle, TENSORS, True, storages.of)
        if end < len(pickle):
            raise ParamsError(f"{len(pickle) - end} bytes follow the end of the pickle")
        return found


def _from_row(data: bytes) -> object:
    """What was saved before torch 1.6: the contents of storages follow the pickle that names them: it is read twice."""
    end, header = 0, []
    for _ in range(3):  # a number that tells such files, the version, and what machine it was
        value, end = interpret_first(data, VALUES, True, start=end)
        header.append(value)
    match header:
        case [_, 1001, {"little_endian": bool(little)}]:
            order = "<" if little else ">"
        case _:
            raise ParamsError("an old .pt file of an unknown version")
    start, named, contents = end, _Storages(None, order), {}
    _, end = interpret_first(data, TENSORS, True, named.of, start)
    keys, end = interpret_first(data, VALUES, True, start=end)
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in named.sizes:
            raise ParamsError(f"an old .pt file with a storage of an unknown kind, {describe(key)}: {_NETWORK}")
        contents[key] = memoryview(data)[end + 8 : end + 8 + named.sizes[key]]
        end += 8 + named.sizes[key]
    if end != len(data):
        raise ParamsError("damaged or truncated: its storages are not as long as they are said to be")
    return interpret_first(data, TENSORS, True, _Storages(contents.__getitem__, order).of, start)[0]


@dataclass
class _Storages:
    """The storages of a file, which its pickle knows by their keys; content gives the bytes of one."""

    content: Callable[[str], bytes | memoryview] | None
    order: str  # of bytes, "<" or ">"
    sizes: dict[str, int] = field(default_factory=dict)
    found: dict[tuple[str, str], StandIn] = field(default_factory=dict)

    def of(self, identity: object) -> StandIn:
        """The storage of this identity: its numbers, one after the other."""
        match identity:
            case ("storage", StandIn(what=what), str(key), _, int(count)) | (
                "storage",
                StandIn(what=what),
                str(key),
                _,
                int(count),
                None,
            ):
                kind = what.removeprefix("the name torch.").removesuffix("Storage")
                if (key, kind) not in self.found:
                    self.found[key, kind] = self._read(kind, key, count)
                return self.found[key, kind]
        raise ParamsError("names something outside of it that is no storage of torch's")

    def _read(self, kind: str, key: str, count: int) -> StandIn:
        if kind not in _DTYPES:
            return StandIn(f"a tensor of {kind}")
        dtype = np.dtype(self.order + _DTYPES[kind])
        self.sizes[key] = count * dtype.itemsize
        if self.content is None:
            return StandIn("a tensor")
        content = self.content(key)
        if len(content) != self.sizes[key]:
            raise ParamsError(f"the storage {key!r:.40} has {len(content)} bytes, expected {self.sizes[key]}")
        array = np.frombuffer(content, dtype)
        return StandIn("a tensor of bfloat16", widened(array)) if kind == "BFloat16" else StandIn("a tensor", array)


def _tensor(arguments: Any) -> object:
    match arguments:
        case (StandIn(what=what, value=np.ndarray() as storage), int(start), tuple(size), tuple(stride), _, _, *flags):
            if flags and flags[0] != {}:
                bits = "the negative or conjugate bit: save tensor.resolve_neg().resolve_conj()"
                return StandIn(f"a tensor with {bits}")
            return StandIn(what, _view(storage, start, size, stride))
        case (StandIn(what=what, value=None), *_):
            return StandIn(what)
    return None


def _view(storage: Array, start: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    numbers = (start, *size, *stride)
    if len(size) != len(stride) or len(size) > NUMPYS_AXES or any(type(n) is not int or n < 0 for n in numbers):
        raise ParamsError("a tensor has a size or strides that are none")
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage):
        raise ParamsError(f"a tensor reaches to the number {last} of a storage of {len(storage)}")
    steps = [step * storage.itemsize for step in stride]
    return np.ndarray(size, storage.dtype, storage, start * storage.itemsize, steps)


def _parameter(arguments: Any) -> object:
    match arguments:
        case (StandIn() as tensor, *_):
            return tensor
    return None


def _size(arguments: Any) -> object:
    match arguments:
        case (tuple(sizes),):
            return sizes
    return None


TENSORS: Vocabulary = {
    **VALUES,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _size,
}
