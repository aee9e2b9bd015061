"""The drawn networks of small whole numbers: exact, with zeros and ties that are seen.

pytest parity_tests/parity/test_integers.py --table shows the shares.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array, random_stream
from numpy_ref.classic import AlexNet, LeNet5
from numpy_ref.classic_layers import Tanh
from numpy_ref.layers import Layer
from torchport.parity import integers
from torchport.parity.integers import IntegerCase, homogeneous, integer_case, scaled


def chain(*layers: Layer) -> nr.Network:
    """A network of layers, named Relu1, Affine2 and so on by class and number."""
    return nr.Network({f"{type(layer).__name__}{place}": layer for place, layer in enumerate(layers, 1)})


def convolution(filters: int, channels: int, size: int = 3) -> nr.Convolution:
    return nr.Convolution(np.ones((filters, channels, size, size)), np.ones(filters), 1, size // 2)


def affine(inputs: int, outputs: int) -> nr.Affine:
    return nr.Affine(np.ones((inputs, outputs)), np.ones(outputs))


def normalization(features: int) -> nr.BatchNormalization:
    return nr.BatchNormalization(np.ones(features), np.zeros(features))


def deep(count: int, size: int = 3) -> nr.Network:
    """A network of count convolutions with relu, then an affine layer."""
    layers = [layer for k in range(count) for layer in (convolution(16, 16 if k else 3, size), nr.Relu())]
    return chain(*layers, affine(16 * 64, 10))


def fully_connected(count: int) -> nr.Network:
    layers = [layer for _ in range(count - 1) for layer in (affine(100, 100), nr.Relu())]
    return chain(*layers, affine(100, 10))


def averaging(window: int) -> nr.Network:
    layers = (convolution(16, 3), nr.Relu(), nr.AveragePooling(2, 2), convolution(16, 16), nr.Relu())
    return chain(*layers, nr.AveragePooling(window, window, window), nr.Flatten(), affine(16 * (12 // window) ** 2, 10))


def normalising() -> nr.Network:
    first = (convolution(16, 1), normalization(16 * 256), nr.Relu(), nr.Pooling(2, 2))
    second = (convolution(16, 16), normalization(16 * 64), nr.Relu(), nr.Pooling(2, 2))
    return chain(*first, *second, affine(256, 10))


# The network, the shape of a sample, how many, and the first layer that float32 rounds.
NETWORKS: dict[str, tuple[Callable[[], nr.Network], tuple[int, ...], int, str]] = {
    "SimpleConvNet": (nr.SimpleConvNet, (1, 28, 28), 8, ""),
    "DeepConvNet": (nr.DeepConvNet, (1, 28, 28), 8, ""),
    "LeNet5": (LeNet5, (1, 28, 28), 8, "Tanh1"),
    "LeNet5, averaged": (lambda: LeNet5(subsampling="average"), (1, 28, 28), 8, "Tanh1"),
    "AlexNet, a quarter": (lambda: AlexNet((3, 67, 67), width=0.25), (3, 67, 67), 2, "Norm1"),
    "MultiLayerNet": (lambda: nr.MultiLayerNet(784, [100] * 5, 10), (784,), 8, ""),
    "ThreeLayerNet": (nr.ThreeLayerNet, (784,), 8, "Activation_function1"),
    "6 convolutions": (lambda: deep(6), (3, 8, 8), 8, ""),
    "20 affine layers": (lambda: fully_connected(20), (100,), 8, ""),
    "means of 2 x 2 and 4 x 4": (lambda: averaging(4), (3, 24, 24), 8, ""),
    "means of 3 x 3": (lambda: averaging(3), (3, 24, 24), 8, "AveragePooling6"),
    "normalisation": (normalising, (1, 16, 16), 8, "BatchNormalization2"),
}
EXACT = [name for name, (*_, inexact) in NETWORKS.items() if not inexact]
SEEDS = range(2)


@cache
def case_of(name: str, seed: int = 0) -> IntegerCase:
    make, shape, n, _ = NETWORKS[name]
    return integer_case(make(), shape, n, seed)


def run(case: IntegerCase, dtype: type = np.float64) -> tuple[nr.Network, list[tuple[str, Any, Array, Array, Array]]]:
    """A copy of the network after a run in dtype, and each layer in order with its x, y and upstream gradient."""
    network = copy.deepcopy(case.network)
    network.set_params({key: value.astype(dtype) for key, value in network.params.items()})
    layers, values = network.layers, list[Array]([case.x.astype(dtype)])
    for layer in layers.values():
        values.append(layer.forward(values[-1]))
    dout: Array = case.cotangent.astype(dtype)
    steps = list[tuple[str, Any, Array, Array, Array]]()
    for (name, layer), x, y in [*zip(layers.items(), values[:-1], values[1:], strict=True)][::-1]:
        steps.insert(0, (name, layer, x, y, dout))
        dout = layer.backward(dout)
    return network, steps


def gradients(network: nr.Network) -> dict[str, Array]:
    return {key: getattr(network.layers[name], f"d{each}") for key, (name, each) in network.owners.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_rounds_nothing_before_the_layer_that_is_named(name: str) -> None:
    """With dropout too, as both copies draw the same numbers."""
    for seed in SEEDS:
        case = case_of(name, seed)
        assert case.inexact_from == NETWORKS[name][3]
        (wide, steps), (narrow, narrow_steps) = run(case), run(case, np.float32)
        for (layer, _, _, y, dout), (*_, narrow_y, narrow_dout) in zip(steps, narrow_steps, strict=True):
            assert narrow_y.dtype == narrow_dout.dtype == np.float32
            if layer == case.inexact_from:
                break
            assert np.array_equal(y, narrow_y)
            assert case.inexact_from or np.array_equal(dout, narrow_dout)
        else:
            narrow_grads = gradients(narrow)
            assert all(np.array_equal(grad, narrow_grads[key]) for key, grad in gradients(wide).items())


@pytest.mark.parametrize("name", EXACT)
def test_no_order_of_adding_rounds(name: str) -> None:
    """Sums of absolute values, in units of the smallest place used, are integers that float32 holds."""
    unit = 1 / 64 if name.startswith("means") else 1
    for seed in SEEDS:
        for _, layer, x, y, dout in run(case_of(name, seed))[1]:
            assert np.abs(y).max() < 2**16
            for values in (x, y, dout):
                assert np.array_equal(values / unit, np.rint(values / unit))
            assert absolute_sums(layer, x, dout) <= integers._largest_sum(layer, x, dout) < 2**24 * unit


def absolute_sums(layer: Any, x: Array, dout: Array) -> float:
    """The largest sum in the layer's output and gradients if all terms were positive."""
    absolute = copy.copy(layer)
    if not isinstance(layer, nr.Convolution | nr.Affine):
        return float(layer.backward(np.abs(dout)).max())
    absolute.W, absolute.b = np.abs(layer.W), np.abs(layer.b)
    y, dx = absolute.forward(np.abs(x)), absolute.backward(np.abs(dout))
    return float(max(each.max() for each in (y, dx, absolute.dW, absolute.db)))


