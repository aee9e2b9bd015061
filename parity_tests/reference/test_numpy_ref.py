"""What numpy_ref promises beside the recorded numbers: the book's names, its mended faults, and clear refusals."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from reference.crafted import peak_of

# What a script of the book imports from common.X, or from a chapter's folder: here from numpy_ref.X.
NAMES = {
    "functions": "identity_function step_function sigmoid sigmoid_grad relu relu_grad softmax sum_squared_error "
    "mean_squared_error cross_entropy_error softmax_loss",
    "gradient": "numerical_gradient numerical_gradient_2d",
    "util": "conv_output_size im2col col2im shuffle_dataset smooth_curve",
    "layers": "Relu Sigmoid Affine SoftmaxWithLoss Dropout BatchNormalization Convolution Pooling MulLayer AddLayer "
    # which come along with a star import
    "sigmoid softmax cross_entropy_error im2col col2im",
    "optimizer": "SGD Momentum Nesterov AdaGrad RMSprop Adam",
    "trainer": "Trainer",
    "multi_layer_net": "TwoLayerNet MultiLayerNet",
    "multi_layer_net_extend": "MultiLayerNetExtend",
    "simple_convnet": "SimpleConvNet",
    "deep_convnet": "DeepConvNet",
    "network": "Network",
    "params": "read_params write_params ParamsError",
}

# The book's parameter names, in the book's order; ours may follow.
PARAMETERS = {
    "im2col": "input_data filter_h filter_w stride pad",
    "col2im": "col input_shape filter_h filter_w stride pad",
    "Affine": "W b",
    "Dropout": "dropout_ratio",
    "BatchNormalization": "gamma beta momentum running_mean running_var",
    "Convolution": "W b stride pad",
    "Pooling": "pool_h pool_w stride pad",
    "Nesterov": "lr momentum",
    "RMSprop": "lr decay_rate",
    "Adam": "lr beta1 beta2",
    "SimpleConvNet": "input_dim conv_param hidden_size output_size weight_init_std",
    "TwoLayerNet": "input_size hidden_size output_size weight_init_std",
    "Chapter4TwoLayerNet": "input_size hidden_size output_size weight_init_std",
    "MultiLayerNet": "input_size hidden_size_list output_size activation weight_init_std weight_decay_lambda",
    "MultiLayerNetExtend": "input_size hidden_size_list output_size activation weight_init_std weight_decay_lambda "
    "use_dropout dropout_ration use_batchnorm",
    "Trainer": "network x_train t_train x_test t_test epochs mini_batch_size optimizer optimizer_param "
    "evaluate_sample_num_per_epoch verbose",
}


@pytest.mark.parametrize("module", NAMES)
def test_the_books_names_are_there(module: str) -> None:
    found = importlib.import_module(f"numpy_ref.{module}")
    for name in NAMES[module].split():
        assert getattr(found, name) is getattr(nr, name)


def test_no_module_hides_a_name() -> None:
    modules = {found.name for found in pkgutil.iter_modules(nr.__path__)}
    assert not modules & {name for names in NAMES.values() for name in names.split()}
    assert NAMES.keys() <= modules


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_books_parameters_come_first(name: str) -> None:
    expected = PARAMETERS[name].split()
    assert list(inspect.signature(getattr(nr, name)).parameters)[: len(expected)] == expected


def test_importing_numpy_ref_needs_numpy_only() -> None:
    code = (
        "import sys, numpy_ref; print({'torch', 'matplotlib', 'torchvision', 'torchport', 'tqdm'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_im2col_returns_a_copy_of_its_own() -> None:
    x = np.zeros((1, 1, 3, 3))
    nr.im2col(x, 1, 1)[...] = 1
    assert not x.any()


def test_padding_never_wins_the_maximum_of_whole_numbers() -> None:
    """Which have no -inf; layers/test_geometries.py has floats."""
    assert (nr.Pooling(2, 2, 2, 1).forward(np.full((1, 1, 4, 4), -5)) == -5).all()


def test_accuracy_counts_every_sample() -> None:
    net = small_network()
    x = np.random.RandomState(0).randn(7, 1, 6, 6)
    right = net.predict(x).argmax(axis=1)
    t = right.copy()
    t[-1] = (t[-1] + 1) % 3
    for batch_size in (1, 2, 3, 7, 100):
        assert net.accuracy(x, t, batch_size) == 6 / 7
    assert net.accuracy(x, np.eye(3)[t]) == 6 / 7


def small_network(**options: Any) -> nr.SimpleConvNet:
    conv_param = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
    rng = np.random.RandomState(4)
    return nr.SimpleConvNet((1, 6, 6), conv_param, 5, 3, **{"weight_init_std": 0.5, "rng": rng, **options})


@pytest.mark.parametrize(("train_size", "batch", "steps"), [(40, 20, 2), (41, 20, 3), (39, 20, 2), (5, 20, 1)])
def test_an_epoch_is_a_whole_number_of_steps(train_size: int, batch: int, steps: int) -> None:
    x, t = np.random.RandomState(0).randn(train_size, 1, 6, 6), np.zeros(train_size, int)
    trainer = nr.Trainer(small_network(), x, t, x, t, epochs=3, mini_batch_size=batch)
    trainer.train()
    assert len(trainer.train_loss_list) == 3 * steps
    assert len(trainer.train_acc_list) == len(trainer.test_acc_list) == 3
    assert trainer.final_test_acc == trainer.network.accuracy(x, t)


class Counted:
    """Stands in for a network: its loss falls by as much as its weight, its accuracy is the share of ones in t."""

    def __init__(self) -> None:
        self.params = {"W": np.ones(1)}

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        return {"W": np.ones(1)}

    def loss(self, x: Array, t: Array) -> float:
        return float(self.params["W"][0])

    def accuracy(self, x: Array, t: Array) -> float:
        return float(np.mean(t))


def test_a_verbose_trainer_prints_every_step_and_both_accuracies(capsys: pytest.CaptureFixture[str]) -> None:
    x, t_train, t_test = np.zeros((4, 1)), np.array([1, 0, 0, 0]), np.array([1, 1, 0, 1])
    network: Any = Counted()
    sizes: dict[str, Any] = {"epochs": 2, "mini_batch_size": 2, "evaluate_sample_num_per_epoch": 3}
    nr.Trainer(network, x, t_train, x, t_test, **sizes).train()
    assert capsys.readouterr().out.splitlines() == [
        "train loss:0.99",
        "=== epoch:1, train acc:0.3333333333333333, test acc:0.6666666666666666 ===",
        "train loss:0.98",
        "train loss:0.97",
        "=== epoch:2, train acc:0.3333333333333333, test acc:0.6666666666666666 ===",
        "train loss:0.96",
        "=============== Final Test Accuracy ===============",
        "test acc:0.75",  # of all samples
    ]


def test_a_trainer_without_options_has_the_books_learning_rate() -> None:
    """Which is not Adam's own default."""
    x, t = np.zeros((2, 1)), np.zeros(2, int)
    network: Any = Counted()
    assert nr.Trainer(network, x, t, x, t, optimizer="Adam").optimizer.lr == 0.01
    assert nr.Trainer(network, x, t, x, t, optimizer="Adam", optimizer_param={}).optimizer.lr == 0.001


