"""What the README and the pages in docs/ show is what happens.

Every command is accepted by its own parser, every Python block runs, and the output shown below a command is what it
prints. Long commands run with --docs.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from parity import kill_table, test_user_ports as test_user_ports  # for which all ports are entered
from parity.catalogue import BUGS
from parity.user_ports import RIGHT_PORTS, WRONG_PORTS

from numpy_ref import SimpleConvNet, write_params
from torchport.parity.cases import seeded_params

ROOT = Path(__file__).parents[2]
FILES = (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\w+\.py)\n")  # a block that is a file

# Text that differs between machines; accuracies and losses, which may differ by NEAR.
OF_THE_MACHINE = re.compile(r"(?<=the largest error )[\d.e-]+ of its limit( \(.*?\))?|[\d,]+ bytes|\d+ MiB")
FOUR_DIGITS = re.compile(r"\d\.\d{4}\b")
NEAR = 0.02

LONG = ("python scripts/parity_report.py", "python scripts/parity_report.py --params", "python scripts/train.py")


class Block(NamedTuple):
    """A fenced block of a page, and the output shown in a block without a language right after it."""

    page: str
    kind: str
    text: str
    shown: str

    @property
    def commands(self) -> list[str]:
        """The commands in its lines, without comments."""
        lines = [shlex.join(shlex.split(line, comments=True)) for line in self.text.splitlines()]
        return [command for line in lines for command in line.split(" '&&' ")]


def blocks_of(page: str) -> Iterator[Block]:
    matches = list(BLOCK.finditer(PAGES[page]))
    for block, after in zip_longest(matches, matches[1:]):
        below = after if after and not after[1] and not PAGES[page][block.end() : after.start()].strip() else None
        yield Block(page, block[1], block[2], below[2].strip() if below else "")


BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.kind]
SHELL = [block for block in BLOCKS if block.kind == "sh"]
IN_TEXT = [
    shlex.join(shlex.split(span))
    for text in PAGES.values()
    for span in re.findall(r"`((?:python|pytest|torchrun) [^`]+)`", text)
    if not re.search(r"\b[A-Z]{2,}\b", span)  # a placeholder
]
COMMANDS = sorted({command for block in SHELL for command in block.commands} | set(IN_TEXT))
SHOWN = {block.commands[-1]: block.shown for block in SHELL if block.shown}
PYTHON = [block for block in BLOCKS if block.kind == "python"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the files that the pages show and small weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    files = {name[1]: block.text for block in PYTHON if (name := NAMED.match(block.text))}
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    sizes = {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}
    write_params(seeded_params(0, SimpleConvNet((1, 8, 8), sizes, 6, 4).params), "params.pkl")
    yield tmp_path
    for file in files:
        sys.modules.pop(file.removesuffix(".py"), None)


def main_of(script: str) -> Callable[[], object]:
    """The function parse_arguments of a script or of its command."""
    names = runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))
    parse = names.get("parse_arguments") or import_module(f"torchport.commands.{script}").parse_arguments
    assert callable(parse)
    return parse  # type: ignore[no-any-return]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    script = next((Path(word) for word in arguments if word.endswith(".py")), None)
    if script is not None and script.parent.name == "scripts":
        monkeypatch.setattr(sys, "argv", arguments[arguments.index(str(script)) :])
        main_of(script.stem)()
    elif program in ("pytest", "python"):
        assert all((ROOT / word).exists() for word in arguments if "/" in word and not word.startswith("--"))
        known = (ROOT / "parity_tests" / "conftest.py").read_text() + "--hypothesis-profile"
        assert all(word.partition("=")[0] in known for word in arguments if word.startswith("--"))
    else:
        assert program in ("pip", "ruff", "mypy")


def printed_by(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The standard output of a script that succeeds, run in this process to save importing torch."""
    _, script, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.delenv("TORCHPORT_DATA", raising=False)
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    return printed.getvalue()


def assert_shown(shown: str, printed: str) -> None:
    """Check that printed equals shown, in which ... stands for anything."""
    shown, printed = (OF_THE_MACHINE.sub("#", text.strip()) for text in (shown, printed))
    pattern = re.escape(FOUR_DIGITS.sub("%", shown)).replace(r"\.\.\.", ".*?").replace("%", r"(\d\.\d{4})")
    match = re.fullmatch(pattern, printed, re.DOTALL)
    assert match, printed
    for number, expected in zip(match.groups(), FOUR_DIGITS.findall(shown), strict=True):
        assert abs(float(number) - float(expected)) <= NEAR, printed


