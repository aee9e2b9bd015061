"""What a low accuracy may come from: the same weights, tried as if images, rows or classes were meant otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from torch import nn

from numpy_ref.checks import Array
from numpy_ref.network import Network
from torchport.data.preparation import NAMED, Preparation
from torchport.evaluation import LOW, Classification, classify
from torchport.networks import Weights

Make: TypeAlias = Callable[[Weights], Network | nn.Module]

TRIED = 1000  # images
GAIN = 0.1  # of a reading that is told, which must not be LOW itself: chance reaches neither
CLOSE = 0.02  # to the best one: those are told, too


def hint(
    weights: Weights, make: Make, images: Array, labels: Array, preparation: Preparation, found: Classification
) -> str:
    """A line on what would be right, "" where the accuracy is not low or nothing helps.

    found is what the network that make makes of weights predicts of images uint8 (N, C, H, W), prepared so.
    """
    if found.accuracy >= LOW:
        return ""
    images, labels = images[:TRIED], labels[:TRIED]
    now = float(np.mean(found.predictions[:TRIED] == found.labels[:TRIED]))
    judge = partial(classify, images=images, labels=labels)
    readings = sorted(_readings(weights, make, judge, preparation), key=lambda reading: -reading[1])
    least = max(now + GAIN, LOW, readings[0][1] - CLOSE)
    if better := [f"{accuracy:.3f} with {options}" for options, accuracy in readings if accuracy >= least]:
        return f"hint: of the first {len(images)} images, {now:.3f} are right, and would be {', '.join(better)}"
    return _renumbered(found)


def _readings(
    weights: Weights, make: Make, judge: Callable[..., Classification], preparation: Preparation
) -> Iterator[tuple[str, float]]:
    """Options and accuracy, 0 to 1, of every other preparation, also with the first Affine's rows in H, W, C order."""
    for rows, read in {"": weights, **_channels_last(weights)}.items():
        network = make(read)
        for each in dict.fromkeys([preparation, *NAMED.values()]):
            if options := f"{rows} --images {each}".strip() if each != preparation else rows:
                yield options, judge(network, preparation=each).accuracy


def _channels_last(weights: Weights) -> dict[str, Weights]:
    """By the option that says so, weights if their rows are Keras'; none where there is one channel or one position."""
    params, channels, number = weights.params, 1, 1
    while (weight := params.get(name := f"W{number}")) is not None and weight.ndim != 2:
        channels, number = len(weight), number + 1  # a subsampling has as many as the convolution before
    if weight is None or channels in (1, len(weight)):
        return {}
    rows = weight.reshape(-1, channels, weight.shape[1]).swapaxes(0, 1)  # (C, H * W, outputs)
    params = {**params, name: np.ascontiguousarray(rows.reshape(weight.shape))}
    return {"--flatten hwc": replace(weights, params=params)}


def _renumbered(found: Classification) -> str:
    """Where each class is mostly seen as another one, and no two as the same."""
    seen = found.confusion.argmax(axis=1)
    share = found.confusion.max(axis=1).sum() / len(found.labels)
    if len(set(seen.tolist())) < found.classes or share < max(found.accuracy + GAIN, LOW):
        return ""
    pairs = ", ".join(f"{label} as {other}" for label, other in enumerate(seen) if label != other)
    return f"hint: the classes are numbered otherwise, {share:.3f} are right but for that: {pairs}"