def test_nothing_else_is_printed_or_logged(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[object] = []
    monkeypatch.setattr(logging.Logger, "_log", lambda _, level, *args, **options: logged.append(args))
    x, t = np.random.RandomState(0).randn(4, 1, 6, 6), np.zeros(4, int)
    nr.Trainer(small_network(), x, t, x, t, epochs=1, mini_batch_size=4, verbose=False).train()
    assert capsys.readouterr() == ("", "")
    nr.Trainer(small_network(), x, t, x, t, epochs=1, mini_batch_size=4).train()
    assert not logged


def test_rng_none_is_numpys_global_stream() -> None:
    np.random.seed(11)
    first = nr.SimpleConvNet(), nr.Dropout().forward(np.ones((3, 4))), nr.shuffle_dataset(np.arange(9), np.arange(9))
    rng = np.random.RandomState(11)
    second = (
        nr.SimpleConvNet(rng=rng),
        nr.Dropout(rng=rng).forward(np.ones((3, 4))),
        nr.shuffle_dataset(np.arange(9), np.arange(9), rng),
    )
    assert all(np.array_equal(first[0].params[name], second[0].params[name]) for name in first[0].params)
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[2], second[2])
    with pytest.raises(TypeError, match="Generator"):
        nr.SimpleConvNet(rng=np.random.default_rng())  # type: ignore[arg-type]


