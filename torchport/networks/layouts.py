"""From arrays under any names and in any layout to the book's parameters, W1 b1 W2 b2 and so on.

Each step is taken where exactly one reading fits, and says what it did in a line; where several do, the error has the
readings and the argument that chooses.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

import numpy as np

from numpy_ref.checks import Array
from torchport.networks.hints import NO_HINTS, Hints
from torchport.networks.nearest import USUAL, NoNetworkError, fits, listed
from torchport.networks.order import PARTS, Layer, chosen, natural, ordered

_KEY = re.compile(
    r"(?:(?P<module>.*)[._/])?(?:"
    + "|".join(f"(?P<{part}>{names})" for part, names in PARTS.items())
    + r")_?(?P<number>\d{0,4})(?::0)?",
    re.IGNORECASE,
)
_MODULES = re.compile(r"(weight|kernel)(:0)?$")  # at the end of a key: what frameworks call it, and not the book
_NORMALISES = re.compile(r"bn|norm", re.IGNORECASE)


def to_params(arrays: Mapping[str, Array], hints: Hints = NO_HINTS) -> tuple[dict[str, Array], list[str]]:
    """The book's params, of arrays under whatever names; and what was done to them, a line each. ValueError."""
    named = {key: match for key in arrays if (match := _KEY.fullmatch(key))}
    others = {key: arrays[key] for key in arrays if named and key not in named}
    layers, said = _by_name(arrays, named) if named else _by_position(arrays)
    if hints.order is not None:
        layers, left = chosen(layers, hints.order, others)
        others, said = {}, said + left
    if alone := [layer.keys["bias"] for layer in layers if layer.arrays.keys() == {"bias"}]:
        raise NoNetworkError(f"{alone[0]} is a bias without a weight: {listed(arrays)}")
    said += [line for layer in layers for line in _squeezed(layer)]
    hwio = list(_turned(layers, hints))
    _orient(layers, hints)
    layers = layers if hints.order is not None else ordered(layers)
    named_so = [*_told(layers, arrays), *_unbiased(layers)]
    unrolled = [line for layer in layers for line in _unrolled(layer, layers, hints)]
    sorted_rows = _sorted_rows(layers, hints, bool(hwio))
    if transposed := [layer.keys["weight"] for layer in layers if layer.transposed]:
        said.append(f"{', '.join(transposed)}: transposed, since they came as (outputs, inputs)")
    return {**_numbered(layers), **others}, said + named_so + hwio + unrolled + sorted_rows


def names_part(key: str) -> bool:
    """Whether key ends in a name of a layer's array."""
    return _KEY.fullmatch(key) is not None


# --- Which arrays make a layer


def _by_name(arrays: Mapping[str, Array], named: Mapping[str, re.Match[str]]) -> tuple[list[Layer], list[str]]:
    prefix = _prefix([match["module"] or "" for match in named.values()])
    layers: dict[str, Layer] = {}
    for key, match in named.items():
        name = f"{match['module'] or ''}.".removeprefix(prefix).rstrip(".") + match["number"]
        part = next(part for part in PARTS if match[part] is not None)
        layer = layers.setdefault(name, Layer(name))
        if part in layer.arrays:
            raise ValueError(f"{layer.keys[part]} and {key} are both the {part} of one layer: {listed(arrays)}")
        layer.arrays[part], layer.keys[part] = arrays[key], key
    for layer in layers.values():
        if "gamma" not in layer.arrays and ("running_mean" in layer.arrays or _NORMALISES.search(layer.name)):
            names = {"weight": "gamma", "bias": "beta"}
            layer.arrays = {names.get(part, part): value for part, value in layer.arrays.items()}
            layer.keys = {names.get(part, part): key for part, key in layer.keys.items()}
    found = list(layers.values())
    if all(layer.name.isdecimal() for layer in found):
        found.sort(key=lambda layer: int(layer.name))
    return found, [f"before every key {prefix[:-1]!r} is left out"] if prefix else []


