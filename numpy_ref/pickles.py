"""A pickle of arrays as data: its opcodes are interpreted, and nothing in it is ever run.

How NumPy pickles arrays: array_reduce_ex in numpy/_core/src/multiarray/methods.c, arraydescr_reduce in descriptor.c.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.files import ParamsError, over_limit

MAX_NAME = 256  # bytes: what is longer can only be an array's content
MAX_LINE = 1024  # bytes of a line that holds a number or a name
MAX_AXES = 32  # of an array: NumPy 1's own limit
NUMPYS_AXES = 64  # of an array: NumPy 2's own limit
MAX_DEPTH = 64  # of dicts, lists and tuples in each other: what reads them recurses
MAX_OPCODES = 2**19  # 15,000 arrays have as many; each leaves 130 bytes in memory at most, besides text and bytes
MAX_SHARED = 2**26  # bytes of arrays besides twice the file's: one array may stand under many names

Order = Literal["C", "F", "K"]


def read_arrays(data: bytes, order: Order = "K") -> object:
    """What the pickle in data builds; in a dict, arrays in C order, or in their own ("K"). ParamsError."""
    value = interpret(data, ARRAYS)
    left = limit = 2 * len(data) + MAX_SHARED
    for name, found in value.items() if isinstance(value, dict) else ():
        if isinstance(found, StandIn) and found.what == "an array":
            if found.value is None:
                raise ParamsError(f"{name!r:.80} is an array that is never filled")
            left -= found.value.nbytes
            if left < 0:
                raise ParamsError(f"holds arrays of more than {limit} bytes, as some stand under many names")
            value[name] = native(found.value, order)
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
        if depth > MAX_DEPTH or self.values > MAX_OPCODES:  # one list in the next, twice each time, makes no large file
            raise ParamsError(f"nests dicts, lists or tuples over {MAX_DEPTH} deep, or more than {MAX_OPCODES} values")
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
                return self.counted(memoryview(content)).tobytes().decode("latin1")
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
    texts = Counter(str(key) for key in found if not isinstance(key, StandIn))
    for text, count in texts.most_common(1):
        if count > 1:
            raise ParamsError(f"the key {text!r:.80} stands twice, as a number and as text")


def native(array: Array, order: Order = "K") -> Array:
    """A copy, in the machine's byte order."""
    return np.array(array, array.dtype.newbyteorder("="), order=order)


def view_of(content: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], order: Order = "C") -> Array:
    """content as an array, not copied. ParamsError where it has another size."""
    if len(shape) > NUMPYS_AXES or math.prod(shape) * dtype.itemsize != len(content):
        raise ParamsError(f"an array of shape {shape!r:.200} and dtype {dtype} has {len(content)} bytes of content")
    return np.ndarray(shape, dtype, content, order=order)


def widened(array: Array) -> Array:
    """bfloat16 numbers, of which array has the bits as whole numbers of 16, as float32: the upper half of its bits."""
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


# What an array's pickle names, and what stands in for it


@dataclass(eq=False, slots=True, repr=False)
class StandIn:
    """What stands in for a name, a long text, a dtype or an array: which, in words, and its value.

    A value of None comes with a state, once: complete makes it of the state, or None of what is no such state.
    """

    what: str
    value: Any = None
    complete: Callable[[Any], object] = lambda _: None

    def __repr__(self) -> str:
        return self.what

    def fill(self, value: object) -> None:
        """Take the value, or what another stands for."""
        self.what, self.value = (value.what, value.value) if isinstance(value, StandIn) else (self.what, value)

    def made(self) -> StandIn:
        """What a call of this name gives, where nothing is known of it."""
        return StandIn(f"an object of {self.what.removeprefix('the name ').removeprefix('an object of ')}")


def describe(value: object) -> str:
    """value in a few words, for messages."""
    return value.what if isinstance(value, StandIn) else f"a {type(value).__name__}"