# Each with the shape of a sample.
LARGE: dict[str, tuple[Callable[[], nr.Network], tuple[int, ...]]] = {
    "SimpleConvNet": (nr.SimpleConvNet, (1, 28, 28)),
    "DeepConvNet": (lambda: nr.DeepConvNet((1, 12, 12)), (1, 12, 12)),
    "MultiLayerNetExtend": (lambda: nr.MultiLayerNetExtend(784, [100], 10, use_batchnorm=True), (784,)),
}


@pytest.mark.parametrize(
    ("network", "ask"), [("SimpleConvNet", "predict"), ("DeepConvNet", "loss"), ("MultiLayerNetExtend", "accuracy")]
)
def test_memory_does_not_grow_with_the_samples(network: str, ask: str) -> None:
    """Beyond the data: the original's predict takes 7.6 GB for 10,000 images."""
    make, shape = LARGE[network]
    net, x, t = make(), np.zeros((1200, *shape), np.float32), np.zeros(1200, int)
    given = (x,) if ask == "predict" else (x, t)
    peaks = [peak_of(partial(getattr(net, ask), *(each[:n] for each in given))) for n in (600, 1200)]
    assert max(peaks) < 0.3e9
    assert peaks[1] - peaks[0] < 600 * 10 * 8 * 3  # outputs, and what they are joined from


@pytest.mark.parametrize("ask", ["predict", "outputs", "accuracy", "large loss"])
def test_layers_keep_nothing_of_what_is_asked_of_a_network(ask: str) -> None:
    net, x, t = small_network(), np.random.RandomState(0).randn(501, 1, 6, 6), np.arange(501) % 3
    before = {name: dict(vars(layer)) for name, layer in net.layers.items()}
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: net.predict(x),
        "outputs": lambda: net.outputs(x),
        "accuracy": lambda: net.accuracy(x, t),
        "large loss": lambda: net.loss(x, t),
    }
    calls[ask]()
    assert all(vars(layer) == before[name] for name, layer in net.layers.items())


def test_a_loss_keeps_what_a_readers_own_gradient_needs_up_to_500_samples() -> None:
    net, x, t = small_network(), np.random.RandomState(0).randn(501, 1, 6, 6), np.arange(501) % 3
    net.loss(x[:500], t[:500])
    dout = net.last_layer.backward(1)
    for layer in reversed(list(net.layers.values())):
        dout = layer.backward(dout)
    expected = net.gradient(x[:500], t[:500])
    np.testing.assert_array_equal(net.layers["Conv1"].dW, expected["W1"])
    large = net.loss(x, t)
    layers: list[Any] = [net.last_layer, *net.layers.values()]
    for backward in (layer.backward for layer in layers):
        with pytest.raises(RuntimeError, match="more than 500 samples, keep nothing for it; gradient does"):
            backward(np.ones(1))
    parts = net.loss(x[:400], t[:400]) * 400 + net.loss(x[400:], t[400:]) * 101
    np.testing.assert_allclose(large, parts / 501, rtol=1e-14)
    assert net.gradient(x, t).keys() == expected.keys()  # of any number


