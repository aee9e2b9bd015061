"""Proves that a port's weights are in place: the parity certificate, as far as it depends on weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array
from numpy_ref.layers import BatchNormalization
from numpy_ref.network import Network
from torchport.loading.places import Reading, with_arrays, write
from torchport.loading.uses import dtype_of, intermediate_values
from torchport.parity import Report, check_parity
from torchport.parity.cases import seeded_params
from torchport.parity.preparation import BATCH, PREDICTION, TRAINING, restored, unwrapped

RUNS = (TRAINING, PREDICTION, BATCH)  # the certificate's runs that depend on weights
TOLERANCE = 2.0**-6  # relative: a layer with its weights in another order computes something entirely different
TORCH_EPS = 1e-5  # the default of nn.BatchNorm1d


def matching_readings(
    port: nn.Module, reference: Network, x: Array, candidates: Sequence[Reading], layers: Collection[str]
) -> list[Reading]:
    """Return the readings with which the port computes the outputs of these layers, by name, for the batch x.

    Judged on random weights: with symmetric or zero weights several readings would give the same outputs.
    """
    rng = np.random.default_rng(0)
    arrays = {name: value + name.startswith("gamma") for name, value in seeded_params(0, reference.params).items()}
    arrays |= {name: 0.5 + rng.random(value.shape) for name, value in reference.statistics.items()}
    outputs = [value for name, value in with_arrays(reference, arrays).outputs(x).items() if name in layers]
    matching = list[Reading]()
    for reading in candidates:
        with restored(port):
            write(port, reading, arrays)
            values = intermediate_values(port, x, frozenset(output.size for output in outputs))
        if all(any(_is_close(value, output) for value in values) for output in outputs):
            matching.append(reading)
    return matching


def _is_close(value: Array, output: Array) -> bool:
    if value.size != output.size:
        return False
    return bool(np.linalg.norm(value.ravel() - output.ravel()) <= TOLERANCE * np.linalg.norm(output))


def certify(port: nn.Module, reference: Network, x: Array, reading: Reading) -> tuple[Report, bool]:
    """Return the certificate's report, and whether the weights are in place.

    Batch normalisations may have torch's eps, and may update their running statistics in another way.
    """
    report = _check(reference, port, x)
    misplaced = _misplaced_layers(report, reference)
    variant = with_arrays(reference, {**reference.params, **reference.statistics})
    normalisations = {name: layer for name, layer in variant.layers.items() if isinstance(layer, BatchNormalization)}
    if misplaced and normalisations:
        for layer in normalisations.values():
            layer.EPS = TORCH_EPS
        misplaced &= _misplaced_layers(_check(variant, port, x), reference)
        if matching_readings(unwrapped(port), reference, x, [reading], normalisations):
            misplaced -= {(PREDICTION, name.lower()) for name in normalisations}
    return report, not misplaced


def _check(reference: Network, port: nn.Module, x: Array) -> Report:
    """Check parity in the port's dtype, or in float32, which represents its weights, for float16 and bfloat16."""
    t = np.arange(len(x)) % reference.predict(x[:1]).shape[1]
    inner = unwrapped(port)
    if dtype_of(inner) not in (torch.float16, torch.bfloat16):
        return check_parity(reference, port, x, t, runs=RUNS)
    with restored(inner):
        return check_parity(reference, inner.float(), x, t, runs=RUNS)


def _misplaced_layers(report: Report, reference: Network) -> set[tuple[str, str]]:
    """Return (run, layer) for each layer with parameters whose output is not known to equal the reference's."""
    if report.ok:
        return set()
    rows = [(row, (row.run, layer)) for row in report.rows for layer in row.layer.split(" and ")]
    right = {key for row, key in rows if row.ok and row.quantity == "output"}
    wrong = {key for row, key in rows if not row.ok and row.quantity in ("input", "output", "weight", "bias")}
    return {(run, layer.lower()) for run in RUNS for layer, _ in reference.owners.values()} - (right - wrong)
