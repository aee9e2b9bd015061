"""A run on several processes splits the same batches and is the same run."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from torchport.training import Config, Progress, Result, Stopped, resume, train
from torchport.training.folder import FILES, RunFolder
from torchport.training.ranks import Ranks, is_first
from training.runs import make_samples, stopped_at

RUN = Config(dtype="float64", epochs=3, batch_size=20, log_loss="after", device="cpu")
SPLITS = {
    "halves": RUN,
    "unequal parts": replace(RUN, batch_size=7),
    "a last batch of one, so nothing for the second rank": replace(RUN, batch_size=109, sampling="epoch"),
}


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_a_batch_in_order(n: int, size: int) -> None:
    shares = [Ranks(rank, size).share(n) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_others_follow_where_the_first_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    monkeypatch.setattr(dist, "barrier", lambda: met.append("barrier"))
    with pytest.raises(ValueError, match="no data"), Ranks(0, 2).one_after_another():
        raise ValueError("no data")
    assert met == ["barrier"]
    with Ranks(1, 2).one_after_another():
        met.append("the second")
    with Ranks().one_after_another():
        met.append("one alone")
    assert met == ["barrier", "barrier", "the second", "one alone"]


def on_each_rank(folder: Path) -> None:
    """The code that each rank runs below, with torchrun's variables; the first rank saves the results."""
    warnings.filterwarnings("ignore", "the mean loss of epoch")  # of runs too short to learn anything
    samples, results, steps = make_samples(), {}, []

    def watch(progress: Progress) -> None:
        steps.append(progress.step)
        stopped_at(6)(progress)

    for name, config in SPLITS.items():
        results[name] = train(config, samples=samples)
    results["from one to two"] = resume(folder / "one to two", samples=samples)
    try:
        # Only the first rank is watched and gets the signal; both must stop, and at the same step.
        train(RUN, samples=samples, out=folder / "two to one", watch=watch)
    except Stopped as stopped:
        (folder / f"stopped {os.environ['RANK']}").write_text(f"{stopped.step}, steps {steps}")
    if is_first():
        (folder / "results").write_bytes(pickle.dumps({name: vars(result) for name, result in results.items()}))
    atexit._run_exitfuncs()  # which a script's process runs, and multiprocessing's does not


def assert_close(one: Result, other: Result) -> None:
    """Check to within the rounding by which a whole batch and the sum of its parts differ in float64."""
    np.testing.assert_allclose(one.losses, other.losses, rtol=0, atol=1e-12)
    for name in other.params:
        np.testing.assert_allclose(one.params[name], other.params[name], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(one.predictions, other.predictions)
    assert [r.test_accuracy for r in one.records] == [r.test_accuracy for r in other.records]


@pytest.mark.usefixtures("fork_server")
@pytest.mark.filterwarnings("ignore:the mean loss of epoch")
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    samples = make_samples()
    with pytest.raises(Stopped):
        train(RUN, samples=samples, out=tmp_path / "one to two", watch=stopped_at(8))
    launch = LaunchConfig(
        *(1, 1, 2),
        logs_specs=DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ERR),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
    )
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    elastic_launch(launch, on_each_rank)(tmp_path)  # as torchrun does, but for the processes' imports
    for number, handler in handlers.items():  # which the launcher keeps
        signal.signal(number, handler)
    said = [path.read_text() for path in (tmp_path / "logs").rglob("stderr.log")]
    assert len(said) == 2
    assert "Warning" not in "".join(said)
    results = {name: Result(**fields) for name, fields in pickle.loads((tmp_path / "results").read_bytes()).items()}
    for name, config in SPLITS.items():
        assert_close(results[name], train(config, samples=samples))
    whole = train(RUN, samples=samples)
    assert_close(results["from one to two"], whole)
    assert [(tmp_path / f"stopped {rank}").read_text() for rank in range(2)] == ["6, steps [6, 6]", "6, steps []"]
    assert RunFolder(tmp_path / "two to one").read_checkpoint().step == 6
    assert_close(resume(tmp_path / "two to one", samples=samples), whole)
    for folder in ("one to two", "two to one"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == sorted(FILES)
