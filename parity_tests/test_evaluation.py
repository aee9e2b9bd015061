"""What a network gets right, and the files it may come from."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, to_state_dict
from torchport.evaluation import Classification, classify
from torchport.formats import load_weights

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
        found = classify(either, images, labels, batch_size=batch_size)
        np.testing.assert_array_equal(found.predictions, logits.argmax(axis=1))
        np.testing.assert_allclose(found.confidence, nr.softmax(logits).max(axis=1), rtol=1e-12)
        assert found.accuracy == network.accuracy(images.astype(np.float32) / np.float32(255), labels)


def test_counts_of_a_classification() -> None:
    found = Classification(
        labels=np.array([0, 0, 1, 1, 1, 3]),
        predictions=np.array([0, 1, 1, 0, 0, 3]),
        confidence=np.array([0.9, 0.6, 0.5, 0.8, 0.6, 1.0]),
        classes=4,
    )
    assert found.confusion.tolist() == [[1, 1, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert found.mistakes.tolist() == [3, 1, 4]  # by confidence, equal ones in order
    assert found.accuracy == 0.5
    np.testing.assert_array_equal(found.accuracy_by_class, [1 / 2, 1 / 3, np.nan, 1.0])
    text = found.to_text()
    assert "accuracy 0.5000: 3 of 6" in text
    assert "    1       1       3    0.3333" in text
    assert text.endswith("most often: 1 seen as 0 (2 times), 0 seen as 1 (1 times)")


def assert_loads(path: Path, params: dict[str, Array]) -> None:
    found = load_weights(path)
    assert found.keys() == params.keys()
    for name in params:
        np.testing.assert_array_equal(found[name], params[name])


def test_weights_are_known_by_their_bytes_and_not_by_their_name(network: nr.SimpleConvNet, tmp_path: Path) -> None:
    network.save_params(tmp_path / "weights.pt")
    torch.save(to_state_dict(network.params), tmp_path / "weights.pkl")
    torch.save(to_state_dict(network.params), tmp_path / "model.pt")
    for path in (tmp_path / "weights.pt", tmp_path / "weights.pkl", tmp_path):
        assert_loads(path, network.params)


def save_cut(path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1)}, path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, r"No such file"),
        (lambda path: path.mkdir(), "is no run's folder"),
        (lambda path: (path.mkdir(), (path / "checkpoint.pt").touch()), r"has not ended: go on with .* --resume"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(gzip.compress(b"x")), "gzip"),
        (lambda path: save_cut(path), "is no state_dict"),
        (lambda path: torch.save(SimpleConvNet(), path), "is no state_dict"),
        (lambda path: torch.save([torch.ones(1)], path), "must be a dict"),
        (lambda path: torch.save({"fc.weight": torch.ones(1, 1)}, path), r"unexpected \['fc.weight'\]"),
    ],
    ids=["missing", "another folder", "an unfinished run", "empty", "gzip", "cut", "a module", "a list", "another net"],
)
def test_what_holds_no_weights_is_refused_in_one_line(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    make(tmp_path / "weights")
    with pytest.raises((ValueError, TypeError, OSError), match=says) as error:
        load_weights(tmp_path / "weights")
    assert str(tmp_path / "weights") in str(error.value)
    assert "\n" not in str(error.value)
