"""Converts arrays with any names and layout to the book's parameters W1, b1, W2, b2 and so on.

Each step applies only if exactly one interpretation fits, and reports what it did in one line. If several fit, the
error names them and the argument that decides.
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
from torchport.networks.nearest import USUAL_SIDES, NoNetworkError, can_follow, list_shapes
from torchport.networks.order import PARTS, Layer, natural_key, select_layers, sort_layers

_KEY = re.compile(
    r"(?:(?P<module>.*)[._/])?(?:"
    + "|".join(f"(?P<{part}>{names})" for part, names in PARTS.items())
    + r")_?(?P<number>\d{0,4})(?::0)?",
    re.IGNORECASE,
)
_FRAMEWORK_WEIGHT = re.compile(r"(weight|kernel)(:0)?$")  # at the end of a key: a framework's name, not the book's
_NORMALISATION = re.compile(r"bn|norm", re.IGNORECASE)


def to_params(arrays: Mapping[str, Array], hints: Hints = NO_HINTS) -> tuple[dict[str, Array], list[str]]:
    """Return the book's params, made of arrays with any names, and a line on each conversion. ValueError."""
    matches = {key: match for key in arrays if (match := _KEY.fullmatch(key))}
    others = {key: arrays[key] for key in arrays if matches and key not in matches}
    layers, steps = _group_by_name(arrays, matches) if matches else _group_by_position(arrays)
    if hints.order is not None:
        layers, left_out = select_layers(layers, hints.order, others)
        others, steps = {}, steps + left_out
    if orphans := [layer.keys["bias"] for layer in layers if layer.arrays.keys() == {"bias"}]:
        raise NoNetworkError(f"{orphans[0]} is a bias without a weight: {list_shapes(arrays)}")
    steps += [line for layer in layers for line in _squeeze(layer)]
    hwio_lines = list(_convert_hwio(layers, hints))
    _orient_affine(layers, hints)
    layers = layers if hints.order is not None else sort_layers(layers)
    order_lines = [*_describe_order(layers, arrays), *_add_zero_biases(layers)]
    kernel_lines = [line for layer in layers for line in _restore_kernel(layer, layers, hints)]
    row_lines = _reorder_rows(layers, hints, bool(hwio_lines))
    if transposed := [layer.keys["weight"] for layer in layers if layer.transposed]:
        steps.append(f"{', '.join(transposed)}: transposed, since they came as (outputs, inputs)")
    return {**_number_params(layers), **others}, steps + order_lines + hwio_lines + kernel_lines + row_lines


def names_part(key: str) -> bool:
    """Return whether key ends in the name of one of a layer's arrays, as conv1.weight does."""
    return _KEY.fullmatch(key) is not None


# --- Grouping arrays into layers


def _group_by_name(arrays: Mapping[str, Array], matches: Mapping[str, re.Match[str]]) -> tuple[list[Layer], list[str]]:
    """Return the layers that the keys name, and a line on a prefix that all of them share."""
    prefix = _common_prefix([match["module"] or "" for match in matches.values()])
    layers: dict[str, Layer] = {}
    for key, match in matches.items():
        name = f"{match['module'] or ''}.".removeprefix(prefix).rstrip(".") + match["number"]
        part = next(part for part in PARTS if match[part] is not None)
        layer = layers.setdefault(name, Layer(name))
        if part in layer.arrays:
            raise ValueError(f"{layer.keys[part]} and {key} are both the {part} of one layer: {list_shapes(arrays)}")
        layer.arrays[part], layer.keys[part] = arrays[key], key
    for layer in layers.values():
        if "gamma" not in layer.arrays and ("running_mean" in layer.arrays or _NORMALISATION.search(layer.name)):
            names = {"weight": "gamma", "bias": "beta"}
            layer.arrays = {names.get(part, part): value for part, value in layer.arrays.items()}
            layer.keys = {names.get(part, part): key for part, key in layer.keys.items()}
    grouped = list(layers.values())
    if all(layer.name.isdecimal() for layer in grouped):
        grouped.sort(key=lambda layer: int(layer.name))
    return grouped, [f"before every key {prefix[:-1]!r} is left out"] if prefix else []


