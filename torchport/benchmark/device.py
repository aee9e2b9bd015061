"""How many kernels a training step is, and how near training comes to what a device can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from numpy_ref.checks import Array
from torchport.benchmark.contenders import TRAINING, Case, contenders, training
from torchport.benchmark.rounds import Spread, interleave, spread
from torchport.parity.setting import Setting
from torchport.training.config import PRECISIONS

FLOP = 4.33e6  # of a training step, an image: the book's network's products in both directions
SQUARE = {"cuda": 4096, "cpu": 1024}  # rows of a product as fast as any


class Kernel(NamedTuple):
    """What one step launches; on the CPU, an operator."""

    name: str
    calls: float  # a step
    microseconds: float  # a step


def kernels(device: str = "cpu", steps: int = 10) -> list[Kernel]:
    """What a training step of 100 launches, on CUDA as one graph, the longest first."""
    take = contenders(Case(device=device), only=(TRAINING,))[TRAINING]
    take(steps)
    cuda = torch.device(device).type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        take(steps)
    events = [e for e in found.key_averages() if e.device_type.name == ("CUDA" if cuda else "CPU")]
    times = [(event.self_device_time_total if cuda else event.self_cpu_time_total) / steps for event in events]
    listed = [Kernel(e.key, e.count / steps, time) for e, time in zip(events, times, strict=True)]
    return sorted(listed, key=lambda kernel: -kernel.microseconds)


def throughput(
    sizes: Sequence[int], precision: str = "full", *, device: str = "cpu", rounds: int = 5, progress: bool = False
) -> dict[int, Spread]:
    """Images a second in training, by batch size, in float32 with the products in precision (full, tf32, bf16)."""
    steps = {str(size): training(Case(batch_size=size, device=device), precision) for size in sizes}
    times = interleave(steps, rounds, dict.fromkeys(steps, 5), device=device, progress=progress)
    return {size: spread(size / times[str(size)]) for size in sizes}


def limit(precision: str = "full", *, device: str = "cpu") -> float:
    """Images a second in training if all its arithmetic went as fast as a product of square matrices does here."""
    return product_speed(precision, device=device) / FLOP


def product_speed(precision: str = "full", *, device: str = "cpu") -> float:
    """Floating-point operations a second in a product of large square matrices of float32."""
    side = SQUARE.get(torch.device(device).type, SQUARE["cpu"])
    a, b = torch.rand(2, side, side, device=device)
    setting = Setting(torch.float32, device, PRECISIONS[precision])

    def multiply(count: int) -> None:
        with setting.computing():
            for _ in range(count):
                torch.mm(a, b)

    seconds: Array = interleave({"product": multiply}, 5, {"product": 5}, device=device)["product"]
    return 2 * side**3 / float(spread(seconds).median)
