"""A report as text that fits a terminal: a summary, a short message, or row by row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchport.parity.report import Report, Row

WIDTH = 79  # columns


def summary(report: Report) -> str:
    """The verdict, the runs, what is wrong, what is right; a table by layer of what fails, then of the rest; notes."""
    head, *findings = _told(report, most=len(report.rows))
    lines = [head, f"runs: {', '.join(report.runs)}", *findings]
    failed = grouped(row for row in report.rows if not row.ok)
    passed = grouped((row for row in report.rows if row.ok), "layer")
    notes = [*(f"known: {known}" for known in report.known), *(f"note: {note}" for note in report.notes)]
    layers = _worst([*failed.values(), *passed.values()], "rule")
    return "\n".join([*map(_wrapped, lines), "", *layers, "", *map(_wrapped, notes)]).rstrip()


def message(report: Report) -> str:
    """A few lines: the verdict, the first fault, what else is wrong, what is right."""
    return "\n".join(map(_wrapped, _told(report, most=1)))


def listing(rows: Iterable[Row]) -> str:
    """A line for each row, and below it what there is to say of it."""
    rows = tuple(rows)
    head, *lines = _worst([[row] for row in rows], "run")
    parts = [head]
    for row, line in zip(rows, lines, strict=True):
        said = (row.known,) if row.known else () if row.ok else (str(row.worst), row.cause)
        parts += [line, *(_wrapped(f"      {words}") for words in said if words)]
    return "\n".join(parts)


def table(lines: Iterable[Sequence[str]], sides: str = "<" * 9) -> str:
    """Lines of equally many cells as text, each column as wide as its widest cell and aligned to a side ("<>")."""
    columns = [
        [f"{cell:{side}{max(map(len, column))}}" for cell in column]
        for side, column in zip(sides, zip(*lines, strict=True), strict=False)
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def grouped(rows: Iterable[Row], by: str = "name") -> dict[str, list[Row]]:
    """The rows by an attribute of theirs, in the order in which it comes."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    return groups


def shortened(name: str, room: int) -> str:
    """A name in one line, cut in its middle to room characters."""
    name = " ".join(name.split())
    return name if len(name) <= room else f"{name[: room // 2]}…{name[len(name) - (room - room // 2 - 1) :]}"


def _told(report: Report, most: int) -> list[str]:
    """The verdict, so many faults, the names of the others and what is right; or how much was compared."""
    lines = [report.head]
    if not report.faults:
        return [*lines, report.measured]
    for number, fault in enumerate(report.faults[:most]):
        lines += [f"{'also wrong: ' if number else ''}{fault.name}{fault.place}", f"  {fault.values}"]
        lines += [f"  cause: {fault.cause}"] if fault.cause else []
    if others := ", ".join(fault.name for fault in report.faults[most:]):
        lines.append(textwrap.shorten(f"also wrong: {others}", WIDTH, placeholder=" ..."))
    return [*lines, f"right: {report.right}"]


def _worst(groups: Iterable[Sequence[Row]], by: str) -> list[str]:
    """A header, and of each group of rows how many there are and the worst, with its run or rule; cut to fit."""
    lines: list[tuple[str, ...]] = [("", by, "layer", "quantity", "ratio", "error", "where")]
    for rows in groups:
        row = max(rows, key=lambda row: row.size)
        count = f"{len(rows)} " if len(rows) > 1 else ""
        names = (shortened(name, 18) for name in (getattr(row, by), row.layer, row.quantity))
        numbers = ("", "") if row.worst.note else (f"{row.worst.ratio:.2g}", f"{row.worst.error:.2g}")
        lines.append((f"{count}{row.status}", *names, *numbers, row.where))
    texts = table(lines, "><<<>><").split("\n")
    return [text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…" for text in texts]


def _wrapped(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
