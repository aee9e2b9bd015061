"""Where the arrays of a reference lie among the parameters that a port uses, in every reading that its use allows."""

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
from torchport.loading.uses import PRODUCTS, LoadError, Use, named, set_value
from torchport.parity.recording import as_array


@dataclass(frozen=True, eq=False)
class Place:
    """Where an array of the reference lies: the port's tensor.flat[index] is arranged(array)."""

    name: str
    layer: str
    use: Use
    index: Array
    arranged: Callable[[Array], Array]
    reading: str = ""  # in words, where there may be others


Reading = tuple[Place, ...]  # of all arrays


def readings(reference: Network, x: Array, uses: Sequence[Use]) -> Iterator[Reading]:
    """One after the other; of most ports there is one. LoadError that names the first array that does not fit."""
    outputs = reference.outputs(x[:1]).values()
    shapes = dict(zip(reference.layers, [x.shape[1:], *(value.shape[1:] for value in outputs)], strict=False))
    left, choices = [use for use in uses if use.owned], list[list[Reading]]()
    for name, value in reference.params.items():
        wanted = f"the reference's {name} {value.shape}"
        if not left:
            seen = "no further parameter" if choices else "no parameter (nothing is seen of what is scripted)"
            raise LoadError(f"the port is seen to use {seen}, which {wanted} needs")
        use, layer = left.pop(0), reference.owners[name][0]
        index = _index(use, value)
        ways = {} if index is None else dict(_ways(use, index, value, shapes[layer]))
        if index is None or not ways:
            computed = use.index is None and int(np.prod(use.shape)) == value.size
            raise LoadError(f"{use} cannot hold {wanted}{', since something is computed of it' * computed}")
        if use.index is not None and use.index.size < index.size:  # the other parts of the same
            left = [other for other in left if other.label != use.label]
        words = [f"{use.label} holds {name}{way}" for way in ways]
        each = zip(words, ways.values(), strict=True)
        choices.append([(Place(name, layer, use, index.ravel(), way, said),) for said, way in each])
    for use in left:
        raise LoadError(f"the reference has nothing for {use}")
    choices += _statistics(reference, [use for use in uses if not use.owned])
    yield from (tuple(itertools.chain(*each)) for each in itertools.product(*choices))


def _index(use: Use, value: Array) -> Array | None:
    """Of the entries that hold value, in the form in which they are used. None where they cannot."""
    size, index = int(np.prod(use.shape)), use.index
    if index is not None and index.size > value.size and index.size % value.size == 0:
        rows = index.reshape(-1, value.size)
        if (rows == rows[0]).all():  # as often as there are samples
            lengths = np.cumprod(index.shape[::-1])[::-1]
            index = rows[0].reshape(index.shape[int(np.argmax(lengths <= value.size)) :])
    if index is not None and index.size == value.size:
        return index
    if size == value.size and (index is not None or value.ndim < 2):  # part by part, or with more in the same step
        return np.arange(size).reshape(use.shape)
    return None


