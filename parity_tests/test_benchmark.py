"""The benchmark: that it times what it says, round by round, and prints and keeps what it found."""

from __future__ import annotations

import argparse
import contextlib
import json
import runpy
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_scripts import SCRIPTS, Run, assert_refused, run as run

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, benchmark, figures
from torchport.benchmark import Case, Spread, ageing, contenders, device, floors, growth, memory, rounds, startup
from torchport.benchmark.contenders import FLOOR, PLAIN, REFERENCE, TRAINING, training
from torchport.training.learners import TorchLearner

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
    take = contenders(Case(), only=[FLOOR])[FLOOR]
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
    contenders(SMALL, only=[name])[name](5)


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


def test_updates_age_as_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    aged = calls_of(monkeypatch, ageing, "age")
    monkeypatch.setattr(ageing, "AGE", 3)
    for take in benchmark.updates().values():
        take(1)
    assert [(silent, steps) for _, _, silent, steps in aged] == 3 * [(0, 0)] + 3 * [(ageing.SILENT, 3)]


def test_updates_of_a_weight_without_gradient_are_those_of_a_long_run() -> None:
    """torch's rule remembers subnormal numbers, which cost time; the one of torchport does not."""
    tiny = torch.finfo(torch.float32).tiny
    for name, rule in ageing.ADAMS.items():
        weight = torch.nn.Parameter(torch.zeros(6, 2))
        optimizer = rule([weight])
        ageing.age(weight, optimizer, 2, ageing.AGE)
        moments = optimizer.state[weight]["exp_avg"]
        assert (moments[2:] > tiny).all()
        assert bool(((moments[:2] > 0) & (moments[:2] < tiny)).all()) == (name != "BookAdam")


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


def test_growth_is_of_all_but_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    found = benchmark.grow("batch_size", [1, 2], rounds=1)
    assert found.keys() == contenders(SMALL).keys() - {PLAIN}
    assert all(list(line) == [1, 2] and line[1].median > 0 for line in found.values())
    cases: list[Case] = []
    counts: list[dict[str, int]] = []

    def interleave(steps: Any, rounds: int, counts_: dict[str, int], **_: Any) -> dict[str, Any]:
        counts.append(counts_)
        return {name: np.ones(rounds) for name in steps}

    def kept(case: Case, only: Any) -> dict[str, Any]:
        cases.append(case)
        return dict.fromkeys(only)

    monkeypatch.setattr(growth, "contenders", kept)
    monkeypatch.setattr(growth, "interleave", interleave)
    assert benchmark.grow("side", [12, 20], rounds=2)[FLOOR] == dict.fromkeys([12, 20], Spread(1, 1, 1))
    assert [case.side for case in cases] == [12, 20]
    assert (counts[0][REFERENCE], counts[0][FLOOR]) == (1, 4)
    with pytest.raises(ValueError, match="one of batch_size, filters, side, got 'depth'"):
        benchmark.grow("depth", [1])


def test_growth_is_drawn_with_its_floor() -> None:
    panel = {name: {1: (1.0, 0.5, 2.0), 100: (9.0, 8.0, 9.5)} for name in (TRAINING, FLOOR)}
    figure = figures.growth({"batch_size": panel, "side": panel}, FLOOR)
    (over,) = [line for line in figure.axes[0].lines if line.get_label() == FLOOR]
    assert over.get_linestyle() == "--"
    assert over.get_xdata().tolist() == [1, 100]  # type: ignore[union-attr]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [TRAINING, FLOOR]
    with pytest.raises(ValueError, match="at least one panel"):
        figures.growth({})


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


def test_a_command_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ImportError: no torch\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^-c import torch ended with status 1: ImportError: no torch$"):
        benchmark.start_times(Path("scripts"))


def test_starts_are_those_of_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def run(arguments: tuple[str, ...]) -> str:
        ran.append(arguments)
        return "0.25"

    monkeypatch.setattr(startup, "_run", run)
    times = benchmark.start_times(Path("scripts"), 1)
    assert list(times) == ["import torch", "port_params.py", "train.py --help", "import torchport after it"]
    assert times["import torchport after it"].tolist() == [0.25]
    torch_alone, port, help_, _ = ran[::2][:3] + ran[-1:]  # each warms up
    assert torch_alone == ("-c", "import torch")
    assert (port[0], port[-1]) == ("scripts/port_params.py", "--force")
    assert help_ == ("scripts/train.py", "--help")


