"""Readings: every way in which the reference's arrays may lie in the parameters that a port uses."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from numpy_ref.network import STATISTICS, Layers, Network
from torchport.loading.uses import PRODUCTS, LoadError, Use, find_attribute, set_value
from torchport.parity.calls import as_array


@dataclass(frozen=True, eq=False)
class Place:
    """Where an array of the reference lies in the port: tensor.flat[index] = arrange(array)."""

    name: str
    layer: str
    use: Use
    index: Array
    arrange: Callable[[Array], Array]
    words: str = ""  # describes the place where there is a choice


Reading = tuple[Place, ...]  # a place for every array of the reference


def readings(reference: Network, x: Array, uses: Sequence[Use]) -> Iterator[Reading]:
    """Yield every reading of uses; most ports allow one. LoadError names the first array that has no place."""
    outputs = reference.outputs(x[:1]).values()
    input_shapes = dict(zip(reference.layers, [x.shape[1:], *(value.shape[1:] for value in outputs)], strict=False))
    remaining, choices = [use for use in uses if use.is_parameter], list[list[Reading]]()
    for name, value in reference.params.items():
        array = f"the reference's {name} {value.shape}"
        if not remaining:
            lacking = "no further parameter" if choices else "no parameter (scripted code cannot be seen)"
            raise LoadError(f"the port is seen to use {lacking}, which {array} needs")
        use, layer = remaining.pop(0), reference.owners[name][0]
        index = _find_entries(use, value)
        layouts = {} if index is None else dict(_layouts(use, index, value, input_shapes[layer]))
        if index is None or not layouts:
            is_computed = use.index is None and int(np.prod(use.shape)) == value.size
            raise LoadError(f"{use} cannot hold {array}{', since something is computed of it' * is_computed}")
        if use.index is not None and use.index.size < index.size:  # the other uses are parts of the same tensor
            remaining = [other for other in remaining if other.label != use.label]
        prefix = f"{use.label} holds {name}"
        places = [Place(name, layer, use, index.ravel(), arrange, prefix + words) for words, arrange in layouts.items()]
        choices.append([(place,) for place in places])
    for use in remaining:
        raise LoadError(f"the reference has nothing for {use}")
    choices += _statistics(reference, [use for use in uses if not use.is_parameter])
    yield from (tuple(itertools.chain(*choice)) for choice in itertools.product(*choices))


def _find_entries(use: Use, value: Array) -> Array | None:
    """Return the flat indices of the entries of use's tensor that hold value, shaped as they are used, or None."""
    size, index = int(np.prod(use.shape)), use.index
    if index is not None and index.size > value.size and index.size % value.size == 0:
        rows = index.reshape(-1, value.size)
        if (rows == rows[0]).all():  # expanded: repeated for each sample
            lengths = np.cumprod(index.shape[::-1])[::-1]
            index = rows[0].reshape(index.shape[int(np.argmax(lengths <= value.size)) :])
    if index is not None and index.size == value.size:
        return index
    if size == value.size and (index is not None or value.ndim < 2):  # used in parts, or combined with other tensors
        return np.arange(size).reshape(use.shape)
    return None


