"""What is known of each kind of layer, in one record: its torch module, and how far a correct port may be from it.

Limits are derived, never chosen, and every limit has two parts: what a layer adds by rounding, and what it passes on
from the limit of its input. With no limit on the input this judges a layer by itself; chained through a network it
judges the whole (a running error bound). The rules are in sums, selections and smooth; u is the port's unit roundoff
plus the float64 reference's (arithmetic.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport.layers.arithmetic import Arithmetic

# Rules, by the name that a report shows.
EXACT, SUM, EXP, NORMALISE = "exact", "sum", "exp", "normalise"

UNKNOWN = 1e30  # as good as no limit, but products of several are still finite


class Near(NamedTuple):
    """Values of the reference, and how far a correct port's may be from them."""

    value: Array
    limit: Array

    @classmethod
    def within(cls, value: Array, limit: Array) -> Near:
        """As given to the next layer: a limit that says nothing does not grow further, up to infinity."""
        return cls(value, np.minimum(limit, UNKNOWN))

    @classmethod
    def exactly(cls, value: Array) -> Near:
        """Values that both sides share."""
        return cls(value, np.zeros_like(value))

    @property
    def size(self) -> Array:
        """The largest absolute value that either side may have."""
        return np.abs(self.value) + self.limit


@dataclass(frozen=True)
class Limits:
    """Elementwise limits of a layer's backward pass, in the reference's layout, and the rule of each."""

    grad_input: Array
    rule: str
    grads: dict[str, Array] = field(default_factory=dict)  # by the reference's attribute: W, b
    kinks: int = 0  # entries whose gradient may take another path within the limit of the input


class Terms(NamedTuple):
    """What one entry adds up: the same products in several orders, each (K,), and the bias."""

    orders: list[Array]
    bias: float = 0.0


class Rule(NamedTuple):
    """The limits of one kind of layer: of its output for x, and of its gradients for x and dout.

    An entry above a limit is judged by what it adds up itself, where products(layer, x, dout, quantity, index) tells:
    quantity is "output", "grad_input", "W" or "b", index an entry in the reference's layout.
    """

    name: str
    forward: Callable[[Any, Near, Arithmetic], Array]
    backward: Callable[[Any, Near, Near, Arithmetic], Limits]
    products: Callable[[Any, Array, Array, str, tuple[int, ...]], Terms] | None = None


class Prediction(NamedTuple):
    """How a layer predicts that trains otherwise: the rule's name, and the limit of forward(x, train_flg=False)."""

    name: str
    limit: Callable[[Any, Near, Arithmetic], Array]


def class_name(layer: Layer) -> str:
    """What a picture says of a layer of which its class tells everything."""
    return type(layer).__name__


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer: how it is ported, judged, drawn and tested. To register one is all that a layer needs.

    Args:
        layer: The reference's class, which has forward and backward; parameters are W and b or gamma and beta.
        module: Makes torch's module for (layer, conv), conv being "conv2d" or "unfold". The layer's parameters are
            copied into its weight and bias, a W of two axes transposed.
        rule: How far a correct port may be off, entry by entry.
        sample: A layer and an input of it, from a generator: for tests, and for networks drawn at random.
        prediction: Where it predicts by another operation than it trains with.
        about: What a picture says of it.

    Example:
        A layer that triples; in torch it is written by hand.

        >>> import numpy as np, torch, numpy_ref
        >>> from torchport.layers import SUM, LayerKind, Limits, Rule, register
        >>> from torchport.networks import from_reference
        >>> from torchport.parity import check_parity
        >>> class Triple:
        ...     def forward(self, x):
        ...         return 3 * x
        ...     def backward(self, dout):
        ...         return 3 * dout
        >>> class TorchTriple(torch.nn.Module):
        ...     def forward(self, input):
        ...         return input + input + input
        >>> def limit(near, a):  # what it passes on, and two additions
        ...     return 3 * near.limit + 2 * a.u * 3 * near.size
        >>> register(LayerKind(
        ...     layer=Triple,
        ...     module=lambda layer, conv: TorchTriple(),
        ...     rule=Rule(SUM, lambda layer, x, a: limit(x, a), lambda layer, x, dout, a: Limits(limit(dout, a), SUM)),
        ...     sample=lambda rng: (Triple(), rng.standard_normal((4, 3))),
        ... ))
        >>> rng = np.random.RandomState(0)
        >>> affine = numpy_ref.Affine(rng.randn(5, 3), rng.randn(3))
        >>> reference = numpy_ref.Network({"Affine1": affine, "Triple1": Triple()})
        >>> check_parity(reference, from_reference(reference), rng.randn(8, 5), rng.randint(0, 3, 8)).ok
        True
    """

    layer: type
    module: Callable[[Any, str], nn.Module]
    rule: Rule
    sample: Callable[[np.random.Generator], tuple[Any, Array]]
    prediction: Prediction | None = None
    about: Callable[[Any], str] = class_name


KINDS: dict[type, LayerKind] = {}


def register(kind: LayerKind) -> None:
    """Let layers of exactly this class be ported, judged, drawn and tested, from now on. TypeError."""
    if not isinstance(kind, LayerKind) or not isinstance(kind.layer, type):
        raise TypeError(f"register takes a LayerKind of a class of layers, got {kind!r:.200}")
    KINDS[kind.layer] = kind


def predict(layer: Layer, x: Near, a: Arithmetic) -> Near:
    """What layer predicts for x, and the limit of it. TypeError for a class that is not registered."""
    kind, twin = kind_of(layer), copy.copy(layer)
    if kind.prediction is None:
        return Near.within(twin.forward(x.value), kind.rule.forward(layer, x, a))
    predicting: Any = twin
    return Near.within(predicting.forward(x.value, train_flg=False), kind.prediction.limit(layer, x, a))


def kind_of(layer: Layer) -> LayerKind:
    """What is known of a layer. TypeError for a class that is not registered, be it derived from one that is."""
    if type(layer) not in KINDS:
        name = type(layer).__name__
        raise TypeError(
            f"layers of the class {name} are not known: say how one is ported and judged with "
            f"torchport.layers.register(LayerKind({name}, ...)); known are {', '.join(kind.__name__ for kind in KINDS)}"
        )
    return KINDS[type(layer)]
