"""A pickled dict of arrays as data: its opcodes are interpreted, and nothing in it is ever run.

How NumPy pickles arrays: array_reduce_ex in numpy/_core/src/multiarray/methods.c, arraydescr_reduce in descriptor.c.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError

MAX_NAME = 256  # bytes: what is longer can only be an array's content, and stays in the file
MAX_LINE = 1024  # bytes of a line that holds a number or a name
MAX_AXES = 32  # of an array: NumPy 1's own limit
MAX_OPCODES = 2**19  # 15,000 arrays have as many; each leaves 130 bytes in memory at most, besides text and bytes
MAX_SHARED = 2**26  # bytes of arrays besides twice the file's: one array may stand under many names

Order = Literal["C", "F", "K"]


def read_arrays(data: bytes, order: Order = "K") -> object:
    """What the pickle in data builds; in a dict, arrays in C order, or in their own ("K"). ParamsError."""
    value = interpret(data, ARRAYS)
    left = limit = 2 * len(data) + MAX_SHARED
    for name, shell in value.items() if isinstance(value, dict) else ():
        if isinstance(shell, Shell):
            if shell.view is None:
                raise ParamsError(f"{name!r:.80} is an array that is never filled")
            left -= shell.view.nbytes
            if left < 0:
                raise ParamsError(f"holds arrays of more than {limit} bytes, as some stand under many names")
            value[name] = native(shell.view, order)
    return value


def native(array: Array, order: Order = "K") -> Array:
    """A copy, in the machine's byte order."""
    return np.array(array, array.dtype.newbyteorder("="), order=order)


def view_of(content: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], order: Order = "C") -> Array:
    """content as an array, not copied. ParamsError where it has another size."""
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ParamsError(f"an array of shape {shape!r:.200} and dtype {dtype} has {len(content)} bytes of content")
    return np.ndarray(shape, dtype, content, order=order)


# What an array's pickle names, and what stands in for it


@dataclass(frozen=True, slots=True)
class Name:
    """A global; never looked up."""

    module: str
    attribute: str


class Text:
    """Text too long for a name; in the file until it is encoded, which is done once."""

    def __init__(self, view: memoryview, codec: str) -> None:
        self.view, self.codec = view, codec

    @cached_property
    def latin1(self) -> bytes:
        """A byte a character. ParamsError for wider ones: a single one would make all take four bytes each."""
        if self.codec == "utf-8":
            wide = np.frombuffer(self.view, np.uint8).max() > 0xC3
        else:
            wide = re.search(rb"\\(?!u00)", self.view) is not None
        if wide:
            raise damaged("text in place of an array's bytes")
        return str(self.view, self.codec).encode("latin1")


@dataclass(slots=True)
class DType:
    """numpy.dtype("f8"), whose byte order comes with its state."""

    code: str
    order: str = ""

    def build(self, state: Any) -> bool:
        """Take the state, once; whether a plain dtype has such a one."""
        if self.order or not any(_same(state, (3, order, None, None, None, -1, -1, 0)) for order in "<>"):
            return False
        self.order = state[1]
        return True


@dataclass(slots=True)
class Shell:
    """An array, which is nothing before its state, and then a view of the file."""

    view: Array | None = None

    def build(self, state: Any) -> bool:
        """Take the state, once; whether a plain array has such a one."""
        if self.view is not None or _types(state)[:-1] != (int, tuple, DType, bool):
            return False
        version, shape, dtype, fortran, content = state
        if version != 1:
            raise ParamsError(f"an array's state has version {version!r:.40}, expected 1")
        if not isinstance(content, bytes | memoryview):
            raise ParamsError(f"an array's content is {describe(content)}, expected bytes")
        self.view = _view(content, shape, dtype, "F" if fortran else "C")
        return True


def _view(content: bytes | memoryview, shape: tuple[Any, ...], dtype: DType, order: Order) -> Array:
    if not dtype.order:
        raise ParamsError("an array's dtype is never completed")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ParamsError(f"an array has the shape {shape!r:.200}")
    return view_of(content, shape, np.dtype(dtype.order + dtype.code), order)


def _reconstruct(arguments: Any) -> object:
    return Shell() if _same(arguments, (Name("numpy", "ndarray"), (0,), b"b")) else None


