"""A training run, from its first step or from a checkpoint to its end."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.networks import DTYPES, NETWORKS, Weights, to_params
from torchport.training.config import LAST, MEAN, Config
from torchport.training.folder import Checkpoint, Record, RunFolder, curve_of
from torchport.training.numpy_learner import NumpyLearner
from torchport.training.ranks import Ranks
from torchport.training.result import (
    CAPTURE,
    EVALUATION,
    SAVING,
    SETUP,
    TRAINING,
    Clock,
    Diverged,
    Progress,
    Result,
    Stopped,
    StopRequest,
    Watch,
)
from torchport.training.samples import Samples, orders, read_start
from torchport.training.state import TEST, TRAIN, Learner, all_finite
from torchport.training.torch_learner import TorchLearner

# As the book's Trainer: the accuracy on training images is that of the first ones.
TRAIN_EVALUATED = 1000

RANKS_CHUNK = 10  # steps

CHECKPOINT_SECONDS = 10.0  # at most so much work is lost to a kill, plus one step, or on CUDA one epoch


class Run:
    """One training run: its learner, how far it has come, and the losses and evaluations so far."""

    def __init__(
        self,
        config: Config,
        samples: Samples,
        device: torch.device,
        ranks: Ranks,
        folder: RunFolder | None,
        watches: Sequence[Watch],
        clock: Clock,
        stop: StopRequest,
    ) -> None:
        self._config, self._samples, self._device, self._ranks = config, samples, device, ranks
        self._folder = folder if ranks.first else None
        self._watches, self._clock, self._stop = watches, clock, stop
        self._rng = np.random.RandomState(config.seed)
        # Drawn even where other weights are used: the batches come from the same stream, after them.
        make = NETWORKS[config.network]
        self._network = make(samples.x_train.shape[1:], output_size=samples.classes, rng=self._rng)
        self._check_ranks()
        self._per_epoch = -(-len(samples.x_train) // config.batch_size)
        self._steps = config.epochs * self._per_epoch
        # A GPU runs ahead of Python for a whole epoch; ranks agree on stopping only now and then.
        self._chunk = self._per_epoch if device.type == "cuda" else 1 if ranks.size == 1 else RANKS_CHUNK
        self._data = samples.digest()
        self._step = 0
        # In one piece from the start: small arrays that stay, between large ones that come and go, split up the heap.
        self._all_losses = np.zeros(self._steps)
        self._records: list[Record] = []
        self._saved_at = time.monotonic()

    def start(self, overwrite: bool) -> None:
        """Make the learner, and begin at the first step."""
        with self._clock.on(SETUP):
            dtype, init = DTYPES[np.dtype(self._config.dtype)], self._config.init
            given = None if init is None else read_start(init, self._config, self._samples)
            weights = Weights.of(self._network.params) if given is None else given
            self._learner = self._make_learner(weights.astype(dtype))
        with self._clock.on(CAPTURE):
            self._learner.capture()
        self._in_folder(lambda folder: folder.create(self._config, self._checkpoint(), overwrite))

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Make the learner, and go on from checkpoint. ValueError where that is of another run or of other data."""
        with self._clock.on(SETUP):
            if checkpoint.step > self._steps:
                least = -(-checkpoint.step // self._per_epoch)
                raise ValueError(f"epochs must be at least the {least} that the run has, got {self._config.epochs}")
            if checkpoint.data != self._data:
                raise ValueError(
                    "the data is not what the run was trained on so far: give it the same, or start another run"
                )
            self._learner = self._make_learner(Weights.of(to_params(checkpoint.state["model"])))
        with self._clock.on(CAPTURE):
            self._learner.capture()
        with self._clock.on(SETUP):
            self._learner.load(checkpoint.state)
            self._step = checkpoint.step
            self._losses[:] = checkpoint.losses.numpy()
            self._records = list(checkpoint.records)
        self._in_folder(lambda folder: folder.restart(self._config, checkpoint))

    def go(self) -> Result:
        """Train to the end."""
        epoch, at = divmod(self._step, self._per_epoch)
        for order in islice(orders(self._config, len(self._samples.x_train), self._rng), epoch, self._config.epochs):
            with self._clock.on(TRAINING):
                self._learner.begin(order, at)
            self._train_epoch(at)
            self._evaluate()
            self._save_or_stop()
            at = 0
        return self._finish()

    @property
    def _losses(self) -> Array:
        """The losses of all steps so far, float64 (step,), a view."""
        return self._all_losses[: self._step]

    def _train_epoch(self, at: int) -> None:
        while at < self._per_epoch:
            steps = min(self._chunk, self._per_epoch - at)
            with self._clock.on(TRAINING):
                losses = self._learner.advance(steps)
            at, self._step = at + steps, self._step + steps
            self._check_finite(losses)
            self._losses[-steps:] = losses
            self._tell(None)
            if at < self._per_epoch:  # else after the evaluation: before, a checkpoint would lack its record
                self._save_or_stop()

    def _evaluate(self) -> None:
        with self._clock.on(EVALUATION):
            predictions = self._learner.predict(TEST)
        record = self._record(predictions, LAST)
        self._tell(record)
        guess = math.log(self._samples.classes)
        if record.loss > guess >= max((r.loss for r in self._records[:-1]), default=0.0) and self._ranks.first:
            warnings.warn(
                f"the mean loss of epoch {record.epoch} is {record.loss:.4f}, more than the {guess:.4f} of guessing: "
                "nothing is learned yet, or no longer; try a smaller lr, or more epochs",
                stacklevel=2,
            )

    def _record(self, predictions: Array, weights: str) -> Record:
        """Record an evaluation of the learner's weights, given their predictions of the test images."""
        with self._clock.on(EVALUATION):
            train_predictions = self._learner.predict(TRAIN, TRAIN_EVALUATED)
        record = Record(
            epoch=self._step // self._per_epoch,
            step=self._step,
            loss=float(self._losses[-self._per_epoch :].mean()),
            train_accuracy=float(np.mean(train_predictions == self._samples.t_train[: len(train_predictions)])),
            test_accuracy=float(np.mean(predictions == self._samples.t_test)),
            weights=weights,
        )
        self._records.append(record)
        self._in_folder(lambda folder: folder.append(record))
        return record

    def _save_or_stop(self) -> None:
        stop = self._ranks.any(self._stop.made, self._device) and self._step < self._steps
        if stop or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._save()
        if stop:
            raise Stopped(self._step, self._steps)

    def _save(self) -> None:
        with self._clock.on(SAVING):
            checkpoint = self._checkpoint()
            if not all_finite(checkpoint.state):
                raise Diverged(self._diverged(f"a weight is no longer a number after step {self._step}"))
        self._in_folder(lambda folder: folder.save(checkpoint))
        self._saved_at = time.monotonic()

    def _in_folder(self, do: Callable[[RunFolder], None]) -> None:
        """Call do with the folder: on the first rank, and where there is one."""
        if self._folder is not None:
            with self._clock.on(SAVING):
                do(self._folder)

    def _finish(self) -> Result:
        self._save()
        with self._clock.on(EVALUATION):
            kept = self._keep()
            predictions = self._learner.predict(TEST)
        if kept != LAST:
            self._record(predictions, kept)
        weights = self._learner.weights()
        self._in_folder(lambda folder: folder.finish(weights, curve_of(self._losses, self._records)))
        return Result(
            config=self._config,
            params=weights.params,
            kept=kept,
            losses=self._losses,
            records=tuple(self._records),
            predictions=predictions,
            test_accuracy=self._records[-1].test_accuracy,
            device=str(self._device),
            seconds=self._clock.seconds,
        )

    def _keep(self) -> str:
        """Choose the mean of the weights unless the last ones are better on the training images: LAST or MEAN."""
        if not self._config.keeps_mean:
            return LAST
        last, state = self._count_correct(), self._learner.state()
        self._learner.average()
        if self._count_correct() >= last:
            return MEAN
        self._learner.load(state)
        return LAST

    def _count_correct(self) -> int:
        """How many of all training images are classified correctly."""
        return int(np.count_nonzero(self._learner.predict(TRAIN) == self._samples.t_train))

    def _make_learner(self, weights: Weights) -> Learner:
        if self._config.on_numpy:
            return NumpyLearner(self._config, weights, self._samples)
        return TorchLearner(self._config, weights, self._samples, self._device, self._ranks)

    def _check_ranks(self) -> None:
        drawing = [name for name, layer in self._network.layers.items() if isinstance(layer, nr.Dropout)]
        if drawing and self._ranks.size > 1:
            raise ValueError(
                f"{self._config.network} draws the masks of {', '.join(drawing)} for whole batches: train it in one "
                f"process, got {self._ranks.size}"
            )

    def _checkpoint(self) -> Checkpoint:
        losses, records = torch.tensor(self._losses), list(self._records)
        return Checkpoint(self._step, losses, records, self._learner.state(), self._data)

    def _check_finite(self, losses: Array) -> None:
        wrong = np.flatnonzero(~np.isfinite(losses))
        if wrong.size:
            step = self._step - len(losses) + int(wrong[0]) + 1
            raise Diverged(self._diverged(f"the loss is {losses[wrong[0]]} at step {step}"))

    def _diverged(self, what: str) -> str:
        kept = "" if self._folder is None else f"; {self._folder.path} keeps the last good checkpoint"
        return f"{what}: try a smaller lr{kept}"

    def _tell(self, record: Record | None) -> None:
        for watch in self._watches:
            watch(Progress(self._step, self._steps, float(self._losses[-1]), record))