def test_a_loss_in_training_normalises_over_all_samples() -> None:
    net = nr.MultiLayerNetExtend(5, [4], 3, weight_init_std=1.0, use_batchnorm=True)
    x, t = np.random.RandomState(0).randn(600, 5), np.arange(600) % 3
    expected = net.last_layer.forward(net.predict(x, train_flg=True), t)
    np.testing.assert_array_equal(net.loss(x, t, train_flg=True), expected)


def test_a_convolution_keeps_what_the_books_keeps() -> None:
    net, x = small_network(), np.random.RandomState(0).randn(4, 1, 6, 6)
    net.gradient(x, np.zeros(4, int))
    conv, pool, affine = (net.layers[name] for name in ("Conv1", "Pool1", "Affine1"))
    assert conv.x is x
    np.testing.assert_array_equal(conv.col, nr.im2col(x, 3, 3))
    np.testing.assert_array_equal(conv.col_W, net.params["W1"].reshape(2, -1).T)
    assert pool.x.shape == (4, 2, 4, 4)
    assert pool.arg_max.shape == (4 * 2 * 2 * 2,)
    np.testing.assert_array_equal(affine.x, pool.forward(pool.x).reshape(4, -1))


def test_layers_are_found_by_name_and_by_position() -> None:
    net = nr.DeepConvNet()
    by_position = [net.layers[number] for number in range(len(net.layers))]
    assert by_position == list(net.layers.values())
    assert net.layers[-1] is net.layers["Dropout2"]
    # The layers with weights, as the book's load_params counts them.
    kinds = [type(net.layers[number]) for number in (0, 2, 5, 7, 10, 12, 15, 18)]
    assert kinds == [nr.Convolution] * 6 + [nr.Affine] * 2
    with pytest.raises(KeyError):
        net.layers["Conv9"]


def test_predict_in_chunks_is_predict_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small_network(), np.random.RandomState(0).randn(10, 1, 6, 6)
    whole = net.predict(x)
    monkeypatch.setattr("numpy_ref.network.CHUNK", 3)
    np.testing.assert_allclose(net.predict(x), whole, rtol=0, atol=1e-14)


