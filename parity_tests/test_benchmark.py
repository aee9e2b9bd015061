"""The benchmark: that it times what it says, round by round, and prints and keeps what it found."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_scripts import SCRIPTS, Run, assert_refused, run as run

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, benchmark
from torchport.benchmark import Case, Spread, contenders, device, memory, rounds
from torchport.benchmark.contenders import FLOOR, PLAIN, REFERENCE, TRAINING, training
from torchport.training.torch_learner import TorchLearner

SMALL = Case(batch_size=3, filters=2, side=12, batches=2)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SETTLE", 0)


def test_rounds_take_turns_and_count_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, taken = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def take(name: str, seconds: float, count: int) -> None:
        taken.append((name, count))
        clock[0] += seconds * count

    steps = {"slow": lambda count: take("slow", 4, count), "fast": lambda count: take("fast", 1, count)}
    times = benchmark.interleave(steps, 2, {"slow": 1, "fast": 5})
    assert taken == 2 * [("slow", 1), ("slow", 1), ("fast", 5), ("fast", 5)]  # each warms up untimed
    assert {name: values.tolist() for name, values in times.items()} == {"slow": [4, 4], "fast": [1, 1]}


def test_each_warms_up_for_as_long_as_others_leave_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, taken = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(rounds, "SETTLE", 1)

    def take(count: int) -> None:
        taken.append(count)
        clock[0] += 0.3 * count

    times = benchmark.interleave({"steps": take}, 1, {"steps": 1})
    assert taken == 4 * [1] + [1]
    assert times["steps"].tolist() == [pytest.approx(0.3)]


def test_a_spread_is_its_median_between_its_quartiles() -> None:
    assert str(Spread(2, 1, 3.25)) == "2.00 (1.00 to 3.25)"


def test_a_ratio_is_taken_round_by_round() -> None:
    assert benchmark.ratio(np.array([2.0, 40.0, 6.0]), np.array([1.0, 10.0, 2.0])) == Spread(3, 2.5, 3.5)


def test_the_floor_is_the_books_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """433 MFLOP a step of 100: 1.73 an image forward, and 4.33 with the gradients."""
    take = contenders(Case())[FLOOR]
    flop, multiply = [], torch.mm

    def counted(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        flop.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    take(1)
    assert sum(flop) / 100 == pytest.approx(device.FLOP, rel=0.002)
    assert len(flop) == 8


@pytest.mark.parametrize("name", contenders(SMALL))
def test_every_contender_takes_more_steps_than_there_are_batches(name: str) -> None:
    contenders(SMALL)[name](5)


def calls_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The positional arguments of each call from now on, which goes on to what was there."""
    calls, there = [], getattr(owner, name)

    def noted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return there(*args, **options)

    monkeypatch.setattr(owner, name, noted)
    return calls


def test_each_contender_is_what_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls_of(monkeypatch, SimpleConvNet, "from_params")
    takers = contenders(SMALL)
    assert [arguments[1] for arguments in made][:2] == ["unfold", "conv2d"]
    losses = calls_of(monkeypatch, nr.SimpleConvNet, "loss")
    takers[REFERENCE](4)
    assert len(losses) == 4  # after each update
    updates = calls_of(monkeypatch, torch.optim.Adam, "step")
    takers[PLAIN](3)
    assert len(updates) == 3


def test_the_training_loop_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    advance = TorchLearner.advance

    def noted(learner: TorchLearner, steps: int) -> Array:
        losses.append(advance(learner, steps).tolist())
        return np.array(losses[-1])

    monkeypatch.setattr(TorchLearner, "advance", noted)
    training(SMALL)(5)
    assert losses == [losses[0], losses[0], losses[0][:1]]  # two batches an epoch, and nothing learned
    assert len(losses[0]) == 2


def test_work_is_timed_from_its_start_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setitem(memory.WORK, "wait", lambda model, images: clock.append(clock.pop() + images))
    memory.work_alone("wait", "", 3)
    assert json.loads(capsys.readouterr().out)[0] == 3


