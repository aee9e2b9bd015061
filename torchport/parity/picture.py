"""A picture of error/limit as inline SVG: a line per layer and quantity, a mark per report, the limit drawn.

Places across are in per cent of the width, so that text keeps its size on a phone; colours are the page's variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from torchport.parity.report import END_TO_END, LOCAL, Report, Row

VIEWS = {LOCAL: "Local: each layer by itself", END_TO_END: "End to end: the whole network"}

SHAPES = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",  # circle
    "M-3.2-3.2h6.4v6.4h-6.4z",  # square
    "M0-4.4L4.4 0L0 4.4L-4.4 0z",  # diamond
    "M0-4L4.2 3.4H-4.2z",  # triangle
    "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",  # plus
    "M0 4L4.2-3.4H-4.2z",  # triangle upside down
)
COLOURS = 4  # as many as report_template.html has

LABELS_END, EQUAL, START, END = 40.0, 45.0, 55.0, 96.0  # per cent: names, no error, the scale
FAR, FAR_END, FAR_CENTRE = 1e12, 85.0, 94.0  # a ratio to infinity, or of 1e300, would crowd the others out
LABEL_ROOM = 19  # characters that fit beside the scale on a phone
TOP, LANE = 40, 7  # pixels: above the first line, and per report in a line
MARGIN = 7  # pixels from a line's edge to the centre of a mark

Lines = Mapping[tuple[str, str], Mapping[int, Row]]  # (layer, quantity) -> number of the report -> row


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


def title_of(report: Report) -> str:
    """What tells a report from its neighbours."""
    return f"{report.port}, {report.dtype}, {report.device}"


def draw(reports: Sequence[Report]) -> str:
    """The legend, and a picture per view on one scale, as HTML."""
    scale = Scale.of(row.worst.ratio for report in reports for row in report.rows)
    views = {view: _lines(reports, view) for view in VIEWS}
    pictures = [_picture(reports, view, lines, scale) for view, lines in views.items() if lines]
    shapes = "".join(f'<path id="mark-{number}" d="{shape}"/>' for number, shape in enumerate(SHAPES))
    legend = "".join(
        f'<li><svg width="14" height="14" aria-hidden="true">{_mark(number, "7", 7)}</svg> '
        f"{escape(title_of(report))}</li>"
        for number, report in enumerate(reports)
    )
    return (
        f'<svg width="0" height="0" class="shapes" aria-hidden="true"><defs>{shapes}</defs></svg>\n'
        f'<ul class="legend">{legend}</ul>\n<div class="pictures">\n' + "\n".join(pictures) + "\n</div>"
    )


def _lines(reports: Sequence[Report], view: str) -> Lines:
    """What to draw, in the order of the first report that has it."""
    lines: dict[tuple[str, str], dict[int, Row]] = {}
    for number, report in enumerate(reports):
        for row in report.rows:
            if row.view == view:
                lines.setdefault((row.layer, row.quantity), {})[number] = row
    return lines


def _picture(reports: Sequence[Report], view: str, lines: Lines, scale: Scale) -> str:
    step = max(LANE * (len(reports) - 1) + 2 * MARGIN, 18)
    bottom = TOP + step * len(lines)
    drawn = [_line(reports, key, rows, TOP + step * i, step, scale) for i, (key, rows) in enumerate(lines.items())]
    name = "picture-" + view
    return (
        f'<figure><figcaption>{VIEWS[view]}</figcaption>\n<svg class="picture" width="100%" height="{bottom + 24}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">'
        f'Error as a multiple of its limit. {VIEWS[view]}</title>\n<desc id="{name}-desc">'
        f"{escape(_summary(reports, lines))}</desc>\n"
        + "\n".join([_ground(scale, bottom), *drawn, _axis(scale, bottom)])
        + "\n</svg></figure>"
    )


def _summary(reports: Sequence[Report], lines: Lines) -> str:
    """The picture in words."""
    marks = [(number, row) for rows in lines.values() for number, row in rows.items()]
    beyond = sum(not row.ok for _, row in marks)
    equal = sum(row.worst.ratio == 0 for _, row in marks)
    number, worst = max(marks, key=lambda mark: mark[1].size)
    return (
        f"{len(lines)} quantities of {len(reports)} comparisons: {len(marks)} marks on a logarithmic scale, "
        f"{beyond} beyond the limit, {equal} without any error. The largest error is {worst.worst.ratio:.2g} of its "
        f"limit: {worst.layer} {worst.quantity} of {title_of(reports[number])}. The tables below have every number."
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


def _line(
    reports: Sequence[Report], key: tuple[str, str], rows: Mapping[int, Row], y: int, step: int, scale: Scale
) -> str:
    """A name and its marks, one below the other so that equal ones do not hide each other."""
    failed = not all(row.ok for row in rows.values())
    parts = [
        f'<g><title>{escape(" ".join(key))}</title><line class="row" x1="0" x2="100%" y1="{y}" y2="{y}"/>',
        f'<text class="{"name fail" if failed else "name"}" x="{LABELS_END}%" y="{y + step / 2 + 4:g}">'
        f"{'✗ ' if failed else ''}{escape(_label(*key))}</text></g>",
    ]
    top = y + (step - LANE * (len(reports) - 1)) // 2
    for number, row in rows.items():
        place = f"{scale.place(row.worst.ratio):.2f}%"
        title = f"{title_of(reports[number])}: {row.worst.ratio:.2g} of the limit{'' if row.ok else ', FAIL'}"
        parts.append(_mark(number, place, top + LANE * number, title))
    return "".join(parts)


def _label(layer: str, quantity: str) -> str:
    """Layer and quantity, cut in the middle of the layer's name where it is long."""
    room = max(LABEL_ROOM - len(quantity) - 1, 5)
    if len(layer) > room:
        layer = f"{layer[: room // 2]}…{layer[-(room - room // 2 - 1) :]}"
    return f"{layer} {quantity}"


def _mark(number: int, x: str, y: int, title: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<use href="#mark-{number % len(SHAPES)}" class="mark colour-{number % COLOURS}" x="{x}" y="{y}">{tip}</use>'
    )
