"""The parity report as one self-contained HTML page, and as JSON with the same numbers.

Both are made from reports as Report.to_dict gives them, so a page can be drawn again from its report.json.
"""

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
from torchport.parity.picture import Record, draw, name_of, title_of

NUMBERS = {"expected": ".9g", "actual": ".9g", "error": ".2e", "limit": ".2e"}
HEADER = ("quantity", "run", "verdict", "error/limit", *NUMBERS, "worst at", "rule", "where")


def to_dict(
    reports: Sequence[Record],
    *,
    command: str,
    evaluation: Record | None = None,
    about: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The contents of the page, as plain values for JSON. Raises ValueError without a report.

    command is the line that repeats the comparison; evaluation has accuracy (by network), samples, agreeing and memory
    (bytes or None); about describes the weights, the data, the batch and so on, by name.
    """
    if not reports:
        raise ValueError("parity is judged over one report or more, got none")
    return {
        "ok": all(report["ok"] for report in reports) and not _differing(evaluation),
        "command": command,
        "about": dict(about or {}),
        "environment": environment(reports),
        "reports": list(reports),
        **({} if evaluation is None else {"evaluation": dict(evaluation)}),
    }


def environment(reports: Sequence[Record]) -> dict[str, str]:
    """The versions, devices, flags and seeds that a result depends on, by name."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "system": platform.platform(),
        "CPU": f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": ", ".join(dict.fromkeys(_device(report["device"]) for report in reports)),
        "threads": str(torch.get_num_threads()),
        "TF32": "on" if any(report["dtype"] == TF32 for report in reports) else "off while judging",
        "deterministic algorithms": "required" if deterministic else "not required",
        "cuDNN benchmark": "on" if torch.backends.cudnn.benchmark else "off",
        "seed": ", ".join(dict.fromkeys(str(report["seed"]) for report in reports)),
    }


def to_html(record: Record) -> str:
    """The page for what to_dict returned, or for the same read back from JSON."""
    reports, evaluation = record["reports"], record.get("evaluation")
    first = sorted(reports, key=lambda report: bool(report["ok"]))
    about = {**record["about"], "runs": ", ".join(dict.fromkeys(run for report in reports for run in report["runs"]))}
    differ = f"NO PARITY: {_differing(evaluation)} of {evaluation['samples']} predictions differ." if evaluation else ""
    return Template(_file("report_template.html")).substitute(
        verdict="PARITY" if record["ok"] else "NO PARITY",
        state="ok" if record["ok"] else "fail",
        style=_file("report.css"),
        about="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in about.items()),
        disagreement=f'<div class="finding fail">{differ}</div>' if _differing(evaluation) else "",
        findings="\n".join(map(_findings, first)),
        evaluation=_evaluation(evaluation) if evaluation else "",
        picture=draw(reports),
        rows="\n".join(_rows(report, alone=len(reports) == 1) for report in first),
        command=escape(record["command"]),
        environment=_pairs("What it ran on", ("what", "value"), record["environment"]),
    )


def to_fragment(report: Record) -> str:
    """One report for a notebook: its findings and the picture, in colours for light and dark themes."""
    return f'<div class="parity"><style>{_file("report.css")}</style>\n{_findings(report)}\n{draw([report])}\n</div>'


def save(folder: Path, record: Record) -> tuple[Path, Path]:
    """Write what to_dict returned as report.json and report.html into folder, each atomically. Raises OSError."""
    paths = folder / "report.json", folder / "report.html"
    for path, text in zip(paths, (json.dumps(record, indent=1), to_html(record)), strict=True):
        replace_file(path, text.encode())
    return paths


def _file(name: str) -> str:
    return resources.files("torchport.parity").joinpath(name).read_text(encoding="utf-8")


def _device(name: str) -> str:
    """The device's name, with its model if this machine has it."""
    if torch.device(name).type == "cuda" and torch.cuda.is_available():
        return f"{name} ({torch.cuda.get_device_name(name)})"
    return name


