"""How a run ends: with the better weights, the values it used, and a warning if it learned nothing."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from numpy_ref.checks import Array
from torchport.files import read_weights
from torchport.training import Config, loop, resume, train
from torchport.training.folder import RunFolder, read_curve
from torchport.training.ranks import join
from training.runs import SAMPLES, SHORT, assert_same, predicted

pytestmark = pytest.mark.usefixtures("no_drawing")


def right(params: Mapping[str, Array]) -> int:
    return int((predicted(params, SAMPLES.x_train) == SAMPLES.t_train).sum())


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
@pytest.mark.parametrize(("seed", "kept"), [(0, "mean"), (1, "last")])
def test_the_kept_weights_are_no_worse_on_the_training_images_than_the_last(model: Any, seed: int, kept: str) -> None:
    """With a single epoch, the mean is over weights that mostly know less than the last ones."""
    config = Config(model=model, seed=seed, epochs=1, batch_size=20, lr=0.003, device="cpu")
    result, last = train(config, samples=SAMPLES), train(replace(config, keep="last"), samples=SAMPLES)
    assert result.kept == kept
    assert right(result.params) >= right(last.params)
    assert np.array_equal(result.params["W2"], last.params["W2"]) == (kept == "last")


@pytest.mark.parametrize("keep", ["mean", "last"])
def test_the_last_line_of_metrics_is_of_the_weights_that_are_kept(keep: Any, tmp_path: Path) -> None:
    result = train(replace(SHORT, keep=keep), samples=SAMPLES, out=tmp_path)
    assert result.kept == keep
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["weights"] for line in lines] == ["last", "last", *(["mean"] if keep == "mean" else [])]
    kept = read_weights(tmp_path).params
    assert lines[-1]["train_accuracy"] == right(kept) / len(SAMPLES.t_train)
    assert lines[-1]["test_accuracy"] == np.mean(predicted(kept, SAMPLES.x_test) == SAMPLES.t_test)
    assert result.test_accuracy == lines[-1]["test_accuracy"]
    for name, value in read_weights(tmp_path / "params.pkl").params.items():
        np.testing.assert_array_equal(value, result.params[name])
    assert len(read_curve(tmp_path).epochs) == 2


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (SHORT, {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "keep": "mean", "device": "cpu", "momentum": None}),
        (replace(SHORT, optimizer="rmsprop", lr=0.002), {"lr": 0.002, "decay_rate": 0.99, "beta1": None}),
        (replace(SHORT, optimizer="nesterov", model="numpy", device=None), {"momentum": 0.9, "device": "cpu"}),
        (replace(SHORT, dtype="float64"), {"keep": "last"}),
    ],
    ids=["adam", "rmsprop", "numpy", "float64"],
)
@pytest.mark.filterwarnings("ignore:the mean loss of epoch 1")
def test_a_run_keeps_the_values_that_it_used(config: Config, used: dict[str, Any], tmp_path: Path) -> None:
    result = train(config, samples=SAMPLES, out=tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert {name: kept[name] for name in used} == used
    assert RunFolder(tmp_path).read_config() == result.config
    assert_same(train(result.config, samples=SAMPLES), result)  # the same run


def test_a_run_keeps_where_its_data_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHPORT_DATA", "digits")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "load_samples", lambda config, progress: SAMPLES)
    assert train(SHORT).config.data_dir == str(tmp_path / "digits")
    assert train(replace(SHORT, data="drawn")).config.data_dir is None


def test_a_run_that_learns_nothing_says_so_once() -> None:
    """With a learning rate at which every relu is dead after a few steps."""
    says = r"^the mean loss of epoch 1 is 0.7417, more than the 0.6931 of guessing: .* smaller lr"
    with pytest.warns(UserWarning, match=says) as told:
        train(replace(SHORT, epochs=3, optimizer="sgd", lr=3), samples=SAMPLES)
    assert len(told) == 1


def test_a_run_that_forgets_says_so_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.2, 0.1, 0.9, 0.8])

    def advance(learner: Any, steps: int) -> Array:
        return np.full(steps, next(losses))

    monkeypatch.setattr("torchport.training.torch_learner.TorchLearner.advance", advance)
    with pytest.warns(UserWarning, match="epoch 3 is 0.9000") as told:
        train(replace(SHORT, epochs=4, batch_size=110), samples=SAMPLES)
    assert len(told) == 1


def test_a_run_that_learns_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(replace(SHORT, epochs=4, batch_size=10), samples=SAMPLES)


def test_a_result_is_one_line() -> None:
    result = train(SHORT, samples=SAMPLES)
    assert repr(result) == (
        f"Result(SimpleConvNet after 12 steps on cpu: test accuracy {result.test_accuracy:.4f}, "
        f"loss {result.losses[-1]:.4f})"
    )


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_a_bar_of_steps(
    progress: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(SHORT, samples=SAMPLES, out=tmp_path, progress=progress)
    resume(tmp_path, epochs=3, samples=SAMPLES, progress=progress)
    said = capsys.readouterr()
    assert said.out == ""
    assert ("12/12" in said.err, "18/18" in said.err, "loss=" in said.err) == 3 * (progress,)


# --- Places that only other machines have


def test_nccl_is_told_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(dist, "init_process_group", lambda *names, **options: told.append((names, options)))
    for name, value in (("is_initialized", False), ("get_rank", 0), ("get_world_size", 2)):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr("atexit.register", lambda function: None)
    device = torch.device("cuda:1")
    join(device)
    join(torch.device("cpu"))
    assert told == [device, (("nccl",), {"device_id": device}), (("gloo",), {})]


def test_cublas_is_told_before_anything_is_done_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens once in a process, at its first product."""
    settings = []

    def check(name: str) -> str:
        settings.append((os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.are_deterministic_algorithms_enabled()))
        return name

    monkeypatch.setattr(loop, "check_computing_device", check)
    for deterministic, expected in ((False, (None, False)), (True, (":4096:8", True))):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        train(replace(SHORT, epochs=1, deterministic=deterministic), samples=SAMPLES)
        assert settings.pop() == expected
