"""A port's run as its user runs it: every torch call's value, where it came from, its line, and its gradient's place.

A TorchFunctionMode sees what a module does, functional calls and in-place ones too, and changes nothing of it: torch.fx
and torch.export judge another program (no no_grad, hooks or own backward functions), module hooks see modules alone.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from numpy_ref.checks import Array

TORCH = str(Path(torch.__file__).parent) + os.sep
OURS = tuple(str(Path(__file__).parents[2] / name) + os.sep for name in ("torchport", "numpy_ref"))
MODULE_CALL = str(Path(TORCH, "nn", "modules", "module.py"))


# What a scripted function or another piece makes that no mode sees into.
UNSEEN = "unseen"

# Functions that take only a tensor's shape and dtype.
SHAPED = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "size")


@dataclass(eq=False)
class Call:
    """One tensor of a run: what a call made, or what it was given, as long as nothing changed it in place."""

    number: int
    name: str  # of the function; "" for what came from outside: the input, parameters, buffers, constants
    parents: tuple[int, ...]
    where: str
    of_data: bool  # whether it depends on the input
    tensor: Tensor
    label: str = ""  # of a parameter or a buffer
    module: str = ""  # the path of the innermost module that made it
    value: Array | None = None  # float64, of what can end a layer
    edge: GradientEdge | None = None  # of what a call made; a leaf has its gradient itself
    taken: bool = False  # whether value and edge are as they were when it was first used
    arrived: Array | None = None

    @property
    def is_leaf(self) -> bool:
        """Whether it is trained by itself; a view that is made under no_grad looks like it."""
        return self.tensor.is_leaf and self.tensor.requires_grad and self.tensor._base is None

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient arrives at it."""
        return self.edge is not None or self.is_leaf

    @property
    def grad(self) -> Array | None:
        """What arrived at it, and what hooks have made of that."""
        if not self.is_leaf:
            return self.arrived
        return None if self.tensor.grad is None else as_array(self.tensor.grad, copy=False)

    def take(self, sizes: frozenset[int]) -> None:
        """Keep value and edge, before an in-place call changes them; autograd.Function sets the edge after forward."""
        if self.taken:
            return
        self.taken = True
        if self.tensor.grad_fn is not None:
            self.edge = get_gradient_edge(self.tensor)
        if self.of_data and self.tensor.numel() in sizes:
            self.value = as_array(self.tensor)

    @property
    def array(self) -> Array | None:
        """Its value; of what does not depend on the input, as it is now."""
        return self.value if self.of_data else as_array(self.tensor)

    def watch(self) -> None:
        """Let grad be what arrives here in the next backward pass, all hooks included that come before."""
        if self.edge is None:
            return
        node, part = self.edge.node, self.edge.output_nr

        def keep(grads: tuple[Tensor | None, ...]) -> None:
            found = grads[part]
            if found is not None:
                self.arrived = as_array(found)

        node.register_prehook(keep)


@dataclass
class Record:
    """The calls of one run, from the input (number 0) to the output; output is None where the port raised."""

    calls: list[Call]
    output: Call | None = None
    error: Exception | None = None
    raised: str = ""  # where
    raw: Any = None  # what the port returned
    returned: list[Call] = field(default_factory=list)  # all tensors in it
    drew: str | None = None  # where random numbers were drawn

    @property
    def names(self) -> tuple[str, ...]:
        """The sequence of calls, which tells whether another run went the same way."""
        return tuple(call.name for call in self.calls)


def behind(every: Sequence[Call], calls: Iterable[Call], follow: Callable[[Call], object] = bool) -> list[Call]:
    """These calls and all that they were made of, as far as it is to be followed, the nearest first."""
    found, now = dict[int, Call](), [call for call in calls if follow(call)]
    while now:
        found |= {call.number: call for call in now}
        numbers = dict.fromkeys(number for call in now for number in call.parents if number not in found)
        now = [every[number] for number in numbers if follow(every[number])]
    return list(found.values())


