"""Subjects of the pictures: networks from a file or a seed, their layers, and the layers' outputs for an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import numpy_ref as nr
from numpy_ref.checks import Array, check_index
from numpy_ref.layers import Layer, WindowLayer
from numpy_ref.network import Network
from torchport import data
from torchport.data import DATA_SETS
from torchport.data.preparation import UNIT, Preparation
from torchport.figures import Box, Stage
from torchport.figures.style import Region
from torchport.files import Hints, read_weights
from torchport.layers import kind_of
from torchport.networks import Architecture, Weights
from torchport.networks.hints import NO_HINTS
from torchport.training.folder import RunFolder


@dataclass(frozen=True)
class Subject:
    """A network, and the name of its weights for the title of a picture."""

    weights: Weights
    name: str
    images: Preparation | None = None  # preparation of its images; None for that of its training

    @property
    def network(self) -> Network:
        """The NumPy network with copies of the weights."""
        return self.weights.reference()

    @property
    def preparation(self) -> Preparation:
        """How images are turned into the network's input."""
        return self.images or Preparation.parse(self.weights.source.trained.get("images", "unit"))

    @property
    def data(self) -> str:
        """Name of the data set that the network was trained on; MNIST if that is unknown."""
        return self.weights.source.trained.get("data", DATA_SETS[0])

    @property
    def about(self) -> str:
        """Title: name, preceded by the architecture if no file gave it, and the preparation unless it is the book's."""
        name = self.name if self.weights.source.path else f"{self.weights.architecture.name}, {self.name}"
        return name if self.preparation == UNIT else f"{name} ({self.preparation} images)"

    def prepared(self, images: Array) -> Array:
        """Turn images float (N, C, H, W), 0 to 1, into the network's input."""
        preparation = self.preparation
        return images if preparation == UNIT else np.asarray(preparation.apply(255 * images, float))


class Samples(NamedTuple):
    """Images uint8 (N, C, H, W) with labels (N,), and their name in titles: "mnist test"."""

    images: Array
    labels: Array
    name: str


def load_samples(
    subject: Subject | None = None,
    name: str | None = None,
    folder: str | None = None,
    *,
    train: bool = False,
    progress: bool = True,
) -> Samples:
    """Load the data set called name from folder, by default the one that subject was trained on, else MNIST.

    folder defaults to the one used for training, if it still exists.
    """
    trained = {} if subject is None else subject.weights.source.trained
    name = name or (DATA_SETS[0] if subject is None else subject.data)
    data_dir = trained.get("data_dir")
    if folder is None and name == trained.get("data") and data_dir is not None and Path(data_dir).is_dir():
        folder = data_dir
    return Samples(*data.load(name, train, folder, progress=progress), f"{name} {'training' if train else 'test'}")


def load_subject(path: str | Path, hints: Hints = NO_HINTS, dtype: torch.dtype | None = None) -> Subject:
    """Load the network whose weights are in path, a file or a run's folder."""
    return Subject(read_weights(path, hints, dtype=dtype), short_name(path))


def seeded_subject(seed: int, architecture: Architecture) -> Subject:
    """Return an untrained network, its weights drawn from RandomState(seed)."""
    params = architecture.reference(rng=np.random.RandomState(seed)).params
    weights = Weights(architecture, params) if architecture.arguments else Weights.of(params)
    return Subject(weights, f"random start, seed {seed}")


def start_of(path: str | Path, learned: Subject, seed: int | None = None) -> Subject:
    """Return the network in path, learned, as before training: the run's own start, else drawn from seed (None: 0)."""
    folder, architecture = RunFolder(path), learned.weights.architecture
    if seed is not None or not folder.is_run:
        return seeded_subject(seed or 0, architecture)
    config = folder.read_config()
    if config.init is None:
        return seeded_subject(config.seed, architecture)
    if not Path(config.init).exists():
        raise ValueError(f"{path} began from {config.init}, which is not there: give a seed of another start")
    return load_subject(config.init)


def short_name(path: str | Path) -> str:
    """Return a name for titles, at most 41 characters: of a file its name, of a folder its last two parts (runs/1)."""
    path = Path(path)
    name = "/".join(path.resolve().parts[-2:]) if path.is_dir() else path.name
    return name if len(name) <= 40 else f"{name[:18]}...{name[-18:]}"


def convolution(network: Network, name: str | None = None) -> tuple[str, nr.Convolution]:
    """Return a convolution layer and its name in lower case, by name in any case; None for the first. ValueError."""
    conv_layers = {key.lower(): layer for key, layer in network.layers.items() if isinstance(layer, nr.Convolution)}
    if not conv_layers:
        raise ValueError(f"the network has no convolution layer, only {_join_lower(network.layers)}")
    name = next(iter(conv_layers)) if name is None else name.lower()
    if name not in conv_layers:
        raise ValueError(f"layer must be a convolution, one of {_join_lower(conv_layers)}, got {name!r}")
    return name, conv_layers[name]


