"""Training from a configuration to a result, with or without a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from torchport.checks import check_computing_device
from torchport.choices import Launched
from torchport.data import default_data_dir
from torchport.training.config import TORCH, TRITON, Config
from torchport.training.folder import RunFolder
from torchport.training.ranks import expected_ranks, join, local_device
from torchport.training.result import SETUP, Clock, Result, Watch, shown, stop_requests
from torchport.training.run import Run
from torchport.training.samples import Samples, cut_and_checked, load_samples

CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses to be deterministic


def train(
    config: Config,
    *,
    samples: Samples | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
    progress: bool = False,
) -> Result:
    """Train as config says, on samples (None: the data set that config names), and keep the run in the folder out.

    watch is called after every step and evaluation, on the first rank; progress shows a bar. ValueError, TypeError
    for values that do not fit each other or this machine, or an out that holds another run, unless overwrite; DataError
    for data that is not there; Diverged for a loss or weight that is no longer a number, and Stopped after Ctrl-C: both
    keep the last checkpoint; OSError where out cannot be written. A warning where nothing is learned.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config must be a Config, got {type(config).__name__}")
    folder = None if out is None else RunFolder(out)
    if folder is not None:
        folder.check_free(overwrite)
    with _run(config, samples, folder, watch, progress) as run:
        run.start(overwrite)
        return run.go()


def resume(
    out: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    kernels: Launched | None = None,
    samples: Samples | None = None,
    watch: Watch | None = None,
    progress: bool = False,
) -> Result:
    """Go on with the run in the folder out from its last checkpoint, to the end that it would have had.

    epochs, device and kernels replace the run's own; so may the number of processes. On another device than CUDA the
    kernels are torch's. Errors as train; ValueError where out holds no run, or a damaged one.
    """
    folder = RunFolder(out)
    config = folder.read_config()
    if device and not device.startswith("cuda"):
        kernels = kernels or TORCH
    config = replace(
        config,
        epochs=config.epochs if epochs is None else epochs,
        device=device or config.device,
        kernels=kernels or config.kernels,
    )
    checkpoint = folder.read_checkpoint()
    with _run(config, samples, folder, watch, progress) as run:
        run.go_on_from(checkpoint)
        return run.go()


@contextmanager
def _run(
    config: Config, samples: Samples | None, folder: RunFolder | None, watch: Watch | None, progress: bool
) -> Iterator[Run]:
    """A Run that is yet to be started or resumed, with its device, ranks, data and signal handlers."""
    clock = Clock()
    with _algorithms(config.deterministic):
        with clock.on(SETUP):
            name = config.device or ("cuda" if torch.cuda.is_available() and not config.on_numpy else "cpu")
            device = _device_of(config, name)
            ranks = join(device)
            data_dir = None
            if samples is None:  # before Ctrl-C waits for the end of a step, as a download may take long
                with ranks.one_after_another():  # the first one downloads
                    samples = load_samples(config, progress=ranks.first and progress)
                data_dir = str(default_data_dir().absolute()) if config.data == "mnist" else None
            samples = cut_and_checked(samples, config.train_size)
        with stop_requests() as stop, shown(progress and ranks.first) as show:
            watches = [show, *([watch] if watch is not None else [])] if ranks.first else []
            yield Run(config.used(name, data_dir), samples, device, ranks, folder, watches, clock, stop)


def _device_of(config: Config, name: str) -> torch.device:
    """The device of that name, as this process uses it. ValueError where config's run cannot take place there."""
    if config.on_numpy:
        if expected_ranks() > 1:
            raise ValueError(f"model numpy runs in one process, got {expected_ranks()}")
        return torch.device("cpu")
    device = torch.device(check_computing_device(local_device(name)))
    for name, anywhere in (("precision", ("full",)), ("kernels", (TORCH,))):
        if (value := getattr(config, name)) not in anywhere and device.type != "cuda":
            raise ValueError(f"{name} {value} needs a CUDA device, got {device}")
    if config.kernels == TRITON and expected_ranks() > 1:
        raise ValueError(f"kernels triton run in one process, got {expected_ranks()}")
    return device


@contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Allow only deterministic algorithms inside the with statement, if deterministic.

    The environment variable stays: cuBLAS may read it only once, at the process's first product on the device, so it is
    set before anything runs there.
    """
    if not deterministic:
        yield
        return
    os.environ.setdefault(*CUBLAS_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
