"""How a step's time grows with what there is to do."""

from __future__ import annotations

from collections.abc import Sequence

from torchport.benchmark.contenders import CONTENDERS, PLAIN, REFERENCE, Case, contenders
from torchport.benchmark.rounds import Spread, interleave, spread

# What grows, and through which values; the book's own are among them.
GROWTH = {
    "batch_size": (1, 4, 16, 64, 100, 256, 1024, 4096),
    "filters": (3, 10, 30, 100, 300),
    "side": (12, 20, 28, 56, 112),
}


def grow(
    what: str, values: Sequence[int], *, rounds: int = 3, device: str = "cpu", progress: bool = False
) -> dict[str, dict[int, Spread]]:
    """Seconds a step by contender and value of a Case's batch_size, filters or side (pixels, even).

    Without plain PyTorch, whose share of Python depends on the images alone. ValueError for what does not grow.
    """
    if what not in GROWTH:
        raise ValueError(f"what grows must be one of {', '.join(GROWTH)}, got {what!r}")
    found: dict[str, dict[int, Spread]] = {}
    growing = [name for name in CONTENDERS if name != PLAIN]
    for value in values:
        sizes: dict[str, int] = {what: value}
        steps = contenders(Case(**sizes, batches=2, device=device), only=growing)
        counts = {name: 1 if name == REFERENCE else 4 for name in steps}
        for name, times in interleave(steps, rounds, counts, device=device, progress=progress).items():
            found.setdefault(name, {})[value] = spread(times)
    return found
