"""From arrays under any names and in any layout to the book's parameters, W1 b1 W2 b2 and so on.

Each step is taken where exactly one reading fits, and says what it did in a line; where several do, the error has the
readings and the argument that chooses.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, permutations, takewhile

import numpy as np

from numpy_ref.checks import Array
from torchport.choices import AFFINE, FLATTEN, KERNELS, Affine, Flatten, Kernels
from torchport.networks.nearest import USUAL, fits, listed

# Which of a layer's arrays a key names at its end.
_PARTS = {
    "weight": "weights?|kernels?|w",
    "bias": "bias(?:es)?|b",
    "gamma": "gamma|scale",
    "beta": "beta|offset",
    "running_mean": "(?:running|moving)_mean",
    "running_var": "(?:running|moving)_var(?:iance)?",
    "unused": "num_batches_tracked",
}
_KEY = re.compile(
    r"(?:(?P<module>.*)[._/])?(?:"
    + "|".join(f"(?P<{part}>{names})" for part, names in _PARTS.items())
    + r")_?(?P<number>\d{0,4})(?::0)?",
    re.IGNORECASE,
)
_NORMALISES = re.compile(r"bn|norm", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How arrays lie, where their names and shapes do not tell; None for what these say.

    flatten, of what the first Affine behind a convolution takes: "chw", or "hwc" as in Keras; kernels: "oihw" or
    "hwio"; affine: "in-out" (x @ W) or "out-in" (torch's Linear); order: the layers' names, first to last.
    """

    flatten: Flatten | None = None
    kernels: Kernels | None = None
    affine: Affine | None = None
    order: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, known in {"flatten": FLATTEN, "kernels": KERNELS, "affine": AFFINE}.items():
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"{name} must be one of {', '.join(known)} or None, got {getattr(self, name)!r}")


AS_NAMED = Layout()

# A network whose order is looked for has so many layers at most, and is one of so many steps: there may be n! of them.
MAX_LAYERS, MAX_TRIES = 100, 20_000


@dataclass(eq=False)  # arrays have no truth
class _Layer:
    """What belongs to one layer, and the keys that it stood under."""

    name: str
    arrays: dict[str, Array] = field(default_factory=dict)  # by what they are: weight, bias, gamma and so on
    keys: dict[str, str] = field(default_factory=dict)
    transposed: bool = False  # otherwise than its name says

    @property
    def ends(self) -> tuple[int, int, int]:
        """Axes of the weight, inputs and outputs, of a weight as the book has it."""
        shape = next(self.arrays[part] for part in _PARTS if part in self.arrays).shape
        return (4, shape[1], shape[0]) if len(shape) == 4 else (len(shape), shape[0], shape[-1])


def to_params(arrays: Mapping[str, Array], layout: Layout = AS_NAMED) -> tuple[dict[str, Array], list[str]]:
    """The book's params, of arrays under whatever names; and what was done to them, a line each. ValueError."""
    named = {key: match for key in arrays if (match := _KEY.fullmatch(key))}
    layers, said = _by_name(arrays, named) if named else _by_position(arrays)
    said += [line for layer in layers for line in _squeezed(layer)]
    hwio = [line for layer in layers for line in _turned(layer, layout)]
    _orient(layers, layout)
    layers, ordered = _ordered(layers, layout.order)
    unrolled = [line for layer in layers for line in _unrolled(layer, layers)]
    sorted_rows = _sorted_rows(layers, layout, bool(hwio))
    if transposed := [layer.keys["weight"] for layer in layers if layer.transposed]:
        said.append(f"{', '.join(transposed)}: transposed, since they came as (outputs, inputs)")
    others = {key: arrays[key] for key in arrays if named and key not in named}
    return {**_numbered(layers), **others}, said + ordered + hwio + unrolled + sorted_rows


# --- Which arrays make a layer


