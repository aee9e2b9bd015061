"""No false alarm: unmodified ports on random networks; --cases says on how many, and has the count shown."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import numpy_ref as nr
from numpy_ref.layers import Layer
from parity.calibration import Calibration, run_clean, settings
from torchport import UnfoldConv2d
from torchport.networks import from_reference
from torchport.parity import check_parity

FEW = 48


@cache
def clean(device: str) -> Calibration:
    return run_clean(FEW, device)


def test_no_false_alarms(
    device: str, request: pytest.FixtureRequest, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cases = request.config.getoption("--cases")
    with capsys.disabled():  # for the bar
        result = run_clean(cases, device, progress=True) if cases else clean(device)
    if cases:
        shown += result.table(device)
    assert [report.verdict for report in result.alarms] == []


def test_clean_cases_are_judged_in_every_arithmetic(device: str) -> None:
    assert {arithmetic for _, _, arithmetic in clean(device).largest} == {setting.name for setting in settings(device)}


def test_limits_are_not_idle() -> None:
    """Correct ports come so near to their limits that none of them could be twenty times smaller."""
    largest = clean("cpu").largest
    for rule in ("sum", "exp", "normalise"):
        assert max(ratio for (_, found, _), ratio in largest.items() if found == rule) > 0.05


def test_an_alarm_is_told_by_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: -right(self, input))
    *_, verdict, _, last = run_clean(3).table("cpu")  # of which the last is by unfold
    assert verdict.startswith("NO PARITY: unfold, case 2 in float64 on cpu, ")
    assert last == "1 alarms in 3 clean cases on cpu"


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
