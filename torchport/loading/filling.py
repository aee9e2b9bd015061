"""load_params and params_from: the book's weights into a user's module and back, with proof that each is in place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from numpy_ref.checks import Array, check_batch
from numpy_ref.layers import Affine
from numpy_ref.network import Network
from torchport.files import read_weights
from torchport.loading.places import Reading, read, readings, round_weights, write
from torchport.loading.proof import certify, matching_readings
from torchport.loading.uses import LoadError, dtype_of, initialise, parameter_paths, uses_of
from torchport.networks import Architecture, Weights, recognise
from torchport.parity import Report
from torchport.parity.preparation import restored, unwrapped

SAMPLES = 4  # in a drawn batch
MAX_READINGS = 64  # to try

Source = Network | Architecture | Weights | Mapping[str, Array] | str | Path


@dataclass(frozen=True)
class Loaded:
    """The result of load_params."""

    filled: Mapping[str, str]  # the book's names to the names of the port's parameters and buffers
    unused: tuple[str, ...]  # parameters of the port that no prediction uses; they were left unchanged
    report: Report | None  # on the port with its new weights, None if no proof was asked for

    def __bool__(self) -> bool:
        """False if the proof found that the port, with its new weights, still differs from the reference."""
        return self.report is None or self.report.ok

    @property
    def lines(self) -> list[str]:
        """One line for each parameter of the port that was filled or left unchanged."""
        filled = [f"{book_name}: {port_name}" for book_name, port_name in self.filled.items()]
        return filled + [f"not used: {name}" for name in self.unused]

    def __str__(self) -> str:
        prefix = "" if self.report is None or self.report.ok else "the weights are in place, but the port differs: "
        return "\n".join([*self.lines, *([] if self.report is None else [f"{prefix}{self.report.verdict}"])])


def load_params(port: nn.Module, source: Source, x: Array | None = None, *, prove: bool = True) -> Loaded:
    """Fill a user's own module with the reference's weights and running statistics, all or nothing.

    Parameters are matched by the order in which the forward pass first uses them, and their layout follows from the
    operation that uses them; names and the order of definition do not matter. The parity certificate then proves the
    match.

    Args:
        port: Any module; it keeps its dtype and device.
        source: The reference, the book's params (W1, b1, ...), or a file that has them.
        x: An example batch (N, ...), needed if the source does not determine the shape of its samples.
        prove: Whether to prove the match; if not, the caller should check the port.

    Returns:
        What was filled, what was left unchanged, and the certificate's report. The port may still differ from the
        reference in more than weights, such as a missing dropout or another eps: the report then says so, and the
        result is false.

    Raises:
        LoadError: A ValueError: the port has other parameters, two readings hold, or a layer with parameters does not
            compute what the reference's does. The port is left unchanged.
        ValueError: Also for an unknown source, and for weights that the port's dtype cannot hold.

    Example:
        >>> import numpy_ref, torch, torchport
        >>> reference = numpy_ref.TwoLayerNet(8, 6, 4)
        >>> port = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> loaded = torchport.load_params(port, reference)
        >>> loaded.filled
        {'W1': '0.weight', 'b1': '0.bias', 'W2': '2.weight', 'b2': '2.bias'}
        >>> bool(loaded.report)
        True
    """
    inner, (reference, x) = unwrapped(port), _network_and_batch(source, x)
    initialise(inner, x)
    rounded = round_weights(reference, dtype_of(inner))
    arrays = {**rounded.params, **rounded.statistics}

    def fill(reading: Reading) -> Network:
        write(inner, reading, arrays)
        return rounded

    with restored(inner):
        reading, report = _choose_reading(port, rounded, x, fill, prove)
    fill(reading)
    filled = {place.name: place.use.label for place in reading}
    return Loaded(filled, tuple(sorted(parameter_paths(inner) - {*filled.values()})), report)


def params_from(port: nn.Module, reference: Source, x: Array | None = None) -> dict[str, Array]:
    """Return the weights of a user's own module under the book's names and in its layout: load_params reversed.

    Args:
        port: Any module; it is left unchanged.
        reference: A network with the same layers, or another source that load_params takes; its weights do not matter.
        x: An example batch (N, ...), needed if the reference does not determine the shape of its samples.

    Returns:
        W1, b1 and so on, then running_mean1, running_var1 and so on if there are any; copies in the port's dtype.

    Raises:
        LoadError: As load_params does: the reference with these weights is proved to compute what the port computes.

    Example:
        >>> import numpy_ref, torch, torchport
        >>> port = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> params = torchport.params_from(port, numpy_ref.TwoLayerNet(8, 6, 4))
        >>> {name: value.shape for name, value in params.items()}
        {'W1': (8, 6), 'b1': (6,), 'W2': (6, 4), 'b2': (4,)}
    """
    inner, (network, x) = unwrapped(port), _network_and_batch(reference, x)
    initialise(inner, x)
    reading, _ = _choose_reading(port, network, x, lambda reading: read(inner, reading, network))
    filled = read(inner, reading, network)
    name = str(dtype_of(inner)).removeprefix("torch.")
    dtype = np.dtype("float32" if name == "bfloat16" else name)
    return {name: value.astype(dtype) for name, value in {**filled.params, **filled.statistics}.items()}


def _network_and_batch(source: Source, x: Array | None) -> tuple[Network, Array]:
    """Return source's network and x, or a drawn batch if x is None. ValueError if its shape cannot be determined."""
    if isinstance(source, str | Path):
        source = read_weights(source)
    if isinstance(source, Mapping):
        source = Weights.of(source)
    reference = source if isinstance(source, Network) else source.reference()
    if x is not None:
        return reference, np.asarray(check_batch("x", x), dtype=np.float64)
    architecture = source.architecture if isinstance(source, Weights) else source
    shape = architecture.input_shape if isinstance(architecture, Architecture) else _input_shape(reference)
    return reference, np.random.default_rng(0).standard_normal((SAMPLES, *shape))