def told(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def array_of(tensor: Tensor, *, copy: bool = True) -> Array:
    """A float64 copy on the CPU; or what is that already, to be read."""
    found: Array = tensor.detach().to("cpu", torch.float64, copy=copy).contiguous().numpy()
    return found


def is_real(tensor: Tensor) -> bool:
    """Whether it is made of real numbers, one after the other."""
    return not tensor.is_complex() and tensor.layout == torch.strided and not tensor.is_quantized


def as_array(tensor: Tensor, *, copy: bool = True) -> Array | None:
    """array_of what is real."""
    return array_of(tensor, copy=copy) if is_real(tensor) else None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside tuples, lists, dicts and objects with fields, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in([getattr(value, name) for name in value.__dataclass_fields__])


def record(port: nn.Module, run: Callable[[Tensor], Any], x: Tensor, sizes: frozenset[int]) -> Record:
    """run(x) with its calls; values are kept where the number of elements is in sizes. The port's errors are kept."""
    recorder = _Recorder(port, x, sizes)
    error, returned = None, None
    try:
        with recorder:
            returned = _call(run, x)
    except Exception as raised:  # whatever a user's port raises
        error = raised
    for call in recorder.calls:
        call.take(sizes)
    recorder.running = False
    if recorder.drew is None and recorder.state != _generators():
        recorder.drew = ""
    found = Record(recorder.calls, error=error, raw=returned, drew=recorder.drew)
    if error is not None:
        found.raised = _raised_at(error)
    else:
        found.returned = [recorder.known(tensor) for tensor in tensors_in(returned)]
        if any(call.name == UNSEEN for call in recorder.calls):  # which may take any parameter
            for parameter in port.parameters():
                recorder.known(parameter)
        for call in found.returned:
            call.take(sizes | {call.tensor.numel()})
    return found


def _call(run: Callable[[Tensor], Any], x: Tensor) -> Any:
    return run(x)  # the frame up to which lines are the port's


class _Recorder(TorchFunctionMode):
    def __init__(self, port: nn.Module, x: Tensor, sizes: frozenset[int]) -> None:
        super().__init__()
        self.sizes, self.calls = sizes, list[Call]()
        self.drew: str | None = None
        self.running, self.functions = True, {getattr(each.forward, "__code__", None) for each in _functions()}
        self.nodes: dict[int, Call] = {}  # of each living tensor, by id
        self.sharing: dict[int, list[Tensor]] = {}  # tensors by their memory, for changes through views
        self.labels = {id(value): name for name, value in [*port.named_parameters(), *port.named_buffers()]}
        self.paths = {id(module): name for name, module in port.named_modules()}
        self.last, self.module, self.state = "", "", _generators()
        self._add("", (), "", True, x).take(frozenset([x.numel()]))

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
                call.taken = True
            call.take(self.sizes)
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
        of_data = any(call.of_data for call in parents)
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
        if self.drew is None and state != self.state:
            self.drew = where
        self.state = state

    def known(self, tensor: Tensor) -> Call:
        """The call that made it; of a tensor that no call made, one of its own."""
        if id(tensor) in self.nodes:
            return self.nodes[id(tensor)]
        # What comes from a scripted function, NumPy or another unseen piece goes on from the last call before it.
        own = id(tensor) in self.labels or tensor.requires_grad
        unseen = tensor.grad_fn is not None or (not own and tensor.numel() in self.sizes)
        before = tuple(c.number for c in self.calls[::-1] if c.of_data)[:1] if unseen else ()
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
        """The line of the port's author that makes this call, and the module's path where many share that line."""
        frame: FrameType | None = sys._getframe(2)
        line, path, modules = "", "", 0
        self.module = ""
        while frame is not None and frame.f_code is not _call.__code__:
            file, name = frame.f_code.co_filename, frame.f_code.co_name
            if frame.f_code in self.functions:
                line = ""  # inside an autograd.Function: the line that applies it
            elif file == MODULE_CALL and name == "_call_impl":
                module = frame.f_locals.get("self")
                self.module = self.module or self.paths.get(id(module), "")
                if not line:
                    modules += 1
                    path = path or self._path(module)
            elif not line and not file.startswith((TORCH, *OURS)):
                line = f"{_short(file)}:{frame.f_lineno}"
            frame = frame.f_back
        return ", ".join(part for part in (line, path if modules > 1 or not line else "") if part)

    def _path(self, module: Any) -> str:
        name = self.paths.get(id(module))
        return f"{name} ({type(module).__name__})" if name else ""


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


def _raised_at(error: Exception) -> str:
    """The innermost line of the port's author on the way to the error."""
    lines, trace = [""], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((TORCH, *OURS)):
            lines.append(f"{_short(file)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return lines[-1]


def _short(file: str) -> str:
    """The file's name; a notebook's cells have none that means anything."""
    return "cell" if file.startswith("<ipython") or "ipykernel_" in file else Path(file).name


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _memory(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return 0
