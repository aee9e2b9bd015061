"""Time and memory of prediction and training, each in a process of its own, which alone knows its peak."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from torchport.benchmark.contenders import CONV2D, REFERENCE, TRAINING, UNFOLD, Case
from torchport.choices import Model
from torchport.evaluation import classify, peak_memory
from torchport.networks import SimpleConvNet
from torchport.training import Config, Samples, train

PREDICTING = {REFERENCE: "numpy", UNFOLD: "unfold", CONV2D: "conv2d"}


class Usage(NamedTuple):
    """What one process took."""

    seconds: float  # of the work, without imports
    peak: int | None  # bytes, of the whole process; None where the system does not tell


def prediction(images: int = 10_000) -> dict[str, Usage]:
    """The book's network on so many images, by implementation. RuntimeError with what a process said that failed."""
    return {name: _alone("predict", model, images) for name, model in PREDICTING.items()}


def training_memory(images: tuple[int, int] = (10_000, 60_000)) -> dict[int, Usage]:
    """An epoch of the training loop on each number of images. RuntimeError alike."""
    return {n: _alone("train", TRAINING, n) for n in images}


def work_alone(work: str, model: str, images: int) -> None:
    """What _alone has a process of its own do, and print."""
    start = time.perf_counter()
    WORK[work](model, images)
    print(json.dumps([time.perf_counter() - start, peak_memory()]))


def _alone(work: str, model: str, images: int) -> Usage:
    code = f"from torchport.benchmark.memory import work_alone; work_alone({work!r}, {model!r}, {images})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"{work} {model} {images} ended with status {done.returncode}: {said}")
    return Usage(*json.loads(done.stdout))


def _predict(model: Model, images: int) -> None:
    case = Case(batch_size=images, batches=1)
    samples, network = case.samples(), case.reference()
    twin = network if model == "numpy" else SimpleConvNet.from_params(network.params, model)
    classify(twin, samples.x_train, samples.t_train)


def _train(_: str, images: int) -> None:
    rng = np.random.RandomState(0)
    x, t = rng.randint(0, 256, (images, 1, 28, 28), np.uint8), rng.randint(0, 10, images)
    train(Config(epochs=1, device="cpu"), samples=Samples(x, t, x[:1000], t[:1000]))


WORK: dict[str, Callable[[Any, int], None]] = {"predict": _predict, "train": _train}