def _by_name(arrays: Mapping[str, Array], named: Mapping[str, re.Match[str]]) -> tuple[list[_Layer], list[str]]:
    prefix = _prefix([match["module"] or "" for match in named.values()])
    layers: dict[str, _Layer] = {}
    for key, match in named.items():
        name = f"{match['module'] or ''}.".removeprefix(prefix).rstrip(".") + match["number"]
        part = next(part for part in _PARTS if match[part] is not None)
        layer = layers.setdefault(name, _Layer(name))
        if part in layer.arrays:
            raise ValueError(f"{layer.keys[part]} and {key} are both the {part} of one layer: {listed(arrays)}")
        layer.arrays[part], layer.keys[part] = arrays[key], key
    for layer in layers.values():
        layer.arrays.pop("unused", None)
        if "gamma" not in layer.arrays and ("running_mean" in layer.arrays or _NORMALISES.search(layer.name)):
            names = {"weight": "gamma", "bias": "beta"}
            layer.arrays = {names.get(part, part): value for part, value in layer.arrays.items()}
            layer.keys = {names.get(part, part): key for part, key in layer.keys.items()}
    kept = [layer for layer in layers.values() if layer.arrays]
    if all(layer.name.isdigit() for layer in kept):
        kept.sort(key=lambda layer: int(layer.name))
    return kept, [f"before every key {prefix[:-1]!r} is left out"] if prefix else []


def _prefix(modules: Sequence[str]) -> str:
    """What all begin with, up to a dot or a slash; all of it, where they are one and the same."""
    first, last = f"{min(modules)}.", f"{max(modules)}."  # between which all the others are
    common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return common[: max(common.rfind("."), common.rfind("/")) + 1].lstrip(".")


def _by_position(arrays: Mapping[str, Array]) -> tuple[list[_Layer], list[str]]:
    """The k-th vector goes with the k-th weight. ValueError where they are not as many."""
    vectors = [key for key, value in arrays.items() if max(value.shape) == value.size]
    weights = [key for key in arrays if key not in vectors]
    if len(weights) != len(vectors):
        raise ValueError(
            f"the names tell no layers, and {len(weights)} weights have {len(vectors)} biases: {listed(arrays)}"
        )
    layers = [
        _Layer(str(number), {"weight": arrays[weight], "bias": arrays[bias]}, {"weight": weight, "bias": bias})
        for number, (weight, bias) in enumerate(zip(weights, vectors, strict=True), 1)
    ]
    return layers, [f"by their order, {', '.join(arrays)} are {', '.join(_numbered(layers))}"]


# --- How each lies


def _squeezed(layer: _Layer) -> Iterator[str]:
    """Vectors without axes of length 1, and filters of one channel with one."""
    for part, value in layer.arrays.items():
        if part == "weight" and value.ndim == 3 and value.shape[1] == value.shape[2]:
            layer.arrays[part] = value[:, np.newaxis]
            yield f"{layer.keys[part]} {value.shape}: filters of one channel, {layer.arrays[part].shape}"
        elif part != "weight" and value.ndim > 1 and max(value.shape) == value.size:
            layer.arrays[part] = value.ravel()
            yield f"{layer.keys[part]} {value.shape}: axes of length 1 are left out"


def _outputs(layer: _Layer) -> int:
    """As many as it has biases, 0 without."""
    return layer.arrays["bias"].size if "bias" in layer.arrays else 0


def _turned(layer: _Layer, layout: Layout) -> Iterator[str]:
    """A kernel of (H, W, inputs, outputs) as (outputs, inputs, H, W)."""
    value = layer.arrays.get("weight")
    if value is None or value.ndim != 4:
        return
    told = value.shape[0] != _outputs(layer) == value.shape[3] and value.shape[0] == value.shape[1]
    if layout.kernels == "hwio" or (told and layout.kernels is None):
        layer.arrays["weight"] = value.transpose(3, 2, 0, 1)
        yield f"{layer.keys['weight']} {value.shape}: H, W, inputs, outputs, as Keras has it"


