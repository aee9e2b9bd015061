"""Measures how a network responds to images shifted by a few pixels, before and after its first pooling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from numpy_ref.checks import Array, check_index
from numpy_ref.layers import WindowLayer
from numpy_ref.network import Network
from torchport.evaluation import classify
from torchport.figures.shifts import relative_change
from torchport.subjects import Subject


def moved(images: Array, right: int, down: int = 0) -> Array:
    """Shift images (N, C, H, W) by pixels to the right and down, or left and up if negative, filling with zeros."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (abs(down), abs(down)), (abs(right), abs(right))))
    top, left = abs(down) - down, abs(right) - right
    return padded[:, :, top : top + height, left : left + width]


def pair(subject: Subject, image: Array, number: int | None = None) -> dict[str, tuple[Array, Array]]:
    """Return an image (C, H, W), 0 to 1, and one filter's maps around the first pooling, each still and shifted by 1.

    number is the filter's; None chooses the one with the strongest map.
    """
    both = np.stack([image, moved(image[np.newaxis], 1)[0]])
    outputs = subject.network.outputs(subject.prepared(both))
    before, after = around_pooling(subject.network)
    strength = outputs[after][0].sum(axis=(1, 2))
    number = int(strength.argmax()) if number is None else check_index("filter", number, len(strength), "filters")
    maps = {f"{name.lower()}, filter {number}": outputs[name][:, number] for name in (before, after)}
    return {name: (still, shifted) for name, (still, shifted) in {"image": both.mean(axis=1), **maps}.items()}


def changes(subject: Subject, images: Array, pixels: Sequence[int]) -> dict[str, Array]:
    """Return the relative change (n,) of the maps around the first pooling as images, 0 to 1, shift by each number."""
    network = subject.network
    still = network.outputs(subject.prepared(images))
    shifted = [network.outputs(subject.prepared(moved(images, n))) for n in pixels]
    names = zip(("before pooling", "after pooling"), around_pooling(network), strict=True)
    return {
        f"{when}: {name.lower()}": np.array([relative_change(still[name], outputs[name]) for outputs in shifted])
        for when, name in names
    }


def accuracies(subject: Subject, images: Array, labels: Array, pixels: Sequence[int]) -> dict[str, Array]:
    """Return the accuracy (n,) on images uint8 (N, C, H, W) shifted by each of pixels, for either direction."""
    port = subject.weights.port()

    def accuracy(right: int, down: int) -> float:
        return classify(port, moved(images, right, down), labels, preparation=subject.preparation).accuracy

    return {
        "to the right (left below 0)": np.array([accuracy(n, 0) for n in pixels]),
        "down (up below 0)": np.array([accuracy(0, n) for n in pixels]),
    }


def around_pooling(network: Network) -> tuple[str, str]:
    """Return the names of the layer before the first pooling and of the pooling. ValueError if there is none."""
    for before, name in pairwise(network.layers):
        if isinstance(network.layers[name], WindowLayer):
            return before, name
    raise ValueError(f"the network has no pooling layer, only {', '.join(network.layers)}")
