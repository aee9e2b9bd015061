"""A result that cannot be misread: a report's truth, its line, its table, its short message and its plain values."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
import torchport
from parity.reports import AT_TIES, CAUSE, KNOWN, NOTES, RUNS, difference, failing, passing
from torchport import testing
from torchport.parity import report as report_module
from torchport.parity.compare import Difference
from torchport.parity.report import Report
from torchport.parity.rows import Row

LONG = "a_name_that_nobody_breaks_in_any_place_" * 4
RIGHT = Row("training", "conv1", "output", "sum", difference(0.5), "net.py:3")
WRONG = replace(RIGHT, layer="affine2", worst=difference(2), where="net.py:9", cause="its weight is flipped")


def of(*rows: Row, **options: Any) -> Report:
    """A report of these rows, in the runs that they come from."""
    return Report(rows, "port", "float32", "cpu", 0, tuple(dict.fromkeys(row.run for row in rows)), **options)


REPORTS = {
    "passing": passing(),
    "failing": failing(),
    "known": of(replace(WRONG, known=KNOWN)),
    "noted": of(RIGHT, replace(WRONG, worst=Difference(note="the port has none"))),
    "nan": of(replace(RIGHT, worst=difference(np.nan))),
    "nothing": of(),
    "long": of(
        replace(WRONG, run=LONG, layer=f"{LONG}\n{LONG}", quantity=LONG, where=LONG, cause=LONG),
        replace(RIGHT, worst=Difference(note=f"{LONG}\n{LONG}")),
        notes=(LONG,),
    ),
}
TRUE = ("passing", "known")


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_true_where_it_is_parity_and_says_so_first(name: str) -> None:
    report = REPORTS[name]
    assert bool(report) is report.ok is (name in TRUE)
    first = "parity: " if name in TRUE else "NO PARITY: "
    for text in (repr(report), str(report), report.verdict, report.to_dict()["verdict"]):
        assert text.startswith(f"{first}{report.port} in {report.dtype} on cpu")
    assert "\n" not in repr(report)
    if name in TRUE:
        report.raise_if_failed()
    else:
        with pytest.raises(AssertionError, match=first):
            report.raise_if_failed()


@pytest.mark.parametrize("name", REPORTS)
def test_every_text_fits_a_terminal(name: str) -> None:
    texts = [str(REPORTS[name]), REPORTS[name].to_text(), "\n".join(map(str, message_of(REPORTS[name])))]
    for line in "\n".join(texts).split("\n"):
        assert len(line) < 80
        assert line == line.rstrip()


def message_of(report: Report) -> list[str]:
    """The lines of what raise_if_failed raises."""
    try:
        report.raise_if_failed()
    except AssertionError as error:
        return str(error).split("\n")
    return []


def test_the_verdict_counts_what_was_compared() -> None:
    report = passing()
    worst = max((row for row in report.rows if not row.known), key=lambda row: row.worst.ratio)
    assert report.verdict == (
        f"parity: unfold in float32 on cpu: 6 layers, loss and prediction, {len(report.rows)} comparisons in 9 runs, "
        f"the largest error {worst.worst.ratio:.2g} of its limit ({worst.layer} {worst.quantity}); loss value: {KNOWN}"
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            WRONG,
            "affine2 output [1, 2] is 1.333, expected 0.6667 (error 6.7e-01, limit 3.3e-01) at net.py:9: its weight",
        ),
        (replace(WRONG, layer="output"), "on cpu: output [1, 2] is"),
        (replace(WRONG, run="integers"), "limit 3.3e-01) at net.py:9 (in integers): its weight is flipped"),
        (replace(WRONG, where="expected relu1 before net.py:9", cause=""), "3.3e-01), expected relu1 before net.py:9"),
        (replace(WRONG, where="", worst=Difference(note="there is none")), "affine2 output: there is none: its weight"),
        (
            replace(WRONG, worst=Difference((), (), 1.0, 1 + 2e-9, 2e-9, 1e-9, 2.0)),
            "output is 1.000000002, expected 1 (",
        ),
    ],
)
def test_a_fault_is_told_in_a_line(row: Row, says: str) -> None:
    assert says in of(row).verdict
    assert of(RIGHT, row, WRONG).verdict == of(row).verdict


def test_a_failing_report_tells_every_fault_once_then_what_is_right() -> None:
    report = failing()
    text = str(report)
    told = [
        "NO PARITY: net.py:Net in float32 on cpu\nruns: training, prediction, 1 sample, 35 samples",
        "\naffine2 output at net.py:18, net.2 (Linear), in every run\n  [0, 3] is 0.1234, expected 0.5678 (error 4",
        f"\n  cause: {CAUSE}\n",
        "\nalso wrong: affine2 grad_input at net.py:18, net.2 (Linear), in every run\n",
        "\nalso wrong: pool1 output at net.py:15, only in 1 sample\n  it raised RuntimeError: ",
        "\nalso wrong: relu1 grad_input at ties at net.py:14, in integers\n  [1, 2] is nan, expected 0.6667 ",
        f"\n  cause: {AT_TIES}\n",
        "\nright: 3 of 6 layers, loss\n\n",
        "\n8 FAIL  sum    affine2  output ",
        " 8 ok  exact  input    output ",
        f"\n\nknown: loss value: {KNOWN}\n",
        *(f"note: {note}" for note in NOTES),
    ]
    places = [text.index(part) for part in told]
    assert places == sorted(places)
    assert text.count(CAUSE) == 1
    states = re.findall(r"^ *\d* ?(FAIL|ok|known) ", text, re.MULTILINE)
    assert states == ["FAIL"] * 5 + ["ok"] * 9


def test_runs_that_fail_are_named_where_others_hold() -> None:
    rows = [replace(RIGHT, run=run) for run in RUNS]
    for run in ("integers", "batch"):
        rows[RUNS.index(run)] = replace(WRONG, layer="conv1", run=run)
    (fault,) = of(*rows).faults
    assert fault.place == " at net.py:9, in integers, also in batch"


def test_the_message_is_a_few_lines() -> None:
    assert message_of(failing()) == [
        "NO PARITY: net.py:Net in float32 on cpu",
        "affine2 output at net.py:18, net.2 (Linear), in every run",
        "  [0, 3] is 0.1234, expected 0.5678 (error 4.4e-01, limit 3.1e-07)",
        f"  cause: {CAUSE}",
        "also wrong: affine2 grad_input, pool1 output, relu1 grad_input at ties, ...",
        "right: 3 of 6 layers, loss",
    ]


@pytest.mark.parametrize(
    ("layers", "wrong", "right"),
    [
        (("conv1", "relu1"), (), "2 layers"),
        (("conv1", "relu1 and pool1"), (), "3 layers"),
        (("conv1", "relu1 and pool1", "output"), ("relu1 and pool1",), "1 of 3 layers"),
        (("input", "conv1", "loss", "port"), ("input", "loss"), "1 of 1 layer"),
        (("conv1", "loss"), ("conv1",), "0 of 1 layer, loss"),
    ],
)
def test_what_is_right_is_counted(layers: tuple[str, ...], wrong: tuple[str, ...], right: str) -> None:
    rows = (replace(WRONG if layer in wrong else RIGHT, layer=layer) for layer in layers)
    assert of(*rows).right == right


def test_all_rows_are_in_the_text_and_failing_ones_say_why() -> None:
    report = failing()
    lines = report.to_text().split("\n")
    starts = [line.split()[0] for line in lines[1:] if not line.startswith("      ")]
    assert starts == [row.status for row in report.rows]
    place = next(number for number, line in enumerate(lines) if line.split()[0] == "FAIL")
    assert [line.strip() for line in lines[place + 1 : place + 3]] == [str(report.rows[9].worst), CAUSE]
    assert lines[-1].strip() != KNOWN
    assert len(report.to_text(report.rows[:3]).split("\n")) == 4
    (known,) = (row for row in report.rows if row.known)
    _, line, why = report.to_text([known]).split("\n")
    assert (line.split()[:2], why.strip()) == (["known", "loss"], KNOWN)


def test_nothing_is_worse_than_nan() -> None:
    report = of(*(replace(WRONG, run=str(ratio), worst=difference(ratio)) for ratio in (2, np.nan, 3)))
    assert re.search(r"3 FAIL  sum +affine2  output +nan ", str(report))


@pytest.mark.parametrize("name", REPORTS)
def test_its_values_survive_json(name: str) -> None:
    report = REPORTS[name]
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record == report.to_dict() == json.loads(report.to_json())
    rows = []
    for values in record["rows"]:
        assert values.pop("ok") in (True, False)
        worst = {name: values.pop(name) for name in ("shape", "index", "expected", "actual", "error", "limit", "ratio")}
        numbers = {k: tuple(v) if isinstance(v, list) else float(v) for k, v in worst.items()}
        rows.append(Row(worst=Difference(note=values.pop("note"), **numbers), **values))  # type: ignore[arg-type]
    settings = {name: record[name] for name in ("port", "dtype", "device", "seed")}
    again = Report(tuple(rows), runs=tuple(record["runs"]), notes=tuple(record["notes"]), **settings)
    assert (str(again), again.to_dict()) == (str(report), report.to_dict())


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What check_parity is given, which says what stands in report."""
    given: dict[str, Any] = {"report": passing()}

    def check_parity(*args: Any, **options: Any) -> Any:
        given.update(args=args, options=options)
        return given["report"]

    monkeypatch.setattr("torchport.parity.check_parity", check_parity)
    return given


def test_a_port_that_is_right_gives_its_report(judged: dict[str, Any]) -> None:
    reference, x, t = nr.TwoLayerNet(4, 3, 2), np.ones((2, 4)), np.zeros(2, int)
    port = torchport.from_reference(reference)
    assert torchport.assert_parity is testing.assert_parity
    assert testing.assert_parity(reference, port, x, t, seed=3, name="mine") is judged["report"]
    assert all(a is b for a, b in zip(judged["args"], (reference, port, x, t), strict=True))
    assert judged["options"] == {"seed": 3, "name": "mine"}


def test_a_port_that_is_wrong_is_told_in_a_few_lines(judged: dict[str, Any]) -> None:
    judged["report"] = failing()
    with pytest.raises(AssertionError) as caught:
        testing.assert_parity(None, None, None, None)  # type: ignore[arg-type]
    assert str(caught.value).split("\n") == message_of(failing())
    assert len(caught.getrepr(style="short").reprtraceback.reprentries) == 1


def test_the_examples_are_true(judged: dict[str, Any]) -> None:
    for module in (testing, report_module):
        found = doctest.testmod(module)
        assert found.attempted > 0
        assert found.failed == 0


def test_it_is_cheap_to_import() -> None:
    code = "import sys, torchport.testing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
