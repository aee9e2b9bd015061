"""Finds the network among the arrays in a file: a plain dict, or part of a checkpoint, a list or a nested dict."""

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
from torchport.networks.nearest import MAX_LISTED, NoNetworkError, printable, truncate

MAX_PREFIXES = 4  # tried as parts for one key
UNREPORTED = "num_batches_tracked"  # in torch's batch normalisation; not needed, since momentum is given

Network = TypeVar("Network")


class ArraySet(NamedTuple):
    """The arrays below one place in a file, which is a path of keys joined by dots, and the other values there."""

    place: str
    arrays: dict[str, Array]
    others: dict[str, Any]
    direct_count: int  # number of arrays that lie at the place itself, not deeper
    is_prefix: bool = False  # whether place ends in a prefix that keys of one dict share

    @property
    def weight_count(self) -> int:
        """Number of arrays with several axes: a network has more than one."""
        return _count_weights(self.arrays)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the arrays."""
        return [array.shape for array in self.arrays.values()]

    @property
    def left_out(self) -> list[str]:
        """One line on the other values, if there are any."""
        items = [(name, value) for name, value in self.others.items() if not name.endswith(UNREPORTED)]
        names = [f"{printable(name)} ({_type_name(value)})" for name, value in items]
        return [f"left out: {', '.join(truncate(names))}"] if names else []


def array_sets(value: Any, place: str = "") -> Iterator[ArraySet]:
    """Yield every set of arrays in value that may be a network, each before the sets inside it."""
    if not _is_container(value):
        return
    leaves = dict(_leaves(value))
    if sum(isinstance(child, np.ndarray) and child.ndim > 1 for _, child in _children(value)) > 1:
        leaves = dict(_children(value))  # a network by itself; what lies deeper may be an optimizer's moments
    arrays, direct = _arrays(leaves.items()), _arrays(_children(value))
    if arrays:
        others = {name: leaf for name, leaf in leaves.items() if name not in arrays}
        yield ArraySet(place, arrays, others, len(direct))
    for name, child in _children(value):
        yield from array_sets(child, f"{place}.{name}" if place else name)
    for prefix, part in _by_prefix(direct).items():
        yield ArraySet(f"{place}.{prefix}" if place else prefix, part, {}, len(part), True)


def find_network(value: object, part: str | None, read: Callable[[ArraySet, Mapping[str, Array]], Network]) -> Network:
    """Return read(array set, the other arrays) of the only set in value that it accepts, or of the one named part.

    ValueError, TypeError if it accepts none, or several.
    """
    candidates = _candidates(list(array_sets(value)), part)
    if not candidates:
        raise ValueError(f"holds {_describe_contents(value)}, expected a dict of arrays, the weights of a network")
    networks: dict[str, tuple[str, Network]] = {}  # by place, with the name of an array that may belong to it too
    errors: dict[str, Exception] = {}
    for array_set in candidates:
        if len(networks) <= MAX_LISTED and not any(_is_inside(array_set.place, place) for place in networks):
            ids = set(map(id, array_set.arrays.values()))
            remaining = {name: array for name, array in _arrays(_leaves(value)).items() if id(array) not in ids}
            try:
                network = read(array_set, remaining)
            except (ValueError, TypeError) as error:
                errors[array_set.place] = error
            else:
                networks[array_set.place] = _find_stray_layer(array_set, remaining), network
    if len(networks) > 1:
        raise ValueError(f"holds several networks, in {' and '.join(networks)}: say which with part (--part)")
    for place, (stray, network) in networks.items():
        if part is not None or not stray:
            return network
        way_out = f"{stray} is beside it: give part {place!r} if that is all (--part)"
        errors[place] = NoNetworkError(f"the part {place!r} is a network by itself, but {way_out}")
    raise _nearest_error(candidates, errors, networks)


def _find_stray_layer(array_set: ArraySet, remaining: Mapping[str, Array]) -> str:
    """Return the name of a remaining array that may be a further layer of the network, "" if there is none.

    An array with a name and shape from the set is a copy, such as an optimizer's moment, and no further layer.
    """
    originals = {(array.shape, name) for name, array in array_set.arrays.items()}

    def is_copy(name: str, array: Array) -> bool:
        return any(array.shape == shape and (array.ndim > 1 or name.endswith(suffix)) for shape, suffix in originals)

    layers = [name for name, array in remaining.items() if array_set.is_prefix or array.ndim > 1 or names_part(name)]
    strays = (name for name in layers if array_set.is_prefix or not is_copy(name, remaining[name]))
    return next(map(printable, strays), "")


def _nearest_error(sets: Sequence[ArraySet], errors: Mapping[str, Exception], networks: Container[str]) -> Exception:
    """Return the error of the set that is nearest to a network: it only lacks an option, or has most direct arrays."""

    def nearness(array_set: ArraySet) -> tuple[bool, bool, int]:
        place = array_set.place
        return not isinstance(errors[place], NoNetworkError), place in networks, array_set.direct_count

    nearest = max([array_set for array_set in sets if array_set.place in errors], key=nearness)
    where = f"in the part {nearest.place!r}: " if nearest.place and nearest.place not in networks else ""
    error = errors[nearest.place]
    return type(error)("; ".join([f"{where}{error}", *nearest.left_out]))


def _candidates(sets: list[ArraySet], part: str | None) -> list[ArraySet]:
    """Return the sets that may be a network: the one named part, else all but single layers and unions of copies."""
    if part is not None:
        places = ", ".join(each.place for each in sets if each.place) or "none, as it has no parts"
        if part not in [each.place for each in sets]:
            raise ValueError(f"part must be one of {places}, got {part!r}")
        return [each for each in sets if each.place == part]
    networks = [each for each in sets[1:] if each.weight_count > 1]
    has_copies = any(one.shapes == other.shapes for one, other in combinations(networks, 2))
    is_flat = bool(sets) and sets[0].direct_count == len(sets[0].arrays)
    return networks if has_copies and not is_flat else [*sets[:1], *networks]


def _arrays(items: Iterable[tuple[str, Any]]) -> dict[str, Array]:
    """Keep the arrays of at least one axis."""
    return {name: value for name, value in items if isinstance(value, np.ndarray) and value.ndim}


def _by_prefix(arrays: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Group arrays by a prefix of their keys, up to a dot or a slash, if not all share it: model., ema."""
    groups = defaultdict[str, dict[str, Array]](dict)
    for name, array in arrays.items():
        for end in [separator.start() for separator in re.finditer(r"[./]", name)][:MAX_PREFIXES]:
            groups[name[:end]][name[end + 1 :]] = array
    outer = {prefix: re.split(r"[./](?=[^./]*$)", prefix)[0] for prefix in groups}
    return {
        prefix: part
        for prefix, part in groups.items()
        if len(part) < len(groups[outer[prefix]] if outer[prefix] != prefix else arrays) and _count_weights(part) > 1
    }


