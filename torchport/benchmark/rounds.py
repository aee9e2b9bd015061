"""Timing several things against each other on a machine that does other things too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from numpy_ref.checks import Array

# For so long after a product NumPy's threads keep spinning, which slows whatever runs next; and an idle processor needs
# about as long to reach its full speed.
SETTLE = 0.1  # seconds

Steps = Callable[[int], object]  # takes so many steps


class Spread(NamedTuple):
    """The middle half of some measurements."""

    median: float
    low: float  # lower quartile
    high: float  # upper quartile

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(
    steps: Mapping[str, Steps], rounds: int, counts: Mapping[str, int], *, device: str = "cpu", progress: bool = False
) -> dict[str, Array]:
    """Seconds a step of each, float64 (rounds,): every round takes counts[name] steps of one after the other.

    As many before them, and for SETTLE seconds, are not timed: each finds caches and processor as its own steps left
    them. On CUDA the clock stops when the device has done. progress shows a bar on a terminal.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    with tqdm(total=rounds * len(steps), unit="timing", disable=None if progress else True) as bar:
        for _ in range(rounds):
            for name, take in steps.items():
                count = counts[name]
                bar.set_description(name)
                _settle(partial(take, count))
                _wait(device)
                start = time.perf_counter()
                take(count)
                _wait(device)
                times[name].append((time.perf_counter() - start) / count)
                bar.update()
    return {name: np.array(values) for name, values in times.items()}


def spread(values: Array) -> Spread:
    """Median and quartiles of measurements (rounds,)."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def ratio(values: Array, to: Array) -> Spread:
    """Of two things' times (rounds,), round by round: what slowed a round slowed both."""
    return spread(values / to)


def _settle(take: Callable[[], object]) -> None:
    start = time.perf_counter()
    take()
    while time.perf_counter() - start < SETTLE:
        take()


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
