"""Training: the same run as the reference, the same bits after a resume, and errors that keep what there is."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, to_params
from torchport.choices import Model, Rule
from torchport.files import METRICS, read_weights
from torchport.training import Config, Diverged, Progress, Result, Samples, Stopped, resume, run, torch_learner, train
from torchport.training.folder import FILES, Checkpoint, RunFolder, read_curve
from torchport.training.fused import Gathered, conv_pool_relu
from torchport.training.ranks import Ranks
from torchport.training.result import Clock
from torchport.training.samples import orders
from torchport.training.state import put_back

SHORT = Config(epochs=2, batch_size=20, device="cpu")
FLOAT64 = Config(dtype="float64", device="cpu", epochs=2, batch_size=20, log_loss="after")
FORKS = multiprocessing.get_context("forkserver")
# The server starts while the first tests run, since it takes seconds.
pytestmark = [
    pytest.mark.usefixtures("fork_server", "no_drawing"),
    pytest.mark.filterwarnings("ignore:the mean loss of epoch 1"),  # of runs too short to learn anything
]
MODELS: list[Model] = ["conv2d", "unfold", "numpy"]
OPTIONS: dict[Rule, dict[str, Any]] = {
    "sgd": {"lr": 0.05},
    "momentum": {"lr": 0.02, "momentum": 0.5},
    "nesterov": {"momentum": 0.7},
    "adagrad": {"lr": 0.02},
    "rmsprop": {"lr": 0.002, "decay_rate": 0.9},
    "adam": {"lr": 0.002, "beta1": 0.8, "beta2": 0.99},
}


def make_samples() -> Samples:
    """Two classes of images of 10x10 that a network tells apart after a few steps: dark on the left or on the right."""
    rng = np.random.RandomState(3)
    t = rng.randint(0, 2, 150)
    x = rng.randint(0, 256, (150, 1, 10, 10))
    x[t == 0, ..., :5] //= 4
    x[t == 1, ..., 5:] //= 4
    x = x.astype(np.uint8)
    return Samples(x[:110], t[:110], x[110:], t[110:], classes=2)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return make_samples()


def pixels(images: Array) -> Array:
    return images.astype(np.float32) / np.float32(255)


def assert_near(params: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """As in test_optimizers."""
    assert params.keys() == expected.keys()
    for name, value in params.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-12)


def predicted(params: Mapping[str, Array], images: Array) -> Array:
    """The classes that the reference sees in images with these params."""
    network = nr.SimpleConvNet((1, *images.shape[2:]), output_size=2, params=params)
    return np.asarray(network.predict(pixels(images)).argmax(axis=1))


def by_hand(network: nr.Network, samples: Samples, batches: Iterable[Array]) -> tuple[list[float], list[Any]]:
    """The loss after each step of the reference, and the params."""
    rule, losses, reached = nr.Adam(), [], []
    for batch in batches:
        x, t = pixels(samples.x_train[batch]), samples.t_train[batch]
        rule.update(network.params, network.gradient(x, t))
        losses.append(network.loss(x, t, train_flg=False))
        reached.append({name: value.copy() for name, value in network.params.items()})
    return losses, reached


def book_run(config: Config, samples: Samples) -> nr.Trainer:
    """The same run by the reference's own Trainer, from its own seed."""
    rng = np.random.RandomState(config.seed)
    network = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=rng)
    trainer = nr.Trainer(
        network,
        pixels(samples.x_train),
        samples.t_train,
        pixels(samples.x_test),
        samples.t_test,
        epochs=config.epochs,
        mini_batch_size=config.batch_size,
        optimizer=config.optimizer,
        optimizer_param={"lr": 0.001 if config.optimizer == "adam" else 0.01, **config.rule_options},
        rng=rng,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_the_books(model: Model, optimizer: Rule, samples: Samples, device: str) -> None:
    """12 steps, the last batch of each epoch filled up; conv2d's with the rule's own options."""
    place, options = None if model == "numpy" else device, {} if model == "conv2d" else OPTIONS[optimizer]
    config = replace(FLOAT64, model=model, optimizer=optimizer, device=place, **options)
    result, book = train(config, samples=samples), book_run(config, samples)
    assert len(result.losses) == 12
    np.testing.assert_allclose(result.losses, book.train_loss_list, rtol=0, atol=1e-12)
    assert_near(result.params, book.network.params)
    assert result.test_accuracy == book.final_test_acc
    np.testing.assert_array_equal(result.predictions, predicted(book.network.params, samples.x_test))


def test_it_learns(samples: Samples, device: str) -> None:
    result = train(Config(epochs=20, batch_size=10, device=device), samples=samples)
    assert result.records[-1].loss < 0.2 < 0.6 < result.records[0].loss
    assert result.test_accuracy == np.mean(predicted(result.params, samples.x_test) == samples.t_test) > 0.95
    assert {value.dtype for value in result.params.values()} == {np.dtype(np.float32)}


def test_the_logged_loss_is_that_of_the_step_unless_asked(samples: Samples) -> None:
    """In the first step, the loss before the update is that of the untrained network: log 2."""
    before = train(replace(FLOAT64, log_loss="step"), samples=samples)
    after = train(FLOAT64, samples=samples)
    assert before.losses[0] == pytest.approx(np.log(2), abs=1e-3)
    assert after.losses[0] < before.losses[0]
    for name in before.params:
        np.testing.assert_array_equal(before.params[name], after.params[name])


def test_the_books_batches_are_its_random_stream() -> None:
    """Drawn an epoch at a time, they are what the book draws one by one."""
    drawn, stream = orders(Config(batch_size=7), 24, np.random.RandomState(4)), np.random.RandomState(4)
    for _ in range(3):
        book = [stream.choice(24, 7) for _ in range(4)]
        np.testing.assert_array_equal(next(drawn), np.concatenate(book))


def test_an_epoch_of_permuted_batches_takes_every_sample_once() -> None:
    drawn = orders(Config(batch_size=7, sampling="epoch"), 24, np.random.RandomState(4))
    first, second = next(drawn), next(drawn)
    assert sorted(first) == sorted(second) == list(range(24))
    assert list(first) != list(second)


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
@pytest.mark.parametrize("batch_size", [20, 110, 500])
def test_a_short_last_batch_is_a_mean_of_its_own(model: Model, batch_size: int, samples: Samples) -> None:
    """110 = 5 * 20 + 10: the sixth step is the mean over 10 images, in the port as in the reference by hand."""
    config = replace(FLOAT64, model=model, sampling="epoch", epochs=2, batch_size=batch_size)
    rng = np.random.RandomState(0)
    network, ends = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=rng), range(batch_size, 110, batch_size)
    batches = [batch for _ in range(2) for batch in np.split(rng.permutation(110), ends)]
    losses, _ = by_hand(network, samples, batches)
    np.testing.assert_allclose(train(config, samples=samples).losses, losses, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [50, 110])