def _orient(layers: Sequence[_Layer], layout: Layout) -> None:
    """Each weight of two axes as (inputs, outputs): by the number of its biases, else by its name. ValueError."""
    seen_affine, told = False, dict[str, str]()  # by key, where it is not as the name says
    for layer in layers:
        value = layer.arrays.get("weight")
        if value is not None and value.ndim == 4 and value.shape[2:] == (1, 1) and seen_affine:
            value = layer.arrays["weight"] = value.reshape(value.shape[:2])
        if value is None or value.ndim != 2:
            continue
        seen_affine, key = True, layer.keys["weight"]
        named = "out-in" if key.lower().endswith(("weight", "weights")) else "in-out"
        lies = layout.affine or named
        if value.shape[0] != value.shape[1] and _outputs(layer) in value.shape:
            lies = "out-in" if value.shape[0] == _outputs(layer) else "in-out"
        elif layout.affine is None and (others := [other for other, lie in told.items() if lie != named]):
            raise ValueError(
                f"{key} {value.shape} is square: nothing tells whether it is transposed, as {', '.join(others)} is. "
                f"Say how they lie with affine, in-out (x @ W) or out-in (--affine)"
            )
        told[key] = lies
        layer.transposed = lies == "out-in" != named
        layer.arrays["weight"] = value.T if lies == "out-in" else value


