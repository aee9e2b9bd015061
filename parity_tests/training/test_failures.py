"""Failures while a run saves lose no step, and leave complete files."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from torchport.choices import Model
from torchport.files import METRICS
from torchport.training import Config, Diverged, Stopped, resume, run, train
from torchport.training.folder import RunFolder
from training.runs import SAMPLES, SHORT, assert_same, stopped_at

FORKS = multiprocessing.get_context("forkserver")
pytestmark = [
    pytest.mark.usefixtures("fork_server", "no_drawing"),  # it starts while the first tests run, since it takes seconds
    pytest.mark.filterwarnings("ignore:the mean loss of epoch 1"),  # of runs too short to learn anything
]


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(model: Model, tmp_path: Path) -> None:
    config = Config(model=model, optimizer="sgd", lr=1e200, dtype="float64", epochs=2, batch_size=20, device="cpu")
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=r"the loss is nan at step 2: try .* keeps the last"):
        train(config, samples=SAMPLES, out=tmp_path)
    kept = RunFolder(tmp_path).read_checkpoint()
    assert kept.step == 0
    assert all(torch.isfinite(value).all() for value in kept.state["model"].values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step the loss is still finite, since it is from before the update."""
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0)
    config = Config(optimizer="rmsprop", lr=1e308, dtype="float64", epochs=2, batch_size=20, device="cpu")
    with pytest.raises(Diverged, match="a weight is no longer a number after step 1"):
        train(config, samples=SAMPLES, out=tmp_path)
    assert RunFolder(tmp_path).read_checkpoint().step == 0


def full_for(name: str) -> Callable[[int], None]:
    """An os.fsync for which the disk is full when a file of that name is written."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if name in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    return full


@pytest.mark.parametrize("name", ["checkpoint.pt", METRICS, "model.pt", "params.pkl"])
def test_a_full_disk_keeps_the_last_checkpoint(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full from the first write after step 4, which is saved."""
    with pytest.raises(Stopped):
        train(SHORT, samples=SAMPLES, out=tmp_path, watch=stopped_at(4))
    whole = train(SHORT, samples=SAMPLES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_for(name))
        with pytest.raises(OSError, match=rf"{name} cannot be written \(No space left.*step \d+ is kept.*then resume"):
            resume(tmp_path, samples=SAMPLES)
    assert not list(tmp_path.glob(".*"))
    assert_same(resume(tmp_path, samples=SAMPLES), whole)


@pytest.mark.parametrize("name", ["checkpoint.pt", METRICS, "config.json"])
def test_a_run_that_cannot_begin_is_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.json is written last, so that no run can be resumed without a checkpoint."""
    monkeypatch.setattr(os, "fsync", full_for(name))
    with pytest.raises(OSError, match=rf"{name} cannot be written \(No space left.*\): no step had been taken"):
        train(replace(SHORT, epochs=1), samples=SAMPLES, out=tmp_path)
    assert not RunFolder(tmp_path).is_run


def test_an_error_without_a_number_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(*_: object) -> None:
        raise OSError("what was written does not read back")

    monkeypatch.setattr("torchport.files.store.StagedWeights.read", lie)
    with pytest.raises(OSError, match=r"^\S*model.pt cannot be written \(what was written does not read back\): step"):
        train(replace(SHORT, epochs=1), samples=SAMPLES, out=tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written \(Not a directory\): no step had been taken"):
        train(Config(epochs=1, device="cpu"), samples=SAMPLES, out=tmp_path / "file" / "run")


# --- Killed


def continue_or_start(out: Path) -> None:
    """Start or resume a run of 36 steps that saves each of them; called in its own process."""
    run.CHECKPOINT_SECONDS = 0
    if RunFolder(out).is_run:
        resume(out, samples=SAMPLES)
    else:
        train(Config(epochs=6, batch_size=20, device="cpu"), samples=SAMPLES, out=out)


def kill_after(process: multiprocessing.process.BaseProcess, folder: Path, replaced: int, pause: float) -> None:
    """Send SIGKILL pause seconds after the process has replaced its checkpoint as often as replaced says."""

    def checkpoint() -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return (folder / "checkpoint.pt").stat().st_ino
        return None

    last = checkpoint()
    while process.is_alive() and replaced:
        time.sleep(0.001)
        if (inode := checkpoint()) != last:
            last, replaced = inode, replaced - 1
    time.sleep(pause)
    process.kill()
    process.join()


def test_a_run_that_is_killed_again_and_again_ends_the_same(tmp_path: Path) -> None:
    def start(out: Path) -> multiprocessing.process.BaseProcess:
        process = FORKS.Process(target=continue_or_start, args=(out,))
        process.start()
        return process

    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"  # whose name the curves show
    start(whole).join()
    chance, steps = random.Random(0), []
    for replaced in (1, 2, 4, 3):
        kill_after(start(killed), killed, replaced, chance.uniform(0, 0.01))
        steps.append(RunFolder(killed).read_checkpoint().step if RunFolder(killed).is_run else 0)
    assert steps == sorted(steps)
    assert len(set(steps)) > 2, "the kills must hit the run between two of its steps"
    last = start(killed)
    last.join()
    assert last.exitcode == 0
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