def _frombuffer(arguments: Any) -> object:
    if _types(arguments)[1:] != (DType, tuple, str) or not isinstance(arguments[0], bytes | memoryview):
        return None
    content, dtype, shape, order = arguments
    if order not in ("C", "F"):
        raise ParamsError(f"an array has the memory order {order!r:.40}, expected C or F")
    return Shell(_view(content, shape, dtype, order))


def _dtype(arguments: Any) -> object:
    if _types(arguments) not in ((str, bool, bool), (str, int, int)):  # protocols 0 and 1 write 0 and 1
        return None
    code, align, copy = arguments
    if not re.fullmatch(r"f[248]", code):
        raise ParamsError(f"an array has dtype {code!r:.40}, expected float16, float32 or float64")
    return DType(code) if copy and not align else None


def _encode(arguments: Any) -> object:
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1")
        case (Text() as text, "latin1"):
            return text.latin1
    return None


# What a call of each name gives, for the arguments; None where no such call is known.
Vocabulary = Mapping[tuple[str, str], Callable[[Any], object]]
ARRAYS: Vocabulary = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},  # NumPy 1 and 2
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},  # in protocol 5
    ("numpy", "ndarray"): lambda _: None,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,  # bytes in protocols 0 to 2
    ("__builtin__", "bytes"): lambda arguments: b"" if arguments == () else None,
}


def describe(value: object) -> str:
    """value in a few words, for messages."""
    if isinstance(value, Name):
        return f"the name {value.module}.{value.attribute}"
    words = {np.ndarray: "an array", Shell: "an array", DType: "a dtype", Text: "a long text"}
    return words.get(type(value), f"a {type(value).__name__}")


def _types(values: object) -> tuple[type, ...]:
    return tuple(type(value) for value in values) if isinstance(values, tuple) else ()


def _same(values: Any, expected: tuple[Any, ...]) -> bool:
    """Whether values are as expected, types too: True == 1."""
    return _types(values) == _types(expected) and all(
        _same(value, other) if isinstance(other, tuple) else value == other
        for value, other in zip(values, expected, strict=True)
    )


# The machine


def interpret(data: bytes, vocabulary: Vocabulary) -> Any:
    """What the pickle in data builds, of what vocabulary knows. ParamsError for all else.

    Where vocabulary gives an object with a method build, BUILD tells it the state; it says whether it takes that.
    """
    try:
        return _Machine(data, vocabulary).run()
    except ParamsError:
        raise
    except (ValueError, OverflowError) as error:  # text that is none, a shape that NumPy cannot count
        raise damaged(" ".join(str(error).split())) from None


