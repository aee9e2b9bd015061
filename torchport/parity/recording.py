"""A port's run as its user runs it: every torch call's value, where it came from, its line, and its gradient's place.

A TorchFunctionMode sees what a module does, functional calls and in-place ones too, and changes nothing of it: torch.fx
and torch.export judge another program (no no_grad, hooks or own backward functions), module hooks see modules alone.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

from torchport.parity.calls import UNSEEN, Call, Record, tensors_in
from torchport.parity.lines import line_of, raised_at

# Functions that take only a tensor's shape and dtype.
SHAPED = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "size")


def record(port: nn.Module, x: Tensor, sizes: frozenset[int]) -> Record:
    """port(x) with its calls; values are kept where the number of elements is in sizes. The port's errors are kept."""
    recorder = _Recorder(port, x, sizes)
    error, returned = None, None
    try:
        with recorder:
            returned = _call(port, x)
    except Exception as raised:  # whatever a user's port raises
        error = raised
    for call in recorder.calls:
        call.capture(sizes)
    recorder.running = False
    if recorder.drew_at is None and recorder.state != _generators():
        recorder.drew_at = ""
    found = Record(recorder.calls, error=error, result=returned, drew_at=recorder.drew_at)
    if error is not None:
        found.raised_at = raised_at(error)
    else:
        found.returned = [recorder.known(tensor) for tensor in tensors_in(returned)]
        if any(call.name == UNSEEN for call in recorder.calls):  # which may take any parameter
            for parameter in port.parameters():
                recorder.known(parameter)
        for call in found.returned:
            call.capture(sizes | {call.tensor.numel()})
    return found


def _call(port: nn.Module, x: Tensor) -> Any:
    return port(x)  # the frame up to which lines are the port's


class _Recorder(TorchFunctionMode):
    def __init__(self, port: nn.Module, x: Tensor, sizes: frozenset[int]) -> None:
        super().__init__()
        self.sizes, self.calls = sizes, list[Call]()
        self.drew_at: str | None = None
        self.running, self.functions = True, {getattr(each.forward, "__code__", None) for each in _functions()}
        self.nodes: dict[int, Call] = {}  # of each living tensor, by id
        self.sharing: dict[int, list[Tensor]] = {}  # tensors by their memory, for changes through views
        self.labels = {id(value): name for name, value in [*port.named_parameters(), *port.named_buffers()]}
        self.paths = {id(module): name for name, module in port.named_modules()}
        self.last, self.module, self.state = "", "", _generators()
        self._add("", (), "", True, x).capture(frozenset([x.numel()]))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(tensors_in([args, kwargs or {}]))
        if any(map(is_functorch_wrapped_tensor, given)):
            return func(*args, **(kwargs or {}))  # inside vmap, which is seen from outside
        name = getattr(func, "__name__", type(func).__name__)
        if name == "__get__":  # of an attribute: shape, data, T
            name = getattr(func.__self__, "__name__", name)  # type: ignore[attr-defined]
        if name == "__set__":
            return func(*args, **(kwargs or {}))
        if name.startswith(SHAPED):  # takes a shape and a dtype, and no value
            given = []
        parents = [self.known(tensor) for tensor in given]
        for call in parents:
            if name == call.name == "__setitem__":  # or a loop that fills a tensor would have every step kept
                call.captured = True
            call.capture(self.sizes)
        versions = [_version(tensor) for tensor in given]
        result = func(*args, **(kwargs or {}))
        changed = [t for t, version in zip(given, versions, strict=True) if _version(t) != version]
        made = [t for t in tensors_in(result) if all(t is not each for each in changed)]
        if changed or made:
            self._note(name, parents, changed, made)
        return result

    def _note(self, name: str, parents: list[Call], changed: list[Tensor], made: list[Tensor]) -> None:
        where = self.last = self._where()
        numbers = tuple(dict.fromkeys(call.number for call in parents))
        of_data = any(call.depends_on_input for call in parents)
        for tensor in made:
            if id(tensor) not in self.nodes or self.nodes[id(tensor)] not in parents:
                self._add(name, numbers, where, of_data, tensor)
        for tensor in changed:
            self._add(name, numbers, where, of_data, tensor)
            for other in self.sharing.get(_memory(tensor), []):
                if other is not tensor:
                    before = self.nodes[id(other)].number
                    self._add(name, (before, self.nodes[id(tensor)].number), where, of_data, other)
        state = _generators()
        if self.drew_at is None and state != self.state:
            self.drew_at = where
        self.state = state

    def known(self, tensor: Tensor) -> Call:
        """The call that made it; of a tensor that no call made, one of its own."""
        if id(tensor) in self.nodes:
            return self.nodes[id(tensor)]
        # What comes from a scripted function, NumPy or another unseen piece goes on from the last call before it.
        own = id(tensor) in self.labels or tensor.requires_grad
        unseen = tensor.grad_fn is not None or (not own and tensor.numel() in self.sizes)
        before = tuple(c.number for c in self.calls[::-1] if c.depends_on_input)[:1] if unseen else ()
        where = self._where() if self.running else self.last
        call = self._add(UNSEEN if unseen else "", before, where, unseen, tensor)
        call.label = self.labels.get(id(tensor), "")
        return call

    def _add(self, name: str, parents: tuple[int, ...], where: str, of_data: bool, tensor: Tensor) -> Call:
        call = Call(len(self.calls), name, parents, where, of_data, tensor, module=self.module)
        self.calls.append(call)
        if id(tensor) not in self.nodes:
            self.sharing.setdefault(_memory(tensor), []).append(tensor)
        self.nodes[id(tensor)] = call
        return call

    def _where(self) -> str:
        line, self.module = line_of(sys._getframe(2), _call.__code__, self.functions, self.paths)
        return line


def _functions(kind: Any = torch.autograd.Function) -> Iterator[Any]:
    """Every class with a backward of its own."""
    for each in kind.__subclasses__():
        yield each
        yield from _functions(each)


def _generators() -> tuple[Any, ...]:
    """The states of torch's, NumPy's and Python's random generators."""
    numpy = np.random.get_state(legacy=False)
    counts = numpy["state"]["pos"], numpy["has_gauss"]  # the key besides, which 312 numbers move and not the place
    return torch.get_rng_state().numpy().tobytes(), numpy["state"]["key"].tobytes(), counts, random.getstate()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return 0
