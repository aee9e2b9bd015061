"""Records one eager run of a port: every torch call with its value, its parents, its line and its gradient edge.

A TorchFunctionMode sees functional and in-place calls too, and changes nothing. torch.fx and torch.export would judge
another program, without no_grad, hooks and custom backward functions; module hooks see only modules.
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

# Prefixes of functions that read only a tensor's shape and dtype.
SHAPED = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "size")


def record(port: nn.Module, x: Tensor, sizes: frozenset[int]) -> Record:
    """Run port(x) and record its calls, with the values of tensors whose numel is in sizes; its error is kept too."""
    recorder = _Recorder(port, x, sizes)
    error, returned = None, None
    try:
        with recorder:
            returned = _call(port, x)
    except Exception as raised:  # whatever a user's port raises
        error = raised
    for call in recorder.calls:
        call.capture(sizes)
    recorder.active = False
    if recorder.drew_at is None and recorder.generator_states != _generator_states():
        recorder.drew_at = ""
    run = Record(recorder.calls, error=error, result=returned, drew_at=recorder.drew_at)
    if error is not None:
        run.raised_at = raised_at(error)
    else:
        run.returned = recorder.returned_calls(returned)
        if any(call.name == UNSEEN for call in recorder.calls):  # it may have used any parameter
            for parameter in port.parameters():
                recorder.call_of(parameter)
        for call in run.returned:
            call.capture(sizes | {call.tensor.numel()})
    return run


def _call(port: nn.Module, x: Tensor) -> Any:
    return port(x)  # lines are looked for in the frames inside this one


class _Recorder(TorchFunctionMode):
    def __init__(self, port: nn.Module, x: Tensor, sizes: frozenset[int]) -> None:
        super().__init__()
        self.sizes, self.calls = sizes, list[Call]()
        self.drew_at: str | None = None
        self.active, self.forward_codes = True, {getattr(t.forward, "__code__", None) for t in _autograd_functions()}
        self.call_by_id: dict[int, Call] = {}  # the latest call of each tensor, by the tensor's id
        self.tensors_by_storage: dict[int, list[Tensor]] = {}  # a change in place changes all views of the memory
        self.labels = {id(value): name for name, value in [*port.named_parameters(), *port.named_buffers()]}
        self.module_paths = {id(module): name for name, module in port.named_modules()}
        self.last_line, self.module, self.generator_states = "", "", _generator_states()
        self._append("", (), "", True, x).capture(frozenset([x.numel()]))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = list(tensors_in([args, kwargs or {}]))
        if any(map(is_functorch_wrapped_tensor, inputs)):
            return func(*args, **(kwargs or {}))  # inside vmap, whose result is recorded as one call
        name = getattr(func, "__name__", type(func).__name__)
        if name == "__get__":  # reads an attribute such as shape, data or T
            name = getattr(func.__self__, "__name__", name)  # type: ignore[attr-defined]
        if name == "__set__":
            return func(*args, **(kwargs or {}))
        if name.startswith(SHAPED):
            inputs = []
        parents = [self.call_of(tensor) for tensor in inputs]
        for call in parents:
            if name == call.name == "__setitem__":  # do not keep every step of a loop that fills a tensor
                call.captured = True
            call.capture(self.sizes)
        versions = [_version(tensor) for tensor in inputs]
        result = func(*args, **(kwargs or {}))
        changed = [t for t, version in zip(inputs, versions, strict=True) if _version(t) != version]
        made = [t for t in tensors_in(result) if all(t is not other for other in changed)]
        if changed or made:
            self._add_results(name, parents, changed, made)
        return result

    def _add_results(self, name: str, parents: list[Call], changed: list[Tensor], made: list[Tensor]) -> None:
        where = self.last_line = self._where()
        numbers = tuple(dict.fromkeys(call.number for call in parents))
        depends_on_input = any(call.depends_on_input for call in parents)
        for tensor in made:
            if id(tensor) not in self.call_by_id or self.call_by_id[id(tensor)] not in parents:
                self._append(name, numbers, where, depends_on_input, tensor)
        for tensor in changed:
            self._append(name, numbers, where, depends_on_input, tensor)
            for other in self.tensors_by_storage.get(_storage_address(tensor), []):
                if other is not tensor:
                    before = self.call_by_id[id(other)].number
                    self._append(name, (before, self.call_by_id[id(tensor)].number), where, depends_on_input, other)
        generator_states = _generator_states()
        if self.drew_at is None and generator_states != self.generator_states:
            self.drew_at = where
        self.generator_states = generator_states

    def call_of(self, tensor: Tensor) -> Call:
        """The call that made tensor; a new call if none was recorded."""
        if id(tensor) in self.call_by_id:
            return self.call_by_id[id(tensor)]
        # A tensor from a scripted function, NumPy or the like is taken to be made from the last call before it.
        is_parameter = id(tensor) in self.labels or tensor.requires_grad
        unseen = tensor.grad_fn is not None or (not is_parameter and tensor.numel() in self.sizes)
        before = tuple(c.number for c in self.calls[::-1] if c.depends_on_input)[:1] if unseen else ()
        where = self._where() if self.active else self.last_line
        call = self._append(UNSEEN if unseen else "", before, where, unseen, tensor)
        call.label = self.labels.get(id(tensor), "")
        return call

    def returned_calls(self, returned: Any) -> list[Call]:
        """The calls of all tensors in returned; if none depends on the input, since threads made them, unseen ones."""
        calls = [self.call_of(tensor) for tensor in tensors_in(returned)]
        if any(call.depends_on_input for call in calls):
            return calls
        before = next(call.number for call in reversed(self.calls) if call.depends_on_input)
        return [self._append(UNSEEN, (before,), call.where, True, call.tensor) for call in calls]

    def _append(self, name: str, parents: tuple[int, ...], where: str, depends_on_input: bool, tensor: Tensor) -> Call:
        call = Call(len(self.calls), name, parents, where, depends_on_input, tensor, module=self.module)
        self.calls.append(call)
        if id(tensor) not in self.call_by_id:
            self.tensors_by_storage.setdefault(_storage_address(tensor), []).append(tensor)
        self.call_by_id[id(tensor)] = call
        return call

    def _where(self) -> str:
        line, self.module = line_of(sys._getframe(2), _call.__code__, self.forward_codes, self.module_paths)
        return line


def _autograd_functions(base: Any = torch.autograd.Function) -> Iterator[Any]:
    """Yield every subclass of torch.autograd.Function."""
    for function in base.__subclasses__():
        yield function
        yield from _autograd_functions(function)


def _generator_states() -> tuple[Any, ...]:
    """The states of the random generators of torch, NumPy and Python."""
    numpy = np.random.get_state(legacy=False)
    counts = numpy["state"]["pos"], numpy["has_gauss"]  # not enough: drawing 312 numbers moves the key, not pos
    return torch.get_rng_state().numpy().tobytes(), numpy["state"]["key"].tobytes(), counts, random.getstate()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _storage_address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse tensors have no storage
        return 0
