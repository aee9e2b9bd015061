"""A pickle interpreter: it reads the opcodes as data, and never imports or calls anything that a pickle names."""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from numpy_ref.files import ParamsError

MAX_NAME = 256  # bytes; anything longer can only be an array's content
MAX_LINE = 1024  # bytes of a line that holds a number or a name
MAX_AXES = 32  # NumPy 1's limit on the axes of an array
MAX_OPCODES = 2**19  # enough for 15,000 arrays; each leaves at most 130 bytes in memory, besides text and bytes

# By (module, name): returns what a call with these arguments builds, None if they are unknown.
Vocabulary = dict[tuple[str, str], Callable[[Any], object]]
Persistent = Callable[[Any], object] | None  # returns the object with a persistent id, which lies outside the pickle


def vocabulary(call: Callable[[str, Any], object], names: str) -> Vocabulary:
    """Return a vocabulary of names (module.name, separated by spaces), all handled by call(name, arguments)."""
    pairs = [name.rpartition(".")[::2] for name in names.split()]
    return {(module, name): partial(call, name) for module, name in pairs}


@dataclass(eq=False, slots=True, repr=False)
class StandIn:
    """Stands in for a global, a long text, a dtype, an array or an unknown object; what describes it for messages.

    While value is None, BUILD may give it a state once: complete(state) returns the value, None for a wrong state.
    """

    what: str
    value: Any = None
    complete: Callable[[Any], object] = lambda _: None

    def __repr__(self) -> str:
        return self.what

    def fill(self, value: object) -> None:
        """Set the value, or copy description and value if it is a StandIn itself."""
        self.what, self.value = (value.what, value.value) if isinstance(value, StandIn) else (self.what, value)

    def instance(self) -> StandIn:
        """Return a stand-in for an unknown object of this class."""
        return StandIn(f"an object of {self.what.removeprefix('the name ').removeprefix('an object of ')}")


def describe(value: object) -> str:
    """Return a few words on value, for messages."""
    return value.what if isinstance(value, StandIn) else f"a {type(value).__name__}"


def interpret(data: bytes, vocabulary: Vocabulary, lenient: bool = False, persistent: Persistent = None) -> Any:
    """Return what the pickle in data builds with vocabulary's calls; ParamsError for others, or StandIns if lenient.

    A global becomes a StandIn for vocabulary's function, whose result may be a StandIn that waits for its state.
    """
    value, end = interpret_first(data, vocabulary, lenient, persistent)
    if extra := len(data) - end:
        raise ParamsError(f"{extra} bytes follow the end of the pickle: expected a single one")
    return value


def interpret_first(
    data: bytes, vocabulary: Vocabulary, lenient: bool = False, persistent: Persistent = None, start: int = 0
) -> tuple[Any, int]:
    """Interpret the pickle that begins at start, and return its value and its end."""
    try:
        machine = _Machine(data, vocabulary, lenient, persistent, start)
        return machine.run(), machine.file.tell()
    except ParamsError:
        raise
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        part = error.object[error.start : error.end][:20]
        raise damaged(f"{part!r} is no text in {error.encoding}") from None
    except (ValueError, OverflowError) as error:  # from a truncated argument, or a shape too large for NumPy
        raise damaged(" ".join(str(error).split())) from None


