"""Training equals the reference's: the same batches, steps and weights, with any network, rule and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.optimizer import OPTIMIZERS
from torchport.choices import Model, Rule
from torchport.files import read_weights
from torchport.training import Config, Samples, Stopped, resume, train
from torchport.training.ranks import Ranks
from torchport.training.samples import orders
from training.runs import (
    FLOAT64,
    MODELS,
    OPTIONS,
    SAMPLES,
    SHORT,
    assert_near,
    assert_same,
    by_hand,
    pixels,
    predicted,
    stopped_at,
)

pytestmark = [
    pytest.mark.usefixtures("no_drawing"),
    pytest.mark.filterwarnings("ignore:the mean loss of epoch 1"),  # of runs too short to learn anything
]


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_the_books(model: Model, optimizer: Rule, device: str) -> None:
    """12 steps, with each epoch's last batch filled up; conv2d with options of the rule."""
    place, options = None if model == "numpy" else device, {} if model == "conv2d" else OPTIONS[optimizer]
    result = train(replace(FLOAT64, model=model, optimizer=optimizer, device=place, **options), samples=SAMPLES)
    rng = np.random.RandomState(0)
    network = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=rng)
    rule = OPTIMIZERS[optimizer](**{"lr": 0.001 if optimizer == "adam" else 0.01, **options})
    losses, _ = by_hand(network, SAMPLES, (rng.choice(110, 20) for _ in range(12)), rule)
    np.testing.assert_allclose(result.losses, losses, rtol=0, atol=1e-12)
    assert_near(result.params, network.params)
    np.testing.assert_array_equal(result.predictions, predicted(network.params, SAMPLES.x_test))
    assert result.test_accuracy == np.mean(result.predictions == SAMPLES.t_test)


def test_it_learns(device: str) -> None:
    result = train(Config(epochs=20, batch_size=10, device=device), samples=SAMPLES)
    assert result.records[-1].loss < 0.2 < 0.6 < result.records[0].loss
    assert result.test_accuracy == np.mean(predicted(result.params, SAMPLES.x_test) == SAMPLES.t_test) > 0.95
    assert {value.dtype for value in result.params.values()} == {np.dtype(np.float32)}


def test_the_logged_loss_is_that_of_the_step_unless_asked() -> None:
    """In the first step, the loss before the update is that of the untrained network: log 2."""
    before = train(replace(FLOAT64, log_loss="step"), samples=SAMPLES)
    after = train(FLOAT64, samples=SAMPLES)
    assert before.losses[0] == pytest.approx(np.log(2), abs=1e-3)
    assert after.losses[0] < before.losses[0]
    for name in before.params:
        np.testing.assert_array_equal(before.params[name], after.params[name])


def test_the_books_batches_are_its_random_stream() -> None:
    """Batches drawn for a whole epoch are those that the book draws one by one."""
    drawn, stream = orders(Config(batch_size=7), 24, np.random.RandomState(4)), np.random.RandomState(4)
    for _ in range(3):
        book = [stream.choice(24, 7) for _ in range(4)]
        np.testing.assert_array_equal(next(drawn), np.concatenate(book))


def test_an_epoch_of_permuted_batches_takes_every_sample_once() -> None:
    drawn = orders(Config(batch_size=7, sampling="epoch"), 24, np.random.RandomState(4))
    first, second = next(drawn), next(drawn)
    assert sorted(first) == sorted(second) == list(range(24))
    assert list(first) != list(second)


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
@pytest.mark.parametrize("batch_size", [20, 110, 500])
def test_a_short_last_batch_is_a_mean_of_its_own(model: Model, batch_size: int) -> None:
    """110 = 5 * 20 + 10: the sixth step is the mean over 10 images, in the port as in the reference by hand."""
    config = replace(FLOAT64, model=model, sampling="epoch", epochs=2, batch_size=batch_size)
    rng = np.random.RandomState(0)
    network, ends = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=rng), range(batch_size, 110, batch_size)
    batches = [batch for _ in range(2) for batch in np.split(rng.permutation(110), ends)]
    losses, _ = by_hand(network, SAMPLES, batches)
    np.testing.assert_allclose(train(config, samples=SAMPLES).losses, losses, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [50, 110])
def test_train_size_takes_the_first_images(n: int) -> None:
    """Of 110 images; asking for 110 takes all of them."""
    first = SAMPLES._replace(x_train=SAMPLES.x_train[:n], t_train=SAMPLES.t_train[:n])
    assert_same(train(replace(FLOAT64, train_size=n), samples=SAMPLES), train(FLOAT64, samples=first))


