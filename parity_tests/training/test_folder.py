"""A run's folder: stopping and resuming with the same bits, for more epochs, overwriting, and damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import numpy_ref as nr
from torchport import SimpleConvNet, to_params
from torchport.choices import Launched, Model, Rule
from torchport.files import METRICS
from torchport.training import Config, Progress, Result, Stopped, resume, run, train
from torchport.training.folder import FILES, Checkpoint, RunFolder, read_curve
from torchport.training.result import Clock
from torchport.training.state import put_back
from training.runs import OPTIONS, SAMPLES, SHORT, assert_same, stopped_at

pytestmark = [
    pytest.mark.usefixtures("no_drawing"),
    pytest.mark.filterwarnings("ignore:the mean loss of epoch 1"),  # of runs too short to learn anything
]


@pytest.mark.parametrize(
    ("model", "optimizer", "step"),
    [
        *[(model, "adam", step) for model in ("conv2d", "numpy") for step in (1, 5, 6, 7)],  # of 6 an epoch
        *[(model, optimizer, 8) for model in ("conv2d", "numpy") for optimizer in OPTIONS],
        ("unfold", "adam", 5),
    ],
)
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_end(
    model: Model, optimizer: Rule, step: int, tmp_path: Path
) -> None:
    config = replace(SHORT, model=model, optimizer=optimizer)
    whole = train(config, samples=SAMPLES, out=tmp_path / "whole")
    with pytest.raises(Stopped, match=f"step {step} of 12") as stopped:
        train(config, samples=SAMPLES, out=tmp_path / "part", watch=stopped_at(step))
    assert stopped.value.step == step
    assert RunFolder(tmp_path / "part").read_checkpoint().step == step
    assert_same(resume(tmp_path / "part", samples=SAMPLES), whole)
    for name in FILES:
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_the_last_step_comes_too_late(tmp_path: Path) -> None:
    result = train(SHORT, samples=SAMPLES, out=tmp_path, watch=stopped_at(12))
    assert_same(result, train(SHORT, samples=SAMPLES))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path) -> None:
    def watch(progress: Progress) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(SHORT, samples=SAMPLES, out=tmp_path, watch=watch)
    assert RunFolder(tmp_path).read_checkpoint().step == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_stops_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def watch(progress: Progress) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before  # which may be the end of pytest
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match="step 1 of 12"):
        train(SHORT, samples=SAMPLES, watch=watch)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_watcher_is_told_of_every_step_and_evaluation() -> None:
    told: list[Progress] = []
    result = train(SHORT, samples=SAMPLES, watch=told.append)
    assert [progress.step for progress in told if progress.record is None] == list(range(1, 13))
    assert [progress.record for progress in told if progress.record is not None] == list(result.records[:2])
    assert [progress.loss for progress in told] == [result.losses[progress.step - 1] for progress in told]


def test_a_checkpoint_is_due_so_long_after_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which every step takes a fifth of that time; checkpoints are also due at start and end."""
    now, saved, save = 0.0, [], RunFolder.save

    def watch(progress: Progress) -> None:
        nonlocal now
        now += run.CHECKPOINT_SECONDS / 5 if progress.record is None else 0

    def saves(folder: RunFolder, checkpoint: Checkpoint) -> None:
        saved.append(checkpoint.step)
        save(folder, checkpoint)

    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(RunFolder, "save", saves)
    train(SHORT, samples=SAMPLES, out=tmp_path, watch=watch)
    assert saved == [0, 5, 10, 12]


def test_times_spent_on_the_same_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1.0, 3.0, 10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr("torchport.training.result.time", SimpleNamespace(perf_counter=readings.__next__))
    clock = Clock()
    for name in ("saving", "saving", "training"):
        with clock.on(name):
            pass
    assert clock.seconds == {"saving": 6, "training": 1}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Folder and result of a run of one epoch, for tests to copy."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(replace(SHORT, epochs=1), samples=SAMPLES, out=folder)


@pytest.fixture
def finished(once: tuple[Path, Result], tmp_path: Path) -> Path:
    return Path(shutil.copytree(once[0], tmp_path / "run"))


def test_a_finished_run_can_be_resumed_for_more_epochs(once: tuple[Path, Result], finished: Path) -> None:
    assert_same(resume(finished, samples=SAMPLES), once[1])
    more = resume(finished, epochs=3, device="cpu:0", samples=SAMPLES)
    assert_same(more, train(replace(SHORT, epochs=3), samples=SAMPLES))
    lines = [json.loads(line) for line in (finished / METRICS).read_text().splitlines()]
    assert [(line["epoch"], line["weights"]) for line in lines] == [(1, "last"), (2, "last"), (3, "last"), (3, "mean")]
    again = resume(finished, samples=SAMPLES)
    assert_same(again, more)  # the folder knows how many epochs it has now, and where
    assert again.device == "cpu:0"
    with pytest.raises(ValueError, match="at least the 3"):
        resume(finished, epochs=2, samples=SAMPLES)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        resume(finished, epochs=0, samples=SAMPLES)
    with pytest.raises(ValueError, match="device 'bogus' cannot be used here"):
        resume(finished, device="bogus", samples=SAMPLES)


def test_a_run_by_tritons_kernels_goes_on_by_torchs(once: tuple[Path, Result], finished: Path) -> None:
    """Without CUDA, or if that is asked for."""
    config = Config.from_json((finished / "config.json").read_text())
    there = replace(config, kernels="triton", device="cuda").to_json()
    kernels: list[Launched | None] = [None, "torch"]
    for chosen in kernels:
        (finished / "config.json").write_text(there)
        assert_same(resume(finished, samples=SAMPLES, device="cpu", kernels=chosen), once[1])
    (finished / "config.json").write_text(there)
    with pytest.raises(ValueError, match="kernels triton needs a CUDA device, got cpu"):
        resume(finished, samples=SAMPLES, device="cpu", kernels="triton")


