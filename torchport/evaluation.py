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

LOW = 0.8  # lower accuracies suggest that images or weights are meant in another way


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of several networks on one test set, and how often they agree."""

    samples: int
    accuracy: dict[str, float]  # by network, 0 to 1
    agreeing: int  # number of samples on which all predictions are equal
    memory: int | None  # peak of the process in bytes, None if the system does not report it

    @property
    def ok(self) -> bool:
        """Whether all networks predict the same class for every sample."""
        return self.agreeing == self.samples

    @property
    def low(self) -> bool:
        """Whether every accuracy is below LOW, as when the images or weights are meant in another way."""
        return all(accuracy < LOW for accuracy in self.accuracy.values())

    def to_text(self) -> str:
        """Return a line per network, one on their agreement and one on the memory."""
        lines = [f"{name}: accuracy {share:.4f} on {self.samples} test images" for name, share in self.accuracy.items()]
        networks = "both" if len(self.accuracy) == 2 else f"all {len(self.accuracy)}"
        lines.append(f"{self.agreeing} of {self.samples} predictions equal in {networks}")
        return "\n".join([*lines, memory_text(self.memory)])


@dataclass(frozen=True, repr=False)
class Classification:
    """One network's predictions on a test set."""

    labels: Array  # (N,), the true classes
    predictions: Array  # (N,), int64
    confidence: Array  # (N,), the softmax probability of the prediction, 0 to 1
    classes: int

    def __repr__(self) -> str:
        return f"Classification({self.right} of {len(self.labels)} right, accuracy {self.accuracy:.4f})"

    @property
    def right(self) -> int:
        """Number of correct predictions."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return float(np.mean(self.predictions == self.labels))

    @property
    def accuracy_by_class(self) -> Array:
        """Share of correct predictions for each class, (classes,), NaN for a class without samples."""
        confusion = self.confusion
        with np.errstate(invalid="ignore"):
            return np.asarray(np.diag(confusion) / confusion.sum(axis=1))

    @property
    def confusion(self) -> Array:
        """Confusion matrix, int64 (classes, classes): samples by true class (rows) and prediction (columns)."""
        counts = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def confusion_figure(self, name: str = "") -> Figure:
        """Draw the confusion matrix as a matplotlib Figure, with name in its title."""
        return confusion_matrix(self.confusion, name=name)

    def mistakes_figure(self, images: Array, name: str = "", most: int = 60) -> Figure:
        """Draw a gallery of the mistakes among images uint8 (N, C, H, W). Errors as in figures.mistakes."""
        wrong = self.mistakes
        columns = images[wrong], self.labels[wrong], self.predictions[wrong], self.confidence[wrong]
        return mistakes(*columns, most=most, name=name, numbers=wrong)

    @property
    def mistakes(self) -> Array:
        """Indices of the wrongly predicted samples, the most confident first, int64 (n,)."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def to_text(self, confusions: int = 5) -> str:
        """Return the accuracy, overall and by class, and the most frequent confusions."""
        lines = [f"accuracy {self.accuracy:.4f}: {self.right} of {len(self.labels)} test images right"]
        lines += ["", "class   right      of  accuracy"]
        confusion = self.confusion
        for c, share in enumerate(self.accuracy_by_class):
            counts = f"{confusion[c, c]:6d}  {confusion[c].sum():6d}"
            lines.append(f"{c:5d}  {counts}  {'none' if np.isnan(share) else f'{share:.4f}':>8}")
        wrong = np.where(np.eye(self.classes, dtype=bool), 0, confusion)
        frequent = np.argsort(-wrong, axis=None, kind="stable")[:confusions]
        pairs = [divmod(int(i), self.classes) for i in frequent if wrong.flat[i]]
        if pairs:
            lines += ["", "most often: " + ", ".join(f"{t} seen as {p} ({wrong[t, p]} times)" for t, p in pairs)]
        return "\n".join(lines)

    def to_json(self, **about: object) -> str:
        """Return JSON, a line per key: about, accuracies (null without samples), confusion matrix, every mistake."""
        wrong = self.mistakes
        names = ("index", "truth", "predicted", "confidence")
        columns = (wrong, self.labels[wrong], self.predictions[wrong], self.confidence[wrong])
        rows = zip(*(values.tolist() for values in columns), strict=True)
        fields = {
            **about,
            "samples": len(self.labels),
            "accuracy": self.accuracy,
            "accuracy_by_class": [None if np.isnan(share) else float(share) for share in self.accuracy_by_class],
            "confusion": self.confusion.tolist(),
            "mistakes": [dict(zip(names, row, strict=True)) for row in rows],
        }
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
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
    """Classify images uint8 (N, C, H, W) with labels (N,), batch_size at a time.

    preparation turns the images into the network's input; progress shows a bar on a terminal or in a notebook.
    """
    check_images("images", images)
    check_int("batch_size", batch_size, 1)
    outputs = None  # (N, classes), allocated once: pieces between a network's large arrays would fragment the heap
    with bar(progress, total=len(images), desc="test images", unit="image") as progress_bar:
        for start in range(0, len(images), batch_size):
            batch = preparation(images[start : start + batch_size])
            logits = predict(network, batch)
            if not np.isfinite(logits).all():
                raise ValueError(f"the network's outputs for images {start} to {start + len(batch) - 1} are not finite")
            if outputs is None:
                outputs = np.empty((len(images), logits.shape[1]))
            outputs[start : start + len(batch)] = logits
            progress_bar.update(len(batch))
    assert outputs is not None  # check_images refuses an empty set
    truth = class_labels(labels, outputs.shape).astype(np.int64)
    return Classification(truth, outputs.argmax(axis=1), softmax(outputs).max(axis=1), outputs.shape[1])


