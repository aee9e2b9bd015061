"""Predictions over a whole data set, in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from numpy_ref.checks import Array, check_batch, check_int
from numpy_ref.functions import class_labels
from numpy_ref.networks import Network
from torchport.networks import CONVOLUTIONS, SimpleConvNet
from torchport.parity.cases import reference_of
from torchport.weights import cast_params


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

    def to_text(self) -> str:
        """A line per network, one for all, one for the memory."""
        lines = [f"{name}: accuracy {found:.4f} on {self.samples} test images" for name, found in self.accuracy.items()]
        lines.append(f"{self.agreeing} of {self.samples} predictions equal in all {len(self.accuracy)}")
        memory = "unknown" if self.memory is None else f"{self.memory / 2**20:.0f} MiB"
        return "\n".join([*lines, f"peak memory of the process: {memory}"])


def predict_labels(network: Network | nn.Module, images: Array) -> Array:
    """Most likely class (n,) of images (n, C, H, W), float32 in 0..1, in the network's own dtype and device."""
    if isinstance(network, Network):
        return np.asarray(network.predict(images).argmax(axis=1))
    weight = next(network.parameters())
    with torch.inference_mode():
        logits = network(torch.tensor(images, device=weight.device, dtype=weight.dtype))
    return np.asarray(logits.argmax(dim=1).cpu())


def evaluate_ports(
    params: Mapping[str, Array],
    images: Array,
    labels: Array,
    *,
    device: str = "cpu",
    stride: int = 1,
    pad: int = 0,
    batch_size: int = 100,
) -> Evaluation:
    """The reference and both ports with the same params, in float64, on images uint8 (N, C, H, W) and labels (N,).

    Shows a progress bar on a terminal. ValueError where images, labels and network do not fit each other; TypeError.
    """
    params = cast_params(params, torch.float64)  # in less, each would round in its own way
    if check_batch("images", images, ndim=4).dtype != np.uint8:
        raise TypeError(f"images must be uint8, 0 to 255, got dtype {images.dtype}")
    labels = class_labels(labels, (len(images), len(params["b3"])))
    check_int("batch_size", batch_size, 1)
    networks: dict[str, Network | nn.Module] = {"numpy": reference_of(params, stride, pad)}
    for conv in CONVOLUTIONS:
        networks[conv] = SimpleConvNet.from_params(params, conv, stride, pad, device=device)
    found = {name: np.empty(len(images), dtype=np.int64) for name in networks}
    with tqdm(total=len(images) * len(networks), desc="test images", unit="image", disable=None) as progress:
        for name, network in networks.items():
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size].astype(np.float32) / np.float32(255)
                found[name][start : start + batch_size] = predict_labels(network, batch)
                progress.update(len(batch))
    first, *others = found.values()
    agree = np.logical_and.reduce([other == first for other in others])
    accuracy = {name: float(np.mean(p == labels)) for name, p in found.items()}
    return Evaluation(len(images), accuracy, int(agree.sum()), peak_memory())


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage counts what the parent process held when it started this one
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
