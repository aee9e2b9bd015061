"""Spoiling valid pickles, byte by byte and opcode by opcode."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.fuzzing.corpus import Sample
from numpy_ref.fuzzing.instructions import Instruction, assemble


@dataclass(frozen=True)
class Case:
    """A file to read: how it was made, and the arrays it must give, where that is known."""

    mutation: str
    data: bytes
    expected: dict[str, Array] | None = None


def make_case(seed: int, number: int, samples: list[Sample]) -> Case:
    """One case of a campaign; the same for the same seed, number and Python."""
    random = Random((seed << 64) | number)
    mutation = random.choices(list(_MUTATIONS), [weight for _, weight in _MUTATIONS.values()])[0]
    return _MUTATIONS[mutation][0](random, samples, mutation)


# --- Bytes


def _nothing(random: Random, samples: list[Sample], mutation: str) -> Case:
    sample = random.choice(samples)
    return Case(mutation, sample.data, sample.arrays)


def _truncate(random: Random, samples: list[Sample], mutation: str) -> Case:
    data = random.choice(samples).data
    return Case(mutation, data[: random.randrange(len(data))])


def _flip(random: Random, samples: list[Sample], mutation: str) -> Case:
    data = bytearray(random.choice(samples).data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data[random.randrange(len(data))] ^= random.randrange(1, 256)
    return Case(mutation, bytes(data))


def _splice(random: Random, samples: list[Sample], mutation: str) -> Case:
    """The start of one file and the end of another, or of itself: some bytes are then lost or there twice."""
    head, tail = (random.choice(samples).data for _ in range(2))
    tail = head if random.random() < 0.3 else tail
    return Case(mutation, head[: random.randrange(len(head))] + tail[random.randrange(len(tail)) :])


def _change_value(random: Random, samples: list[Sample], mutation: str) -> Case:
    """A bit of an array's content: the one change that makes another valid file, known to the bit."""
    sample = random.choice([sample for sample in samples if not _is_text(sample) and len(sample.arrays) == 2])
    name = random.choice(list(sample.arrays))
    array = sample.arrays[name]
    order: Literal["C", "F"] = "F" if array.flags.fnc else "C"
    content = bytearray(array.tobytes(order))
    start = sample.data.index(content)
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    data = sample.data[:start] + content + sample.data[start + len(content) :]
    changed = np.ndarray(array.shape, array.dtype, content, order=order)
    tied = [other for other in sample.arrays if sample.arrays[other] is array]
    return Case(mutation, data, {**sample.arrays, **dict.fromkeys(tied, changed)})


def _is_text(sample: Sample) -> bool:
    """Whether contents stand in the file as text: in protocols 0 to 2."""
    return not sample.data.startswith((b"\x80\x03", b"\x80\x04", b"\x80\x05"))


# --- Opcodes

_CODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
_SNIPPETS: list[list[Instruction]] = [
    [(b"c", b"os\nsystem\n"), (b"\x8c", b"\x04true"), (b"\x85", b""), (b"R", b"")],
    [(b"\x8c", b"\x05posix"), (b"\x8c", b"\x06system"), (b"\x93", b"")],
    [(b"c", b"numpy\nndarray\n"), (b")", b""), (b"\x81", b"")],
    [(b"c", b"numpy\nndarray.tofile\n")],
    [(b"c", b"numpy\ndtype\n"), (b"\x8c", b"\x02O8"), (b"\x89", b""), (b"\x88", b""), (b"\x87", b""), (b"R", b"")],
    [(b"(", b""), (b"i", b"os\nsystem\n")],
    [(b"2", b"")] * 50,
    [(b"\x85", b"")] * 50,
]
_EXTREMES = {
    1: [0, 1, 0x7F, 0x80, 0xFF],
    2: [0, 1, 0x7FFF, 0x8000, 0xFFFF],
    4: [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE],
    8: [0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1],
}
_LAYOUTS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}
# Bytes of the length that opcodes have before their argument.
_LENGTHS = {b"U": 1, b"T": 4, b"C": 1, b"B": 4, b"\x8e": 8, b"\x8c": 1, b"X": 4, b"\x8d": 8, b"\x96": 8, b"\x8a": 1}
_LINES = [b"", b"-1", b"0", b"00", b"01", b"18446744073709551616", b"9" * 5000, b"1L", b"\\ud800", b"\\U0001F600"]