def _input_shape(reference: Network) -> tuple[int, ...]:
    """Return the shape of one sample: from a first Affine, or from recognised parameters. ValueError."""
    first = next(iter(reference.layers.values()))
    if isinstance(first, Affine):
        return (len(first.W),)
    try:
        shape = recognise(reference.params).input_shape
        reference.predict(np.zeros((1, *shape)))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"x must be an example batch (N, ...): a network that begins with {type(first).__name__} does "
            "not tell the shape of its samples"
        ) from error
    return shape


def _choose_reading(
    port: nn.Module, network: Network, x: Array, apply: Callable[[Reading], Network], prove: bool = True
) -> tuple[Reading, Report | None]:
    """Return the one reading that holds, and its report; apply(reading) returns the network the port should equal."""
    inner = unwrapped(port)
    uses = uses_of(inner, x, network.predict(x).size)
    candidates = list(itertools.islice(readings(network, x, uses), MAX_READINGS + 1))
    if len(candidates) > MAX_READINGS:
        raise LoadError(
            f"there are more than {MAX_READINGS} readings of what the port's parameters are, "
            f"as {_describe_difference(candidates)}"
        )
    ambiguous = {each[0].layer for each in zip(*candidates, strict=True) if len({place.words for place in each}) > 1}
    likely = matching_readings(inner, network, x, candidates, ambiguous) if ambiguous else candidates
    results = list[tuple[Reading, Report | None, bool]]((reading, None, True) for reading in likely or candidates[:1])
    if prove:
        results = [(reading, *certify(port, apply(reading), x, reading)) for reading in likely or candidates]
    holding = [(reading, report) for reading, report, holds in results if holds]
    if not holding:
        report = results[0][1]
        raise LoadError(f"with these weights the port is not what the reference is: {report!r}", report)
    if len(holding) > 1:
        raise LoadError(f"two readings hold: {_describe_difference([reading for reading, _ in holding])}")
    return holding[0]


def _describe_difference(candidates: list[Reading]) -> str:
    """Say how the first two readings differ."""
    pairs = [(a.words, b.words) for a, b in zip(*candidates[:2], strict=True) if a.words != b.words]
    return " or ".join(", ".join(side) for side in zip(*pairs, strict=True))
