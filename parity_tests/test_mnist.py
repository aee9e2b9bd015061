"""On MNIST and the book's own weights, where TORCHPORT_DATA names a folder that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, load_mnist, make_optimizer, softmax_with_loss, to_params
from torchport.data import DataError, mnist
from torchport.evaluation import evaluate_ports
from torchport.parity import Setting
from torchport.parity.cases import check_ports

GOLDEN: dict[str, Array] = dict(np.load(Path(__file__).parent / "golden" / "first_epoch.npz"))
BATCH = 100
W2_ROWS = slice(None, None, 40)  # every 40th row was recorded


def replay(conv: str, steps: int, data_dir: Path, device: str) -> tuple[dict[int, dict[str, Array]], list[float]]:
    """The first steps of the book's training: its seed, its draws, its Adam. Parameters by step, losses after each."""
    rng = np.random.RandomState(0)
    port = SimpleConvNet.from_params(nr.SimpleConvNet(rng=rng).params, conv, device=device)
    optimizer = make_optimizer("adam", port.parameters(), lr=0.001)
    (images, labels), _ = load_mnist(flatten=False, data_dir=data_dir)
    recorded, losses = {}, []
    for step in range(1, steps + 1):
        batch = rng.choice(len(images), BATCH)
        x = torch.from_numpy(images[batch]).to(device, torch.float64)
        t = torch.from_numpy(labels[batch]).to(device)
        optimizer.zero_grad()
        softmax_with_loss(port(x), t).backward()
        optimizer.step()
        with torch.no_grad():
            losses.append(softmax_with_loss(port(x), t).item())
        if f"step{step}/W1" in GOLDEN:
            recorded[step] = to_params(port.state_dict())
    return recorded, losses


def assert_as_recorded(recorded: dict[int, dict[str, Array]], step: int, limit: float) -> None:
    for name, value in recorded[step].items():
        found = value[W2_ROWS] if name == "W2" else value
        np.testing.assert_allclose(found, GOLDEN[f"step{step}/{name}"], rtol=0, atol=limit)


# Unfold, which is faster in float64, goes all 600 steps of the first epoch; nn.Conv2d the first 100.
@pytest.mark.parametrize(("conv", "steps"), [("conv2d", 100), ("unfold", 600)])
def test_the_first_epoch_is_the_books(conv: str, steps: int, data_dir: Path, device: str) -> None:
    recorded, losses = replay(conv, steps, data_dir, device)
    for step in recorded:
        assert_as_recorded(recorded, step, 1e-12 if step <= 100 else 1e-10)
    assert steps in recorded
    np.testing.assert_allclose(losses, GOLDEN["losses"][:steps], rtol=0, atol=1e-10)


def test_the_reference_trains_as_the_original(data_dir: Path) -> None:
    """Ten steps with the Trainer, which also records the two accuracies of the first step."""
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
            assert_as_recorded({step: trainer.network.params}, step, 1e-13)
    np.testing.assert_allclose(trainer.train_loss_list, GOLDEN["losses"][:10], rtol=1e-12)
    assert trainer.train_acc_list == GOLDEN["train_acc"].tolist()
    assert trainer.test_acc_list == GOLDEN["test_acc"].tolist()


def test_the_books_weights_agree_layer_by_layer(book_params: Path, data_dir: Path, device: str) -> None:
    images, labels = mnist(train=False, data_dir=data_dir)
    settings = [Setting(dtype, device) for dtype in (torch.float64, torch.float32)]
    for report in check_ports(nr.read_params(book_params), images[:32] / 255, labels[:32], settings):
        report.raise_if_failed()


def test_all_three_evaluate_the_books_weights_alike(book_params: Path, data_dir: Path, device: str) -> None:
    evaluation = evaluate_ports(nr.read_params(book_params), *mnist(train=False, data_dir=data_dir), device=device)
    assert evaluation.accuracy == {"numpy": 0.96, "conv2d": 0.96, "unfold": 0.96}
    assert evaluation.agreeing == evaluation.samples == 10_000


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_hot_label", [True, False])
def test_load_mnist_has_the_books_results(
    normalize: bool, flatten: bool, one_hot_label: bool, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHPORT_DATA", str(data_dir))
    sets = load_mnist(normalize, flatten, one_hot_label)
    for (x, t), n in zip(sets, (60_000, 10_000), strict=True):
        assert x.shape == ((n, 784) if flatten else (n, 1, 28, 28))
        assert x.dtype == (np.float32 if normalize else np.uint8)
        assert (x.min(), x.max()) == (0, 1 if normalize else 255)
        assert t.shape == ((n, 10) if one_hot_label else (n,))
        assert t.dtype == (np.float64 if one_hot_label else np.uint8)
    labels = sets[0][1].argmax(axis=1) if one_hot_label else sets[0][1]
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_a_missing_data_set_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def offline(self: object) -> None:
        print("Downloading ...")
        raise RuntimeError("Error downloading train-images:\nTried one:\n<urlopen error no route to host>")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(DataError, match=r"nor downloaded .*no route to host.*--data-dir or TORCHPORT_DATA") as failure:
        mnist(train=False, data_dir=tmp_path)
    assert "\n" not in str(failure.value)