def test_what_a_folder_holds(tmp_path: Path) -> None:
    config = Config(epochs=2, batch_size=20, device="cpu", seed=7)
    result = train(config, samples=SAMPLES, out=tmp_path / "new" / "run")
    folder = tmp_path / "new" / "run"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert Config.from_json((folder / "config.json").read_text()) == result.config == config.used("cpu", None)
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    assert lines == [record._asdict() for record in result.records]
    assert [line["step"] for line in lines] == [6, 12, 12]
    assert lines[1]["loss"] == result.losses[6:].mean()
    state = torch.load(folder / "model.pt", weights_only=True)
    net = SimpleConvNet((1, 10, 10), output_size=2)
    net.load_state_dict(state)
    for name, value in nr.read_params(folder / "params.pkl").items():
        np.testing.assert_array_equal(value, result.params[name])
        np.testing.assert_array_equal(value, to_params(net.state_dict())[name])


def test_another_run_is_overwritten_when_told_and_nothing_of_it_is_left(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a file that a kill left half written; config.json is removed first, so that no damaged run remains."""
    (finished / ".model.pt.0123.tmp").write_bytes(b"PK")
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(ValueError, match="holds another run"):
        train(replace(SHORT, seed=1), samples=SAMPLES, out=finished)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    removed, unlink = [], Path.unlink

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlinked)
    with pytest.raises(Stopped):
        train(SHORT, samples=SAMPLES, out=finished, overwrite=True, watch=stopped_at(1))
    assert removed[0] == "config.json"
    assert sorted(path.name for path in finished.iterdir()) == ["checkpoint.pt", "config.json", METRICS]


def test_every_line_of_metrics_is_on_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, fsync = [], os.fsync

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == METRICS:
            lines.append(len(path.read_text().splitlines()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    train(SHORT, samples=SAMPLES, out=tmp_path)
    assert lines == [1, 2, 3]  # the third is of the mean


def test_metrics_have_neither_gaps_nor_doubles(tmp_path: Path) -> None:
    """After a kill between a line of metrics and its checkpoint, or in the middle of the line."""
    config = Config(epochs=3, batch_size=20, device="cpu")
    train(config, samples=SAMPLES, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, samples=SAMPLES, out=tmp_path / "part", watch=stopped_at(8))
    with pytest.raises(ValueError, match="epochs must be at least the 2 that the run has"):  # of 6 steps each
        resume(tmp_path / "part", epochs=1, samples=SAMPLES)
    metrics = tmp_path / "part" / METRICS
    metrics.write_text(metrics.read_text() + '{"epoch": 2, "step": 12, "lo')
    resume(tmp_path / "part", samples=SAMPLES)
    assert metrics.read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no run to resume"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text('{"data": "mnist"}'), "missing"),
        (lambda folder: (folder / "checkpoint.pt").unlink(), "checkpoint.pt cannot be read"),
        (lambda folder: (folder / "checkpoint.pt").write_bytes(b"PK"), "checkpoint.pt cannot be read"),
        (lambda folder: torch.save({"version": 3}, folder / "checkpoint.pt"), "not of version 2"),
    ],
    ids=["no config", "half a config", "another config", "no checkpoint", "half a checkpoint", "a later version"],
)
def test_a_damaged_folder_is_one_clear_error(spoil: Callable[[Path], object], says: str, finished: Path) -> None:
    spoil(finished)
    with pytest.raises(ValueError, match=says) as error:
        resume(finished, samples=SAMPLES)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_rule_is_refused(finished: Path, tmp_path: Path) -> None:
    train(replace(SHORT, epochs=1, optimizer="sgd"), samples=SAMPLES, out=tmp_path / "sgd")
    (tmp_path / "sgd" / "checkpoint.pt").replace(finished / "checkpoint.pt")
    with pytest.raises(ValueError, match="of another network or update rule"):
        resume(finished, samples=SAMPLES)


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({"c": torch.ones(3, dtype=torch.float64)}, r"state.b.c: expected torch.float32 \(3,\), got torch.float64"),
        ({"c": torch.ones(2)}, r"state.b.c: expected torch.float32 \(3,\), got torch.float32 \(2,\)"),
        ({"c": 1}, "state.b.c: expected .* got int"),
        ({"d": torch.ones(3)}, r"state.b of another network or update rule: expected \['c'\], got \['d'\]"),
        (torch.ones(3), "state.b of another network or update rule: .* got Tensor"),
    ],
    ids=["dtype", "shape", "no tensor", "keys", "no dict"],
)
def test_a_state_that_does_not_fit_changes_nothing(saved: object, says: str) -> None:
    own: dict[str, Any] = {"a": torch.zeros(2), "b": {"c": torch.zeros(3)}}
    with pytest.raises(ValueError, match=says):
        put_back(own, {"a": torch.ones(2), "b": saved})
    assert not own["a"].any()


def test_a_run_stopped_in_its_first_epoch_has_no_curve_yet(tmp_path: Path) -> None:
    RunFolder(tmp_path).create(Config(), Checkpoint(3, torch.zeros(3), [], {}, ""), overwrite=False)
    with pytest.raises(ValueError, match="no evaluation yet"):
        read_curve(tmp_path)
