"""The parity report as one HTML page, which needs no other file, script or font; and as JSON with the same numbers."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch

from numpy_ref.files import replace_file
from torchport.choices import TF32
from torchport.parity.picture import draw, title_of
from torchport.parity.report import LOCAL, Report, Row

HEADER = ("quantity", "verdict", "view", "error/limit (ratio)", "error", "limit", "worst at", "expected", "actual")


def all_agree(reports: Sequence[Report], evaluation: Mapping[str, Any] | None = None) -> bool:
    """Whether every row is within its limit and, if evaluated, every prediction equal. ValueError without a report."""
    if not reports:
        raise ValueError("parity is judged over one report or more, got none")
    return all(report.ok for report in reports) and _predictions_agree(evaluation)


def environment(reports: Sequence[Report]) -> dict[str, str]:
    """Versions, devices, flags and seeds: what a result depends on, by name."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "system": platform.platform(),
        "CPU": f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": ", ".join(dict.fromkeys(_device(report.device) for report in reports)),
        "threads": str(torch.get_num_threads()),
        "TF32": "on" if any(report.dtype == TF32 for report in reports) else "off while judging",
        "deterministic algorithms": "required" if deterministic else "not required",
        "cuDNN benchmark": "on" if torch.backends.cudnn.benchmark else "off",
        "seed": ", ".join(dict.fromkeys(str(report.seed) for report in reports)),
    }


def to_dict(reports: Sequence[Report], *, command: str, evaluation: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the page says, as plain values for JSON. ValueError without a report."""
    found = {
        "ok": all_agree(reports, evaluation),
        "command": command,
        "environment": environment(reports),
        "reports": [report.to_dict() for report in reports],
    }
    return found if evaluation is None else {**found, "evaluation": dict(evaluation)}


def to_html(reports: Sequence[Report], *, command: str, evaluation: Mapping[str, Any] | None = None) -> str:
    """One page. evaluation: accuracy by network, samples, agreeing, memory (bytes, None). ValueError without a report.

    command is what repeats the comparison, in one line.
    """
    ok = all_agree(reports, evaluation)
    first = sorted(reports, key=lambda report: report.ok)
    template = resources.files("torchport.parity").joinpath("report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        verdict="PARITY" if ok else "NO PARITY",
        state="ok" if ok else "fail",
        sentences="\n".join([*_disagreement(evaluation), *map(_sentence, first)]),
        picture=draw(reports),
        largest=_largest(reports),
        evaluation="" if evaluation is None else _evaluation(evaluation),
        rows="\n".join(_rows(report, alone=len(reports) == 1) for report in first),
        command=escape(command),
        environment=_environment(reports),
    )


def save(
    folder: Path, reports: Sequence[Report], *, command: str, evaluation: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write report.json and report.html into folder, each whole or not at all; their paths. ValueError, OSError."""
    record = json.dumps(to_dict(reports, command=command, evaluation=evaluation), indent=1)
    page = to_html(reports, command=command, evaluation=evaluation)
    paths = folder / "report.json", folder / "report.html"
    for path, text in zip(paths, (record, page), strict=True):
        replace_file(path, text.encode())
    return paths


def _predictions_agree(evaluation: Mapping[str, Any] | None) -> bool:
    return evaluation is None or bool(evaluation["agreeing"] == evaluation["samples"])


def _device(name: str) -> str:
    """With the model's name, where this machine has it."""
    if torch.device(name).type == "cuda" and torch.cuda.is_available():
        return f"{name} ({torch.cuda.get_device_name(name)})"
    return name


def _sentence(report: Report) -> str:
    """The verdict of one report as a list item."""
    kinks = f"{report.kinks} {'kink' if report.kinks == 1 else 'kinks'}"
    return (
        f'<li class="{"ok" if report.ok else "fail"}">{escape(report.verdict)} <span class="of">({kinks})</span></li>'
    )


def _disagreement(evaluation: Mapping[str, Any] | None) -> list[str]:
    """A list item where the networks predict differently, which no report knows of."""
    if evaluation is None or _predictions_agree(evaluation):
        return []
    differing = evaluation["samples"] - evaluation["agreeing"]
    return [f'<li class="fail">NO PARITY: {differing} of {evaluation["samples"]} predictions differ.</li>']


def _table(caption: str, header: Iterable[str], bodies: Iterable[Iterable[str]]) -> str:
    """A table that scrolls by itself where the screen is narrower, by keyboard too."""
    name = escape(caption)
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in header)
    groups = "\n".join("<tbody>\n" + "\n".join(rows) + "\n</tbody>" for rows in bodies)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n<table><caption>{name}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n{groups}\n</table></div>"
    )


