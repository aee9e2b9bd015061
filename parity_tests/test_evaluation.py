"""Classification and Evaluation: predictions, accuracies and agreement on a test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import numpy_ref as nr
import torchport
from torchport import SimpleConvNet
from torchport.choices import Convolution
from torchport.evaluation import Classification, Evaluation, check_takes, classify, evaluate_ports, peak_memory
from torchport.networks import CONVOLUTIONS, Weights, recognise
from torchport.networks.names import cast_params

CONV = {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}


@pytest.fixture
def network() -> nr.SimpleConvNet:
    return nr.SimpleConvNet((1, 8, 8), CONV, 6, 4, weight_init_std=1.0, rng=np.random.RandomState(2))


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_classification_is_the_predictions_and_their_softmax(
    batch_size: int, network: nr.SimpleConvNet, device: str, rng: np.random.Generator
) -> None:
    images, labels = rng.integers(0, 256, (23, 1, 8, 8), np.uint8), rng.integers(0, 4, 23)
    logits = network.predict(images.astype(np.float32) / np.float32(255))
    for either in (network, SimpleConvNet.from_params(network.params, device=device)):
        result = classify(either, images, labels, batch_size=batch_size)
        np.testing.assert_array_equal(result.predictions, logits.argmax(axis=1))
        np.testing.assert_allclose(result.confidence, nr.softmax(logits).max(axis=1), rtol=1e-12)
        assert result.accuracy == network.accuracy(images.astype(np.float32) / np.float32(255), labels)


def test_counts_of_a_classification() -> None:
    result = Classification(
        labels=np.array([0, 0, 1, 1, 1, 3]),
        predictions=np.array([0, 1, 1, 0, 0, 3]),
        confidence=np.array([0.9, 0.6, 0.5, 0.8, 0.6, 1.0]),
        classes=4,
    )
    assert result.confusion.tolist() == [[1, 1, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert result.mistakes.tolist() == [3, 1, 4]  # by confidence; ties keep their order
    assert result.accuracy == 0.5
    np.testing.assert_array_equal(result.accuracy_by_class, [1 / 2, 1 / 3, np.nan, 1.0])
    text = result.to_text()
    assert "accuracy 0.5000: 3 of 6" in text
    assert "    1       1       3    0.3333" in text
    assert text.endswith("most often: 1 seen as 0 (2 times), 0 seen as 1 (1 times)")


def test_equal_outputs_go_to_the_first_class() -> None:
    net = SimpleConvNet((1, 8, 8), CONV, 6, 4)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    result = classify(net, np.ones((3, 1, 8, 8), np.uint8), np.array([0, 1, 3]))
    assert result.predictions.tolist() == [0, 0, 0]
    assert result.confidence.tolist() == [0.25, 0.25, 0.25]


def test_the_text_of_a_classification_without_mistakes() -> None:
    right = np.array([0, 2])
    text = Classification(right, right, np.ones(2), 3).to_text()
    assert text.splitlines()[0] == "accuracy 1.0000: 2 of 2 test images right"
    assert "    1       0       0      none" in text.splitlines()
    assert "most often" not in text


def test_a_classification_as_json_is_whole() -> None:
    result = Classification(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.6, 0.8]), 3)
    assert json.loads(result.to_json(weights="params.pkl")) == {
        "weights": "params.pkl",
        "samples": 3,
        "accuracy": 1 / 3,
        "accuracy_by_class": [0.5, 0.0, None],
        "confusion": [[1, 1, 0], [1, 0, 0], [0, 0, 0]],
        "mistakes": [
            {"index": 2, "truth": 1, "predicted": 0, "confidence": 0.8},
            {"index": 1, "truth": 0, "predicted": 1, "confidence": 0.6},
        ],
    }


def test_a_module_predicts_as_in_evaluation_and_stays_as_it_was(rng: np.random.Generator) -> None:
    net = nn.Sequential(nn.Flatten(), torchport.BatchNormalization(64), torchport.Dropout(), nn.Linear(64, 4)).double()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images, labels = rng.integers(0, 256, (23, 1, 8, 8), np.uint8), rng.integers(0, 4, 23)
    result, again = classify(net, images, labels, batch_size=7), classify(net.eval(), images, labels)
    # Logits are sums of 64 terms below 63, since a running variance of 0 divides by 1e-3: errors are below 1e-10.
    np.testing.assert_allclose(result.confidence, again.confidence, rtol=1e-9)
    net.train()
    net[1].eval()
    classify(net, images, labels)
    assert [module.training for module in net.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_evaluation_as_text_has_a_line_per_network() -> None:
    evaluation = Evaluation(10, {"numpy": 0.1, "unfold": 0.9}, 9, 3 * 2**20)
    assert evaluation.to_text().splitlines() == [
        "numpy: accuracy 0.1000 on 10 test images",
        "unfold: accuracy 0.9000 on 10 test images",
        "9 of 10 predictions equal in both",
        "peak memory of the process: 3 MiB",
    ]


def test_one_prediction_that_differs_is_too_many() -> None:
    assert Evaluation(10, {}, 10, None).ok
    assert not Evaluation(10, {}, 9, None).ok


def test_ports_of_float32_weights_are_evaluated_in_float64(
    network: nr.SimpleConvNet, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = []

    def seeing(either: nr.Network | nn.Module, *args: Any, **options: Any) -> Classification:
        weights = either.params["W1"] if isinstance(either, nr.Network) else next(either.parameters())
        dtypes.append(str(weights.dtype))
        return classify(either, *args, **options)

    monkeypatch.setattr("torchport.evaluation.classify", seeing)
    images, labels = rng.integers(0, 256, (23, 1, 8, 8), np.uint8), rng.integers(0, 4, 23)
    assert evaluate_ports(Weights.of(cast_params(network.params, torch.float32)), images, labels).ok
    assert dtypes == ["float64", "torch.float64", "torch.float64"]


@pytest.mark.parametrize(("conv", "module"), CONVOLUTIONS.items())
def test_predictions_agree_where_all_networks_do(
    conv: Convolution,
    module: type[nn.Conv2d],
    network: nr.SimpleConvNet,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = rng.integers(0, 256, (23, 1, 8, 8), np.uint8), rng.integers(0, 4, 23)
    right = classify(network, images, labels)
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda self, input: -forward(self, input))
    wrong = classify(SimpleConvNet.from_params(network.params, conv=conv), images, labels)
    evaluation = evaluate_ports(Weights.of(network.params), images, labels)
    assert evaluation.agreeing == (wrong.predictions == right.predictions).sum() < evaluation.samples == 23
    assert wrong.accuracy != right.accuracy
    assert evaluation.accuracy == {
        name: (wrong if name == conv else right).accuracy for name in ("numpy", "conv2d", "unfold")
    }


def test_memory_that_the_system_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (peak_memory() or 2**30) > 2**20
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: "Name:\tpython\nVmHWM:\t    1234 kB\nVmRSS:\t 99 kB\n")
    assert peak_memory() == 1234 * 1024
    monkeypatch.setattr(Path, "read_text", lambda path: "Name:\tpython\n")
    assert peak_memory() is None


def test_outputs_that_are_not_finite_are_refused() -> None:
    net = SimpleConvNet((1, 8, 8), CONV, 6, 4)
    nn.init.constant_(net.affine2.bias, torch.nan)
    with pytest.raises(ValueError, match="images 0 to 1 are not finite"):
        classify(net, np.ones((3, 1, 8, 8), np.uint8), np.zeros(3, int), batch_size=2)


@pytest.mark.parametrize(
    ("shape", "labels", "geometry", "says"),
    [
        ((2, 1, 9, 9), [0, 1], (1, 0), r"images \(1, 8, 8\), got \(1, 9, 9\): give the stride"),
        ((2, 3, 8, 8), [0, 1], (1, 0), r"got \(3, 8, 8\)"),
        ((2, 1, 8, 8), [0, 1], (2, 1), r"images \(1, 11, 11\), got \(1, 8, 8\): give the stride"),
        ((2, 1, 8, 8), [0, 4], (1, 0), r"labels must be in 0\.\.3, got 0 to 4"),
        ((2, 1, 8, 8), [0], (1, 0), r"got shape \(1,\)"),
    ],
    ids=["size", "channels", "geometry", "classes", "length"],
)
def test_weights_that_are_for_other_data_are_refused(
    shape: tuple[int, ...], labels: list[int], geometry: tuple[int, int], says: str, network: nr.SimpleConvNet
) -> None:
    with pytest.raises(ValueError, match=says):
        check_takes(recognise(network.params, *geometry), np.zeros(shape, np.uint8), np.array(labels))


def test_fully_connected_weights_take_images_of_as_many_values() -> None:
    two, labels = recognise(nr.TwoLayerNet(6, 3, 2).params), np.array([0, 1])
    check_takes(two, np.zeros((2, 1, 2, 3), np.uint8), labels)
    with pytest.raises(ValueError, match=r"for images of 6 values, got \(1, 2, 2\): give their data"):
        check_takes(two, np.zeros((2, 1, 2, 2), np.uint8), labels)