def _called(name: str, arguments: Any) -> object:
    match name, arguments:
        case "_reconstruct", (StandIn(what=what), (0 as size,), b"b") if what in _PLAIN and type(size) is int:
            return StandIn("an array", complete=_filled)
        case "_frombuffer", (bytes() | memoryview() as content, dtype, shape, "K", axes):  # in protocol 5
            array = _filled((1, shape, dtype, False, content))
            return StandIn("an array", _transposed(array, axes)) if isinstance(array, np.ndarray) else array
        case "_frombuffer", (bytes() | memoryview() as content, dtype, shape, order):
            if order not in ("C", "F"):
                raise ParamsError(f"an array has the memory order {_shown(order)}, expected C or F")
            (array := StandIn("an array")).fill(_filled((1, shape, dtype, order == "F", content)))
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
        case "dtype", (str() | StandIn() as code, *_):  # of bfloat16, a class
            name = code.what.rpartition(".")[2] if isinstance(code, StandIn) else code
            return StandIn("a dtype", complete=lambda _: name)
        case "scalar", (StandIn(what="a dtype", value=np.dtype() as dtype), bytes(content)):
            return view_of(content, (), dtype).item()
        case "array", (StandIn() as array, *_):  # CuPy's
            return array
        case "made", (StandIn(what=what) as make, (_, _, _) as given, state, *_) if what.endswith("._reconstruct"):
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


def _filled(state: Any) -> object:
    match state:
        case (int(version), tuple(shape), StandIn(what="a dtype", value=dtype), bool(fortran), content):
            if type(version) is not int or version != 1:
                raise ParamsError(f"an array's state has version {version!r:.40}, expected 1")
            if not isinstance(content, bytes | memoryview | list):
                raise ParamsError(f"an array's content is {describe(content)}, expected bytes")
            if dtype is None:
                raise ParamsError("an array's dtype is never completed")
            if any(type(size) is not int or size < 0 for size in shape):
                raise ParamsError(f"an array has the shape {_shown(shape)}")
            if isinstance(dtype, str):
                return _filled_otherwise(dtype, shape, "F" if fortran else "C", content)
            if isinstance(content, list):
                raise ParamsError("an array's content is a list, expected bytes")
            return view_of(content, shape, dtype, "F" if fortran else "C")
    return None


def _filled_otherwise(dtype: str, shape: tuple[int, ...], order: Order, content: Any) -> StandIn:
    """An array of no dtype that NumPy calculates with."""
    if dtype == "bfloat16" and not isinstance(content, list):
        return StandIn("an array of bfloat16", widened(view_of(content, shape, np.dtype("<u2"), order)))
    if dtype == "O8" and isinstance(content, list) and shape in ((), (len(content),)) and (content or shape):
        return StandIn("an array of objects", content if shape else tuple(content))
    return StandIn(f"an array of dtype {dtype!r:.40}")


def _transposed(array: Array, axes: Any) -> Array:
    if not isinstance(axes, tuple) or any(type(axis) is not int for axis in axes):
        raise ParamsError(f"an array has the axes {_shown(axes)}")
    return array.transpose(axes)