def _cells(head: str, *cells: str) -> str:
    """A row of a table from a heading, to be escaped, and HTML."""
    return f'<tr><th scope="row">{escape(head)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _number(value: float, spec: str) -> str:
    """Rounded for the eye, exact in the markup, as JSON has it."""
    shown = format(value, spec) if math.isfinite(value) else {"nan": "NaN", "inf": "∞"}.get(str(value), "-∞")
    return f'<data value="{value}">{shown}</data>'


def _largest(reports: Sequence[Report]) -> str:
    """How near the limits come to being reached, by view, rule, dtype and device."""
    groups: dict[tuple[str, ...], list[tuple[Row, Report]]] = {}
    for report in reports:
        for row in report.rows:
            groups.setdefault((row.view, row.rule, report.dtype, report.device), []).append((row, report))
    rows = []
    for (view, *rest), found in sorted(groups.items(), key=lambda group: (group[0][0] != LOCAL, group[0])):
        row, report = max(found, key=lambda pair: pair[0].size)
        where = escape(f"{report.port}, {row.layer} {row.quantity}") if row.worst.ratio else "all equal"
        rule, *place = map(escape, rest)
        rows.append(_cells(view, rule, _number(row.worst.ratio, ".2g"), *place, where))
    header = ("view", "rule", "error/limit", "dtype", "device", "where")
    return _table("Largest error/limit by rule", header, [rows])


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    """Accuracy of all networks on a test set."""
    memory = evaluation["memory"]
    rows = [_cells(name, _number(accuracy, ".4f")) for name, accuracy in evaluation["accuracy"].items()]
    rows.append(_cells("equal predictions", f"{evaluation['agreeing']} of {evaluation['samples']}"))
    rows.append(_cells("peak memory", "unknown" if memory is None else f"{memory / 2**20:.0f} MiB"))
    return "<h2>On the test set</h2>\n" + _table("Accuracy (share of test images)", ("network", "result"), [rows])


def _environment(reports: Sequence[Report]) -> str:
    rows = [_cells(name, escape(value)) for name, value in environment(reports).items()]
    return _table("What it ran on", ("what", "value"), [rows])


def _rows(report: Report, alone: bool) -> str:
    """All rows of one report, what fails first; folded where nothing fails."""
    failed, passed = [row for row in report.rows if not row.ok], [row for row in report.rows if row.ok]
    groups = [(f"{len(failed)} outside their limits, first what to look at first", failed)] if failed else []
    groups.append((f"{len(passed)} within their limits", passed))
    bodies = [
        [f'<tr class="group"><th scope="rowgroup" colspan="{len(HEADER) + 1}">{name}</th></tr>', *map(_row, rows)]
        for name, rows in groups
    ]
    title = title_of(report)
    count = f"{len(failed)} of {len(report.rows)} rows FAIL" if failed else f"all {len(report.rows)} rows ok"
    return (
        f"<details{' open' if failed or alone else ''}><summary><h3>{escape(title)}: {count}</h3></summary>\n"
        + _table(f"The worst entry of each array: {title}", (*HEADER, "rule"), bodies)
        + "\n</details>"
    )


def _word(row: Row) -> str:
    """The verdict of a row."""
    if not row.ok:
        return "<strong>FAIL</strong>"
    return row.status


def _row(row: Row) -> str:
    worst = row.worst
    values = (worst.error, ".2e"), (worst.limit, ".2e"), (worst.expected, ".9g"), (worst.actual, ".9g")
    numbers = [f"<td>{_number(value, spec)}</td>" for value, spec in values]
    numbers.insert(2, f"<td>{escape(str(list(worst.index)))}</td>")
    if worst.note:
        numbers = [f'<td colspan="5" class="note">{escape(worst.note)}</td>']
    return (
        f'<tr class="{"ok" if row.ok else "fail"}"><th scope="row">{escape(row.layer)} {escape(row.quantity)}</th>'
        f"<td>{_word(row)}</td><td>{escape(row.view)}</td>"
        f"<td>{_number(worst.ratio, '.2g')}</td>{''.join(numbers)}<td>{escape(row.rule)}</td></tr>"
    )
