"""The book's scripts of chapters 3 to 8 with their imports changed, and what its networks of chapters 4 to 6 computed.

golden/chapters.npz holds the recorded numbers, keys CASE/ARRAY.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.checks import Array

GOLDEN: dict[str, Array] = dict(np.load(Path(__file__).parent.parent / "golden" / "chapters.npz"))
CASES = sorted({key.split("/")[0] for key in GOLDEN} - {"naive"})


def part(case: str, name: str) -> dict[str, Array]:
    """The arrays CASE/NAME.*, by what follows."""
    start = f"{case}/{name}."
    return {key.removeprefix(start): value for key, value in GOLDEN.items() if key.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_a_network_computes_what_the_books_does(case: str) -> None:
    """From its seed: parameters bit for bit, sums within 1e-12 of the largest entry."""
    arch = json.loads(str(GOLDEN[f"{case}/arch"]))
    make = nr.Chapter4TwoLayerNet if "chapter 4" in arch.get("meaning", "") else getattr(nr, arch["network"])
    np.random.seed(arch["seed"])
    net: nr.Network = make(**arch["arguments"])
    x, t = GOLDEN[f"{case}/x"], GOLDEN[f"{case}/t"]
    params = part(case, "params")
    assert net.params.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(net.params[name], value)
    # In the recorded order: dropout's masks come from the same stream.
    assert_near(net.predict(x), GOLDEN[f"{case}/predict"])
    assert_near(net.loss(x, np.eye(4)[t] if case == "chapter4" else t), GOLDEN[f"{case}/loss"])
    assert net.accuracy(x, t) == GOLDEN[f"{case}/accuracy"]
    assert_all_near(net.gradient(x, t), part(case, "grads"))
    optimizer = nr.SGD(0.1)
    for _ in range(5):
        optimizer.update(net.params, net.gradient(x, t))
    assert_all_near(net.params, part(case, "after5sgd"))
    assert_near(net.predict(x), GOLDEN[f"{case}/predict_after"])


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam"])
def test_optimizers_move_plain_numbers_bit_for_bit(name: str) -> None:
    """Chapter 6's comparison: from (-7, 2) down x^2 / 20 + y^2."""
    rates: dict[str, nr.SGD | nr.Momentum | nr.AdaGrad | nr.Adam] = {
        "sgd": nr.SGD(lr=0.95),
        "momentum": nr.Momentum(lr=0.1),
        "adagrad": nr.AdaGrad(lr=1.5),
        "adam": nr.Adam(lr=0.3),
    }
    place, path = {"x": -7.0, "y": 2.0}, []
    for _ in range(30):
        path.append((place["x"], place["y"]))
        rates[name].update(place, {"x": place["x"] / 10.0, "y": 2.0 * place["y"]})
    np.testing.assert_array_equal(path, GOLDEN[f"naive/{name}"])


def assert_near(found: Any, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1.0, np.abs(expected).max()))