class _Machine:
    """The pickle machine, reduced to what arrays and their containers need: a stack and a memo, but no real calls."""

    def __init__(self, data: bytes, vocabulary: Vocabulary, lenient: bool, persistent: Persistent, start: int) -> None:
        self.data, self.view, self.file = data, memoryview(data), io.BytesIO(data)  # none of them copies data
        self.vocabulary, self.lenient, self.persistent = vocabulary, lenient, persistent
        self.steps = _LENIENT_STEPS if lenient else _STEPS
        self.stack: list[Any] = []
        self.marks: list[int] = []  # length of the stack at each mark
        self.memo: list[Any] = []
        self.start = self.file.seek(start)
        self.frame_end = 0

    def run(self) -> Any:
        """Interpret opcodes up to STOP, and return what the pickle builds."""
        for _ in range(MAX_OPCODES):
            start = self.file.tell()
            code = self.file.read(1)
            if code not in _OPCODES:
                raise damaged(f"{code!r} at byte {start} is no opcode")
            opcode = _OPCODES[code]
            if opcode.name not in self.steps:  # before its argument is read
                raise self.refused(opcode.name)
            operand = self.argument(opcode.arg) if opcode.arg else self.pop(opcode.stack_before)
            if start < self.frame_end < self.file.tell():
                raise damaged(f"an opcode straddles the end of its frame at byte {self.frame_end}")
            self.steps[opcode.name](self, operand)
            if opcode.name == "STOP":
                return operand[0]
        raise ParamsError(f"has more than {MAX_OPCODES} opcodes: no dict of fewer than 10000 arrays needs so many")

    def argument(self, kind: pickletools.ArgumentDescriptor) -> Any:
        """Read the opcode's argument: an integer, text, bytes, or two names."""
        if kind.name == "stringnl_noescape_pair":  # pickletools' reader would undo escapes, which pickle does not
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
            digits = b"{0,%d}" % (MAX_LINE if self.lenient else 18)  # 64 bits, which is enough for sizes
            if not re.fullmatch(rb"-?(0|[1-9][0-9]" + digits + b")" + end, line):
                raise damaged(f"{line!r:.40} is no whole number")
            return line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L"))
        number = kind.reader(self.file)
        if isinstance(number, int) and number.bit_length() > 64 and not self.lenient:
            raise damaged(f"a whole number of {number.bit_length() // 8 + 1} bytes")
        return number

    def take(self, size: int) -> memoryview:
        """Return a view of the next size bytes."""
        start = self.file.tell()
        if size > len(self.data) - start:
            raise damaged(f"{size} bytes are announced at byte {start}, where {len(self.data) - start} are left")
        self.file.seek(start + size)
        return self.view[start : start + size]

    def line(self, max_length: int = MAX_LINE) -> memoryview:
        """Return a view of the bytes up to the next line feed, without it."""
        start = self.file.tell()
        end = self.data.find(b"\n", start, start + max_length)
        if end < 0:
            raise damaged(f"the line at byte {start} does not end")
        return self.take(end + 1 - start)[:-1]

    def pop(self, kinds: list[pickletools.StackObject]) -> list[Any]:
        """Pop one value for each of kinds; if a mark is among them, also all values above it."""
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
        """Store the top value in the memo. Picklers use the indices 0, 1, 2, ..."""
        if not 0 <= index <= len(self.memo):
            raise damaged(f"memo {index} is written where {len(self.memo)} is next")
        self.memo[index : index + 1] = values = values or self.pop([pickletools.anyobject])
        self.stack += values

    def get(self, index: int) -> None:
        """Push a value from the memo."""
        if not 0 <= index < len(self.memo):
            raise damaged(f"memo {index} is read before it is written")
        self.push(self.memo[index])

    def push_tuple(self, values: list[Any]) -> None:
        if len(values) > MAX_AXES and not self.lenient:
            raise ParamsError(f"holds a tuple of {len(values)} values: an array has {MAX_AXES} axes at most")
        # An array's state contains its shape: arrays never need more than two levels.
        inner = (value for item in values if isinstance(item, tuple) for value in item)
        if not self.lenient and any(isinstance(value, tuple) for value in inner):
            raise ParamsError("nests tuples deeper than an array's state does")
        self.push(tuple(values))

    def push_name(self, names: list[Any]) -> None:
        module, attribute = names
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ParamsError(f"names a global by {describe(module)} and {describe(attribute)}, expected two names")
        name, package = f"{module}.{attribute}", module.split(".")[0]
        call = self.vocabulary.get((module, attribute))
        if call is None and (not self.lenient or package == "joblib"):  # joblib stores arrays outside the pickle
            cause = f"names {name!r:.120}: only plain NumPy arrays are read, and nothing is ever run"
            way_out = "of a network, save net.params; of other values, np.array(value, dtype=float) for each"
            raise ParamsError(_REFUSED.get(package, f"{cause}; {way_out}"))
        name = name if name.isprintable() else ascii(name)[1:-1]
        self.push(StandIn(f"the name {name:.120}", call or (lambda _: None)))

    def reduce(self, values: list[Any]) -> None:
        """Push what vocabulary's function returns for the arguments."""
        name, arguments = values
        is_known = isinstance(name, StandIn) and callable(name.value)
        value = name.value(arguments) if is_known else None
        if value is None and not (self.lenient and isinstance(name, StandIn)):
            raise ParamsError(f"calls {describe(name)} in a way that no plain float array needs")
        self.push(name.instance() if value is None else value)

    def push_object(self, values: list[Any]) -> None:
        """Push a stand-in for an object of the class values[0], ignoring its arguments."""
        if not isinstance(values[0], StandIn):
            raise damaged(f"an object of {describe(values[0])}")
        self.push(values[0].instance())

    def push_persistent(self, values: list[Any]) -> None:
        if self.persistent is None:
            raise self.refused("BINPERSID")
        self.push(self.persistent(values[0]))

    def build(self, values: list[Any]) -> None:
        """Complete a stand-in with its state."""
        target, state = values
        is_incomplete = isinstance(target, StandIn) and target.value is None
        if is_incomplete and (value := target.complete(state)) is not None:
            target.fill(value)
        elif not self.is_inert(target) and not (self.lenient and isinstance(target, dict)):
            raise ParamsError(f"gives {describe(target)} a state that no plain float array has")
        self.push(target)

    def add_items(self, values: list[Any]) -> None:
        """Push the dict values[0] with the items that follow it: key, value, key, value, ..."""
        if len(values) % 2 == 0 or not (isinstance(values[0], dict) or self.is_inert(values[0])):
            raise damaged("items for something that is not a dict")
        for key, value in zip(values[1::2], values[2::2], strict=True) if isinstance(values[0], dict) else ():
            if not isinstance(key, str) and not self.lenient:
                raise ParamsError(f"a key is {describe(key)}, expected a name")
            if not isinstance(key, str | int | StandIn):  # hashing nested tuples could take forever
                key = StandIn(describe(key))
            if key in values[0]:
                raise ParamsError(f"the key {key!r:.80} occurs twice")
            values[0][key] = value
        self.push(values[0])

    def append(self, values: list[Any]) -> None:
        """Push the list values[0] with the values that follow it."""
        if isinstance(values[0], list):
            values[0].extend(values[1:])
        elif not self.is_inert(values[0]):
            raise damaged("values for something that is not a list")
        self.push(values[0])

    def is_inert(self, value: object) -> bool:
        """Return whether value stands in for an object whose contents are ignored."""
        return self.lenient and describe(value).startswith(("an object of ", "a set"))

    def check_protocol(self, version: int) -> None:
        if self.file.tell() != self.start + 2 or version > 5:
            raise damaged(f"protocol {version} at byte {self.file.tell() - 2}, expected 0 to 5 at byte {self.start}")

    def enter_frame(self, size: int) -> None:
        start = self.file.tell()
        if start < self.frame_end or start + size > len(self.data):
            raise damaged(f"a frame at byte {start - 9} reaches to byte {start + size} of {len(self.data)}")
        self.frame_end = start + size

    def stop(self, _: list[Any]) -> None:
        """Check that nothing remains on the stack."""
        if extra := len(self.stack) + len(self.marks):
            raise damaged(f"{extra + 1} values at the end, expected 1")

    def refused(self, name: str) -> ParamsError:
        """Return the error for an opcode that no dict of arrays needs; it names the key whose value is being built."""
        words = _REFUSED.get(name, f"uses the pickle opcode {name}, which no dict of plain float arrays needs")
        if not words.startswith("a "):
            return ParamsError(words)
        match self.stack:
            case [dict(), *_, str(key)]:
                return ParamsError(f"{key!r:.80} is {words}, expected an array")
        return ParamsError(f"holds {words}, expected a dict of arrays")


