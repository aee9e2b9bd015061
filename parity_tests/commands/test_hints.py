"""The hint on a low accuracy names the option that helps weights made for other images, rows or classes."""

from __future__ import annotations

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.commands.hints import hint
from torchport.data.preparation import NAMED, UNIT, Preparation
from torchport.evaluation import classify
from torchport.networks import Weights

N, CLASSES = 300, 5
Params = dict[str, Array]


@pytest.fixture(scope="module")
def images() -> Array:
    """Light stripes on noise, at a different place for each class."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 60, (N, 1, 10, 10))
    for number, image in enumerate(images):
        image[0, 2 * (number % CLASSES) : 2 * (number % CLASSES) + 2] += 190
    return images.astype(np.uint8)


LABELS = np.arange(N) % CLASSES


def trained(images: Array, preparation: Preparation = UNIT) -> Params:
    conv = {"filter_num": 4, "filter_size": 3, "pad": 0, "stride": 1}
    net = nr.SimpleConvNet((1, 10, 10), conv, 20, CLASSES, weight_init_std=0.1, rng=np.random.RandomState(1))
    rule, x = nr.Adam(0.01), preparation(images)
    for _ in range(60):
        rule.update(net.params, net.gradient(x, LABELS))
    assert net.accuracy(x, LABELS) > 0.98
    return net.params


@pytest.fixture(scope="module")
def params(images: Array) -> Params:
    return trained(images)


def hint_for(params: Params, images: Array, labels: Array = LABELS, preparation: Preparation = UNIT) -> str:
    weights = Weights.of(params)
    result = classify(weights.port(), images, labels, preparation=preparation)
    return hint(weights, Weights.port, images, labels, preparation, result)


def moved(params: Params, trained: Preparation) -> Params:
    """Weights that compute from images prepared by trained what params compute from the book's."""
    black, white = (float(trained(np.array([value], np.uint8))[0]) for value in (0, 255))
    bias = params["b1"] - params["W1"].sum(axis=(1, 2, 3)) * black / (white - black)
    return {**params, "W1": params["W1"] / (white - black), "b1": bias}


@pytest.mark.parametrize("name", [name for name in NAMED if name != "unit"])
def test_other_preparations_are_tried(name: str, params: Params, images: Array) -> None:
    preparation = UNIT if name == "inverted" else NAMED["inverted"]  # for the others the book's images are partly right
    assert f"1.000 with --images {name}" in hint_for(moved(params, NAMED[name]), images, preparation=preparation)


def test_rows_of_keras_are_tried_together_with_preparations(params: Params, images: Array) -> None:
    rows = params["W2"].reshape(4, 16, -1).swapaxes(0, 1).reshape(params["W2"].shape)
    assert "1.000 with --flatten hwc" in hint_for({**params, "W2": rows}, images)
    assert "1.000 with --flatten hwc --images inverted" in hint_for(
        moved({**params, "W2": rows}, NAMED["inverted"]), images
    )


def test_classes_that_are_numbered_otherwise_are_told(params: Params, images: Array) -> None:
    line = hint_for(params, images, (LABELS + 1) % CLASSES)
    assert line == (
        "hint: the classes seem to be numbered differently; 1.000 would be right with "
        "0 as 4, 1 as 0, 2 as 1, 3 as 2, 4 as 3"
    )


def test_nothing_is_said_of_right_weights_or_of_ones_that_know_nothing(params: Params, images: Array) -> None:
    weights = Weights.of(params)
    everything = classify(weights.port(), images, LABELS)
    assert hint(weights, lambda _: pytest.fail("tried"), images, LABELS, UNIT, everything) == ""  # and nothing is tried
    rng = np.random.RandomState(3)
    assert hint_for({name: rng.standard_normal(value.shape) for name, value in params.items()}, images) == ""


def test_a_network_without_channels_has_no_rows_to_reorder(images: Array) -> None:
    net = nr.TwoLayerNet(100, 6, CLASSES, rng=np.random.RandomState(1))
    rule, x = nr.Adam(0.01), NAMED["signed"](images)
    for _ in range(60):
        rule.update(net.params, net.gradient(x.reshape(N, -1), LABELS))
    inverted = hint_for(net.params, images, preparation=NAMED["inverted"])
    assert "with --images signed" in inverted
    assert "hwc" not in inverted
