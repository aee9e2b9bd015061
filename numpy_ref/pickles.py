"""Extracts arrays, and the dicts and lists that hold them, from pickles that numpy_ref.opcodes interprets.

NumPy pickles arrays in array_reduce_ex (numpy/_core/src/multiarray/methods.c), dtypes in arraydescr_reduce
(descriptor.c).
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

NUMPYS_AXES = 64  # NumPy 2's limit on the axes of an array
MAX_DEPTH = 64  # of nested dicts, lists and tuples, which are read recursively
MAX_VALUES = 2**19
MAX_SHARED = 2**26  # bytes of arrays beyond twice the file's size: a file may name one array many times

Order = Literal["C", "F", "K"]


def read_arrays(data: bytes) -> object:
    """Return what the pickle in data builds; if that is a dict, with its arrays in C order. ParamsError."""
    value = interpret(data, ARRAYS)
    budget = limit = 2 * len(data) + MAX_SHARED
    for name, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, StandIn) and item.what == "an array":
            if item.value is None:
                raise ParamsError(f"{name!r:.80} is an array that is never filled")
            budget -= item.value.nbytes
            if budget < 0:
                raise ParamsError(f"holds arrays of more than {limit} bytes, as some stand under many names")
            value[name] = native(item.value, "C")
    return value


def read_values(data: bytes, max_bytes: int | None = None, notes: list[str] | None = None) -> object:
    """Return what the pickle in data builds as a tree (see plain); max_bytes defaults to 2 len(data) + MAX_SHARED."""
    limit = 2 * len(data) + MAX_SHARED if max_bytes is None else max_bytes
    return plain(interpret(data, VALUES, lenient=True), limit, notes)


def plain(value: object, max_bytes: int, notes: list[str] | None = None) -> object:
    """Copy a result of interpret into a tree of dicts, lists, tuples, arrays, numbers and text; StandIns for the rest.

    Nothing in the tree is shared: each array is a copy, in its own memory order. notes gets a line on each conversion.
    ParamsError for more than max_bytes of arrays, too many or too deeply nested values, and both 1 and "1" as keys.
    """
    copier = _TreeCopier(max_bytes)
    tree = copier.copy(value)
    if copier.widened and notes is not None:
        notes.append(f"arrays widened from bfloat16 to float32, which is exact: {copier.widened}")
    return tree


@dataclass
class _TreeCopier:
    """Copies what a pickle built, within limits."""

    max_bytes: int
    size: int = 0  # bytes of arrays so far
    values: int = 0
    widened: int = 0  # number of bfloat16 arrays

    def copy(self, value: object, depth: int = 0) -> object:
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:  # a small file can nest a list twice in the next, and so on
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
                return bytes(self.count_bytes(value))
            case StandIn():
                return self.copy_stand_in(value, depth)
        return value

    def copy_stand_in(self, stand_in: StandIn, depth: int) -> object:
        match stand_in.what, stand_in.value:
            case what, np.ndarray() as array:
                self.widened += what.endswith("bfloat16")
                return native(self.count_bytes(array))
            case "an array of objects", list() | tuple() as values:
                return self.copy(values if isinstance(values, list) else values[0], depth + 1)
            case "a long text", bytes(content):
                self.count_bytes(memoryview(content))
                return content.decode("latin1")
            case "an array", None:
                raise ParamsError("holds an array that is never filled")
        return StandIn(stand_in.what)

    def count_bytes(self, content: Any) -> Any:
        """Add content's bytes to the total and return it. ParamsError over the limit."""
        self.size += content.nbytes
        if self.size > self.max_bytes:
            raise over_limit(f"{self.size} bytes of arrays", self.max_bytes)
        return content


def _check_keys(mapping: Mapping[object, object]) -> None:
    duplicates = [key for key in mapping if isinstance(key, int) and str(key) in mapping]
    if duplicates:
        raise ParamsError(f"the key {duplicates[0]!r:.80} occurs twice, as a number and as text")


def native(array: Array, order: Order = "K") -> Array:
    """Return a copy in the machine's byte order."""
    return np.array(array, array.dtype.newbyteorder("="), order=order)


def view_of(content: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], order: Order = "C") -> Array:
    """Return an array that shares content's memory. ParamsError if the sizes disagree."""
    if len(shape) > NUMPYS_AXES or math.prod(shape) * dtype.itemsize != len(content):
        raise ParamsError(f"an array of shape {shape!r:.200} and dtype {dtype} has {len(content)} bytes of content")
    try:
        return np.ndarray(shape, dtype, content, order=order)
    except ValueError as error:  # over 32 axes in NumPy 1, or an axis too long for NumPy beside one of length 0
        raise ParamsError(f"an array of shape {shape!r:.200} is none of NumPy's ({error})") from None


def widened(array: Array) -> Array:
    """Return bfloat16 values, given by their bits as uint16, as float32: they are its upper 16 bits."""
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


# Interpreting the calls in NumPy's pickles


