"""What a user gives to be judged: taken out of its wrappers, refused where not finite, and put back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array
from numpy_ref.network import Network
from torchport.parity.calls import array_of

ALL = ("training", "prediction", "sizes", "batch", "integers", "again", "extremes", "double")
TRAINING, PREDICTION, _, BATCH, _, _, EXTREMES, _ = ALL

# Where torch.compile, and DataParallel and DistributedDataParallel, keep the module that they wrap.
WRAPPED = ("_orig_mod", "module")
WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel")


def unwrapped(port: nn.Module) -> nn.Module:
    """The module inside torch.compile's, DataParallel's and DistributedDataParallel's wrappers."""
    while type(port).__name__ in WRAPPERS:
        port = next(getattr(port, name) for name in WRAPPED if hasattr(port, name))
    return port


def check_finite(x: Array, params: Mapping[str, Array], port: nn.Module) -> None:
    """ValueError that names the first number that is not finite: of x, the reference's params, the port's."""
    arrays = {"x": x, **{f"the reference's {name}": value for name, value in params.items()}}
    arrays |= {f"the port's {name}": array_of(value) for name, value in port.named_parameters()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite to be judged, got {array[index]} at {list(index)}")


def check_given(reference: Network, port: nn.Module, loss: Any, runs: Sequence[str]) -> None:
    """TypeError, ValueError for what is no reference, no module, no loss, or no run (runs.ALL)."""
    if not isinstance(reference, Network):
        raise TypeError(f"reference must be a numpy_ref.Network, got {type(reference).__name__}")
    if not isinstance(port, nn.Module):
        raise TypeError(f"port must be a torch.nn.Module, got {type(port).__name__}: wrap a function in a module")
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(f"loss must be a function of (output, labels), or a module such as nn.NLLLoss(), got {loss!r}")
    unknown = [run for run in ([runs] if isinstance(runs, str) else runs) if run not in ALL]
    if unknown or isinstance(runs, str):
        raise ValueError(f"runs must be a sequence of {', '.join(ALL)}, got {runs!r}")


def overridden(port: nn.Module) -> bool:
    """Whether a module has a train or an eval of its own."""
    own = nn.Module.train, nn.Module.eval
    return any((type(module).train, type(module).eval) != own for module in port.modules())


@contextmanager
def restored(port: nn.Module, *, whole: bool = True) -> Iterator[frozenset[int]]:
    """Judging trains and predicts in the port itself, since a copy is another program; all of it is taken back.

    Bit for bit: weights, buffers, gradients, what needs one, attributes, and the random generators' states. Unless
    whole, for memory, the weights' numbers are left to the caller. Yields the ids of what needs no gradient.
    """
    own, flags = list(port.parameters()), [(module, module.training) for module in port.modules()]
    kept = [(value, value.data, value.detach().clone()) for value in port.buffers()]
    kept += [(value, value.data, value.detach().clone() if whole else value.data) for value in own]
    grads = [(parameter, parameter.grad, parameter.requires_grad) for parameter in own]
    attributes = [*_attributes(port, ("", "_parameters", "_buffers", "_modules") if whole else ("_buffers",))]
    try:
        with _drawing([value.device for value, *_ in kept]), torch.inference_mode(False), torch.enable_grad():
            for parameter in own:
                parameter.grad = None
                parameter.requires_grad_(parameter.is_floating_point())
            yield frozenset(id(parameter) for parameter, _, required in grads if not required)
    finally:
        if overridden(port):
            port.train(flags[0][1])
        for holder, held in attributes:
            holder.clear()
            holder.update(held)
        for module, training in flags:
            module.training = training  # train() would set what is inside as well
        for parameter in own:
            parameter.grad = None  # of another dtype, perhaps
        for each in kept:
            _put(*each)
        for parameter, grad, required in grads:
            parameter.grad, parameter.requires_grad = grad, required


@contextmanager
def _drawing(devices: Sequence[torch.device]) -> Iterator[None]:
    """Random generators' states are put back: Python's, NumPy's, torch's."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"][:1]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _attributes(port: nn.Module, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What its modules hold under these names ("": all attributes), and what is in it now."""
    for module in port.modules():
        holders = [vars(module).get(name) if name else vars(module) for name in names]
        yield from ((held, dict(held)) for held in holders if isinstance(held, dict))  # a script's are none


def _put(value: Tensor, data: Tensor, numbers: Tensor) -> None:
    value.data = data  # whose dtype may have been another one's meanwhile
    try:
        data.copy_(numbers)
    except RuntimeError:  # an expanded tensor's numbers share memory
        value.data = numbers
