"""What a training step consists of, each operation beside the least time that its work takes on the device."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from torchport.benchmark.contenders import Case, make_learner
from torchport.benchmark.device import product_speed

aten = torch.ops.aten

# The argument, by position, of which an operation reads nothing, or no more entries than it puts out.
UNREAD = {aten.max_pool2d_with_indices_backward: 1, aten.copy_: 0, aten.fill_: 0, aten.zero_: 0}
PICKED_FROM = {aten.index_select: 0, aten.gather: 0}
ALLOCATING = ("empty", "new_empty", "resize_")  # how the names begin

REPEATS = 20  # of a copy

Timed = Callable[[str], AbstractContextManager[Any]]  # times what is done in it, under a name


class Operation(NamedTuple):
    """One of torch's operators on tensors of certain shapes."""

    name: str
    calls: float  # a step
    microseconds: float  # a call; on CUDA, of its kernels
    floor: float  # microseconds a call: its products at full speed or a copy of as many bytes, whichever takes longer


class Work(NamedTuple):
    """What an operation cannot do without."""

    flop: int  # of matrix products and convolutions
    bytes: int  # read and written


def operations(case: Case, steps: int = 10) -> list[Operation]:
    """What a training step of case consists of, the longest in all first, without what only views or allocates.

    Medians over the steps, of each operation by itself, though on CUDA a step is one graph. A copy is timed in the same
    way, again and again; so an operation whose tensors are nearer than a copy's can take less than its floor.
    """
    learner = make_learner(case)
    order = np.arange(case.batches * case.batch_size)
    for _ in range(2):  # the first one warms up
        with _timing(case.device) as (timed, times), _Noting(timed) as noted:
            for step in range(steps):
                if step % case.batches == 0:
                    learner.begin(order, 0)
                learner.take(case.batch_size)
    copies = _copies({work.bytes for work in noted.work.values()}, case.device)
    speed = product_speed(device=case.device)
    found = [
        Operation(name, len(times[name]) / steps, statistics.median(times[name]), max(flop / speed * 1e6, copies[size]))
        for name, (flop, size) in noted.work.items()
    ]
    return sorted(found, key=lambda operation: -operation.calls * operation.microseconds)


class _Noting(TorchDispatchMode):
    """Times every operation, and keeps what it has to do, by its name with the shapes."""

    def __init__(self, timed: Timed) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._timed = timed
        self.work: dict[str, Work] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func, args)
        with self._timed(name):
            out = func(*args, **kwargs)
        if not _only_views_or_allocates(func, args, out):
            self.work[name] = _work(func, args, kwargs, out)
        return out


def _name(func: Any, args: Any) -> str:
    """As "mm (120, 37) (37, 14400)"; of a list of tensors, the largest."""
    tensors = [max(_tensors(arg), key=Tensor.numel, default=None) for arg in args]
    return " ".join([func.overloadpacket.__name__, *(str(tuple(t.shape)) for t in tensors if t is not None)])


def _only_views_or_allocates(func: Any, args: Any, out: Any) -> bool:
    if func.overloadpacket.__name__.startswith(ALLOCATING):
        return True
    memory = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args)}
    return not func._schema.is_mutable and all(t.untyped_storage().data_ptr() in memory for t in _tensors(out))


def _work(func: Any, args: Any, kwargs: Any, out: Any) -> Work:
    # Here, since it imports Triton: 70 MiB, in each process whose memory is measured beside this.
    from torch.utils.flop_counter import flop_registry

    packet, specs = func.overloadpacket, func._schema.arguments
    count = flop_registry.get(packet)
    flop = int(count(*args, **kwargs, out_val=out)) if count else 0
    given = [*zip(specs, args, strict=False), *((spec, kwargs[spec.name]) for spec in specs if spec.name in kwargs)]
    written = [out, *(value for spec, value in given if spec.alias_info and spec.alias_info.is_write)]
    unread = UNREAD.get(packet), PICKED_FROM.get(packet)
    read = [value for i, (spec, value) in enumerate(given) if not spec.is_out and i not in unread]
    picked = [out] if packet in PICKED_FROM else []
    return Work(flop, _bytes(written) + _bytes(read) + _bytes(picked))


def _bytes(values: Any) -> int:
    """Of all tensors in values, each once."""
    return sum({(tensor.data_ptr(), tensor.nbytes): tensor.nbytes for tensor in _tensors(values)}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


@contextmanager
def _timing(device: str) -> Iterator[tuple[Timed, dict[str, list[float]]]]:
    """What times, and the microseconds that it found by name, complete at the end."""
    times: dict[str, list[float]] = defaultdict(list)
    if torch.device(device).type != "cuda":
        yield partial(_clocked, times), times
        return
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        yield record_function, times
    for event in profiled.events():
        if event.device_type.name == "CPU":  # not the same span again on the device, waiting included
            times[event.name].append(event.device_time_total)


@contextmanager
def _clocked(times: dict[str, list[float]], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[name].append((time.perf_counter() - start) * 1e6)


def _copies(sizes: Collection[int], device: str) -> dict[int, float]:
    """Microseconds of a copy that reads and writes so many bytes in all, by that number."""
    with _timing(device) as (timed, times):
        for size in sizes:
            source, target = torch.zeros(2, max(size // 8, 1), device=device)  # of 4 bytes each, read and written
            for _ in range(REPEATS):
                with timed(str(size)):
                    target.copy_(source)
    return {size: statistics.median(times[str(size)]) for size in sizes}
