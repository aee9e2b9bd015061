"""numpy_ref against recorded numbers of the book's original code: golden/book.npz, keys CASE/ARRAY."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from numpy_ref.optimizer import OPTIMIZERS
from numpy_ref.util import im2col_by_window

GOLDEN: dict[str, Array] = dict(np.load(Path(__file__).parent.parent / "golden" / "book.npz"))


class Case:
    """The arrays of one case; remembers which of them were asked for."""

    def __init__(self, name: str) -> None:
        self.prefix = name + "/"
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Array:
        self.used.add(self.prefix + name)
        return GOLDEN[self.prefix + name]

    def under(self, group: str) -> dict[str, Array]:
        names = [key.removeprefix(self.prefix) for key in GOLDEN if key.startswith(self.prefix + group)]
        return {name.removeprefix(group): self[name] for name in names}


def assert_same_bits(actual: npt.ArrayLike, expected: Array) -> None:
    """For moved data and for operations that IEEE 754 rounds correctly: + - * / sqrt and comparisons."""
    np.testing.assert_array_equal(np.asarray(actual), expected, strict=True)


def assert_same_exp(actual: npt.ArrayLike, expected: Array) -> None:
    """Within 4 units in the last place, for 1 / (1 + exp(-x)): exp is not correctly rounded but within 1 on every
    machine, so two machines' values differ by 2 at most; 1 + e and the quotient add half a unit each on either side."""
    np.testing.assert_array_max_ulp(np.asarray(actual), expected, maxulp=4)


def assert_near(actual: npt.ArrayLike, expected: Array, rtol: float, atol: float) -> None:
    actual = np.asarray(actual)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)  # assert_allclose would broadcast
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def assert_same_sum(actual: npt.ArrayLike, expected: Array) -> None:
    """Sums may be added in another order: 1e-12 relative."""
    assert_near(actual, expected, rtol=1e-12, atol=0)


def difference_limit(size: np.floating) -> float:
    """For (f(x + h) - f(x - h)) / 2h: the values of f, of this size, may be 4 eps apart, which 1 / h magnifies."""
    return float(4 * np.finfo(float).eps * size / nr.gradient.STEP)


def check_im2col(g: Case) -> None:
    x, geometry = g["x"], tuple(g["geometry"])
    assert_same_bits(nr.im2col(x, *geometry), g["col"])
    assert_same_bits(im2col_by_window(x, *geometry), g["col"])
    assert_same_bits(nr.col2im(g["dcol"], x.shape, *geometry), g["img"])


def check_weighted(layer: nr.Affine | nr.Convolution, g: Case) -> None:
    assert_same_sum(layer.forward(g["x"]), g["y"])
    assert_same_sum(layer.backward(g["dy"]), g["dx"])
    for name in ("dW", "db"):
        assert_same_sum(getattr(layer, name), g[name])


def check_convolution(g: Case) -> None:
    check_weighted(nr.Convolution(g["W"], g["b"], *g["geometry"]), g)


def check_affine(g: Case) -> None:
    check_weighted(nr.Affine(g["W"], g["b"]), g)


def check_elementwise(layer: Layer, g: Case, same: Callable[[npt.ArrayLike, Array], None]) -> None:
    same(layer.forward(g["x"]), g["y"])
    same(layer.backward(g["dy"]), g["dx"])


def check_pooling(g: Case) -> None:
    layer = nr.Pooling(*g["geometry"])
    check_elementwise(layer, g, assert_same_bits)


def check_relu(g: Case) -> None:
    check_elementwise(nr.Relu(), g, assert_same_bits)


def check_sigmoid(g: Case) -> None:
    check_elementwise(nr.Sigmoid(), g, assert_same_exp)


def check_softmax_with_loss(g: Case) -> None:
    layer = nr.SoftmaxWithLoss()
    assert_same_sum(layer.forward(g["x"], g["t"]), g["loss"])
    assert layer.y is not None
    assert_same_sum(layer.y, g["y"])
    assert_same_sum(layer.backward(), g["dx"])


def check_dropout(g: Case) -> None:
    layer = nr.Dropout(float(g["ratio"]), np.random.RandomState(int(g["seed"])))
    assert_same_bits(layer.forward(g["x"]), g["y_train"])
    assert layer.mask is not None
    assert_same_bits(layer.mask, g["mask"])
    assert_same_bits(layer.backward(g["dy"]), g["dx"])
    assert_same_bits(layer.forward(g["x"], train_flg=False), g["y_test"])


def check_batch_normalization(g: Case) -> None:
    layer = nr.BatchNormalization(g["gamma"], g["beta"])
    for x, y in zip(g["xs"], g["ys"], strict=True):
        assert_same_sum(layer.forward(x), y)
    assert_same_sum(layer.backward(g["dy"]), g["dx"])
    for name in ("dgamma", "dbeta", "running_mean", "running_var"):
        assert_same_sum(getattr(layer, name), g[name])
    assert_same_sum(layer.forward(g["xs"][0], train_flg=False), g["y_test"])