def test_the_import_is_timed_after_torchs(capsys: pytest.CaptureFixture[str]) -> None:
    before, _, after = startup.IMPORT.partition("start = ")
    assert "import time, torch\n" in before
    assert "torchport" not in before
    assert "from torchport import SimpleConvNet\n" in after
    exec(startup.IMPORT, {})
    assert float(capsys.readouterr().out) >= 0


def test_rates_are_images_and_operations_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "interleave", lambda steps, n, *_, **__: {name: np.full(n, 2.0) for name in steps})
    monkeypatch.setattr(device, "training", lambda case, precision: None)
    assert device.throughput([4, 6], rounds=3) == {4: Spread(2, 2, 2), 6: Spread(3, 3, 3)}
    monkeypatch.setitem(device.SQUARE, "cpu", 10)
    assert device.product_speed() == 2 * 10**3 / 2
    assert device.limit() == 2 * 10**3 / 2 / device.FLOP


def test_kernels_and_rates_of_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.SQUARE, "cpu", 64)
    found = device.kernels(steps=2)
    assert next(o.calls for o in found if o.name == "aten::_fused_adam_") == 1
    assert [o.microseconds for o in found] == sorted((o.microseconds for o in found), reverse=True)
    assert device.throughput([4], rounds=1)[4].median > 0
    assert device.throughput([4], "bf16", rounds=1)[4].median > 0
    assert device.limit() > 0


