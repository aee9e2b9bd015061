"""Puts layers with arbitrary names in order, by the numbers in their names and by their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from numpy_ref.checks import Array
from torchport.networks.nearest import can_follow, printable

# The kinds of array in a layer, and the words by which a key that ends in one of them names it.
PARTS = {
    "weight": "weights?|kernels?|w",
    "bias": "bias(?:es)?|b",
    "gamma": "gamma|scale",
    "beta": "beta|offset",
    "running_mean": "(?:running|moving)_mean",
    "running_var": "(?:running|moving)_var(?:iance)?",
}

# Limits of the search for an order, since n layers have n! of them: layers, and steps of the search.
MAX_LAYERS, MAX_TRIES = 100, 20_000


class Sizes(NamedTuple):
    """Number of axes of a layer's weight, and its inputs and outputs."""

    ndim: int
    inputs: int
    outputs: int


@dataclass(eq=False)  # == of arrays gives no bool
class Layer:
    """The arrays of one layer, and the keys they had in the file."""

    name: str
    arrays: dict[str, Array] = field(default_factory=dict)  # by part: weight, bias, gamma and so on
    keys: dict[str, str] = field(default_factory=dict)  # by part too
    transposed: bool = False  # whether the weight had to be transposed though its name suggests otherwise

    @property
    def sizes(self) -> Sizes:
        """Sizes of the first array, which is laid out as in the book."""
        shape = next(self.arrays[part] for part in PARTS if part in self.arrays).shape
        return Sizes(4, shape[1], shape[0]) if len(shape) == 4 else Sizes(len(shape), shape[0], shape[-1])

    @property
    def bias_count(self) -> int:
        """Number of biases, 0 without any."""
        return self.arrays["bias"].size if "bias" in self.arrays else 0


def select_layers(layers: list[Layer], order: Sequence[str], others: Iterable[str]) -> tuple[list[Layer], list[str]]:
    """Return the layers named in order, in that order, and a line on whatever is left out. ValueError."""
    by_name = {layer.name: layer for layer in layers}
    if not by_name.keys() >= set(order) or len(set(order)) < len(order):
        raise ValueError(f"order must name the layers {', '.join(by_name)}, or some of them, got {', '.join(order)}")
    unused = [*(name for name in by_name if name not in order), *others]
    return [by_name[name] for name in order], [f"left out: {', '.join(map(printable, unused))}"] if unused else []


def sort_layers(layers: list[Layer]) -> list[Layer]:
    """Return the layers in the one order that their shapes and numbers allow. ValueError if there are several."""
    names = [layer.name for layer in layers]
    if all(name.isdecimal() for name in names):
        return layers
    if len(names) > MAX_LAYERS:
        raise ValueError(f"the order of {len(names)} layers is not searched for: give it with order (--order)")
    is_alphabetical = names == sorted(names)  # then the file's order tells nothing
    predecessors = {name: {other for other in names if _precedes(other, name)} for name in names}
    by_number = _find_chains(layers, predecessors)
    is_chain = bool(_find_chains(layers, {name: set(names[:place]) for place, name in enumerate(names)}))
    if is_chain and (layers in by_number or not by_number) and not (is_alphabetical and len(by_number) > 1):
        return layers
    orders = by_number or _find_chains(layers, {})
    if not is_alphabetical:
        orders += [layers] * is_chain
    if len(orders) > 1:
        readings = " or ".join(", ".join(layer.name for layer in order) for order in orders[:2])
        raise ValueError(f"the order of the layers may be {readings}: say which with order (--order)")
    return orders[0] if orders else layers


def _find_chains(layers: Sequence[Layer], predecessors: Mapping[str, set[str]]) -> list[list[Layer]]:
    """Return up to two orders in which each layer takes its predecessor's outputs; none if the search takes too long.

    Convolutions come before all else, and each layer after those that predecessors has for its name.
    """
    tries = iter(range(MAX_TRIES))
    chains = list(islice(_extend_chain([], layers, predecessors, tries), 2))
    return chains if next(tries, None) is not None else []


def _extend_chain(
    chain: list[Layer], remaining: Sequence[Layer], predecessors: Mapping[str, set[str]], tries: Iterator[int]
) -> Iterator[list[Layer]]:
    """Yield chain extended by all the remaining layers, in every order that fits, until tries runs out."""
    if not remaining:
        yield chain
    most_axes = max((layer.sizes.ndim for layer in remaining), default=0)
    for layer in remaining:
        if next(tries, None) is None:
            return
        others = [other for other in remaining if other is not layer]
        ndim, inputs, _ = layer.sizes
        before = chain[-1].sizes if chain else None
        follows = can_follow(inputs, ndim, before.ndim, before.outputs) if before else ndim == most_axes
        too_early = ndim == 2 and most_axes == 4  # a convolution remains
        if follows and not too_early and not any(other.name in predecessors.get(layer.name, ()) for other in others):
            yield from _extend_chain([*chain, layer], others, predecessors, tries)


def _precedes(one: str, other: str) -> bool:
    """Return whether two names differ in numbers only and one has the smaller; Keras' dense counts as dense_0."""
    key = natural_key(other)
    return any(each[::2] == key[::2] and each < key for each in (natural_key(one), natural_key(f"{one}_0")))


def natural_key(name: str) -> list[Any]:
    """Split name into text and numbers, in turns, as a sort key: layer2 before layer10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
