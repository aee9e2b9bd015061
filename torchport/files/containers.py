"""Where the arrays are in what a file holds: a dict of them, or one inside a checkpoint, a list or a nested dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.opcodes import describe
from torchport.networks.nearest import first, shown

SHOWN = 6  # names in one message, at most


class ArraySet(NamedTuple):
    """The arrays below one place in a file: its keys, joined by dots, and what lies there besides."""

    place: str
    arrays: dict[str, Array]
    others: dict[str, Any]
    own: int  # how many of the arrays lie in no part of it

    @property
    def weights(self) -> int:
        """How many arrays have several axes, by which a network is told from a layer."""
        return sum(array.ndim > 1 for array in self.arrays.values())

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the arrays."""
        return [array.shape for array in self.arrays.values()]

    @property
    def left_out(self) -> list[str]:
        """A line, if there is anything besides arrays."""
        named = [f"{shown(name)} ({_word(value)})" for name, value in self.others.items()]
        return [f"left out: {', '.join(first(SHOWN, named))}"] if named else []


def array_sets(value: Any, place: str = "") -> Iterator[ArraySet]:
    """Sets of arrays, the outermost first, each before those inside it."""
    if not isinstance(value, Mapping | list | tuple):
        return
    leaves = dict(_leaves(value))
    if sum(isinstance(child, np.ndarray) and child.ndim > 1 for _, child in _children(value)) > 1:
        leaves = dict(_children(value))  # a network by itself, and what is kept of it in parts: an optimizer's sums
    arrays = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray) and leaf.ndim}
    if arrays:
        own = sum(isinstance(child, np.ndarray) for _, child in _children(value))
        yield ArraySet(place, arrays, {name: leaf for name, leaf in leaves.items() if name not in arrays}, own)
    for name, child in _children(value):
        yield from array_sets(child, f"{place}.{name}" if place else name)


def contents_of(value: object) -> str:
    """What a file without sets of arrays holds, in a few words."""
    if isinstance(value, np.ndarray):
        return f"one array {value.shape}"
    if not isinstance(value, Mapping | list | tuple):
        return f"{describe(value)}, of which nothing is run"
    named = [f"{shown(name)} ({_word(child)})" for name, child in _children(value)]
    return f"{describe(value)} of {', '.join(first(SHOWN, named)) or 'nothing'}"


def _word(value: Any) -> str:
    return "a number" if isinstance(value, int | float | np.ndarray) else describe(value)


def inside(place: str, other: str) -> bool:
    """Whether place lies in other."""
    return not other or place.startswith(f"{other}.")


def _leaves(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in _children(value):
        if isinstance(child, Mapping | list | tuple):
            yield from _leaves(child, f"{before}{name}.")
        else:
            yield f"{before}{name}", child


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    return ((str(name), child) for name, child in pairs)
