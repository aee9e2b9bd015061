"""The reference's weights into a port as people write it, by the order in which its forward pass uses parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from numpy_ref.checks import Array
from numpy_ref.network import Network
from torchport.parity.given import restored, unwrapped
from torchport.parity.links import sides
from torchport.parity.recording import Call, Record, as_array, record

ADDEND_FIRST = ("addmm", "addbmm", "baddbmm", "addmv", "addcmul")
PRODUCTS = ("matmul", "mm", "bmm", "addmm", "addbmm", "baddbmm")
OUTPUTS_FIRST = ("linear", "conv1d", "conv2d", "conv3d")  # along the first axis of the weight that they take


class Use(NamedTuple):
    """The first call that takes both data and a parameter or a buffer of the port."""

    label: str  # its path; of what a parametrization makes of its originals, that one's
    tensor: Tensor
    call: Call
    form: Array  # in which call takes it
    outputs_first: bool | None  # whether a weight is (outputs, inputs) in that form; None where call does not tell

    def __str__(self) -> str:
        return f"the port's {self.label} {tuple(self.tensor.shape)} ({self.call.name} at {self.call.where})"


def load_into(port: nn.Module, reference: Network, x: Array) -> list[str]:
    """Give port the reference's weights and running statistics; x (N, ...) is what it runs on to show their order.

    What the port does with a weight tells its layout. Returns "W1: conv1.weight" for all that was filled, and "not
    used: ..." for what was left alone. ValueError where the port has other parameters: then nothing is changed.
    """
    inner = unwrapped(port)
    with restored(inner), torch.no_grad():
        for number, parameter in enumerate(inner.parameters()):  # a weight of zeros looks the same in every layout
            parameter.copy_(1 + torch.rand(parameter.shape, generator=torch.Generator().manual_seed(number)))
        uses = list(_uses(inner, _run(inner.eval(), x)))
        owned = {_path(name) for name, _ in inner.named_parameters()}
        filled = [*_weights(reference, [use for use in uses if use.label in owned])]
        filled += _statistics(reference, [use for use in uses if use.label not in owned])
    _write(inner, filled)
    unused = sorted(owned - {use.label for use in uses})
    return [*(f"{name}: {use.label}" for name, use, _ in filled), *(f"not used: {label}" for label in unused)]


def _run(port: nn.Module, x: Array) -> Record:
    like = next(port.parameters(), torch.empty(0))
    found = record(port, port, torch.tensor(x, dtype=like.dtype, device=like.device), frozenset())
    if found.error is not None:
        said = (str(found.error).splitlines() or [""])[0]
        raise ValueError(f"the port raised {type(found.error).__name__}: {said}, at {found.raised}") from found.error
    return found


def _uses(port: nn.Module, run: Record) -> Iterator[Use]:
    """Every parameter and buffer where data first meets it, a bias behind its weight."""
    seen = {""}
    for call in run.calls:
        parents = [run.calls[number] for number in call.parents if call.of_data]
        if call.name in ADDEND_FIRST:
            parents = [*parents[1:], *parents[:1]]
        for place, held in enumerate(parents):
            left = any(other.of_data for other in parents[place:])  # W @ x
            first = left if call.name in PRODUCTS else True if call.name in OUTPUTS_FIRST else None
            for path in [_path(each.label) for each in (held, *sides(run.calls, [held])) if not held.of_data]:
                if path not in seen and held.array is not None:
                    seen.add(path)
                    yield Use(path, getattr(*_named(port, path)), call, held.array, first)


def _path(label: str) -> str:
    """Of a parameter; of a parametrization's original that of what is made of it."""
    module, _, original = label.partition("parametrizations.")
    return module + original.partition(".")[0]


def _named(port: nn.Module, path: str) -> tuple[nn.Module, str]:
    module, _, name = path.rpartition(".")
    return port.get_submodule(module), name


def _weights(reference: Network, uses: Sequence[Use]) -> Iterator[tuple[str, Use, Array]]:
    """One after the other. ValueError that names the first that does not fit."""
    for number, (name, value) in enumerate(reference.params.items()):
        wanted = f"the reference's {name} {value.shape}"
        if number == len(uses):
            seen = "no further parameter" if uses else "no parameter (nothing is seen of what is scripted)"
            raise ValueError(f"the port is seen to use {seen}, which {wanted} needs")
        yield name, uses[number], _fitted(uses[number], value, wanted)
    for use in uses[len(reference.params) :]:
        raise ValueError(f"the reference has nothing for {use}")


def _fitted(use: Use, value: Array, wanted: str) -> Array:
    """value as the port's tensor holds it. ValueError with the reason where it cannot, or where nothing tells how."""
    shape, tensor = use.tensor.shape, as_array(use.tensor)
    if tensor is None or tensor.size != value.size or (len(shape) == value.ndim == 4 and shape != value.shape):
        raise ValueError(f"{use} cannot hold {wanted}")
    if value.ndim < 2:
        return value.reshape(shape)
    rows = value.reshape(len(value), -1) if value.ndim == 4 else value.T  # (outputs, inputs)
    held = tensor.reshape(len(tensor), -1)
    if held.shape not in (rows.shape, rows.T.shape):
        raise ValueError(f"{use} cannot hold {wanted}")
    # Taken as it is, or transposed; as often as there are samples, perhaps.
    turned = [bool((use.form.reshape(-1, way.size) == way.ravel()).all()) for way in (held, held.T)]
    if not any(turned):
        raise ValueError(f"{use} cannot hold {wanted}, since something is computed of it")
    inputs_first = held.shape != rows.shape
    if held.shape == rows.T.shape == rows.shape:
        if use.outputs_first is None:
            raise ValueError(f"{use} may hold {wanted} in two ways, and the call does not tell in which")
        inputs_first = use.outputs_first == turned[1]
    return (rows.T if inputs_first else rows).reshape(shape)


def _statistics(reference: Network, uses: list[Use]) -> Iterator[tuple[str, Use, Array]]:
    """Running ones, into buffers of their size in the order of use, those of such a name first; where there are any."""
    for name, value in reference.statistics.items():
        fitting = [use for use in uses if use.tensor.numel() == value.size]
        for use in sorted(fitting, key=lambda use: not use.label.endswith(name.rstrip("0123456789")))[:1]:
            uses.remove(use)
            yield name, use, value.reshape(use.tensor.shape)


def _write(port: nn.Module, filled: Sequence[tuple[str, Use, Array]]) -> None:
    """All or nothing. ValueError where a parametrization has no way back."""
    kept = {name: value.clone() for name, value in port.state_dict().items()}
    for name, use, value in filled:
        place, new = _named(port, use.label), torch.tensor(value, dtype=use.tensor.dtype, device=use.tensor.device)
        if not is_parametrized(*place):
            use.tensor.data.copy_(new)
            continue
        try:
            setattr(*place, new)
            if not torch.allclose(getattr(*place), new, rtol=1e-3):
                raise ValueError("its parametrization makes something else of it")
        except (ValueError, RuntimeError, NotImplementedError) as error:
            port.load_state_dict(kept)
            raise ValueError(f"{use} cannot be set to the reference's {name}: {error}") from error