class _Machine:
    """The pickle machine, reduced to what a dict of arrays needs: a stack, a memo and no calls."""

    def __init__(self, data: bytes, vocabulary: Vocabulary) -> None:
        self.data, self.view, self.position = data, memoryview(data), 0
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.marks: list[int] = []  # how long the stack was at each
        self.memo: list[Any] = []
        self.frame_end = math.inf

    def run(self) -> Any:
        """What the pickle builds."""
        for _ in range(MAX_OPCODES):
            if self.position >= self.frame_end:
                self.leave_frame()
            code = bytes(self.take(1))
            if code not in _OPCODES:
                raise damaged(f"{code!r} at byte {self.position - 1} is no opcode")
            opcode = _OPCODES[code]
            if opcode.name == "STOP":
                return self.result()
            if opcode.name not in _STEPS:  # before its argument is read
                raise self.refused(opcode.name)
            _STEPS[opcode.name](self, self.argument(opcode.arg) if opcode.arg else None)
        raise ParamsError(f"has more than {MAX_OPCODES} opcodes: no dict of fewer than 10000 arrays needs so many")

    def take(self, size: int) -> memoryview:
        """The next size bytes, not copied."""
        left = len(self.data) - self.position
        if size > left:
            raise damaged(f"{size} bytes are announced at byte {self.position}, where {left} are left")
        self.position += size
        return self.view[self.position - size : self.position]

    def line(self, longest: int = MAX_LINE) -> memoryview:
        """Up to the next line feed, without it."""
        end = self.data.find(b"\n", self.position, self.position + longest)
        if end < 0:
            raise damaged(f"the line at byte {self.position} does not end")
        return self.take(end + 1 - self.position)[:-1]

    def argument(self, kind: pickletools.ArgumentDescriptor) -> Any:
        """The next argument: a whole number, text, bytes, or two names."""
        if kind.n >= 0:
            return int.from_bytes(self.take(kind.n), "little", signed=kind.name.startswith("int"))
        if kind.name == "stringnl_noescape_pair":
            return [str(self.line(), "utf-8", "backslashreplace") for _ in range(2)]
        if kind.name.startswith("decimal"):
            return _decimal(bytes(self.line()), kind.name == "decimalnl_long")
        if kind.name == "unicodestringnl":
            return _text(self.line(len(self.data)), "raw-unicode-escape")
        content = self.take(int.from_bytes(self.take(_WIDTHS[kind.n]), "little"))
        if kind.name == "long1":
            return _long(content)
        if kind.name.startswith("unicode"):
            return _text(content, "utf-8")
        return content if len(content) > MAX_NAME else bytes(content)

    def pop(self, count: int | None = None) -> list[Any]:
        """The top count values, or those above the last mark, in order."""
        floor = self.marks[-1] if self.marks else 0
        if count is None and not self.marks:
            raise damaged("no mark is on the stack")
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < floor:
            raise damaged("the stack is empty")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self) -> Any:
        """The last value, which stays."""
        (value,) = self.pop(1)
        self.stack.append(value)
        return value

    def push(self, value: object) -> None:
        self.stack.append(value)

    def put(self, index: int | None) -> None:
        """Remember the top value. Picklers count from 0."""
        if index is None or index == len(self.memo):
            self.memo.append(self.top())
        elif 0 <= index < len(self.memo):
            self.memo[index] = self.top()
        else:
            raise damaged(f"memo {index} is written where {len(self.memo)} is next")

    def get(self, index: int) -> None:
        """Push what is remembered."""
        if not 0 <= index < len(self.memo):
            raise damaged(f"memo {index} is read before it is written")
        self.push(self.memo[index])

    def push_tuple(self, values: list[Any]) -> None:
        if len(values) > MAX_AXES:
            raise ParamsError(f"holds a tuple of {len(values)} values: an array has {MAX_AXES} axes at most")
        # An array's state holds its shape: two levels are all that is ever needed.
        if any(tuple in _types(value) for value in values):
            raise ParamsError("nests tuples deeper than an array's state does")
        self.push(tuple(values))

    def push_name(self, names: list[Any]) -> None:
        module, attribute = names
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ParamsError(f"names a global by {describe(module)} and {describe(attribute)}, expected two names")
        if (module, attribute) not in self.vocabulary:
            raise _refused_name(module, attribute, any(isinstance(value, dict) for value in self.stack))
        self.push(Name(module, attribute))

    def reduce(self, _: None) -> None:
        """Call, as far as the vocabulary has such calls."""
        name, arguments = self.pop(2)
        known = self.vocabulary[name.module, name.attribute] if isinstance(name, Name) else lambda _: None
        value = known(arguments)
        if value is None:
            raise ParamsError(f"calls {describe(name)} in a way that no plain float array needs")
        self.push(value)

    def build(self, _: None) -> None:
        """Give the value below the top one its state, which is the top one."""
        (state,) = self.pop(1)
        target = self.top()
        if not hasattr(target, "build") or not target.build(state):
            raise ParamsError(f"gives {describe(target)} a state that no plain float array has")

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.add_items(items)

    def add_items(self, items: list[Any]) -> None:
        """Add key, value, key, value ... to the dict below them."""
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise damaged("items for something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ParamsError(f"a key is {describe(key)}, expected a name")
            if key in target:
                raise ParamsError(f"the key {key!r:.80} stands twice")
            target[key] = value

    def check_protocol(self, version: int) -> None:
        if self.position != 2 or version > 5:
            raise damaged(f"protocol {version} at byte {self.position - 2}, expected 0 to 5 at byte 0")

    def enter_frame(self, size: int) -> None:
        end = self.position + size
        if self.frame_end < math.inf or end > len(self.data):
            raise damaged(f"a frame at byte {self.position - 9} reaches to byte {end} of {len(self.data)}")
        self.frame_end = end

    def leave_frame(self) -> None:
        if self.position > self.frame_end:
            raise damaged(f"an opcode straddles the end of its frame at byte {self.frame_end}")
        self.frame_end = math.inf

    def result(self) -> Any:
        """The one value left."""
        if left := len(self.data) - self.position:
            raise ParamsError(f"{left} bytes follow the end of the pickle: expected a single one")
        value = self.top()
        if len(self.stack) + len(self.marks) != 1:
            raise damaged(f"{len(self.stack) + len(self.marks)} values at the end, expected 1")
        return value

    def refused(self, name: str) -> ParamsError:
        """The error for an opcode that no dict of arrays needs; of an item's value, it names the key."""
        if name in _MESSAGES:
            return ParamsError(_MESSAGES[name])
        if name not in _KINDS:
            return ParamsError(f"uses the pickle opcode {name}, which no dict of plain float arrays needs")
        inside = any(isinstance(value, dict) for value in self.stack)
        key = next((value for value in self.stack[:-4:-1] if isinstance(value, str) and inside), None)
        if key is None:
            return ParamsError(f"holds {_KINDS[name]}, expected a dict of arrays")
        return ParamsError(f"{key!r:.80} is {_KINDS[name]}, expected an array")


_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_WIDTHS = {  # bytes of the size before an argument
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.check_protocol,
    "FRAME": _Machine.enter_frame,
    **dict.fromkeys(("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2"), _Machine.push),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_TUPLE": lambda machine, _: machine.push_tuple([]),
    "TUPLE1": lambda machine, _: machine.push_tuple(machine.pop(1)),
    "TUPLE2": lambda machine, _: machine.push_tuple(machine.pop(2)),
    "TUPLE3": lambda machine, _: machine.push_tuple(machine.pop(3)),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.pop()),
    "EMPTY_DICT": lambda machine, _: machine.push_dict([]),
    "DICT": lambda machine, _: machine.push_dict(machine.pop()),
    "SETITEM": lambda machine, _: machine.add_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.add_items(machine.pop()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": lambda machine, _: machine.push_name(machine.pop(2)),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _decimal(line: bytes, is_long: bool) -> int | bool:
    if line in (b"00", b"01") and not is_long:  # False and True
        return line == b"01"
    digits = line.removesuffix(b"L") if is_long else line
    if not re.fullmatch(rb"0|-?[1-9][0-9]{0,18}", digits):  # of 64 bits, as sizes are
        raise damaged(f"{line!r:.40} is no whole number")
    return int(digits)


def _long(content: memoryview) -> int:
    if len(content) > 8:
        raise damaged(f"a whole number of {len(content)} bytes")
    return int.from_bytes(content, "little", signed=True)


def _text(view: memoryview, codec: str) -> str | Text:
    if len(view) > MAX_NAME:
        return Text(view, codec)
    try:
        text = str(view, codec)
        text.encode()  # half a surrogate pair can be written in escapes
    except UnicodeError:
        raise damaged(f"{bytes(view)!r:.80} is no text") from None
    return text


# Refusals


def damaged(why: str) -> ParamsError:
    """The error for a pickle that no pickler writes."""
    return ParamsError(f"damaged, truncated or not a pickle ({why:.200}): fetch or copy it again")


def _refused_name(module: str, attribute: str, inside: bool) -> ParamsError:
    """The error for a global that no dict of arrays needs, inside the dict or in its place."""
    root = module.split(".")[0]
    if root in _WAYS_OUT:
        return ParamsError(_WAYS_OUT[root])
    cause = f"names {f'{module}.{attribute}'!r:.120}: only plain NumPy arrays are read, and nothing is ever run"
    if root == "numpy":
        return ParamsError(f"{cause}; save it again with np.array(value, dtype=float) for each")
    return ParamsError(cause if inside else f"{cause}; of a network, save net.params")


_PYTHON_2 = "written by Python 2: load it there with Python 3's pickle.load(file, encoding='latin1') and save it again"
_OBJECT = "holds an object, expected a dict of arrays: save net.params, not the network"
_MESSAGES = {
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _PYTHON_2),
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), _OBJECT),
}
_KINDS = {
    **dict.fromkeys(("FLOAT", "BINFLOAT"), "a number"),
    **dict.fromkeys(("LIST", "EMPTY_LIST", "APPEND", "APPENDS"), "a list"),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET", "ADDITEMS"), "a set"),
    "LONG4": "a huge number",
}
_WAYS_OUT = {  # by the first part of a module's name
    "cupy": "holds CuPy arrays: save it again with cupy.asnumpy on each array",
    "joblib": "written by joblib: load it with joblib and save it again with pickle",
    "torch": "holds torch tensors: save it again with .numpy() on each",
    "collections": "holds a dict of a special kind: save dict(params)",
}