def _describe_contents(value: object) -> str:
    """Say in a few words what a file without arrays holds."""
    if isinstance(value, np.ndarray):
        return f"one array {value.shape}"
    if not isinstance(value, Mapping | list | tuple):
        return f"{describe(value)}, of which nothing is run: save its params alone, with pickle.dump(net.params, file)"
    names = [f"{printable(name)} ({_type_name(child)})" for name, child in _children(value)]
    return f"{describe(value)} of {', '.join(truncate(names)) or 'nothing'}"


def _type_name(value: Any) -> str:
    if isinstance(value, int | float | np.ndarray):
        return "a number"
    return re.sub(r"'[<>]?f1[26]'", "longdouble, expected float64", describe(value))  # 12 or 16 bytes


def _count_weights(arrays: Mapping[str, Array]) -> int:
    return sum(array.ndim > 1 for array in arrays.values())


def _is_inside(place: str, outer: str) -> bool:
    return not outer or place.startswith((f"{outer}.", f"{outer}/"))


def _is_container(value: object) -> bool:
    """Return whether value may contain a network; the state of a torch optimizer, with moments as large, may not."""
    if isinstance(value, Mapping):
        return not value.keys() >= {"state", "param_groups"}
    return isinstance(value, list | tuple)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in value that is no container, by its path of keys."""
    for name, child in _children(value):
        if _is_container(child):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the items of a mapping or sequence by str(key). ValueError if two arrays get the same name."""
    pairs = [(str(name), child) for name, child in (value.items() if isinstance(value, Mapping) else enumerate(value))]
    counts = Counter(name for name, child in pairs if isinstance(child, np.ndarray))
    if duplicates := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"several arrays stand under {duplicates[0]}: save them again under texts, as in 'W1'")
    return iter(pairs)