def test_train_size_takes_the_first_images(n: int, samples: Samples) -> None:
    """Of 110: so all of them, too."""
    first = samples._replace(x_train=samples.x_train[:n], t_train=samples.t_train[:n])
    assert_same(train(replace(FLOAT64, train_size=n), samples=samples), train(FLOAT64, samples=first))


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
def test_the_training_accuracy_is_that_of_the_first_thousand_images(model: Model, samples: Samples) -> None:
    """Of 1100, with labels at random, so that all of them together have another."""
    x, t = np.tile(samples.x_train[..., 2:8, 2:8], (10, 1, 1, 1)), np.random.RandomState(1).randint(0, 2, 1100)
    many = Samples(x, t, samples.x_test[..., 2:8, 2:8], samples.t_test, classes=2)
    result = train(replace(FLOAT64, model=model, epochs=1, batch_size=1100), samples=many)
    right = predicted(result.params, x) == t
    assert result.records[-1].train_accuracy == right[:1000].mean() != right.mean()


@pytest.mark.parametrize("model", MODELS)
def test_the_mean_of_the_last_epochs_weights(model: Model, samples: Samples, tmp_path: Path) -> None:
    """Over its 6 steps, as the reference reaches them by hand; also where a stop falls among them."""
    config = replace(FLOAT64, model=model, keep="mean")
    with pytest.raises(Stopped):
        train(config, samples=samples, out=tmp_path, watch=stopped_at(9))
    result = resume(tmp_path, samples=samples)
    rng = np.random.RandomState(0)
    network = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=rng)
    _, reached = by_hand(network, samples, (rng.choice(110, 20) for _ in range(12)))
    assert_near(result.params, {name: np.mean([step[name] for step in reached[6:]], axis=0) for name in result.params})
    assert all(np.abs(value - reached[-1][name]).max() > 1e-6 for name, value in result.params.items())
    np.testing.assert_array_equal(result.predictions, predicted(result.params, samples.x_test))
    np.testing.assert_array_equal(nr.read_params(tmp_path / "params.pkl")["W2"], result.params["W2"])


