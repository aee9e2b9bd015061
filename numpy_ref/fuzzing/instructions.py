"""Pickles as lists of instructions, to be changed and put together again."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterable

Instruction = tuple[bytes, bytes]  # the opcode, and its argument as it stands in the file, its length included

_FRAME = b"\x95"


def disassemble(pickled: bytes) -> list[Instruction]:
    """The instructions of a valid pickle, without its frames."""
    starts = [position or 0 for _, _, position in pickletools.genops(pickled)]
    ends = [*starts[1:], len(pickled)]
    parts = [(pickled[start : start + 1], pickled[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]
    return [(code, argument) for code, argument in parts if code != _FRAME]


def assemble(instructions: Iterable[Instruction], framed: bool = False) -> bytes:
    """The pickle; framed puts all that follows the first instruction, which is PROTO, into one frame."""
    first, *rest = (code + argument for code, argument in instructions)
    body = b"".join(rest)
    return first + (_FRAME + struct.pack("<Q", len(body)) if framed else b"") + body


def renamed(instructions: Iterable[Instruction], package: str) -> list[Instruction]:
    """With the names of numpy.core (NumPy 1) or numpy._core (NumPy 2), whichever were there."""
    return [(code, _rename(code, argument, package.encode())) for code, argument in instructions]


def _rename(code: bytes, argument: bytes, package: bytes) -> bytes:
    for old in (b"numpy.core.", b"numpy._core."):
        if code == b"c" and argument.startswith(old):
            return package + b"." + argument[len(old) :]
        if code == b"\x8c" and argument[1:].startswith(old):
            name = package + b"." + argument[1 + len(old) :]
            return bytes([len(name)]) + name
    return argument