def _text(content: memoryview, codec: str, lenient: bool) -> object:
    """Return a short text, or a stand-in for a long one, which protocols 0 to 2 write for an array's bytes.

    A long text must be Latin-1, since a single wider character would make Python take four bytes for each.
    """
    if len(content) <= MAX_NAME:
        text = str(content, codec)
        text.encode()  # raises for half a surrogate pair, which escapes can write
        return text
    if np.frombuffer(content, np.uint8).max() > 0xC3 if codec == "utf-8" else re.search(rb"\\(?!u00)", content):
        if lenient:
            return StandIn("a long text in more than Latin letters")
        raise damaged("a long name, or wide text in place of an array's bytes")
    return StandIn("a long text", str(content, codec).encode("latin1"))


_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
# Each step gets the opcode's argument or, if there is none, the values that the opcode pops.
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
    """Return the error for a pickle that no pickler writes."""
    return ParamsError(f"damaged, truncated or not a pickle ({why:.200}): fetch or copy it again")


_PYTHON_2 = "written by Python 2: load it there with Python 3's pickle.load(file, encoding='latin1') and save it again"
_OBJECT = "holds an object, expected a dict of arrays: save net.params, not the network"
_REFUSED = {  # by opcode: a kind of value, or a full message; by package: a full message
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