# Each with arguments that make it small.
NETWORKS: dict[str, Callable[..., nr.Network]] = {
    "SimpleConvNet": lambda **options: small_network(**options),
    "DeepConvNet": partial(nr.DeepConvNet, (1, 4, 4), hidden_size=3),
    "TwoLayerNet": partial(nr.TwoLayerNet, 5, 4, 3),
    "Chapter4TwoLayerNet": partial(nr.Chapter4TwoLayerNet, 5, 4, 3),
    "ThreeLayerNet": partial(nr.ThreeLayerNet, 5, (4, 4), 3),
    "MultiLayerNet": partial(nr.MultiLayerNet, 5, [4, 4], 3),
    "MultiLayerNetExtend": partial(nr.MultiLayerNetExtend, 5, [4, 4], 3, use_batchnorm=True),
    "LeNet5": partial(nr.LeNet5, (1, 12, 12), 3),
    "AlexNet": partial(nr.AlexNet, (1, 67, 67), 3, 1 / 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_given_parameters_are_taken_and_nothing_is_drawn(name: str) -> None:
    params, rng = NETWORKS[name](rng=np.random.RandomState(1)).params, np.random.RandomState(2)
    net = NETWORKS[name](rng=rng, params=params)
    assert all(net.params[key] is value for key, value in params.items())
    assert rng.rand() == np.random.RandomState(2).rand()
    assert list(net.params) == list(params)
    with pytest.raises(ValueError, match=r"missing \['b2'\]"):
        NETWORKS[name](params={key: value for key, value in params.items() if key != "b2"})
    with pytest.raises(ValueError, match=r"W1 is .* expected"):
        NETWORKS[name](params={**params, "W1": params["W1"][:1]})
    with pytest.raises(TypeError, match="parameter b1 must be floating point, got dtype int64"):
        NETWORKS[name](params={**params, "b1": params["b1"].astype(np.int64)})


def test_a_network_of_ones_own() -> None:
    """Any layers, named parameters, and gradients that central differences confirm."""
    rng = np.random.RandomState(6)
    layers: dict[str, Layer] = {
        "Conv1": nr.Convolution(0.3 * rng.randn(3, 1, 3, 3), rng.randn(3), pad=1),
        "Sigmoid1": nr.Sigmoid(),
        "Pool1": nr.AveragePooling(2, 2),
        "Affine1": nr.Affine(0.3 * rng.randn(27, 6), rng.randn(6)),
        "BatchNorm1": nr.BatchNormalization(rng.rand(6), rng.randn(6)),
        "Relu1": nr.Relu(),
        "Dropout1": nr.Dropout(0.0),
        "Affine2": nr.Affine(0.3 * rng.randn(6, 4), rng.randn(4)),
    }
    net = nr.Network(layers)
    assert list(net.params) == ["W1", "b1", "W2", "b2", "gamma1", "beta1", "W3", "b3"]
    x, t = rng.randn(30, 1, 6, 6), rng.randint(0, 4, 30)
    grads, expected = net.gradient(x, t), net.numerical_gradient(x, t)
    for name, grad in grads.items():
        # Truncation: h^2 = 1e-8 times a third derivative, which batch normalisation makes large.
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-5)
    # Prediction uses the running statistics, training the batch's own.
    assert not np.allclose(net.predict(x[:5]), net.predict(x[:5], train_flg=True))


def test_numerical_gradient_puts_x_back_also_when_f_raises() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    calls = []

    def f(x: Array) -> float:
        calls.append(1)
        if len(calls) > 3:
            raise OverflowError
        return float(np.sum(x))

    with pytest.raises(OverflowError):
        nr.numerical_gradient(f, x)
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])


def test_smooth_curve_is_the_books_formula() -> None:
    """On a curve without symmetry: 10 mirrored samples a side, of which the book drops 5."""
    x = np.arange(25.0) ** 2
    mirrored = [*x[10:0:-1], *x, *x[:14:-1]]
    weights = np.kaiser(11, 2)
    smooth = [np.dot(weights, mirrored[i : i + 11]) / weights.sum() for i in range(len(mirrored) - 10)]
    # Each value is a sum of 11 terms, in another order here.
    np.testing.assert_allclose(nr.smooth_curve(x), smooth[5:-5], rtol=1e-14)


@pytest.mark.parametrize(("dtype", "expected"), [("uint8", 5000.0), ("int8", 5000.0), ("bool", 0.5)])
def test_sum_squared_error_of_whole_numbers_does_not_wrap(dtype: str, expected: float) -> None:
    assert nr.sum_squared_error(np.array([0]).astype(dtype), np.array([100]).astype(dtype)) == expected


def test_sum_squared_error_keeps_the_precision_of_floats() -> None:
    y, t = np.array([0.1, 0.7], np.float32), np.array([1, 0], np.uint8)
    assert nr.sum_squared_error(y, t) == np.float64(0.5 * np.sum((y - t) ** 2))


@pytest.mark.parametrize("t", [[1, 2], np.array([[1], [2]]), np.array([[0, 1, 0], [0, 0, 1]])], ids=str)
def test_the_loss_remembers_its_labels(t: Any) -> None:
    layer, x = nr.SoftmaxWithLoss(), np.array([[0.1, 0.2, 0.3], [3, 2, 1]])
    layer.forward(x, t)
    assert layer.t is t
    expected = (nr.softmax(x) - np.eye(3)[[1, 2]]) / 2
    np.testing.assert_allclose(layer.backward(), expected, rtol=1e-15)
    np.testing.assert_allclose(layer.backward(dout=3), 3 * expected, rtol=1e-15)
