"""What cannot be drawn is refused in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import figures
from torchport.figures import Curve, confusion_matrix, curves, mistakes, shifts

EYE = np.eye(3)[None, None]
THREE = np.zeros((3, 1, 6, 6), np.uint8)  # images
CURVE = Curve(4, np.ones(12), np.arange(1, 4), np.ones(3), np.ones(3))


def gallery(
    images: Array = THREE, truth: int = 3, predicted: int = 3, confidence: int = 3, numbers: int = 3, most: int = 60
) -> Figure:
    """figures.mistakes with arrays of these lengths."""
    chances, ids = np.zeros(confidence), np.zeros(numbers, int)
    return mistakes(images, np.zeros(truth), np.zeros(predicted), chances, most, numbers=ids)


@pytest.mark.parametrize(
    ("draws", "says"),
    [
        (lambda: figures.filters({}), "at least one panel"),
        (lambda: figures.filters({"a": EYE, "b": np.ones((2, 1, 4, 4))}), "b must have shape"),
        (lambda: figures.filters(np.ones((2, 3))), r"4 axes \(FN, C, FH, FW\), got shape \(2, 3\)"),
        (lambda: figures.filters(EYE, scale="grey"), "scale must be one of each, shared, got 'grey'"),
        (lambda: figures.filters(EYE, only=1), "at most 0, as there are 1 filters, got 1"),
        (lambda: figures.filters(nr.TwoLayerNet(4, 3, 2)), "no convolution layer, only W1, b1, W2, b2"),
        (lambda: figures.filters(nr.SimpleConvNet(), layer="W2"), "one of W1, got 'W2'"),
        (lambda: figures.filters("no/such/file"), "no/such/file"),
        (lambda: figures.responses(np.ones((1, 4, 4)), np.ones((2, 1, 3, 3)), np.ones((3, 2, 2))), "got 2 and 3"),
        (lambda: figures.feature_maps(np.ones((1, 4, 4)), {}, np.ones(2), 0), "at least one layer"),
        (lambda: figures.path([]), "at least one stage"),
        (
            lambda: confusion_matrix(np.zeros((2, 3), int)),
            r"square array .* got int64 of shape \(2, 3\)",
        ),
        (lambda: confusion_matrix(np.zeros((0, 0), int)), r"got shape \(0, 0\)"),
        (lambda: confusion_matrix(np.eye(2)), "integers .* got float64"),
        (lambda: confusion_matrix(-np.eye(2, dtype=int)), "0 or more, .* minimum -1"),
        (lambda: gallery(truth=2), "images and truth .* got 3 and 2"),
        (lambda: gallery(predicted=4), "images and predicted .* got 3 and 4"),
        (lambda: gallery(confidence=4), "images and confidence .* got 3 and 4"),
        (lambda: gallery(numbers=4), "images and numbers .* got 3 and 4"),
        (lambda: gallery(most=0), "most must be at least 1, got 0"),
        (lambda: gallery(THREE / 255), "images must be uint8 .* got float64"),
        (lambda: gallery(THREE[:, [0, 0]]), r"1, 3 or 4 channels, got uint8 of shape \(3, 2, 6, 6\)"),
        (lambda: shifts({}, np.arange(3), {}, {}), "at least one pair"),
        (lambda: shifts({"a": (THREE[0, 0],) * 2}, np.arange(3), {"b": np.ones(2)}, {}), "b .* got 3 and 2"),
        (lambda: curves({}), "1 to 7 runs apart, got 0"),
        (lambda: curves(dict.fromkeys("abcdefgh", CURVE)), "got 8: draw several"),
        (lambda: curves({"a": CURVE._replace(test_accuracy=np.zeros(2))}), "test_accuracy .* got 3 and 2"),
        (lambda: curves({"a": CURVE._replace(train_accuracy=np.zeros(2))}), "train_accuracy .* got 2 and 3"),
        (lambda: figures.architecture([]), "at least one box"),
        (lambda: figures.columns(np.ones((1, 4, 4)), 3, row=4), "at most 3, as there are 4 windows, got 4"),
        (lambda: figures.columns(np.ones((1, 4, 4)), 5), "filter of 5 pixels does not fit"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draws: Callable[[], Figure], says: str) -> None:
    with pytest.raises((ValueError, TypeError, OSError), match=says) as refusal:
        draws()
    assert "\n" not in str(refusal.value)
