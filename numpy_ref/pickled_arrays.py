"""How NumPy pickles an array of floats, in all of its forms: stand-ins for the calls, never the calls.

Sources: numpy/_core/src/multiarray/methods.c (array_reduce_ex) and descriptor.c (arraydescr_reduce).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.opcodes import Content
from numpy_ref.refusals import ParamsError, refused_name

MAX_AXES = 32  # of an array: NumPy 1's own limit
OVERHEAD = 256  # bytes of an array besides its content

Spend = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the pickle names; never looked up."""

    module: str
    attribute: str


@dataclass(slots=True)
class DType:
    """numpy.dtype("f8"), whose byte order comes with BUILD."""

    code: str
    order: str | None = None


@dataclass(slots=True)
class Shell:
    """What _reconstruct makes: an array with no content before BUILD."""

    value: Array | None = None


_RECONSTRUCT = Name("numpy.core.multiarray", "_reconstruct"), Name("numpy._core.multiarray", "_reconstruct")
_FROMBUFFER = Name("numpy.core.numeric", "_frombuffer"), Name("numpy._core.numeric", "_frombuffer")
_NDARRAY = Name("numpy", "ndarray")
_DTYPE = Name("numpy", "dtype")
_ENCODE = Name("_codecs", "encode")
_BYTES = Name("__builtin__", "bytes")
_KNOWN = {
    (name.module, name.attribute): name for name in (*_RECONSTRUCT, *_FROMBUFFER, _NDARRAY, _DTYPE, _ENCODE, _BYTES)
}


def known_name(module: object, attribute: object, inside: bool) -> Name:
    """The global, if arrays are pickled with it; inside says whether the dict has begun. ParamsError."""
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise ParamsError(f"names a global by {describe(module)} and {describe(attribute)}, expected two names")
    if (module, attribute) not in _KNOWN:
        raise refused_name(module, attribute, inside)
    return _KNOWN[module, attribute]


def call(name: object, arguments: Any, spend: Spend) -> object:
    """What a call gives, as a stand-in, if arrays are pickled with it. spend is told of memory first. ParamsError."""
    if name in _RECONSTRUCT and _matches(arguments, _NDARRAY, (0,), b"b"):
        return Shell()
    if name == _DTYPE and _is_dtype_call(arguments):
        return DType(arguments[0])
    if name == _ENCODE and _is_encode_call(arguments):
        return _encoded(arguments[0])
    if name == _BYTES and arguments == ():
        return b""
    if name in _FROMBUFFER and _types(arguments)[1:] == (DType, tuple, str) and _is_content(arguments[0]):
        content, dtype, shape, order = arguments
        if order not in ("C", "F"):
            raise ParamsError(f"an array has the memory order {order!r:.40}, expected C or F")
        return Shell(_array(shape, dtype, order == "F", content, spend))
    raise ParamsError(f"calls {describe(name)} in a way that no plain float array needs")


def build(target: object, state: Any, spend: Spend) -> None:
    """Fill in a dtype's byte order or an array's content, once. spend is told of memory first. ParamsError."""
    if isinstance(target, DType) and target.order is None and _is_dtype_state(state):
        target.order = state[1]
    elif isinstance(target, Shell) and target.value is None and _types(state)[:-1] == (int, tuple, DType, bool):
        version, shape, dtype, fortran, content = state
        if version != 1:
            raise ParamsError(f"an array's state has version {version!r:.40}, expected 1")
        if not _is_content(content):
            raise ParamsError(f"an array's content is {describe(content)}, expected bytes")
        target.value = _array(shape, dtype, bool(fortran), content, spend)
    else:
        raise ParamsError(f"gives {describe(target)} a state that no plain float array has")


def describe(value: object) -> str:
    """value in a few words, for messages."""
    if isinstance(value, Name):
        return f"the name {value.module}.{value.attribute}"
    if isinstance(value, np.ndarray | Shell):
        return "an array"
    if isinstance(value, DType):
        return "a dtype"
    if isinstance(value, Content):
        return "a long text" if value.is_text else "a long run of bytes"
    return f"a {type(value).__name__}"


def _encoded(text: str | Content) -> bytes | Content:
    return text.encode("latin1") if isinstance(text, str) else dataclasses.replace(text, is_text=False)


def _array(shape: tuple[Any, ...], dtype: DType, fortran: bool, content: bytes | Content, spend: Spend) -> Array:
    if dtype.order is None:
        raise ParamsError("an array's dtype is never completed")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ParamsError(f"an array has the shape {shape!r:.200}")
    kind = np.dtype(dtype.order + dtype.code)
    size = math.prod(shape) * kind.itemsize
    try:
        buffer = _buffer(content, size, spend)
    except _WrongSizeError as error:
        raise ParamsError(f"an array of shape {shape!r:.200} and dtype {kind} has {error} bytes of content") from None
    return filled(shape, kind, buffer, fortran)


def filled(shape: tuple[int, ...], kind: np.dtype[Any], buffer: bytes | memoryview | Array, fortran: bool) -> Array:
    """A writable array of buffer's content, of as many bytes, in its order and in native byte order."""
    values = np.ndarray(shape, kind, buffer, order="F" if fortran else "C")
    values = np.asarray(values, kind.newbyteorder("="), order="K")
    return values if values.flags.writeable else values.copy(order="K")


class _WrongSizeError(Exception):
    """Says how many bytes there are."""


def _buffer(content: bytes | Content, size: int, spend: Spend) -> bytes | memoryview | Array:
    """size bytes. Text is decoded piece by piece: the whole of it would stand in memory beside the array."""
    if isinstance(content, bytes) or content.encoding is None:
        whole = content if isinstance(content, bytes) else content.view
        if len(whole) != size:
            raise _WrongSizeError(len(whole))
        spend(size + OVERHEAD)
        return whole
    if size > len(content.view):
        raise _WrongSizeError(f"at most {len(content.view)}")
    spend(size + OVERHEAD)
    buffer, filled = np.empty(size, np.uint8), 0
    for piece in content.encoded():
        buffer[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)[: max(size - filled, 0)]
        filled += len(piece)
    if filled != size:
        raise _WrongSizeError(filled)
    return buffer


def _types(values: object) -> tuple[type, ...]:
    return tuple(type(value) for value in values) if isinstance(values, tuple) else ()


def _matches(values: object, *expected: object) -> bool:
    # Types too: True == 1 and 0.0 == 0.
    return isinstance(values, tuple) and _types(values) == _types(expected) and values == expected


def _is_encode_call(arguments: Any) -> bool:
    """(text, "latin1")."""
    text, encoding = arguments if _types(arguments)[1:] == (str,) else (None, None)
    return encoding == "latin1" and (isinstance(text, str) or (isinstance(text, Content) and text.is_text))


def _is_dtype_call(arguments: object) -> bool:
    """(code, False, True), or with 0 and 1 as protocols 0 and 1 write them."""
    if not isinstance(arguments, tuple) or _types(arguments) not in ((str, bool, bool), (str, int, int)):
        return False
    code, align, copy = arguments
    if not re.fullmatch(r"f[248]", code):
        raise ParamsError(f"an array has dtype {code!r:.40}, expected float16, float32 or float64")
    return not align and bool(copy)


def _is_dtype_state(state: object) -> bool:
    """(3, byte order, then what structured dtypes would say: nothing)."""
    return any(_matches(state, 3, order, None, None, None, -1, -1, 0) for order in "<>")


def _is_content(value: object) -> bool:
    return isinstance(value, bytes) or (isinstance(value, Content) and not value.is_text)
