"""Mistakes of users and mishaps around them lose nothing of theirs, and one line says what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands.test_scripts import Run, assert_refused, run as run
from PIL import Image

from torchport.commands import cli
from torchport.data.images import read_image
from torchport.training import Config, Stopped, resume, train
from torchport.training.folder import RESULTS, RunFolder
from training.runs import SAMPLES, stopped_at

pytestmark = pytest.mark.usefixtures("no_drawing")
SHORT = Config(epochs=2, batch_size=55, device="cpu")


@pytest.mark.parametrize("name", RESULTS)
def test_a_run_does_not_replace_files_of_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("the user's")
    with pytest.raises(ValueError, match=f"holds a {name} of no run: name another folder"):
        train(SHORT, samples=SAMPLES, out=tmp_path)
    assert (tmp_path / name).read_text() == "the user's"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_without_a_name_is_not_this_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from an unset shell variable."""
    monkeypatch.chdir(tmp_path)
    assert_refused(run("train", "--out", ""), "argument --out: must be a name, got ''")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_of_numpys_numbers_is_kept(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"epochs": np.int64(2), "batch_size": np.int32(55), "lr": np.float64(0.01)}
    config = Config(device="cpu", **sizes)
    train(config, samples=SAMPLES, out=tmp_path)
    assert RunFolder(tmp_path).read_config() == config.used("cpu", None)
    assert config == replace(SHORT, lr=0.01)
    assert [type(value) for value in (config.epochs, config.batch_size, config.lr)] == [int, int, float]


def test_what_cannot_be_kept_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(SHORT, samples=SAMPLES, out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def unknown(_: Config) -> str:
        raise TypeError("not JSON serializable")

    monkeypatch.setattr(Config, "to_json", unknown)
    with pytest.raises(TypeError, match="not JSON serializable"):
        train(SHORT, samples=SAMPLES, out=tmp_path, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("part", ["x_train", "t_train", "x_test", "t_test"])
def test_a_run_does_not_go_on_with_other_data(part: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(SHORT, samples=SAMPLES, out=tmp_path, watch=stopped_at(2))
    other = SAMPLES._replace(**{part: getattr(SAMPLES, part)[::-1]})
    with pytest.raises(ValueError, match="the data is not what the run was trained on so far"):
        resume(tmp_path, samples=other)
    assert resume(tmp_path, samples=SAMPLES).losses.shape == (4,)


def test_a_configuration_is_no_dict() -> None:
    anything: Any = {"epochs": 1}
    with pytest.raises(TypeError, match="config must be a Config, got dict"):
        train(anything, samples=SAMPLES)


def test_ctrl_c_while_data_is_made_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no step yet to wait for."""

    def interrupted(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    def none_yet() -> Any:
        raise AssertionError("Ctrl-C is caught already")

    monkeypatch.setattr("torchport.training.loop.load_samples", interrupted)
    monkeypatch.setattr("torchport.training.loop.stop_requests", none_yet)
    with pytest.raises(KeyboardInterrupt):
        train(SHORT)


@pytest.mark.parametrize("name", ["meta", "meta:0"])
def test_a_device_without_numbers_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    says = f"'{name}' holds no numbers: try cpu"
    assert_refused(run("parity_report", "--device", name), says)
    assert_refused(run("train", "--device", name, "--out", tmp_path / "run"), says)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        print("done")
        print("by the way", file=sys.stderr)
        return 0

    monkeypatch.setattr(sys, name, None)
    assert cli.run(main) == 0
    getattr(sys, name).close()


def test_commands_to_type_next_are_quoted(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchport.training.loop.load_samples", lambda config, progress: SAMPLES)
    folder = tmp_path / "of a user's"
    done = run("train", "--device", "cpu", "--epochs", "1", "--out", folder)
    assert f"python scripts/evaluate.py '{tmp_path}/of a user'\"'\"'s' shows" in done.stdout


def fifo(path: Path) -> None:
    os.mkfifo(path)


def tiff(dtype: type) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(np.eye(2, dtype=dtype)).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fifo, "not a regular file"),
        (Path.mkdir, "a folder"),
        (tiff(np.float32), r"\(mode F, more than 8 bits a channel\): try an 8-bit PNG or JPEG$"),
        (tiff(np.int32), r"\(mode I, more"),
        (tiff(np.uint16), r"\(mode I;16, more"),
    ],
)
def test_what_is_no_image_is_refused(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    make(tmp_path / "photo")
    with pytest.raises(ValueError, match=says):
        read_image(tmp_path / "photo", 10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("filters params.pkl --out params.pkl", "its name must end in .png, got params.pkl"),
        ("filters params.pkl --out filters.jpg", "its name must end in .png, got filters.jpg"),
        ("apply-filter --image photo.png --out photo.png", "another file than the input, got photo.png for both"),
    ],
)
def test_a_picture_replaces_no_input(
    arguments: str, says: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_text("the user's")
    Path("params.pkl").write_text("the user's")
    assert_refused(run("visualize", *arguments.split()), says)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("photo.png", "params.pkl"), "the user's"
    )


def test_mistakes_are_of_the_networks_own_images(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.zeros((4, 1, 28, 28), np.uint8)
    monkeypatch.setattr("torchport.data.load", lambda *_, **__: (images, np.zeros(4, np.int64)))
    says = "these weights are for images (3, 227, 227), got (1, 28, 28)"
    monkeypatch.setattr("numpy_ref.classic.ALEXNET_HIDDEN", 8)
    assert_refused(run("visualize", "mistakes", "--network", "AlexNet"), says)


@pytest.mark.parametrize("text", ["99999999999999999999", "4294967296"])
def test_a_count_beyond_all_counts_is_named(text: str, run: Run) -> None:
    assert_refused(run("train", "--batch-size", text), f"--batch-size: must be at most 4294967295, got '{text}'")
