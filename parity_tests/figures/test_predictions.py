"""Pictures of predictions: the confusion matrix, the gallery of mistakes, and images that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from figures.looking import draw, limits, shown, titled
from numpy_ref.checks import Array
from torchport.evaluation import Classification
from torchport.figures import confusion_matrix, mistakes, save_figure, shifts


def test_the_confusion_matrix_shows_every_count_and_colours_the_mistakes() -> None:
    counts = np.array([[5, 2, 0], [0, 9990, 1], [0, 0, 0]])
    figure = confusion_matrix(counts, "net, on data")
    draw(figure)
    (axes,) = figure.axes
    cells = [text for text in axes.texts if text.get_horizontalalignment() == "center"]
    written = {text.get_position()[::-1]: text.get_text() for text in cells}  # by row and column
    assert written == {(0, 0): "5", (0, 1): "2", (1, 1): "9990", (1, 2): "1", (2, 2): "0"}
    beside = [text.get_text() for text in axes.texts if text.get_horizontalalignment() == "left"]
    assert beside == ["71.4%", ">99.9%", "none", "right"]
    assert figure.get_suptitle() == "net, on data\n9995 of 9998 right (>99.9%); the mistakes in colour"
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
    draw(figure)


@pytest.mark.parametrize(
    ("n", "title", "columns"),
    [(1, "1 mistake", 4), (5, "5 mistakes, the surest first", 5), (40, "12 of 40 mistakes, the surest first", 10)],
)
def test_the_gallery_shows_the_surest_mistakes_first(
    n: int, title: str, columns: int, rng: np.random.Generator
) -> None:
    images = rng.integers(0, 256, (n, 1, 6, 6), np.uint8)
    truth, predicted, confidence = rng.integers(0, 10, n), rng.integers(0, 10, n), rng.random(n).round(1)
    numbers = rng.permutation(9999)[:n]
    figure = mistakes(images, truth, predicted, confidence, most=12, numbers=numbers)
    draw(figure)
    assert figure.get_suptitle() == title
    assert figure.get_figwidth() == columns
    with_images = [axes for axes in figure.axes if axes.images]
    for axes, i in zip(with_images, sorted(range(n), key=lambda i: -confidence[i])[:12], strict=True):
        np.testing.assert_array_equal(shown(axes), images[i, 0])
        assert axes.images[0].get_clim() == (0, 255)
        says = [f"image {numbers[i]}", f"{truth[i]}, seen as {predicted[i]}", f"{confidence[i]:.1%} sure"]
        assert axes.get_title().split("\n") == says
    assert not any(axes.axison for axes in figure.axes if not axes.images)


@pytest.mark.parametrize(("confidence", "says"), [(0.9994, "99.9%"), (0.99951, ">99.9%"), (1.0, "100.0%")])
def test_100_percent_is_said_of_certainty_only(confidence: float, says: str) -> None:
    one = np.array([1])
    figure = mistakes(np.zeros((1, 3, 6, 6), np.uint8), one, one, np.array([confidence]))
    assert figure.axes[0].get_title() == f"image 0\n1, seen as 1\n{says} sure"


@pytest.mark.parametrize(("name", "title"), [("", "No mistakes"), ("net, on data", "net, on data: no mistakes")])
def test_a_gallery_without_mistakes_says_so(name: str, title: str) -> None:
    none = np.zeros(0)
    figure = mistakes(np.zeros((0, 1, 6, 6), np.uint8), none, none, none, name=name)
    assert (figure.get_suptitle(), figure.axes) == (title, [])
    draw(figure)


def test_a_classification_draws_itself(rng: np.random.Generator) -> None:
    result = Classification(np.array([1, 0, 2, 2]), np.array([1, 2, 2, 0]), np.array([0.9, 0.7, 0.6, 0.8]), 3)
    assert result.confusion_figure("net").get_suptitle() == "net\n2 of 4 right (50.0%); the mistakes in colour"
    images = rng.integers(0, 256, (4, 1, 6, 6), np.uint8)
    gallery = result.mistakes_figure(images, "net")
    for axes, number in zip((axes for axes in gallery.axes if axes.images), (3, 1), strict=True):
        assert axes.get_title().startswith(f"image {number}\n")
        np.testing.assert_array_equal(shown(axes), images[number, 0])


def test_a_digit_that_moves_is_shown_before_and_after_pooling(rng: np.random.Generator) -> None:
    image, pooled = rng.random((8, 8)), np.array([[0.0, 3], [4, 0]])
    pairs = {"image": (image, image), "pool1": (pooled, pooled + np.array([[1, -1], [1, 1]]))}
    pixels = np.arange(-2, 3)
    curves = {"relu1": abs(pixels) / 2, "pool1": abs(pixels) / 4}
    accuracy = {"to the right": 1 - abs(pixels) / 5}
    figure = shifts(pairs, pixels, curves, accuracy, "title")
    draw(figure)
    still, moved, difference = figure.axes[:3]
    np.testing.assert_array_equal(shown(still), shown(moved))
    assert difference.get_title() == "difference: 0% of the first"
    np.testing.assert_array_equal(shown(titled(figure, "pool1: 2 x 2")), pooled)
    last = titled(figure, "difference: 40% of the first")  # of 5, 2
    np.testing.assert_array_equal(shown(last), np.ones((2, 2)))
    assert limits(last) == (0, 4)  # the map's own: no difference looks large that is small
    for start, lines in (("how much all maps change", curves), ("accuracy", accuracy)):
        drawn = {str(line.get_label()): line for line in titled(figure, start).lines}
        assert drawn.keys() == lines.keys()
        for name, values in lines.items():
            np.testing.assert_array_equal(drawn[name].get_xydata(), np.stack([pixels, values], 1))


def test_a_figure_is_saved_whole_and_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save_figure(confusion_matrix(np.eye(2, dtype=int)), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert (image.format, image.size) == ("PNG", (504, 300))  # 4.2 x 2.5 inches, 120 pixels each
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
