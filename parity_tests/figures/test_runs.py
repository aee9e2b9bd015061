"""Pictures of training runs, and of networks as boxes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.text import Annotation

import numpy_ref as nr
from figures.looking import draw, explained
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport import figures, subjects
from torchport.figures import Curve, curves
from torchport.layers import kind_of
from torchport.networks import Architecture, Weights
from torchport.training import Config, Record, Result


def curve(epochs: int, per_epoch: int) -> Curve:
    at = np.arange(1, epochs + 1)
    return Curve(per_epoch, 1 / np.arange(1, epochs * per_epoch + 1), at, 1 - 0.1 / at, 1 - 0.2 / at)


def test_curves_of_a_run_show_its_accuracies_and_losses() -> None:
    run = curve(20, 60)
    figure = curves({"run": run})
    draw(figure)
    accuracy, loss = figure.axes
    assert figure.get_suptitle() == "run"
    test, train = accuracy.lines
    np.testing.assert_array_equal(test.get_xydata(), np.stack([run.epochs, run.test_accuracy], 1))
    np.testing.assert_array_equal(train.get_xydata(), np.stack([run.epochs, run.train_accuracy], 1))
    assert explained(accuracy) == ["test (last 0.9900)", "training (last 0.9950)"]
    raw, mean = loss.lines
    np.testing.assert_array_equal(raw.get_ydata(), run.losses)
    steps = np.arange(60, 1201)  # the last of each 60: their mean stands in their middle
    means = [run.losses[step - 60 : step].mean() for step in steps]
    centres = (steps - 29.5) / 60
    np.testing.assert_allclose(np.asarray(mean.get_xydata()), np.stack([centres, means], 1), rtol=1e-9)
    assert explained(loss) == ["each step", "mean of 60 steps"]
    assert mean.zorder > raw.zorder
    assert loss.get_yscale() == "log"
    assert (accuracy.get_xlabel(), loss.get_xlabel()) == ("epoch", "epoch")
    for axes, values in ((accuracy, run.epochs), (loss, centres)):  # nothing of the picture is empty
        low, high = axes.get_xlim()
        assert np.ptp(values) > 0.8 * (high - low)
    low, high = np.log(loss.get_ylim())
    assert np.ptp(np.log(means)) > 0.6 * (high - low)


def test_curves_of_several_runs_tell_them_apart() -> None:
    runs = {"adam": curve(20, 120), "_sgd, $x_{$": curve(3, 200)}
    figure = curves(runs, "title")
    draw(figure)
    accuracy, loss = figure.axes
    assert figure.get_suptitle() == "title"
    assert explained(accuracy) == ["test", "training"]
    assert explained(loss) == ["each step", "mean of 30 or 100 steps"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["adam (last test accuracy 0.9900)", "_sgd, $x_{$ (last test accuracy 0.9333)"]
    colours = [line.get_color() for line in figure.legends[0].get_lines()]
    markers = [line.get_marker() for line in figure.legends[0].get_lines()]
    assert len(set(colours)) == len(set(markers)) == 2  # markers for print without colours
    assert [line.get_marker() for line in accuracy.lines[::2]] == markers
    assert [line.get_marker() for line in loss.lines[1::2]] == markers
    for lines in (accuracy.lines, loss.lines):
        assert [line.get_color() for line in lines] == [colours[0]] * 2 + [colours[1]] * 2


def test_a_result_draws_its_curves() -> None:
    records = (Record(1, 4, 0.5, 0.6, 0.7), Record(2, 8, 0.4, 0.8, 0.75), Record(2, 8, 0.4, 0.9, 0.79, "mean"))
    result = Result(Config(data="drawn"), {}, "mean", np.linspace(2, 1, 8), records, np.zeros(1), 0.79, "cpu", {})
    figure = result.curves("mine")
    assert figure.get_suptitle() == "mine on drawn"
    test, train = figure.axes[0].lines
    np.testing.assert_array_equal(test.get_xydata(), [[1, 0.7], [2, 0.75]])
    np.testing.assert_array_equal(train.get_xydata(), [[1, 0.6], [2, 0.8]])
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xdata(), np.arange(1, 9) / 4)


@pytest.mark.parametrize(
    "losses",
    [
        1 / np.arange(1, 5),
        np.full(40, 2.3),
        np.zeros(40),
        np.full(40, -1e-7),
        np.append(np.linspace(2, 0.05, 39), -1e-7),
    ],
    ids=["few", "constant", "zero", "the book's least", "one below zero"],
)
def test_any_losses_can_be_drawn(losses: Array) -> None:
    figure = curves({"run": curve(1, len(losses))._replace(losses=losses)})
    draw(figure)
    accuracy, loss = figure.axes
    low, high = loss.get_ylim()
    assert low <= losses.min() or (loss.get_yscale() == "log" and low > 1e-3)
    assert high > losses.max()
    low, high = accuracy.get_ylim()
    assert low < 0.8 < 0.9 < high
    assert (explained(loss) == []) == (len(losses) == 4)  # where there is nothing to tell apart


@pytest.mark.parametrize("network", [nr.SimpleConvNet(), nr.DeepConvNet(), nr.TwoLayerNet(784, 50, 10)])
def test_the_architecture_has_every_layer_and_parameter(network: nr.Network) -> None:
    subject = subjects.Subject(Weights.of(network.params), "name")
    boxes = subjects.boxes(subject)
    assert [box.name for box in boxes] == ["input", *(name.lower() for name in network.layers), "softmax"]
    assert (boxes[0].shape, boxes[-1].shape) == (subject.weights.architecture.input_shape, (10,))
    abouts = [kind_of(layer).about(layer) for layer in network.layers.values()]
    assert [box.about for box in boxes] == ["", *abouts, "probabilities"]
    figure = figures.architecture(boxes, "title")
    draw(figure)
    total = sum(value.size for value in network.params.values())
    assert figure.get_suptitle() == f"title: {total:,} parameters"
    assert figures.architecture(boxes).get_suptitle() == f"{total:,} parameters"
    lines: dict[float, list[str]] = {}
    for text in sorted(figure.axes[0].texts, key=lambda text: text.get_position()):
        if text.get_text():
            lines.setdefault(text.get_position()[1], []).append(text.get_text())
    expected = [["layer", "output", "parameters"]]
    for box in boxes:
        share = f"{box.parameters:,}  ({box.parameters / total:.1%})" if box.parameters else ""
        expected.append([cell for cell in (box.name, box.about, " x ".join(map(str, box.shape)), share) if cell])
    assert [lines[y] for y in sorted(lines)] == expected


def test_a_kind_of_layer_has_one_colour_and_arrows_lie_on_the_boxes_centres() -> None:
    looks: dict[str, set[object]] = {}
    for name in ("SimpleConvNet", "DeepConvNet", "LeNet5"):
        boxes = subjects.boxes(subjects.seeded_subject(0, Architecture(name)))
        axes = figures.architecture(boxes).axes[0]
        middles = {patch.get_x() + patch.get_width() / 2 for patch in axes.patches}  # type: ignore[attr-defined]
        arrows = [text for text in axes.texts if isinstance(text, Annotation)]
        assert {arrow.xy[0] for arrow in arrows} == middles
        assert len(arrows) == len(boxes) - 1
        for box, patch in zip(boxes, axes.patches, strict=True):
            looks.setdefault(box.kind, set()).add(patch.get_edgecolor())
    assert all(len(colours) == 1 for colours in looks.values())
    assert looks["Pooling"] == looks["Subsampling"]
    plain = {next(iter(looks[kind])) for kind in ("Convolution", "Affine", "Relu", "Pooling", "Dropout", "")}
    assert len(plain) == 6


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nr.Convolution(np.ones((4, 2, 3, 5)), np.ones(4), 2, 1), "4 filters 3 x 5, stride 2, pad 1"),
        (nr.Pooling(3, 4, 2, 1), "max of 3 x 4, stride 2, pad 1"),
        (nr.AveragePooling(3, 4, 2), "mean of 3 x 4, stride 2"),
        (nr.Subsampling(np.ones(2), np.ones(2), 3, 4, 2), "sum of 3 x 4, stride 2, scaled"),
        (nr.LocalResponseNormalization(3, 0.3, 0.75, 1.0), "over 3 channels"),
        (nr.Affine(np.ones((6, 4)), np.ones(4)), "6 to 4"),
        (nr.Relu(), "max(0, x)"),
        (nr.Dropout(0.3), "ratio 0.3, in training"),
        (nr.Sigmoid(), "Sigmoid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_layer_is_told_in_a_few_words(layer: Layer, says: str) -> None:
    assert kind_of(layer).about(layer) == says
