"""Tests on MNIST and the book's own weights, if TORCHPORT_DATA names a folder that has them."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import load_mnist, to_params
from torchport.data import mnist
from torchport.evaluation import evaluate_ports
from torchport.files import read_weights
from torchport.parity import Setting
from torchport.parity.cases import check_ports
from torchport.training import Config, Progress, Samples, Stopped, train
from torchport.training.folder import RunFolder

GOLDEN: dict[str, Array] = dict(np.load(Path(__file__).parents[1] / "golden" / "first_epoch.npz"))
W2_ROWS = slice(None, None, 40)  # every 40th row was recorded


@functools.cache
def training_set(data_dir: Path) -> tuple[Array, Array]:
    """MNIST's training set, for several tests."""
    return mnist(True, data_dir)


def assert_as_recorded(params: Mapping[str, Array], step: int, limit: float) -> None:
    for name, value in params.items():
        actual = value[W2_ROWS] if name == "W2" else value
        np.testing.assert_allclose(actual, GOLDEN[f"step{step}/{name}"], rtol=0, atol=limit)


def test_the_first_epoch_is_the_books(data_dir: Path, device: str, tmp_path: Path, whole_epoch: bool) -> None:
    """scripts/train.py --dtype float64 --log-loss after, as far as it was recorded; test_a_run_is_the_books has the
    other models."""
    steps = 600 if whole_epoch else 100
    config = Config(epochs=1, dtype="float64", log_loss="after", device=device)
    x_test, t_test = mnist(False, data_dir)
    samples = Samples(*training_set(data_dir), x_test[:100], t_test[:100])

    def watch(progress: Progress) -> None:
        if progress.step == steps < 600:
            signal.raise_signal(signal.SIGINT)

    with contextlib.suppress(Stopped):
        train(config, samples=samples, out=tmp_path, watch=watch)
    reached = RunFolder(tmp_path).read_checkpoint()
    assert reached.step == (steps if device == "cpu" else 600)  # CUDA stops after whole epochs only
    assert_as_recorded(to_params(reached.state["model"]), reached.step, 1e-12)
    np.testing.assert_allclose(reached.losses, GOLDEN["losses"][: reached.step], rtol=0, atol=1e-10)


def test_the_reference_trains_as_the_original(data_dir: Path) -> None:
    """Ten steps with the Trainer, which also records both accuracies after the first step."""
    rng = np.random.RandomState(0)
    train, test = load_mnist(flatten=False, data_dir=data_dir)
    trainer = nr.Trainer(
        nr.SimpleConvNet(rng=rng),
        *train,
        *test,
        optimizer="Adam",
        optimizer_param={"lr": 0.001},
        evaluate_sample_num_per_epoch=1000,
        rng=rng,
    )
    for step in range(1, 11):
        trainer.train_step()
        if step in (1, 10):
            assert_as_recorded(trainer.network.params, step, 1e-13)
    np.testing.assert_allclose(trainer.train_loss_list, GOLDEN["losses"][:10], rtol=1e-12)
    assert trainer.train_acc_list == GOLDEN["train_acc"].tolist()
    assert trainer.test_acc_list == GOLDEN["test_acc"].tolist()


def test_the_books_weights_agree_layer_by_layer(book_params: Path, data_dir: Path, device: str) -> None:
    images, labels = mnist(train=False, data_dir=data_dir)
    settings = [Setting(dtype, device) for dtype in (torch.float64, torch.float32)]
    runs = [
        "training",
        "prediction",
        "batch",
        "integers",
    ]  # the others are of other weights too (networks/test_simple_convnet)
    for report in check_ports(read_weights(book_params), images[:8] / 255, labels[:8], settings, runs=runs):
        report.raise_if_failed()


def test_all_three_evaluate_the_books_weights_alike(book_params: Path, data_dir: Path, device: str) -> None:
    """On a part of the test set; commands/test_scripts.py has the report on all of it, but only on the CPU."""
    images, labels = mnist(train=False, data_dir=data_dir)
    evaluation = evaluate_ports(read_weights(book_params), images[:1000], labels[:1000], device=device)
    assert evaluation.accuracy == {"numpy": 0.961, "conv2d": 0.961, "unfold": 0.961}
    assert evaluation.agreeing == evaluation.samples == 1000
