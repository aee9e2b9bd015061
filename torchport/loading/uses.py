"""Records the order in which the forward pass of a user's module uses its parameters, and the operations it uses."""

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
OUTPUTS_FIRST = ("linear", "conv1d", "conv2d", "conv3d")  # these take weights (outputs, inputs, ...)


class LoadError(ValueError):
    """Raised if weights have no place in a port, or more than one; report is the certificate, if one was made."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, eq=False)
class Use:
    """The first call that combines data with a parameter or a buffer of the port, or with a part of one."""

    label: str  # path of the parameter or buffer; of the parametrized tensor, not of its originals
    shape: tuple[int, ...]
    is_parameter: bool
    call: Call
    index: Array | None  # flat indices of the entries that call takes, in their shape there; None if computed from them
    outputs_first: bool | None  # whether call takes a weight as (outputs, inputs); None if its name does not tell

    def __str__(self) -> str:
        return f"the port's {self.label} {self.shape} ({self.call.name} at {self.call.where})"


def uses_of(port: nn.Module, x: Array, size: int) -> list[Use]:
    """Return the first use of every parameter and buffer in order, a bias after its weight; size is the output's."""
    for dtype in dict.fromkeys((torch.float64, dtype_of(port))):  # float64 has room to number all entries
        with restored(port), torch.no_grad():
            port.to(dtype)
            _number_entries(port)
            run = _run(port, x)
            if run.error is None:
                return list(_uses(port, run, size))
    assert run.error is not None
    raise LoadError(f"the port raised {describe_error(run.error)}, at {run.raised_at}") from run.error


def initialise(port: nn.Module, x: Array) -> None:
    """Give a lazy module its shapes by a first batch. LoadError if it raises."""
    if any(map(nn.parameter.is_lazy, port.parameters())):
        parameter = next(port.parameters())
        try:
            with torch.no_grad():
                port(torch.tensor(x, dtype=parameter.dtype, device=parameter.device))
        except Exception as error:  # a user's port may raise anything
            raise LoadError(f"the port raised {describe_error(error)} on its first batch") from error


def intermediate_values(port: nn.Module, x: Array, sizes: frozenset[int]) -> list[Array]:
    """Return all values with these numbers of entries that the port computes from x in evaluation mode."""
    with restored(port), torch.no_grad():
        return [call.value for call in _run(port, x, sizes).calls if call.depends_on_input and call.value is not None]


def dtype_of(port: nn.Module) -> torch.dtype:
    """Return the dtype of the port's first parameter."""
    return next(port.parameters(), torch.empty(0)).dtype


def parameter_paths(port: nn.Module) -> set[str]:
    """Return the paths of the port's parameters, with parametrized tensors in place of their originals."""
    return {_path(name) for name, _ in port.named_parameters()}


def _run(port: nn.Module, x: Array, sizes: frozenset[int] = frozenset()) -> Record:
    parameter = next(port.parameters(), torch.empty(0))
    return record(port.eval(), torch.tensor(x, dtype=parameter.dtype, device=parameter.device), sizes)


def _number_entries(port: nn.Module) -> None:
    """Set the entries of each parameter to 1, 2, 3, ... times a power of two, so that a value tells its position."""
    for path in parameter_paths(port):
        attribute = find_attribute(port, path)
        value = getattr(*attribute)
        numbers = torch.arange(1, value.numel() + 1, dtype=torch.float64).reshape(value.shape) * _unit(value.numel())
        try:
            set_value(attribute, numbers.to(value))
        except (ValueError, RuntimeError, NotImplementedError):  # by a parametrization; places.write reports it
            continue


def _unit(size: int) -> float:
    """Return the power of two that scales 1 to size below 1."""
    return float(2.0 ** -np.ceil(np.log2(size + 1)))


def set_value(attribute: tuple[nn.Module, str], value: Tensor) -> None:
    """Set a parameter, given by its module and name, to value; a parametrized one through its right inverse."""
    if is_parametrized(*attribute):
        setattr(*attribute, value)
    else:
        getattr(*attribute).data.copy_(value)


def _path(label: str) -> str:
    """Return label, or the path of the parametrized tensor if label is that of one of its originals."""
    module, _, original = label.partition("parametrizations.")
    return module + original.partition(".")[0]


def find_attribute(port: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the tensor at path, and the tensor's name in it."""
    module, _, name = path.rpartition(".")
    return reduce(getattr, filter(None, module.split(".")), port), name  # works for scripted modules too


def _uses(port: nn.Module, run: Record, size: int) -> Iterator[Use]:
    parameters = parameter_paths(port)
    used = dict[str, set[int] | None]()
    for call in _ancestors_of_output(run, size):
        parents = [run.calls[number] for number in call.parents]
        if call.name in ADDEND_FIRST:
            parents = [*parents[1:], *parents[:1]]
        for place, parent in enumerate(parents):
            is_left = any(other.depends_on_input for other in parents[place:])  # W @ x
            outputs_first = is_left if call.name in PRODUCTS else True if call.name in OUTPUTS_FIRST else None
            sources = [] if parent.depends_on_input else [parent, *side_inputs(run.calls, [parent])]
            for path in (_path(source.label) for source in sources):
                array = parent.array if path else None
                if array is None:
                    continue
                shape = tuple(getattr(*find_attribute(port, path)).shape)
                index = _positions(array, int(np.prod(shape))) if path in parameters else None
                if _is_first_use(used, path, index, array.size >= np.prod(shape)):
                    yield Use(path, shape, path in parameters, call, index, outputs_first)


def _ancestors_of_output(run: Record, size: int) -> list[Call]:
    """Return the data-dependent calls behind the output, the returned tensor with size entries, in order."""
    todo = [call for call in run.returned if call.tensor.numel() == size] or list(run.returned)
    ancestors: dict[int, Call] = {}
    while todo:
        call = todo.pop()
        if call.depends_on_input and call.number not in ancestors:
            ancestors[call.number] = call
            todo += [run.calls[number] for number in call.parents]
    return [ancestors[number] for number in sorted(ancestors)]


def _positions(array: Array, size: int) -> Array | None:
    """Return the positions that array's values tell in a numbered tensor with size entries; None if they are others."""
    with np.errstate(all="ignore"):
        positions = array / _unit(size) - 1
        index = np.rint(positions)
        are_numbers = array.size > 0 and index.min() >= 0 and index.max() < size
        are_numbers = are_numbers and np.abs(positions - index).max() < 0.25
    return index.astype(np.int64) if are_numbers else None


def _is_first_use(used: dict[str, set[int] | None], path: str, index: Array | None, whole: bool) -> bool:
    """Return whether these entries of the tensor at path are used for the first time, and record that in used.

    A value computed from all entries that is smaller than the tensor, such as a norm, is no use.
    """
    used_entries = used.get(path, set[int]())
    if used_entries is None or (index is None and not whole):
        return False
    if index is None or whole:
        used[path] = None
        return not used_entries
    entries = set(index.ravel().tolist())
    used[path] = used_entries | entries
    return not used_entries & entries
