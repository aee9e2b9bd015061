"""One training run on several devices: the processes that torchrun started, and what they say to each other."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among size of them; rank 0 writes and speaks."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> range:
        """Which of n samples in order are this rank's: parts that differ by one at most, the larger ones first."""
        small, larger = divmod(n, self.size)
        start = self.rank * small + min(self.rank, larger)
        return range(start, start + small + (self.rank < larger))

    @contextmanager
    def one_after_another(self) -> Iterator[None]:
        """The first rank before all others, which follow also where it fails: then each says by itself why."""
        if not self.first:
            dist.barrier()
        try:
            yield
        finally:
            if self.first and self.size > 1:
                dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """tensor, in place the sum of all ranks' tensors of its shape."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether flag is set on any rank."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag), device=device)).item())


def expected_ranks() -> int:
    """How many processes torchrun, or whoever set its variables, has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks; before joined as well."""
    return int(os.environ.get("RANK", 0)) == 0


def local_device(device: str) -> str:
    """device for this process: every one gets a GPU of its own. ValueError where there are too few."""
    if expected_ranks() == 1 or torch.device(device).type != "cuda":
        return device
    here, number = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if here > torch.cuda.device_count():
        raise ValueError(f"{here} processes need a GPU each, found {torch.cuda.device_count()}: use --device cpu")
    return f"cuda:{number}"


def _leave() -> None:
    """All together, and after whatever holds on to the group: a process that leaves first may abort in its threads.

    But soon, where another one has failed and will not come.
    """
    gc.collect()
    if dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.monitored_barrier(timeout=timedelta(seconds=10))
    dist.destroy_process_group()


def join(device: torch.device) -> Ranks:
    """This process among torchrun's: NCCL between GPUs, gloo between CPUs.

    The group lasts as long as the process, for torchrun's meeting point does not bear a second one.
    """
    if expected_ranks() == 1:
        return Ranks()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device)  # else a barrier may guess another one
        else:
            dist.init_process_group("gloo")
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size())
