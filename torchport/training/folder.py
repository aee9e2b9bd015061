"""A run's folder: its files, and the order in which they are written, so that a kill at any moment loses nothing."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from numpy_ref.checks import Array
from numpy_ref.files import replace_file
from torchport.figures import Curve, curves, save_figure
from torchport.files import CHECKPOINT, CONFIG, CURVES, METRICS, MODEL, PARAMS, stage_weights
from torchport.networks import Weights
from torchport.training.config import LAST, Config

RESULTS = (MODEL, PARAMS, CURVES)
FILES = (CONFIG, METRICS, CHECKPOINT, *RESULTS)

VERSION = 2  # of the checkpoint's layout


class Record(NamedTuple):
    """One evaluation, at the end of an epoch."""

    epoch: int  # from 1
    step: int  # updates so far
    loss: float  # mean of the epoch's logged losses
    train_accuracy: float  # 0 to 1, on the first of the training images
    test_accuracy: float  # 0 to 1, on all test images
    weights: str = LAST  # that were evaluated: the last step's, or the mean with which the run has ended


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps. The batches to come follow from the seed and the step, so no random state is kept."""

    step: int  # updates so far
    losses: torch.Tensor  # logged, float64 (step,)
    records: Sequence[Record]  # of the last step's weights
    state: Mapping[str, Any]  # Learner.state()
    data: str  # Samples.digest()


class RunFolder:
    """The files of one run. Each is replaced whole or not at all; an OSError says what is kept, and how to go on.

    config.json comes after the first checkpoint, so a folder that has it can be resumed. metrics.jsonl is written anew
    from the checkpoint on resuming, so an evaluation is never missing nor there twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._saved_step: int | None = None

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / CONFIG).exists()

    def create(self, config: Config, checkpoint: Checkpoint, overwrite: bool) -> None:
        """Begin a run. ValueError where the folder is not free, unless overwrite."""
        self.check_free(overwrite)
        text = config.to_json()  # before anything of the old run goes
        with self._guarded(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for name in FILES:  # config.json first: what is left of an overwritten run is none
                (self.path / name).unlink(missing_ok=True)
            self._sweep()
        self.save(checkpoint)
        self._write_metrics(checkpoint.records)
        self._replace(CONFIG, text.encode())

    def check_free(self, overwrite: bool) -> None:
        """ValueError where the folder holds another run, or files that a run would replace, unless overwrite."""
        if overwrite:
            return
        if self.is_run:
            raise ValueError(
                f"{self.path} holds another run: name another folder, resume that run (--resume), or replace it with "
                "overwrite (--overwrite)"
            )
        for name in RESULTS:  # which no run has before config.json
            if (self.path / name).exists():
                raise ValueError(
                    f"{self.path} holds a {name} of no run: name another folder, or replace it with overwrite "
                    "(--overwrite)"
                )

    def read_config(self) -> Config:
        """The run's configuration. ValueError where there is no run, or no longer one."""
        if not self.is_run:
            raise ValueError(f"{self.path} holds no run to resume (no {CONFIG}): start one there without resuming")
        try:
            return Config.from_json((self.path / CONFIG).read_text())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path / CONFIG} is damaged ({error}): start anew in another folder") from error

    def read_checkpoint(self) -> Checkpoint:
        """The run's last checkpoint. ValueError where it is missing or damaged."""
        path = self.path / CHECKPOINT
        try:
            saved = torch.load(path, weights_only=True)  # the user's own run, not a stranger's file; needs tensors
            if saved.pop("version") != VERSION:
                raise ValueError(f"not of version {VERSION}")
            return Checkpoint(**{**saved, "records": [Record(**record) for record in saved["records"]]})
        except Exception as error:  # torch.load raises whatever the bytes lead it to
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path} cannot be read ({reason}): start anew in another folder") from error

    def restart(self, config: Config, checkpoint: Checkpoint) -> None:
        """Go back to checkpoint: drop later metrics, and write config, whose epochs or device may have changed."""
        self._saved_step = checkpoint.step
        with self._guarded(self.path):
            self._sweep()
        self._write_metrics(checkpoint.records)
        self._replace(CONFIG, config.to_json().encode())

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        saved = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
        records = [record._asdict() for record in checkpoint.records]
        for record in records:
            del record["weights"]  # always the last step's
        buffer = io.BytesIO()
        torch.save({"version": VERSION, **saved, "records": records}, buffer)
        self._replace(CHECKPOINT, buffer.getvalue())
        self._saved_step = checkpoint.step

    def append(self, record: Record) -> None:
        """Add a line to metrics.jsonl."""
        path = self.path / METRICS
        with self._guarded(path), path.open("a") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, weights: Weights, curve: Curve) -> None:
        """Write the trained weights, for torch and for the book's code, and the curves of losses and accuracies."""
        for name in (MODEL, PARAMS):
            with self._guarded(self.path / name), stage_weights(weights, self.path / name) as staged:
                staged.read()
                staged.commit()
        with self._guarded(self.path / CURVES):
            save_figure(curves({self.path.name: curve}), self.path / CURVES)

    def _sweep(self) -> None:
        """Remove the half-written files of a killed process."""
        for name in FILES:
            for path in self.path.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

    def _write_metrics(self, records: Sequence[Record]) -> None:
        self._replace(METRICS, "".join(map(_line, records)).encode())

    def _replace(self, name: str, data: bytes) -> None:
        with self._guarded(self.path / name):
            replace_file(self.path / name, data)

    @contextmanager
    def _guarded(self, path: Path) -> Iterator[None]:
        """Have an OSError on writing path say what is kept, and what to do."""
        try:
            yield
        except OSError as error:
            kept = "no step had been taken; make room or name another folder, then start again"
            if self._saved_step:
                kept = f"step {self._saved_step} is kept; make room or mend the folder, then resume"
            reason = os.strerror(error.errno) if error.errno else str(error)
            says = f"{path} cannot be written ({reason}): {kept}"
            raise OSError(*([error.errno, says] if error.errno else [says])) from error


