"""What all commands do alike: their names, --quiet and --json, one-line errors, and Ctrl-C."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from pathlib import Path

import pytest

import numpy_ref as nr
import torchport
from commands.test_scripts import SCRIPTS, Run, run as run, small_params
from torchport import commands
from torchport.commands import cli


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    nr.write_params(small_params(), tmp_path / "params.pkl")
    return tmp_path / "params.pkl"


def torchports(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The exit status of torchport with these arguments, and its output on both streams."""
    monkeypatch.setattr(sys, "argv", ["torchport", *arguments])
    try:
        status = commands.main()
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    output = capsys.readouterr()
    return status, output.out + output.err


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_is_a_module_and_a_script(name: str) -> None:
    assert callable(importlib.import_module(f"torchport.commands.{name}").main)
    assert f"cli.run({name}.main)" in (SCRIPTS / f"{name}.py").read_text()


def test_one_name_opens_them_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchports(capsys, monkeypatch, "--version") == (0, f"torchport {torchport.__version__}\n")
    for without in ((), ("--help",)):
        status, output = torchports(capsys, monkeypatch, *without)
        assert status == 0
        assert all(name in output for name in commands.COMMANDS)
    status, output = torchports(capsys, monkeypatch, "evalute")
    assert status == cli.BAD_INPUT
    assert output.startswith("error: command must be one of parity_report, ")
    assert output.endswith(", got 'evalute'\n")
    status, output = torchports(capsys, monkeypatch, "port-params", "--help")
    assert status == 0
    assert output.startswith("usage: torchport port_params ")


def test_a_program_can_read_what_is_found(run: Run) -> None:
    done = run("parity_report", "--batch-size", "1", "--dtype", "float64", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert [port_report["port"] for port_report in report["reports"]] == ["conv2d", "unfold"]


def test_quiet_commands_print_the_result_alone(params_file: Path, run: Run) -> None:
    target, picture = params_file.with_name("model.pt"), params_file.with_name("boxes.png")
    for words in (("port_params", params_file, target), ("visualize", "architecture", params_file, "--out", picture)):
        done = run(*words, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert target.exists()
    assert picture.exists()
    assert run("gradient_check", "--quiet").stdout.startswith("RIGHT: ")
    done = run("parity_report", "--batch-size", "1", "--dtype", "float64", "--quiet")
    *verdicts, last = done.stdout.splitlines()
    assert last == "PARITY"
    assert [verdict.partition(" in ")[0] for verdict in verdicts] == ["parity: conv2d", "parity: unfold"]


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("port_params", ["a.pkl", "b.pt", "--forc"], "unrecognized arguments: --forc"),
        ("train", ["--epoch", "1"], "unrecognized arguments: --epoch 1"),
        ("parity_report", ["a.pkl", "--params", "a.pkl"], "--params is the same as WEIGHTS"),
        ("evaluate", ["a.pkl", "--json", "--quiet"], "not allowed with"),
        ("evaluate", ["a.pkl", "--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_what_is_no_option_is_one_line(script: str, arguments: list[str], says: str, run: Run) -> None:
    done = run(script, *arguments)
    assert (done.returncode, done.stdout) == (cli.BAD_INPUT, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_is_heard_where_a_shell_has_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cli.run(lambda: signal.raise_signal(signal.SIGINT) or 0) == cli.INTERRUPTED  # type: ignore[func-returns-value]
    finally:
        signal.signal(signal.SIGINT, before)