@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "padding"),
    [((4, 1, 10, 10), 6, 5, 0), ((2, 3, 7, 8), 5, (2, 3), (1, 2)), ((1, 2, 3, 4), 1, 1, 0), ((0, 1, 6, 6), 2, 3, 0)],
)
@pytest.mark.parametrize("largest", [1, 100], ids=["with ties", "without"])
def test_conv_pool_and_relu_at_once_are_one_after_the_other(
    shape: tuple[int, ...], filters: int, kernel: Any, padding: Any, largest: int, rng: np.random.Generator
) -> None:
    """In small whole numbers, whose sums are exact in any order: so to the bit, ties and where gradients go too."""
    for dtype in (torch.float64, torch.float32):
        conv = nn.Conv2d(shape[1], filters, kernel, padding=padding, dtype=dtype)
        whole = partial(whole_numbers, rng, largest, dtype)
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(whole(parameter.shape))
        x = whole(shape).requires_grad_()
        places, scratch = Gathered.of(conv, shape[1:]), torch.empty(0, dtype=dtype)
        one, other = F.max_pool2d(conv(x), 2).relu(), conv_pool_relu(x, conv, places, scratch)
        conv_pool_relu(whole((9, *shape[1:])), conv, places, scratch)  # in the same memory
        assert torch.equal(one, other)
        douts, leaves = [whole(one.shape) for _ in range(2)], [x, *conv.parameters()]
        for dout in douts:  # the second time in memory that the first has used
            gradients = (torch.autograd.grad(y, leaves, dout, retain_graph=True) for y in (one, other))
            assert all(map(torch.equal, *gradients))