def _layouts(
    use: Use, index: Array, value: Array, input_shape: tuple[int, ...]
) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Yield each layout in which value may lie at index, as words and a function; input_shape is its layer's."""
    if value.ndim < 2:
        yield "", np.ravel
        return
    if value.ndim == index.ndim == 4 and value.shape != index.shape:
        return
    is_product = use.call.name in PRODUCTS
    shape = index.reshape((-1, index.shape[-1]) if is_product else (len(index), -1)).shape
    outputs, inputs = (len(value), value.size // len(value)) if value.ndim == 4 else value.shape[::-1]
    outputs_first = use.outputs_first if outputs == inputs else None  # for others the shape decides
    for order, axes in _orders(input_shape) if value.ndim == 2 and (is_product or index.ndim == 2) else [("", ())]:
        if shape == (outputs, inputs) and outputs_first is not False:
            yield f" as (outputs, inputs){order}", partial(_arrange, input_shape=input_shape, axes=axes)
        if shape == (inputs, outputs) and outputs_first is not True:
            yield f" as (inputs, outputs){order}", partial(_arrange, input_shape=input_shape, axes=axes, transpose=True)


def _orders(input_shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each order of axes in which maps (C, H, W) may be flattened, in words and as axes, the book's first."""
    seen = set[bytes]()
    for axes in itertools.permutations(range(len(input_shape))):
        order = np.arange(np.prod(input_shape)).reshape(input_shape).transpose(axes).tobytes()
        if order not in seen:
            seen.add(order)
            letters = ", ".join("CHW"[axis] for axis in axes) if len(input_shape) == 3 else ""
            yield f", inputs in the order {letters}" if letters else "", axes


def _arrange(array: Array, input_shape: tuple[int, ...], axes: tuple[int, ...], transpose: bool = False) -> Array:
    """Flatten a weight as (outputs, inputs), or transposed, for inputs that are flattened in the order axes."""
    inputs = array.reshape(*input_shape, -1).transpose(*axes, len(axes)) if axes else array
    rows: Array = array.reshape(len(array), -1) if array.ndim == 4 else inputs.reshape(array.shape).T
    return (rows.T if transpose else rows).ravel()


def _statistics(reference: Network, buffers: list[Use]) -> Iterator[list[Reading]]:
    """Yield the readings of each layer's statistics in the order of use: two, unless names tell; none if none fit."""
    normalisations = [name for name, layer in reference.layers.items() if isinstance(layer, BatchNormalization)]
    for number, layer in enumerate(normalisations, 1):
        size = np.size(reference.layers[layer].gamma)
        fitting = [use for use in buffers if np.prod(use.shape) == size]
        named = [next((use for use in fitting if use.label.endswith(name)), None) for name in STATISTICS]
        pairs = [(named[0], named[1])] if all(named) else list(itertools.permutations(fitting[:2]))
        if len(fitting) < 2:
            continue
        yield [
            tuple(
                Place(f"{name}{number}", layer, use, np.arange(size), np.ravel, f"{use.label} holds {name}{number}")
                for name, use in zip(STATISTICS, pair, strict=True)
                if use is not None
            )
            for pair in pairs
        ]
        buffers = [use for use in buffers if all(use is not taken for taken in pairs[0])]


def write(port: nn.Module, reading: Reading, arrays: Mapping[str, Array]) -> None:
    """Write arrays into the port's parameters and buffers. LoadError if a parametrization cannot be inverted."""
    for place in reading:
        attribute = find_attribute(port, place.use.label)
        value = getattr(*attribute).detach().clone().reshape(-1)
        value[torch.from_numpy(place.index)] = torch.from_numpy(place.arrange(arrays[place.name]).copy()).to(value)
        value = value.reshape(place.use.shape)
        try:
            set_value(attribute, value)
            if is_parametrized(*attribute) and not torch.allclose(getattr(*attribute), value, rtol=1e-3):
                raise ValueError("its parametrization makes something else of it")
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise LoadError(f"{place.use} cannot be set to the reference's {place.name}: {error}") from error


def read(port: nn.Module, reading: Reading, network: Network) -> Network:
    """Return a copy of network with the port's parameters and buffers."""
    arrays = {**network.params, **network.statistics}
    port_arrays = dict[str, Array]()
    for place in reading:
        shape = arrays[place.name].shape
        value, entries = np.zeros(shape), place.arrange(np.arange(arrays[place.name].size).reshape(shape))
        tensor = as_array(getattr(*find_attribute(port, place.use.label)))
        assert tensor is not None
        value.flat[entries] = tensor.flat[place.index]
        port_arrays[place.name] = value
    return with_arrays(network, port_arrays)


def with_arrays(network: Network, arrays: Mapping[str, Array]) -> Network:
    """Return a copy of network with these parameters and running statistics."""
    replaced = copy.copy(network)
    replaced.layers = Layers({name: copy.copy(layer) for name, layer in network.layers.items()})
    replaced.params = dict(network.params)
    replaced.set_params({name: arrays[name] for name in replaced.params})
    replaced.set_statistics({**network.statistics, **arrays})
    return replaced


def round_weights(reference: Network, dtype: torch.dtype) -> Network:
    """Return a copy of reference with weights rounded to dtype, in float64. ValueError for values out of its range."""
    arrays = dict[str, Array]()
    for name, value in {**reference.params, **reference.statistics}.items():
        arrays[name] = torch.tensor(value, dtype=torch.float64).to(dtype).double().numpy()
        if np.isfinite(value).all() and not np.isfinite(arrays[name]).all():
            raise LoadError(f"{name} holds {np.abs(value).max():g}, more than {dtype} can")
    return with_arrays(reference, arrays)
