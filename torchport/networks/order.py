"""Which layer is first: layers of any names in the order that their numbers and shapes tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from numpy_ref.checks import Array
from torchport.networks.nearest import fits, shown

# Which of a layer's arrays a key names at its end.
PARTS = {
    "weight": "weights?|kernels?|w",
    "bias": "bias(?:es)?|b",
    "gamma": "gamma|scale",
    "beta": "beta|offset",
    "running_mean": "(?:running|moving)_mean",
    "running_var": "(?:running|moving)_var(?:iance)?",
}

# A network whose order is looked for has so many layers at most, and is one of so many steps: there may be n! of them.
MAX_LAYERS, MAX_TRIES = 100, 20_000


@dataclass(eq=False)  # arrays have no truth
class Layer:
    """What belongs to one layer, and the keys that it stood under."""

    name: str
    arrays: dict[str, Array] = field(default_factory=dict)  # by what they are: weight, bias, gamma and so on
    keys: dict[str, str] = field(default_factory=dict)
    transposed: bool = False  # otherwise than its name says

    @property
    def ends(self) -> tuple[int, int, int]:
        """Axes of the weight, inputs and outputs, of a weight as the book has it."""
        shape = next(self.arrays[part] for part in PARTS if part in self.arrays).shape
        return (4, shape[1], shape[0]) if len(shape) == 4 else (len(shape), shape[0], shape[-1])

    @property
    def biases(self) -> int:
        """How many there are."""
        return self.arrays["bias"].size if "bias" in self.arrays else 0


def chosen(layers: list[Layer], order: Sequence[str], others: Mapping[str, Array]) -> tuple[list[Layer], list[str]]:
    """The layers that order names, in that order, and a line on all that is left out. ValueError."""
    by_name = {layer.name: layer for layer in layers}
    if not by_name.keys() >= set(order) or len(set(order)) < len(order):
        raise ValueError(f"order must name the layers {', '.join(by_name)}, or some of them, got {', '.join(order)}")
    left = [*(name for name in by_name if name not in order), *others]
    return [by_name[name] for name in order], [f"left out: {', '.join(map(shown, left))}"] if left else []


def ordered(layers: list[Layer]) -> list[Layer]:
    """The layers in the order that shapes and numbers tell. ValueError where several fit."""
    names = [layer.name for layer in layers]
    if all(name.isdecimal() for name in names):
        return layers
    if len(names) > MAX_LAYERS:
        raise ValueError(f"the order of {len(names)} layers is not looked for: say which with order (--order)")
    as_text = names == sorted(names)  # which is no order of anybody's
    earlier = {each.name: {one for one in names if _precedes(one, each.name)} for each in layers}
    by_number = _chains(layers, earlier)
    is_chain = bool(_chains(layers, {name: set(names[:place]) for place, name in enumerate(names)}))
    if is_chain and (layers in by_number or not by_number) and not (as_text and len(by_number) > 1):
        return layers
    found = by_number or _chains(layers, {})
    if not as_text:
        found += [layers] * is_chain
    if len(found) > 1:
        readings = " or ".join(", ".join(layer.name for layer in each) for each in found[:2])
        raise ValueError(f"the order of the layers may be {readings}: say which with order (--order)")
    return found[0] if found else layers


def _follows(layer: Layer, before: Layer) -> bool:
    return fits(layer.ends[1], layer.ends[0], before.ends[0], before.ends[2])


def _chains(layers: Sequence[Layer], earlier: Mapping[str, set[str]]) -> list[list[Layer]]:
    """Orders, two at most, in which each takes what the one before returns, behind those earlier; none if that is long.

    Images come before all else.
    """
    tries = iter(range(MAX_TRIES))
    found = list(islice(_continued(layers, [], earlier, tries), 2))
    return found if next(tries, None) is not None else []


def _continued(
    left: Sequence[Layer], taken: list[Layer], earlier: Mapping[str, set[str]], tries: Iterator[int]
) -> Iterator[list[Layer]]:
    """taken, and what is left in all orders in which that makes a chain."""
    if not left:
        yield taken
    first = max((layer.ends[0] for layer in left), default=0)
    for layer in left:
        if next(tries, None) is None:
            return
        others = [other for other in left if other is not layer]
        fits_on = _follows(layer, taken[-1]) if taken else layer.ends[0] == first
        too_early = layer.ends[0] == 2 and first == 4  # a convolution is left
        if fits_on and not too_early and not any(other.name in earlier.get(layer.name, ()) for other in others):
            yield from _continued(others, [*taken, layer], earlier, tries)


def _precedes(one: str, other: str) -> bool:
    """Whether two names differ in numbers only, which are less in one; dense is Keras' dense_0."""
    known = natural(other)
    return any(each[::2] == known[::2] and each < known for each in (natural(one), natural(f"{one}_0")))


def natural(name: str) -> list[Any]:
    """Its texts and numbers in turns."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
