"""The report's page: complete, self-contained, safe with a user's names, and readable without eyes."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from torchport.parity import Difference, Report, Row
from torchport.parity.page import all_agree, environment, save, to_html
from torchport.parity.picture import Scale

VOID = {"meta", "br"}
NUMBERS = ("ratio", "error", "limit", "expected", "actual")  # in the order of the table's columns


def difference(ratio: float, limit: float = 1 / 3) -> Difference:
    return Difference((2, 3), (1, 2), 2 / 3, 2 / 3 + ratio * limit, ratio * limit, limit, ratio)


PASSING = Report(
    (
        Row("local", "conv1", "weight", "exact", difference(0)),
        Row("local", "conv1", "output", "sum", difference(1 / 7)),
        Row("end-to-end", "conv1", "grad_weight", "sum", difference(1e-9 / 7)),
    ),
    "conv2d",
    "float64",
    "cpu",
    7,
    3,
)
FAILING = replace(
    PASSING,
    rows=(
        *PASSING.rows,
        Row("local", "relu1", "output", "exact", difference(float("inf"), 0)),
        Row("local", "relu1", "grad_input", "sum", difference(float("nan"))),
        Row("local", "pool1", "output", "sum", difference(1234 / 7)),
        Row("local", "affine1", "bias", "exact", Difference(note="the port has none")),
    ),
    port="unfold",
)
CASES = {"passing": [PASSING], "failing": [FAILING], "both": [PASSING, FAILING]}
EVALUATION = {"accuracy": {"numpy": 0.96, "conv2d": 0.97}, "samples": 100, "agreeing": 100, "memory": 2**20}


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


def page_of(reports: list[Report], **options: Any) -> Page:
    return Page(to_html(reports, **{"command": "python again.py", "evaluation": EVALUATION, **options}))


@pytest.mark.parametrize("case", CASES)
def test_tags_balance_and_ids_are_unique(case: str) -> None:
    page = page_of(CASES[case])
    assert page.open == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0


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


@pytest.mark.parametrize(("case", "verdict"), [("passing", "PARITY"), ("failing", "NO PARITY"), ("both", "NO PARITY")])
def test_the_verdict_comes_first(case: str, verdict: str) -> None:
    page = page_of(CASES[case])
    assert "".join(page.texts("body")).strip().splitlines()[0] == verdict
    assert page.texts("h1") == [verdict]
    assert page.texts("title")[0].startswith(f"{verdict}:")
    sentences = [text for text in page.texts("li") if "kinks" in text]
    order = sorted(CASES[case], key=lambda report: report.ok)
    assert sentences == [f"{report.verdict} (3 kinks)" for report in order]


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
        found.append((cells[0], cells[2], cells[-1], *numbers))
    expected = []
    for report in CASES[case]:
        for row in json.loads(report.to_json())["rows"]:
            numbers = [str(row[name]) for name in NUMBERS[: 1 if row["note"] else None]]
            expected.append((f"{row['layer']} {row['quantity']}", row["view"], row["rule"], *numbers))
    assert sorted(found) == sorted(expected)


def test_failing_rows_are_marked_and_first() -> None:
    page = page_of([PASSING, FAILING])
    rows = rows_of(page)
    assert [(state, cells[1]) for state, cells, _ in rows] == [("fail", "FAIL")] * 4 + [("ok", "ok")] * 6
    assert [cells[0] for _, cells, _ in rows[:2]] == ["relu1 output", "relu1 grad_input"]
    assert [cells[3] for _, cells, _ in rows[:4]] == ["∞", "NaN", "1.8e+02", "∞"]
    assert "the port has none" in rows[3][1]
    assert ["open" in attributes for attributes in page.attributes("details")] == [True, False]
    assert page.texts("h3") == ["unfold, float64, cpu: 4 of 7 rows FAIL", "conv2d, float64, cpu: all 3 rows ok"]


def test_rows_that_say_little_are_marked() -> None:
    """Where the limits of more than half of the entries are as large as the values."""
    rows = tuple(Row("local", "conv1", "output", "sum", replace(difference(0.5), loose=loose)) for loose in (4, 3))
    assert [cells[1] for _, cells, _ in rows_of(page_of([replace(PASSING, rows=rows)]))] == ["hardly judged", "ok"]


def test_the_largest_error_is_told_by_rule_dtype_and_device() -> None:
    ratios = {"output": 0.25, "grad_input": 0.5, "grad_weight": 0.125}
    equal = Row("end-to-end", "relu1", "output", "exact", difference(0))
    rows = [Row("local", "conv1", quantity, "sum", difference(ratio)) for quantity, ratio in ratios.items()]
    first = replace(PASSING, rows=(equal, *rows))
    others = [replace(PASSING, rows=(rows[0],), device="cuda:0"), replace(PASSING, rows=(rows[2],), dtype="float32")]
    assert table_of(page_of([first, *others]), "Largest error/limit by rule") == [
        ["local", "sum", "0.12", "float32", "cpu", "conv2d, conv1 grad_weight"],
        ["local", "sum", "0.5", "float64", "cpu", "conv2d, conv1 grad_input"],
        ["local", "sum", "0.25", "float64", "cuda:0", "conv2d, conv1 output"],
        ["end-to-end", "exact", "0", "float64", "cpu", "all equal"],
    ]


def test_names_are_text_and_not_markup() -> None:
    nasty = "<script>alert('1')</script>&\"$x"
    worst = Difference(note=nasty)
    row = Row("local", nasty, nasty, nasty, worst)
    report = Report((row, replace(row, worst=difference(0.5))), nasty, nasty, "cpu", 0, 0)
    page = page_of([report], command=nasty, evaluation={**EVALUATION, "accuracy": {nasty: 1.0}})
    assert page.open == []
    assert page.texts("script") == []
    assert page.texts("code")[0] == nasty
    cells = rows_of(page)[0][1]
    assert cells[0] == f"{nasty} {nasty}"
    assert cells[4:] == [nasty, nasty]


@pytest.mark.parametrize("case", CASES)
def test_a_screen_reader_is_told_what_is_what(case: str) -> None:
    page = page_of(CASES[case])
    assert page.attributes("html") == [{"lang": "en"}]
    assert len(page.texts("caption")) == len(page.attributes("table")) == len(CASES[case]) + 3
    assert {attributes["scope"] for attributes in page.attributes("th")} == {"col", "row", "rowgroup"}
    ids = {attributes["id"] for _, attributes, _ in page.elements if "id" in attributes}
    for attributes in page.attributes("svg"):
        if attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert set(attributes["aria-labelledby"].split()) <= ids
    scrolling = [attributes for attributes in page.attributes("div") if attributes.get("class") == "scroll"]
    assert all(a["role"] == "region" and a["tabindex"] == "0" and a["aria-label"] for a in scrolling)
    assert len(scrolling) == len(page.attributes("table"))


def test_the_picture_has_a_mark_per_row_and_report() -> None:
    page = page_of([PASSING, FAILING])
    marks = [a for a in page.attributes("use") if a["x"].endswith("%")]
    assert len(marks) == len(PASSING.rows) + len(FAILING.rows)
    assert {(a["href"], a["class"]) for a in marks} == {("#mark-0", "mark colour-0"), ("#mark-1", "mark colour-1")}
    assert len({(a["x"], a["y"]) for a in marks[:4]}) == 4  # equal ratios do not hide each other
    (limit,) = {a["x1"] for a in page.attributes("line") if a["class"] == "limit"}
    beyond = [a for a in marks if float(a["x"][:-1]) > float(limit[:-1])]
    assert len(beyond) == 4
    local, whole = page.texts("desc")
    assert "8 marks" in local
    assert "4 beyond the limit, 2 without any error. The largest error is inf of its limit: relu1 output" in local
    assert "0 beyond the limit, 0 without any error" in whole


def test_the_names_of_what_fails_have_a_cross() -> None:
    """Also where one of two comparisons is right."""
    wrong = Row("local", "conv1", "output", "sum", difference(2))
    page = page_of([FAILING, replace(PASSING, rows=(wrong,))])
    names = {"".join(text): a["class"] for tag, a, text in page.elements if tag == "text" and "name" in a["class"]}
    failed = ["✗ conv1 output", "✗ relu1 output", "✗ relu1 grad_input", "✗ pool1 output", "✗ affine1 bias"]
    assert [name for name in names if "✗" in name] == failed
    assert [name for name, kind in names.items() if kind == "name fail"] == failed


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
    scale = Scale.of(row.worst.ratio for row in PASSING.rows)
    powers = {-9: "10⁻⁹", -6: "10⁻⁶", -3: "10⁻³", 0: "1"}
    assert scale.ticks == list(powers)
    ticks = {a["x"]: "".join(text) for tag, a, text in page.elements if tag == "text" and a["class"] == "tick"}
    assert ticks == {"45.00%": "equal", **{f"{scale.place(10.0**e):.2f}%": power for e, power in powers.items()}}


def test_predictions_that_differ_are_no_parity() -> None:
    evaluation = {**EVALUATION, "agreeing": 97}
    page = page_of([PASSING], evaluation=evaluation)
    assert page.texts("h1") == ["NO PARITY"]
    assert page.texts("li")[0] == "NO PARITY: 3 of 100 predictions differ."
    assert table_of(page, "Accuracy (share of test images)") == [
        ["numpy", "0.9600"],
        ["conv2d", "0.9700"],
        ["equal predictions", "97 of 100"],
        ["peak memory", "1 MiB"],
    ]
    assert all_agree([PASSING], EVALUATION)
    assert not all_agree([PASSING], evaluation)


def test_both_files_say_the_same(tmp_path: Path) -> None:
    paths = save(tmp_path, [PASSING, FAILING], command="python <again>.py", evaluation=EVALUATION)
    assert [path.name for path in paths] == ["report.json", "report.html"]
    record = json.loads(paths[0].read_text())
    page = Page(paths[1].read_text(encoding="utf-8"))
    assert record["ok"] is False
    assert record["evaluation"] == EVALUATION
    assert record["command"] == page.texts("code")[0] == "python <again>.py"
    cells = [*page.texts("th"), *page.texts("td")]
    assert all(text in cells for item in record["environment"].items() for text in item)
    assert record["environment"]["seed"] == "7"


def test_a_report_alone_makes_a_page() -> None:
    page = Page(FAILING.to_html())
    assert page.texts("h1") == ["NO PARITY"]
    assert page.texts("code")[0] == "check_parity(reference, port, x, t, seed=7, name='unfold')"


@pytest.mark.parametrize(
    ("dtype", "says", "tf32"), [("tf32", "mode='tf32', ", "on"), ("bfloat16", "mode='bfloat16', ", "off")]
)
def test_a_mode_is_told(dtype: str, says: str, tf32: str) -> None:
    page = Page(replace(FAILING, dtype=dtype).to_html())
    assert page.texts("code")[0] == f"check_parity(reference, port, x, t, {says}seed=7, name='unfold')"
    assert environment([PASSING, replace(FAILING, dtype=dtype)])["TF32"].split()[0] == tf32


@pytest.mark.parametrize("on", [True, False])
def test_the_flags_that_are_set_are_told(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: on)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", on)
    found = environment([PASSING])
    assert found["deterministic algorithms"] == ("required" if on else "not required")
    assert found["cuDNN benchmark"] == ("on" if on else "off")


def test_every_seed_and_device_is_told_once() -> None:
    found = environment([PASSING, replace(FAILING, device="meta"), replace(PASSING, seed=8)])
    assert found["seed"] == "7, 8"
    assert found["device"] == "cpu, meta"


def test_no_report_is_no_parity() -> None:
    with pytest.raises(ValueError, match="one report or more, got none"):
        to_html([], command="")
