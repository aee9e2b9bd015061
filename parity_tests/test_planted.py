"""The suite catches bugs: every planted one, at the right layer; and it raises no alarm without one."""

from __future__ import annotations

import pytest
import torch

from torchport.parity.calibration import run_clean, settings
from torchport.parity.catalogue import BUGS
from torchport.parity.planted import Bug, find

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


def test_no_false_alarms(device: str) -> None:
    """A few; python scripts/planted_bugs.py --clean 1000 runs the thousand."""
    result = run_clean(CLEAN_CASES, device)
    assert [report.verdict for report in result.alarms] == []
    assert {arithmetic for _, _, arithmetic in result.largest} == {setting.name for setting in settings(device)}


def test_limits_are_not_idle() -> None:
    """Correct ports come so near to their limits that none of them could be twenty times smaller."""
    largest = run_clean(CLEAN_CASES).largest
    for rule in ("sum", "exp", "normalise"):
        assert max(ratio for (_, found, _), ratio in largest.items() if found == rule) > 0.05


def test_a_bug_that_survives_is_told() -> None:
    survived = find(Bug("no bug at all", "conv1", lambda _: None))
    assert not survived.ok
    assert "SURVIVED" in survived.to_markdown()
    row = next(bug for bug in BUGS if bug.layer == "conv1").find(torch.float64)
    assert not find(Bug("blamed elsewhere", "affine2", lambda _: row)).ok