def test_absolute_sums_of_one_place_are_bounded_by_each_term() -> None:
    """Layers in which each of the sums, in turn, is the largest."""
    rng = np.random.default_rng(0)
    many, one = np.ones((40, 3)), np.ones((1, 3))
    for x, W, dout in (
        (5 * np.ones((1, 50)), np.ones((50, 3)), one),
        (np.ones((1, 3)), np.ones((3, 50)), 5 * np.ones((1, 50))),
        (5 * np.ones((40, 2)), np.ones((2, 3)), many),
        (np.zeros((40, 2)), np.ones((2, 3)), many),
    ):
        layer: Any = nr.Affine(W, rng.integers(-3, 4, W.shape[1]).astype(float))
        assert (
            absolute_sums(layer, x, dout) <= integers._largest_sum(layer, x, dout) <= 3 * absolute_sums(layer, x, dout)
        )
    layer = nr.Convolution(np.ones((8, 1, 3, 3)), np.zeros(8), 1, 1)
    x, dout = np.zeros((1, 1, 5, 5)), np.full((1, 8, 5, 5), 5.0)
    assert absolute_sums(layer, x, dout) == 360 == integers._largest_sum(layer, x, dout)
    overlapping = nr.Pooling(3, 3, 1)
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 2, 2] = 1
    dout = np.ones_like(overlapping.forward(x))
    assert absolute_sums(overlapping, x, dout) == 9 == integers._largest_sum(overlapping, x, dout)


