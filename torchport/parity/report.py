"""What a comparison found: one record per layer and quantity, and the verdict over them all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchport.choices import BFLOAT16, TF32

LOCAL = "local"
END_TO_END = "end-to-end"


@dataclass(frozen=True)
class Difference:
    """The entry of an array that is furthest off, as a multiple of its limit; or, in note, why none can be named."""

    shape: tuple[int, ...] = ()
    index: tuple[int, ...] = ()
    expected: float = float("nan")
    actual: float = float("nan")
    error: float = float("inf")
    limit: float = 0.0
    ratio: float = float("inf")
    loose: int = 0  # entries whose limit is as large as the array's root mean square: hardly judged
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return self.note
        return (
            f"worst at {list(self.index)}, expected {self.expected:.9g}, got {self.actual:.9g}, "
            f"error {self.error:.2e}, limit {self.limit:.2e}"
        )


@dataclass(frozen=True)
class Row:
    """One quantity of one layer, in torch's layout: output, prediction (in evaluation mode), weight, grad_weight..."""

    view: str  # LOCAL or END_TO_END
    layer: str
    quantity: str
    rule: str
    worst: Difference
    cause: str = ""  # what makes the difference, where that is known
    known: str = ""  # a known difference of definition that explains it: no fault

    @property
    def ok(self) -> bool:
        """Whether every entry is within its limit, or what differs is known to be defined otherwise."""
        return self.worst.ratio <= 1 or bool(self.known)

    @property
    def size(self) -> float:
        """Its ratio, to sort by: NaN counts as infinite, a known difference as none."""
        if self.known:
            return 0.0
        return math.inf if math.isnan(self.worst.ratio) else self.worst.ratio

    @property
    def status(self) -> str:
        """In a word or two: FAIL, known, hardly judged or ok."""
        if not self.ok:
            return "FAIL"
        return "known" if self.known else "hardly judged" if self.hardly_judged else "ok"

    @property
    def hardly_judged(self) -> bool:
        """Whether the limits are as large as the values in half of the entries: the row says little."""
        return 2 * self.worst.loose > math.prod(self.worst.shape)

    def __str__(self) -> str:
        rule = "" if self.worst.note else f" ({self.rule})"
        cause = f"; {self.cause or self.known}" if self.cause or self.known else ""
        return f"{self.view} {self.layer} {self.quantity}: {self.worst}{rule}{cause}"


@dataclass(frozen=True, repr=False)
class Report:
    """All rows of one port, in the order in which a fault should be looked for, and what they were computed with.

    Local rows come first, forward and then backward from the loss; then the end-to-end rows. kinks counts the entries
    of the end-to-end pass where the gradient may take the other side of a relu or another entry of a pooling window
    within the limits; what that can change is part of the limits behind it.
    """

    rows: tuple[Row, ...]
    port: str
    dtype: str
    device: str
    seed: int
    kinks: int

    def __bool__(self) -> bool:
        """ok: so that `assert check_parity(...)` says what it seems to say."""
        return self.ok

    def __repr__(self) -> str:
        return self.verdict

    @property
    def ok(self) -> bool:
        """Whether every row is within its limits."""
        return all(row.ok for row in self.rows)

    @property
    def first_divergence(self) -> Row | None:
        """The row to look at first: of the layer at fault, or end-to-end where only the wiring can be."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def inherited(self) -> tuple[Row, ...]:
        """The end-to-end rows that fail where a layer fails by itself: they say no more than that one."""
        first = self.first_divergence
        if first is None or first.view != LOCAL:
            return ()
        return tuple(row for row in self.rows if row.view == END_TO_END and not row.ok)

    @property
    def largest(self) -> dict[tuple[str, str], float]:
        """The largest error/limit by view and rule."""
        found: dict[tuple[str, str], float] = {}
        for row in self.rows:
            found[row.view, row.rule] = max(found.get((row.view, row.rule), 0.0), row.size)
        return found

    @property
    def verdict(self) -> str:
        """One line: parity, or the first divergence and what it means."""
        row, name = self.first_divergence, f"{self.port} in {self.dtype} on {self.device}"
        if row is None:
            worst = max(self.rows, key=lambda row: row.size)
            return (
                f"parity: {name}, all {len(self.rows)} rows within their limits, the largest error "
                f"{worst.worst.ratio:.2g} of its limit ({worst.view} {worst.layer} {worst.quantity}), "
                f"{self.kinks} kinks, {sum(row.hardly_judged for row in self.rows)} rows hardly judged"
                f"{''.join(f'; {known}' for known in dict.fromkeys(row.known for row in self.rows) if known)}"
            )
        failed = sum(not row.ok for row in self.rows)
        cause = "every layer is right by itself, so look at the wiring: order, reshape"
        if row.view == LOCAL:
            cause = f"not inherited: {row.layer} is wrong by itself; {len(self.inherited)} end-to-end rows inherit it"
        return f"NO PARITY: {name}, {failed} of {len(self.rows)} rows fail, first {row}; {cause}"

    def raise_if_failed(self) -> None:
        """AssertionError with the verdict, unless ok."""
        if not self.ok:
            raise AssertionError(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN and infinities as text, which JSON has no numbers for."""
        settings = {
            "port": self.port,
            "dtype": self.dtype,
            "device": self.device,
            "seed": self.seed,
            "kinks": self.kinks,
        }
        return {"ok": self.ok, "verdict": self.verdict, **settings, "rows": [_record(row) for row in self.rows]}

    def to_json(self) -> str:
        """to_dict as text."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self, command: str | None = None) -> str:
        """A page by itself; command is what repeats the comparison (None: the call of check_parity)."""
        from torchport.parity import page  # which knows this module

        mode = f"mode={self.dtype!r}, " if self.dtype in (TF32, BFLOAT16) else ""
        call = f"check_parity(reference, port, x, t, {mode}seed={self.seed}, name={self.port!r})"
        return page.to_html([self], command=call if command is None else command)

    def to_text(self) -> str:
        """A table with a row per layer and quantity, and the largest error/limit by view and rule."""
        header = ("view", "layer", "quantity", "error", "limit", "error/limit", "worst at", "verdict")
        largest = ", ".join(f"{view} {rule} {ratio:.2g}" for (view, rule), ratio in self.largest.items())
        return f"{table([header, *(_cells(row) for row in self.rows)])}\nlargest error/limit: {largest}"


def table(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines of equally many cells as text, each column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _record(row: Row) -> dict[str, Any]:
    record = {**asdict(row), **asdict(row.worst), "ok": row.ok}
    del record["worst"]
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _cells(row: Row) -> tuple[str, ...]:
    worst = row.worst
    numbers = (f"{worst.error:.2e}", f"{worst.limit:.2e}", f"{worst.ratio:.2g}", str(list(worst.index)))
    if worst.note:
        numbers = ("", "", "", worst.note)
    return (
        row.view,
        row.layer,
        row.quantity,
        *numbers,
        row.status,
    )
