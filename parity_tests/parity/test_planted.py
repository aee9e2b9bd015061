"""Every planted bug is caught, and blamed on the right layer: --table shows by how much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from parity.catalogue import BUGS, _norm, _subsampled
from parity.planted import Bug, Finding, find, in_layer, table
from torchport import BatchNormalization
from torchport.networks.ports import load_layer

LEAST_MARGIN = 100.0  # a smaller one needs a word why


@pytest.fixture(scope="module")
def findings(request: pytest.FixtureRequest, shown: list[str]) -> Iterator[list[Finding]]:
    """What became of the bugs so far; after the last of them, their table."""
    found: list[Finding] = []
    yield found
    if request.config.getoption("--table"):
        shown += table(found)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_at_the_right_layer(bug: Bug, findings: list[Finding]) -> None:
    finding = find(bug)
    findings.append(finding)
    assert finding.ok, finding.to_markdown()
    for row in (finding.float64, finding.float32):
        if row is not None and not bug.note:
            assert row.worst.ratio >= LEAST_MARGIN


def test_the_catalogue_is_complete() -> None:
    assert len(BUGS) == 84
    assert len({bug.name for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_right_layer_is_no_bug(dtype: torch.dtype) -> None:
    """Looking for it does not move its running statistics."""

    def make(rng: np.random.Generator) -> tuple[nr.BatchNormalization, nn.Module, Array]:
        gamma, beta, mean = rng.standard_normal((3, 5))
        layer, module = nr.BatchNormalization(gamma, beta, 0.9, mean, rng.random(5)), BatchNormalization(5).double()
        load_layer(module, layer)
        return layer, module, rng.standard_normal((6, 5))

    assert in_layer("no bug", make).find(dtype) is None


@pytest.mark.parametrize("make", [_subsampled(lambda module: None), _norm(BatchNormalization)])
def test_an_unspoiled_layer_of_the_catalogue_is_right(make: Callable[..., Any]) -> None:
    """Or a bug planted in it would be caught for another reason."""
    for dtype in (torch.float64, torch.float32):
        assert in_layer("no bug", make).find(dtype) is None


def test_a_bug_that_survives_is_told() -> None:
    survived = find(Bug("no bug at all", "conv1", lambda _: None))
    assert not survived.ok
    assert "SURVIVED" in survived.to_markdown()
    assert table([survived])[-1] == "0 of 1 bugs caught at the right layer"
    row = next(bug for bug in BUGS if bug.layer == "conv1").find(torch.float64)
    assert not find(Bug("blamed elsewhere", "affine2", lambda _: row)).ok
