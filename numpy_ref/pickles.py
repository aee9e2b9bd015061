"""The arrays, and whatever holds them, in a pickle that numpy_ref.opcodes interprets.

How NumPy pickles arrays: array_reduce_ex in numpy/_core/src/multiarray/methods.c, arraydescr_reduce in descriptor.c.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError, over_limit
from numpy_ref.opcodes import StandIn as StandIn, describe as describe, interpret, vocabulary

NUMPYS_AXES = 64  # of an array: NumPy 2's own limit
MAX_DEPTH = 64  # of dicts, lists and tuples in each other: what reads them recurses
MAX_VALUES = 2**19
MAX_SHARED = 2**26  # bytes of arrays besides twice the file's: one array may stand under many names

Order = Literal["C", "F", "K"]


def read_arrays(data: bytes) -> object:
    """What the pickle in data builds; in a dict, arrays in C order. ParamsError."""
    value = interpret(data, ARRAYS)
    left = limit = 2 * len(data) + MAX_SHARED
    for name, found in value.items() if isinstance(value, dict) else ():
        if isinstance(found, StandIn) and found.what == "an array":
            if found.value is None:
                raise ParamsError(f"{name!r:.80} is an array that is never filled")
            left -= found.value.nbytes
            if left < 0:
                raise ParamsError(f"holds arrays of more than {limit} bytes, as some stand under many names")
            value[name] = native(found.value, "C")
    return value


def read_values(data: bytes, max_bytes: int | None = None, notes: list[str] | None = None) -> object:
    """What the pickle in data builds, as plain gives it; max_bytes is twice the file and MAX_SHARED unless given."""
    limit = 2 * len(data) + MAX_SHARED if max_bytes is None else max_bytes
    return plain(interpret(data, VALUES, lenient=True), limit, notes)


def plain(value: object, max_bytes: int, notes: list[str] | None = None) -> object:
    """What interpret gave as a tree of dicts, lists, tuples, arrays, numbers and texts; a StandIn for all else.

    Nothing stands in it twice: each array is a copy, in its own memory order. notes gets a line for what is changed.
    ParamsError for more than max_bytes of arrays, for too many or too deeply nested values, for keys 1 and "1".
    """
    tree = _Tree(max_bytes)
    copy = tree.copy(value)
    if tree.widened and notes is not None:
        notes.append(f"arrays widened from bfloat16 to float32, which is exact: {tree.widened}")
    return copy


@dataclass
class _Tree:
    """The copy of what a pickle built, as far as it goes."""

    max_bytes: int
    size: int = 0  # bytes of arrays so far
    values: int = 0
    widened: int = 0

    def copy(self, value: object, depth: int = 0) -> object:
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:  # one list in the next, twice each time, makes no large file
            raise ParamsError(f"nests dicts, lists or tuples over {MAX_DEPTH} deep, or more than {MAX_VALUES} values")
        match value:
            case dict():
                _check_keys(value)
                return {key: self.copy(item, depth + 1) for key, item in value.items()}
            case list():
                return [self.copy(item, depth + 1) for item in value]
            case tuple():
                return tuple([self.copy(item, depth + 1) for item in value])
            case memoryview():
                return bytes(self.counted(value))
            case StandIn():
                return self.stood_for(value, depth)
        return value

    def stood_for(self, found: StandIn, depth: int) -> object:
        match found.what, found.value:
            case what, np.ndarray() as array:
                self.widened += what.endswith("bfloat16")
                return native(self.counted(array))
            case "an array of objects", list() | tuple() as values:
                return self.copy(values if isinstance(values, list) else values[0], depth + 1)
            case "a long text", bytes(content):
                self.counted(memoryview(content))
                return content.decode("latin1")
            case "an array", None:
                raise ParamsError("holds an array that is never filled")
        return StandIn(found.what)

    def counted(self, content: Any) -> Any:
        """content, unless that is too much."""
        self.size += content.nbytes
        if self.size > self.max_bytes:
            raise over_limit(f"{self.size} bytes of arrays", self.max_bytes)
        return content


def _check_keys(found: Mapping[object, object]) -> None:
    twice = [key for key in found if isinstance(key, int) and str(key) in found]
    if twice:
        raise ParamsError(f"the key {twice[0]!r:.80} stands twice, as a number and as text")


def native(array: Array, order: Order = "K") -> Array:
    """A copy, in the machine's byte order."""
    return np.array(array, array.dtype.newbyteorder("="), order=order)


def view_of(content: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], order: Order = "C") -> Array:
    """content as an array, not copied. ParamsError where it has another size."""
    if len(shape) > NUMPYS_AXES or math.prod(shape) * dtype.itemsize != len(content):
        raise ParamsError(f"an array of shape {shape!r:.200} and dtype {dtype} has {len(content)} bytes of content")
    try:
        return np.ndarray(shape, dtype, content, order=order)
    except ValueError as error:  # NumPy 1 has 32 axes only; nor does 0 times the most it can count leave an array
        raise ParamsError(f"an array of shape {shape!r:.200} is none of NumPy's ({error})") from None


def widened(array: Array) -> Array:
    """bfloat16 numbers, of which array has the bits as whole numbers of 16, as float32: the upper half of its bits."""
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


# What an array's pickle names, and what stands in for it