def predict(network: Network | nn.Module, images: Array) -> Array:
    """Return the logits (n, classes) for images float32 (n, C, H, W), in the network's dtype.

    A module predicts in evaluation mode; its own mode is restored afterwards.
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
    """Raise ValueError, TypeError if images (N, C, H, W) or labels (N,) do not suit architecture."""
    shape, expected = images.shape[1:], architecture.input_shape
    if expected not in (shape, (math.prod(shape),)):
        what = expected if len(expected) > 1 else f"of {expected[0]} values"
        geometry_unknown = "conv_param" in architecture.arguments
        way_out = "the stride and pad they were trained with, or " * geometry_unknown + "their data"
        raise ValueError(f"these weights are for images {what}, got {shape}: give {way_out}")
    class_labels(labels, (len(images), architecture.classes))


def evaluate_ports(
    weights: Weights, images: Array, labels: Array, *, device: str = "cpu", **options: Any
) -> Evaluation:
    """Evaluate the reference and both ports in float64 on images uint8 (N, C, H, W) with labels (N,)."""
    check_takes(weights.architecture, images, labels)
    weights = weights.astype(torch.float64)  # in float32 each network would round in its own way
    networks: dict[str, Network | nn.Module] = {"numpy": weights.reference()}
    networks |= {conv: weights.port(conv, device) for conv in CONVOLUTIONS}
    return compare_predictions(networks, images, labels, **options)


def compare_predictions(
    networks: Mapping[str, Network | nn.Module], images: Array, labels: Array, **options: Any
) -> Evaluation:
    """Evaluate networks on images uint8 (N, C, H, W) with labels (N,), and count agreements; options as in classify."""
    results = {name: classify(network, images, labels, **options) for name, network in networks.items()}
    predictions = np.array([result.predictions for result in results.values()])
    agreeing = int((predictions == predictions[0]).all(axis=0).sum())
    accuracy = {name: result.accuracy for name, result in results.items()}
    return Evaluation(len(images), accuracy, agreeing, peak_memory())


def memory_text(memory: int | None) -> str:
    """Return a line on memory, which is peak_memory()."""
    return f"peak memory of the process: {'unknown' if memory is None else f'{memory / 2**20:.0f} MiB'}"


def peak_memory() -> int | None:
    """Return this process' peak resident memory in bytes, None if the system does not report it (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its getrusage starts from the memory of the parent process
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(match[1]) * 1024 if match else None
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
