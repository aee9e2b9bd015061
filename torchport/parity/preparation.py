"""What comes before and after judging: unwrap the port, check the arguments, restore the port afterwards."""

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
TRAINING, PREDICTION, _, BATCH, INTEGERS, _, EXTREMES, _ = ALL

# The attributes in which torch.compile, and DataParallel and DistributedDataParallel, keep the wrapped module.
WRAPPED = ("_orig_mod", "module")
WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel")


def unwrapped(port: nn.Module) -> nn.Module:
    """The module inside the wrappers of torch.compile, DataParallel and DistributedDataParallel."""
    while type(port).__name__ in WRAPPERS:
        port = next(getattr(port, name) for name in WRAPPED if hasattr(port, name))
    return port


def check_finite(x: Array, params: Mapping[str, Array], port: nn.Module) -> None:
    """Raise ValueError if x, the reference's params or the port's parameters hold a number that is not finite."""
    arrays = {"x": x, **{f"the reference's {name}": value for name, value in params.items()}}
    arrays |= {f"the port's {name}": array_of(value) for name, value in port.named_parameters()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite to be judged, got {array[index]} at {list(index)}")


def check_given(reference: Network, port: nn.Module, loss: Any, runs: Sequence[str]) -> None:
    """Raise TypeError or ValueError unless the arguments are a Network, a module, a function, and names in ALL."""
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
    """Whether some module of port overrides train() or eval()."""
    defaults = nn.Module.train, nn.Module.eval
    return any((type(module).train, type(module).eval) != defaults for module in port.modules())


def set_mode(port: nn.Module, *, training: bool) -> None:
    """Call port.train() or port.eval(). Raises ValueError if it has no such mode, as what torch.export makes."""
    try:
        port.train() if training else port.eval()
    except NotImplementedError as error:
        raise ValueError(
            f"port must have a mode for training and one for evaluation, got {type(port).__name__}, which raises "
            f"{error!r}: give the module that was exported"
        ) from error


@contextmanager
def restored(port: nn.Module, *, whole: bool = True) -> Iterator[frozenset[int]]:
    """Let the block train and predict with the port itself, as a copy is another program; restore it afterwards.

    Restores bit for bit: weights, buffers, gradients, requires_grad, attributes, and the states of random generators.
    Unless whole, the weights' numbers are left to the caller, to save memory. Yields the ids of frozen parameters.
    """
    parameters, flags = list(port.parameters()), [(module, module.training) for module in port.modules()]
    saved = [(value, value.data, value.detach().clone()) for value in port.buffers()]
    saved += [(value, value.data, value.detach().clone() if whole else value.data) for value in parameters]
    grads = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    attributes = [*_attributes(port, ("", "_parameters", "_buffers", "_modules") if whole else ("_buffers",))]
    try:
        devices = [value.device for value, *_ in saved]
        with _generators_restored(devices), torch.inference_mode(False), torch.enable_grad():
            for parameter in parameters:
                parameter.grad = None
                parameter.requires_grad_(parameter.is_floating_point())
            yield frozenset(id(parameter) for parameter, _, required in grads if not required)
    finally:
        if overridden(port):
            port.train(flags[0][1])
        for holder, contents in attributes:
            holder.clear()
            holder.update(contents)
        for module, training in flags:
            module.training = training  # train() would set the flags of its children too
        for parameter in parameters:
            parameter.grad = None  # it may have another dtype now
        for tensors in saved:
            _restore_tensor(*tensors)
        for parameter, grad, required in grads:
            parameter.grad, parameter.requires_grad = grad, required


@contextmanager
def _generators_restored(devices: Sequence[torch.device]) -> Iterator[None]:
    """Restore the states of the random generators of Python, NumPy and torch after the block."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"][:1]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _attributes(port: nn.Module, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each module's dict under each of names ("": all its attributes), with a copy of its contents."""
    for module in port.modules():
        holders = [vars(module).get(name) if name else vars(module) for name in names]
        yield from ((holder, dict(holder)) for holder in holders if isinstance(holder, dict))  # a ScriptModule has none


def _restore_tensor(value: Tensor, data: Tensor, numbers: Tensor) -> None:
    value.data = data  # value may have had another dtype meanwhile
    try:
        data.copy_(numbers)
    except RuntimeError:  # the numbers of an expanded tensor share memory
        value.data = numbers