Edit = Callable[[Random, list[Instruction], list[Instruction]], None]


def _delete(random: Random, instructions: list[Instruction], _: list[Instruction]) -> None:
    start = random.randrange(len(instructions))
    del instructions[start : start + random.choice((1, 1, 1, 2, 5))]


def _duplicate(random: Random, instructions: list[Instruction], _: list[Instruction]) -> None:
    start = random.randrange(len(instructions))
    part = instructions[start : start + random.choice((1, 1, 2, 5, 30))]
    instructions[start:start] = part * random.choice((1, 1, 1, 2, 20))


def _swap(random: Random, instructions: list[Instruction], _: list[Instruction]) -> None:
    i, j = (random.randrange(len(instructions)) for _ in range(2))
    instructions[i], instructions[j] = instructions[j], instructions[i]


def _take_over(random: Random, instructions: list[Instruction], others: list[Instruction]) -> None:
    """Instructions of another file, in place of some or between two."""
    at, start = random.randrange(len(instructions) + 1), random.randrange(len(others))
    part = others[start : start + random.choice((1, 1, 2, 5, 30))]
    instructions[at : at + random.choice((0, len(part)))] = part


def _insert(random: Random, instructions: list[Instruction], _: list[Instruction]) -> None:
    """Any opcode, with an argument that may or may not fit, or a few that attack."""
    at = random.randrange(len(instructions) + 1)
    argument = random.choice((b"", b"\0", b"\1", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"1\n", b"a\nb\n"))
    instructions[at:at] = random.choice((*_SNIPPETS, [(random.choice(_CODES), argument)]))


def _replace_argument(random: Random, instructions: list[Instruction], _: list[Instruction]) -> None:
    """By an extreme of its size, by random bytes, or by an extreme line."""
    at = random.randrange(len(instructions))
    code, argument = instructions[at]
    if argument.endswith(b"\n"):
        lines = argument.split(b"\n")[:-1]
        lines[random.randrange(len(lines))] = random.choice(_LINES)
        argument = b"".join(line + b"\n" for line in lines)
    elif code in _LENGTHS:
        argument = _change_length(random, argument, _LENGTHS[code])
    elif len(argument) in _EXTREMES:
        argument = struct.pack(_LAYOUTS[len(argument)], random.choice(_EXTREMES[len(argument)]))
    instructions[at] = code, argument


def _change_length(random: Random, argument: bytes, size: int) -> bytes:
    """Another length for the same content, or another content with its length."""
    content = argument[size:]
    if random.random() < 0.5:
        content = random.choice((b"", content[:-1], content + b"\0", random.randbytes(len(content)), content * 3))
        length = min(len(content), 2 ** (8 * size) - 1)
    else:
        length = random.choice((*_EXTREMES[size], len(content) + 1, max(len(content) - 1, 0)))
    return struct.pack(_LAYOUTS[size], length) + content


def _replace_code(random: Random, instructions: list[Instruction], _: list[Instruction]) -> None:
    at = random.randrange(len(instructions))
    instructions[at] = random.choice(_CODES), instructions[at][1]


_EDITS: list[Edit] = [
    _delete,
    _duplicate,
    _swap,
    _take_over,
    _insert,
    _replace_argument,
    _replace_argument,
    _replace_code,
]


def _edit(random: Random, samples: list[Sample], mutation: str) -> Case:
    """One to four changes of instructions; the frame, if any, then fits as often as not."""
    sample, other = (random.choice(samples) for _ in range(2))
    instructions = list(sample.instructions)
    names = []
    for _ in range(random.choice((1, 1, 2, 3, 4))):
        edit = random.choice(_EDITS)
        edit(random, instructions, other.instructions)
        names.append(edit.__name__.strip("_"))
        if not instructions:
            break
    data = assemble(instructions or [(b".", b"")], sample.framed)
    if sample.framed and random.random() < 0.25:
        data = sample.data[:11] + data[11:]  # the frame as it was
    return Case(f"{mutation}: {', '.join(names)}", data)


Mutate = Callable[[Random, list[Sample], str], Case]

# With how often, in relation to the others.
_MUTATIONS: dict[str, tuple[Mutate, float]] = {
    "nothing": (_nothing, 1),
    "truncated": (_truncate, 5),
    "flipped": (_flip, 20),
    "spliced": (_splice, 12),
    "value": (_change_value, 4),
    "edited": (_edit, 58),
}
