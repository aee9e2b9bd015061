"""What is known of each kind of layer, in one record: its torch module, and how far a correct port may be from it.

Limits are derived, never chosen, and local: they hold for the very input and upstream gradient that the port had. The
rules are in sums, selections, smooth and loss; what a single operation may be off by is in arithmetic.
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
from numpy_ref.network import PARAMETERS
from torchport.choices import Convolution
from torchport.layers.arithmetic import Arithmetic

# Rules, by the name that a report shows.
EXACT, SUM, EXP, NORMALISE = "exact", "sum", "exp", "normalise"


@dataclass(frozen=True)
class Limits:
    """Of a layer's backward pass, in the reference's layout; a number, or any shape that broadcasts, serves as well."""

    grad_input: Array
    grads: dict[str, Array] = field(default_factory=dict)  # by the reference's attribute: W, b, gamma, beta

    @property
    def each(self) -> dict[str, Array]:
        """By name, as gradients_of has them."""
        return {"grad_input": self.grad_input, **self.grads}


class Terms(NamedTuple):
    """What one entry adds up: the same products in several orders, each (K,), and the bias."""

    orders: list[Array]
    bias: float = 0.0


class Rule(NamedTuple):
    """The limits of one kind of layer, x and dout being exactly what both sides have.

    An entry above a limit is judged by what it adds up itself, where products(layer, x, dout, quantity, index) tells:
    quantity is "output", "grad_input", "W" or "b", index an entry in the reference's layout.
    """

    name: str
    forward: Callable[[Any, Array, Arithmetic], Array]  # of the output, for (layer, x, a)
    backward: Callable[[Any, Array, Array, Arithmetic], Limits]  # for (layer, x, dout, a)
    products: Callable[[Any, Array, Array, str, tuple[int, ...]], Terms] | None = None


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer: how it is ported, judged, drawn and tested. To register one is all that a layer needs.

    Args:
        layer: The reference's class, which has forward and backward; parameters are W and b or gamma and beta.
        module: Makes torch's module for (layer, conv), conv being "conv2d" or "unfold". The layer's parameters are
            copied into its weight and bias, a W of two axes transposed.
        rule: How far a correct port may be off, entry by entry.
        sample: A layer and an input of it, from a generator: for tests, and for networks drawn at random.
        prediction: The limit of forward(x, train_flg=False), where it predicts by another operation than it trains.
        repeat: For (layer, x, y, dx), a copy of a layer that draws, which draws what the port drew when it made y of x;
            dx, the port's gradient for an upstream one without zeros, tells where x does not. ValueError where the
            layer would not draw that.
        ratio: The share of entries that such a layer drops, where that is what it draws.
        about: What a picture says of it: by itself its class.

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
        >>> register(LayerKind(
        ...     layer=Triple,
        ...     module=lambda layer, conv: TorchTriple(),
        ...     rule=Rule(  # two additions, of results up to 3 |x|
        ...         SUM,
        ...         lambda layer, x, a: a.of_sum(2, 3 * np.abs(x)),
        ...         lambda layer, x, dout, a: Limits(a.of_sum(2, 3 * np.abs(dout))),
        ...     ),
        ...     sample=lambda rng: (Triple(), rng.standard_normal((4, 3))),
        ... ))
        >>> rng = np.random.RandomState(0)
        >>> affine = numpy_ref.Affine(rng.randn(5, 3), rng.randn(3))
        >>> reference = numpy_ref.Network({"Affine1": affine, "Triple1": Triple()})
        >>> check_parity(reference, from_reference(reference), rng.randn(8, 5), rng.randint(0, 3, 8)).ok
        True
    """

    layer: type
    module: Callable[[Any, Convolution], nn.Module]
    rule: Rule
    sample: Callable[[np.random.Generator], tuple[Any, Array]]
    prediction: Callable[[Any, Array, Arithmetic], Array] | None = None
    repeat: Callable[[Any, Array, Array, Array | None], Any] | None = None
    ratio: Callable[[Any], float] | None = None
    about: Callable[[Any], str] = field(default=lambda layer: type(layer).__name__)


KINDS: dict[type, LayerKind] = {}


def image(rng: np.random.Generator) -> Array:
    """A small batch (3, 2, 6, 6), for samples."""
    return rng.standard_normal((3, 2, 6, 6))


def register(*kinds: LayerKind) -> None:
    """Let layers of exactly these classes be ported, judged, drawn and tested, from now on. TypeError."""
    for kind in kinds:
        if not isinstance(kind, LayerKind) or not isinstance(kind.layer, type):
            raise TypeError(f"register takes a LayerKind of a class of layers, got {kind!r:.200}")
    KINDS.update({kind.layer: kind for kind in kinds})


def other(layer: Any, **attributes: Any) -> Any:
    """A copy of layer, with other attributes; what forward keeps is its own."""
    twin = copy.copy(layer)
    for name, value in attributes.items():
        setattr(twin, name, value)
    return twin


def parameters_of(layer: Any) -> dict[str, Array]:
    """What is trained, by the reference's attribute."""
    return {name: getattr(layer, name) for name in PARAMETERS if hasattr(layer, name)}


def gradients_of(layer: Any, dout: Array) -> dict[str, Array]:
    """Of a layer after its forward: of its input, "grad_input", and of its parameters, by the reference's attribute."""
    return {"grad_input": layer.backward(dout), **{name: getattr(layer, f"d{name}") for name in parameters_of(layer)}}


def predicted(layer: Layer, x: Array) -> Array:
    """What layer predicts for x; the layer stays as it is. TypeError for a class that is not registered."""
    return np.asarray(other(layer).forward(x, **({} if kind_of(layer).prediction is None else {"train_flg": False})))


def kind_of(layer: Layer) -> LayerKind:
    """What is known of a layer. TypeError for a class that is not registered, be it derived from one that is."""
    if type(layer) not in KINDS:
        name = type(layer).__name__
        raise TypeError(
            f"layers of the class {name} are not known: say how one is ported and judged with "
            f"torchport.layers.register(LayerKind({name}, ...)); known are {', '.join(kind.__name__ for kind in KINDS)}"
        )
    return KINDS[type(layer)]