def _differing(evaluation: Record | None) -> int:
    """The number of predictions that differ between the networks."""
    return 0 if evaluation is None else evaluation["samples"] - evaluation["agreeing"]


def _findings(report: Record) -> str:
    """The verdict of one report as HTML; if it fails, every fault and what is right; then its notes."""
    faults = [
        f"<li><strong>{escape(fault['name'])}</strong>{escape(fault['place'])}<br>{escape(fault['values'])}"
        + (f"<br>{escape(fault['cause'])}</li>" if fault["cause"] else "</li>")
        for fault in report["faults"]
    ]
    known = [f"known difference of definition, no fault: {text}" for text in report["known"]]
    notes = [*([f"right: {report['right']}", *known] if faults else []), *report["notes"]]
    return (
        f'<div class="finding {"ok" if report["ok"] else "fail"}">'
        + (f"NO PARITY: {escape(title_of(report))}" if faults else escape(report["verdict"]))
        + (f"<ul>{''.join(faults)}</ul>" if faults else "")
        + "".join(f'<div class="of">{escape(note)}</div>' for note in notes)
        + "</div>"
    )


def _table(caption: str, header: Iterable[str], rows: Iterable[str]) -> str:
    """A table that scrolls, by keyboard too, if the screen is narrower."""
    name, lines = escape(caption), "\n".join(rows)
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in header)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n<table><caption>{name}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def _number(value: float | str, spec: str) -> str:
    """value rounded for display, with the exact number, as in the JSON, in the markup."""
    number = float(value)
    text = format(number, spec) if math.isfinite(number) else {"nan": "NaN", "inf": "∞"}.get(str(number), "-∞")
    return f'<data value="{value}">{text}</data>'


def _evaluation(evaluation: Record) -> str:
    """The section on the test set: each network's accuracy, equal predictions and peak memory."""
    memory = evaluation["memory"]
    pairs = {name: f"{accuracy:.4f}" for name, accuracy in evaluation["accuracy"].items()}
    pairs["equal predictions"] = f"{evaluation['agreeing']} of {evaluation['samples']}"
    pairs["peak memory"] = "unknown" if memory is None else f"{memory / 2**20:.0f} MiB"
    return "<h2>On the test set</h2>\n" + _pairs("Accuracy (share of test images)", ("network", "result"), pairs)


def _pairs(caption: str, header: tuple[str, str], pairs: Mapping[str, str]) -> str:
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs.items())
    return _table(caption, header, rows)


def _rows(report: Record, alone: bool) -> str:
    """The table of one report's rows, failing ones first; collapsed if none fails, unless the report is alone."""
    rows = sorted(report["rows"], key=lambda row: bool(row["ok"]))
    failed, title = sum(not row["ok"] for row in rows), escape(title_of(report))
    count = f"{failed} of {len(rows)} rows FAIL" if failed else f"all {len(rows)} rows ok"
    return (
        f"<details{' open' if failed or alone else ''}><summary><h3>{title}: {count}</h3></summary>\n"
        + _table(f"The worst entry of each array: {title_of(report)}", HEADER, map(_row, rows))
        + "\n</details>"
    )


def _row(row: Record) -> str:
    numbers = [f"<td>{_number(row[name], spec)}</td>" for name, spec in NUMBERS.items()]
    if row["note"]:
        entry = f'<td colspan="{len(NUMBERS) + 1}" class="note">{escape(row["note"])}</td>'
    else:
        entry = f"{''.join(numbers)}<td>{escape(str(row['index']))}</td>"
    verdict = "<strong>FAIL</strong>" if not row["ok"] else "known" if row["known"] else "ok"
    where = ": ".join(filter(None, (row["where"], row["cause"] or row["known"])))
    return (
        f'<tr class="{"ok" if row["ok"] else "fail"}"><th scope="row">{escape(name_of(row))}</th>'
        f"<td>{escape(row['run'])}</td><td>{verdict}</td><td>{_number(row['ratio'], '.2g')}</td>{entry}"
        f"<td>{escape(row['rule'])}</td><td>{escape(where)}</td></tr>"
    )
