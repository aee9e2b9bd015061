"""What a comparison found: a row per run, layer and quantity, and one verdict over them all."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torchport.choices import BFLOAT16, TF32
from torchport.parity import page
from torchport.parity.rows import WIDTH, Row, grouped, worst_of_each, wrapped

ENDS = {"input", "output", "loss", "port"}  # what is judged like a layer, and is none


class Fault(NamedTuple):
    """A quantity of a layer that fails, told once for all the runs in which it does, as the first of them shows it."""

    name: str  # "affine2 output"
    place: str  # " at net.py:21, only in integers"
    values: str  # of the worst entry, with error and limit; or what there is in its place
    cause: str  # "" also where a fault before has it


@dataclass(frozen=True, repr=False)
class Report:
    """All rows of one port, in the order in which a fault should be looked for, and what they were computed with.

    It is true where it is ok; its repr is the verdict, its str a table, and a notebook shows a picture.

    Args:
        rows: what was compared; without any there is no parity.
        port, dtype, device, seed: what was judged, and what the random numbers were drawn from.
        runs: the runs of the port that there were, by their sizes and scales.
        notes: what a reader must know of how it was judged.

    >>> from torchport.parity import Difference, Report, Row
    >>> worst = Difference((2,), (1,), expected=1.0, actual=1.5, error=0.5, limit=1e-6, ratio=5e5)
    >>> row = Row("training", "conv1", "output", "sum", worst, where="net.py:14")
    >>> report = Report((row,), "port", "float32", "cpu", seed=0, runs=("training",))
    >>> report
    NO PARITY: port in float32 on cpu: conv1 output [1] is 1.5, expected 1 (error 5.0e-01, limit 1.0e-06) at net.py:14
    >>> bool(report)
    False
    """

    rows: tuple[Row, ...]
    port: str
    dtype: str
    device: str
    seed: int
    runs: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """ok: so that `assert check_parity(...)` says what it seems to say."""
        return self.ok

    def __repr__(self) -> str:
        return self.verdict

    def __str__(self) -> str:
        """The verdict, the runs, what is wrong and right; a table by layer of what fails, then of the rest; notes."""
        head, *findings = self._told(most=len(self.rows))
        lines = [head, f"runs: {', '.join(self.runs)}", *findings]
        failed = grouped(row for row in self.rows if not row.ok)
        passed = grouped((row for row in self.rows if row.ok), "layer")
        notes = [*(f"known: {known}" for known in self.known), *(f"note: {note}" for note in self.notes)]
        layers = worst_of_each([*failed.values(), *passed.values()], "rule")
        return "\n".join([*map(wrapped, lines), "", *layers, "", *map(wrapped, notes)]).rstrip()

    def _told(self, most: int) -> list[str]:
        """The verdict, so many faults, the names of the others and what is right; or how much was compared."""
        if not self.faults:
            return [self.head, self.measured]
        lines = [self.head]
        for number, fault in enumerate(self.faults[:most]):
            lines += [f"{'also wrong: ' if number else ''}{fault.name}{fault.place}", f"  {fault.values}"]
            lines += [f"  cause: {fault.cause}"] if fault.cause else []
        if others := ", ".join(fault.name for fault in self.faults[most:]):
            lines.append(textwrap.shorten(f"also wrong: {others}", WIDTH, placeholder=" ..."))
        return [*lines, f"right: {self.right}"]

    @property
    def ok(self) -> bool:
        """Whether something was compared, and all of it is within its limits."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def first_divergence(self) -> Row | None:
        """The row to look at first."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What fails, each quantity of a layer once, the first divergence first."""
        judged, faults, told = grouped(self.rows), [], {""}
        for name, rows in grouped(row for row in self.rows if not row.ok).items():
            row, runs = rows[0], _runs(rows, judged[name])
            cause = "" if row.cause in told else row.cause
            faults.append(Fault(name, f"{row.at}, {runs}", str(row.worst), cause))
            told.add(row.cause)
        return tuple(faults)

    @property
    def known(self) -> tuple[str, ...]:
        """The known differences of definition, each once."""
        return tuple(dict.fromkeys(f"{row.name}: {row.known}" for row in self.rows if row.known))

    @property
    def right(self) -> str:
        """How much holds in every run: "5 of 6 layers, loss and prediction"."""
        layers, wrong = _layers(self.rows), _layers(row for row in self.rows if not row.ok)
        count = f"{'' if self.ok else f'{len(layers - wrong)} of '}{_count(len(layers), 'layer')}"
        loss = [row.ok for row in self.rows if row.layer == "loss"]
        prediction = [row.ok for row in self.rows if row.run == "prediction"]
        whole = [name for name, oks in (("loss", loss), ("prediction", prediction)) if oks and all(oks)]
        return ", ".join(filter(None, (count, " and ".join(whole))))

    @property
    def verdict(self) -> str:
        """One line: parity of how much, or the first divergence."""
        line = f"{self.head}: {self.first_divergence or '; '.join([self.measured, *self.known])}"
        return " ".join(line.split())

    def raise_if_failed(self) -> None:
        """AssertionError in a few short lines, unless ok."""
        __tracebackhide__ = True  # pytest shows the line that called
        if not self.ok:
            raise AssertionError("\n".join(map(wrapped, self._told(most=1))))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN and infinities as text, which JSON has no numbers for."""
        return {
            **{name: getattr(self, name) for name in ("ok", "verdict", "port", "dtype", "device", "seed", "right")},
            **{name: list(getattr(self, name)) for name in ("runs", "known", "notes")},
            "faults": [fault._asdict() for fault in self.faults],
            "rows": [_record(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """to_dict as text."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self, command: str | None = None, about: Mapping[str, str] | None = None) -> str:
        """A page by itself; command repeats the comparison (None: by check_parity), about names weights and data."""
        mode = f"mode={self.dtype!r}, " if self.dtype in (TF32, BFLOAT16) else ""
        call = f"check_parity(reference, port, x, t, {mode}seed={self.seed}, name={self.port!r})"
        return page.to_html(page.to_dict([self.to_dict()], command=call if command is None else command, about=about))

    def _repr_html_(self) -> str:
        """The verdict, what is wrong and the picture, for a notebook."""
        return page.to_fragment(self.to_dict())

    def to_text(self, rows: Iterable[Row] | None = None) -> str:
        """A line of at most 79 columns for each of rows (None: all), and below it what there is to say."""
        rows = self.rows if rows is None else tuple(rows)
        head, *lines = worst_of_each([[row] for row in rows], "run")
        parts = [head]
        for row, line in zip(rows, lines, strict=True):
            said = (row.known,) if row.known else () if row.ok else (str(row.worst), row.cause)
            parts += [line, *(wrapped(f"      {words}") for words in said if words)]
        return "\n".join(parts)

    @property
    def head(self) -> str:
        """Whether there is parity, of what."""
        return f"{'parity' if self.ok else 'NO PARITY'}: {self.port} in {self.dtype} on {self.device}"

    @property
    def measured(self) -> str:
        """How much was compared, and how near to its limit it came."""
        nearest = max(self.rows, key=lambda row: row.size, default=None)
        if nearest is None:
            return "nothing was compared"
        counts = f"{self.right}, {_count(len(self.rows), 'comparison')} in {_count(len(self.runs), 'run')}"
        return (
            f"{counts}, the largest error {nearest.size:.2g} of its limit{f' ({nearest.name})' if nearest.size else ''}"
        )


def _runs(failed: Sequence[Row], judged: Sequence[Row]) -> str:
    """In which of the runs that judged it something fails."""
    first, *others = dict.fromkeys(row.run for row in failed)
    among = len({row.run for row in judged})
    if others:
        return "in every run" if len(others) + 1 == among else f"in {first}, also in {', '.join(others)}"
    return f"only in {first}" if among > 1 else f"in {first}"


def _layers(rows: Iterable[Row]) -> set[str]:
    """Their layers by name, also of those that were judged together."""
    return {name for row in rows for name in row.layer.split(" and ")} - ENDS


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _record(row: Row) -> dict[str, Any]:
    record = {**asdict(row), **asdict(row.worst), "ok": row.ok}
    del record["worst"]
    record |= {name: list(record[name]) for name in ("shape", "index")}
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