def _ways(
    use: Use, index: Array, value: Array, before: tuple[int, ...]
) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """In which value may lie there, each in words; before is the shape of a sample before its layer."""
    if value.ndim < 2:
        yield "", np.ravel
        return
    if value.ndim == index.ndim == 4 and value.shape != index.shape:
        return
    product = use.call.name in PRODUCTS
    form = index.reshape((-1, index.shape[-1]) if product else (len(index), -1)).shape
    outputs, inputs = (len(value), value.size // len(value)) if value.ndim == 4 else value.shape[::-1]
    told = use.outputs_first if outputs == inputs else None  # else its shape tells
    for order, axes in _orders(before) if value.ndim == 2 and (product or index.ndim == 2) else [("", ())]:
        if form == (outputs, inputs) and told is not False:
            yield f" as (outputs, inputs){order}", partial(_arranged, before=before, axes=axes)
        if form == (inputs, outputs) and told is not True:
            yield f" as (inputs, outputs){order}", partial(_arranged, before=before, axes=axes, turned=True)


def _orders(before: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """In which maps (C, H, W) may be flattened, the book's first."""
    seen = set[bytes]()
    for axes in itertools.permutations(range(len(before))):
        order = np.arange(np.prod(before)).reshape(before).transpose(axes).tobytes()
        if order not in seen:
            seen.add(order)
            yield f", inputs in the order {', '.join('CHW'[axis] for axis in axes)}" if len(before) == 3 else "", axes


def _arranged(array: Array, before: tuple[int, ...], axes: tuple[int, ...], turned: bool = False) -> Array:
    """A weight as rows of (outputs, inputs), or turned; of maps that are flattened with their axes in this order."""
    inputs = array.reshape(*before, -1).transpose(*axes, len(axes)) if axes else array
    rows: Array = array.reshape(len(array), -1) if array.ndim == 4 else inputs.reshape(array.shape).T
    return (rows.T if turned else rows).ravel()


def _statistics(reference: Network, buffers: list[Use]) -> Iterator[list[Reading]]:
    """Of running ones in the order of use; where no name tells which is the mean, in both ways. None where none fit."""
    normalising = [name for name, layer in reference.layers.items() if isinstance(layer, BatchNormalization)]
    for number, layer in enumerate(normalising, 1):
        size = np.size(reference.layers[layer].gamma)
        fitting = [use for use in buffers if np.prod(use.shape) == size]
        told = [next((use for use in fitting if use.label.endswith(name)), None) for name in STATISTICS]
        pairs = [(told[0], told[1])] if all(told) else list(itertools.permutations(fitting[:2]))
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
        buffers = [use for use in buffers if all(use is not each for each in pairs[0])]


def write(port: nn.Module, places: Reading, arrays: Mapping[str, Array]) -> None:
    """Let the port have these arrays. LoadError where a parametrization has no way back."""
    for place in places:
        module = named(port, place.use.label)
        value = getattr(*module).detach().clone().reshape(-1)
        value[torch.from_numpy(place.index)] = torch.from_numpy(place.arranged(arrays[place.name]).copy()).to(value)
        value = value.reshape(place.use.shape)
        try:
            set_value(module, value)
            if is_parametrized(*module) and not torch.allclose(getattr(*module), value, rtol=1e-3):
                raise ValueError("its parametrization makes something else of it")
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise LoadError(f"{place.use} cannot be set to the reference's {place.name}: {error}") from error


def read(port: nn.Module, places: Reading, like: Network) -> Network:
    """like with the arrays that the port has."""
    arrays = {**like.params, **like.statistics}
    found = dict[str, Array]()
    for place in places:
        shape = arrays[place.name].shape
        value, entries = np.zeros(shape), place.arranged(np.arange(arrays[place.name].size).reshape(shape))
        held = as_array(getattr(*named(port, place.use.label)))
        assert held is not None
        value.flat[entries] = held.flat[place.index]
        found[place.name] = value
    return with_arrays(like, found)


def with_arrays(network: Network, arrays: Mapping[str, Array]) -> Network:
    """A copy with these parameters and running statistics."""
    found = copy.copy(network)
    found.layers = Layers({name: copy.copy(layer) for name, layer in network.layers.items()})
    found.params = dict(network.params)
    found.set_params({name: arrays[name] for name in found.params})
    found.set_statistics({**network.statistics, **arrays})
    return found


def rounded(reference: Network, dtype: torch.dtype) -> Network:
    """A copy with weights as a port of this dtype can hold them. ValueError where it cannot."""
    arrays = dict[str, Array]()
    for name, value in {**reference.params, **reference.statistics}.items():
        arrays[name] = torch.tensor(value, dtype=torch.float64).to(dtype).double().numpy()
        if np.isfinite(value).all() and not np.isfinite(arrays[name]).all():
            raise LoadError(f"{name} holds {np.abs(value).max():g}, more than {dtype} can")
    return with_arrays(reference, arrays)