def _shown(value: object) -> str:
    """value in a line: only numbers, text and what has a name, as the repr of nested lists may never end."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value[:NUMPYS_AXES]))}{',' * (len(value) == 1)})"[:200]
    return f"{value!r:.40}" if isinstance(value, int | str | StandIn) else describe(value)


_PLAIN = ("the name numpy.ndarray", "the name numpy.memmap", "the name numpy.matrix")  # arrays all

# What a call of each name gives, for the arguments; None where no such call is known.
Vocabulary = Mapping[tuple[str, str], Callable[[Any], object]]
ARRAYS: Vocabulary = {
    (module, name): partial(_called, name)
    for module, name in (
        ("numpy.core.multiarray", "_reconstruct"),  # of NumPy 1
        ("numpy._core.multiarray", "_reconstruct"),  # of NumPy 2
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        ("__builtin__", "bytes"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        *(("builtins", name) for name in ("dict", "float", "int", "list")),  # what a defaultdict makes
        *(("__builtin__", name) for name in ("dict", "float", "int", "list")),
    )
}
VALUES: Vocabulary = {
    **ARRAYS,
    ("numpy", "dtype"): partial(_called_leniently, "dtype"),
    ("numpy.core.multiarray", "scalar"): partial(_called_leniently, "scalar"),
    ("numpy._core.multiarray", "scalar"): partial(_called_leniently, "scalar"),
    ("cupy.core.core", "array"): partial(_called_leniently, "array"),
    ("cupy._core.core", "array"): partial(_called_leniently, "array"),
    ("dill._dill", "_create_array"): partial(_called_leniently, "made"),
    ("jax._src.array", "_reconstruct_array"): partial(_called_leniently, "made"),
}


def interpret(data: bytes, vocabulary: Vocabulary, lenient: bool = False) -> Any:
    """What the pickle in data builds, of what vocabulary knows; for all else ParamsError or, if lenient, a StandIn.

    A name stands in for vocabulary's function of it; what that gives may be a StandIn that waits for its state.
    """
    value, end = interpret_first(data, vocabulary, lenient)
    if left := len(data) - end:
        raise ParamsError(f"{left} bytes follow the end of the pickle: expected a single one")
    return value


def interpret_first(
    data: bytes,
    vocabulary: Vocabulary,
    lenient: bool = False,
    persistent: Callable[[Any], object] | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """The same for the pickle at start alone, and where it ends; persistent knows what is outside, by its identity."""
    try:
        machine = _Machine(data, vocabulary, lenient, persistent, start)
        return machine.run(), machine.file.tell()
    except ParamsError:
        raise
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        part = error.object[error.start : error.end][:20]
        raise damaged(f"{part!r} is no text in {error.encoding}") from None
    except (ValueError, OverflowError) as error:  # an argument that is cut off, a shape that NumPy cannot count
        raise damaged(" ".join(str(error).split())) from None


class _Machine:
    """The pickle machine, reduced to what arrays and their containers need: a stack, a memo and no calls."""

    def __init__(
        self,
        data: bytes,
        vocabulary: Vocabulary,
        lenient: bool,
        persistent: Callable[[Any], object] | None,
        start: int,
    ) -> None:
        self.data, self.view, self.file = data, memoryview(data), io.BytesIO(data)  # one and the same, without a copy
        self.vocabulary, self.lenient, self.persistent = vocabulary, lenient, persistent
        self.steps = _LENIENT_STEPS if lenient else _STEPS
        self.stack: list[Any] = []
        self.marks: list[int] = []  # how long the stack was at each
        self.memo: list[Any] = []
        self.start = self.file.seek(start)
        self.frame_end = 0

    def run(self) -> Any:
        """What the pickle builds."""
        for _ in range(MAX_OPCODES):
            start = self.file.tell()
            code = self.file.read(1)
            if code not in _OPCODES:
                raise damaged(f"{code!r} at byte {start} is no opcode")
            opcode = _OPCODES[code]
            if opcode.name not in self.steps:  # before its argument is read
                raise self.refused(opcode.name)
            given = self.argument(opcode.arg) if opcode.arg else self.pop(opcode.stack_before)
            if start < self.frame_end < self.file.tell():
                raise damaged(f"an opcode straddles the end of its frame at byte {self.frame_end}")
            self.steps[opcode.name](self, given)
            if opcode.name == "STOP":
                return given[0]
        raise ParamsError(f"has more than {MAX_OPCODES} opcodes: no dict of fewer than 10000 arrays needs so many")

    def argument(self, kind: pickletools.ArgumentDescriptor) -> Any:
        """The next argument: a whole number, text, bytes, or two names."""
        if kind.name == "stringnl_noescape_pair":  # whose reader would undo escapes, as pickle does not
            return [str(self.line(), "utf-8", "backslashreplace") for _ in range(2)]
        if kind.name == "unicodestringnl":
            return _text(self.line(len(self.data)), "raw-unicode-escape", self.lenient)
        if kind.name.startswith(("bytes", "bytearray", "unicodestring")):
            content = self.take(int.from_bytes(self.file.read(int(kind.name[-1])), "little"))
            if kind.name.startswith("unicode"):
                return _text(content, "utf-8", self.lenient)
            return content if len(content) > MAX_NAME else bytes(content)
        if kind.name.startswith("decimal"):
            line = bytes(self.line())
            end = rb"L?" if kind.name == "decimalnl_long" else rb"|0[01]"  # False and True
            digits = b"{0,%d}" % (MAX_LINE if self.lenient else 18)  # of 64 bits, as sizes are
            if not re.fullmatch(rb"-?(0|[1-9][0-9]" + digits + b")" + end, line):
                raise damaged(f"{line!r:.40} is no whole number")
            self.file.seek(-len(line) - 1, io.SEEK_CUR)
        number = kind.reader(self.file)
        if isinstance(number, int) and number.bit_length() > 64 and not self.lenient:
            raise damaged(f"a whole number of {number.bit_length() // 8 + 1} bytes")
        return number

    def take(self, size: int) -> memoryview:
        """The next size bytes, not copied."""
        start = self.file.tell()
        if size > len(self.data) - start:
            raise damaged(f"{size} bytes are announced at byte {start}, where {len(self.data) - start} are left")
        self.file.seek(start + size)
        return self.view[start : start + size]

    def line(self, longest: int = MAX_LINE) -> memoryview:
        """Up to the next line feed, without it."""
        start = self.file.tell()
        end = self.data.find(b"\n", start, start + longest)
        if end < 0:
            raise damaged(f"the line at byte {start} does not end")
        return self.take(end + 1 - start)[:-1]

    def pop(self, kinds: list[pickletools.StackObject]) -> list[Any]:
        """The top values, one for each of kinds; for a mark, those above it."""
        start, count = len(self.stack), len(kinds)
        if pickletools.markobject in kinds:
            if not self.marks:
                raise damaged("no mark is on the stack")
            start, count = self.marks.pop(), count - 2
        start -= count
        if start < (self.marks[-1] if self.marks else 0):
            raise damaged("the stack is empty")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push(self, value: object) -> None:
        self.stack.append(value)

    def put(self, index: int, values: list[Any] | None = None) -> None:
        """Remember the top value. Picklers count from 0."""
        if not 0 <= index <= len(self.memo):
            raise damaged(f"memo {index} is written where {len(self.memo)} is next")
        self.memo[index : index + 1] = values = values or self.pop([pickletools.anyobject])
        self.stack += values

    def get(self, index: int) -> None:
        """Push what is remembered."""
        if not 0 <= index < len(self.memo):
            raise damaged(f"memo {index} is read before it is written")
        self.push(self.memo[index])

    def push_tuple(self, values: list[Any]) -> None:
        if len(values) > MAX_AXES and not self.lenient:
            raise ParamsError(f"holds a tuple of {len(values)} values: an array has {MAX_AXES} axes at most")
        # An array's state holds its shape: two levels are all that is ever needed.
        inner = (value for tuple_ in values if isinstance(tuple_, tuple) for value in tuple_)
        if not self.lenient and any(isinstance(value, tuple) for value in inner):
            raise ParamsError("nests tuples deeper than an array's state does")
        self.push(tuple(values))

    def push_name(self, names: list[Any]) -> None:
        module, attribute = names
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ParamsError(f"names a global by {describe(module)} and {describe(attribute)}, expected two names")
        name, package = f"{module}.{attribute}", module.split(".")[0]
        known = self.vocabulary.get((module, attribute))
        if known is None and (not self.lenient or package == "joblib"):  # whose arrays are no part of the pickle
            cause = f"names {name!r:.120}: only plain NumPy arrays are read, and nothing is ever run"
            way_out = "of a network, save net.params; of other values, np.array(value, dtype=float) for each"
            raise ParamsError(_REFUSED.get(package, f"{cause}; {way_out}"))
        name = name if name.isprintable() else ascii(name)
        self.push(StandIn(f"the name {name:.120}", known or (lambda _: None)))

    def reduce(self, values: list[Any]) -> None:
        """Call, as far as the vocabulary has such calls."""
        name, arguments = values
        known = isinstance(name, StandIn) and callable(name.value)
        value = name.value(arguments) if known else None
        if value is None and not (self.lenient and isinstance(name, StandIn)):
            raise ParamsError(f"calls {describe(name)} in a way that no plain float array needs")
        self.push(name.made() if value is None else value)

    def push_object(self, values: list[Any]) -> None:
        """Of the class that comes first; what it is made of is not looked at."""
        if not isinstance(values[0], StandIn):
            raise damaged(f"an object of {describe(values[0])}")
        self.push(values[0].made())

    def push_persistent(self, values: list[Any]) -> None:
        if self.persistent is None:
            raise self.refused("BINPERSID")
        self.push(self.persistent(values[0]))

    def build(self, values: list[Any]) -> None:
        """Give a value its state."""
        target, state = values
        waits = isinstance(target, StandIn) and target.value is None
        if waits and (value := target.complete(state)) is not None:
            target.fill(value)
        elif not self.lenient:
            raise ParamsError(f"gives {describe(target)} a state that no plain float array has")
        self.push(target)

    def add_items(self, values: list[Any]) -> None:
        """Push the dict that comes first, with the items key, value, key, value ... that follow."""
        if len(values) % 2 == 0 or not (isinstance(values[0], dict) or self.is_object(values[0])):
            raise damaged("items for something that is not a dict")
        for key, value in zip(values[1::2], values[2::2], strict=True) if isinstance(values[0], dict) else ():
            if not isinstance(key, str) and not self.lenient:
                raise ParamsError(f"a key is {describe(key)}, expected a name")
            if not isinstance(key, str | int | StandIn):  # whose hash might take forever, as that of nested tuples
                key = StandIn(describe(key))
            if key in values[0]:
                raise ParamsError(f"the key {key!r:.80} stands twice")
            values[0][key] = value
        self.push(values[0])

    def append(self, values: list[Any]) -> None:
        """Push the list that comes first, with the values that follow."""
        if isinstance(values[0], list):
            values[0].extend(values[1:])
        elif not self.is_object(values[0]):
            raise damaged("values for something that is not a list")
        self.push(values[0])

    def is_object(self, value: object) -> bool:
        """Whether value may be a dict or a list of a kind of its own, or a set."""
        return self.lenient and isinstance(value, StandIn) and value.value is None

    def check_protocol(self, version: int) -> None:
        if self.file.tell() != self.start + 2 or version > 5:
            raise damaged(f"protocol {version} at byte {self.file.tell() - 2}, expected 0 to 5 at byte {self.start}")

    def enter_frame(self, size: int) -> None:
        start = self.file.tell()
        if start < self.frame_end or start + size > len(self.data):
            raise damaged(f"a frame at byte {start - 9} reaches to byte {start + size} of {len(self.data)}")
        self.frame_end = start + size

    def stop(self, _: list[Any]) -> None:
        """Check that all is used."""
        if others := len(self.stack) + len(self.marks):
            raise damaged(f"{others + 1} values at the end, expected 1")

    def refused(self, name: str) -> ParamsError:
        """The error for an opcode that no dict of arrays needs; of an item's value, it names the key."""
        words = _REFUSED.get(name, f"uses the pickle opcode {name}, which no dict of plain float arrays needs")
        if not words.startswith("a "):
            return ParamsError(words)
        match self.stack:
            case [dict(), *_, str(key)]:
                return ParamsError(f"{key!r:.80} is {words}, expected an array")
        return ParamsError(f"holds {words}, expected a dict of arrays")


