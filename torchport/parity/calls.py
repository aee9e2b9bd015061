"""Call, one tensor of a port's run with its value, origin, line and gradient; and Record, all calls of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from numpy_ref.checks import Array

# The name of a call whose tensor appeared without a recorded call: made by a scripted function, NumPy or the like.
UNSEEN = "unseen"


@dataclass(eq=False)
class Call:
    """One tensor of a run, made by a call or given from outside; an in-place change starts a new Call."""

    number: int
    name: str  # of the torch function; "" for tensors from outside: the input, parameters, buffers, constants
    parents: tuple[int, ...]  # numbers of the calls whose tensors it was made from
    where: str  # file and line in the port
    depends_on_input: bool
    tensor: Tensor
    label: str = ""  # the path of a parameter or buffer in the port
    module: str = ""  # the path of the innermost module that made it
    value: Array | None = None  # float64; kept if its size is that of some layer's output
    edge: GradientEdge | None = None  # None for a leaf, which holds its gradient itself
    captured: bool = False  # whether value and edge have been stored, at the tensor's first use
    captured_grad: Array | None = None

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor is a trained leaf; a view made under no_grad looks like one and is excluded."""
        return self.tensor.is_leaf and self.tensor.requires_grad and self.tensor._base is None

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can arrive at the tensor."""
        return self.edge is not None or self.is_leaf

    @property
    def grad(self) -> Array | None:
        """The gradient that arrived, after all hooks; None if there was none."""
        if not self.is_leaf:
            return self.captured_grad
        return None if self.tensor.grad is None else as_array(self.tensor.grad, copy=False)

    def capture(self, sizes: frozenset[int]) -> None:
        """Store value and edge at the first use: later an in-place call may change them, earlier none may be set."""
        if self.captured:
            return
        self.captured = True
        if self.tensor.grad_fn is not None:  # autograd.Function sets it after its forward
            self.edge = get_gradient_edge(self.tensor)
        if self.depends_on_input and self.tensor.numel() in sizes:
            self.value = as_array(self.tensor)

    @property
    def array(self) -> Array | None:
        """The captured value; for a tensor that does not depend on the input, its present value."""
        return self.value if self.depends_on_input else as_array(self.tensor)

    def watch(self) -> None:
        """Capture the gradient that arrives here in the next backward pass, as the hooks before this one leave it."""
        if self.edge is None:
            return
        node, part = self.edge.node, self.edge.output_nr

        def keep(grads: tuple[Tensor | None, ...]) -> None:
            grad = grads[part]
            if grad is not None:
                self.captured_grad = as_array(grad)

        node.register_prehook(keep)


@dataclass
class Record:
    """The calls of one run, from the input (number 0) to the output; output is None if the port raised an error."""

    calls: list[Call]
    output: Call | None = None
    error: Exception | None = None
    raised_at: str = ""  # the line that raised error
    result: Any = None  # what the port returned
    returned: list[Call] = field(default_factory=list)  # the calls of all tensors in result
    drew_at: str | None = None  # the line that first drew random numbers ("": unknown); None if none did

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all calls in order; runs with equal names went the same way."""
        return tuple(call.name for call in self.calls)


def with_ancestors(calls: Sequence[Call], ends: Iterable[Call], follow: Callable[[Call], object] = bool) -> list[Call]:
    """The ends and their ancestors among calls, nearest first; a call for which follow is false is not gone through."""
    reached, frontier = dict[int, Call](), [call for call in ends if follow(call)]
    while frontier:
        reached |= {call.number: call for call in frontier}
        numbers = dict.fromkeys(number for call in frontier for number in call.parents if number not in reached)
        frontier = [calls[number] for number in numbers if follow(calls[number])]
    return list(reached.values())


def describe_error(error: Exception) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def array_of(tensor: Tensor, *, copy: bool = True) -> Array:
    """tensor as a float64 array; with copy=False it may share the tensor's memory and is only for reading."""
    array: Array = tensor.detach().to("cpu", torch.float64, copy=copy).contiguous().numpy()
    return array


def is_real(tensor: Tensor) -> bool:
    """Whether tensor is dense and holds real numbers."""
    return not tensor.is_complex() and tensor.layout == torch.strided and not tensor.is_quantized


def as_array(tensor: Tensor, *, copy: bool = True) -> Array | None:
    """array_of(tensor), or None if tensor is not dense and real."""
    return array_of(tensor, copy=copy) if is_real(tensor) else None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor nested in tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in([getattr(value, name) for name in value.__dataclass_fields__])
