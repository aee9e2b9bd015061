"""Steps recorded as CUDA graphs leave no trace of the recording and compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchport.choices import Rule
from torchport.training import Config, Stopped, resume, run, torch_learner, train
from training.runs import OPTIONS, SAMPLES, SHORT, assert_same, stopped_at

pytestmark = [
    pytest.mark.usefixtures("no_drawing"),
    pytest.mark.filterwarnings("ignore:the mean loss of epoch 1"),  # of runs too short to learn anything
]


def recorded_nowhere(recorded: list[Callable[[], None]]) -> Callable[..., Any]:
    """A stand-in for captured, which calls the function as a recording on CUDA does."""

    def captured(function: Callable[[], None], restore: Callable[[], None], device: torch.device) -> Any:
        for _ in range(3):
            function()
            restore()
        recorded.append(function)
        return function

    return captured


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adagrad", "adam"])
@pytest.mark.parametrize(("sizes", "graphs"), [((20, 1), 2), ((2, 1), 3), ((5, 1), 3)], ids=str)
def test_recording_steps_leaves_no_trace(
    optimizer: Rule,
    sizes: tuple[int, ...],
    graphs: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warm-up steps are undone in weights, moments and all; 5 full batches an epoch and one of 10 for 20."""
    config = Config(optimizer=optimizer, epochs=2, batch_size=20, device="cpu", sampling="epoch")
    plain = train(config, samples=SAMPLES)
    recorded: list[Callable[[], None]] = []
    monkeypatch.setattr(torch_learner, "GRAPH_STEPS", sizes)
    monkeypatch.setattr(torch_learner, "captured", recorded_nowhere(recorded))
    monkeypatch.setattr(torch_learner, "uses_graphs", lambda device, ranks: True)
    monkeypatch.setattr(run.Run, "_chunk", property(lambda self: 4, lambda self, value: None), raising=False)
    with pytest.raises(Stopped):
        train(config, samples=SAMPLES, out=tmp_path, watch=stopped_at(10))
    result = resume(tmp_path, samples=SAMPLES)
    assert len(recorded) == 2 * graphs
    np.testing.assert_allclose(result.losses, plain.losses, rtol=1e-6)  # Adam's rate is a float32
    for name in plain.params:
        np.testing.assert_allclose(result.params[name], plain.params[name], rtol=0, atol=1e-6)
    assert result.records[-1].test_accuracy == plain.records[-1].test_accuracy


def test_steps_that_cannot_be_recorded_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on from where the run was, and it says so."""

    def refused(function: Callable[[], None], restore: Callable[[], None], device: torch.device) -> Any:
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch_learner, "uses_graphs", lambda device, ranks: True)
    monkeypatch.setattr(torch_learner, "captured", recorded_nowhere([]))
    recorded = train(SHORT, samples=SAMPLES)
    monkeypatch.setattr(torch_learner, "captured", refused)
    with pytest.warns(UserWarning, match=r"as a CUDA graph \(operation not permitted when stream is capturing\): they"):
        assert_same(train(SHORT, samples=SAMPLES), recorded)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("optimizer", OPTIONS)
def test_a_graph_is_the_eager_run(optimizer: Rule, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        optimizer=optimizer, epochs=3, batch_size=20, device="cuda", sampling="epoch", deterministic=deterministic
    )
    graph = train(config, samples=SAMPLES)
    # Eager, with the same optimizer: only the recording is left out.
    monkeypatch.setattr(torch_learner, "captured", lambda function, restore, device: function)
    eager = train(config, samples=SAMPLES)
    if deterministic:
        assert_same(graph, eager)
    for name in graph.params:
        np.testing.assert_allclose(graph.params[name], eager.params[name], rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", [6, 12])  # a graph runs whole epochs
def test_a_deterministic_run_on_cuda_is_resumed_to_the_bit(step: int, tmp_path: Path) -> None:
    config = Config(epochs=3, batch_size=20, device="cuda", deterministic=True)
    whole = train(config, samples=SAMPLES)
    with pytest.raises(Stopped):
        train(config, samples=SAMPLES, out=tmp_path, watch=stopped_at(step))
    assert_same(resume(tmp_path, samples=SAMPLES), whole)
