"""Draws networks and batches of small integers, exact in float32, with zeros before relu and ties in pooling."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from math import ceil, log2, prod
from typing import Any, NamedTuple

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.classic_layers import Subsampling, Tanh
from numpy_ref.network import PARAMETERS, Network

LINEAR = (nr.Convolution, nr.Affine, Subsampling)
HOMOGENEOUS = (nr.Convolution, nr.Affine, nr.Relu, nr.Pooling, nr.AveragePooling, nr.Flatten, nr.Dropout)

DRAWS, ENOUGH = 12, 0.01  # of so many draws the first with that share of zeros and ties in every layer is taken
FEWEST = 4  # non-zero weights of an output: with two, signals die out in a deep network
LOUD = 32  # inputs above it come from several convolutions; the next one must not let values grow further
EXACT = 2.0**24  # float32 holds all integers up to it


class IntegerCase(NamedTuple):
    """A network, an input and a cotangent on which zeros and ties are judged.

    Outputs of the layers before inexact_from are exact in float32 in any order of addition; if it is "", so are all
    outputs and gradients.
    """

    network: Network
    x: Array  # (N, ...), 0 to 2
    cotangent: Array  # (N, C), -2 to 2
    zeros: dict[str, float]  # by layer, the share of a relu's zeros or a pooling's positive ties that get a gradient
    inexact_from: str = ""

    @property
    def least_share(self) -> float:
        """The smallest of the shares in zeros."""
        return min(self.zeros.values(), default=1.0)


def integer_case(
    reference: Network, sample_shape: tuple[int, ...], n: int, seed: int, held: Mapping[str, Array] | None = None
) -> IntegerCase:
    """A case for reference on n > 1 samples; layers of classes not known here keep their own parameters.

    held are parameters, all those of some layers, that stay as they are.
    """
    rng, best = np.random.default_rng([seed, 3]), None
    reference = _with_params(reference, {**reference.params, **(held or {})})
    kept = {reference.owners[key][0] for key in held or {}}
    for _ in range(DRAWS):
        case, best_share = _draw_case(reference, (n, *sample_shape), rng, kept), best.least_share if best else -1.0
        best = case if case.least_share >= best_share else best  # keeping only one saves memory
        # Large windows let few ties through: then draw only until there is no further gain.
        if case.least_share >= ENOUGH or 0 < case.least_share <= best_share:
            break
    assert best is not None
    return best


def homogeneous(network: Network) -> bool:
    """Whether scaling x and all biases by a positive factor scales every value by the same factor."""
    return all(type(layer) in HOMOGENEOUS for layer in network.layers.values())


def scaled(case: IntegerCase, factor: float) -> IntegerCase:
    """The case with x and the biases times factor, a power of two, so that outputs and weights' gradients are too."""
    assert homogeneous(case.network)
    params = {key: value * (factor if key.startswith("b") else 1) for key, value in case.network.params.items()}
    return case._replace(network=_with_params(case.network, params), x=case.x * factor)


def _with_params(network: Network, params: Mapping[str, Array]) -> Network:
    """A copy of network with these parameters and a random generator of its own, without cached values."""
    cached = [getattr(layer, name) for layer in network.layers.values() for name in getattr(layer, "KEPT", ())]
    cached += [getattr(network.layers[name], f"d{attribute}", None) for name, attribute in network.owners.values()]
    memo: dict[int, Any] = dict.fromkeys(map(id, cached))
    memo |= {id(value): value for value in network.params.values()}
    twin = copy.deepcopy(network, {**memo, id(np.random): np.random.RandomState(0)})
    for key, (name, attribute) in network.owners.items():
        twin.params[key] = params[key]
        setattr(twin.layers[name], attribute, params[key])
    return twin


