"""scripts/benchmark.py times what it says, round by round, and prints and saves its results."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from commands.test_scripts import SCRIPTS, Run, assert_refused, run as run
from torchport import SimpleConvNet
from torchport.training.torch_learner import TorchLearner

SCRIPT = str(SCRIPTS / "benchmark.py")


@pytest.fixture(scope="module")
def benchmark() -> SimpleNamespace:
    """The names that the script defines."""
    return SimpleNamespace(**runpy.run_path(SCRIPT))


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The positional arguments of each later call of owner.name, which still does what it did."""
    calls, original = [], getattr(owner, name)

    def record(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return original(*args, **options)

    monkeypatch.setattr(owner, name, record)
    return calls


def test_rounds_take_turns(benchmark: SimpleNamespace) -> None:
    """Each contender takes twice as many untimed steps first, since the one before it has left traces in the caches."""
    taken: list[tuple[str, int]] = []
    steps = {name: lambda count, name=name: taken.append((name, count)) for name in ("slow", "fast")}
    times = benchmark.interleave(steps, 2, {"slow": 1, "fast": 5})
    assert taken == 2 * [*3 * [("slow", 1)], *3 * [("fast", 5)]]
    assert {name: values.shape for name, values in times.items()} == {"slow": (2,), "fast": (2,)}
    assert all((values > 0).all() for values in times.values())


def test_the_floor_is_the_books_arithmetic(benchmark: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 100 images takes 433 MFLOP; the products of the last layer are 0.6 of them."""
    take = benchmark.products("cpu")
    calls = counted(monkeypatch, torch, "mm")
    take(1)
    assert sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in calls) / 100 == pytest.approx(4.33e6, rel=0.004)
    assert len(calls) == 5


def test_each_contender_is_what_its_name_says(benchmark: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = counted(monkeypatch, nr.SimpleConvNet, "loss")
    benchmark.CONTENDERS["numpy_ref"]("cpu")(2)
    assert len(losses) == 2  # after each update
    for conv in ("unfold", "conv2d"):
        forwards = counted(monkeypatch, SimpleConvNet, "forward")
        benchmark.CONTENDERS[f"{conv} port"]("cpu")(2)
        assert len(forwards) == 2
        assert (type(forwards[0][0].conv1) is torch.nn.Conv2d) == (conv == "conv2d")
    updates = counted(monkeypatch, torch.optim.Adam, "step")
    benchmark.CONTENDERS["plain PyTorch"]("cpu")(2)
    assert len(updates) == 2
    advanced = counted(monkeypatch, TorchLearner, "advance")
    take = benchmark.CONTENDERS["training"]("cpu")
    take(2)
    before = advanced[0][0].weights()
    take(2)
    assert [count for _, count in advanced] == [2, 2]
    np.testing.assert_array_equal(advanced[-1][0].weights().params["W2"], before.params["W2"])  # nothing is learned


def test_operations_are_those_of_the_step(benchmark: SimpleNamespace) -> None:
    """The table has the longest operations first, each with the number of calls in these steps."""
    table = benchmark.operations(benchmark.training("cpu"), "cpu", 3)
    rows = [line.split() for line in table.splitlines()]
    operations = [(row[0], float(row[1].rstrip("%")), row[-1]) for row in rows if len(row) == 7 and "%" in row[1]]
    shares = [share for _, share, _ in operations]
    assert shares == sorted(shares, reverse=True)
    assert {name: calls for name, _, calls in operations}["aten::_fused_adam_"] == "3"


def test_a_process_of_its_own_tells_its_memory(benchmark: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak memory of a process, or one line on why it failed."""
    peak = benchmark.alone("unfold", 20)
    assert peak is None or peak > 1
    for stderr, status, expected in (
        ("Traceback (most recent call last):\nMemoryError: too much\n", 1, "status 1: MemoryError: too much"),
        ("", -9, "status -9: it said nothing"),
    ):
        failed = subprocess.CompletedProcess([], status, "", stderr)
        monkeypatch.setattr(subprocess, "run", lambda *_, failed=failed, **__: failed)
        with pytest.raises(RuntimeError, match=f"unfold 20 ended with {expected}$"):
            benchmark.alone("unfold", 20)


@pytest.mark.parametrize("work", ["train", "numpy", "conv2d"])
@pytest.mark.filterwarnings("ignore:the mean loss of epoch")
def test_what_a_process_of_its_own_does(
    work: str, benchmark: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.work_alone(work, 100)
    peak = json.loads(capsys.readouterr().out)
    assert peak is None or peak > 1


def test_the_script_prints_and_keeps_what_was_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times and memory are faked, so that the printed ratios are known."""
    seconds = iter([0.120, 0.024, 0.020, 0.050, 0.150, 0.040])  # of 1 step of numpy_ref, of 10 of the others

    def timed(timer: Any, number: int) -> Any:
        time_by_timer.setdefault(id(timer), next(seconds) if id(timer) not in time_by_timer else 0)
        return SimpleNamespace(mean=time_by_timer[id(timer)])

    time_by_timer: dict[int, float] = {}
    monkeypatch.setattr("torch.utils.benchmark.Timer.timeit", timed)
    alone = subprocess.CompletedProcess([], 0, "512.0", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: alone)
    done = run("benchmark", "--quick", "--json", tmp_path / "b.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  numpy_ref        120.00 (120.00 to 120.00)\n" in done.stdout
    for of, to, ratio in (
        ("numpy_ref", "training", 24),
        ("training", "plain PyTorch", 0.33),
        ("training", "products alone", 1.25),
        ("unfold port", "conv2d port", 1.2),
        ("numpy_ref", "plain PyTorch", 8),
    ):
        assert f"  {f'{of} / {to}':30} {ratio:.2f} ({ratio:.2f} to {ratio:.2f})\n" in done.stdout
    assert "  an epoch of training on 6,000               512\n" in done.stdout
    assert "  aten::" in done.stdout  # the profiler's operators
    results = json.loads((tmp_path / "b.json").read_text())
    assert results.keys() == {"machine", "step", "operations", "memory"}
    assert results["step"]["seconds"]["training"] == 5 * [0.005]
    assert results["memory"]["numpy_ref, prediction of 1,000"] == 512
    assert all(f"{name}: {value}\n" in done.stdout for name, value in results["machine"].items())


def test_the_script_refuses_what_it_could_not_write(run: Run, tmp_path: Path) -> None:
    assert_refused(run("benchmark", "--json", tmp_path), "is a folder, expected a file name")
