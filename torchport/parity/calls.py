"""One tensor of a port's run: its value, where it came from, its line, and where its gradient arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from numpy_ref.checks import Array

# What a scripted function or another piece makes that no mode sees into.
UNSEEN = "unseen"


@dataclass(eq=False)
class Call:
    """One tensor of a run: what a call made, or what it was given, as long as nothing changed it in place."""

    number: int
    name: str  # of the function; "" for what came from outside: the input, parameters, buffers, constants
    parents: tuple[int, ...]
    where: str
    depends_on_input: bool  # whether it depends on the input
    tensor: Tensor
    label: str = ""  # of a parameter or a buffer
    module: str = ""  # the path of the innermost module that made it
    value: Array | None = None  # float64, of what can end a layer
    edge: GradientEdge | None = None  # of what a call made; a leaf has its gradient itself
    captured: bool = False  # whether value and edge are as they were when it was first used
    captured_grad: Array | None = None

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
            return self.captured_grad
        return None if self.tensor.grad is None else as_array(self.tensor.grad, copy=False)

    def capture(self, sizes: frozenset[int]) -> None:
        """Keep value and edge, before an in-place call changes them; autograd.Function sets the edge after forward."""
        if self.captured:
            return
        self.captured = True
        if self.tensor.grad_fn is not None:
            self.edge = get_gradient_edge(self.tensor)
        if self.depends_on_input and self.tensor.numel() in sizes:
            self.value = as_array(self.tensor)

    @property
    def array(self) -> Array | None:
        """Its value; of what does not depend on the input, as it is now."""
        return self.value if self.depends_on_input else as_array(self.tensor)

    def watch(self) -> None:
        """Let grad be what arrives here in the next backward pass, all hooks included that come before."""
        if self.edge is None:
            return
        node, part = self.edge.node, self.edge.output_nr

        def keep(grads: tuple[Tensor | None, ...]) -> None:
            found = grads[part]
            if found is not None:
                self.captured_grad = as_array(found)

        node.register_prehook(keep)


@dataclass
class Record:
    """The calls of one run, from the input (number 0) to the output; output is None where the port raised."""

    calls: list[Call]
    output: Call | None = None
    error: Exception | None = None
    raised_at: str = ""  # where
    result: Any = None  # what the port returned
    returned: list[Call] = field(default_factory=list)  # all tensors in it
    drew_at: str | None = None  # where random numbers were drawn

    @property
    def names(self) -> tuple[str, ...]:
        """The sequence of calls, which tells whether another run went the same way."""
        return tuple(call.name for call in self.calls)


def with_ancestors(every: Sequence[Call], calls: Iterable[Call], follow: Callable[[Call], object] = bool) -> list[Call]:
    """These calls and all that they were made of, as far as it is to be followed, the nearest first."""
    found, now = dict[int, Call](), [call for call in calls if follow(call)]
    while now:
        found |= {call.number: call for call in now}
        numbers = dict.fromkeys(number for call in now for number in call.parents if number not in found)
        now = [every[number] for number in numbers if follow(every[number])]
    return list(found.values())


def describe_error(error: Exception) -> str:
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
