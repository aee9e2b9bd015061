"""Report: all rows of one port, one for each run, layer and quantity, and the verdict on them."""

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

ENDS = {"input", "output", "loss", "port"}  # names in Row.layer that are no layers


class Fault(NamedTuple):
    """A quantity of a layer that fails, once for all runs in which it does, with the numbers of the first of them."""

    name: str  # "affine2 output"
    place: str  # " at net.py:21, only in integers"
    values: str  # the worst entry with its error and limit, or the row's note
    cause: str  # "" if unknown, or if an earlier fault has named it


@dataclass(frozen=True, repr=False)
class Report:
    """All rows of one port, in the order in which to look for a fault, and the settings they were computed with.

    A report is true if it is ok. Its repr is the verdict, its str a table, and a notebook shows it as a picture.

    Args:
        rows: The comparisons; without any there is no parity.
        port, dtype, device, seed: The name of the port, its dtype or mode, its device, and the seed of random data.
        runs: The names of the runs that were made.
        notes: What a reader must know about how the port was judged.

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
        """ok, so that `assert check_parity(...)` works."""
        return self.ok

    def __repr__(self) -> str:
        return self.verdict

    def __str__(self) -> str:
        """The verdict, the runs, the faults, what is right; a table of failing quantities and of layers; the notes."""
        head, *findings = self._summary_lines(most=len(self.rows))
        lines = [head, f"runs: {', '.join(self.runs)}", *findings]
        failed = grouped(row for row in self.rows if not row.ok)
        passed = grouped((row for row in self.rows if row.ok), "layer")
        notes = [*(f"known: {known}" for known in self.known), *(f"note: {note}" for note in self.notes)]
        layers = worst_of_each([*failed.values(), *passed.values()], "rule")
        return "\n".join([*map(wrapped, lines), "", *layers, "", *map(wrapped, notes)]).rstrip()

    def _summary_lines(self, most: int) -> list[str]:
        """The verdict, then the first most faults in full, the others' names and what is right; or the counts."""
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
        """Whether there are rows, and all of them are ok."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def first_divergence(self) -> Row | None:
        """The first row that fails, where to begin looking; None if none does."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The quantities that fail, each once, the first divergence first."""
        rows_by_name, faults, named_causes = grouped(self.rows), [], {""}
        for name, rows in grouped(row for row in self.rows if not row.ok).items():
            row, runs = rows[0], _runs(rows, rows_by_name[name])
            cause = "" if row.cause in named_causes else row.cause
            faults.append(Fault(name, f"{row.at}, {runs}", str(row.worst), cause))
            named_causes.add(row.cause)
        return tuple(faults)

    @property
    def known(self) -> tuple[str, ...]:
        """The known differences of definition, each once."""
        return tuple(dict.fromkeys(f"{row.name}: {row.known}" for row in self.rows if row.known))

    @property
    def right(self) -> str:
        """What holds in every run, as "5 of 6 layers, loss and prediction"."""
        layers, wrong = _layers(self.rows), _layers(row for row in self.rows if not row.ok)
        count = f"{'' if self.ok else f'{len(layers - wrong)} of '}{_count(len(layers), 'layer')}"
        loss = [row.ok for row in self.rows if row.layer == "loss"]
        prediction = [row.ok for row in self.rows if row.run == "prediction"]
        whole = [name for name, oks in (("loss", loss), ("prediction", prediction)) if oks and all(oks)]
        return ", ".join(filter(None, (count, " and ".join(whole))))

    @property
    def verdict(self) -> str:
        """One line: parity with the number of comparisons, or the first divergence."""
        line = f"{self.head}: {self.first_divergence or '; '.join([self.measured, *self.known])}"
        return " ".join(line.split())

    def raise_if_failed(self) -> None:
        """Raise AssertionError, with the first fault in a few short lines, unless ok."""
        __tracebackhide__ = True  # pytest shows the line that called
        if not self.ok:
            raise AssertionError("\n".join(map(wrapped, self._summary_lines(most=1))))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; NaN and infinities, which JSON lacks, as text."""
        return {
            **{name: getattr(self, name) for name in ("ok", "verdict", "port", "dtype", "device", "seed", "right")},
            **{name: list(getattr(self, name)) for name in ("runs", "known", "notes")},
            "faults": [fault._asdict() for fault in self.faults],
            "rows": [_record(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """to_dict() as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self, command: str | None = None, about: Mapping[str, str] | None = None) -> str:
        """The report as an HTML page; command repeats it (None: a call of check_parity), about describes the data."""
        mode = f"mode={self.dtype!r}, " if self.dtype in (TF32, BFLOAT16) else ""
        call = f"check_parity(reference, port, x, t, {mode}seed={self.seed}, name={self.port!r})"
        return page.to_html(page.to_dict([self.to_dict()], command=call if command is None else command, about=about))

    def _repr_html_(self) -> str:
        """The verdict, the faults and the picture, for a notebook."""
        return page.to_fragment(self.to_dict())

    def to_text(self, rows: Iterable[Row] | None = None) -> str:
        """A line of at most 79 columns for each of rows (None: all), with values and cause below one that fails."""
        rows = self.rows if rows is None else tuple(rows)
        head, *lines = worst_of_each([[row] for row in rows], "run")
        parts = [head]
        for row, line in zip(rows, lines, strict=True):
            comments = (row.known,) if row.known else () if row.ok else (str(row.worst), row.cause)
            parts += [line, *(wrapped(f"      {comment}") for comment in comments if comment)]
        return "\n".join(parts)

    @property
    def head(self) -> str:
        """Whether there is parity, of which port, in which dtype, on which device."""
        return f"{'parity' if self.ok else 'NO PARITY'}: {self.port} in {self.dtype} on {self.device}"

    @property
    def measured(self) -> str:
        """How much was compared, and the largest ratio of error to limit."""
        nearest = max(self.rows, key=lambda row: row.size, default=None)
        if nearest is None:
            return "nothing was compared"
        counts = f"{self.right}, {_count(len(self.rows), 'comparison')} in {_count(len(self.runs), 'run')}"
        return (
            f"{counts}, the largest error {nearest.size:.2g} of its limit{f' ({nearest.name})' if nearest.size else ''}"
        )


def _runs(failed: Sequence[Row], judged: Sequence[Row]) -> str:
    """The runs in which a quantity fails, among those that judged it, in words."""
    first, *others = dict.fromkeys(row.run for row in failed)
    run_count = len({row.run for row in judged})
    if others:
        return "in every run" if len(others) + 1 == run_count else f"in {first}, also in {', '.join(others)}"
    return f"only in {first}" if run_count > 1 else f"in {first}"


def _layers(rows: Iterable[Row]) -> set[str]:
    """The names of all layers in rows, each also if several were judged together."""
    return {name for row in rows for name in row.layer.split(" and ")} - ENDS


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _record(row: Row) -> dict[str, Any]:
    record = {**asdict(row), **asdict(row.worst), "ok": row.ok}
    del record["worst"]
    record |= {name: list(record[name]) for name in ("shape", "index")}
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
