"""A training run's progress and result, the time it takes, and how it may end early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from numpy_ref.checks import Array
from torchport.bars import bar
from torchport.figures import curves
from torchport.training.config import Config
from torchport.training.folder import Record, curve_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The keys of Result.seconds.
SETUP, CAPTURE, TRAINING, EVALUATION, SAVING = "setup", "capture", "training", "evaluation", "saving"

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # after which a run stops at the end of a step


class Diverged(ArithmeticError):
    """A loss or a weight is no longer a number."""


class Stopped(Exception):
    """The run was stopped (Ctrl-C, SIGTERM) after step updates; its folder keeps all of them."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"stopped at step {step} of {steps}")
        self.step, self.steps = step, steps


class Progress(NamedTuple):
    """How far a run has come: what a Watch is called with, after every few steps and every evaluation."""

    step: int  # updates so far
    steps: int  # of the whole run
    loss: float  # the last one logged
    record: Record | None  # the evaluation, where there has just been one


@dataclass(frozen=True, repr=False)
class Result:
    """The outcome of a training run."""

    config: Config  # with the values that were used
    params: Mapping[str, Array]  # the book's names: W1 b1 W2 b2 W3 b3; the weights that are kept
    kept: str  # "last": those of the last step; "mean": the mean over the last epoch
    losses: Array  # logged, float64 (steps,)
    records: tuple[Record, ...]  # the last one is of the weights that are kept
    predictions: Array  # of all test images with these weights, int64 (n,)
    test_accuracy: float  # of these predictions, 0 to 1
    device: str
    seconds: Mapping[str, float]  # spent in this process on setup, capture, training, evaluation and saving

    def __repr__(self) -> str:
        return (
            f"Result({self.config.network} after {len(self.losses)} steps on {self.device}: "
            f"test accuracy {self.test_accuracy:.4f}, loss {self.losses[-1]:.4f})"
        )

    def curves(self, name: str = "run") -> Figure:
        """A matplotlib Figure of its accuracies and losses, which a notebook shows."""
        return curves({f"{name} on {self.config.data}": curve_of(self.losses, self.records)})


Watch = Callable[[Progress], None]


@contextmanager
def shown(progress: bool) -> Iterator[Watch]:
    """A Watch that moves a progress bar, if progress and where a bar can be seen."""
    with bar(progress, unit="step", dynamic_ncols=True) as steps:

        def show(now: Progress) -> None:
            steps.total = now.steps
            steps.update(now.step - steps.n)
            figures = {"loss": f"{now.loss:.4f}"}
            if now.record is not None:
                figures["test"] = f"{now.record.test_accuracy:.4f}"
            steps.set_postfix(figures, refresh=False)

        yield show


@dataclass
class Clock:
    """Seconds spent, by activity."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class StopRequest:
    """made is true once somebody has asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def _make(self, number: int, frame: FrameType | None) -> None:
        if self.made:  # a second Ctrl-C does not wait for the step
            raise KeyboardInterrupt
        self.made = True


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a StopRequest inside the with statement, in the main thread only."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._make) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
