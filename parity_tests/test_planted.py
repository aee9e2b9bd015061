"""The suite catches bugs: every planted one, at the right layer; and it raises no alarm without one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.layers import Layer
from torchport import BatchNormalization
from torchport.networks import from_reference
from torchport.parity import check_parity
from torchport.parity.calibration import Calibration, run_clean, settings
from torchport.parity.catalogue import BUGS, _norm, _subsampled
from torchport.parity.planted import Bug, find, in_layer
from torchport.twins import load_layer

LEAST_MARGIN = 100.0  # a smaller one needs a word why
CLEAN_CASES = 48


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_at_the_right_layer(bug: Bug) -> None:
    finding = find(bug)
    assert finding.ok, finding.to_markdown()
    for row in (finding.float64, finding.float32):
        if row is not None and not bug.note:
            assert row.worst.ratio >= LEAST_MARGIN


def test_the_catalogue_is_complete() -> None:
    assert len(BUGS) >= 45
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@cache
def clean(device: str) -> Calibration:
    return run_clean(CLEAN_CASES, device)


def test_no_false_alarms(device: str) -> None:
    """A few; python scripts/planted_bugs.py --clean 1000 runs the thousand."""
    result = clean(device)
    assert [report.verdict for report in result.alarms] == []
    assert {arithmetic for _, _, arithmetic in result.largest} == {setting.name for setting in settings(device)}


def test_limits_are_not_idle() -> None:
    """Correct ports come so near to their limits that none of them could be twenty times smaller."""
    largest = clean("cpu").largest
    for rule in ("sum", "exp", "normalise"):
        assert max(ratio for (_, found, _), ratio in largest.items() if found == rule) > 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_right_layer_is_no_bug(dtype: torch.dtype) -> None:
    """Looking for it does not move its running statistics."""

    def make(rng: np.random.Generator) -> tuple[nr.BatchNormalization, nn.Module, Array]:
        gamma, beta, mean = rng.standard_normal((3, 5))
        layer, module = nr.BatchNormalization(gamma, beta, 0.9, mean, rng.random(5)), BatchNormalization(5).double()
        load_layer(module, layer)
        return layer, module, rng.standard_normal((6, 5))

    assert in_layer("no bug", make).find(dtype) is None


def test_limits_that_say_nothing_stay_finite() -> None:
    """Batches whose variance bfloat16 cannot see, normalised three times: inf - inf would be an alarm."""
    rng = np.random.default_rng(0)
    layers: dict[str, Layer] = {}
    for number in (1, 2, 3):
        layers[f"Affine{number}"] = nr.Affine(rng.standard_normal((4, 4)), rng.standard_normal(4))
        layers[f"Norm{number}"] = nr.BatchNormalization(*rng.standard_normal((2, 4)))
    reference, x = nr.Network(layers), 1 + 1e-3 * rng.standard_normal((6, 4))
    report = check_parity(reference, from_reference(reference).float(), x, np.arange(6) % 4, mode="bfloat16")
    report.raise_if_failed()
    assert all(np.isfinite(row.worst.limit) for row in report.rows)
    assert any(row.hardly_judged for row in report.rows)


@pytest.mark.parametrize("make", [_subsampled(lambda module: None), _norm(BatchNormalization)])
def test_an_unspoiled_layer_of_the_catalogue_is_right(make: Callable[..., Any]) -> None:
    """Or a bug planted in it would be caught for another reason."""
    for dtype in (torch.float64, torch.float32):
        assert in_layer("no bug", make).find(dtype) is None


def test_a_bug_that_survives_is_told() -> None:
    survived = find(Bug("no bug at all", "conv1", lambda _: None))
    assert not survived.ok
    assert "SURVIVED" in survived.to_markdown()
    row = next(bug for bug in BUGS if bug.layer == "conv1").find(torch.float64)
    assert not find(Bug("blamed elsewhere", "affine2", lambda _: row)).ok
