"""In which order, and how, the forward pass of a module of one's own uses its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from numpy_ref.checks import Array
from torchport.parity import Report
from torchport.parity.calls import Call, Record, describe_error
from torchport.parity.places import side_inputs
from torchport.parity.preparation import restored
from torchport.parity.recording import record

ADDEND_FIRST = ("addmm", "addbmm", "baddbmm", "addmv", "addcmul")
PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "addbmm", "baddbmm")
OUTPUTS_FIRST = ("linear", "conv1d", "conv2d", "conv3d")  # along the first axis of the weight that they take


class LoadError(ValueError):
    """Weights that have no place in a port, or no single one; report is the certificate where there is one."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, eq=False)
class Use:
    """The first call that takes both data and a parameter or a buffer of the port, or both data and a part of one."""

    label: str  # its path; of what a parametrization makes of its originals, that one's
    shape: tuple[int, ...]
    owned: bool  # whether it is a parameter
    call: Call
    index: Array | None  # of the entries that the call takes, in the form in which it does; None where they are others
    outputs_first: bool | None  # whether a weight is (outputs, inputs) in that form; None where call does not tell

    def __str__(self) -> str:
        return f"the port's {self.label} {self.shape} ({self.call.name} at {self.call.where})"


def uses_of(port: nn.Module, x: Array, size: int) -> list[Use]:
    """Every parameter and buffer where data first meets it, a bias behind its weight; size is that of the output."""
    for dtype in dict.fromkeys((torch.float64, dtype_of(port))):  # in float64 entries can be told by their values
        with restored(port), torch.no_grad():
            port.to(dtype)
            _number(port)
            run = _run(port, x)
            if run.error is None:
                return list(_uses(port, run, size))
    assert run.error is not None
    raise LoadError(f"the port raised {describe_error(run.error)}, at {run.raised_at}") from run.error


def initialise(port: nn.Module, x: Array) -> None:
    """A lazy module gets its shapes from a first batch. LoadError where it cannot be run."""
    if any(map(nn.parameter.is_lazy, port.parameters())):
        like = next(port.parameters())
        try:
            with torch.no_grad():
                port(torch.tensor(x, dtype=like.dtype, device=like.device))
        except Exception as error:  # whatever a user's port raises
            raise LoadError(f"the port raised {describe_error(error)} on its first batch") from error


def values_in(port: nn.Module, x: Array, sizes: frozenset[int]) -> list[Array]:
    """What of these sizes the port makes of x in prediction."""
    with restored(port), torch.no_grad():
        return [call.value for call in _run(port, x, sizes).calls if call.depends_on_input and call.value is not None]


def dtype_of(port: nn.Module) -> torch.dtype:
    """Of the port's first parameter."""
    return next(port.parameters(), torch.empty(0)).dtype


def paths_of(port: nn.Module) -> set[str]:
    """Of its parameters; of what a parametrization makes of its originals, not of these."""
    return {_path(name) for name, _ in port.named_parameters()}


def _run(port: nn.Module, x: Array, sizes: frozenset[int] = frozenset()) -> Record:
    like = next(port.parameters(), torch.empty(0))
    return record(port.eval(), torch.tensor(x, dtype=like.dtype, device=like.device), sizes)


def _number(port: nn.Module) -> None:
    """Let every entry of a parameter say where it is: 1, 2, 3 ... times a power of two."""
    for path in paths_of(port):
        place = named(port, path)
        value = getattr(*place)
        new = torch.arange(1, value.numel() + 1, dtype=torch.float64).reshape(value.shape) * _unit(value.numel())
        try:
            set_value(place, new.to(value))
        except (ValueError, RuntimeError, NotImplementedError):  # of a parametrization, as is told where it is filled
            continue


def _unit(size: int) -> float:
    return float(2.0 ** -np.ceil(np.log2(size + 1)))


def set_value(place: tuple[nn.Module, str], value: Tensor) -> None:
    if is_parametrized(*place):
        setattr(*place, value)
    else:
        getattr(*place).data.copy_(value)


def _path(label: str) -> str:
    """Of a parameter; of a parametrization's original that of what is made of it."""
    module, _, original = label.partition("parametrizations.")
    return module + original.partition(".")[0]


def named(port: nn.Module, path: str) -> tuple[nn.Module, str]:
    module, _, name = path.rpartition(".")
    return reduce(getattr, filter(None, module.split(".")), port), name  # of what is scripted, too


def _uses(port: nn.Module, run: Record, size: int) -> Iterator[Use]:
    owned = paths_of(port)
    covered = dict[str, set[int] | None]()
    for call in _towards_output(run, size):
        parents = [run.calls[number] for number in call.parents]
        if call.name in ADDEND_FIRST:
            parents = [*parents[1:], *parents[:1]]
        for place, held in enumerate(parents):
            left = any(other.depends_on_input for other in parents[place:])  # W @ x
            first = left if call.name in PRODUCTS else True if call.name in OUTPUTS_FIRST else None
            sources = [] if held.depends_on_input else [held, *side_inputs(run.calls, [held])]
            for path in (_path(source.label) for source in sources):
                form = held.array if path else None
                if form is None:
                    continue
                shape = tuple(getattr(*named(port, path)).shape)
                index = _entries(form, int(np.prod(shape))) if path in owned else None
                if _is_new(covered, path, index, form.size >= np.prod(shape)):
                    yield Use(path, shape, path in owned, call, index, first)


def _towards_output(run: Record, size: int) -> list[Call]:
    """The calls of data that the output, of so many entries, depends on."""
    todo = [call for call in run.returned if call.tensor.numel() == size] or list(run.returned)
    found: dict[int, Call] = {}
    while todo:
        call = todo.pop()
        if call.depends_on_input and call.number not in found:
            found[call.number] = call
            todo += [run.calls[number] for number in call.parents]
    return [found[number] for number in sorted(found)]


def _entries(form: Array, size: int) -> Array | None:
    """Which entries of a numbered tensor these are; None where they are none."""
    with np.errstate(all="ignore"):
        places = form / _unit(size) - 1
        index = np.rint(places)
        plain = form.size > 0 and index.min() >= 0 and index.max() < size and np.abs(places - index).max() < 0.25
    return index.astype(np.int64) if plain else None


def _is_new(covered: dict[str, set[int] | None], path: str, index: Array | None, whole: bool) -> bool:
    """Whether this is the first use of these entries, and a use at all: a number made of them all is none."""
    seen = covered.get(path, set[int]())
    if seen is None or (index is None and not whole):
        return False
    if index is None or whole:
        covered[path] = None
        return not seen
    part = set(index.ravel().tolist())
    covered[path] = seen | part
    return not seen & part