def _prefix(modules: Sequence[str]) -> str:
    """What all begin with, up to a dot or a slash; all of it, where they are one and the same."""
    first, last = f"{min(modules)}.", f"{max(modules)}."  # between which all the others are
    common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return common[: max(common.rfind("."), common.rfind("/")) + 1].lstrip(".")


def _by_position(arrays: Mapping[str, Array]) -> tuple[list[Layer], list[str]]:
    """The k-th vector goes with the k-th weight. ValueError where they are not as many."""
    keys = sorted(arrays, key=natural) if list(arrays) == sorted(arrays) else list(arrays)  # as text: 10 before 2
    vectors = {key: arrays[key] for key in keys if arrays[key].ndim == 1}
    if 2 * len(vectors) != len(keys):
        vectors = {key: arrays[key] for key in keys if max(arrays[key].shape) == arrays[key].size}
    weights = [key for key in keys if key not in vectors]
    if len(weights) != len(vectors):
        raise NoNetworkError(
            f"the names tell no layers, and {len(weights)} weights have {len(vectors)} biases: {listed(arrays)}"
        )
    layers = [
        Layer(str(number), {"weight": arrays[weight], "bias": vectors[bias]}, {"weight": weight, "bias": bias})
        for number, (weight, bias) in enumerate(zip(weights, vectors, strict=True), 1)
    ]
    return layers, [f"by their order, {', '.join(keys)} are {', '.join(_numbered(layers))}"]


# --- How each lies


def _squeezed(layer: Layer) -> Iterator[str]:
    """Vectors without axes of length 1, and filters of one channel with one."""
    for part, value in layer.arrays.items():
        if part == "weight" and value.ndim == 3 and value.shape[1] == value.shape[2]:
            layer.arrays[part] = value[:, np.newaxis]
            yield f"{layer.keys[part]} {value.shape}: filters of one channel, {layer.arrays[part].shape}"
        elif part != "weight" and value.ndim > 1 and max(value.shape) == value.size:
            layer.arrays[part] = value.ravel()
            yield f"{layer.keys[part]} {value.shape}: axes of length 1 are left out"


def _unbiased(layers: Sequence[Layer]) -> Iterator[str]:
    """A bias of 0 where a module has none among others that have: bias=False. The book's names are never without."""
    biased = any("bias" in layer.arrays for layer in layers)
    for layer in layers:
        key, value = layer.keys.get("weight", ""), layer.arrays.get("weight")
        if biased and "bias" not in layer.arrays and value is not None and value.ndim > 1 and _MODULES.search(key):
            layer.arrays["bias"] = np.zeros(layer.ends[2], value.dtype)
            yield f"{key}: no bias is beside it, 0 is taken"


def _turned(layers: Sequence[Layer], hints: Hints) -> Iterator[str]:
    """Kernels (H, W, inputs, outputs) as (outputs, inputs, H, W): by their biases, else as the others, or by name."""
    kernels = [layer for layer in layers if "weight" in layer.arrays and layer.arrays["weight"].ndim == 4]
    told = {lies for layer in kernels if (lies := _lies(layer))}
    for layer in kernels:
        key, value = layer.keys["weight"], layer.arrays["weight"]
        others = next(iter(told)) if len(told) == 1 else "hwio" if "kernel" in key.lower() else "oihw"
        if (hints.kernels or _lies(layer) or others) == "hwio":
            layer.arrays["weight"] = value.transpose(3, 2, 0, 1)
            yield f"{key} {value.shape}: H, W, inputs, outputs, as Keras has it"


def _lies(layer: Layer) -> str | None:
    """How a kernel's axes lie, if it has square filters and as many as biases in one way only."""
    shape, outputs = layer.arrays["weight"].shape, layer.biases
    ways = {"oihw": (shape[0], *shape[2:]), "hwio": (shape[3], *shape[:2])}
    fitting = [way for way, (count, height, width) in ways.items() if count == outputs and height == width]
    return fitting[0] if len(fitting) == 1 else None