def _draw_case(
    reference: Network, shape: tuple[int, ...], rng: np.random.Generator, kept: Collection[str] = ()
) -> IntegerCase:
    """Draw a case layer by layer, with dropout keeping everything: if it drops some, sums of absolute terms shrink.

    Layers named in kept keep their parameters.
    """
    network, x = _with_params(reference, reference.params), rng.integers(0, 3, shape).astype(np.float64)
    values, blind = _draw_layers(network, x, rng, kept)
    layers = [*network.layers.values()]
    dout = cotangent = rng.integers(-2, 3, values[-1].shape).astype(np.float64)
    zeros, sums = dict[str, float](), list[float]()
    for name, layer, x, y in [*zip(network.layers, layers, values[:-1], values[1:], strict=True)][::-1]:
        if type(layer) in (nr.Relu, nr.Pooling) and name not in blind:
            zeros = {name: _seen_share(layer, x, y, dout), **zeros}
        sums.insert(0, _largest_sum(layer, x, dout))
        dout = layer.backward(dout) if len(sums) < len(layers) else dout
    exact = [*takewhile(lambda name: name not in kept and _keeps_integers(network.layers[name]), network.layers)]
    divisor = prod(_divisor(network.layers[name]) for name in exact)
    too_large = max(sums[: len(exact)], default=0) * divisor > EXACT
    inexact_from: str = [*network.layers, ""][0 if too_large else len(exact)]
    params = {key: getattr(network.layers[name], attribute) for key, (name, attribute) in network.owners.items()}
    return IntegerCase(_with_params(reference, params), values[0], cotangent, zeros, inexact_from)


def _draw_layers(
    network: Network, x: Array, rng: np.random.Generator, kept: Collection[str]
) -> tuple[list[Array], set[str]]:
    """Draw the parameters of all layers but kept; return x and each layer's output, and the layers without exact zeros.

    Those are kept, and what follows up to the next layer that is drawn.
    """
    values, blind, is_blind, layers = [x], set[str](), False, [*network.layers.values()]
    drawn = dict[int, Array]()  # by the id of the reference's array, which several layers may share
    for index, (name, layer) in enumerate(network.layers.items(), 1):
        is_blind = name in kept or (is_blind and type(layer) not in LINEAR)
        blind |= {name} if is_blind else set()
        is_drawn, later = name in kept or _share(layer, drawn), [type(each) for each in layers[index:]]
        ids = {attribute: id(value) for attribute, value in _parameters_of(layer).items()}
        y = layer.forward(values[-1]) if is_drawn else _draw_layer(layer, values[-1], later, rng)
        drawn |= {ids[attribute]: value for attribute, value in _parameters_of(layer).items()}
        values.append(np.asarray(y))
    return values, blind


def _parameters_of(layer: Any) -> dict[str, Array]:
    return {attribute: getattr(layer, attribute) for attribute in PARAMETERS if hasattr(layer, attribute)}


def _share(layer: Any, drawn: Mapping[int, Array]) -> bool:
    """Give layer the parameters that it shares with earlier layers, if any, and 0 for its others."""
    own = _parameters_of(layer)
    if is_shared := any(id(value) in drawn for value in own.values()):
        vars(layer).update({name: drawn.get(id(value), np.zeros_like(value)) for name, value in own.items()})
    return is_shared