def blurred() -> nr.Network:
    means = [nr.AveragePooling(16, 16, 1, 8) for _ in range(3)]
    return chain(convolution(4, 3), nr.Relu(), *means, affine(4 * 19 * 19, 5))


@pytest.mark.parametrize(("make", "shape"), [(lambda: fully_connected(60), (100,)), (blurred, (3, 16, 16))])
def test_sums_that_are_too_large_are_not_called_exact(make: Callable[[], nr.Network], shape: tuple[int, ...]) -> None:
    case = integer_case(make(), shape, 8, 0)
    assert case.inexact_from == next(iter(case.network.layers))
    (wide, _), (narrow, _) = run(case), run(case, np.float32)
    assert any(not np.array_equal(grad, gradients(narrow)[key]) for key, grad in gradients(wide).items())


@pytest.mark.parametrize("name", NETWORKS)
def test_zeros_and_ties_are_seen(name: str, request: pytest.FixtureRequest, shown: list[str]) -> None:
    for seed in SEEDS:
        case = case_of(name, seed)
        zeros, seen_shares = dict[str, float](), dict[str, float]()
        undropped = copy.deepcopy(case.network)
        for layer in undropped.layers.values():
            if isinstance(layer, nr.Dropout):
                layer.dropout_ratio = 0
        for key, layer, x, y, dout in run(case._replace(network=undropped))[1]:
            if isinstance(layer, nr.Relu):
                zeros[key], seen_shares[key] = np.mean(x == 0), np.mean((x == 0) & (dout != 0))
                assert x.std() > 0.5  # the signal is alive
            if isinstance(layer, nr.Pooling):
                seen_shares[key] = np.mean(positive_ties(layer, x, y) & (dout != 0))
        assert case.zeros == pytest.approx(seen_shares)
        assert min(seen_shares.values(), default=1) >= 0.01
        assert all(share > 0.1 for share in zeros.values())
        if request.config.getoption("--table") and not seed:
            shown += [f"{name}: zeros before relus, and those seen; windows with a seen tie"] if seen_shares else []
            shares = {key: f"{zeros[key]:.1%}" if key in zeros else "" for key in seen_shares}
            shown += [f"    {key:22}{shares[key]:>7}{share:7.1%}" for key, share in seen_shares.items()]


def positive_ties(layer: nr.Pooling, x: Array, y: Array) -> Array:
    """Windows (N, C, OH, OW) whose maximum is above 0 and occurs more than once, found one by one."""
    tied = np.zeros(y.shape, dtype=bool)
    for n, c, i, j in np.ndindex(y.shape):
        top, left = i * layer.stride, j * layer.stride
        window = x[n, c, top : top + layer.pool_h, left : left + layer.pool_w]
        tied[n, c, i, j] = y[n, c, i, j] > 0 and (window == y[n, c, i, j]).sum() > 1
    return tied


class ReluWithAGradientAtZero(nr.Relu):
    def forward(self, x: Array) -> Array:
        y = super().forward(x)
        self.mask = x < 0
        return y


class LastOfTies(nr.Pooling):
    def forward(self, x: Array) -> Array:
        y = super().forward(x)
        windows = self.windows(x, -np.inf)
        self.arg_max = windows.shape[1] - 1 - windows[:, ::-1].argmax(axis=1)
        return y


MISTAKES: dict[type, type] = {nr.Relu: ReluWithAGradientAtZero, nr.Pooling: LastOfTies}


def mistaken(case: IntegerCase) -> Iterator[tuple[str, IntegerCase]]:
    """The case with, one at a time, each of its relus and poolings given another gradient at zeros and ties."""
    for name, layer in case.network.layers.items():
        if type(layer) in MISTAKES:
            network = copy.deepcopy(case.network)
            network.layers[name].__class__ = MISTAKES[type(layer)]
            yield name, case._replace(network=network)


@pytest.mark.parametrize("name", NETWORKS)
def test_another_gradient_at_zeros_and_ties_is_seen_in_the_layer_before(name: str) -> None:
    case = case_of(name)
    steps = run(case)[1]
    for changed, wrong in mistaken(case):
        others = {key: (y, layer.backward(dout)) for key, layer, _, y, dout in run(wrong)[1] if key == changed}
        y, dx = next((y, layer.backward(dout)) for key, layer, _, y, dout in steps if key == changed)
        assert np.array_equal(others[changed][0], y)
        assert not np.array_equal(others[changed][1], dx)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("factor", [2.0**12, 2.0**-30])
