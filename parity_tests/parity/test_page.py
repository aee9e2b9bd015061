"""The report's page: complete, self-contained, safe with a user's names, and readable without eyes."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.reports import KNOWN, difference, failing, passing
from torchport.parity import Difference, Report, Row
from torchport.parity.page import environment, save, to_dict, to_fragment, to_html
from torchport.parity.picture import Scale

VOID = {"meta", "br"}
NUMBERS = ("ratio", "expected", "actual", "error", "limit")  # in the order of the table's columns

PASSING = Report(
    (
        Row("training", "conv1", "output", "sum", difference(1 / 7)),
        Row("integers", "conv1", "output", "exact", difference(0)),
        Row("training", "conv1", "grad_weight", "sum", difference(1e-9 / 7)),
        Row("loss", "loss", "value", "exp", difference(1e5), known=KNOWN),
    ),
    *("conv2d", "float64", "cpu", 7, ("training", "integers", "loss")),
)
FAILING = replace(
    PASSING,
    rows=(
        *PASSING.rows,
        Row("training", "relu1", "output", "exact", difference(float("inf"), 0), "net.py:3", "there is no relu1"),
        Row("training", "relu1", "grad_input", "sum", difference(float("nan"))),
        Row("training", "pool1", "output", "sum", difference(1234 / 7)),
        Row("integers", "pool1", "output", "exact", difference(0)),
        Row("training", "affine1", "bias", "exact", Difference(note="the port has none")),
    ),
    port="unfold",
)
CASES = {"passing": [PASSING], "failing": [FAILING], "both": [PASSING, FAILING], "long": [passing(), failing()]}
CASES["nothing"] = [replace(PASSING, rows=())]
EVALUATION = {"accuracy": {"numpy": 0.96, "conv2d": 0.97}, "samples": 100, "agreeing": 100, "memory": 2**20}
ABOUT = {"weights": "params.pkl", "batch": "32 x 1 x 28 x 28"}


class Page(HTMLParser):
    """What is in a page: elements as (tag, attributes, text within), in the order in which they start."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element: tuple[str, dict[str, str], list[str]] = (tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text in self.elements if name == tag]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]


def record_of(reports: list[Report], **options: Any) -> dict[str, Any]:
    given = {"command": "python again.py", "evaluation": EVALUATION, "about": ABOUT, **options}
    return to_dict([report.to_dict() for report in reports], **given)


def page_of(reports: list[Report], **options: Any) -> Page:
    return Page(to_html(record_of(reports, **options)))


@pytest.mark.parametrize("case", CASES)
def test_tags_balance(case: str) -> None:
    page = page_of(CASES[case])
    assert page.open == []


