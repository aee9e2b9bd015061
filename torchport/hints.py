"""What a low accuracy may come from: the same weights, tried as if images, rows or classes had another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from numpy_ref.checks import Array
from numpy_ref.network import Network
from torchport.data.preparation import NAMED, Preparation
from torchport.evaluation import LOW, Classification, classify
from torchport.networks import Weights

TRIED = 1000  # images
LIFTED, LEAST = 0.1, 0.5  # what a reading must gain, and reach: networks that have learned nothing do neither
CLOSE = 0.02  # to the best one
Make = Callable[[Weights], Network | nn.Module]


class Reading(NamedTuple):
    """The options of another way to read weights and images, and its share of right predictions, 0 to 1."""

    options: str
    accuracy: float


def hint(
    weights: Weights, make: Make, images: Array, labels: Array, preparation: Preparation, found: Classification
) -> str:
    """A line on what would be right, "" where the accuracy is not low or nothing helps.

    make gives the network of any weights; found is what these make of images.
    """
    if found.accuracy >= LOW:
        return ""
    images, labels = images[:TRIED], labels[:TRIED]
    now = float(np.mean(found.predictions[:TRIED] == found.labels[:TRIED]))
    readings = sorted(_readings(weights, make, images, labels, preparation), key=lambda each: -each.accuracy)
    least = max(now + LIFTED, LEAST, readings[0].accuracy - CLOSE)
    if better := [each for each in readings if each.accuracy >= least]:
        would = ", ".join(f"{each.accuracy:.3f} with {each.options}" for each in better)
        return f"hint: of the first {len(images)} images, {now:.3f} are right, and would be {would}"
    return _renumbered(found)


def _readings(
    weights: Weights, make: Make, images: Array, labels: Array, preparation: Preparation
) -> Iterator[Reading]:
    """Of other preparations, and of the first Affine's rows in H, W, C order."""
    by_rows = {"": weights, **_channels_last(weights, preparation(images[:1]))}
    for rows, read in by_rows.items():
        network = make(read)
        for each in {preparation: None, **dict.fromkeys(NAMED.values())}:
            options = f"{rows} --images {each}" if each != preparation else rows
            if options:
                right = classify(network, images, labels, preparation=each)
                yield Reading(options.strip(), right.accuracy)


def _channels_last(weights: Weights, x: Array) -> dict[str, Weights]:
    """Weights if their rows follow Keras, by the option that says so; none without channels before an Affine."""
    shape, reference = x.shape, weights.reference()
    for layer, y in reference.outputs(x).items():
        name = next((name for name, owner in reference.owners.items() if owner == (layer, "W")), "")
        if name and reference.params[name].ndim == 2:
            if len(shape) != 4 or shape[1] == 1:
                return {}
            _, channels, height, width = shape
            rows = reference.params[name].reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
            params = {**weights.params, name: rows.reshape(height * width * channels, -1)}
            return {"--flatten hwc": replace(weights, params=params)}
        shape = y.shape
    return {}


def _renumbered(found: Classification) -> str:
    """Where each class is mostly seen as another one, and no two as the same."""
    seen = found.confusion.argmax(axis=1)
    share = found.confusion.max(axis=1).sum() / len(found.labels)
    if len(set(seen.tolist())) < found.classes or share < max(found.accuracy + LIFTED, LEAST):
        return ""
    pairs = ", ".join(f"{label} as {other}" for label, other in enumerate(seen) if label != other)
    return f"hint: the classes are numbered otherwise, {share:.3f} are right but for that: {pairs}"
