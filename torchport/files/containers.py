"""Which of the arrays in a file are a network's: a dict of them, or one in a checkpoint, a list or a nested dict."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.opcodes import describe
from torchport.networks.layouts import names_part
from torchport.networks.nearest import NoNetworkError, first, shown

SHOWN = 6  # names in one message, at most
DEEPEST = 4  # prefixes of one key that may be parts
UNTOLD = "num_batches_tracked"  # of torch's batch normalisation: of no use where momentum is given

Network = TypeVar("Network")


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
    arrays, own = _arrays(leaves.items()), _arrays(_children(value))
    if arrays:
        others = {name: leaf for name, leaf in leaves.items() if name not in arrays}
        yield ArraySet(place, arrays, others, len(own))
    for name, child in _children(value):
        yield from array_sets(child, f"{place}.{name}" if place else name)
    for prefix, part in _by_prefix(own).items():
        yield ArraySet(f"{place}.{prefix}" if place else prefix, part, {}, len(part), True)


def only_network(value: object, part: str | None, read: Callable[[ArraySet, Mapping[str, Array]], Network]) -> Network:
    """What read makes of the one set of arrays in value that is a network's, and of those beside it; part names it.

    ValueError, TypeError where none is, or several are.
    """
    sets = _candidates(list(array_sets(value)), part)
    if not sets:
        raise ValueError(f"holds {_contents_of(value)}, expected a dict of arrays, the weights of a network")
    found: dict[str, tuple[str, Network]] = {}
    errors: dict[str, Exception] = {}
    for each in sets:
        if len(found) <= SHOWN and not any(_inside(each.place, place) for place in found):
            own = set(map(id, each.arrays.values()))
            beside = {name: array for name, array in _arrays(_leaves(value)).items() if id(array) not in own}
            try:
                network = read(each, beside)
            except (ValueError, TypeError) as error:
                errors[each.place] = error
            else:
                found[each.place] = _stranger(each, beside), network
    if len(found) > 1:
        raise ValueError(f"holds several networks, in {' and '.join(found)}: say which with part (--part)")
    for place, (stranger, network) in found.items():
        if part is not None or not stranger:
            return network
        beside_it = f"{stranger} is beside it: give part {place!r} if that is all (--part)"
        errors[place] = NoNetworkError(f"the part {place!r} is a network by itself, but {beside_it}")
    raise _refusal(sets, errors, found)


def _stranger(each: ArraySet, beside: Mapping[str, Array]) -> str:
    """An array beside it that may be another layer's: no copy of one of its own, as an optimizer's sums are."""
    copies = {(own.shape, name) for name, own in each.arrays.items()}

    def is_copy(name: str, array: Array) -> bool:
        return any(array.shape == shape and (array.ndim > 1 or name.endswith(own)) for shape, own in copies)

    layers = [name for name, array in beside.items() if each.is_prefix or array.ndim > 1 or names_part(name)]
    return next((shown(name) for name in layers if each.is_prefix or not is_copy(name, beside[name])), "")


def _refusal(sets: Sequence[ArraySet], errors: Mapping[str, Exception], found: Container[str]) -> Exception:
    """The error of the set nearest to a network: that lacks an option only, or has most arrays of its own."""

    def nearness(each: ArraySet) -> tuple[bool, bool, int]:
        return not isinstance(errors[each.place], NoNetworkError), each.place in found, each.own

    nearest = max([each for each in sets if each.place in errors], key=nearness)
    where = f"in the part {nearest.place!r}: " if nearest.place and nearest.place not in found else ""
    error = errors[nearest.place]
    return type(error)("; ".join([f"{where}{error}", *nearest.left_out]))


def _candidates(sets: list[ArraySet], part: str | None) -> list[ArraySet]:
    """Which sets may be a network: the one that is told, or all but single layers and copies side by side."""
    if part is not None:
        places = ", ".join(each.place for each in sets if each.place) or "none, as it has no parts"
        if part not in [each.place for each in sets]:
            raise ValueError(f"part must be one of {places}, got {part!r}")
        return [each for each in sets if each.place == part]
    networks = [each for each in sets[1:] if each.weights > 1]
    copied = any(one.shapes == other.shapes for one, other in combinations(networks, 2))
    own = bool(sets) and sets[0].own == len(sets[0].arrays)
    return networks if copied and not own else [*sets[:1], *networks]


def _arrays(named: Iterable[tuple[str, Any]]) -> dict[str, Array]:
    """Those of at least one axis."""
    return {name: each for name, each in named if isinstance(each, np.ndarray) and each.ndim}


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


def _contents_of(value: object) -> str:
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


def _inside(place: str, other: str) -> bool:
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