def _common_prefix(modules: Sequence[str]) -> str:
    """Return the prefix that all module paths share, up to a dot or a slash; the whole path if they are equal."""
    first, last = f"{min(modules)}.", f"{max(modules)}."  # what these two share, all share
    common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return common[: max(common.rfind("."), common.rfind("/")) + 1].lstrip(".")


def _group_by_position(arrays: Mapping[str, Array]) -> tuple[list[Layer], list[str]]:
    """Pair the k-th vector with the k-th weight, for keys that name no part. ValueError if their counts differ."""
    keys = sorted(arrays, key=natural_key) if list(arrays) == sorted(arrays) else list(arrays)  # text has 10 before 2
    vectors = {key: arrays[key] for key in keys if arrays[key].ndim == 1}
    if 2 * len(vectors) != len(keys):
        vectors = {key: arrays[key] for key in keys if max(arrays[key].shape) == arrays[key].size}
    weights = [key for key in keys if key not in vectors]
    if len(weights) != len(vectors):
        raise NoNetworkError(
            f"the names tell no layers, and {len(weights)} weights have {len(vectors)} biases: {list_shapes(arrays)}"
        )
    layers = [
        Layer(str(number), {"weight": arrays[weight], "bias": vectors[bias]}, {"weight": weight, "bias": bias})
        for number, (weight, bias) in enumerate(zip(weights, vectors, strict=True), 1)
    ]
    return layers, [f"by their order, {', '.join(keys)} are {', '.join(_number_params(layers))}"]


# --- Converting the layout of each array


def _squeeze(layer: Layer) -> Iterator[str]:
    """Drop axes of length 1 from vectors, and give filters (FN, FH, FW) of one channel their channel axis."""
    for part, value in layer.arrays.items():
        if part == "weight" and value.ndim == 3 and value.shape[1] == value.shape[2]:
            layer.arrays[part] = value[:, np.newaxis]
            yield f"{layer.keys[part]} {value.shape}: filters of one channel, {layer.arrays[part].shape}"
        elif part != "weight" and value.ndim > 1 and max(value.shape) == value.size:
            layer.arrays[part] = value.ravel()
            yield f"{layer.keys[part]} {value.shape}: axes of length 1 are left out"


def _add_zero_biases(layers: Sequence[Layer]) -> Iterator[str]:
    """Add biases of 0 to framework layers that lack them (bias=False), if others have some; never for the book's W."""
    any_bias = any("bias" in layer.arrays for layer in layers)
    for layer in layers:
        key, weight = layer.keys.get("weight", ""), layer.arrays.get("weight")
        lacks_bias = "bias" not in layer.arrays and weight is not None and weight.ndim > 1
        if any_bias and lacks_bias and _FRAMEWORK_WEIGHT.search(key):
            layer.arrays["bias"] = np.zeros(layer.sizes.outputs, layer.arrays["weight"].dtype)
            yield f"{key}: it has no bias, so 0 is used"


def _convert_hwio(layers: Sequence[Layer], hints: Hints) -> Iterator[str]:
    """Turn kernels (H, W, inputs, outputs) to (outputs, inputs, H, W), judged by hints, biases, siblings or names."""
    kernels = [layer for layer in layers if "weight" in layer.arrays and layer.arrays["weight"].ndim == 4]
    layouts = {layout for layer in kernels if (layout := _kernel_layout(layer))}
    for layer in kernels:
        key, value = layer.keys["weight"], layer.arrays["weight"]
        default = next(iter(layouts)) if len(layouts) == 1 else "hwio" if "kernel" in key.lower() else "oihw"
        if (hints.kernels or _kernel_layout(layer) or default) == "hwio":
            layer.arrays["weight"] = value.transpose(3, 2, 0, 1)
            yield f"{key} {value.shape}: H, W, inputs, outputs, as Keras has it"


def _kernel_layout(layer: Layer) -> str | None:
    """Return "oihw" or "hwio" if only one of them gives square filters, one per bias; else None."""
    shape, outputs = layer.arrays["weight"].shape, layer.bias_count
    layouts = {"oihw": (shape[0], *shape[2:]), "hwio": (shape[3], *shape[:2])}
    fitting = [layout for layout, (count, height, width) in layouts.items() if count == outputs and height == width]
    return fitting[0] if len(fitting) == 1 else None