@pytest.mark.parametrize("command", [command for command in SHOWN if command.startswith("python")])
def test_a_command_prints_what_is_shown(
    command: str, folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command.startswith(LONG) and "--port" not in command and not request.config.getoption("--docs"):
        pytest.skip("takes long: --docs runs it")
    if "params.pkl" in command:
        Path("params.pkl").write_bytes(request.getfixturevalue("book_params").read_bytes())
    if "--data-dir data" in command:
        Path("data").symlink_to(request.getfixturevalue("data_dir").resolve())
    assert_shown(SHOWN[command], printed_by(command, monkeypatch))


def test_ports_run_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [command for block in SHELL if block.page == "docs/weights.md" for command in block.commands]
    ran = 0
    for command in commands:
        _, script, source, *_ = shlex.split(command)
        if script != "scripts/port_params.py" or not Path(source).exists() or "--into" in command:
            continue
        if ".onnx" not in command or find_spec("onnxruntime"):
            printed_by(command, monkeypatch)
            ran += 1
    assert ran >= 2


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}-{block.text.splitlines()[0]}")
def test_python_does_what_is_shown(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "Net()" in block.text:  # of the book's own sizes
        write_params(seeded_params(0), "params.pkl")
    name, names = NAMED.match(block.text), dict[str, Any]()
    monkeypatch.setattr("torchport.data.drawn.SIZES", {True: 300, False: 100})
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text, name[1] if name else "example.py", "exec"), names)
    if "test_net" in names:
        with pytest.raises(AssertionError) as failure:
            names["test_net"]()
        assert f"AssertionError: {failure.value}" == block.shown
        mended = Path("mynet.py").read_text().replace("  # forgotten: .T", ".T")
        Path("mynet.py").write_text(mended)
        del sys.modules["mynet"]
        exec(block.text, names)
        names["test_net"]()
    elif block.shown:
        assert_shown(block.shown, printed.getvalue())


def test_as_many_ports_are_judged_as_it_says() -> None:
    for page in ("README.md", "docs/parity.md"):
        assert f"{len(BUGS)} of {len(BUGS)} " in PAGES[page]
        assert re.search(rf"\b{len(RIGHT_PORTS)} right (ones accepted, )?(and )?{len(WRONG_PORTS)} wrong", PAGES[page])


def test_there_are_as_many_tests_as_it_says(request: pytest.FixtureRequest) -> None:
    promised = re.search(r"The whole suite, about ([\d,]+) tests", PAGES["README.md"])
    assert promised
    if request.config.getoption("--part") is None and request.session.testscollected > 3000:  # else a part of them
        assert abs(request.session.testscollected / int(promised[1].replace(",", "")) - 1) < 0.1


def rows_of(page: str) -> list[str]:
    return [line for line in PAGES[page].splitlines() if line.startswith("| ")]


def test_the_kill_table_is_as_it_is_printed(request: pytest.FixtureRequest) -> None:
    """Checks the quickest row, or with --docs the first table; docs/parity.md must show rows of docs/kill_table.md."""
    rows = {row: cells for row, _, cells in (row.rpartition(" + eps |") for row in rows_of("docs/kill_table.md"))}
    assert rows
    of_page = [row.removeprefix("| ") for row in rows_of("docs/parity.md") if "-22" in row]
    assert len(of_page) == len(kill_table.MISTAKES)
    assert all(f"| small DeepConvNet | 0.01 | {row}" in rows_of("docs/kill_table.md") for row in of_page)
    if request.config.getoption("--docs"):
        printed = [line for line in kill_table.tables() if "small " in line]
    else:
        quick = ("dW times 1 + eps", "small SimpleConvNet", "0.01")
        printed = [kill_table.row(*quick)]
    assert [line for line in printed if line not in rows_of("docs/kill_table.md")] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", PAGES[page]):
        target, _, anchor = "".join(link).partition("#")
        path = (ROOT / page).parent / target
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
        ]


def test_the_files_that_are_named_are_there() -> None:
    text = "".join(PAGES.values())
    named = set(re.findall(r"(?:scripts|parity_tests|torchport)/[\w/]+\.py\b", text))
    assert len(named) > 12
    assert [name for name in named if not (ROOT / name).is_file() and "NAME" not in name] == []
