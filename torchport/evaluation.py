"""Predictions over a whole data set, in constant memory."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array, check_int
from numpy_ref.functions import class_labels, softmax
from numpy_ref.network import Network
from torchport.bars import bar
from torchport.data.images import check_images
from torchport.data.preparation import UNIT, Preparation
from torchport.figures import confusion_matrix, mistakes
from torchport.networks import CONVOLUTIONS, Architecture, Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW = 0.8  # accuracy


@dataclass(frozen=True)
class Evaluation:
    """What several networks make of one test set."""

    samples: int
    accuracy: dict[str, float]  # by network, 0 to 1
    agreeing: int  # samples on which all predictions are equal
    memory: int | None  # peak of the process, in bytes; None where the system does not tell

    @property
    def ok(self) -> bool:
        """Whether all networks predict the same on every sample."""
        return self.agreeing == self.samples

    @property
    def low(self) -> bool:
        """Whether all accuracies are, so that images or weights may be meant otherwise."""
        return all(accuracy < LOW for accuracy in self.accuracy.values())

    def to_text(self) -> str:
        """A line per network, one for all, one for the memory."""
        lines = [f"{name}: accuracy {found:.4f} on {self.samples} test images" for name, found in self.accuracy.items()]
        lines.append(f"{self.agreeing} of {self.samples} predictions equal in all {len(self.accuracy)}")
        return "\n".join([*lines, memory_text(self.memory)])


@dataclass(frozen=True, repr=False)
class Classification:
    """What one network makes of a test set."""

    labels: Array  # (N,), the truth
    predictions: Array  # (N,), int64
    confidence: Array  # (N,), the softmax probability of the prediction, 0 to 1
    classes: int

    def __repr__(self) -> str:
        return f"Classification({self.right} of {len(self.labels)} right, accuracy {self.accuracy:.4f})"

    @property
    def right(self) -> int:
        """How many predictions are."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Share of all samples that are right, 0 to 1."""
        return float(np.mean(self.predictions == self.labels))

    @property
    def accuracy_by_class(self) -> Array:
        """Share of each class's samples that are right, (classes,), NaN for a class without any."""
        confusion = self.confusion
        with np.errstate(invalid="ignore"):
            return np.asarray(np.diag(confusion) / confusion.sum(axis=1))

    @property
    def confusion(self) -> Array:
        """How many samples of each class (rows) were predicted as each (columns), int64 (classes, classes)."""
        counts = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def confusion_figure(self, name: str = "") -> Figure:
        """The confusion matrix as a matplotlib Figure, which a notebook shows; name goes into its title."""
        return confusion_matrix(self.confusion, name=name)

    def mistakes_figure(self, images: Array, name: str = "", most: int = 60) -> Figure:
        """A gallery of the mistakes among the images uint8 (N, C, H, W). Errors as figures.mistakes."""
        wrong = self.mistakes
        shown = images[wrong], self.labels[wrong], self.predictions[wrong], self.confidence[wrong]
        return mistakes(*shown, most=most, name=name, numbers=wrong)

    @property
    def mistakes(self) -> Array:
        """Which samples are wrong, the most confident first, int64 (n,)."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def to_text(self, confusions: int = 5) -> str:
        """The accuracy of all and of each class, and the most frequent mistakes."""
        lines = [f"accuracy {self.accuracy:.4f}: {self.right} of {len(self.labels)} test images right"]
        lines += ["", "class   right      of  accuracy"]
        confusion = self.confusion
        for c, share in enumerate(self.accuracy_by_class):
            figures = f"{confusion[c, c]:6d}  {confusion[c].sum():6d}"
            lines.append(f"{c:5d}  {figures}  {'none' if np.isnan(share) else f'{share:.4f}':>8}")
        wrong = np.where(np.eye(self.classes, dtype=bool), 0, confusion)
        frequent = np.argsort(-wrong, axis=None, kind="stable")[:confusions]
        pairs = [divmod(int(i), self.classes) for i in frequent if wrong.flat[i]]
        if pairs:
            lines += ["", "most often: " + ", ".join(f"{t} seen as {p} ({wrong[t, p]} times)" for t, p in pairs)]
        return "\n".join(lines)

    def to_json(self, **about: object) -> str:
        """A line each: about, the accuracies (null for a class without samples), confusion matrix, every mistake."""
        wrong = self.mistakes
        names = ("index", "truth", "predicted", "confidence")
        columns = (wrong, self.labels[wrong], self.predictions[wrong], self.confidence[wrong])
        rows = zip(*(values.tolist() for values in columns), strict=True)
        found = {
            **about,
            "samples": len(self.labels),
            "accuracy": self.accuracy,
            "accuracy_by_class": [None if np.isnan(share) else float(share) for share in self.accuracy_by_class],
            "confusion": self.confusion.tolist(),
            "mistakes": [dict(zip(names, row, strict=True)) for row in rows],
        }
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def classify(
    network: Network | nn.Module,
    images: Array,
    labels: Array,
    *,
    preparation: Preparation = UNIT,
    batch_size: int = 100,
    progress: bool = False,
) -> Classification:
    """What network makes of images uint8 (N, C, H, W) and labels (N,), batch_size at a time.

    preparation says how the network is given them; progress shows a bar on a terminal or in a notebook.
    """
    check_images("images", images)
    check_int("batch_size", batch_size, 1)
    outputs = None  # (N, classes), in one piece: pieces between a network's large arrays would split up the heap
    with bar(progress, total=len(images), desc="test images", unit="image") as shown:
        for start in range(0, len(images), batch_size):
            batch = preparation(images[start : start + batch_size])
            found = predict(network, batch)
            if not np.isfinite(found).all():
                raise ValueError(f"the network's outputs for images {start} to {start + len(batch) - 1} are not finite")
            if outputs is None:
                outputs = np.empty((len(images), found.shape[1]))
            outputs[start : start + len(batch)] = found
            shown.update(len(batch))
    assert outputs is not None  # as there are images
    truth = class_labels(labels, outputs.shape).astype(np.int64)
    return Classification(truth, outputs.argmax(axis=1), softmax(outputs).max(axis=1), outputs.shape[1])


def predict(network: Network | nn.Module, images: Array) -> Array:
    """Outputs before the softmax (n, classes) of images float32 (n, C, H, W), in the network's own dtype.

    A module predicts in evaluation mode, whichever it is in, and is left as it was.
    """
    if isinstance(network, Network):
        return network.predict(images)
    weight, training = next(network.parameters()), [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.inference_mode():
            logits = network(torch.tensor(images, device=weight.device, dtype=weight.dtype))
    finally:
        for module in training:
            module.training = True
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"a network must return a tensor to be evaluated, got a {type(logits).__name__}")
    return np.asarray(logits.cpu())


def check_takes(architecture: Architecture, images: Array, labels: Array) -> None:
    """ValueError, TypeError where architecture takes other images than these (N, C, H, W), or has fewer classes."""
    found, expected = images.shape[1:], architecture.input_shape
    if expected not in (found, (math.prod(found),)):
        what = expected if len(expected) > 1 else f"of {expected[0]} values"
        traceless = "conv_param" in architecture.arguments
        way_out = "the stride and pad they were trained with, or " * traceless + "their data"
        raise ValueError(f"these weights are for images {what}, got {found}: give {way_out}")
    class_labels(labels, (len(images), architecture.classes))


def evaluate_ports(
    weights: Weights, images: Array, labels: Array, *, device: str = "cpu", **options: Any
) -> Evaluation:
    """The reference and both ports with the same weights, in float64, on images uint8 (N, C, H, W) and labels (N,)."""
    check_takes(weights.architecture, images, labels)
    weights = weights.astype(torch.float64)  # in less, each would round in its own way
    networks: dict[str, Network | nn.Module] = {"numpy": weights.reference()}
    networks |= {conv: weights.port(conv, device) for conv in CONVOLUTIONS}
    return compare_predictions(networks, images, labels, **options)


def compare_predictions(
    networks: Mapping[str, Network | nn.Module], images: Array, labels: Array, **options: Any
) -> Evaluation:
    """What networks make of images uint8 (N, C, H, W) with labels (N,), each and together; options are classify's."""
    found = {name: classify(network, images, labels, **options) for name, network in networks.items()}
    predictions = np.array([one.predictions for one in found.values()])
    agreeing = int((predictions == predictions[0]).all(axis=0).sum())
    return Evaluation(len(images), {name: one.accuracy for name, one in found.items()}, agreeing, peak_memory())


def memory_text(memory: int | None) -> str:
    """A line that tells peak_memory()."""
    return f"peak memory of the process: {'unknown' if memory is None else f'{memory / 2**20:.0f} MiB'}"


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage counts what the parent process held when it started this one
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
