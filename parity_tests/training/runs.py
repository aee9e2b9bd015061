"""Small data sets for training runs in tests, and the same runs computed by the reference."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.choices import Model, Rule
from torchport.training import Config, Progress, Result, Samples

Params = Mapping[str, Array]
SHORT = Config(epochs=2, batch_size=20, device="cpu")
FLOAT64 = Config(dtype="float64", device="cpu", epochs=2, batch_size=20, log_loss="after")
MODELS: list[Model] = ["conv2d", "unfold", "numpy"]
OPTIONS: dict[Rule, dict[str, Any]] = {
    "sgd": {"lr": 0.05},
    "momentum": {"lr": 0.02, "momentum": 0.5},
    "nesterov": {"momentum": 0.7},
    "adagrad": {"lr": 0.02},
    "rmsprop": {"lr": 0.002, "decay_rate": 0.9},
    "adam": {"lr": 0.002, "beta1": 0.8, "beta2": 0.99},
}


def make_samples() -> Samples:
    """Images of 10 x 10 in two classes, dark on the left or on the right, which a network learns in a few steps."""
    rng = np.random.RandomState(3)
    t = rng.randint(0, 2, 150)
    x = rng.randint(0, 256, (150, 1, 10, 10))
    x[t == 0, ..., :5] //= 4
    x[t == 1, ..., 5:] //= 4
    x = x.astype(np.uint8)
    return Samples(x[:110], t[:110], x[110:], t[110:], classes=2)


SAMPLES = make_samples()


def pixels(images: Array) -> Array:
    return images.astype(np.float32) / np.float32(255)


def assert_near(params: Params, expected: Params) -> None:
    """Check parameters to within 1e-12, as in test_optimizers."""
    assert params.keys() == expected.keys()
    for name, value in params.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-12)


def predicted(params: Params, images: Array) -> Array:
    """The classes that the reference predicts for images with these params."""
    network = nr.SimpleConvNet((1, *images.shape[2:]), output_size=2, params=params)
    return np.asarray(network.predict(pixels(images)).argmax(axis=1))


def by_hand(
    network: nr.Network, samples: Samples, batches: Iterable[Array], rule: Any = None
) -> tuple[list[float], list[Params]]:
    """The reference's losses and params after each step, by Adam or another rule."""
    rule, losses, reached = rule or nr.Adam(), list[float](), list[Params]()
    for batch in batches:
        x, t = pixels(samples.x_train[batch]), samples.t_train[batch]
        rule.update(network.params, network.gradient(x, t))
        losses.append(float(network.loss(x, t, train_flg=False)))
        reached.append({name: value.copy() for name, value in network.params.items()})
    return losses, reached


def assert_same(one: Result, other: Result) -> None:
    """Check for equal bits."""
    assert one.records == other.records
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(one.predictions, other.predictions)
    assert one.params.keys() == other.params.keys()
    for name in one.params:
        np.testing.assert_array_equal(one.params[name], other.params[name])


def stopped_at(step: int) -> Callable[[Progress], None]:
    """A watch function that presses Ctrl-C after this step."""

    def watch(progress: Progress) -> None:
        if progress.step == step and progress.record is None:
            signal.raise_signal(signal.SIGINT)

    return watch