def test_scaling_is_exact(name: str, factor: float) -> None:
    case = case_of(name)
    assert homogeneous(case.network)
    larger = scaled(case, factor)
    for dtype in (np.float64, np.float32):
        (network, steps), (other, other_steps) = run(case, dtype), run(larger, dtype)
        for (_, _, _, y, dout), (_, _, _, other_y, other_dout) in zip(steps, other_steps, strict=True):
            assert np.array_equal(y * factor, other_y)
            assert np.array_equal(dout, other_dout)
        for key, grad in gradients(network).items():
            assert np.array_equal(grad * (factor if key.startswith("W") else 1), gradients(other)[key])
    assert np.array_equal(larger.network.params["b1"], case.network.params["b1"] * factor)
    assert larger.network.params["b1"] is larger.network.layers[0].b


def test_what_is_not_homogeneous() -> None:
    assert [name for name, (make, *_) in NETWORKS.items() if not homogeneous(make())] == [
        "LeNet5",
        "LeNet5, averaged",
        "AlexNet, a quarter",
        "ThreeLayerNet",
        "normalisation",
    ]


def test_a_case_is_its_seeds() -> None:
    first, again, other = (integer_case(nr.SimpleConvNet(), (1, 28, 28), 8, seed) for seed in (5, 5, 6))
    for key, value in first.network.params.items():
        assert np.array_equal(value, again.network.params[key])
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.cotangent, again.cotangent)
    assert not np.array_equal(first.x, other.x)
    assert not np.array_equal(first.network.params["W1"], other.network.params["W1"])


@pytest.mark.parametrize("stream", [None, np.random.RandomState(3)], ids=["global stream", "own stream"])
def test_the_reference_is_left_as_it_was(stream: np.random.RandomState | None) -> None:
    network = nr.MultiLayerNetExtend(20, [16, 16], 4, use_dropout=True, use_batchnorm=True, rng=stream)
    network.gradient(np.ones((4, 20)), np.arange(4))
    source: Any = random_stream(stream)
    held = [(layer, *item) for layer in network.layers.values() for item in vars(layer).items()]
    copies = [value.copy() if isinstance(value, np.ndarray) else value for *_, value in held]
    state = source.get_state()[1:3]
    case = integer_case(network, (20,), 8, 0)
    run(case)
    assert all(np.array_equal(*each) for each in zip(state, source.get_state()[1:3], strict=True))
    for (layer, key, value), before in zip(held, copies, strict=True):
        assert getattr(layer, key) is value
        assert np.array_equal(value, before) or value is before
    assert all(network.params[key] is not value for key, value in case.network.params.items())


def test_a_copy_keeps_no_batch_but_the_running_statistics() -> None:
    network = nr.Network(
        {"Affine1": affine(6, 4), "Norm": normalization(4), "Relu1": nr.Relu(), "Affine2": affine(4, 3)}
    )
    network.gradient(np.arange(24.0).reshape(4, 6), np.arange(4) % 3)
    case = integer_case(network, (6,), 8, 0)
    for name, layer in case.network.layers.items():
        kept = [key for key, value in vars(layer).items() if isinstance(value, np.ndarray)]
        assert set(kept) <= {"W", "b", "gamma", "beta", "running_mean", "running_var"}, name
    assert np.array_equal(case.network.layers["Norm"].running_mean, network.layers["Norm"].running_mean)


def weights(case: IntegerCase, name: str) -> Array:
    """The layer's weight as a matrix (outputs, inputs)."""
    layer = case.network.layers[name]
    return layer.W.T if isinstance(layer, nr.Affine) else layer.W.reshape(len(layer.W), -1)