@pytest.mark.parametrize("case", CASES)
def test_nothing_comes_from_elsewhere(case: str) -> None:
    page = page_of(CASES[case])
    assert not {tag for tag, _, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base"}
    for _, attributes, _ in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    (style,) = page.texts("style")
    assert "@import" not in style
    assert "url(" not in style


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_comes_first(case: str) -> None:
    page = page_of(CASES[case])
    verdict = "PARITY" if case == "passing" else "NO PARITY"
    assert "".join(page.texts("body")).strip().splitlines()[0] == verdict
    assert page.texts("h1") == [verdict]
    assert page.texts("title")[0].startswith(f"{verdict}:")


def test_the_head_names_what_was_compared_and_the_runs() -> None:
    page = page_of([PASSING, replace(PASSING, runs=("training", "batch"))])
    assert page.texts("dt")[:3] == ["weights", "batch", "runs"]
    assert page.texts("dd")[:3] == ["params.pkl", "32 x 1 x 28 x 28", "training, integers, loss, batch"]


def test_the_accuracy_stands_above_the_picture() -> None:
    body = "".join(page_of([PASSING]).texts("body"))
    assert 0 < body.index("On the test set") < body.index("Error as a multiple of its limit")


def findings_of(page: Page) -> list[tuple[str, str]]:
    """Class and text of what is said of each report."""
    found = [(a["class"], "".join(text)) for tag, a, text in page.elements if tag == "div" and "class" in a]
    return [(kind.removeprefix("finding "), text) for kind, text in found if kind.startswith("finding")]


def test_each_report_is_told_and_a_fault_first() -> None:
    (kind, fault), (other, verdict) = findings_of(page_of([PASSING, replace(FAILING, notes=("fc9 is unused",))]))
    assert (kind, other, verdict) == ("fail", "ok", PASSING.verdict)
    told = ("relu1 output at net.py:3, in training", "there is no relu1", "pool1 output, only in training", KNOWN)
    places = [fault.index(text) for text in ("NO PARITY: unfold, float64, cpu", *told, "fc9 is unused")]
    assert places == sorted(places)
    assert "right: 1 of 4 layers" in fault


def rows_of(page: Page) -> list[tuple[str, list[str], list[str]]]:
    """Class, texts of the cells and exact numbers of each row about an array, as the page has them."""
    rows: list[tuple[str, list[str], list[str]]] = []
    for tag, attributes, text in page.elements:
        if tag == "tr":
            rows.append((attributes.get("class", ""), [], []))
        elif tag in ("td", "th"):
            rows[-1][1].append("".join(text))
        elif tag == "data":
            rows[-1][2].append(attributes["value"])
    return [row for row in rows if row[0] in ("ok", "fail")]


def table_of(page: Page, caption: str) -> list[list[str]]:
    """The texts of a table's cells, row by row, without its header."""
    rows: list[list[str]] = []
    inside = False
    for tag, _, text in page.elements:
        if tag == "caption":
            inside = "".join(text) == caption
        elif inside and tag == "tr":
            rows.append([])
        elif inside and tag in ("th", "td"):
            rows[-1].append("".join(text))
    return rows[1:]


@pytest.mark.parametrize("case", CASES)
def test_the_tables_have_every_number_of_the_json(case: str) -> None:
    found = []
    for _, cells, numbers in rows_of(page_of(CASES[case])):
        found.append((cells[0], cells[1], cells[-2], *numbers))
    expected = []
    for report in CASES[case]:
        for row in json.loads(report.to_json())["rows"]:
            numbers = [str(row[name]) for name in NUMBERS[: 1 if row["note"] else None]]
            name = " ".join(dict.fromkeys((row["layer"], row["quantity"])))
            expected.append((name, row["run"], row["rule"], *numbers))
    assert sorted(found) == sorted(expected)


def test_failing_rows_are_marked_and_first() -> None:
    page = page_of([PASSING, FAILING])
    rows = rows_of(page)
    passed = [("ok", "ok")] * 3 + [("ok", "known"), ("ok", "ok")]
    assert [(state, cells[2]) for state, cells, _ in rows] == [("fail", "FAIL")] * 4 + passed + passed[:4]
    assert [cells[0] for _, cells, _ in rows[:2]] == ["relu1 output", "relu1 grad_input"]
    assert [cells[3] for _, cells, _ in rows[:4]] == ["∞", "NaN", "1.8e+02", "∞"]
    assert [rows[0][1][-1], rows[7][1][-1]] == ["net.py:3: there is no relu1", KNOWN]
    assert "the port has none" in rows[3][1]
    assert ["open" in attributes for attributes in page.attributes("details")] == [True, False]
    assert page.texts("h3") == ["unfold, float64, cpu: 4 of 9 rows FAIL", "conv2d, float64, cpu: all 4 rows ok"]


@pytest.mark.parametrize("alone", [True, False])
def test_names_are_text_and_not_markup(alone: bool) -> None:
    nasty = "<script>alert('1')</script>&\"$x"
    row = Row(nasty, nasty, f"{nasty}!", nasty, Difference(note=nasty), nasty, nasty)
    rows = (row, replace(row, worst=difference(0.5)), replace(row, known=nasty))
    report = Report(rows, nasty, nasty, "cpu", 0, (nasty,), (nasty,))
    options = {"command": nasty, "evaluation": {**EVALUATION, "accuracy": {nasty: 1.0}}, "about": {nasty: nasty}}
    page = Page(to_fragment(report.to_dict())) if alone else page_of([report], **options)
    assert page.open == []
    assert page.texts("script") == []
    ((_, finding),) = findings_of(page)
    assert finding.count(nasty) == 12
    right = Page(to_fragment(replace(report, rows=rows[1:]).to_dict()))
    assert right.texts("script") == []
    if not alone:
        assert page.texts("code")[0] == nasty
        assert nasty in page.texts("dt")
        cells = rows_of(page)[0][1]
        assert cells == [f"{nasty} {nasty}!", nasty, "FAIL", "∞", nasty, nasty, f"{nasty}: {nasty}"]


@pytest.mark.parametrize("case", CASES)
def test_a_screen_reader_is_told_what_is_what(case: str) -> None:
    page = page_of(CASES[case])
    assert page.attributes("html") == [{"lang": "en"}]
    assert len(page.texts("caption")) == len(page.attributes("table")) == len(CASES[case]) + 2
    assert {attributes["scope"] for attributes in page.attributes("th")} == {"col", "row"}
    (picture,) = [attributes for attributes in page.attributes("svg") if attributes.get("class") == "picture"]
    assert picture["role"] == "img"
    assert picture["aria-label"]
    assert len(page.texts("desc")) == 1
    scrolling = [attributes for attributes in page.attributes("div") if attributes.get("class") == "scroll"]
    assert all(a["role"] == "region" and a["tabindex"] == "0" and a["aria-label"] for a in scrolling)
    assert len(scrolling) == len(page.attributes("table"))


def marks_of(page: Page) -> list[dict[str, str]]:
    return [
        {**attributes, "text": "".join(text)}
        for tag, attributes, text in page.elements
        if tag == "svg" and attributes.get("class", "").startswith("mark") and attributes["x"].endswith("%")
    ]


def test_the_picture_has_a_mark_per_quantity_and_report_the_worst_of_all_runs() -> None:
    page = page_of([PASSING, FAILING])
    marks = marks_of(page)
    assert len(marks) == 3 + 7
    assert {mark["class"].split()[1] for mark in marks} == {"colour-0", "colour-1"}
    assert len({(mark["x"], mark["y"]) for mark in marks[:4]}) == 4  # equal ratios do not hide each other
    (limit,) = {a["x1"] for a in page.attributes("line") if a["class"] == "limit"}
    beyond = [mark for mark in marks if float(mark["x"][:-1]) > float(limit[:-1])]
    assert [mark["class"].split()[-1] for mark in beyond] == ["fail"] * 4 + ["known"] * 2
    assert marks[0]["text"] == "conv2d, float64, cpu: 0.14 of the limit in training, the worst of 2 runs"
    assert beyond[0]["text"] == "unfold, float64, cpu: inf of the limit in training: FAIL there is no relu1"
    assert beyond[-1]["text"].endswith(f"1e+05 of the limit in loss: {KNOWN}")
    (words,) = page.texts("desc")
    assert "7 quantities of 2 comparisons: 10 marks" in words
    assert "4 beyond the limit, 0 without any error. The largest error is inf of its limit: relu1 output" in words


def test_a_known_difference_is_hollow_and_does_not_stretch_the_scale() -> None:
    far = replace(PASSING, rows=(*PASSING.rows[:3], replace(PASSING.rows[3], worst=difference(float("inf")))))
    page = page_of([far])
    assert "hollow: a known difference of definition, no fault" in [text.strip() for text in page.texts("li")]
    assert "hollow" not in "".join(page_of([replace(PASSING, rows=PASSING.rows[:3])]).texts("li"))
    assert [mark["class"] for mark in marks_of(page)] == ["mark colour-0"] * 2 + ["mark colour-0 known"]
    assert "to ∞" not in page.texts("text")
    assert max(float(mark["x"][:-1]) for mark in marks_of(page_of([PASSING]))) < 97
    wrong = replace(PASSING.rows[3], run="batch", worst=difference(2), known="")
    (*_, mark) = marks_of(page_of([replace(PASSING, rows=(*PASSING.rows, wrong))]))
    assert mark["class"] == "mark colour-0 fail"  # whatever else is known of it


def texts_of(page: Page, *kinds: str) -> list[str]:
    return ["".join(text) for tag, a, text in page.elements if tag == "text" and a["class"] in kinds]


def test_the_lines_go_through_the_network_whatever_comes_first() -> None:
    shuffled = replace(passing(), rows=tuple(sorted(passing().rows, key=lambda row: row.run == "training")))
    layers = ["input", "conv1", "relu1", "pool1", "affine1", "relu2", "affine2", "output", "loss"]
    assert texts_of(page_of([passing()]), "layer") == texts_of(page_of([shuffled]), "layer") == layers
    assert sorted(texts_of(page_of([passing()]), "name")[1:7]) == sorted(
        ["weight", "bias", "output", "grad_input", "grad_weight", "grad_bias"]
    )


def test_the_names_of_what_fails_have_a_cross() -> None:
    """Also where one of two comparisons is right."""
    wrong = Row("training", "conv1", "output", "sum", difference(2))
    page = page_of([FAILING, replace(PASSING, rows=(wrong,))])
    names = texts_of(page, "name", "name fail")
    assert [name for name in names if "✗" in name] == texts_of(page, "name fail")
    assert texts_of(page, "name fail") == ["✗ output", "✗ output", "✗ grad_input", "✗ output", "✗ bias"]
    assert texts_of(page, "layer fail") == ["conv1", "relu1", "pool1", "affine1"]
    assert texts_of(page, "layer") == ["loss"]


def test_every_ratio_has_its_place() -> None:
    ratios = [0, 1e-20, 1e-3, 0.5, 1, 2, 1e12]
    scale = Scale.of([*ratios, float("inf"), float("nan")])
    places = [scale.place(ratio) for ratio in ratios]
    assert places == sorted(set(places))
    huge = {scale.place(ratio) for ratio in (1e300, float("inf"), float("nan"))}
    assert len(huge) == 1
    assert places[-1] < huge.pop() < 100
    assert 0 in scale.ticks
    assert not Scale.of([0, 1e-3]).far


def test_every_tick_says_its_power() -> None:
    page = page_of([PASSING])
    scale = Scale.of(row.worst.ratio for row in PASSING.rows[:3])
    powers = {-9: "10⁻⁹", -6: "10⁻⁶", -3: "10⁻³", 0: "1"}
    assert scale.ticks == list(powers)
    ticks = {a["x"]: "".join(text) for tag, a, text in page.elements if tag == "text" and a["class"] == "tick"}
    assert ticks == {"45.00%": "equal", **{f"{scale.place(10.0**e):.2f}%": power for e, power in powers.items()}}


def test_predictions_that_differ_are_no_parity() -> None:
    evaluation = {**EVALUATION, "agreeing": 97}
    page = page_of([PASSING], evaluation=evaluation)
    assert page.texts("h1") == ["NO PARITY"]
    assert findings_of(page)[0] == ("fail", "NO PARITY: 3 of 100 predictions differ.")
    assert table_of(page, "Accuracy (share of test images)") == [
        ["numpy", "0.9600"],
        ["conv2d", "0.9700"],
        ["equal predictions", "97 of 100"],
        ["peak memory", "1 MiB"],
    ]
    assert record_of([PASSING])["ok"] is True
    assert record_of([PASSING], evaluation=evaluation)["ok"] is False


def test_both_files_say_the_same(tmp_path: Path) -> None:
    given = record_of([PASSING, FAILING], command="python <again>.py")
    paths = save(tmp_path, given)
    assert [path.name for path in paths] == ["report.json", "report.html"]
    record = json.loads(paths[0].read_text())
    assert record == given
    assert to_html(record) == paths[1].read_text(encoding="utf-8")  # drawn again from the file
    page = Page(to_html(record))
    assert (record["ok"], record["about"], record["evaluation"]) == (False, ABOUT, EVALUATION)
    assert record["command"] == page.texts("code")[0] == "python <again>.py"
    cells = [*page.texts("th"), *page.texts("td")]
    assert all(text in cells for item in record["environment"].items() for text in item)
    assert record["environment"]["seed"] == "7"


def test_a_report_alone_makes_a_page() -> None:
    page = Page(FAILING.to_html(about=ABOUT))
    assert page.texts("h1") == ["NO PARITY"]
    assert page.texts("dd")[0] == "params.pkl"
    assert page.texts("code")[0] == "check_parity(reference, port, x, t, seed=7, name='unfold')"


@pytest.mark.parametrize("report", [passing(), failing(), *CASES["nothing"]], ids=["passing", "failing", "nothing"])
def test_a_notebook_shows_what_is_wrong_and_the_picture(report: Report) -> None:
    page = Page(report._repr_html_())
    assert page.open == []
    assert [(tag, a["class"]) for tag, a, _ in page.elements[:1]] == [("div", "parity")]
    assert not any("id" in attributes for _, attributes, _ in page.elements)  # a notebook may hold many of them
    (style,) = page.texts("style")
    selectors = [line.split("{")[0] for line in style.splitlines() if line.startswith((".", "*", "a", "b", "h", "p"))]
    assert selectors
    assert all(part.strip().startswith(".parity") for selector in selectors for part in selector.split(","))
    assert "$" not in style
    ((_, finding),) = findings_of(page)
    assert all(text in finding for fault in report.faults for text in fault)
    assert finding.startswith("NO PARITY" if report.faults else report.verdict)
    assert len(marks_of(page)) == len({row.name for row in report.rows})


@pytest.mark.parametrize(
    ("dtype", "says", "tf32"), [("tf32", "mode='tf32', ", "on"), ("bfloat16", "mode='bfloat16', ", "off")]
)
def test_a_mode_is_told(dtype: str, says: str, tf32: str) -> None:
    report = replace(FAILING, dtype=dtype)
    assert (
        Page(report.to_html()).texts("code")[0] == f"check_parity(reference, port, x, t, {says}seed=7, name='unfold')"
    )
    assert environment([PASSING.to_dict(), report.to_dict()])["TF32"].split()[0] == tf32


@pytest.mark.parametrize("on", [True, False])
def test_the_flags_that_are_set_are_told(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: on)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", on)
    found = environment([PASSING.to_dict()])
    assert found["deterministic algorithms"] == ("required" if on else "not required")
    assert found["cuDNN benchmark"] == ("on" if on else "off")


def test_every_seed_and_device_is_told_once() -> None:
    reports = [PASSING, replace(FAILING, device="meta"), replace(PASSING, seed=8)]
    found = environment([report.to_dict() for report in reports])
    assert found["seed"] == "7, 8"
    assert found["device"] == "cpu, meta"


def test_no_report_is_no_parity() -> None:
    with pytest.raises(ValueError, match="one report or more, got none"):
        to_dict([], command="")