@pytest.mark.parametrize("model", ["conv2d", "numpy"])
def test_the_training_accuracy_is_that_of_the_first_thousand_images(model: Model) -> None:
    """Of 1100 images with random labels, so that the accuracy on all of them differs."""
    x, t = np.tile(SAMPLES.x_train[..., 2:8, 2:8], (10, 1, 1, 1)), np.random.RandomState(1).randint(0, 2, 1100)
    many = Samples(x, t, SAMPLES.x_test[..., 2:8, 2:8], SAMPLES.t_test, classes=2)
    result = train(replace(FLOAT64, model=model, epochs=1, batch_size=1100), samples=many)
    right = predicted(result.params, x) == t
    assert result.records[-1].train_accuracy == right[:1000].mean() != right.mean()


@pytest.mark.parametrize("model", MODELS)
def test_the_mean_of_the_last_epochs_weights(model: Model, tmp_path: Path) -> None:
    """The mean over the last epoch's 6 steps, as the reference computes it; also if the run is stopped among them."""
    config = replace(FLOAT64, model=model, keep="mean")
    with pytest.raises(Stopped):
        train(config, samples=SAMPLES, out=tmp_path, watch=stopped_at(9))
    result = resume(tmp_path, samples=SAMPLES)
    rng = np.random.RandomState(0)
    network = nr.SimpleConvNet((1, 10, 10), output_size=2, rng=rng)
    _, reached = by_hand(network, SAMPLES, (rng.choice(110, 20) for _ in range(12)))
    assert_near(result.params, {name: np.mean([step[name] for step in reached[6:]], axis=0) for name in result.params})
    assert all(np.abs(value - reached[-1][name]).max() > 1e-6 for name, value in result.params.items())
    np.testing.assert_array_equal(result.predictions, predicted(result.params, SAMPLES.x_test))
    np.testing.assert_array_equal(nr.read_params(tmp_path / "params.pkl")["W2"], result.params["W2"])


# Each with the part of the images that it is given.
NETWORKS: dict[str, tuple[Callable[[np.random.RandomState], nr.Network], Callable[[Array], Array]]] = {
    "LeNet5": (lambda rng: nr.LeNet5((1, 12, 12), 2, rng=rng), lambda x: np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))),
    "DeepConvNet": (lambda rng: nr.DeepConvNet((1, 4, 4), output_size=2, rng=rng), lambda x: x[..., 3:7, 3:7]),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_another_network_trains_as_the_reference_and_goes_on_after_a_stop(
    name: Any, model: Model, tmp_path: Path
) -> None:
    """As the reference trains; dropout's masks have their own random stream, and predictions are without dropout."""
    make, part = NETWORKS[name]
    samples = SAMPLES._replace(x_train=part(SAMPLES.x_train), x_test=part(SAMPLES.x_test))
    config = replace(FLOAT64, network=name, model=model, seed=3)
    rng, masks = np.random.RandomState(config.seed), np.random.RandomState([config.seed, 1])
    network = make(rng)
    for layer in network.layers.values():
        if isinstance(layer, nr.Dropout):
            layer.rng = masks
    losses, _ = by_hand(network, samples, (rng.choice(110, 20) for _ in range(12)))
    with pytest.raises(Stopped):
        train(config, samples=samples, out=tmp_path, watch=stopped_at(4))
    result = resume(tmp_path, samples=samples)
    assert_same(result, train(config, samples=samples))
    np.testing.assert_allclose(result.losses, losses, rtol=0, atol=1e-12)
    assert_near(result.params, network.params)
    np.testing.assert_array_equal(result.predictions, network.predict(pixels(samples.x_test)).argmax(axis=1))
    assert nr.params.same_bits(read_weights(tmp_path).params, result.params)


def test_masks_are_drawn_in_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SAMPLES._replace(x_train=SAMPLES.x_train[..., 3:7, 3:7], x_test=SAMPLES.x_test[..., 3:7, 3:7])
    monkeypatch.setattr("torchport.training.loop.join", lambda device: Ranks(0, 2))
    with pytest.raises(ValueError, match=r"masks of Dropout1, Dropout2 for whole batches: .* one process, got 2"):
        train(replace(SHORT, network="DeepConvNet"), samples=small)
