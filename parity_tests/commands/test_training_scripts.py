"""scripts/train.py and scripts/evaluate.py as a user runs them, on a small data set in MNIST's files."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.files import idx
from matplotlib.figure import Figure
from PIL import Image

from commands.test_scripts import Run, run as run
from numpy_ref import SimpleConvNet, read_params, softmax
from numpy_ref.checks import Array
from torchport import evaluation
from torchport.data import load
from torchport.networks import Weights
from torchport.parity import Report
from torchport.parity.cases import check_ports
from torchport.training import Config, Samples, train
from torchport.training.folder import FILES, Record, RunFolder
from torchport.training.samples import load_samples

pytestmark = pytest.mark.usefixtures("no_drawing")
SMALL = ("--epochs", "2", "--batch-size", "20", "--device", "cpu")


@pytest.fixture(scope="module")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 100 training and 40 test images of MNIST's size, with light rows at a place given by the class."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.RandomState(0)
    (root / "MNIST" / "raw").mkdir(parents=True)
    for name, n in (("train", 100), ("t10k", 40)):
        labels = rng.randint(0, 10, n)
        images = rng.randint(0, 60, (n, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 8] += 190
        prefix = root / "MNIST" / "raw" / name
        Path(f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        Path(f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root


@pytest.mark.parametrize("model", ["conv2d", "unfold", "numpy"])
def test_train_prints_its_epochs_and_keeps_the_run(model: str, mnist_dir: Path, tmp_path: Path, run: Run) -> None:
    done = run("train", "--model", model, *SMALL, "--data-dir", mnist_dir, "--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[:2] == [
        f"epoch {record['epoch']}/2  loss {record['loss']:.4f}  "
        f"accuracy: training {record['train_accuracy']:.4f}, test {record['test_accuracy']:.4f}"
        for record in metrics
        if record["weights"] == "last"
    ]
    assert lines[2].endswith(
        f"with the mean of the last epoch's weights, {metrics[1]['test_accuracy']:.4f} with those of the last step"
    )
    assert lines[3] == "the loss of a step is that before its update"
    assert lines[4].startswith("cpu: setup")
    assert all(name in lines[4] for name in ("training", "evaluation", "saving"))
    assert str(tmp_path / "run") in lines[5]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == model
    assert read_params(tmp_path / "run" / "params.pkl")["W2"].dtype == np.float32


def test_runs_are_numbered_where_no_folder_is_named(
    mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet, as_json = (run("train", *SMALL, "--data-dir", mnist_dir, option) for option in ("--quiet", "--json"))
    assert {(done.returncode, done.stderr) for done in (quiet, as_json)} == {(0, "")}
    results = json.loads(as_json.stdout)
    assert results["seconds"].keys() >= {"import", "setup", "training", "evaluation", "saving"}
    assert (results["out"], results["records"][-1]["test_accuracy"]) == ("runs/2", results["test_accuracy"])
    assert quiet.stdout.startswith(f"test accuracy {results['test_accuracy']:.4f} on all 40 test images")
    assert quiet.stdout.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["1", "2"]
    assert (tmp_path / "runs/1/params.pkl").read_bytes() == (tmp_path / "runs/2/params.pkl").read_bytes()


def test_runs_started_together_get_folders_of_their_own(
    mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run starts while the first reads its data; a third, which never begins, leaves no folder."""
    monkeypatch.chdir(tmp_path)
    started = False

    def load_while_another_starts(config: Config, progress: bool) -> Samples:
        nonlocal started
        if not started:
            started = True
            assert "saved in runs/2" in run("train", *SMALL, "--data-dir", mnist_dir).stdout
        return load_samples(config, progress)

    monkeypatch.setattr("torchport.training.loop.load_samples", load_while_another_starts)
    assert "saved in runs/1" in run("train", *SMALL, "--data-dir", mnist_dir, "--seed", "1").stdout
    assert run("train", *SMALL, "--init", "missing.pkl", "--data-dir", mnist_dir).returncode == 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["1", "2"]
    assert json.loads((tmp_path / "runs/1/config.json").read_text())["seed"] == 1


