"""The pickle opcodes that a dict of arrays is written with, and how their arguments are read.

As pickletools.genops does, with three differences: no argument is read before its opcode is known to be wanted, no
length is believed before the file is known to be that long, and long texts and bytes stay in the file.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from numpy_ref.refusals import damaged

# Bytes: shorter text is decoded and shorter bytes are copied; longer ones can only be an array's content.
MAX_NAME = 256
MAX_LINE = 1024  # bytes of a line that holds a number or a global's name
PIECE = 2**16  # bytes of text that are decoded at a time


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of the file too long to be a name: as they are (encoding None), text, or that text in Latin-1."""

    view: memoryview
    encoding: str | None = None
    is_text: bool = False

    def __sizeof__(self) -> int:
        return 320  # of object and view, in bytes

    def encoded(self) -> Iterator[bytes | memoryview]:
        """The bytes, or the text's characters as a byte each, piece by piece. ParamsError for characters beyond one."""
        if self.encoding is None:
            yield self.view
            return
        # Nothing but Latin-1 may follow: a single wider character would make each one take four bytes.
        wider = rb"[\xc4-\xff]" if self.encoding == "utf-8" else rb"\\(?!u00)"
        if re.search(wider, self.view):
            raise damaged("text in place of an array's bytes")
        start = 0
        while start < len(self.view):
            end = self._cut(start + PIECE)
            yield str(self.view[start:end], self.encoding).encode("latin1")
            start = end

    def _cut(self, end: int) -> int:
        """The last place up to end that is not inside a character, or the end of the text."""
        if end >= len(self.view):
            return len(self.view)
        if self.encoding == "utf-8":
            return end - (self.view[end] & 0xC0 == 0x80)
        escape = bytes(self.view[end - 5 : end]).rfind(b"\\")  # \u00e9 has six bytes
        return end if escape < 0 else end - 5 + escape


def instructions(data: bytes) -> Iterator[tuple[str, object, int]]:
    """(opcode, argument, position) up to STOP; the argument of an opcode that no dict of arrays needs is not read.

    ParamsError for what is no opcode, and for arguments that are cut off, malformed or longer than the file.
    """
    source = _Source(data)
    op = ""
    while op != "STOP":
        position = source.position
        code = bytes(source.take(1))
        if code not in _NAMES:
            raise damaged(f"{code!r} at byte {position} is no opcode")
        op = _NAMES[code]
        reader = _READERS.get(op)
        yield op, None if reader is None else reader(source), position


class _Source:
    """The file, and how far it is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.view = memoryview(data)
        self.position = 0

    def take(self, size: int) -> memoryview:
        """The next size bytes, without a copy."""
        left = len(self.data) - self.position
        if size > left:
            raise damaged(f"{size} bytes are announced at byte {self.position}, where {left} are left")
        self.position += size
        return self.view[self.position - size : self.position]

    def number(self, layout: str) -> int:
        """A number of struct's layout."""
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def line(self, longest: int | None = None) -> memoryview:
        """Up to the next line feed, without it."""
        limit = len(self.data) if longest is None else self.position + longest
        end = self.data.find(b"\n", self.position, limit)
        if end < 0:
            raise damaged(f"the line at byte {self.position} does not end")
        line = self.view[self.position : end]
        self.position = end + 1
        return line


def _text(view: memoryview, encoding: str) -> str | Content:
    if len(view) > MAX_NAME:
        return Content(view, encoding, is_text=True)
    try:
        text = str(view, encoding)
        text.encode()  # half a surrogate pair can be written in escapes
    except UnicodeError:
        raise damaged(f"{bytes(view)!r:.80} is no text") from None
    return text


def _bytes(view: memoryview) -> bytes | Content:
    return Content(view) if len(view) > MAX_NAME else bytes(view)


def _decimal(source: _Source) -> int | bool:
    """A line with a whole number, or with 00 and 01 for False and True."""
    line = bytes(source.line(MAX_LINE))
    if line in (b"00", b"01"):
        return line == b"01"
    if not re.fullmatch(rb"-?[0-9]{1,19}L?", line):  # of 64 bits, as sizes are
        raise damaged(f"{line!r:.40} is no whole number")
    return int(line.rstrip(b"L"))


def _long(source: _Source) -> int:
    size = source.number("<B")
    if size > 8:
        raise damaged(f"a whole number of {size} bytes")
    return int.from_bytes(source.take(size), "little", signed=True)


def _name(source: _Source) -> tuple[str, str]:
    module, attribute = (str(source.line(MAX_LINE), "utf-8", "backslashreplace") for _ in range(2))
    return module, attribute


def _number(layout: str) -> Callable[[_Source], int]:
    return lambda source: source.number(layout)


def _sized(layout: str) -> Callable[[_Source], bytes | Content]:
    return lambda source: _bytes(source.take(source.number(layout)))


def _sized_text(layout: str) -> Callable[[_Source], str | Content]:
    return lambda source: _text(source.take(source.number(layout)), "utf-8")


_NAMES = {opcode.code.encode("latin1"): opcode.name for opcode in pickletools.opcodes}
_READERS: dict[str, Callable[[_Source], object]] = {
    "PROTO": _number("<B"),
    "FRAME": _number("<Q"),
    "INT": _decimal,
    "LONG": _decimal,
    "LONG1": _long,
    "BININT": _number("<i"),
    "BININT1": _number("<B"),
    "BININT2": _number("<H"),
    "SHORT_BINBYTES": _sized("<B"),
    "BINBYTES": _sized("<I"),
    "BINBYTES8": _sized("<Q"),
    "BYTEARRAY8": _sized("<Q"),
    "UNICODE": lambda source: _text(source.line(), "raw-unicode-escape"),
    "SHORT_BINUNICODE": _sized_text("<B"),
    "BINUNICODE": _sized_text("<I"),
    "BINUNICODE8": _sized_text("<Q"),
    "PUT": _decimal,
    "BINPUT": _number("<B"),
    "LONG_BINPUT": _number("<I"),
    "GET": _decimal,
    "BINGET": _number("<B"),
    "LONG_BINGET": _number("<I"),
    "GLOBAL": _name,
}
