"""The book's weights into a module of one's own, and back, and the proof that they are in their places."""

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
from torchport.loading.places import Reading, read, readings, rounded, write
from torchport.loading.proof import agreeing, proved
from torchport.loading.uses import LoadError, dtype_of, initialise, paths_of, uses_of
from torchport.networks import Architecture, Weights, recognise
from torchport.parity import Report
from torchport.parity.preparation import restored, unwrapped

SAMPLES = 4  # of a drawn batch
MOST = 64  # readings that are tried

Source = Network | Architecture | Weights | Mapping[str, Array] | str | Path


@dataclass(frozen=True)
class Loaded:
    """What was filled with what: the book's names, and those of the port's parameters and buffers."""

    filled: Mapping[str, str]
    unused: tuple[str, ...]  # parameters of the port that no prediction needs, left alone
    report: Report | None  # on the port with its new weights, in as far as it was asked for

    @property
    def lines(self) -> list[str]:
        """One for each that was filled, or left alone."""
        filled = [f"{ours}: {theirs}" for ours, theirs in self.filled.items()]
        return filled + [f"not used: {name}" for name in self.unused]

    def __str__(self) -> str:
        otherwise = "" if self.report is None or self.report.ok else "the weights are in place, the port is another: "
        return "\n".join([*self.lines, *([] if self.report is None else [f"{otherwise}{self.report.verdict}"])])


def load_params(port: nn.Module, source: Source, x: Array | None = None, *, prove: bool = True) -> Loaded:
    """Fill a module of one's own with the reference's weights and running statistics, all or nothing.

    The order in which the forward pass first uses its parameters tells which is which, and what it does with a weight
    tells its layout: names and the order of definition tell nothing. Then the certificate proves it.

    Args:
        port: Any module; it keeps its dtype and device.
        source: The reference, the book's params (W1, b1, ...), or a file that has them.
        x: An example batch (N, ...), where the source does not tell the shape of its samples.
        prove: Whether to prove it; without, whoever calls judges the port.

    Returns:
        What went where, what was left alone, and the certificate's report. The port may still differ from the
        reference in what is no weight, a missing dropout or another eps: then the report says so.

    Raises:
        LoadError: A ValueError, where the port has other parameters, where two readings hold, or where a layer that
            has parameters does not compute what the reference's does. The port is then as it was.
        ValueError: Also for a source that is not known, and for weights that the port's dtype cannot hold.

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
    inner, (reference, x) = unwrapped(port), _given(source, x)
    initialise(inner, x)
    held = rounded(reference, dtype_of(inner))
    arrays = {**held.params, **held.statistics}

    def fill(places: Reading) -> Network:
        write(inner, places, arrays)
        return held

    with restored(inner):
        places, report = _settled(port, held, x, fill, prove)
    fill(places)
    filled = {place.name: place.use.label for place in places}
    return Loaded(filled, tuple(sorted(paths_of(inner) - {*filled.values()})), report)


def params_from(port: nn.Module, reference: Source, x: Array | None = None) -> dict[str, Array]:
    """The weights of a module of one's own under the book's names and in its layout: what load_params would fill.

    Args:
        port: Any module; it stays as it is.
        reference: A network, or what load_params takes, of the same layers; its own weights do not count.
        x: An example batch (N, ...), where the reference does not tell the shape of its samples.

    Returns:
        W1, b1 and so on, then running_mean1, running_var1 where there are any; copies in the port's dtype.

    Raises:
        LoadError: As load_params: the reference with these weights is proved to compute what the port does.

    Example:
        >>> import numpy_ref, torch, torchport
        >>> port = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> params = torchport.params_from(port, numpy_ref.TwoLayerNet(8, 6, 4))
        >>> {name: value.shape for name, value in params.items()}
        {'W1': (8, 6), 'b1': (6,), 'W2': (6, 4), 'b2': (4,)}
    """
    inner, (like, x) = unwrapped(port), _given(reference, x)
    initialise(inner, x)
    places, _ = _settled(port, like, x, lambda places: read(inner, places, like))
    found = read(inner, places, like)
    name = str(dtype_of(inner)).removeprefix("torch.")
    dtype = np.dtype("float32" if name == "bfloat16" else name)
    return {name: value.astype(dtype) for name, value in {**found.params, **found.statistics}.items()}


def _given(source: Source, x: Array | None) -> tuple[Network, Array]:
    """The network and a batch for it. ValueError where x is none, and nothing tells what it should be."""
    if isinstance(source, str | Path):
        source = read_weights(source)
    if isinstance(source, Mapping):
        source = Weights.of(source)
    reference = source if isinstance(source, Network) else source.reference()
    if x is not None:
        return reference, np.asarray(check_batch("x", x), dtype=np.float64)
    known = source.architecture if isinstance(source, Weights) else source
    shape = known.input_shape if isinstance(known, Architecture) else _shape_of(reference)
    return reference, np.random.default_rng(0).standard_normal((SAMPLES, *shape))


def _shape_of(reference: Network) -> tuple[int, ...]:
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


def _settled(
    port: nn.Module, like: Network, x: Array, move: Callable[[Reading], Network], prove: bool = True
) -> tuple[Reading, Report | None]:
    """The one reading that holds, and its certificate; move gives the network that the port should be then."""
    inner = unwrapped(port)
    uses = uses_of(inner, x, like.predict(x).size)
    tried = list(itertools.islice(readings(like, x, uses), MOST + 1))
    if len(tried) > MOST:
        raise LoadError(f"there are more than {MOST} readings of what the port's parameters are, as {_told(tried[:2])}")
    differing = {each[0].layer for each in zip(*tried, strict=True) if len({place.reading for place in each}) > 1}
    likely = agreeing(inner, like, x, tried, differing) if differing else tried
    judged = list[tuple[Reading, Report | None, bool]]((each, None, True) for each in likely or tried[:1])
    if prove:
        judged = [(each, *proved(port, move(each), x, each)) for each in likely or tried]
    holding = [(each, report) for each, report, holds in judged if holds]
    if not holding:
        report = judged[0][1]
        raise LoadError(f"with these weights the port is not what the reference is: {report!r}", report)
    if len(holding) > 1:
        raise LoadError(f"two readings hold: {_told([each for each, _ in holding])}")
    return holding[0]


def _told(tried: list[Reading]) -> str:
    """What the first two differ in."""
    pairs = [(a.reading, b.reading) for a, b in zip(*tried[:2], strict=True) if a.reading != b.reading]
    return " or ".join(", ".join(side) for side in zip(*pairs, strict=True))