def test_conv_pool_and_relu_at_once_follow_autocast() -> None:
    conv = nn.Conv2d(1, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv_pool_relu(torch.rand(2, 1, 6, 6), conv, Gathered.of(conv, (1, 6, 6)), torch.empty(0))
    assert found.dtype == torch.bfloat16


def whole_numbers(rng: np.random.Generator, largest: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(rng.integers(-largest, largest, shape, endpoint=True), dtype=dtype)


# --- Another network


# Each with the part of the images that it is given.
NETWORKS: dict[str, tuple[Callable[[np.random.RandomState], nr.Network], Callable[[Array], Array]]] = {
    "LeNet5": (lambda rng: nr.LeNet5((1, 12, 12), 2, rng=rng), lambda x: np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))),
    "DeepConvNet": (lambda rng: nr.DeepConvNet((1, 4, 4), output_size=2, rng=rng), lambda x: x[..., 3:7, 3:7]),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_another_network_trains_as_the_reference_and_goes_on_after_a_stop(
    name: Any, model: Model, samples: Samples, tmp_path: Path
) -> None:
    """As the reference trains by hand; dropout's masks are a stream of their own, predictions are without dropout."""
    make, part = NETWORKS[name]
    samples = samples._replace(x_train=part(samples.x_train), x_test=part(samples.x_test))
    config = replace(FLOAT64, network=name, model=model, seed=3)
    rng, masks = np.random.RandomState(config.seed), np.random.RandomState([config.seed, 1])
    network = make(rng)
    for layer in network.layers.values():
        if isinstance(layer, nr.Dropout):
            layer.rng = masks
    losses, _ = by_hand(network, samples, (rng.choice(110, 20) for _ in range(12)))
    with pytest.raises(Stopped):
        train(config, samples=samples, out=tmp_path, watch=stopped_at(4))
    result = resume(tmp_path, samples=samples)
    assert_same(result, train(config, samples=samples))
    np.testing.assert_allclose(result.losses, losses, rtol=0, atol=1e-12)
    assert_near(result.params, network.params)
    np.testing.assert_array_equal(result.predictions, network.predict(pixels(samples.x_test)).argmax(axis=1))
    assert nr.params.same_bits(read_weights(tmp_path).params, result.params)


def test_masks_are_drawn_in_one_process_only(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    small = samples._replace(x_train=samples.x_train[..., 3:7, 3:7], x_test=samples.x_test[..., 3:7, 3:7])
    monkeypatch.setattr("torchport.training.loop.join", lambda device: Ranks(0, 2))
    with pytest.raises(ValueError, match=r"masks of Dropout1, Dropout2 for whole batches: .* one process, got 2"):
        train(replace(SHORT, network="DeepConvNet"), samples=small)


# --- A run's folder


def assert_same(one: Result, other: Result) -> None:
    """To the bit."""
    assert one.records == other.records
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(one.predictions, other.predictions)
    assert one.params.keys() == other.params.keys()
    for name in one.params:
        np.testing.assert_array_equal(one.params[name], other.params[name])


def stopped_at(step: int) -> Callable[[Progress], None]:
    """A watcher that presses Ctrl-C after so many steps."""

    def watch(progress: Progress) -> None:
        if progress.step == step and progress.record is None:
            signal.raise_signal(signal.SIGINT)

    return watch


@pytest.mark.parametrize(
    ("model", "optimizer", "step"),
    [
        *[(model, "adam", step) for model in ("conv2d", "numpy") for step in (1, 5, 6, 7)],  # of 6 an epoch
        *[(model, optimizer, 8) for model in ("conv2d", "numpy") for optimizer in OPTIONS],
        ("unfold", "adam", 5),
    ],
)
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_end(
    model: Model, optimizer: Rule, step: int, samples: Samples, tmp_path: Path
) -> None:
    config = replace(SHORT, model=model, optimizer=optimizer)
    whole = train(config, samples=samples, out=tmp_path / "whole")
    with pytest.raises(Stopped, match=f"step {step} of 12") as stopped:
        train(config, samples=samples, out=tmp_path / "part", watch=stopped_at(step))
    assert stopped.value.step == step
    assert RunFolder(tmp_path / "part").read_checkpoint().step == step
    assert_same(resume(tmp_path / "part", samples=samples), whole)
    for name in FILES:
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_the_last_step_comes_too_late(samples: Samples, tmp_path: Path) -> None:
    result = train(SHORT, samples=samples, out=tmp_path, watch=stopped_at(12))
    assert_same(result, train(SHORT, samples=samples))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_second_ctrl_c_does_not_wait_for_the_step(samples: Samples, tmp_path: Path) -> None:
    def watch(progress: Progress) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(SHORT, samples=samples, out=tmp_path, watch=watch)
    assert RunFolder(tmp_path).read_checkpoint().step == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_stops_as_ctrl_c_does(samples: Samples) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def watch(progress: Progress) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before  # which may be the end of pytest
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match="step 1 of 12"):
        train(SHORT, samples=samples, watch=watch)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_watcher_is_told_of_every_step_and_evaluation(samples: Samples) -> None:
    told: list[Progress] = []
    result = train(SHORT, samples=samples, watch=told.append)
    assert [progress.step for progress in told if progress.record is None] == list(range(1, 13))
    assert [progress.record for progress in told if progress.record is not None] == list(result.records[:2])
    assert [progress.loss for progress in told] == [result.losses[progress.step - 1] for progress in told]


def test_a_checkpoint_is_due_so_long_after_the_last_one(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which every step takes a fifth of that time; also at the start and at the end."""
    now, saved, save = 0.0, [], RunFolder.save

    def watch(progress: Progress) -> None:
        nonlocal now
        now += run.CHECKPOINT_SECONDS / 5 if progress.record is None else 0

    def saves(folder: RunFolder, checkpoint: Checkpoint) -> None:
        saved.append(checkpoint.step)
        save(folder, checkpoint)

    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(RunFolder, "save", saves)
    train(SHORT, samples=samples, out=tmp_path, watch=watch)
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
def once(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run of one epoch, for others to copy."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(replace(SHORT, epochs=1), samples=samples, out=folder)


@pytest.fixture
def finished(once: tuple[Path, Result], tmp_path: Path) -> Path:
    return Path(shutil.copytree(once[0], tmp_path / "run"))


def test_a_finished_run_can_be_resumed_for_more_epochs(
    samples: Samples, once: tuple[Path, Result], finished: Path
) -> None:
    assert_same(resume(finished, samples=samples), once[1])
    more = resume(finished, epochs=3, device="cpu:0", samples=samples)
    assert_same(more, train(replace(SHORT, epochs=3), samples=samples))
    lines = [json.loads(line) for line in (finished / METRICS).read_text().splitlines()]
    assert [(line["epoch"], line["weights"]) for line in lines] == [(1, "last"), (2, "last"), (3, "last"), (3, "mean")]
    again = resume(finished, samples=samples)
    assert_same(again, more)  # the folder knows how many epochs it has now, and where
    assert again.device == "cpu:0"
    with pytest.raises(ValueError, match="at least the 3"):
        resume(finished, epochs=2, samples=samples)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        resume(finished, epochs=0, samples=samples)


def test_what_a_folder_holds(samples: Samples, tmp_path: Path) -> None:
    config = Config(epochs=2, batch_size=20, device="cpu", seed=7)
    result = train(config, samples=samples, out=tmp_path / "new" / "run")
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
    samples: Samples, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of a file that a kill has left half written; config.json goes first, so that no damaged run is left."""
    (finished / ".model.pt.0123.tmp").write_bytes(b"PK")
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(ValueError, match="holds another run"):
        train(replace(SHORT, seed=1), samples=samples, out=finished)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    removed, unlink = [], Path.unlink

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlinked)
    with pytest.raises(Stopped):
        train(SHORT, samples=samples, out=finished, overwrite=True, watch=stopped_at(1))
    assert removed[0] == "config.json"
    assert sorted(path.name for path in finished.iterdir()) == ["checkpoint.pt", "config.json", METRICS]


def test_every_line_of_metrics_is_on_the_disk_at_once(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, fsync = [], os.fsync

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == METRICS:
            lines.append(len(path.read_text().splitlines()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    train(SHORT, samples=samples, out=tmp_path)
    assert lines == [1, 2, 3]  # the third is of the mean


def test_metrics_have_neither_gaps_nor_doubles(samples: Samples, tmp_path: Path) -> None:
    """A kill between a line of metrics and its checkpoint, or in the middle of the line."""
    config = Config(epochs=3, batch_size=20, device="cpu")
    train(config, samples=samples, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, samples=samples, out=tmp_path / "part", watch=stopped_at(8))
    with pytest.raises(ValueError, match="epochs must be at least the 2 that the run has"):  # of 6 steps each
        resume(tmp_path / "part", epochs=1, samples=samples)
    metrics = tmp_path / "part" / METRICS
    metrics.write_text(metrics.read_text() + '{"epoch": 2, "step": 12, "lo')
    resume(tmp_path / "part", samples=samples)
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
def test_a_damaged_folder_is_one_clear_error(
    spoil: Callable[[Path], object], says: str, samples: Samples, finished: Path
) -> None:
    spoil(finished)
    with pytest.raises(ValueError, match=says) as error:
        resume(finished, samples=samples)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_rule_is_refused(samples: Samples, finished: Path, tmp_path: Path) -> None:
    train(replace(SHORT, epochs=1, optimizer="sgd"), samples=samples, out=tmp_path / "sgd")
    (tmp_path / "sgd" / "checkpoint.pt").replace(finished / "checkpoint.pt")
    with pytest.raises(ValueError, match="of another network or update rule"):
        resume(finished, samples=samples)


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


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(
    model: Model, samples: Samples, tmp_path: Path
) -> None:
    config = Config(model=model, optimizer="sgd", lr=1e200, dtype="float64", epochs=2, batch_size=20, device="cpu")
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=r"the loss is nan at step 2: try .* keeps the last"):
        train(config, samples=samples, out=tmp_path)
    kept = RunFolder(tmp_path).read_checkpoint()
    assert kept.step == 0
    assert all(torch.isfinite(value).all() for value in kept.state["model"].values())


def test_weights_that_are_no_numbers_are_never_saved(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first step the loss, of before its update, is still one."""
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0)
    config = Config(optimizer="rmsprop", lr=1e308, dtype="float64", epochs=2, batch_size=20, device="cpu")
    with pytest.raises(Diverged, match="a weight is no longer a number after step 1"):
        train(config, samples=samples, out=tmp_path)
    assert RunFolder(tmp_path).read_checkpoint().step == 0


def full_for(name: str) -> Callable[[int], None]:
    """An os.fsync that finds the disk full as soon as the file of that name is written."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if name in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    return full


@pytest.mark.parametrize("name", ["checkpoint.pt", METRICS, "model.pt", "params.pkl"])
def test_a_full_disk_keeps_the_last_checkpoint(
    name: str, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from the first write after step 4, which is saved."""
    with pytest.raises(Stopped):
        train(SHORT, samples=samples, out=tmp_path, watch=stopped_at(4))
    whole = train(SHORT, samples=samples)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_for(name))
        with pytest.raises(OSError, match=rf"{name} cannot be written \(No space left.*step \d+ is kept.*then resume"):
            resume(tmp_path, samples=samples)
    assert not list(tmp_path.glob(".*"))
    assert_same(resume(tmp_path, samples=samples), whole)


@pytest.mark.parametrize("name", ["checkpoint.pt", METRICS, "config.json"])
def test_a_run_that_cannot_begin_is_none(
    name: str, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.json comes last: else there would be a run to resume without the checkpoint to go on from."""
    monkeypatch.setattr(os, "fsync", full_for(name))
    with pytest.raises(OSError, match=rf"{name} cannot be written \(No space left.*\): no step is lost"):
        train(replace(SHORT, epochs=1), samples=samples, out=tmp_path)
    assert not RunFolder(tmp_path).is_run


def test_an_error_without_a_number_has_none(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(*_: object) -> None:
        raise OSError("what was written does not read back")

    monkeypatch.setattr("torchport.files.store.StagedWeights.read", lie)
    with pytest.raises(OSError, match=r"^\S*model.pt cannot be written \(what was written does not read back\): step"):
        train(replace(SHORT, epochs=1), samples=samples, out=tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written \(Not a directory\): no step is lost"):
        train(Config(epochs=1, device="cpu"), samples=samples, out=tmp_path / "file" / "run")


# --- Killed


def continue_or_start(out: Path, samples: Samples) -> None:
    """In a process of its own: a run of 36 steps that keeps every one of them."""
    run.CHECKPOINT_SECONDS = 0
    if RunFolder(out).is_run:
        resume(out, samples=samples)
    else:
        train(Config(epochs=6, batch_size=20, device="cpu"), samples=samples, out=out)


def kill_after(process: multiprocessing.process.BaseProcess, folder: Path, replaced: int, pause: float) -> None:
    """kill -9, so many seconds after the process has replaced the checkpoint so often, as far as that is seen here."""

    def checkpoint() -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return (folder / "checkpoint.pt").stat().st_ino
        return None

    last = checkpoint()
    while process.is_alive() and replaced:
        time.sleep(0.001)
        if (found := checkpoint()) != last:
            last, replaced = found, replaced - 1
    time.sleep(pause)
    process.kill()
    process.join()


def test_a_run_that_is_killed_again_and_again_ends_the_same(samples: Samples, tmp_path: Path) -> None:
    def start(out: Path) -> multiprocessing.process.BaseProcess:
        process = FORKS.Process(target=continue_or_start, args=(out, samples))
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


# --- CUDA graphs


def recorded_nowhere(recorded: list[Callable[[], None]]) -> Callable[..., Any]:
    """captured, as on CUDA, with a recording that is none."""

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
    samples: Samples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warm-up steps are taken back, weights and moments and all; of 5 whole batches an epoch and one of 10 for 20."""
    config = Config(optimizer=optimizer, epochs=2, batch_size=20, device="cpu", sampling="epoch")
    plain = train(config, samples=samples)
    recorded: list[Callable[[], None]] = []
    monkeypatch.setattr(torch_learner, "GRAPH_STEPS", sizes)
    monkeypatch.setattr(torch_learner, "captured", recorded_nowhere(recorded))
    monkeypatch.setattr(torch_learner, "uses_graphs", lambda device, ranks: True)
    monkeypatch.setattr(run.Run, "_chunk", property(lambda self: 4, lambda self, value: None), raising=False)
    with pytest.raises(Stopped):
        train(config, samples=samples, out=tmp_path, watch=stopped_at(10))
    result = resume(tmp_path, samples=samples)
    assert len(recorded) == 2 * graphs
    np.testing.assert_allclose(result.losses, plain.losses, rtol=1e-6)  # Adam's rate is a float32
    for name in plain.params:
        np.testing.assert_allclose(result.params[name], plain.params[name], rtol=0, atol=1e-6)
    assert result.records[-1].test_accuracy == plain.records[-1].test_accuracy


def test_steps_that_cannot_be_recorded_are_taken_one_by_one(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where the run stood before, and it says so."""

    def refused(function: Callable[[], None], restore: Callable[[], None], device: torch.device) -> Any:
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch_learner, "uses_graphs", lambda device, ranks: True)
    monkeypatch.setattr(torch_learner, "captured", recorded_nowhere([]))
    recorded = train(SHORT, samples=samples)
    monkeypatch.setattr(torch_learner, "captured", refused)
    with pytest.warns(UserWarning, match=r"as a CUDA graph \(operation not permitted when stream is capturing\): they"):
        assert_same(train(SHORT, samples=samples), recorded)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("optimizer", OPTIONS)
def test_a_graph_is_the_eager_run(
    optimizer: Rule, deterministic: bool, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        optimizer=optimizer, epochs=3, batch_size=20, device="cuda", sampling="epoch", deterministic=deterministic
    )
    graph = train(config, samples=samples)
    # Eager, with the same optimizer: only the recording is left out.
    monkeypatch.setattr(torch_learner, "captured", lambda function, restore, device: function)
    eager = train(config, samples=samples)
    if deterministic:
        assert_same(graph, eager)
    for name in graph.params:
        np.testing.assert_allclose(graph.params[name], eager.params[name], rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", [6, 12])  # a graph runs whole epochs
def test_a_deterministic_run_on_cuda_is_resumed_to_the_bit(step: int, samples: Samples, tmp_path: Path) -> None:
    config = Config(epochs=3, batch_size=20, device="cuda", deterministic=True)
    whole = train(config, samples=samples)
    with pytest.raises(Stopped):
        train(config, samples=samples, out=tmp_path, watch=stopped_at(step))
    assert_same(resume(tmp_path, samples=samples), whole)
