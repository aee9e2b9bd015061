"""How long each Triton kernel takes when its work is divided otherwise: python parity_tests/training/kernel_sizes.py

Needs CUDA, and takes two minutes, most of which are compilation. Every division of a kernel's work takes its turn, in a
graph of many launches; the fastest of each kernel are then compared, as one step, with Sizes as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from torchport import SimpleConvNet
from torchport.training import kernels
from torchport.training.graph import captured
from torchport.training.kernel_step import DEFAULT_SIZES, KernelStep, Sizes

BATCH, LAUNCHES, ROUNDS = 100, 20, 15

# By kernel: the fields of Sizes that divide its work, and numbers of warps.
TRIED: dict[Any, tuple[dict[str, list[tuple[int, int]]], list[int]]] = {
    kernels.conv_pool_relu: ({"conv": [(2, 128), (4, 64), (4, 128), (4, 256), (8, 64), (8, 128)]}, [2, 4, 8]),
    kernels.affine1_parts: (
        {"parts": [(64, 64), (32, 64), (64, 32), (16, 128), (32, 128)]},
        [4, 8],
    ),
    kernels.head: ({}, [1, 2, 4, 8]),
    kernels.affine1_upstream: (
        {"upstream": [(128, 32), (64, 32), (64, 64), (32, 64), (16, 128), (16, 64), (128, 16)]},
        [4, 8],
    ),
    kernels.gradients: (
        {"step": [(128, 32), (64, 64), (32, 64), (16, 128)], "chunk": [(8, 8), (8, 16), (16, 8), (4, 16)]},
        [4, 8],
    ),
    kernels.finish: ({}, [4, 8]),
}

Take = Callable[[], None]


def divisions(kernel: Any, base: Sizes) -> list[Sizes]:
    """base itself, and all that TRIED has in place of what concerns this kernel."""
    fields, warps = TRIED[kernel]
    i = kernels.KERNELS.index(kernel)
    divided = [base]
    for tiles, count in product(product(*fields.values()), warps):
        changed: dict[str, Any] = dict(zip(fields, tiles, strict=True))
        divided.append(base._replace(**changed, warps=(*base.warps[:i], count, *base.warps[i + 1 :])))
    return list(dict.fromkeys(divided))


def book_step(sizes: Sizes) -> KernelStep:
    """Of the book's network on random images, on CUDA."""
    torch.manual_seed(0)
    net = SimpleConvNet(device="cuda")
    params: list[torch.Tensor] = list(net.parameters())
    state = [params, *([torch.zeros_like(param) for param in params] for _ in range(3))]
    images, labels = torch.rand(6000, 1, 28, 28, device="cuda"), torch.randint(10, (6000,), device="cuda")
    return KernelStep(net, state, images, labels, BATCH, (0.9, 0.999), sizes)


def launched(step: KernelStep, chosen: Sequence[Any]) -> Take:
    """A graph that launches the chosen kernels again and again, on the same images. No weight moves."""
    device = step.logits.device
    order, (rate, loss) = torch.arange(len(step.logits), device=device) * 7, torch.zeros(2, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            for kernel in chosen:
                step.launch(kernel, order, rate, loss)

    step.take(order, rate, loss)  # so that every kernel finds what the ones before it leave
    return captured(launch, restore=lambda: None, device=device) if device.type == "cuda" else launch


def microseconds(takes: Mapping[Sizes, Take], name: str) -> dict[Sizes, float]:
    """Medians of one launch, of divisions that take turns."""
    times: dict[Sizes, list[float]] = {sizes: [] for sizes in takes}
    for _ in tqdm(range(ROUNDS), desc=name, unit="round", disable=None):
        for sizes, take in takes.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            take()
            end.record()
            end.synchronize()
            times[sizes].append(start.elapsed_time(end) / LAUNCHES * 1e3)
    return {sizes: float(np.median(values)) for sizes, values in times.items()}


def fastest(kernel: Any, base: Sizes, make: Callable[[Sizes], KernelStep]) -> Sizes:
    """The division of this kernel's work that takes least time; prints all that the card can hold."""
    chosen = (kernel, kernels.finish) if kernel is kernels.gradients else (kernel,)  # which adds up its chunks
    takes: dict[Sizes, Take] = {}
    for sizes in tqdm(divisions(kernel, base), desc=f"compiling {kernel.__name__}", unit="kernel", disable=None):
        try:
            takes[sizes] = launched(make(sizes), chosen)
        except Exception as error:  # too much shared memory, say, or an older Triton's limits
            print(f"  {kernel.__name__} {of_kernel(kernel, sizes)}: {type(error).__name__}")
    medians = microseconds(takes, kernel.__name__)
    print(f"{' + '.join(each.__name__ for each in chosen)}, microseconds; the first is as it is")
    print("\n".join(f"  {time:6.2f}  {of_kernel(kernel, sizes)}" for sizes, time in medians.items()))
    return min(medians, key=lambda sizes: medians[sizes])


def of_kernel(kernel: Any, sizes: Sizes) -> str:
    """What sizes say of one kernel."""
    tiles = " ".join(f"{name} {getattr(sizes, name)}" for name in TRIED[kernel][0])
    return f"{tiles} warps {sizes.warps[kernels.KERNELS.index(kernel)]}".lstrip()


def main() -> int:
    if not torch.cuda.is_available():
        print("error: needs a CUDA device, got none", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    best = DEFAULT_SIZES
    for kernel in kernels.KERNELS:
        best = fastest(kernel, best, book_step)
    takes = {sizes: launched(book_step(sizes), kernels.KERNELS) for sizes in (DEFAULT_SIZES, best)}
    for sizes, time in microseconds(takes, "whole steps").items():
        print(f"{time:7.2f} microseconds a step: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
