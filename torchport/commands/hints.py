"""Finds out why an accuracy is low: tries the weights with other images, another order of rows or of classes."""

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

BuildNetwork: TypeAlias = Callable[[Weights], Network | nn.Module]

IMAGES_TRIED = 1000
GAIN = 0.1  # in accuracy, that options must bring to be suggested; nor may the result be LOW: chance reaches neither
CLOSE = 0.02  # options whose accuracy is this close to the best are suggested, too


def hint(
    weights: Weights,
    build: BuildNetwork,
    images: Array,
    labels: Array,
    preparation: Preparation,
    result: Classification,
) -> str:
    """A line that names the options that would raise a low accuracy; "" if it is not low or nothing helps.

    result is the classification of images uint8 (N, C, H, W), prepared by preparation, by the network build(weights).
    """
    if result.accuracy >= LOW:
        return ""
    images, labels = images[:IMAGES_TRIED], labels[:IMAGES_TRIED]
    current = float(np.mean(result.predictions[:IMAGES_TRIED] == result.labels[:IMAGES_TRIED]))
    classify_images = partial(classify, images=images, labels=labels)
    trials = sorted(_trials(weights, build, classify_images, preparation), key=lambda trial: -trial[1])
    least = max(current + GAIN, LOW, trials[0][1] - CLOSE)
    if better := [f"{accuracy:.3f} with {options}" for options, accuracy in trials if accuracy >= least]:
        return f"hint: the accuracy on the first {len(images)} images, {current:.3f}, would be {', '.join(better)}"
    return _renumbering_hint(result)


def _trials(
    weights: Weights, build: BuildNetwork, classify_images: Callable[..., Classification], preparation: Preparation
) -> Iterator[tuple[str, float]]:
    """Options and accuracy, 0 to 1, of each other preparation, then of all with the first Affine's rows read as HWC."""
    for row_option, read_weights in {"": weights, **_channels_last(weights)}.items():
        network = build(read_weights)
        for other in dict.fromkeys([preparation, *NAMED.values()]):
            if options := f"{row_option} --images {other}".strip() if other != preparation else row_option:
                yield options, classify_images(network, preparation=other).accuracy


def _channels_last(weights: Weights) -> dict[str, Weights]:
    """--flatten hwc to weights read with it; empty if the first Affine gets one channel or one position only."""
    params, channels, number = weights.params, 1, 1
    while (weight := params.get(name := f"W{number}")) is not None and weight.ndim != 2:
        channels, number = len(weight), number + 1  # a subsampling has as many channels as the convolution before it
    if weight is None or channels in (1, len(weight)):
        return {}
    rows = weight.reshape(-1, channels, weight.shape[1]).swapaxes(0, 1)  # (C, H * W, outputs)
    params = {**params, name: np.ascontiguousarray(rows.reshape(weight.shape))}
    return {"--flatten hwc": replace(weights, params=params)}


def _renumbering_hint(result: Classification) -> str:
    """A line on a permutation of the classes that would raise the accuracy, "" if there is none."""
    predicted = result.confusion.argmax(axis=1)  # the most frequent prediction for each class
    share = result.confusion.max(axis=1).sum() / len(result.labels)
    if len(set(predicted.tolist())) < result.classes or share < max(result.accuracy + GAIN, LOW):
        return ""
    pairs = ", ".join(f"{label} as {other}" for label, other in enumerate(predicted) if label != other)
    return f"hint: the classes seem to be numbered differently; {share:.3f} would be right with {pairs}"