def _called(name: str, arguments: Any) -> object:
    match name, arguments:
        case "_reconstruct", (StandIn(what=what), (0 as size,), b"b") if what in _PLAIN and type(size) is int:
            return StandIn("an array", complete=_filled)
        case "_frombuffer", (bytes() | memoryview() as content, dtype, shape, order, *axes):  # in protocol 5
            if (order, len(axes)) not in (("C", 0), ("F", 0), ("K", 1)):
                raise ParamsError(f"an array has the memory order {_shown(order)}, expected C or F")
            (array := StandIn("an array")).fill(_filled((1, shape, dtype, order == "F", content)))
            if axes and array.value is not None:
                array.value = _transposed(array.value, axes[0])
            return array
        case "dtype", (str(code), 0, 1):  # False and True, except in protocols 0 and 1
            if not re.fullmatch(r"f[248]", code):
                raise ParamsError(f"an array has dtype {code!r:.40}, expected float16, float32 or float64")
            return StandIn("a dtype", complete=partial(_ordered, code))
        case "encode", (str(text), "latin1"):  # bytes in protocols 0 to 2
            return text.encode("latin1")
        case "encode", (StandIn(what="a long text", value=bytes(content)), "latin1"):
            return content
        case "bytes", ():
            return b""
        case ("OrderedDict", ()) | ("defaultdict", () | (StandIn(),)):
            return {}
    return None


def _called_leniently(name: str, arguments: Any) -> object:
    """The same for what is not a float array alone."""
    match name, arguments:
        case "dtype", (str(code), 0, 1) if re.fullmatch(r"[fiu][248]|[iub]1", code):
            return StandIn("a dtype", complete=partial(_ordered, code))
        case "dtype", (StandIn(what=what), 0, 1):  # a class, as of bfloat16
            return StandIn("a dtype", complete=partial(_named, what.rpartition(".")[2]))
        case "dtype", (str(code), 0, 1):
            return StandIn("a dtype", complete=partial(_named, code))
        case "scalar", (StandIn(what="a dtype", value=np.dtype() as dtype), bytes(content)):
            return view_of(content, (), dtype).item()
        case "array", (StandIn() as array, *_):  # CuPy's
            return array
        case "_reconstructor", (StandIn() as kind, *_):  # of protocols 0 and 1
            return kind.made()
        case "_create_array" | "_reconstruct_array", (StandIn(what=what) as make, (_, _, _) as given, state, *_) if (
            what.endswith("._reconstruct")
        ):
            array = make.value(given)
            if isinstance(array, StandIn) and (value := array.complete(state)) is not None:
                array.fill(value)
            return array
    return None


def _ordered(code: str, state: Any) -> object:
    match state:
        case (3, "<" | ">" as order, None, None, None, -1, -1, 0) if code[1:] != "1":
            return np.dtype(order + code)
        case (3, "|", None, None, None, -1, -1, 0) if code[1:] == "1":
            return np.dtype(code)
    return None


def _named(code: str, state: Any) -> object:
    match state:
        case (_, ">", *_):
            return f"big-endian {code}"
        case tuple():
            return code
    return None


def _filled(state: Any) -> object:
    match state:
        case (int(version), tuple(shape), StandIn(what="a dtype", value=dtype), bool(fortran), content):
            if type(version) is not int or version != 1:
                raise ParamsError(f"an array's state has version {version!r:.40}, expected 1")
            if any(type(size) is not int or size < 0 for size in shape):
                raise ParamsError(f"an array has the shape {_shown(shape)}")
            if dtype == "O8" and isinstance(content, list):
                return _objects(shape, content)
            if not isinstance(content, bytes | memoryview):
                raise ParamsError(f"an array's content is {describe(content)}, expected bytes")
            if dtype is None:
                raise ParamsError("an array's dtype is never completed")
            order: Order = "F" if fortran else "C"
            if dtype == "bfloat16":
                return StandIn("an array of bfloat16", widened(view_of(content, shape, np.dtype("<u2"), order)))
            if isinstance(dtype, str):
                return StandIn(f"an array of dtype {dtype!r:.40}")
            return view_of(content, shape, dtype, order)
    return None


def _objects(shape: tuple[int, ...], content: list[object]) -> StandIn:
    """An array of objects as the list that it is, or the only one of no axes; others are none of plain values."""
    if shape in ((), (len(content),)) and (shape or len(content) == 1):
        return StandIn("an array of objects", content if shape else tuple(content))
    return StandIn(f"an array of objects of {len(shape)} axes")


def _transposed(array: Array, axes: Any) -> Array:
    if not isinstance(axes, tuple) or any(type(axis) is not int for axis in axes):
        raise ParamsError(f"an array has its axes in the order {_shown(axes)}")
    return array.transpose(axes)


def _shown(value: object) -> str:
    """value in a line: only numbers, text and what has a name, as the repr of nested lists may never end."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value[:NUMPYS_AXES]))}{',' * (len(value) == 1)})"[:200]
    return f"{value!r:.40}" if isinstance(value, int | str | StandIn) else describe(value)


_PLAIN = ("the name numpy.ndarray", "the name numpy.memmap", "the name numpy.matrix")  # arrays all

# Of NumPy 1 and 2; and what a defaultdict makes.
ARRAYS = vocabulary(
    _called,
    """numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct numpy.core.numeric._frombuffer
    numpy._core.numeric._frombuffer numpy.ndarray numpy.dtype _codecs.encode __builtin__.bytes collections.OrderedDict
    collections.defaultdict builtins.dict builtins.float builtins.int builtins.list __builtin__.dict __builtin__.float
    __builtin__.int __builtin__.list""",
)
VALUES = ARRAYS | vocabulary(
    _called_leniently,
    """numpy.dtype numpy.core.multiarray.scalar numpy._core.multiarray.scalar cupy.core.core.array cupy._core.core.array
    copy_reg._reconstructor dill._dill._create_array jax._src.array._reconstruct_array""",
)