def check_functions(g: Case) -> None:
    x, t = g["x"], g["t"]
    one_hot = np.eye(x.shape[1])[t]
    assert_same_bits(nr.step_function(x), g["step"])
    assert_same_bits(nr.relu(x), g["relu"])
    assert_same_bits(nr.relu_grad(x), g["relu_grad"])
    assert_same_exp(nr.sigmoid(x), g["sigmoid"])
    assert_same_sum(nr.sigmoid_grad(x), g["sigmoid_grad"])
    assert_same_sum(nr.softmax(x), g["softmax"])
    assert_same_sum(nr.softmax(x[0]), g["softmax_1d"])
    assert_same_sum(nr.sum_squared_error(x, nr.softmax(x)), g["sum_squared_error"])
    assert_same_sum(nr.cross_entropy_error(nr.softmax(x), t), g["cross_entropy_error"])
    assert_same_sum(nr.cross_entropy_error(nr.softmax(x), one_hot), g["cross_entropy_error_one_hot"])


def check_numerical_gradient(g: Case) -> None:
    limit = difference_limit(np.sum(np.abs(g["x"]) ** 3))
    found = nr.numerical_gradient(lambda x: np.sum(x**3), g["x"])
    assert_near(found, g["of_sum_of_cubes"], rtol=0, atol=limit)


def check_optimizer(g: Case) -> None:
    name = g.prefix.split("/")[1]
    optimizer = OPTIMIZERS[name](lr=float(g["lr"]))
    params = {"W": g["W0"].copy(), "b": g["b0"].copy()}
    for step in range(len(g["gW"])):
        optimizer.update(params, {"W": g["gW"][step], "b": g["gb"][step]})
        assert_same_bits(params["W"], g["W"][step])
        assert_same_bits(params["b"], g["b"][step])


def build(g: Case, rng: np.random.RandomState) -> nr.SimpleConvNet:
    return nr.SimpleConvNet(**json.loads(str(g["arch"])), rng=rng)


def check_simple_convnet(g: Case) -> None:
    net, x, t = build(g, np.random.RandomState(int(g["seed"]))), g["x"], g["t"]
    for name, value in g.under("params.").items():
        assert_same_bits(net.params[name], value)
    assert_same_sum(net.predict(x), g["logits"])
    loss = net.loss(x, t)
    assert_same_sum(loss, g["loss"])
    for name, value in net.gradient(x, t).items():
        assert_same_sum(value, g["grads." + name])
    limit = difference_limit(loss)
    for name, value in net.numerical_gradient(x, t).items():
        assert_near(value, g["numerical." + name], rtol=0, atol=limit)
    assert_same_bits(net.accuracy(x, t, batch_size=2), g["accuracy"])


def check_simple_convnet_default(g: Case) -> None:
    rng = np.random.RandomState(int(g["seed"]))
    net = nr.SimpleConvNet(rng=rng)
    x, t = rng.rand(10, 1, 28, 28), rng.randint(0, 10, 10)
    assert_same_sum(x.sum(), g["x_sum"])
    assert_same_bits(t, g["t"])
    assert_same_bits(net.params["W1"], g["W1"])
    assert_same_bits(net.params["W2"][:3], g["W2_head"])
    assert_same_bits(net.params["W3"], g["W3"])
    assert_same_sum(net.predict(x), g["logits"])
    assert_same_sum(net.loss(x, t), g["loss"])
    grads = net.gradient(x, t)
    grads["W2_head"] = grads.pop("W2")[:3]
    for name, value in grads.items():
        assert_same_sum(value, g["grad_" + name])


def check_trainer(g: Case) -> None:
    rng = np.random.RandomState(int(g["seed"]))
    net = build(g, rng)
    trainer = nr.Trainer(
        net,
        g["x_train"],
        g["t_train"],
        g["x_test"],
        g["t_test"],
        epochs=4,
        mini_batch_size=20,
        optimizer=g.prefix.split("/")[1],
        optimizer_param={"lr": float(g["lr"])},
        evaluate_sample_num_per_epoch=100,
        rng=rng,
    )
    trainer.train()
    assert_same_sum(trainer.train_loss_list, g["losses"])
    assert_same_bits(trainer.train_acc_list, g["train_acc"])
    assert_same_bits(trainer.test_acc_list, g["test_acc"])
    for name, value in g.under("params.").items():
        assert_same_sum(net.params[name], value)


CHECKS: dict[str, Callable[[Case], None]] = {
    "im2col": check_im2col,
    "convolution": check_convolution,
    "pooling": check_pooling,
    "relu": check_relu,
    "sigmoid": check_sigmoid,
    "affine": check_affine,
    "softmax_with_loss": check_softmax_with_loss,
    "dropout": check_dropout,
    "batch_normalization": check_batch_normalization,
    "functions": check_functions,
    "numerical_gradient": check_numerical_gradient,
    "optimizer": check_optimizer,
    "simple_convnet": check_simple_convnet,
    "simple_convnet_default": check_simple_convnet_default,
    "trainer": check_trainer,
}
CASES = sorted({key.rpartition("/")[0] for key in GOLDEN})


def run(case: str) -> set[str]:
    """Check one case; the keys that the check has looked at."""
    g = Case(case)
    CHECKS[case.split("/")[0]](g)
    return g.used


@pytest.mark.parametrize("case", CASES)
def test_reference_computes_what_the_book_computes(case: str) -> None:
    unused = {key for key in GOLDEN if key.rpartition("/")[0] == case} - run(case)
    assert not unused, "recorded, but compared with nothing"