def _orient_affine(layers: Sequence[Layer], hints: Hints) -> None:
    """Turn two-axis weights to (inputs, outputs), judged by their number of biases, else by name. ValueError."""
    seen_affine, orientations = False, dict[str, str]()  # by key
    for layer in layers:
        value = layer.arrays.get("weight")
        if value is not None and value.ndim == 4 and value.shape[2:] == (1, 1) and seen_affine:
            value = layer.arrays["weight"] = value.reshape(value.shape[:2])
        if value is None or value.ndim != 2:
            continue
        seen_affine, key = True, layer.keys["weight"]
        by_name = "out-in" if key.lower().endswith(("weight", "weights")) else "in-out"
        orientation = hints.affine or by_name
        if value.shape[0] != value.shape[1] and layer.bias_count in value.shape:
            orientation = "out-in" if value.shape[0] == layer.bias_count else "in-out"
        elif hints.affine is None and (others := [other for other, way in orientations.items() if way != by_name]):
            raise ValueError(
                f"{key} {value.shape} is square: nothing tells whether it is transposed, as {', '.join(others)} is. "
                f"Say how they lie with affine, in-out (x @ W) or out-in (--affine)"
            )
        orientations[key] = orientation
        layer.transposed = orientation == "out-in" != by_name
        layer.arrays["weight"] = value.T if orientation == "out-in" else value


def _restore_kernel(layer: Layer, layers: Sequence[Layer], hints: Hints) -> Iterator[str]:
    """Reshape a convolution's weight from im2col's matrix (C * FH * FW, FN) to its four axes. ValueError."""
    place = layers.index(layer)
    before, after = layers[:place], layers[place + 1 :]
    if any(each.sizes.ndim != 4 for each in before) or not after or layer.sizes.ndim != 2:
        return
    _, inputs, outputs = layer.sizes
    if after[0].sizes.inputs == outputs or not can_follow(after[0].sizes.inputs, 2, 4, outputs):
        return
    for channels in (before[-1].sizes.outputs,) if before else USUAL_SIDES:
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


def _reorder_rows(layers: Sequence[Layer], hints: Hints, keras: bool) -> list[str]:
    """Put the first Affine's rows in the order C, H, W. ValueError if Keras' order is possible and hints do not say."""
    convs = [layer for layer in layers if layer.sizes.ndim == 4]
    affine = next((layer for layer in layers if layer.sizes.ndim == 2), None)
    if affine is None or not convs:
        if hints.flatten == "hwc":
            raise ValueError("flatten 'hwc' needs an Affine layer behind a convolution: leave it out")
        return []
    key, (_, rows, outputs), channels = affine.keys["weight"], affine.sizes, convs[-1].sizes.outputs
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


# --- Naming the result


def _describe_order(layers: Sequence[Layer], keys: Iterable[str]) -> list[str]:
    """Return a line on the layers' order, unless their names are torchport's (conv1) or 1, 2 and so on."""
    name_by_key = {layer.keys["weight"]: layer.name for layer in layers if "weight" in layer.arrays}
    names = list(name_by_key.values())
    is_port = all(re.fullmatch(r"(conv|subsample|affine)\d+", name) for name in names)
    if is_port or names in ([""], [str(number) for number in range(1, len(names) + 1)]):
        return []
    by_shapes = "" if list(name_by_key) == [key for key in keys if key in name_by_key] else ", by their shapes"
    return [f"{', '.join(names)} are layers 1 to {len(names)}{by_shapes}"]


def _number_params(layers: Sequence[Layer]) -> dict[str, Array]:
    """Name the arrays W1, b1, gamma1 and so on: a bias by its weight's number, all else by its own count."""
    names = {"weight": "W", "bias": "b"}
    counts, params = Counter[str](), dict[str, Array]()
    for layer in layers:
        for part in (part for part in PARTS if part in layer.arrays):
            counts[part] += 1
            number = counts["weight"] if part == "bias" and "weight" in layer.arrays else counts[part]
            params[f"{names.get(part, part)}{number}"] = np.ascontiguousarray(layer.arrays[part])
    return params
