"""Draws error/limit as inline SVG: a line for each layer and quantity, with a mark for each report, and the limit.

Reports are as Report.to_dict gives them, or as read from a report.json. Horizontal positions are in per cent of the
width, so that text keeps its size on a phone; colours are variables in report.css.
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

LABELS_END, EQUAL, START, END = 40.0, 45.0, 55.0, 96.0  # per cent: end of names, marks without error, the scale
FAR, FAR_END, FAR_CENTRE = 1e12, 85.0, 94.0  # ratios above 1e12 share one column, or they would crowd out the others
LABEL_ROOM = 18  # characters that fit beside the scale on a phone
TOP, LANE = 40, 7  # pixels above the first line, and for each report in a line
MARGIN = 7  # pixels from a line's edge to the centre of a mark

Record = Mapping[str, Any]  # a report or a row as plain values
Lines = Mapping[tuple[str, str], Mapping[int, Sequence[Record]]]  # (layer, quantity) -> number of the report -> rows


@dataclass(frozen=True)
class Scale:
    """A logarithmic scale from 10**low to 10**high; far adds a column for ratios above FAR."""

    low: int
    high: int
    far: bool

    @classmethod
    def of(cls, ratios: Iterable[float]) -> Scale:
        """The scale that has a place for every ratio."""
        ratios = list(ratios)
        logs = [math.log10(ratio) for ratio in ratios if 0 < ratio <= FAR]
        low, high = math.floor(min(logs, default=0)), math.ceil(max(logs, default=0))
        return cls(min(low, -2), max(high, 1), any(not ratio <= FAR for ratio in ratios))

    def place(self, ratio: float) -> float:
        """The position of ratio in per cent of the width; NaN is drawn with the ratios above FAR."""
        if ratio == 0:
            return EQUAL
        if not ratio <= FAR:
            return FAR_CENTRE
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return START + share * ((FAR_END if self.far else END) - START)

    @property
    def ticks(self) -> list[int]:
        """The exponents to label, 0 among them, as many as fit on a phone."""
        step = math.ceil((self.high - self.low) / (3 if self.far else 5))
        return [exponent for exponent in range(self.low, self.high + 1) if exponent % step == 0]


def title_of(report: Record) -> str:
    """The report's port, dtype and device, which distinguish it from its neighbours."""
    return f"{report['port']}, {report['dtype']}, {report['device']}"


def name_of(row: Record) -> str:
    """Layer and quantity; once if they are the same word."""
    return " ".join(dict.fromkeys((row["layer"], row["quantity"])))


def size(row: Record) -> float:
    """The row's ratio of error to limit; infinite if it is NaN."""
    ratio = float(row["ratio"])
    return math.inf if math.isnan(ratio) else ratio


def worst(rows: Sequence[Record]) -> Record:
    """The row to draw: the largest that fails, else the largest known difference, else the largest."""
    return max(rows, key=lambda row: (not row["ok"], bool(row["known"]), size(row)))


def draw(reports: Sequence[Record]) -> str:
    """The legend and the picture of reports, as HTML."""
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
        # Marks are stacked, so that equal ones do not hide each other.
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
    """The rows of reports by line, in order: the input, the layers as their outputs come, the output, the loss."""
    lines: dict[tuple[str, str], dict[int, list[Record]]] = {}
    for number, report in enumerate(reports):
        for row in report["rows"]:
            lines.setdefault((row["layer"], row["quantity"]), {}).setdefault(number, []).append(row)
    layers = [layer for layer, quantity in sorted(lines, key=lambda line: line[1] != "output")]
    places = {layer: place for place, layer in enumerate(dict.fromkeys(layers))}
    places |= {"input": -1, "output": len(places), "loss": len(places) + 1}
    return dict(sorted(lines.items(), key=lambda line: places[line[0][0]]))


def _summary(reports: Sequence[Record], lines: Lines) -> str:
    """A description of the picture for screen readers."""
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
    """The background: the area beyond the limit, and a grid line for each decade."""
    limit = scale.place(1)
    lines = [f'<rect class="beyond" x="{limit:.2f}%" y="{TOP}" width="{100 - limit:.2f}%" height="{bottom - TOP}"/>']
    for exponent in scale.ticks:
        x = f"{scale.place(10.0**exponent):.2f}%"
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
    return "".join(lines)


def _axis(scale: Scale, bottom: int) -> str:
    """The line of the limit, and the labels above and below."""
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
    """Yield the label of each line: its quantity, and at a layer's first line a rule and the layer's name."""
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
    """The mark of one report on one line, for the worst of rows, with a tooltip."""
    row = worst(rows)
    kind, reason, ratio = "", "", size(row)
    if row["known"]:
        kind, reason = " known", row["known"]
        ratio = min(ratio, 10.0**scale.high)  # no fault, so it need not widen the scale
    elif not row["ok"]:
        kind, reason = " fail", f"FAIL {row['cause']}".rstrip()
    run_count = f", the worst of {len(rows)} runs" if len(rows) > 1 else ""
    tip = f"{title_of(report)}: {size(row):.2g} of the limit in {row['run']}{run_count}{reason and f': {reason}'}"
    return _mark(number, f"colour-{number % COLOURS}{kind}", f"{scale.place(ratio):.2f}%", y, tip)


def _mark(number: int, kind: str, x: str, y: int, tip: str = "") -> str:
    """A report's shape as a nested SVG, which needs no id: a notebook may hold many pictures."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<svg class="mark {kind}" x="{x}" y="{y}">{title}<path d="{SHAPES[number % len(SHAPES)]}"/></svg>'
