"""What there is to look at: networks from a file or from a seed, their layers, and what these make of an image."""

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
    """A network of the book's, and what a title says of its weights."""

    weights: Weights
    name: str
    images: Preparation | None = None  # as it is given them, where that is not as its run was trained

    @property
    def network(self) -> Network:
        """A NumPy network with copies of the weights."""
        return self.weights.reference()

    @property
    def preparation(self) -> Preparation:
        """How it is given its images."""
        return self.images or Preparation.parse(self.weights.source.trained.get("images", "unit"))

    @property
    def data(self) -> str:
        """The data set that it was trained on, MNIST where nothing tells."""
        return self.weights.source.trained.get("data", DATA_SETS[0])

    @property
    def about(self) -> str:
        """Its name, with that of a network of no file, and how it is given images where that is not the book's way."""
        name = self.name if self.weights.source.path else f"{self.weights.architecture.name}, {self.name}"
        return name if self.preparation == UNIT else f"{name} ({self.preparation} images)"

    def prepared(self, images: Array) -> Array:
        """Images float (N, C, H, W) of 0 to 1 as it is given them."""
        how = self.preparation
        return images if how == UNIT else np.asarray(how.apply(255 * images, float))


class Samples(NamedTuple):
    """Images uint8 (N, C, H, W) with labels (N,), and what a title says of them: "mnist test"."""

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
    """A data set by its name, in folder; without a name what subject was trained on, else MNIST.

    Without folder it is that of the training, if that is still there.
    """
    trained = {} if subject is None else subject.weights.source.trained
    name = name or (DATA_SETS[0] if subject is None else subject.data)
    before = trained.get("data_dir")
    if folder is None and name == trained.get("data") and before is not None and Path(before).is_dir():
        folder = before
    return Samples(*data.load(name, train, folder, progress=progress), f"{name} {'training' if train else 'test'}")


def load_subject(path: str | Path, hints: Hints = NO_HINTS, dtype: torch.dtype | None = None) -> Subject:
    """The network whose weights are in path, a file or a run's folder."""
    return Subject(read_weights(path, hints, dtype=dtype), short_name(path))


def seeded_subject(seed: int, like: Architecture) -> Subject:
    """A network as it is before learning, drawn from RandomState(seed)."""
    params = like.reference(rng=np.random.RandomState(seed)).params
    weights = Weights(like, params) if like.arguments else Weights.of(params)
    return Subject(weights, f"start of seed {seed}, nothing learned")


def start_of(path: str | Path, learned: Subject, seed: int | None = None) -> Subject:
    """learned, which path holds, before it learned: a run's own start, else one drawn from seed (None for 0)."""
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
    """A file's name, or a folder's with the one before it (runs/1), as a title can hold it."""
    path = Path(path)
    name = "/".join(path.resolve().parts[-2:]) if path.is_dir() else path.name
    return name if len(name) <= 40 else f"{name[:18]}...{name[-18:]}"


def convolution(network: Network, name: str | None = None) -> tuple[str, nr.Convolution]:
    """A convolution layer by name, of upper or lower case, and that name; None for the first. ValueError lists all."""
    found = {key.lower(): layer for key, layer in network.layers.items() if isinstance(layer, nr.Convolution)}
    if not found:
        raise ValueError(f"the network has no convolution layer, only {_listed(network.layers)}")
    name = next(iter(found)) if name is None else name.lower()
    if name not in found:
        raise ValueError(f"layer must be a convolution, one of {_listed(found)}, got {name!r}")
    return name, found[name]


def maps_of(found: Mapping[str, Array], names: Sequence[str] = ()) -> dict[str, Array]:
    """The outputs (N, FN, OH, OW) of those layers, without names of all up to the first pooling."""
    maps = {name.lower(): value for name, value in found.items() if value.ndim == 4}
    if not maps:
        raise ValueError(f"the network has no layers with images as outputs, only {_listed(found)}")
    unknown = [name for name in names if name.lower() not in maps]
    if unknown:
        raise ValueError(f"layers must be of {_listed(maps)}, got {_listed(unknown)}")
    if names:
        return {name.lower(): maps[name.lower()] for name in names}
    pooled = [number for number, name in enumerate(maps, 1) if name.startswith(("pool", "subsample"))]
    return dict(list(maps.items())[: pooled[0] if pooled else None])


def stages(subject: Subject, image: Array, layer: str | None = None, number: int = 0) -> list[Stage]:
    """An image (C, H, W) of 0 to 1, one filter of a convolution layer, and what it makes up to the next pooling.

    Each with the pixels that the greatest value of the last is made of.
    """
    network = subject.network
    name, convolves = convolution(network, layer)
    check_index("filter", number, len(convolves.W), "filters")
    shown = _alone(network, name)
    outputs = network.outputs(subject.prepared(image[np.newaxis]))
    regions = _regions(network, shown[-1], outputs[shown[-1]][0, number])
    made = [Stage(each.lower(), outputs[each][0, number], regions[each]) for each in shown]
    seen = Stage("image", image.mean(axis=0), regions["image"])
    kernel = Stage(f"filter {number}", convolves.W[number].mean(axis=0))
    if shown[0] == next(iter(network.layers)):  # else the image is not what the filter is applied to
        kernel, made[0] = kernel._replace(sign="*"), made[0]._replace(name=f"{name}, bias added", sign="=")
    if convolves.W.shape[1] > 1:
        kernel = kernel._replace(name=f"{kernel.name}, mean of {convolves.W.shape[1]} channels")
    return [seen, kernel, *made]


def _alone(network: Network, name: str) -> list[str]:
    """The layer of that name in lower case and those after it up to a pooling, or before its maps are mixed."""
    found = list[str]()
    for each, layer in network.layers.items():
        if found and isinstance(layer, nr.Convolution | nr.Affine):
            break
        if found or each.lower() == name:
            found.append(each)
        if found and isinstance(layer, WindowLayer):
            break
    return found


def _regions(network: Network, last: str, values: Array) -> dict[str, Region]:
    """Of which pixels of each layer up to last, and of the image, the greatest of last's values (H, W) is made."""
    top, left = np.unravel_index(values.argmax(), values.shape)
    names = ["image", *network.layers]
    names = names[: names.index(last) + 1]
    found = {last: (int(top), int(left), 1, 1)}
    for before, name in zip(names[-2::-1], names[:0:-1], strict=True):
        found[before] = _inputs(network.layers[name], found[name])
    return found


def _inputs(layer: Layer, region: Region) -> Region:
    """The pixels of which a layer makes those of region."""
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
    """The input, each layer and the softmax, with shapes and numbers of parameters."""
    shape = subject.weights.architecture.input_shape
    network = subject.network
    found = network.outputs(np.zeros((1, *shape)))
    sizes = dict.fromkeys(network.layers, 0)
    for name, (owner, _) in network.owners.items():
        sizes[owner] += network.params[name].size
    layers = [
        Box(name.lower(), kind_of(layer).about(layer), found[name].shape[1:], sizes[name], type(layer).__name__)
        for name, layer in network.layers.items()
    ]
    return [Box("input", "", shape, 0), *layers, Box("softmax", "probabilities", layers[-1].shape, 0)]


def _listed(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(map(str.lower, names))
