"""Where the arrays are in what a file holds: a dict of them, or one inside a checkpoint, a list or a nested dict."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.opcodes import describe
from torchport.networks.nearest import first, shown

SHOWN = 6  # names in one message, at most
DEEPEST = 4  # prefixes of one key that may be parts
UNTOLD = "num_batches_tracked"  # of torch's batch normalisation: of no use where momentum is given


class ArraySet(NamedTuple):
    """The arrays below one place in a file: its keys, joined by dots, and what lies there besides."""

    place: str
    arrays: dict[str, Array]
    others: dict[str, Any]
    own: int  # how many of the arrays lie in no part of it
    is_prefix: bool = False  # of one dict, whose keys begin so

    @property
    def weights(self) -> int:
        """How many arrays have several axes, by which a network is told from a layer."""
        return _weights(self.arrays)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the arrays."""
        return [array.shape for array in self.arrays.values()]

    @property
    def left_out(self) -> list[str]:
        """A line, if there is anything besides arrays."""
        named = [f"{shown(name)} ({_word(value)})" for name, value in self.others.items() if not name.endswith(UNTOLD)]
        return [f"left out: {', '.join(first(SHOWN, named))}"] if named else []


def array_sets(value: Any, place: str = "") -> Iterator[ArraySet]:
    """Sets of arrays, the outermost first, each before those inside it."""
    if not _is_tree(value):
        return
    leaves = dict(_leaves(value))
    if sum(isinstance(child, np.ndarray) and child.ndim > 1 for _, child in _children(value)) > 1:
        leaves = dict(_children(value))  # a network by itself, and what is kept of it in parts: an optimizer's sums
    arrays = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray) and leaf.ndim}
    own = {name: child for name, child in _children(value) if isinstance(child, np.ndarray) and child.ndim}
    if arrays:
        others = {name: leaf for name, leaf in leaves.items() if name not in arrays}
        yield ArraySet(place, arrays, others, len(own))
    for name, child in _children(value):
        yield from array_sets(child, f"{place}.{name}" if place else name)
    for prefix, part in _by_prefix(own).items():
        yield ArraySet(f"{place}.{prefix}" if place else prefix, part, {}, len(part), True)


def all_arrays(value: object) -> dict[str, Array]:
    """Every array in value, by its place and name, but what an optimizer keeps."""
    leaves = _leaves(value) if _is_tree(value) else ()
    return {name: leaf for name, leaf in leaves if isinstance(leaf, np.ndarray) and leaf.ndim}


def _by_prefix(arrays: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Arrays whose keys begin alike, up to a dot or a slash, where there are others besides: model., ema."""
    found = defaultdict[str, dict[str, Array]](dict)
    for name, array in arrays.items():
        for end in [each.start() for each in re.finditer(r"[./]", name)][:DEEPEST]:
            found[name[:end]][name[end + 1 :]] = array
    outer = {prefix: re.split(r"[./](?=[^./]*$)", prefix)[0] for prefix in found}
    return {
        prefix: part
        for prefix, part in found.items()
        if len(part) < len(found[outer[prefix]] if outer[prefix] != prefix else arrays) and _weights(part) > 1
    }


def contents_of(value: object) -> str:
    """What a file without sets of arrays holds, in a few words."""
    if isinstance(value, np.ndarray):
        return f"one array {value.shape}"
    if not isinstance(value, Mapping | list | tuple):
        return f"{describe(value)}, of which nothing is run: save its params alone, with pickle.dump(net.params, file)"
    named = [f"{shown(name)} ({_word(child)})" for name, child in _children(value)]
    return f"{describe(value)} of {', '.join(first(SHOWN, named)) or 'nothing'}"


def _word(value: Any) -> str:
    if isinstance(value, int | float | np.ndarray):
        return "a number"
    return re.sub(r"'[<>]?f1[26]'", "longdouble, expected float64", describe(value))  # by its bytes


def _weights(arrays: Mapping[str, Array]) -> int:
    return sum(array.ndim > 1 for array in arrays.values())


def inside(place: str, other: str) -> bool:
    """Whether place lies in other."""
    return not other or place.startswith((f"{other}.", f"{other}/"))


def _is_tree(value: object) -> bool:
    """Whether there may be a network in it, which torch's optimizers are not, whose sums are as large as one."""
    if isinstance(value, Mapping):
        return not value.keys() >= {"state", "param_groups"}
    return isinstance(value, list | tuple)


def _leaves(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in _children(value):
        if _is_tree(child):
            yield from _leaves(child, f"{before}{name}.")
        else:
            yield f"{before}{name}", child


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    pairs = [(str(name), child) for name, child in (value.items() if isinstance(value, Mapping) else enumerate(value))]
    counts = Counter(name for name, child in pairs if isinstance(child, np.ndarray))
    if several := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"several arrays stand under {several[0]}: save them again under texts, as in 'W1'")
    return iter(pairs)
