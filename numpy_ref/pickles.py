"""Reading a pickled dict of float arrays by interpreting its opcodes: nothing in the pickle is ever run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from numpy_ref.opcodes import instructions
from numpy_ref.pickled_arrays import MAX_AXES, Shell, build, call, describe, known_name
from numpy_ref.refusals import ParamsError, damaged, refused_opcode, text_mode

# What reading may take besides the file itself, in bytes: SPACE, and twice the file's size. An honest file takes its
# own size for the arrays, and about 2 kB for each that are charged when they are made and never given back.
SPACE = 64 * 2**20
SLOT = 16  # bytes that each value on the stack or in the memo costs, and each object's header
ITEM = 128  # bytes of an item in the dict


def interpret(data: bytes) -> object:
    """What the pickle in data builds, with arrays as ndarray in the order they were in. ParamsError for all else.

    Takes time in proportion to the length of data, and at most twice its length and SPACE of memory.
    """
    try:
        return _Machine(data).run()
    except ParamsError as error:
        cause = str(error)
    except (ValueError, OverflowError) as error:  # shapes that NumPy cannot count, text that is none
        cause = str(damaged(f"{' '.join(str(error).split()) or type(error).__name__:.200}"))
    raise ParamsError(cause + text_mode(data))


class _Mark:
    """The MARK opcode's place on the stack."""


class _Machine:
    """The pickle machine, reduced to what an honest dict of arrays needs: a stack, a memo and no calls."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = 2 * len(data) + SPACE
        self.stack: list[Any] = []
        self.memo: list[Any] = []
        self.begun = False  # the dict
        self.frame_end: int | None = None

    def run(self) -> object:
        """What the pickle builds."""
        position = 0
        for op, argument, position in instructions(self.data):
            self._check_frame(position)
            if op in _VALUES:
                self.push(argument)
            elif op in _CONSTANTS:
                self.push(_CONSTANTS[op])
            elif op in _STEPS:
                _STEPS[op](self, argument)
            elif op == "PROTO":
                self._proto(argument, position)
            elif op == "FRAME":
                self._frame(argument, position)
            elif op != "STOP":
                raise refused_opcode(op, self._key())
        return self._result(position + 1)

    def spend(self, size: int) -> None:
        """Count size bytes of memory as taken, for good. ParamsError where there are fewer left."""
        self.left -= size
        if self.left < 0:
            raise ParamsError(
                f"would take more memory than {SPACE >> 20} MiB and three times its {len(self.data)} bytes: its arrays"
                " stand under many names, or most of it are no arrays"
            )

    def push(self, value: object) -> None:
        """Put a new value on the stack."""
        self.spend(sys.getsizeof(value) + SLOT)
        self.stack.append(value)

    def pop(self, count: int | None = None) -> list[Any]:
        """The top count values, or those above the last MARK for None, in order."""
        values: list[Any] = []
        while len(values) != count and self.stack and self.stack[-1] is not _Mark:
            values.append(self.stack.pop())
        if count is None:
            if not self.stack:
                raise damaged("no mark is on the stack")
            self.stack.pop()
        elif len(values) < count:
            raise damaged("the stack is empty")
        return values[::-1]

    def top(self) -> Any:
        """The last value, which stays."""
        if not self.stack or self.stack[-1] is _Mark:
            raise damaged("the stack is empty")
        return self.stack[-1]

    def put(self, index: int | None) -> None:
        """Remember the top value. Picklers count from 0."""
        if index is None or index == len(self.memo):
            self.spend(SLOT)
            self.memo.append(self.top())
        elif 0 <= index < len(self.memo):
            self.memo[index] = self.top()
        else:
            raise damaged(f"memo {index} is written where {len(self.memo)} is next")

    def get(self, index: int) -> None:
        """Push what is remembered."""
        if not 0 <= index < len(self.memo):
            raise damaged(f"memo {index} is read before it is written")
        self.spend(SLOT)
        self.stack.append(self.memo[index])

    def push_tuple(self, count: int | None) -> None:
        values = self.pop(count)
        # Before the scan, which memoised long tuples would make quadratic.
        if len(values) > MAX_AXES:
            raise ParamsError(f"holds a tuple of {len(values)} values: an array has {MAX_AXES} axes at most")
        # An array's state holds its shape: two levels are all that is ever needed.
        if any(isinstance(value, tuple) and any(isinstance(inner, tuple) for inner in value) for value in values):
            raise ParamsError("nests tuples deeper than an array's state does")
        self.push(tuple(values))

    def push_name(self, name: tuple[str, str] | None) -> None:
        """GLOBAL carries module and attribute; STACK_GLOBAL takes both from the stack."""
        module, attribute = self.pop(2) if name is None else name
        self.push(known_name(module, attribute, self.begun))

    def push_dict(self, count: int | None) -> None:
        items = self.pop(count)
        self.begun = True
        self.push({})
        self.add_items(items)

    def reduce(self, _: None) -> None:
        """Call, as far as arrays are pickled with calls."""
        name, arguments = self.pop(2)
        self.push(call(name, arguments, self.spend))

    def build(self, _: None) -> None:
        """Give the value below the top one its state, which is the top one."""
        (state,) = self.pop(1)
        build(self.top(), state, self.spend)

    def set_items(self, count: int | None) -> None:
        self.add_items(self.pop(count))

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
            self.spend(ITEM)
            target[key] = value

    def _key(self) -> str | None:
        """The key whose value is being built, if any."""
        return next((value for value in self.stack[:-4:-1] if isinstance(value, str)), None) if self.begun else None

    def _proto(self, version: Any, position: int) -> None:
        if position != 0 or version > 5:
            raise damaged(f"protocol {version} at byte {position}, expected 0 to 5 at byte 0")

    def _frame(self, size: Any, position: int) -> None:
        end = position + 9 + size
        if self.frame_end is not None or end > len(self.data):
            raise damaged(f"a frame at byte {position} reaches to byte {end} of {len(self.data)}")
        self.frame_end = end

    def _check_frame(self, position: int) -> None:
        if self.frame_end is not None and position >= self.frame_end:
            if position > self.frame_end:
                raise damaged(f"an opcode straddles the end of its frame at byte {self.frame_end}")
            self.frame_end = None

    def _result(self, end: int) -> object:
        """What is left on the stack. ParamsError for a second value, or for bytes behind the end."""
        if end != len(self.data):
            raise ParamsError(f"{len(self.data) - end} bytes follow the end of the pickle: expected a single one")
        value = self.top()
        if len(self.stack) != 1:
            raise damaged(f"{len(self.stack)} values at the end, expected 1")
        return self._finished(value) if isinstance(value, dict) else value

    def _finished(self, items: dict[str, Any]) -> dict[str, Any]:
        """The items with arrays in place of their shells, each name with an array of its own."""
        taken = set()
        for name, shell in items.items():
            if isinstance(shell, Shell):
                if shell.value is None:
                    raise ParamsError(f"{name!r:.80} is an array that is never filled")
                if id(shell) in taken:
                    self.spend(shell.value.nbytes)
                items[name] = shell.value.copy(order="K") if id(shell) in taken else shell.value
                taken.add(id(shell))
        return items


_VALUES = {
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
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "TUPLE": _Machine.push_tuple,
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "EMPTY_DICT": lambda machine, _: machine.push_dict(0),
    "DICT": _Machine.push_dict,
    "SETITEM": lambda machine, _: machine.set_items(2),
    "SETITEMS": _Machine.set_items,
}