def test_the_books_run_says_which_losses_and_weights_it_tells(mnist_dir: Path, tmp_path: Path, run: Run) -> None:
    done = run(
        *("train", *SMALL, "--data-dir", mnist_dir, "--out", tmp_path / "run"),
        *("--dtype", "float64", "--log-loss", "after", "--optimizer", "rmsprop", "--decay-rate", "0.9", "--lr", "1e-3"),
    )
    assert "with the last step's weights" in done.stdout
    assert "the loss of a step is that after its update, as in the book" in done.stdout
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optimizer"], config["decay_rate"], config["lr"]) == ("rmsprop", 0.9, 0.001)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--overwrite"], "--overwrite goes with --out DIR"),
        (["--epochs", "0"], "must be a whole number of at least 1, got '0'"),
        (["--batch-size", "many"], "must be a whole number of at least 1, got 'many'"),
        (["--lr", "high"], "must be a number, got 'high'"),
        (["--lr", "-1"], "lr must be at least 0, got -1.0"),
        (["--momentum", "0.9"], "adam has the options lr, beta1, beta2, got momentum=0.9"),
        (["--model", "linear"], "invalid choice: 'linear'"),
        (["--device", "tpu"], "device 'tpu' cannot be used here"),
        (["--model", "numpy", "--precision", "bf16"], "model numpy runs on the CPU as it is, got precision=bf16"),
        (["--train-size", "101"], "train_size must be at most 100, which there are, got 101"),
        (["--init", "nothing.pkl"], "nothing.pkl"),
        (["--resume"], "--resume goes with --out DIR"),
        (["--resume", "--out", "nowhere"], "nowhere holds no run to resume"),
        (["--resume", "--out", "x", "--lr", "0.1", "--batch-size", "5"], "got --batch-size, --lr"),
        (["--resume", "--out", "x", "--seed", "1", "--keep", "last", "--epochs", "3"], "got --seed, --keep (--help"),
        (["--precision", "bf16", "--device", "cpu"], "precision bf16 needs a CUDA device, got cpu"),
        (["--out", "/dev/null/run"], "/dev/null/run cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_train_refuses_in_one_line(
    arguments: list[str], says: str, mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHPORT_DATA", str(mnist_dir))
    done = run("train", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused_and_told_how_to_replace_it(mnist_dir: Path, tmp_path: Path, run: Run) -> None:
    command = ("train", *SMALL, "--data-dir", mnist_dir, "--out", tmp_path)
    assert run(*command).returncode == 0
    refused = run(*command)
    assert refused.returncode == 2
    assert "holds another run" in refused.stderr
    assert run(*command, "--overwrite").returncode == 0


def test_a_diverging_run_exits_with_1(mnist_dir: Path, tmp_path: Path, run: Run) -> None:
    done = run("train", *SMALL, "--data-dir", mnist_dir, "--out", tmp_path, "--optimizer", "sgd", "--lr", "1e38")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the loss is nan at step 2: try a smaller lr")
    assert len(done.stderr.splitlines()) == 1


def test_missing_mnist_names_the_way_out(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def offline(self: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(MNIST, "download", offline)
    done = run("train", "--data-dir", tmp_path / "data", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "--data drawn" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_says_how_to_go_on(mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out, append = tmp_path / "run", RunFolder.append

    def interrupted(self: RunFolder, record: Record) -> None:
        append(self, record)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", interrupted)
        stopped = run("train", *SMALL, "--data-dir", mnist_dir, "--out", out)
    assert stopped.returncode == 130
    assert stopped.stderr.endswith(f"go on with python scripts/train.py --out {out} --resume\n")
    assert len(stopped.stderr.splitlines()) == 1
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    again = run("train", "--out", out, "--resume", "--epochs", "3", "--device", "cpu:0")
    assert again.returncode == 0
    assert "\ncpu:0: setup" in again.stdout
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics if line["weights"] == "last"] == [1, 2, 3]


def test_evaluate_shows_a_run(mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "1"
    trained = run("train", *SMALL, "--data-dir", mnist_dir, "--out", weights)
    assert trained.returncode == 0
    sources = weights, weights / "params.pkl", weights / "model.pt"
    for source, model in zip(sources, ("conv2d", "unfold", "numpy"), strict=True):
        done = run("evaluate", source, "--data-dir", mnist_dir, "--model", model)
        assert (done.returncode, done.stderr) == (0, "")
        accuracy = done.stdout.split("accuracy ")[1][:6]
        assert f"test accuracy {accuracy} on all 40" in trained.stdout
    drawn: dict[str, tuple[Array, ...]] = {}
    for name in ("confusion_matrix", "mistakes"):
        monkeypatch.setattr(evaluation, name, recorded(getattr(evaluation, name), drawn))
    pictures = tmp_path / "new" / "pictures"
    done = run(
        *("evaluate", weights, "--data-dir", mnist_dir),
        *("--out", pictures, "--dtype", "float64", "--batch-size", "7"),
    )
    images, labels = load("mnist", False, mnist_dir)
    mine = predicted(weights / "params.pkl", images)
    assert "peak memory of the process:" in done.stdout
    for name in ("confusion.png", "mistakes.png"):
        assert (pictures / name).read_bytes().startswith(b"\x89PNG")
    found = json.loads((pictures / "evaluation.json").read_text())
    about = {"weights": str(weights), "data": "mnist", "model": "conv2d", "device": "cpu", "dtype": "float64"}
    assert {name: found[name] for name in about} == about
    counts = [[int(((labels == t) & (mine == p)).sum()) for p in range(10)] for t in range(10)]
    wrong = [mistake["index"] for mistake in found["mistakes"]]
    assert sorted(wrong) == np.flatnonzero(mine != labels).tolist()
    confidence = [mistake["confidence"] for mistake in found["mistakes"]]
    for given, expected in zip(
        (*drawn["confusion_matrix"], *drawn["mistakes"]),
        (counts, images[wrong], labels[wrong], mine[wrong], confidence),
        strict=True,
    ):
        np.testing.assert_array_equal(given, expected)


def recorded(draw: Callable[..., Figure], drawn: dict[str, tuple[Array, ...]]) -> Callable[..., Figure]:
    """A function that calls draw and stores its arguments in drawn under draw's name."""

    def record(*arrays: Array, **options: Any) -> Figure:
        drawn[draw.__name__] = arrays
        return draw(*arrays, **options)

    return record


def predicted(params: Path, images: Array) -> Array:
    """The reference's predictions in float64."""
    network = SimpleConvNet((1, 28, 28))
    network.set_params({name: value.astype(np.float64) for name, value in read_params(params).items()})
    return np.asarray(network.predict(images / 255).argmax(axis=1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.pkl"], "nothing.pkl"),
        (["."], "is not a run's folder"),
        (["other.pkl"], "these weights are for images (1, 10, 10), got (1, 28, 28)"),
        (["other.pkl", "--model", "numpy", "--device", "cuda"], "cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_evaluate_refuses_in_one_line(
    arguments: list[str], says: str, mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    SimpleConvNet((1, 10, 10)).save_params(tmp_path / "other.pkl")
    monkeypatch.chdir(tmp_path)
    done = run("evaluate", *arguments, "--data-dir", mnist_dir, "--out", tmp_path / "pictures")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other.pkl"]


def accuracy_in(output: str) -> str:
    return output.split("accuracy ")[1][:6]


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
def test_a_run_is_evaluated_on_images_as_it_was_trained(model: str, mnist_dir: Path, tmp_path: Path, run: Run) -> None:
    """Whether weights are given as the folder or as a file in it; with other images, a hint names the right ones."""
    options = ("--data-dir", mnist_dir, "--model", model)
    trained = run("train", *SMALL, *options, "--images", "inverted", "--epochs", "20", "--out", tmp_path / "run")
    for weights in (tmp_path / "run", tmp_path / "run" / "params.pkl"):
        done = run("evaluate", weights, *options)
        assert f"test accuracy {accuracy_in(done.stdout)} on all 40" in trained.stdout
        assert "hint" not in done.stdout
    done = run("evaluate", tmp_path / "run", *options, "--images", "book")
    assert "with --images inverted" in done.stdout


def test_the_report_compares_and_evaluates_on_images_as_they_were_prepared(
    mnist_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 for any preparation; judged in one run and only once, since later calls differ only in the images."""
    compared: list[Array] = []
    reports: list[Report] = []

    def check_once(weights: Weights, x: Array, *args: Any, **options: Any) -> list[Report]:
        compared.append(x)
        reports[:] = reports or check_ports(weights, x, *args, **options, runs=["training"])
        return reports

    monkeypatch.setattr("torchport.parity.cases.check_ports", check_once)
    run("train", *SMALL, "--data-dir", mnist_dir, "--images", "1,0.5", "--epochs", "12", "--out", tmp_path / "run")
    weights = ("--params", tmp_path / "run", "--data-dir", mnist_dir, "--dtype", "float64", "--batch-size", "9")
    done = run("parity_report", *weights, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(compared[0], load("mnist", False, mnist_dir)[0][:9] / 127.5 - 2, rtol=0, atol=1e-15)
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["about"]["data"] == "the first 9 test images of MNIST, as 1.0,0.5"
    for images in ((), ("--images", "inverted")):
        evaluated = run("evaluate", tmp_path / "run", "--data-dir", mnist_dir, *images).stdout
        reported = run("parity_report", *weights, *images).stdout
        assert f"numpy: accuracy {accuracy_in(evaluated)} on" in reported


@pytest.mark.parametrize("images", ["normalized", "inverted", "0-255"])
def test_training_is_one_for_all_preparations(images: str, mnist_dir: Path) -> None:
    """Reference and port agree in float64; losses, about 2.3, are made of sums of at most 4,320 products."""
    losses = []
    for model in ("numpy", "conv2d"):
        config = Config(
            images=images, model=model, dtype="float64", epochs=1, batch_size=25, data_dir=str(mnist_dir), device="cpu"
        )
        losses.append(train(config).losses)
    reference, port = losses
    np.testing.assert_allclose(port, reference, rtol=1e-9)


def test_a_users_image_is_told_with_its_probabilities(mnist_dir: Path, tmp_path: Path, run: Run) -> None:
    network = SimpleConvNet(rng=np.random.RandomState(0))
    network.save_params(tmp_path / "params.pkl")
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 10:19] = 255
    Image.fromarray(255 - image).resize((56, 56), Image.Resampling.NEAREST).save(tmp_path / "one.png")
    done = run("evaluate", tmp_path / "params.pkl", "--image", tmp_path / "one.png", "--images", "normalized")
    centred = image[None, None]  # already
    chances = softmax(network.predict((centred / 255 - 0.1307) / 0.3081))[0]
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path / 'one.png'}: {chances.argmax()}, with probability {chances.max():.4f}"
    assert lines[1] == "each class: " + ", ".join(f"{label} {chance:.4f}" for label, chance in enumerate(chances))
    assert lines[2].startswith("56 x 56 pixels, read as grey, inverted because the background is light, cut to the ink")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "params.pkl", "--image", "empty.png"], "empty.png: no digit can be seen"),
        (["evaluate", "params.pkl", "--image", "nothing.png"], "nothing.png"),
        (["evaluate", "params.pkl", "--image", "empty.png", "--out", "x"], "leave out one of --image and --out"),
        (["evaluate", "params.pkl", "--images", "uint"], "images must be unit, normalized"),
        (["train", "--images", "uint"], "images must be unit, normalized"),
        (["parity_report", "--images", "unit"], "--images goes with --params"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_images_that_are_amiss_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    SimpleConvNet().save_params(tmp_path / "params.pkl")
    Image.new("L", (30, 20), 90).save(tmp_path / "empty.png")
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert says in done.stderr
