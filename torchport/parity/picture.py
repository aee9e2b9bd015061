"""A picture of error/limit as inline SVG: a line per layer and quantity, a mark per report, the limit drawn.

Drawn from reports as Report.to_dict has them, or as they come out of a report.json. Places across are in per cent of
the width, so that text keeps its size on a phone; colours are variables in report.css.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torchport.parity.rows import shortened

SHAPES = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",  # circle
    "M-3.2-3.2h6.4v6.4h-6.4z",  # square
    "M0-4.4L4.4 0L0 4.4L-4.4 0z",  # diamond
    "M0-4L4.2 3.4H-4.2z",  # triangle
    "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",  # plus
    "M0 4L4.2-3.4H-4.2z",  # triangle upside down
)
COLOURS = 4  # as many as report.css has

LABELS_END, EQUAL, START, END = 40.0, 45.0, 55.0, 96.0  # per cent: names, no error, the scale
FAR, FAR_END, FAR_CENTRE = 1e12, 85.0, 94.0  # a ratio to infinity, or of 1e300, would crowd the others out
LABEL_ROOM = 18  # characters that fit beside the scale on a phone
TOP, LANE = 40, 7  # pixels: above the first line, and per report in a line
MARGIN = 7  # pixels from a line's edge to the centre of a mark

Record = Mapping[str, Any]  # a report or a row as plain values
Lines = Mapping[tuple[str, str], Mapping[int, Sequence[Record]]]  # (layer, quantity) -> number of the report -> rows


@dataclass(frozen=True)
class Scale:
    """The decades from 10**low to 10**high, the column of equal values before and, where needed, one of huge ratios."""

    low: int
    high: int
    far: bool

    @classmethod
    def of(cls, ratios: Iterable[float]) -> Scale:
        """One on which every ratio has its place."""
        found = list(ratios)
        logs = [math.log10(ratio) for ratio in found if 0 < ratio <= FAR]
        low, high = math.floor(min(logs, default=0)), math.ceil(max(logs, default=0))
        return cls(min(low, -2), max(high, 1), any(not ratio <= FAR for ratio in found))

    def place(self, ratio: float) -> float:
        """Where a ratio is drawn, in per cent of the width; NaN among the huge."""
        if ratio == 0:
            return EQUAL
        if not ratio <= FAR:
            return FAR_CENTRE
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return START + share * ((FAR_END if self.far else END) - START)

    @property
    def ticks(self) -> list[int]:
        """As many exponents as a phone has room for, 0 among them."""
        step = math.ceil((self.high - self.low) / (3 if self.far else 5))
        return [exponent for exponent in range(self.low, self.high + 1) if exponent % step == 0]


def title_of(report: Record) -> str:
    """What tells a report from its neighbours."""
    return f"{report['port']}, {report['dtype']}, {report['device']}"


def name_of(row: Record) -> str:
    """Layer and quantity, once where they are one word."""
    return " ".join(dict.fromkeys((row["layer"], row["quantity"])))


def size(row: Record) -> float:
    """The error as a multiple of its limit; infinite where it is NaN."""
    ratio = float(row["ratio"])
    return math.inf if math.isnan(ratio) else ratio


def worst(rows: Sequence[Record]) -> Record:
    """The row to show of these: one that fails, else a known difference, else the largest."""
    return max(rows, key=lambda row: (not row["ok"], bool(row["known"]), size(row)))


def draw(reports: Sequence[Record]) -> str:
    """The legend and the picture, as HTML."""
    lines = _lines(reports)
    rows = [row for report in reports for row in report["rows"]]
    scale = Scale.of(size(row) for row in rows if not row["known"])
    failed = {name for row in rows if not row["ok"] for name in (row["layer"], (row["layer"], row["quantity"]))}
    step = max(LANE * (len(reports) - 1) + 2 * MARGIN, 18)
    bottom = TOP + step * len(lines)
    tops = dict(zip(lines, range(TOP, bottom, step), strict=True))
    parts = [_ground(scale, bottom), *_names(tops, failed, step)]
    for name, line in lines.items():
        first = tops[name] + (step - LANE * (len(reports) - 1)) // 2
        # One below the other, so that equal ones do not hide each other.
        parts += [_point(number, reports[number], rows, scale, first + LANE * number) for number, rows in line.items()]
    return (
        f'{_legend(reports)}\n<svg class="picture" width="100%" height="{bottom + 24}" role="img" '
        f'aria-label="Error as a multiple of its limit"><desc>{escape(_summary(reports, lines))}</desc>\n'
        + "\n".join([*parts, _axis(scale, bottom)])
        + "\n</svg>"
    )


def _legend(reports: Sequence[Record]) -> str:
    kinds = [(number, f"colour-{number % COLOURS}", title_of(report)) for number, report in enumerate(reports)]
    if any(row["known"] for report in reports for row in report["rows"]):
        kinds.append((0, "known", "hollow: a known difference of definition, no fault"))
    shapes = [f'<svg width="14" height="14" aria-hidden="true">{_mark(*kind[:2], "7", 7)}</svg>' for kind in kinds]
    items = (f"<li>{shape} {escape(text)}</li>" for shape, (_, _, text) in zip(shapes, kinds, strict=True))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _lines(reports: Sequence[Record]) -> Lines:
    """What to draw: the input, the layers in the order of the outputs, the output of all, the loss."""
    lines: dict[tuple[str, str], dict[int, list[Record]]] = {}
    for number, report in enumerate(reports):
        for row in report["rows"]:
            lines.setdefault((row["layer"], row["quantity"]), {}).setdefault(number, []).append(row)
    layers = [layer for layer, quantity in sorted(lines, key=lambda line: line[1] != "output")]
    places = {layer: place for place, layer in enumerate(dict.fromkeys(layers))}
    places |= {"input": -1, "output": len(places), "loss": len(places) + 1}
    return dict(sorted(lines.items(), key=lambda line: places[line[0][0]]))


def _summary(reports: Sequence[Record], lines: Lines) -> str:
    """The picture in words."""
    if not lines:
        return "Nothing was compared."
    marks = [(worst(rows), reports[number]) for line in lines.values() for number, rows in line.items()]
    failed, equal = sum(not row["ok"] for row, _ in marks), sum(size(row) == 0 for row, _ in marks)
    row, report = max(marks, key=lambda mark: (not mark[0]["ok"], not mark[0]["known"], size(mark[0])))
    return (
        f"{len(lines)} quantities of {len(reports)} comparisons: {len(marks)} marks on a logarithmic scale, "
        f"{failed} beyond the limit, {equal} without any error. The largest error is {size(row):.2g} of its limit: "
        f"{name_of(row)} of {title_of(report)}."
    )


def _ground(scale: Scale, bottom: int) -> str:
    """What lies behind the marks: where a row fails, and the decades."""
    limit = scale.place(1)
    lines = [f'<rect class="beyond" x="{limit:.2f}%" y="{TOP}" width="{100 - limit:.2f}%" height="{bottom - TOP}"/>']
    for exponent in scale.ticks:
        x = f"{scale.place(10.0**exponent):.2f}%"
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
    return "".join(lines)


def _axis(scale: Scale, bottom: int) -> str:
    """The limit, and the numbers above and below."""
    limit = f"{scale.place(1):.2f}%"
    parts = [
        f'<line class="limit" x1="{limit}" x2="{limit}" y1="{TOP - 5}" y2="{bottom + 5}"/>',
        f'<text class="limit-name" x="{limit}" y="{TOP - 24}">limit</text>',
    ]
    labels = [(EQUAL, "equal"), *((scale.place(10.0**exponent), _power(exponent)) for exponent in scale.ticks)]
    if scale.far:
        labels.append((FAR_CENTRE, "to ∞"))
        parts.append(f'<text class="tick" x="{FAR_CENTRE}%" y="{TOP - 24}">{_power(round(math.log10(FAR)))}</text>')
    for x, label in labels:
        for y in (TOP - 9, bottom + 17):
            parts.append(f'<text class="tick" x="{x:.2f}%" y="{y}">{label}</text>')
    return "".join(parts)


def _power(exponent: int) -> str:
    if exponent == 0:
        return "1"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _names(tops: dict[tuple[str, str], int], failed: Collection[object], step: int) -> Iterator[str]:
    """What each line is of: its quantity, and before the first of a layer a line across and the layer's name."""
    firsts = {layer: y for (layer, _), y in reversed(tops.items())}
    for (layer, quantity), y in tops.items():
        base = f'y="{y + step / 2 + 4:g}"'
        if firsts[layer] == y:
            kind, name = " fail" * (layer in failed), shortened(layer, max(LABEL_ROOM - len(quantity), 5))
            yield f'<line class="row" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
            yield f'<text class="layer{kind}" x="0" {base}>{escape(name)}</text>'
        kind, cross = (" fail", "✗ ") if (layer, quantity) in failed else ("", "")
        yield f'<text class="name{kind}" x="{LABELS_END}%" {base}>{cross}{escape(quantity)}</text>'


def _point(number: int, report: Record, rows: Sequence[Record], scale: Scale, y: int) -> str:
    """The mark of a report for what its runs found of one quantity."""
    row = worst(rows)
    kind, why, ratio = "", "", size(row)
    if row["known"]:
        kind, why, ratio = " known", row["known"], min(ratio, 10.0**scale.high)  # no fault, so it may be drawn nearer
    elif not row["ok"]:
        kind, why = " fail", f"FAIL {row['cause']}".rstrip()
    among = f", the worst of {len(rows)} runs" if len(rows) > 1 else ""
    tip = f"{title_of(report)}: {size(row):.2g} of the limit in {row['run']}{among}{why and f': {why}'}"
    return _mark(number, f"colour-{number % COLOURS}{kind}", f"{scale.place(ratio):.2f}%", y, tip)


def _mark(number: int, kind: str, x: str, y: int, tip: str = "") -> str:
    """A report's shape, as an SVG inside the other: so it needs no id, of which a notebook may have many."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<svg class="mark {kind}" x="{x}" y="{y}">{title}<path d="{SHAPES[number % len(SHAPES)]}"/></svg>'