def assert_all_near(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert_near(found[name], expected[name])


DATA = """
import numpy as np
np.random.seed(0)
x_train, t_train = np.random.rand(60, 12), np.random.randint(0, 4, 60)
"""

# A reader's scripts, as they look after their imports were changed.
SCRIPTS = {
    "chapter 4, trained numerically": """
from numpy_ref import Chapter4TwoLayerNet as TwoLayerNet
network = TwoLayerNet(input_size=12, hidden_size=3, output_size=4)
t = np.eye(4)[t_train]
first = network.loss(x_train, t)
for i in range(5):
    grad = network.numerical_gradient(x_train[:20], t[:20])
    for key in ('W1', 'b1', 'W2', 'b2'):
        network.params[key] -= 1.0 * grad[key]
assert network.loss(x_train[:20], t[:20]) < first
assert np.allclose(network.predict(x_train).sum(axis=1), 1)
""",
    "chapter 4, gradients of rows": """
from numpy_ref.gradient import numerical_gradient, numerical_gradient_2d, _numerical_gradient_1d
f = lambda x: x[0] * x[1]  # of one row
X = np.array([[3.0, 4.0], [0.0, 2.0], [3.0, 0.0]])
assert np.allclose(numerical_gradient_2d(f, X), X[:, ::-1])
assert np.allclose(numerical_gradient_2d(f, X[0]), _numerical_gradient_1d(f, X[0]))
assert (X == [[3, 4], [0, 2], [3, 0]]).all()
""",
    "chapter 5, apples and oranges": """
from numpy_ref.layers import *
mul_apple, mul_orange, add, mul_tax = MulLayer(), MulLayer(), AddLayer(), MulLayer()
price = mul_tax.forward(add.forward(mul_apple.forward(100, 2), mul_orange.forward(150, 3)), 1.1)
d_all, d_tax = mul_tax.backward(1)
d_apples, d_oranges = add.backward(d_all)
assert (round(price), round(d_tax)) == (715, 650)
assert [round(d, 1) for d in (*mul_apple.backward(d_apples), *mul_orange.backward(d_oranges))] == [2.2, 110, 3.3, 165]
""",
    "chapter 5, a network of one's own": """
from collections import OrderedDict
from numpy_ref.functions import *
from numpy_ref.gradient import numerical_gradient
from numpy_ref.layers import *
from numpy_ref.optimizer import *
from numpy_ref.util import smooth_curve

class TwoLayerNet:
    def __init__(self, input_size, hidden_size, output_size):
        self.params = {'W1': 0.1 * np.random.randn(input_size, hidden_size), 'b1': np.zeros(hidden_size),
                       'W2': 0.1 * np.random.randn(hidden_size, output_size), 'b2': np.zeros(output_size)}
        self.layers = OrderedDict()
        self.layers['Affine1'] = Affine(self.params['W1'], self.params['b1'])
        self.layers['Relu1'] = Relu()
        self.layers['Affine2'] = Affine(self.params['W2'], self.params['b2'])
        self.lastLayer = SoftmaxWithLoss()

    def predict(self, x):
        for layer in self.layers.values():
            x = layer.forward(x)
        return x

    def loss(self, x, t):
        return self.lastLayer.forward(self.predict(x), t)

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.lastLayer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        return {f'{kind}{k}': getattr(self.layers[f'Affine{k}'], f'd{kind}') for k in (1, 2) for kind in 'Wb'}

network, optimizer, losses = TwoLayerNet(12, 8, 4), AdaGrad(lr=0.1), []
grads = network.gradient(x_train, t_train)
slow = numerical_gradient(lambda W: network.loss(x_train, t_train), network.params['W2'])
assert np.abs(grads['W2'] - slow).mean() < 1e-7
for i in range(50):
    optimizer.update(network.params, network.gradient(x_train, t_train))
    losses.append(network.loss(x_train, t_train))
assert losses[-1] < 0.9 * losses[0] and smooth_curve(losses).shape == (50,)
""",
    "chapter 6, weight decay and a search": """
from numpy_ref.multi_layer_net import MultiLayerNet
from numpy_ref.optimizer import SGD
from numpy_ref.trainer import Trainer
from numpy_ref.util import shuffle_dataset
x_train, t_train = shuffle_dataset(x_train, t_train)
network = MultiLayerNet(input_size=12, hidden_size_list=[10, 10], output_size=4, weight_decay_lambda=0.1)
optimizer = SGD(lr=0.01)
for i in range(3):
    optimizer.update(network.params, network.gradient(x_train, t_train))
trainer = Trainer(network, x_train, t_train, x_train, t_train, epochs=2, mini_batch_size=20,
                  optimizer='sgd', optimizer_param={'lr': 10 ** np.random.uniform(-6, -2)}, verbose=False)
trainer.train()
assert len(trainer.test_acc_list) == 2
""",
    "chapter 6, batch normalisation and dropout": """
from numpy_ref.multi_layer_net_extend import MultiLayerNetExtend
from numpy_ref.optimizer import SGD, Adam
from numpy_ref.trainer import Trainer
bn_network = MultiLayerNetExtend(input_size=12, hidden_size_list=[10] * 5, output_size=4, weight_init_std=0.1,
                                 use_batchnorm=True)
network = MultiLayerNetExtend(input_size=12, hidden_size_list=[10] * 5, output_size=4, weight_init_std=0.1)
optimizer = SGD(lr=0.01)
for i in range(3):
    for _network in (bn_network, network):
        optimizer.update(_network.params, _network.gradient(x_train, t_train))
        _network.accuracy(x_train, t_train)
network = MultiLayerNetExtend(input_size=12, hidden_size_list=[10] * 5, output_size=4, use_dropout=True,
                              dropout_ration=0.2)
Trainer(network, x_train, t_train, x_train, t_train, epochs=1, mini_batch_size=20, verbose=False).train()
""",
    "chapter 7, the gradient check, a filter, training": """
from numpy_ref.layers import Convolution, Relu
from numpy_ref.simple_convnet import SimpleConvNet
from numpy_ref.trainer import Trainer
np.random.seed(0)  # of other starts, some lie nearer to a kink of relu than the differences' step
network = SimpleConvNet(input_dim=(1, 10, 10), conv_param={'filter_num': 10, 'filter_size': 3, 'pad': 0, 'stride': 1},
                        hidden_size=10, output_size=10, weight_init_std=0.01)
X, T = np.random.rand(100).reshape((1, 1, 10, 10)), np.array([1]).reshape((1, 1))
grad_num, grad = network.numerical_gradient(X, T), network.gradient(X, T)
for key, val in grad_num.items():
    assert np.abs(grad_num[key] - grad[key]).mean() < 1e-5, key
out = Convolution(network.params['W1'][0].reshape(1, 1, 3, 3), 0).forward(np.random.rand(1, 1, 25, 20))
assert Relu().forward(out).shape == (1, 1, 23, 18)
data = np.random.rand(40, 1, 10, 10), np.random.randint(0, 10, 40)
trainer = Trainer(network, *data, *data, epochs=2, mini_batch_size=20, optimizer='Adam',
                  optimizer_param={'lr': 0.001}, evaluate_sample_num_per_epoch=10, verbose=False)
trainer.train()
assert len(trainer.train_loss_list) == 4 and len(trainer.test_acc_list) == 2
network.save_params("params.pkl")
network.load_params("params.pkl")
""",
    "chapter 8, half precision": """
from numpy_ref.deep_convnet import DeepConvNet
network = DeepConvNet()
x = np.random.rand(5, 1, 28, 28)
y = network.predict(x, train_flg=False)
for param in network.params.values():
    param[...] = param.astype(np.float16)
assert np.abs(network.predict(x.astype(np.float16)) - y).max() < 0.1
assert network.layers[0].W is network.params['W1'] and network.layers[15].b is network.params['b7']
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_book_runs_after_its_imports_are_changed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(DATA + SCRIPTS[name], {"__name__": "__main__"})
    assert capfd.readouterr() == ("", "")
