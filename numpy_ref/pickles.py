"""Reading a pickled dict of float arrays by interpreting its opcodes: nothing in the pickle is ever run."""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from numpy_ref.checks import Array


class ParamsError(ValueError):
    """A file that is not a pickled dict of float arrays, or arrays that such a file cannot hold."""


MAX_AXES = 32  # of an array: NumPy 1's own limit, and longer than any other tuple that an array is pickled with
MAX_OPCODES = 100_000  # an array takes under 100, and a byte of file could cost 70 of memory without a limit
MAX_SHARING = 4  # arrays to file, in bytes: tied weights stand in the file once and come back under each name

_RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_FROMBUFFER = {("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}
_NDARRAY = ("numpy", "ndarray")
_DTYPE = ("numpy", "dtype")
_ENCODE = ("_codecs", "encode")
_BYTES = ("__builtin__", "bytes")
_KNOWN_NAMES = _RECONSTRUCT | _FROMBUFFER | {_NDARRAY, _DTYPE, _ENCODE, _BYTES}


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names; never looked up."""

    module: str
    attribute: str

    @property
    def key(self) -> tuple[str, str]:
        return self.module, self.attribute


@dataclass
class _DType:
    """numpy.dtype("f8"), whose byte order comes with BUILD."""

    code: str
    order: str | None = None


@dataclass
class _Shell:
    """What _reconstruct makes: an array with no content before BUILD."""

    value: Array | None = None


class _Mark:
    """The MARK opcode's place on the stack."""


def interpret(data: bytes) -> object:
    """What the pickle in data builds, with arrays as ndarray. ParamsError for all that a dict of arrays needs not."""
    try:
        return _run(data)
    except ParamsError as error:
        cause = str(error)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeError, RecursionError) as error:
        # pickletools says which bytes are missing; some errors have no words at all.
        why = " ".join(str(error).split()) or type(error).__name__
        cause = f"damaged or truncated, or not a pickle ({why:.200})"
    if 0 < data.count(b"\n") == data.count(b"\r\n"):
        cause += "; each line feed follows a carriage return, as in a file that was copied as text: copy it as binary"
    raise ParamsError(cause)


def _run(data: bytes) -> object:
    machine = _Machine(data)
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if count == MAX_OPCODES:
            raise ParamsError(f"takes over {MAX_OPCODES} steps, more than a dict of arrays needs")
        machine.step(opcode.name, argument, position or 0)
    return machine.result()


class _Machine:
    """The pickle machine, reduced to what an honest dict of arrays needs: a stack, a memo and no calls."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.frame_end: int | None = None
        self.array_bytes = 0
        self.encoded_bytes = 0
        self.end = 0

    def step(self, op: str, argument: Any, position: int) -> None:
        """Run one opcode."""
        self._check_frame(op, argument, position)
        if op in _PUSHES:
            self.stack.append(argument)
        elif op in _CONSTANTS:
            self.stack.append(_CONSTANTS[op])
        elif op in _MEMO_PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self._top()
        elif op in _MEMO_GETS:
            self.stack.append(self.memo[argument])
        elif op in _TUPLES:
            self._push_tuple(self._pop_many(_TUPLES[op]))
        elif op == "PROTO":
            self._proto(argument, position)
        elif op == "STOP":
            self.end = position + 1
        elif op != "FRAME":
            handler = _HANDLERS.get(op)
            if handler is None:
                _refuse_opcode(op)
            handler(self, argument)

    def result(self) -> object:
        """What is left on the stack. ParamsError for a second value, or for bytes behind the end."""
        if self.end != len(self.data):
            raise ParamsError(f"{len(self.data) - self.end} bytes follow the end of the pickle: expected a single one")
        if len(self.stack) != 1:
            raise ParamsError(f"damaged: {len(self.stack)} values at the end, expected 1")
        return _finished(self.stack[0], MAX_SHARING * len(self.data))

    def _check_frame(self, op: str, argument: Any, position: int) -> None:
        if self.frame_end is not None and position >= self.frame_end:
            if position > self.frame_end:
                raise ParamsError(f"damaged: an opcode straddles the end of its frame at byte {self.frame_end}")
            self.frame_end = None
        if op == "FRAME":
            end = position + 9 + argument
            if self.frame_end is not None or end > len(self.data):
                raise ParamsError(f"damaged: a frame at byte {position} reaches to byte {end} of {len(self.data)}")
            self.frame_end = end

    def _proto(self, version: int, position: int) -> None:
        if position != 0 or version > 5:
            raise ParamsError(f"damaged: protocol {version} at byte {position}, expected 0 to 5 at byte 0")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _Mark:
            raise ParamsError("damaged: the stack is empty")
        return self.stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self.stack.pop()
        return value

    def _pop_many(self, count: int | None) -> list[Any]:
        """The top count values, or those above the last MARK for None, in order."""
        if count is not None:
            return [self._pop() for _ in range(count)][::-1]
        values = []
        while self.stack and self.stack[-1] is not _Mark:
            values.append(self.stack.pop())
        if not self.stack:
            raise ParamsError("damaged: no mark on the stack")
        self.stack.pop()
        return values[::-1]

    def _push_tuple(self, values: list[Any]) -> None:
        # Before the scan, which memoised long tuples would make quadratic.
        if len(values) > MAX_AXES:
            raise ParamsError(f"holds a tuple of {len(values)} values: an array has {MAX_AXES} axes at most")
        # An array's state holds its shape: two levels are all that is ever needed.
        if any(isinstance(value, tuple) and any(isinstance(inner, tuple) for inner in value) for value in values):
            raise ParamsError("nests tuples deeper than an array's state does")
        self.stack.append(tuple(values))

    def push_name(self, argument: str | None) -> None:
        """GLOBAL carries "module attribute"; STACK_GLOBAL takes both from the stack."""
        module, attribute = argument.split(" ", 1) if argument is not None else self._pop_many(2)
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ParamsError("damaged: a name that is not text")
        name = _Name(module, attribute)
        if name.key not in _KNOWN_NAMES:
            _refuse_name(name)
        self.stack.append(name)

    def reduce(self, _: None) -> None:
        """Stand in for the calls that NumPy's arrays are pickled with."""
        name, arguments = self._pop_many(2)
        key = name.key if isinstance(name, _Name) else None
        if key in _RECONSTRUCT and _matches(arguments, _Name(*_NDARRAY), (0,), b"b"):
            self.stack.append(_Shell())
        elif key == _DTYPE and _is_dtype_call(arguments):
            self.stack.append(_DType(arguments[0]))
        elif key == _ENCODE and _types(arguments) == (str, str) and arguments[1] == "latin1":
            self.stack.append(self._encoded(arguments[0]))
        elif key == _BYTES and arguments == ():
            self.stack.append(b"")
        elif key in _FROMBUFFER and _types(arguments) in ((bytes, _DType, tuple, str), (bytearray, _DType, tuple, str)):
            buffer, dtype, shape, order = arguments
            if order not in ("C", "F"):
                raise ParamsError(f"an array has the memory order {order!r:.40}, expected C or F")
            self.stack.append(_Shell(self._array(shape, dtype, order == "F", bytes(buffer))))
        else:
            raise ParamsError(f"calls {describe(name)} in a way that no plain float array needs")

    def build(self, _: None) -> None:
        """Fill in a dtype's byte order or an array's content, once."""
        target, state = self._pop_many(2)
        if isinstance(target, _DType) and target.order is None and _is_dtype_state(state):
            target.order = state[1]
        elif isinstance(target, _Shell) and target.value is None and _types(state) == (int, tuple, _DType, bool, bytes):
            version, shape, dtype, fortran, content = state
            if version != 1:
                raise ParamsError(f"an array's state has version {version!r:.40}, expected 1")
            target.value = self._array(shape, dtype, fortran, content)
        else:
            raise ParamsError(f"gives {describe(target)} a state that no plain float array has")
        self.stack.append(target)

    def set_items(self, items: list[Any]) -> None:
        """Add key, value, key, value ... to the dict below them."""
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ParamsError("damaged: items for something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ParamsError(f"a key is {describe(key)}, expected a name")
            if key in target:
                raise ParamsError(f"the key {key!r:.80} stands twice")
            target[key] = value

    def _encoded(self, text: str) -> bytes:
        # Each call makes a fresh copy, and one memoised text serves any number of calls.
        self.encoded_bytes += len(text)
        if self.encoded_bytes > len(self.data):
            raise ParamsError("encodes the same text again and again, and would outgrow the file")
        return text.encode("latin1")

    def _array(self, shape: tuple[Any, ...], dtype: _DType, fortran: bool, content: bytes) -> Array:
        if dtype.order is None:
            raise ParamsError("an array's dtype is never completed")
        if any(type(size) is not int or size < 0 for size in shape):
            raise ParamsError(f"an array has the shape {shape!r:.200}")
        kind = np.dtype(dtype.order + dtype.code)
        if math.prod(shape) * kind.itemsize != len(content):
            raise ParamsError(f"an array of shape {shape!r:.200} and dtype {kind} has {len(content)} bytes of content")
        self.array_bytes += len(content)
        if self.array_bytes > len(self.data):
            raise ParamsError("arrays share their content, and would outgrow the file")
        values = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")
        return np.array(values, dtype=kind.newbyteorder("="), order="C")


def _finished(value: object, max_bytes: int) -> object:
    """A dict with the arrays in place of their shells, each name with an array of its own."""
    if not isinstance(value, dict):
        return value
    finished, taken = dict(value), set()
    for name, shell in value.items():
        if isinstance(shell, _Shell):
            if shell.value is None:
                raise ParamsError(f"{name!r:.80} is an array that is never filled")
            max_bytes -= shell.value.nbytes
            if max_bytes < 0:
                raise ParamsError("arrays stand under many names each, and would outgrow the file")
            finished[name] = shell.value.copy() if id(shell) in taken else shell.value
            taken.add(id(shell))
    return finished


def _types(values: object) -> tuple[type, ...]:
    return tuple(type(value) for value in values) if isinstance(values, tuple) else ()


def _matches(values: object, *expected: object) -> bool:
    # Types too: True == 1 and 0.0 == 0.
    return isinstance(values, tuple) and _types(values) == _types(expected) and values == expected


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


def _refuse_opcode(op: str) -> NoReturn:
    if op in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
        raise ParamsError("written by Python 2: load it there and save it again with Python 3")
    if op in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"):
        raise ParamsError("holds an object, expected a dict of arrays: save net.params, not the network")
    raise ParamsError(f"uses the pickle opcode {op}, which no dict of plain float arrays needs")


def _refuse_name(name: _Name) -> NoReturn:
    if name.module.split(".")[0] == "cupy":
        raise ParamsError("holds CuPy arrays: save it again with cupy.asnumpy on each array")
    if name.module.split(".")[0] == "joblib":
        raise ParamsError("written by joblib: save it again with pickle")
    full = f"{name.module}.{name.attribute}"
    raise ParamsError(f"names {full!r:.120}: only plain NumPy arrays are read, and nothing is ever run")


_PUSHES = {
    *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, object] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": _Mark,
}
_MEMO_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MEMO_GETS = {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _dict_of_items(machine: _Machine, _: None) -> None:
    items = machine._pop_many(None)
    machine.stack.append({})
    machine.set_items(items)


_HANDLERS: dict[str, Any] = {
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "DICT": _dict_of_items,
    "SETITEM": lambda machine, _: machine.set_items(machine._pop_many(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine._pop_many(None)),
}


def describe(value: object) -> str:
    if isinstance(value, _Name):
        return f"the name {value.module}.{value.attribute}"
    if isinstance(value, np.ndarray | _Shell):
        return "an array"
    if isinstance(value, _DType):
        return "a dtype"
    return f"a {type(value).__name__}"