def _unrolled(layer: _Layer, layers: Sequence[_Layer]) -> Iterator[str]:
    """A convolution's weight as im2col takes it, (C * FH * FW, FN), with its four axes again."""
    place = layers.index(layer)
    before, behind = layers[:place], layers[place + 1 :]
    if any(each.ends[0] != 4 for each in before) or not behind or layer.ends[0] != 2:
        return
    _, inputs, outputs = layer.ends
    if behind[0].ends[1] == outputs or not fits(behind[0].ends[1], 2, 4, outputs):
        return
    for channels in (before[-1].ends[2],) if before else USUAL:
        side = math.isqrt(inputs // channels)
        if side * side * channels == inputs:
            shape = outputs, channels, side, side
            layer.arrays["weight"] = np.ascontiguousarray(layer.arrays["weight"].T).reshape(shape)
            layer.transposed = False
            yield f"{layer.keys['weight']}: {shape}, a convolution's, from the matrix of im2col"
            return


def _sorted_rows(layers: Sequence[_Layer], layout: Layout, keras: bool) -> list[str]:
    """The first Affine's rows in the order C, H, W. ValueError where they may be in another, and nothing tells."""
    convs = [layer for layer in layers if layer.ends[0] == 4]
    affine = next((layer for layer in layers if layer.ends[0] == 2), None)
    if affine is None or not convs:
        if layout.flatten == "hwc":
            raise ValueError("flatten 'hwc' needs an Affine layer behind a convolution: leave it out")
        return []
    key, (_, rows, outputs), channels = affine.keys["weight"], affine.ends, convs[-1].ends[2]
    side = math.isqrt(rows // channels)
    if keras and layout.flatten is None and side > 1:
        raise ValueError(
            f"the kernels lie as H, W, inputs, outputs: then the rows of {key} may be in the order H, W, C, or in C, "
            f"H, W. Say which with flatten, hwc or chw (--flatten)"
        )
    if layout.flatten != "hwc" or side * side * channels != rows:
        return []
    image = affine.arrays["weight"].reshape(side, side, channels, outputs)
    affine.arrays["weight"] = image.transpose(2, 0, 1, 3).reshape(rows, outputs)
    return [f"{key}: rows from the order H, W, C to C, H, W"]


# --- Which layer is first


def _ordered(layers: list[_Layer], order: Sequence[str] | None) -> tuple[list[_Layer], list[str]]:
    """The layers in the order that shapes and numbers tell, or that is told. ValueError where several fit."""
    names = [layer.name for layer in layers]
    if order is not None:
        if sorted(order) != sorted(names):
            raise ValueError(f"order must name the layers {', '.join(names)}, got {', '.join(order)}")
        return [layers[names.index(name)] for name in order], []
    if all(name.isdigit() for name in names):
        return layers, _told(layers, names)
    if len(names) > MAX_LAYERS:
        raise ValueError(f"the order of {len(names)} layers is not looked for: say which with order (--order)")
    by_number = _chains(layers, by_number=True)
    if _is_chain(layers) and (layers in by_number or not by_number):
        return layers, _told(layers, names)
    found = by_number or _chains(layers, by_number=False)
    if names != sorted(names):  # that is no order of anybody's, but one of text
        found += [layers] * _is_chain(layers)
    if len(found) > 1:
        readings = " or ".join(", ".join(layer.name for layer in each) for each in found[:2])
        raise ValueError(f"the order of the layers may be {readings}: say which with order (--order)")
    return found[0] if found else layers, _told(found[0] if found else layers, names)


def _told(layers: Sequence[_Layer], names: Sequence[str]) -> list[str]:
    """A line on names that are not the book's or the port's own, nor 1, 2 and so on."""
    weights = [layer.name for layer in layers if "weight" in layer.arrays]
    own = all(re.fullmatch(r"(conv|subsample|affine)\d+", name) for name in weights)
    if own or weights == [str(number) for number in range(1, len(weights) + 1)]:
        return []
    by_shapes = "" if names == [layer.name for layer in layers] else ", by their shapes"
    return [f"{', '.join(weights)} are layers 1 to {len(weights)}{by_shapes}"]


def _is_chain(layers: Sequence[_Layer]) -> bool:
    """Whether each layer takes what the one before it returns, images before all else."""
    axes = [layer.ends[0] for layer in layers]
    images = axes[: axes.index(2)] if 2 in axes else axes
    if 4 in axes and (images[:1] != [4] or axes.count(4) > images.count(4)):
        return False
    return all(_follows(layer, before) for before, layer in pairwise(layers))


def _follows(layer: _Layer, before: _Layer) -> bool:
    return fits(layer.ends[1], layer.ends[0], before.ends[0], before.ends[2])


def _chains(layers: Sequence[_Layer], by_number: bool) -> list[list[_Layer]]:
    """Orders that are chains, two at most; those of one stem by their numbers. None where that is not told soon."""
    pairs = permutations(layers, 2) if by_number else ()
    earlier: dict[str, set[str]] = {layer.name: set() for layer in layers}
    for one, other in pairs:
        if _precedes(one.name, other.name):
            earlier[other.name].add(one.name)
    tries = iter(range(MAX_TRIES))
    found = list(islice(_continued(layers, [], earlier, tries), 2))
    return found if next(tries, None) is not None else []


def _continued(
    left: Sequence[_Layer], taken: list[_Layer], earlier: Mapping[str, set[str]], tries: Iterator[int]
) -> Iterator[list[_Layer]]:
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
        if fits_on and not too_early and earlier[layer.name].isdisjoint(other.name for other in others):
            yield from _continued(others, [*taken, layer], earlier, tries)


def _precedes(one: str, other: str) -> bool:
    """Whether two names differ in one number only, which is less in one."""
    parts = re.split(r"(\d+)", one), re.split(r"(\d+)", other)
    differing = [(a, b) for a, b in zip(*parts, strict=False) if a != b]
    if len(parts[0]) != len(parts[1]) or len(differing) != 1:
        return False
    a, b = differing[0]
    return a.isdigit() and b.isdigit() and int(a) < int(b)


def _numbered(layers: Sequence[_Layer]) -> dict[str, Array]:
    names = {"weight": "W", "bias": "b"}
    counts, found = Counter[str](), dict[str, Array]()
    for layer in layers:
        for part in (part for part in _PARTS if part in layer.arrays):
            counts[part] += 1
            number = counts["weight"] if part == "bias" and "weight" in layer.arrays else counts[part]
            found[f"{names.get(part, part)}{number}"] = np.ascontiguousarray(layer.arrays[part])
    return found
