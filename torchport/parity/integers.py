"""Networks and batches of small whole numbers: exact in float32, with zeros before relu and ties in pooling windows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import ceil, log2, prod
from typing import Any, NamedTuple

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.classic_layers import Subsampling, Tanh
from numpy_ref.network import Network

LINEAR = (nr.Convolution, nr.Affine, Subsampling)
HOMOGENEOUS = (nr.Convolution, nr.Affine, nr.Relu, nr.Pooling, nr.AveragePooling, nr.Flatten, nr.Dropout)

DRAWS, ENOUGH = 12, 0.01  # the first draw with that share of seen zeros everywhere is taken
FEWEST = 4  # weights of an output that are not 0: with two, signals die in a deep network
LOUD = 32  # larger values come to a convolution behind several others, which must not go on growing
EXACT = 2.0**24  # float32 has all whole numbers up to it


class IntegerCase(NamedTuple):
    """A network to judge zeros and ties on, and what to give it.

    Outputs of the layers before inexact_from are exact in float32, in whichever order it adds; if "", gradients too.
    """

    network: Network
    x: Array  # (N, ...), 0 to 2
    cotangent: Array  # (N, C), -2 to 2
    zeros: dict[str, float]  # shares that have a gradient: of a relu's entries, zeros; of windows, positive ties
    inexact_from: str = ""

    @property
    def seen(self) -> float:
        """The least of the shares."""
        return min(self.zeros.values(), default=1.0)


def integer_case(reference: Network, sample_shape: tuple[int, ...], n: int, seed: int) -> IntegerCase:
    """Parameters for reference's layers, drawn on n > 1 samples; classes that are not known here keep their own."""
    rng, best = np.random.default_rng([seed, 3]), None
    for _ in range(DRAWS):
        case, most = _drawn(reference, (n, *sample_shape), rng), -1.0 if best is None else best.seen
        best = case if case.seen >= most else best  # no more of them, for memory
        if case.seen >= ENOUGH or 0 < case.seen <= most:  # or large windows let no more through
            break
    assert best is not None
    return best


def homogeneous(network: Network) -> bool:
    """Whether x and the biases, all times a positive factor, make every value that much larger."""
    return all(type(layer) in HOMOGENEOUS for layer in network.layers.values())


def scaled(case: IntegerCase, factor: float) -> IntegerCase:
    """x and biases of a homogeneous network times factor, a power of two: so are outputs and gradients of weights."""
    assert homogeneous(case.network)
    params = {key: value * (factor if key.startswith("b") else 1) for key, value in case.network.params.items()}
    return case._replace(network=_with(case.network, params), x=case.x * factor)


def _with(network: Network, params: Mapping[str, Array]) -> Network:
    """A copy that holds these parameters, and a random stream of its own; not what forward and backward kept."""
    kept = [getattr(layer, name) for layer in network.layers.values() for name in getattr(layer, "KEPT", ())]
    kept += [getattr(network.layers[name], f"d{attribute}", None) for name, attribute in network.owners.values()]
    memo: dict[int, Any] = {id(value): None for value in kept} | {id(value): value for value in network.params.values()}
    found = copy.deepcopy(network, {**memo, id(np.random): np.random.RandomState(0)})
    for key, (name, attribute) in network.owners.items():
        found.params[key] = params[key]
        setattr(found.layers[name], attribute, params[key])
    return found


def _drawn(reference: Network, shape: tuple[int, ...], rng: np.random.Generator) -> IntegerCase:
    """Layer by layer, as though dropout dropped nothing: where it does, sums of absolute terms are smaller."""
    network = _with(reference, reference.params)
    layers, values = [*network.layers.values()], [rng.integers(0, 3, shape).astype(np.float64)]
    for place, layer in enumerate(layers, 1):
        values.append(_filled(layer, values[-1], [type(each) for each in layers[place:]], rng))
    dout = cotangent = rng.integers(-2, 3, values[-1].shape).astype(np.float64)
    zeros, sums = dict[str, float](), list[float]()
    for name, layer, x, y in [*zip(network.layers, layers, values[:-1], values[1:], strict=True)][::-1]:
        if type(layer) in (nr.Relu, nr.Pooling):
            zeros = {name: _seen(layer, x, y, dout), **zeros}
        sums.insert(0, _largest_sum(layer, x, dout))
        dout = layer.backward(dout) if len(sums) < len(layers) else dout
    exact = [*takewhile(lambda each: type(each) in HOMOGENEOUS and log2(_divisor(each)).is_integer(), layers)]
    too_large = max(sums[: len(exact)], default=0) * prod(map(_divisor, exact)) > EXACT
    inexact_from: str = [*network.layers, ""][0 if too_large else len(exact)]
    params = {key: getattr(network.layers[name], attribute) for key, (name, attribute) in network.owners.items()}
    return IntegerCase(_with(reference, params), values[0], cotangent, zeros, inexact_from)