def maps_of(outputs: Mapping[str, Array], names: Sequence[str] = ()) -> dict[str, Array]:
    """Return the maps (N, FN, OH, OW) among outputs for the named layers, by default all up to the first pooling."""
    maps = {name.lower(): value for name, value in outputs.items() if value.ndim == 4}
    if not maps:
        raise ValueError(f"the network has no layers with images as outputs, only {_join_lower(outputs)}")
    unknown = [name for name in names if name.lower() not in maps]
    if unknown:
        raise ValueError(f"layers must be of {_join_lower(maps)}, got {_join_lower(unknown)}")
    if names:
        return {name.lower(): maps[name.lower()] for name in names}
    pooled = [number for number, name in enumerate(maps, 1) if name.startswith(("pool", "subsample"))]
    return dict(list(maps.items())[: pooled[0] if pooled else None])


def stages(subject: Subject, image: Array, layer: str | None = None, number: int = 0) -> list[Stage]:
    """Return an image (C, H, W), 0 to 1, one filter of a convolution layer, and its maps up to the next pooling.

    Each stage has the region that contributes to the greatest value of the last one.
    """
    network = subject.network
    name, conv = convolution(network, layer)
    check_index("filter", number, len(conv.W), "filters")
    names = _layers_to_pooling(network, name)
    outputs = network.outputs(subject.prepared(image[np.newaxis]))
    regions = _regions(network, names[-1], outputs[names[-1]][0, number])
    maps = [Stage(each.lower(), outputs[each][0, number], regions[each]) for each in names]
    kernel = Stage(f"filter {number}", conv.W[number].mean(axis=0))
    if names[0] == next(iter(network.layers)):  # only the first layer applies its filters to the image itself
        kernel, maps[0] = kernel._replace(sign="*"), maps[0]._replace(name=f"{name}, bias added", sign="=")
    if conv.W.shape[1] > 1:
        kernel = kernel._replace(name=f"{kernel.name}, mean of {conv.W.shape[1]} channels")
    return [Stage("image", image.mean(axis=0), regions["image"]), kernel, *maps]


def _layers_to_pooling(network: Network, name: str) -> list[str]:
    """Return the layer called name in lower case and those after it up to a pooling, or before maps are mixed."""
    names = list[str]()
    for each, layer in network.layers.items():
        if names and isinstance(layer, nr.Convolution | nr.Affine):
            break
        if names or each.lower() == name:
            names.append(each)
        if names and isinstance(layer, WindowLayer):
            break
    return names


def _regions(network: Network, last: str, values: Array) -> dict[str, Region]:
    """Return, for the image and each layer up to last, the region behind the greatest of last's values (H, W)."""
    top, left = np.unravel_index(values.argmax(), values.shape)
    names = ["image", *network.layers]
    names = names[: names.index(last) + 1]
    regions = {last: (int(top), int(left), 1, 1)}
    for previous, name in zip(names[-2::-1], names[:0:-1], strict=True):
        regions[previous] = _input_region(network.layers[name], regions[name])
    return regions


def _input_region(layer: Layer, region: Region) -> Region:
    """Return the region (top, left, height, width) of a layer's input that contributes to region of its output."""
    if isinstance(layer, nr.Convolution):
        height, width = layer.W.shape[2:]
    elif isinstance(layer, WindowLayer):
        height, width = layer.pool_h, layer.pool_w
    else:
        return region
    top, left, down, across = region
    step, pad = layer.stride, layer.pad
    return top * step - pad, left * step - pad, (down - 1) * step + height, (across - 1) * step + width


def boxes(subject: Subject) -> list[Box]:
    """Return a Box for the input, each layer and the softmax, with output shapes and numbers of parameters."""
    shape = subject.weights.architecture.input_shape
    network = subject.network
    outputs = network.outputs(np.zeros((1, *shape)))
    sizes = dict.fromkeys(network.layers, 0)
    for name, (owner, _) in network.owners.items():
        sizes[owner] += network.params[name].size
    layers = [
        Box(name.lower(), kind_of(layer).about(layer), outputs[name].shape[1:], sizes[name], type(layer).__name__)
        for name, layer in network.layers.items()
    ]
    return [Box("input", "", shape, 0), *layers, Box("softmax", "probabilities", layers[-1].shape, 0)]


def _join_lower(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(map(str.lower, names))