def test_each_process_does_what_it_is_told_of_under(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_alone", lambda *told: told)
    predicting: dict[str, Any] = dict(benchmark.prediction(7))
    assert predicting == {
        "numpy_ref": ("predict", "numpy", 7),
        "unfold twin": ("predict", "unfold", 7),
        "conv2d twin": ("predict", "conv2d", 7),
    }
    taught: dict[int, Any] = dict(benchmark.training_memory((5, 6)))
    assert taught == {5: ("train", TRAINING, 5), 6: ("train", TRAINING, 6)}


def test_a_process_of_its_own_tells_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = memory._alone("predict", "unfold", 20)
    assert usage.seconds > 0
    assert usage.peak is None or usage.peak > 2**20
    failed = subprocess.CompletedProcess([], 1, "", "Traceback (most recent call last):\nMemoryError: too much\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"predict unfold 20 ended with status 1: MemoryError: too much$"):
        memory._alone("predict", "unfold", 20)
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(RuntimeError, match=r"ended with status -9: it said nothing$"):
        memory._alone("predict", "unfold", 20)


def test_rates_are_images_and_operations_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "interleave", lambda steps, n, *_, **__: {name: np.full(n, 2.0) for name in steps})
    monkeypatch.setattr(device, "training", lambda case, precision: None)
    assert device.throughput([4, 6], rounds=3) == {4: Spread(2, 2, 2), 6: Spread(3, 3, 3)}
    monkeypatch.setitem(device.SQUARE, "cpu", 10)
    assert device.product_speed() == 2 * 10**3 / 2
    assert device.limit() == 2 * 10**3 / 2 / device.FLOP


def test_operations_are_those_of_the_step() -> None:
    """The longest first, each as often as the steps call it."""
    rows = [line.split() for line in benchmark.operations(SMALL, steps=4, longest=100).splitlines()]
    found = {row[0]: (float(row[1].rstrip("%")), row[-1]) for row in rows if len(row) == 7 and "%" in row[1]}
    shares = [share for share, _ in found.values()]
    assert shares == sorted(shares, reverse=True)
    assert found["aten::_fused_adam_"][1] == "4"


def test_rates_of_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.SQUARE, "cpu", 64)
    assert device.throughput([4], rounds=1)[4].median > 0
    assert device.throughput([4], "bf16", rounds=1)[4].median > 0
    assert device.limit() > 0


def test_the_script_prints_and_keeps_what_was_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = memory.Usage(1.5, 512 * 2**20)

    def interleave(steps: Any, n: int, counts: Any, **_: Any) -> dict[str, Any]:
        return {name: np.full(n, seconds * 1e-3) for name, seconds in zip(steps, (120, 12, 10, 5, 15, 4), strict=True)}

    monkeypatch.setattr(benchmark, "interleave", interleave)
    monkeypatch.setattr(benchmark, "operations", lambda case, steps: f"aten::mm {steps}")
    monkeypatch.setattr(benchmark, "prediction", lambda images: {REFERENCE: usage})
    monkeypatch.setattr(benchmark, "training_memory", lambda sizes: dict.fromkeys(sizes, usage))
    done = run("benchmark", "--quick", "--json", tmp_path / "b.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  numpy_ref        120.00 (120.00 to 120.00)\n" in done.stdout
    for of, to, ratio in (
        ("numpy_ref", "training", 24),
        ("plain PyTorch", "training", 3),
        ("training", "products alone", 1.25),
        ("unfold twin", "conv2d twin", 1.2),
        ("numpy_ref", "plain PyTorch", 8),
    ):
        assert f"  {f'{of} / {to}':30} {Spread(ratio, ratio, ratio)}\n" in done.stdout
    assert f"  numpy_ref        {1.5:8.2f} {512:8.0f}\n" in done.stdout
    assert "in 10 steps, the longest first\naten::mm 10\n" in done.stdout
    assert "1,000: 512, 2,000: 512" in done.stdout
    found = json.loads((tmp_path / "b.json").read_text())
    assert found.keys() == {"machine", "step", "operations", "memory"}
    assert found["operations"] == "aten::mm 10"
    assert found["memory"]["prediction"] == {REFERENCE: [1.5, 512 * 2**20]}


def test_the_script_tells_of_a_device_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "throughput", lambda sizes, precision, **_: {100: Spread(1e6, 9e5, 2e6)})
    monkeypatch.setattr(
        benchmark, "limit", lambda precision, device: {"full": 3e6, "tf32": 4e6, "bf16": 5e6}[precision]
    )
    script = runpy.run_path(str(SCRIPTS / "benchmark.py"))
    found = script["measure_device"](argparse.Namespace(device="cuda"))
    said = capsys.readouterr().out
    assert "  tf32  100: 1,000,000  limit: 4,000,000\n" in said
    assert found["throughput"]["bf16"]["limit"] == 5e6


def test_the_script_refuses_what_it_could_not_write(run: Run, tmp_path: Path) -> None:
    assert_refused(run("benchmark", "--json", tmp_path), "is a folder, expected a file name")
