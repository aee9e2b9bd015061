"""What a training step consists of, and how near training comes to what a device can do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from numpy_ref.checks import Array
from torchport.benchmark.contenders import Case, training
from torchport.benchmark.rounds import Spread, interleave, spread
from torchport.choices import Precision
from torchport.layers.arithmetic import Setting
from torchport.training.config import PRECISIONS

FLOP = 4.33e6  # of a training step, an image: the book's network's products in both directions
SQUARE = {"cuda": 4096, "cpu": 1024}  # rows of a product as fast as any


def operations(case: Case, steps: int = 10, longest: int = 12) -> str:
    """torch.profiler's table of so many training steps of case: operators, on CUDA kernels, the longest first."""
    take = training(case)
    take(steps)
    cuda = torch.device(case.device).type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        take(steps)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table: str = profiled.key_averages().table(sort_by=order, row_limit=longest)
    return table


def throughput(
    sizes: Sequence[int], precision: Precision = "full", *, device: str = "cpu", rounds: int = 5, progress: bool = False
) -> dict[int, Spread]:
    """Images a second in training, by batch size, in float32 with the products in precision (full, tf32, bf16)."""
    steps = {str(size): training(Case(batch_size=size, device=device), precision) for size in sizes}
    times = interleave(steps, rounds, dict.fromkeys(steps, 5), device=device, progress=progress)
    return {size: spread(size / times[str(size)]) for size in sizes}


def limit(precision: Precision = "full", *, device: str = "cpu") -> float:
    """Images a second in training if all its arithmetic went as fast as a product of square matrices does here."""
    return product_speed(precision, device=device) / FLOP


def product_speed(precision: Precision = "full", *, device: str = "cpu") -> float:
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