@contextmanager
def numbered_folder(parent: Path) -> Iterator[Path]:
    """Make the first of parent/1, parent/2, ... that does not exist: of several processes each gets one of its own.

    It is removed if nothing was written into it, and so is a parent without other folders. OSError.
    """
    for number in itertools.count(1):
        with suppress(FileExistsError):
            (path := parent / str(number)).mkdir(parents=True)
            break
    try:
        yield path
    finally:
        with suppress(OSError):  # not empty
            path.rmdir()
            parent.rmdir()


def _line(record: Record) -> str:
    return json.dumps(record._asdict()) + "\n"


def curve_of(losses: Array, records: Sequence[Record]) -> Curve:
    """The curves of losses (steps,) and of records, at least one, to be drawn."""
    columns = np.array([(r.epoch, r.train_accuracy, r.test_accuracy) for r in records if r.weights == LAST]).T
    return Curve(records[0].step, losses, *columns)


def read_curve(path: str | Path) -> Curve:
    """The losses and evaluations of the run in the folder path, as far as its last checkpoint.

    ValueError where there is no run, a damaged one, or one without an evaluation yet.
    """
    folder = RunFolder(path)
    if not folder.is_run:
        raise ValueError(f"{path} holds no run (no {CONFIG}): name the folder that scripts/train.py wrote")
    checkpoint = folder.read_checkpoint()  # which holds what metrics.jsonl says, and at the same moment
    if not checkpoint.records:
        raise ValueError(f"{path} has no evaluation yet: let it come to the end of its first epoch")
    return curve_of(checkpoint.losses.numpy(), checkpoint.records)


def read_curves(paths: Sequence[str | Path]) -> dict[str, Curve]:
    """The curves of several runs, by their folders' names, or by their paths where two names are equal. ValueError."""
    names = [Path(path).name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(set(labels)) < len(labels):
        raise ValueError(f"each run must be named once, got {', '.join(labels)}")
    return {label: read_curve(path) for label, path in zip(labels, paths, strict=True)}
