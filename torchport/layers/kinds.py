"""LayerKind, the record of all that is known of a kind of layer: its torch module, and how far a port may be off.

Limits are derived, never tuned, and local: they hold for exactly the input and upstream gradient that the port had. The
rules are in sums, selections, smooth and loss; the errors of single operations are in arithmetic.
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

# The names of rules in a report.
EXACT, SCALE, SUM, EXP, NORMALISE = "exact", "scale", "sum", "exp", "normalise"


@dataclass(frozen=True)
class Limits:
    """The limits of a layer's backward pass, in the reference's layout or any shape that broadcasts to it."""

    grad_input: Array
    grads: dict[str, Array] = field(default_factory=dict)  # by the reference's attribute: W, b, gamma, beta

    @property
    def by_name(self) -> dict[str, Array]:
        """All limits, by the names that gradients_of uses."""
        return {"grad_input": self.grad_input, **self.grads}


class Terms(NamedTuple):
    """The terms of one entry's sum: the same products in several orders, each (K,), and the bias."""

    orders: list[Array]
    bias: float = 0.0


class Rule(NamedTuple):
    """The limits of one kind of layer, if the port and the reference have exactly the same x and dout.

    An entry above its limit is judged by its own terms if there is products(layer, x, dout, quantity, index), with a
    quantity "output", "grad_input", "W" or "b" and the index of an entry in the reference's layout.
    """

    name: str
    forward: Callable[[Any, Array, Arithmetic], Array]  # (layer, x, a) -> limit of the output
    backward: Callable[[Any, Array, Array, Arithmetic], Limits]  # (layer, x, dout, a) -> limits of the gradients
    products: Callable[[Any, Array, Array, str, tuple[int, ...]], Terms] | None = None


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer: how it is ported, judged, drawn and tested. Registering one is all that a new layer needs.

    Args:
        layer: The reference's class, with forward and backward; its parameters are W and b, or gamma and beta.
        module: (layer, conv) -> the torch module, conv being "conv2d" or "unfold". The layer's parameters are copied
            into its weight and bias, a W with two axes transposed.
        rule: The limits of how far a correct port may be off, entry by entry.
        sample: rng -> (layer, input), for tests and for random networks.
        prediction: The limit of forward(x, train_flg=False), if the layer predicts by another operation.
        repeat: (layer, x, y, dx) -> for a random layer, a copy that repeats what the port drew when it made y of x.
            Where x is 0, dx shows it: the port's gradient for an upstream gradient without zeros. Raises ValueError if
            the layer cannot draw that.
        ratio: layer -> the share of entries that it drops, if that is what it draws.
        about: layer -> its description in a picture; by default the name of its class.

    Example:
        A layer that triples its input, and a hand-written torch module for it.

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
    """A small batch (3, 2, 6, 6), for LayerKind.sample."""
    return rng.standard_normal((3, 2, 6, 6))


def register(*kinds: LayerKind) -> None:
    """Register kinds, so that layers of exactly their classes can be ported and judged. Raises TypeError."""
    for kind in kinds:
        if not isinstance(kind, LayerKind) or not isinstance(kind.layer, type):
            raise TypeError(f"register takes a LayerKind of a class of layers, got {kind!r:.200}")
    KINDS.update({kind.layer: kind for kind in kinds})


def other(layer: Any, **attributes: Any) -> Any:
    """A shallow copy of layer with these attributes; its forward does not change what layer cached."""
    twin = copy.copy(layer)
    for name, value in attributes.items():
        setattr(twin, name, value)
    return twin


def parameters_of(layer: Any) -> dict[str, Array]:
    """The layer's trained parameters, by the reference's attribute."""
    return {name: getattr(layer, name) for name in PARAMETERS if hasattr(layer, name)}


def gradients_of(layer: Any, dout: Array) -> dict[str, Array]:
    """Run layer.backward(dout); return the gradients of its input, "grad_input", and of its parameters by attribute."""
    return {"grad_input": layer.backward(dout), **{name: getattr(layer, f"d{name}") for name in parameters_of(layer)}}


def predicted(layer: Layer, x: Array) -> Array:
    """The layer's prediction for x; layer is not changed. Raises TypeError for a class that is not registered."""
    return np.asarray(other(layer).forward(x, **({} if kind_of(layer).prediction is None else {"train_flg": False})))


def kind_of(layer: Layer) -> LayerKind:
    """The LayerKind of layer. Raises TypeError for a class that is not registered, even if a base class is."""
    if type(layer) not in KINDS:
        name = type(layer).__name__
        raise TypeError(
            f"layers of the class {name} are not known: say how one is ported and judged with "
            f"torchport.layers.register(LayerKind({name}, ...)); known are {', '.join(kind.__name__ for kind in KINDS)}"
        )
    return KINDS[type(layer)]
