"""What there is to look at: networks from a file or from a seed, their layers, and what these make of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.network import Network
from torchport.figures import Box
from torchport.files import Hints, read_weights
from torchport.files.store import NO_HINTS
from torchport.layers import kind_of
from torchport.networks import Architecture, Weights
from torchport.training.folder import RunFolder

DEFAULT = "SimpleConvNet"


@dataclass(frozen=True)
class Subject:
    """A network of the book's, and what a title says of its weights."""

    weights: Weights
    name: str

    @property
    def network(self) -> Network:
        """A NumPy network with copies of the weights."""
        return self.weights.reference()


def load_subject(path: str | Path, hints: Hints = NO_HINTS) -> Subject:
    """The network whose weights are in path, a file or a run's folder. Errors as read_weights."""
    return Subject(read_weights(path, hints), short_name(path))


def seeded_subject(seed: int = 0, like: Architecture | None = None) -> Subject:
    """A network as it is before learning, drawn from RandomState(seed); None for the book's SimpleConvNet."""
    like = Architecture(DEFAULT) if like is None else like
    params = like.reference(rng=np.random.RandomState(seed)).params
    weights = Weights(like, params) if like.arguments else Weights.of(params)
    return Subject(weights, f"start of seed {seed}, nothing learned")


def start_of(path: str | Path, learned: Subject, seed: int | None = None) -> Subject:
    """learned, which path holds, as it was before learning: a run's own start, else one drawn from seed (None for 0).

    ValueError where the run began from other weights, and these are no longer there.
    """
    folder, architecture = RunFolder(path), learned.weights.architecture
    if seed is not None or not folder.is_run:
        return seeded_subject(seed or 0, architecture)
    config = folder.read_config()
    if config.init is None:
        return seeded_subject(config.seed, architecture)
    if not Path(config.init).exists():
        raise ValueError(f"{path} began from {config.init}, which is not there: name another start, or a seed")
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
    """The outputs (N, FN, OH, OW) of those layers, without names of all up to the first pooling.

    ValueError for other layers, which lists those that are.
    """
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
    return ", ".join(name if name.islower() else name.lower() for name in names)
