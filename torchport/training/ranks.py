"""One training run in several processes, as torchrun starts them, and how they communicate."""

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
    """This process's rank among size processes; only rank 0 writes files and prints."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> range:
        """The indices of this rank's share of n samples: shares differ by at most one, the larger ones come first."""
        small, larger = divmod(n, self.size)
        start = self.rank * small + min(self.rank, larger)
        return range(start, start + small + (self.rank < larger))

    @contextmanager
    def one_after_another(self) -> Iterator[None]:
        """Run the block on the first rank before the others, which run it even if it fails there: each says why."""
        if not self.first:
            dist.barrier()
        try:
            yield
        finally:
            if self.first and self.size > 1:
                dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether flag is set on any rank."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag), device=device)).item())


def expected_ranks() -> int:
    """How many processes torchrun has started, by its environment variables; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is rank 0, also before join."""
    return int(os.environ.get("RANK", 0)) == 0


def local_device(device: str) -> str:
    """This process's own GPU if device is CUDA, else device. ValueError where there are too few GPUs."""
    if expected_ranks() == 1 or torch.device(device).type != "cuda":
        return device
    here, number = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if here > torch.cuda.device_count():
        raise ValueError(
            f"{here} processes need a GPU each, found {torch.cuda.device_count()}: use device cpu (--device cpu)"
        )
    return f"cuda:{number}"


def _leave() -> None:
    """Destroy the group once all processes are here, as one that leaves first may abort in its threads.

    Wait for 10 seconds only: another process may have failed. What still refers to the group is collected before.
    """
    gc.collect()
    if dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.monitored_barrier(timeout=timedelta(seconds=10))
    dist.destroy_process_group()


def join(device: torch.device) -> Ranks:
    """Join torchrun's group of processes: NCCL between GPUs, gloo between CPUs.

    The group lasts as long as the process, for torchrun's rendezvous cannot be used a second time.
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
