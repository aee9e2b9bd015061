"""Pictures, by what is written in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from torchport.figures import Curve, confusion_matrix, curves, mistakes, save_figure


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [*found, *([figure.get_suptitle()] if figure.get_suptitle() else [])]


def curve(epochs: int, per_epoch: int) -> Curve:
    at = np.arange(1, epochs + 1)
    return Curve(per_epoch, 1 / np.arange(1, epochs * per_epoch + 1), at, 1 - 0.1 / at, 1 - 0.2 / at)


def test_curves_show_each_run_over_its_epochs() -> None:
    runs = {"adam": curve(20, 60), "sgd": curve(3, 6)}
    accuracy, loss = curves(runs).axes
    labels = [line.get_label() for line in accuracy.lines]
    assert labels == ["adam, test", "adam, training", "sgd, test", "sgd, training"]
    np.testing.assert_array_equal(accuracy.lines[2].get_ydata(), runs["sgd"].test_accuracy)
    np.testing.assert_array_equal(accuracy.lines[1].get_ydata(), runs["adam"].train_accuracy)
    raw, smooth, *_ = loss.lines
    np.testing.assert_array_equal(raw.get_ydata(), runs["adam"].losses)
    assert raw.get_xdata()[-1] == smooth.get_xdata()[-1] == 20  # type: ignore[index]
    assert smooth.get_label() == "adam, mean of 60 steps"
    assert smooth.get_ydata()[0] == pytest.approx(runs["adam"].losses[:60].mean())  # type: ignore[index]


def test_curves_of_one_epoch_lie_inside_the_picture() -> None:
    accuracy, _ = curves({"run": curve(1, 4)}).axes
    low, high = accuracy.get_ylim()
    assert low < 0.8 < 0.9 < high


def test_the_confusion_matrix_shows_every_count_and_colours_the_mistakes() -> None:
    counts = np.array([[5, 2, 0], [0, 90, 1], [0, 0, 0]])
    figure = confusion_matrix(counts)
    (axes,) = figure.axes
    written = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts[:9]}
    assert written[1, 0] == "2"  # column 1, row 0: a 0 predicted as 1
    assert written[1, 1] == "90"
    assert written[2, 2] == "0"
    assert written[0, 1] == "·"
    assert texts(figure)[9:] == ["71.4%", "98.9%", "none", "right", "95 of 98 right; the mistakes in colour"]
    coloured = np.ma.getmaskarray(np.ma.asarray(axes.images[0].get_array()))
    np.testing.assert_array_equal(~coloured, [[False, True, False], [False, False, True], [False] * 3])


@pytest.mark.parametrize(
    ("n", "title"),
    [(0, "No mistakes"), (1, "1 mistake, the surest first"), (70, "60 of 70 mistakes, the surest first")],
)
def test_the_gallery_says_what_each_digit_is_and_was_taken_for(n: int, title: str) -> None:
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (n, 1, 6, 6)).astype(np.uint8)
    truth, predicted, confidence = rng.randint(0, 10, n), rng.randint(0, 10, n), rng.rand(n)
    figure = mistakes(images, truth, predicted, confidence)
    assert figure.get_suptitle() == title
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == min(n, 60)
    for i, axes in enumerate(shown):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[i, 0])
        assert axes.get_title() == f"{truth[i]}, seen as {predicted[i]}\n{confidence[i]:.1%} sure"


def test_a_figure_is_saved_whole_and_as_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save_figure(confusion_matrix(np.eye(2, dtype=int)), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(IsADirectoryError):
        save_figure(confusion_matrix(np.eye(2, dtype=int)), tmp_path)


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: curves({}), "at least one run"),
        (lambda: confusion_matrix(np.zeros((2, 3), int)), r"square, got shape \(2, 3\)"),
        (lambda: mistakes(np.zeros((2, 1, 3, 3)), np.zeros(3), np.zeros(3), np.zeros(3)), "one length, got 2 and 3"),
    ],
    ids=["no run", "not square", "unequal lengths"],
)
def test_what_cannot_be_drawn_is_refused(draw: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw()