def test_operations_are_those_of_the_step_with_their_work(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted and named by their shapes, with the longer of two floors."""
    monkeypatch.setattr(floors, "product_speed", lambda device: 2e6)  # 2 operations a microsecond
    monkeypatch.setattr(floors, "_copies", lambda sizes, _: {size: size / 1e3 for size in sizes})
    found = {operation.name: operation for operation in benchmark.operations(replace(SMALL, device=device), 4)}
    totals = [operation.calls * operation.microseconds for operation in found.values()]
    assert totals == sorted(totals, reverse=True)
    assert min(totals) > 0
    product = next(operation for name, operation in found.items() if name == "addmm (10,) (3, 100) (100, 10)")
    assert (product.calls, product.floor) == (1, 3 * 100 * 10)
    assert found["index_select (6,) (3,)"].calls == 2  # the batch's places, and its labels
    assert found["relu (3, 100)"].floor == pytest.approx(2 * 3 * 100 * 4 / 1e3)
    assert not {name.split()[0] for name in found} & {"view", "t", "detach", "permute", "empty", "resize_"}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda a, b: a @ b, floors.Work(2 * 4 * 3 * 5, 4 * (12 + 15 + 20))),
        (lambda a, b: torch.mm(a, b, out=torch.ones(4, 5)), floors.Work(2 * 4 * 3 * 5, 4 * (12 + 15 + 20))),
        (lambda a, _: a + a, floors.Work(0, 4 * (12 + 12))),
        (lambda a, _: a.mul_(2), floors.Work(0, 4 * (12 + 12))),
        (lambda a, _: a.zero_(), floors.Work(0, 4 * 12)),
        (lambda a, _: a[0].copy_(a[1]), floors.Work(0, 4 * (3 + 3))),
        (lambda a, _: a.index_select(0, torch.tensor([1])), floors.Work(0, 4 * (3 + 3) + 8)),
        (lambda a, _: torch._foreach_add_([a, a[0]], [a.clone(), a[1]]), floors.Work(0, 4 * 3 * (12 + 3))),
    ],
)
def test_work_is_what_is_computed_read_and_written(expression: Any, expected: floors.Work) -> None:
    a, b = torch.ones(4, 3), torch.ones(3, 5)
    with floors._Noting(lambda _: contextlib.nullcontext()) as noted:
        expression(a, b)
    assert list(noted.work.values())[-1] == expected


def test_a_copy_moves_as_many_bytes_as_it_is_for() -> None:
    with floors._Noting(lambda _: contextlib.nullcontext()) as noted:
        copies = floors._copies({800}, "cpu")
    assert copies[800] > 0
    assert noted.work["copy_ (100,) (100,)"] == floors.Work(0, 800)


def test_the_script_prints_and_keeps_what_was_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = memory.Usage(1.5, 512 * 2**20)

    def interleave(steps: Any, n: int, counts: Any, **_: Any) -> dict[str, Any]:
        return {name: np.full(n, seconds * 1e-3) for name, seconds in zip(steps, (120, 12, 10, 5, 15, 4), strict=True)}

    monkeypatch.setattr(benchmark, "interleave", interleave)
    monkeypatch.setattr(
        benchmark, "grow", lambda what, values, **_: {FLOOR: dict.fromkeys(values, Spread(0.1, 0.1, 0.2))}
    )
    listed = [floors.Operation("mm (2, 3) (3, 4)", 2, 30, 10), floors.Operation("relu (2, 4)", 1, 5, 4)]
    monkeypatch.setattr(benchmark, "operations", lambda case, steps: listed)
    monkeypatch.setattr(benchmark, "prediction", lambda images: {REFERENCE: usage})
    monkeypatch.setattr(benchmark, "training_memory", lambda sizes: dict.fromkeys(sizes, usage))
    monkeypatch.setattr(benchmark, "start_times", lambda _, rounds, **__: {"import torch": np.full(rounds, 1.25)})
    drawn = calls_of(monkeypatch, figures, "growth")
    done = run("benchmark", "--quick", "--json", tmp_path / "b.json", "--png", tmp_path / "b.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert [floor for _, floor in drawn] == [FLOOR]
    assert "  numpy_ref        120.00 (120.00 to 120.00)\n" in done.stdout
    for of, to, ratio in (
        ("numpy_ref", "training", 24),
        ("plain PyTorch", "training", 3),
        ("training", "products alone", 1.25),
        ("unfold twin", "conv2d twin", 1.2),
        ("numpy_ref", "plain PyTorch", 8),
    ):
        assert f"  {f'{of} / {to}':30} {Spread(ratio, ratio, ratio)}\n" in done.stdout
    assert "\nMilliseconds a step by batch_size\n" in done.stdout
    assert f"  products alone  {100:10.2f}{100:10.2f}\n" in done.stdout
    assert f"  numpy_ref        {1.5:8.2f} {512:8.0f}\n" in done.stdout
    assert "step, 65 microseconds in all, their floors 24; the longest:\n" in done.stdout
    assert "      30.0    10.0    3.0    2.0  mm (2, 3) (3, 4)\n" in done.stdout
    assert "  optim.Adam, fused, all alive               12.00 (12.00 to 12.00)\n" in done.stdout
    assert "  BookAdam, a third silent for 750 steps     4.00 (4.00 to 4.00)\n" in done.stdout
    assert "1,000: 512, 2,000: 512" in done.stdout
    found = json.loads((tmp_path / "b.json").read_text())
    assert found.keys() == {"machine", "step", "operations", "updates", "growth", "memory", "start"}
    assert found["operations"]["listed"][1] == {"name": "relu (2, 4)", "calls": 1, "microseconds": 5, "floor": 4}
    assert found["start"]["seconds"] == {"import torch": [1.25]}
    assert "  import torch             1.25 (1.25 to 1.25)\n" in done.stdout
    assert found["memory"]["prediction"] == {REFERENCE: [1.5, 512 * 2**20]}
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_tells_of_a_device_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = [device.Kernel("gemm", 3, 20), device.Kernel("adam", 1, 5)]
    monkeypatch.setattr(benchmark, "kernels", lambda device: kernels)
    monkeypatch.setattr(benchmark, "throughput", lambda sizes, precision, **_: {100: Spread(1e6, 9e5, 2e6)})
    monkeypatch.setattr(
        benchmark, "limit", lambda precision, device: {"full": 3e6, "tf32": 4e6, "bf16": 5e6}[precision]
    )
    script = runpy.run_path(str(SCRIPTS / "benchmark.py"))
    found = script["measure_device"](argparse.Namespace(device="cuda"))
    said = capsys.readouterr().out
    assert "as a graph: 4, 25 microseconds\n" in said
    assert "  tf32  100: 1,000,000  limit: 4,000,000\n" in said
    assert found["kernels"][0] == {"name": "gemm", "calls": 3, "microseconds": 20}
    assert found["throughput"]["bf16"]["limit"] == 5e6


def test_the_script_refuses_what_it_could_not_write(run: Run, tmp_path: Path) -> None:
    assert_refused(run("benchmark", "--json", tmp_path), "is a folder, expected a file name")