def _text(content: memoryview, codec: str, lenient: bool) -> object:
    """A name, or a long text in place of bytes: a character each, as wider ones would make all take four bytes each."""
    if len(content) <= MAX_NAME:
        text = str(content, codec)
        text.encode()  # half a surrogate pair can be written in escapes
        return text
    if np.frombuffer(content, np.uint8).max() > 0xC3 if codec == "utf-8" else re.search(rb"\\(?!u00)", content):
        if lenient:
            return StandIn("a long text in more than Latin letters")
        raise damaged("a long name, or wide text in place of an array's bytes")
    return StandIn("a long text", str(content, codec).encode("latin1"))


_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
# Each is given the opcode's argument, or else the values that it takes from the stack.
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
    **dict.fromkeys(("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"), _Machine.push_tuple),
    **dict.fromkeys(("EMPTY_DICT", "DICT"), lambda machine, items: machine.add_items([{}, *items])),
    **dict.fromkeys(("SETITEM", "SETITEMS"), _Machine.add_items),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, values: machine.put(len(machine.memo), values),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.push_name),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "STOP": _Machine.stop,
}

_LENIENT_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **_STEPS,
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("EMPTY_LIST", "LIST"), _Machine.push),
    **dict.fromkeys(("APPEND", "APPENDS", "ADDITEMS"), _Machine.append),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET"), lambda machine, _: machine.push(StandIn("a set"))),
    **dict.fromkeys(("NEWOBJ", "NEWOBJ_EX"), _Machine.push_object),
    "BINPERSID": _Machine.push_persistent,
}


def damaged(why: str) -> ParamsError:
    """The error for a pickle that no pickler writes."""
    return ParamsError(f"damaged, truncated or not a pickle ({why:.200}): fetch or copy it again")


_PYTHON_2 = "written by Python 2: load it there with Python 3's pickle.load(file, encoding='latin1') and save it again"
_OBJECT = "holds an object, expected a dict of arrays: save net.params, not the network"
_REFUSED = {  # by opcode, a value or what is wrong; by the first part of a module's name, what is wrong
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _PYTHON_2),
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), _OBJECT),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), "a number"),
    **dict.fromkeys(("LIST", "EMPTY_LIST", "APPEND", "APPENDS"), "a list"),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET", "ADDITEMS"), "a set"),
    "LONG4": "a huge number",
    "cupy": "holds CuPy arrays: save it again with cupy.asnumpy on each array",
    "joblib": "written by joblib: load it with joblib and save it again with pickle",
    "torch": "holds torch tensors: save it again with .numpy() on each",
    "collections": "holds a dict of a special kind: save dict(params)",
}