def _orient(layers: Sequence[Layer], hints: Hints) -> None:
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
        lies = hints.affine or named
        if value.shape[0] != value.shape[1] and layer.biases in value.shape:
            lies = "out-in" if value.shape[0] == layer.biases else "in-out"
        elif hints.affine is None and (others := [other for other, lie in told.items() if lie != named]):
            raise ValueError(
                f"{key} {value.shape} is square: nothing tells whether it is transposed, as {', '.join(others)} is. "
                f"Say how they lie with affine, in-out (x @ W) or out-in (--affine)"
            )
        told[key] = lies
        layer.transposed = lies == "out-in" != named
        layer.arrays["weight"] = value.T if lies == "out-in" else value


def _unrolled(layer: Layer, layers: Sequence[Layer], hints: Hints) -> Iterator[str]:
    """A convolution's weight as im2col takes it, (C * FH * FW, FN), with its four axes again. ValueError."""
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
            if inputs == outputs and hints.affine is None:
                raise ValueError(
                    f"{layer.keys['weight']} {inputs, outputs} is a convolution's matrix of im2col, and square: say "
                    f"whether a filter is a column or a row of it with affine, in-out or out-in (--affine)"
                )
            shape = outputs, channels, side, side
            layer.arrays["weight"] = np.ascontiguousarray(layer.arrays["weight"].T).reshape(shape)
            layer.transposed = False
            yield f"{layer.keys['weight']}: {shape}, a convolution's, from the matrix of im2col"
            return


def _sorted_rows(layers: Sequence[Layer], hints: Hints, keras: bool) -> list[str]:
    """The first Affine's rows in the order C, H, W. ValueError where they may be in another, and nothing tells."""
    convs = [layer for layer in layers if layer.ends[0] == 4]
    affine = next((layer for layer in layers if layer.ends[0] == 2), None)
    if affine is None or not convs:
        if hints.flatten == "hwc":
            raise ValueError("flatten 'hwc' needs an Affine layer behind a convolution: leave it out")
        return []
    key, (_, rows, outputs), channels = affine.keys["weight"], affine.ends, convs[-1].ends[2]
    side = math.isqrt(rows // channels)
    if keras and hints.flatten is None and side > 1:
        raise ValueError(
            f"the kernels lie as H, W, inputs, outputs: then the rows of {key} may be in the order H, W, C, or in C, "
            f"H, W. Say which with flatten, hwc or chw (--flatten)"
        )
    if hints.flatten != "hwc" or side * side * channels != rows:
        return []
    image = affine.arrays["weight"].reshape(side, side, channels, outputs)
    affine.arrays["weight"] = image.transpose(2, 0, 1, 3).reshape(rows, outputs)
    return [f"{key}: rows from the order H, W, C to C, H, W"]


# --- What they are called


def _told(layers: Sequence[Layer], arrays: Iterable[str]) -> list[str]:
    """A line on names that are not the book's or the port's own, nor 1, 2 and so on."""
    weights = {layer.keys["weight"]: layer.name for layer in layers if "weight" in layer.arrays}
    names = list(weights.values())
    own = all(re.fullmatch(r"(conv|subsample|affine)\d+", name) for name in names)
    if own or names in ([""], [str(number) for number in range(1, len(names) + 1)]):
        return []
    by_shapes = "" if list(weights) == [key for key in arrays if key in weights] else ", by their shapes"
    return [f"{', '.join(names)} are layers 1 to {len(names)}{by_shapes}"]


def _numbered(layers: Sequence[Layer]) -> dict[str, Array]:
    names = {"weight": "W", "bias": "b"}
    counts, found = Counter[str](), dict[str, Array]()
    for layer in layers:
        for part in (part for part in PARTS if part in layer.arrays):
            counts[part] += 1
            number = counts["weight"] if part == "bias" and "weight" in layer.arrays else counts[part]
            found[f"{names.get(part, part)}{number}"] = np.ascontiguousarray(layer.arrays[part])
    return found
