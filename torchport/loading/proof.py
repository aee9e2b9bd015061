"""That weights are in their places: the certificate, as far as weights decide it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from numpy_ref.network import Network
from torchport.loading.places import Reading, with_arrays, write
from torchport.loading.uses import dtype_of, values_in
from torchport.parity import Report, check_parity
from torchport.parity.cases import seeded_params
from torchport.parity.preparation import BATCH, PREDICTION, TRAINING, restored, unwrapped

RUNS = (TRAINING, PREDICTION, BATCH)  # of the certificate: what weights decide
NEAR = 2.0**-6  # of its size: with its weights in another order a layer makes something else altogether
TORCHS_EPS = 1e-5  # of nn.BatchNorm1d where nothing is said


def agreeing(
    port: nn.Module, like: Network, x: Array, tried: Sequence[Reading], layers: Collection[str]
) -> list[Reading]:
    """The readings with which the port makes what these layers make.

    Of drawn weights, since of such as are symmetric or 0 several readings make the same.
    """
    rng = np.random.default_rng(0)
    arrays = {name: value + name.startswith("gamma") for name, value in seeded_params(0, like.params).items()}
    arrays |= {name: 0.5 + rng.random(value.shape) for name, value in like.statistics.items()}
    outputs = [value for name, value in with_arrays(like, arrays).outputs(x).items() if name in layers]
    found = list[Reading]()
    for places in tried:
        with restored(port):
            write(port, places, arrays)
            made = values_in(port, x, frozenset(output.size for output in outputs))
        if all(any(_near(value, output) for value in made) for output in outputs):
            found.append(places)
    return found


def _near(value: Array, output: Array) -> bool:
    if value.size != output.size:
        return False
    return bool(np.linalg.norm(value.ravel() - output.ravel()) <= NEAR * np.linalg.norm(output))


def proved(port: nn.Module, reference: Network, x: Array, places: Reading) -> tuple[Report, bool]:
    """The certificate, and whether the weights are in their places.

    In the places of normalisations torch's eps will do, and statistics that training moves in another way.
    """
    report = _certificate(reference, port, x)
    lacking = _out_of_place(report, reference)
    other = with_arrays(reference, {**reference.params, **reference.statistics})
    normalising = {name: each for name, each in other.layers.items() if isinstance(each, BatchNormalization)}
    if lacking and normalising:
        for layer in normalising.values():
            layer.EPS = TORCHS_EPS
        lacking &= _out_of_place(_certificate(other, port, x), reference)
        if agreeing(unwrapped(port), reference, x, [places], normalising):
            lacking -= {(PREDICTION, name.lower()) for name in normalising}
    return report, not lacking


def _certificate(reference: Network, port: nn.Module, x: Array) -> Report:
    """Of a port in less than float32 in that, which holds what it holds."""
    t = np.arange(len(x)) % reference.predict(x[:1]).shape[1]
    inner = unwrapped(port)
    if dtype_of(inner) not in (torch.float16, torch.bfloat16):
        return check_parity(reference, port, x, t, runs=RUNS)
    with restored(inner):
        return check_parity(reference, inner.float(), x, t, runs=RUNS)


def _out_of_place(report: Report, reference: Network) -> set[tuple[str, str]]:
    """The layers with parameters that do not make of their input what the reference's make, by run."""
    if report.ok:
        return set()
    found = [(row, (row.run, layer)) for row in report.rows for layer in row.layer.split(" and ")]
    right = {key for row, key in found if row.ok and row.quantity == "output"}
    wrong = {key for row, key in found if not row.ok and row.quantity in ("input", "output", "weight", "bias")}
    return {(run, layer.lower()) for run in RUNS for layer, _ in reference.owners.values()} - (right - wrong)
