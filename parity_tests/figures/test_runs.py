"""Pictures, by what is written in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from numpy_ref.checks import Array
from torchport.figures import Curve, confusion_matrix, curves, mistakes, save_figure

THREE = np.zeros((3, 1, 6, 6), np.uint8)  # images


def curve(epochs: int, per_epoch: int) -> Curve:
    at = np.arange(1, epochs + 1)
    return Curve(per_epoch, 1 / np.arange(1, epochs * per_epoch + 1), at, 1 - 0.1 / at, 1 - 0.2 / at)


def explained(axes: Axes) -> list[str]:
    """What the legend of axes says."""
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_curves_of_a_run_show_its_accuracies_and_losses() -> None:
    run = curve(20, 60)
    accuracy, loss = curves({"run": run}).axes
    test, train = accuracy.lines
    np.testing.assert_array_equal(test.get_xydata(), np.stack([run.epochs, run.test_accuracy], 1))
    np.testing.assert_array_equal(train.get_xydata(), np.stack([run.epochs, run.train_accuracy], 1))
    assert explained(accuracy) == ["test (last 0.9900)", "training (last 0.9950)"]
    raw, mean = loss.lines
    np.testing.assert_array_equal(raw.get_ydata(), run.losses)
    steps = np.arange(60, 1201)  # the first mean of 60 stands where the 60th step does
    means = [run.losses[step - 60 : step].mean() for step in steps]
    np.testing.assert_allclose(np.asarray(mean.get_xydata()), np.stack([steps / 60, means], 1), rtol=1e-9)
    assert explained(loss) == ["each step", "mean of 60 steps"]
    assert mean.zorder > raw.zorder
    assert loss.get_yscale() == "log"
    assert (accuracy.get_xlabel(), loss.get_xlabel()) == ("epoch", "epoch")


def test_curves_of_several_runs_tell_them_apart() -> None:
    runs = {"adam": curve(20, 120), "_sgd, $x_{$": curve(3, 200)}
    figure = curves(runs)
    accuracy, loss = figure.axes
    assert explained(accuracy) == ["test", "training"]
    assert explained(loss) == ["each step", "mean of 30 or 100 steps"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["adam (last test accuracy 0.9900)", "_sgd, $x_{$ (last test accuracy 0.9333)"]
    colours = [line.get_color() for line in figure.legends[0].get_lines()]
    assert len(set(colours)) == 2
    markers = [line.get_marker() for line in figure.legends[0].get_lines()]
    assert len(set(markers)) == 2  # for print without colours
    assert [line.get_marker() for line in accuracy.lines[::2]] == markers
    assert [line.get_marker() for line in loss.lines[1::2]] == markers
    for lines in (accuracy.lines, loss.lines):
        assert [line.get_color() for line in lines] == [colours[0]] * 2 + [colours[1]] * 2
    save(figure)


def test_curves_of_a_few_steps_lie_inside_the_picture() -> None:
    figure = curves({"run": curve(1, 4)})
    accuracy, loss = figure.axes
    low, high = accuracy.get_ylim()
    assert low < 0.8 < 0.9 < high
    assert explained(loss) == []  # there is nothing to tell apart
    save(figure)
    low, high = loss.get_ylim()
    assert low == 0 < 1 < high


@pytest.mark.parametrize(
    "losses",
    [np.full(40, 2.3), np.zeros(40), np.full(40, -1e-7), np.append(np.linspace(2, 0.05, 39), -1e-7)],
    ids=["constant", "zero", "the book's least", "one below zero"],
)
def test_any_losses_can_be_drawn(losses: Array) -> None:
    figure = curves({"run": curve(1, 40)._replace(losses=losses)})
    save(figure)
    low, high = figure.axes[1].get_ylim()
    assert low <= losses.min() or (figure.axes[1].get_yscale() == "log" and low > 1e-3)
    assert high > losses.max()


def save(figure: Figure) -> None:
    """Have all of figure drawn, which is when matplotlib warns."""
    figure.savefig(io.BytesIO())


def test_the_confusion_matrix_shows_every_count_and_colours_the_mistakes() -> None:
    counts = np.array([[5, 2, 0], [0, 9990, 1], [0, 0, 0]])
    figure = confusion_matrix(counts)
    (axes,) = figure.axes
    cells = [text for text in axes.texts if text.get_horizontalalignment() == "center"]
    written = {text.get_position()[::-1]: text.get_text() for text in cells}  # by row and column
    assert written == {(0, 0): "5", (0, 1): "2", (1, 1): "9990", (1, 2): "1", (2, 2): "0"}
    beside = [text.get_text() for text in axes.texts if text.get_horizontalalignment() == "left"]
    assert beside == ["71.4%", ">99.9%", "none", "right"]
    assert figure.get_suptitle() == "9995 of 9998 right (>99.9%); the mistakes in colour"
    coloured = np.ma.getmaskarray(np.ma.asarray(axes.images[1].get_array()))
    np.testing.assert_array_equal(~coloured, [[False, True, False], [False, False, True], [False] * 3])
    assert axes.images[1].get_clim() == (0, 2)  # the most frequent mistake is the darkest, however many are right
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    for labels in (axes.get_yticklabels(), axes.get_xticklabels()):
        assert [text.get_text() for text in labels] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("counts", "title"), [(np.diag([3, 4]), "7 of 7 right (100.0%)"), (np.zeros((2, 2), int), "No samples")]
)
def test_a_confusion_matrix_without_mistakes_says_so(counts: Array, title: str) -> None:
    figure = confusion_matrix(counts)
    assert figure.get_suptitle() == title
    save(figure)


@pytest.mark.parametrize(
    ("n", "title", "columns"),
    [(1, "1 mistake", 4), (5, "5 mistakes, the surest first", 5), (40, "12 of 40 mistakes, the surest first", 10)],
)
def test_the_gallery_shows_the_surest_mistakes_first(
    n: int, title: str, columns: int, rng: np.random.Generator
) -> None:
    images = rng.integers(0, 256, (n, 1, 6, 6), np.uint8)
    truth, predicted, confidence = rng.integers(0, 10, n), rng.integers(0, 10, n), rng.random(n).round(1)
    figure = mistakes(images, truth, predicted, confidence, most=12)
    assert figure.get_suptitle() == title
    assert figure.get_figwidth() == columns
    shown = [axes for axes in figure.axes if axes.images]
    for axes, i in zip(shown, sorted(range(n), key=lambda i: -confidence[i])[:12], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[i, 0])
        assert axes.images[0].get_clim() == (0, 255)
        assert axes.get_title() == f"{truth[i]}, seen as {predicted[i]}\n{confidence[i]:.1%} sure"
    assert not any(axes.axison for axes in figure.axes if not axes.images)
    save(figure)


@pytest.mark.parametrize(("confidence", "says"), [(0.9994, "99.9%"), (0.99951, ">99.9%"), (1.0, "100.0%")])
def test_100_percent_is_said_of_certainty_only(confidence: float, says: str) -> None:
    one = np.array([1])
    figure = mistakes(np.zeros((1, 3, 6, 6), np.uint8), one, one, np.array([confidence]))
    assert figure.axes[0].get_title() == f"1, seen as 1\n{says} sure"


def test_a_gallery_without_mistakes_says_so() -> None:
    none = np.zeros(0)
    figure = mistakes(np.zeros((0, 1, 6, 6), np.uint8), none, none, none)
    assert (figure.get_suptitle(), figure.axes) == ("No mistakes", [])
    save(figure)


def test_a_figure_is_saved_whole_and_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save_figure(confusion_matrix(np.eye(2, dtype=int)), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (504, 300)  # 4.2 x 2.5 inches, 120 pixels each
    with pytest.raises(IsADirectoryError):
        save_figure(confusion_matrix(np.eye(2, dtype=int)), tmp_path)


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.png").write_bytes(b"old")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[:-1])  # as from a bad disk
    with pytest.raises(OSError, match=r"one.png: what was written does not read back"):
        save_figure(confusion_matrix(np.eye(2, dtype=int)), tmp_path / "one.png")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    assert (tmp_path / "one.png").read_bytes() == b"old"


def gallery(images: Array = THREE, truth: int = 3, predicted: int = 3, confidence: int = 3, most: int = 60) -> Figure:
    """mistakes of arrays of these lengths."""
    return mistakes(images, np.zeros(truth), np.zeros(predicted), np.zeros(confidence), most)


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: curves({}), "1 to 7 runs apart, got 0"),
        (lambda: curves(dict.fromkeys("abcdefgh", curve(1, 4))), "got 8: draw several"),
        (lambda: curves({"a": curve(3, 4)._replace(test_accuracy=np.zeros(2))}), "test_accuracy .* got 3 and 2"),
        (lambda: curves({"a": curve(3, 4)._replace(train_accuracy=np.zeros(2))}), "train_accuracy .* got 2 and 3"),
        (lambda: confusion_matrix(np.zeros((2, 3), int)), r"square, got shape \(2, 3\)"),
        (lambda: confusion_matrix(np.zeros((0, 0), int)), r"got shape \(0, 0\)"),
        (lambda: confusion_matrix(np.eye(2)), "integers, got dtype float64"),
        (lambda: confusion_matrix(-np.eye(2, dtype=int)), "0 or more, got -1"),
        (lambda: gallery(truth=2), "images and truth .* got 3 and 2"),
        (lambda: gallery(predicted=4), "images and predicted .* got 3 and 4"),
        (lambda: gallery(confidence=4), "images and confidence .* got 3 and 4"),
        (lambda: gallery(most=0), "most must be at least 1, got 0"),
        (lambda: gallery(THREE / 255), "images must be uint8 .* got float64"),
        (lambda: gallery(THREE[:, [0, 0]]), r"1, 3 or 4 channels, got uint8 of shape \(3, 2, 6, 6\)"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn_is_refused(draw: Callable[[], Figure], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        draw()