def _filled(layer: Any, x: Array, later: Sequence[type], rng: np.random.Generator) -> Array:
    """What layer makes of x after its parameters were drawn."""
    if type(layer) in LINEAR:
        return _linear(layer, x, later, rng)
    if type(layer) is nr.Dropout:
        layer.mask = np.array(True)
        return x
    if type(layer) is nr.BatchNormalization and np.ndim(layer.gamma):
        gamma, beta = rng.choice([-1.0, 1.0], x.shape[1]), np.zeros(x.shape[1])
        flat = rng.permutation(x.shape[1])[: x.shape[1] // 8 * 2]  # channels that are always 0 or always 1
        gamma[flat], beta[flat[::2]] = 0, 1
        layer.gamma, layer.beta = np.repeat([gamma, beta], x[0, 0].size, axis=1)
    return np.asarray(layer.forward(x))


def _linear(layer: Any, x: Array, later: Sequence[type], rng: np.random.Generator) -> Array:
    """An eighth of the outputs is always 0, in a convolution another one always 1; the others lie around 0."""
    near, conv = [*takewhile(lambda kind: kind not in LINEAR, later)], type(layer) is nr.Convolution
    outputs = layer.W.shape[1 if type(layer) is nr.Affine else 0]
    inputs, last = layer.W.size // outputs, len(near) == len(later)
    eighth = 0 if nr.BatchNormalization in near else outputs // 8
    _, ones, live = np.split(rng.permutation(outputs), [eighth, eighth * (2 if conv else 1)])
    if last:
        W = rng.choice([-1.0, 1.0], (inputs, outputs))
    else:  # every input is dealt once before one is again
        count = min(inputs, FEWEST if conv and np.abs(x).max() > LOUD else max(FEWEST, inputs // len(live)))
        W, hands = np.zeros((inputs, outputs)), inputs // count
        packs = [rng.permutation(inputs)[: hands * count].reshape(hands, count) for _ in range(0, len(live), hands)]
        dealt = np.concatenate(packs)[: len(live)].T  # (count, live)
        W[dealt, live] = np.resize([1.0, -1.0], dealt.T.shape).T
    layer.W, layer.b = W if type(layer) is nr.Affine else W.T.reshape(layer.W.shape), np.zeros(outputs)
    y = np.asarray(layer.forward(x))
    if {nr.Sigmoid, Tanh} & {*near}:  # flat at large values: no gradient would pass
        layer.W *= (scale := 0.5 ** ceil(log2(max(1.0, y.std()))))
        y *= scale
    layer.b = np.rint(-np.median(y, axis=(0, *range(2, y.ndim)))) + 0.0  # never -0
    layer.b[ones] = 1
    return np.asarray(y + layer.b.reshape(-1, *(1,) * (y.ndim - 2)))


def _seen(layer: Any, x: Array, y: Array, dout: Array) -> float:
    if type(layer) is nr.Relu:
        return float(np.mean((x == 0) & (dout != 0)))
    largest = layer.per_window(y)
    tied = (layer.windows(x, -np.inf) == largest[:, np.newaxis]).sum(axis=1) > 1
    return float(np.mean(tied & (largest > 0) & (layer.per_window(dout) != 0)))


def _largest_sum(layer: Any, x: Array, dout: Array) -> float:
    """No sum of absolute terms in the layer's output or gradients is larger, in units of its weights."""
    of_x, of_dout = max(1.0, np.abs(x).max()), np.abs(dout).max()
    if type(layer) not in LINEAR[:2]:
        return float(max(of_x, of_dout) * getattr(layer, "pool_h", 1) * getattr(layer, "pool_w", 1))
    used = (layer.W != 0).reshape(len(layer.W), -1)
    terms = max(used.sum(axis=1).max(), used.sum(axis=0).max() * layer.W[0, 0].size)
    of_weights = of_x * np.abs(dout).sum(axis=(0, *range(2, dout.ndim))).max()
    return float(max(2 * of_x * terms, of_dout * terms, of_weights))  # a bias may be as large as its sum


def _divisor(layer: Any) -> int:
    return layer.pool_h * layer.pool_w if type(layer) is nr.AveragePooling else 1