def _draw_layer(layer: Any, x: Array, later: Sequence[type], rng: np.random.Generator) -> Array:
    """Draw the layer's parameters and return its output on x."""
    if type(layer) in LINEAR:
        return _draw_linear(layer, x, later, rng)
    if type(layer) is nr.Dropout:
        layer.mask = np.array(True)
        return x
    if type(layer) is nr.BatchNormalization and np.ndim(layer.gamma):
        gamma, beta = rng.choice([-1.0, 1.0], x.shape[1]), np.zeros(x.shape[1])
        flat = rng.permutation(x.shape[1])[: x.shape[1] // 8 * 2]  # constant channels, half of them 0 and half 1
        gamma[flat], beta[flat[::2]] = 0, 1
        layer.gamma, layer.beta = np.repeat([gamma, beta], x[0, 0].size, axis=1)
    return np.asarray(layer.forward(x))


def _draw_linear(layer: Any, x: Array, later: Sequence[type], rng: np.random.Generator) -> Array:
    """Draw W and b so that an eighth of the outputs is 0, in a convolution another eighth 1, the rest around 0."""
    following, is_conv = [*takewhile(lambda kind: kind not in LINEAR, later)], type(layer) is nr.Convolution
    outputs = layer.W.shape[1 if type(layer) is nr.Affine else 0]
    inputs, is_last = layer.W.size // outputs, len(following) == len(later)
    eighth = 0 if nr.BatchNormalization in following else outputs // 8
    _, ones, live = np.split(rng.permutation(outputs), [eighth, eighth * (2 if is_conv else 1)])
    if is_last:
        W = rng.choice([-1.0, 1.0], (inputs, outputs))
    else:  # deal inputs to outputs like cards, every one once before any again
        count = min(inputs, FEWEST if is_conv and np.abs(x).max() > LOUD else max(FEWEST, inputs // len(live)))
        W, hands = np.zeros((inputs, outputs)), inputs // count
        packs = [rng.permutation(inputs)[: hands * count].reshape(hands, count) for _ in range(0, len(live), hands)]
        chosen = np.concatenate(packs)[: len(live)].T  # (count, live)
        W[chosen, live] = np.resize([1.0, -1.0], chosen.T.shape).T
    layer.W, layer.b = W if type(layer) is nr.Affine else W.T.reshape(layer.W.shape), np.zeros(outputs)
    y = np.asarray(layer.forward(x))
    if {nr.Sigmoid, Tanh} & {*following}:  # they saturate at large values, and no gradient would pass
        layer.W *= (scale := 0.5 ** ceil(log2(max(1.0, y.std()))))
        y *= scale
    layer.b = np.rint(-np.median(y, axis=(0, *range(2, y.ndim)))) + 0.0  # never -0
    layer.b[ones] = 1
    return np.asarray(y + layer.b.reshape(-1, *(1,) * (y.ndim - 2)))


def _seen_share(layer: Any, x: Array, y: Array, dout: Array) -> float:
    """The share of a relu's entries that are 0, or of a pooling's windows with a positive tie, and get a gradient."""
    if type(layer) is nr.Relu:
        return float(np.mean((x == 0) & (dout != 0)))
    largest = layer.per_window(y)
    tied = (layer.windows(x, -np.inf) == largest[:, np.newaxis]).sum(axis=1) > 1
    return float(np.mean(tied & (largest > 0) & (layer.per_window(dout) != 0)))


def _largest_sum(layer: Any, x: Array, dout: Array) -> float:
    """A bound on the sums of absolute terms in the layer's output and gradients, in units of its weights."""
    of_x, of_dout = max(1.0, np.abs(x).max()), np.abs(dout).max()
    if type(layer) not in LINEAR[:2]:
        return float(max(of_x, of_dout) * getattr(layer, "pool_h", 1) * getattr(layer, "pool_w", 1))
    used = (layer.W != 0).reshape(len(layer.W), -1)
    terms = max(used.sum(axis=1).max(), used.sum(axis=0).max() * layer.W[0, 0].size)
    of_weights = of_x * np.abs(dout).sum(axis=(0, *range(2, dout.ndim))).max()
    return float(max(2 * of_x * terms, of_dout * terms, of_weights))  # a bias may be as large as its sum


def _keeps_integers(layer: Any) -> bool:
    """Whether the layer's output on integers, in units of a power of two, is made of integers."""
    return type(layer) in HOMOGENEOUS and log2(_divisor(layer)).is_integer()


def _divisor(layer: Any) -> int:
    return layer.pool_h * layer.pool_w if type(layer) is nr.AveragePooling else 1