def test_the_parameters_are_drawn_as_said() -> None:
    case = case_of("DeepConvNet")
    assert all(np.array_equal(value, np.rint(value)) for value in case.network.params.values())
    assert set(np.unique(case.x)) == {0, 1, 2}
    assert set(np.unique(case.cotangent)) == {-2, -1, 0, 1, 2}
    assert np.all(np.abs(weights(case, "Affine2")) == 1)
    for name, ones in (("Conv3", 4), ("Affine1", 0)):
        used, bias = np.abs(weights(case, name)).sum(axis=1), case.network.layers[name].b
        silent = used == 0
        assert sorted(bias[silent]) == [0] * (len(bias) // 8) + [1] * ones
        assert used[~silent].min() >= 4
        assert abs(weights(case, name).sum()) <= 1
        assert set(np.unique(weights(case, name))) == {-1, 0, 1}
    assert np.abs(weights(case, "Affine1")).sum(axis=0).max() == 1  # none twice before all


def test_biases_bring_the_median_to_0() -> None:
    largest = 0.0
    for _, layer, _, y, _ in run(case_of("6 convolutions"))[1]:
        if isinstance(layer, nr.Convolution):
            assert np.all(np.abs(np.median(y, axis=(0, 2, 3))[layer.W.any(axis=(1, 2, 3))]) <= 0.5)
            largest = max(largest, np.abs(layer.b).max())
    assert largest >= 2  # more than a constant output's


def test_a_normalisation_has_whole_channels_that_are_flat_and_gets_none() -> None:
    case = case_of("normalisation")
    assert np.abs(weights(case, "Convolution1")).sum(axis=1).min() >= 4
    layer = case.network.layers["BatchNormalization2"]
    gamma, beta = layer.gamma.reshape(16, -1), layer.beta.reshape(16, -1)
    assert np.all(gamma == gamma[:, :1])
    assert np.all(beta == beta[:, :1])
    flat = gamma[:, 0] == 0
    assert sorted(beta[flat, 0]) == [0, 0, 1, 1]
    assert layer.running_mean is None


@pytest.mark.parametrize("name", ["LeNet5", "LeNet5, averaged", "ThreeLayerNet"])
def test_what_squashes_is_not_flat(name: str) -> None:
    """Otherwise no gradient would reach the first layers."""
    for key, layer, *_, dout in run(case_of(name))[1]:
        if isinstance(layer, Tanh | nr.Sigmoid):
            slopes = layer.backward(np.ones_like(dout))
            assert slopes.mean() > 0.5 * slopes.max(), key


class Halved(nr.Affine):
    """A layer of a class that integers does not know."""

    def forward(self, x: Array) -> Array:
        return super().forward(x) / 2

    def backward(self, dout: Array) -> Array:
        return super().backward(dout / 2)


def test_a_layer_of_another_class_keeps_its_parameters() -> None:
    own = Halved(np.random.RandomState(0).randn(30, 20), np.full(20, 0.3))
    reference = chain(affine(12, 30), nr.Relu(), own, nr.Relu(), affine(20, 5))
    case = integer_case(reference, (12,), 8, 0)
    assert case.inexact_from == "Halved3"
    assert np.array_equal(case.network.params["W2"], own.W)
    assert np.array_equal(case.network.params["b2"], own.b)
    assert not np.array_equal(case.network.params["W3"], reference.params["W3"])
    assert own.x is None
    assert list(case.zeros) == ["Relu2", "Relu4"]


def test_what_is_held_stays_and_the_rest_is_drawn() -> None:
    reference = fully_connected(4)
    held = {"W2": np.full((100, 100), 0.3), "b2": np.full(100, 0.1)}
    case = integer_case(reference, (100,), 8, 0, held)
    assert case.inexact_from == "Affine3"
    assert all(np.array_equal(case.network.params[key], value) for key, value in held.items())
    assert not np.array_equal(case.network.params["W3"], reference.params["W3"])
    assert list(case.zeros) == ["Relu2", "Relu6"]
    assert case.least_share > 0


@pytest.mark.parametrize(("window", "most"), [(2, 1), (8, 6)])
def test_no_more_draws_than_help(window: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows of 8 x 8, no draw has zeros in one percent of the entries."""
    drawn, draw = list[IntegerCase](), integers._draw_case

    def counted(*args: Any) -> IntegerCase:
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(integers, "_draw_case", counted)
    rows = 16 * (8 // window) ** 2
    reference = chain(convolution(16, 3), nr.Relu(), nr.Pooling(window, window, window), affine(rows, 9))
    for seed in range(4):
        drawn.clear()
        case = integer_case(reference, (3, 8, 8), 8, seed)
        assert 1 <= len(drawn) <= most
        assert min(case.zeros.values()) == max(min(each.zeros.values()) for each in drawn) > 0