def _call(name: str, arguments: Any) -> object:
    """Return what the callable of that name would build for plain float arrays, None for unknown arguments."""
    match name, arguments:
        case "_reconstruct", (StandIn(what=what), (0 as size,), b"b") if what in _ARRAY_CLASSES and type(size) is int:
            return StandIn("an array", complete=_array_from_state)
        case "_frombuffer", (bytes() | memoryview() as content, dtype, shape, order, *axes):  # in protocol 5
            if (order, len(axes)) not in (("C", 0), ("F", 0), ("K", 1)):
                raise ParamsError(f"an array has the memory order {_short_repr(order)}, expected C or F")
            (array := StandIn("an array")).fill(_array_from_state((1, shape, dtype, order == "F", content)))
            if axes and array.value is not None:
                array.value = _transposed(array.value, axes[0])
            return array
        case "dtype", (str(code), 0, 1):  # 0 and 1 match False and True too, which protocols from 2 on write
            if not re.fullmatch(r"f[248]", code):
                raise ParamsError(f"an array has dtype {code!r:.40}, expected float16, float32 or float64")
            return StandIn("a dtype", complete=partial(_dtype_from_state, code))
        case "encode", (str(text), "latin1"):  # bytes in protocols 0 to 2
            return text.encode("latin1")
        case "encode", (StandIn(what="a long text", value=bytes(content)), "latin1"):
            return content
        case "bytes", ():
            return b""
        case ("OrderedDict", ()) | ("defaultdict", () | (StandIn(),)):
            return {}
    return None


def _call_leniently(name: str, arguments: Any) -> object:
    """Like _call, for further dtypes, scalars, CuPy's and JAX' arrays, and objects."""
    match name, arguments:
        case "dtype", (str(code), 0, 1) if re.fullmatch(r"[fiu][248]|[iub]1", code):
            return StandIn("a dtype", complete=partial(_dtype_from_state, code))
        case "dtype", (StandIn(what=what), 0, 1):  # a class, such as bfloat16
            return StandIn("a dtype", complete=partial(_dtype_name_from_state, what.rpartition(".")[2]))
        case "dtype", (str(code), 0, 1):
            return StandIn("a dtype", complete=partial(_dtype_name_from_state, code))
        case "scalar", (StandIn(what="a dtype", value=np.dtype() as dtype), bytes(content)):
            return view_of(content, (), dtype).item()
        case "array", (StandIn() as array, *_):  # CuPy's
            return array
        case "_reconstructor", (StandIn() as kind, *_):  # in protocols 0 and 1
            return kind.instance()
        case "_create_array" | "_reconstruct_array", (StandIn(what=what) as make, (_, _, _) as inner, state, *_) if (
            what.endswith("._reconstruct")
        ):
            array = make.value(inner)
            if isinstance(array, StandIn) and (value := array.complete(state)) is not None:
                array.fill(value)
            return array
    return None


def _dtype_from_state(code: str, state: Any) -> object:
    match state:
        case (3, "<" | ">" as order, None, None, None, -1, -1, 0) if code[1:] != "1":
            return np.dtype(order + code)
        case (3, "|", None, None, None, -1, -1, 0) if code[1:] == "1":
            return np.dtype(code)
    return None


def _dtype_name_from_state(code: str, state: Any) -> object:
    match state:
        case (_, ">", *_):
            return f"big-endian {code}"
        case tuple():
            return code
    return None


def _array_from_state(state: Any) -> object:
    """Return the array, or a StandIn for one of other values, that __setstate__ would fill in. ParamsError."""
    match state:
        case (int(version), tuple(shape), StandIn(what="a dtype", value=dtype), bool(fortran), content):
            if type(version) is not int or version != 1:
                raise ParamsError(f"an array's state has version {version!r:.40}, expected 1")
            if any(type(size) is not int or size < 0 for size in shape):
                raise ParamsError(f"an array has the shape {_short_repr(shape)}")
            if dtype == "O8" and isinstance(content, list):
                return _object_array(shape, content)
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


def _object_array(shape: tuple[int, ...], content: list[object]) -> StandIn:
    """Stand in for an array of objects: the values as a list for one axis, as a tuple of one for none."""
    if shape in ((), (len(content),)) and (shape or len(content) == 1):
        return StandIn("an array of objects", content if shape else tuple(content))
    return StandIn(f"an array of objects of {len(shape)} axes")


def _transposed(array: Array, axes: Any) -> Array:
    if not isinstance(axes, tuple) or any(type(axis) is not int for axis in axes):
        raise ParamsError(f"an array has its axes in the order {_short_repr(axes)}")
    return array.transpose(axes)


def _short_repr(value: object) -> str:
    """Return the repr of numbers, text and tuples, shortened; only the type of lists, whose repr may be huge."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_short_repr, value[:NUMPYS_AXES]))}{',' * (len(value) == 1)})"[:200]
    return f"{value!r:.40}" if isinstance(value, int | str | StandIn) else describe(value)


_ARRAY_CLASSES = ("the name numpy.ndarray", "the name numpy.memmap", "the name numpy.matrix")

# The names in pickles of NumPy 1 and 2, and the factories of a defaultdict.
ARRAYS = vocabulary(
    _call,
    """numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct numpy.core.numeric._frombuffer
    numpy._core.numeric._frombuffer numpy.ndarray numpy.dtype _codecs.encode __builtin__.bytes collections.OrderedDict
    collections.defaultdict builtins.dict builtins.float builtins.int builtins.list __builtin__.dict __builtin__.float
    __builtin__.int __builtin__.list""",
)
VALUES = ARRAYS | vocabulary(
    _call_leniently,
    """numpy.dtype numpy.core.multiarray.scalar numpy._core.multiarray.scalar cupy.core.core.array cupy._core.core.array
    copy_reg._reconstructor dill._dill._create_array jax._src.array._reconstruct_array""",
)
