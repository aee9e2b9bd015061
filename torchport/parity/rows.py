"""Row, one comparison of a report; and rows as text that fits a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchport.parity.compare import Difference

WIDTH = 79  # columns


@dataclass(frozen=True)
class Row:
    """One quantity of one layer in one run of the port, in torch's layout: output, grad_input, weight, grad_bias..."""

    run: str  # training, prediction, 1 sample, integers, batch...
    layer: str
    quantity: str
    rule: str
    worst: Difference
    where: str = ""  # "net.py:21", or "expected relu1 before net.py:21"
    cause: str = ""  # the mistake that explains the difference within all limits
    known: str = ""  # the known difference of definition that explains it, which is no fault

    @property
    def name(self) -> str:
        """Layer and quantity; once if they are the same word, as in "output output"."""
        return " ".join(dict.fromkeys((self.layer, self.quantity)))

    @property
    def ok(self) -> bool:
        """Whether every entry is within its limit, or the difference is a known one of definition."""
        return self.worst.ratio <= 1 or bool(self.known)

    @property
    def size(self) -> float:
        """The ratio of error to limit as a sort key: infinite for NaN, 0 for a known difference."""
        if self.known:
            return 0.0
        return math.inf if math.isnan(self.worst.ratio) else self.worst.ratio

    @property
    def status(self) -> str:
        """FAIL, known or ok."""
        return "known" if self.known else "ok" if self.ok else "FAIL"

    @property
    def at(self) -> str:
        """where, as the continuation of a sentence."""
        return self.where and f"{', ' if self.where.startswith('expected') else ' at '}{self.where}"

    def __str__(self) -> str:
        run = "" if self.run == "training" else f" (in {self.run})"
        why = f": {self.cause or self.known}" if self.cause or self.known else ""
        return f"{self.name}{':' * bool(self.worst.note)} {self.worst}{self.at}{run}{why}"


def grouped(rows: Iterable[Row], by: str = "name") -> dict[str, list[Row]]:
    """The rows grouped by the attribute of that name, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    return groups


def table(lines: Iterable[Sequence[str]], sides: str = "<" * 9) -> str:
    """Lines of cells as text, each column as wide as its widest cell and aligned by its character in sides: < or >."""
    columns = [
        [f"{cell:{side}{max(map(len, column))}}" for cell in column]
        for side, column in zip(sides, zip(*lines, strict=True), strict=False)
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def shortened(name: str, room: int) -> str:
    """name in one line, shortened in the middle to room characters."""
    name = " ".join(name.split())
    return name if len(name) <= room else f"{name[: room // 2]}…{name[len(name) - (room - room // 2 - 1) :]}"


def wrapped(line: str) -> str:
    """line wrapped to WIDTH columns, with continuation lines indented further."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def worst_of_each(groups: Iterable[Sequence[Row]], attribute: str) -> list[str]:
    """A header and a line for each group of rows: their number, and the worst row with its attribute; cut to WIDTH."""
    lines: list[tuple[str, ...]] = [("", attribute, "layer", "quantity", "ratio", "error", "where")]
    for rows in groups:
        row = max(rows, key=lambda row: row.size)
        count = f"{len(rows)} " if len(rows) > 1 else ""
        names = (shortened(name, 18) for name in (getattr(row, attribute), row.layer, row.quantity))
        numbers = ("", "") if row.worst.note else (f"{row.worst.ratio:.2g}", f"{row.worst.error:.2g}")
        lines.append((f"{count}{row.status}", *names, *numbers, row.where))
    texts = table(lines, "><<<>><").split("\n")
    return [text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…" for text in texts]
