"""No false alarm: unmodified ports on random networks; --cases says on how many, and has the count shown."""

from __future__ import annotations

from functools import cache

import pytest

from parity.calibration import Calibration, run_clean, settings
from parity.cases import random_case
from torchport import UnfoldConv2d, check_parity, from_reference

FEW = 15
# Every run but those of float32 alone, of networks that are not homogeneous, and of compiled ports.
EVERYWHERE = {"training", "prediction", "N samples", "batch", "loss, logits x 1", "loss, logits x 1000", "batch again"}


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


def test_clean_cases_are_judged_in_every_arithmetic_and_run(device: str) -> None:
    judged = {(arithmetic, run) for run, _, arithmetic in clean(device).largest}
    assert {(setting.name, run) for setting in settings(device) for run in EVERYWHERE} <= judged
    assert {("float64", "integers"), ("float32", "as float64"), ("float32", "x 1000")} <= judged


def test_limits_are_not_idle() -> None:
    """Correct ports come so near to their limits that none of them could be twenty times smaller."""
    largest = clean("cpu").largest
    for rule in ("sum", "exp", "normalise"):
        assert max(ratio for (_, found, _), ratio in largest.items() if found == rule) > 0.05


def test_an_alarm_is_told_by_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: -right(self, input))
    *_, verdict, _, last = run_clean(3).table("cpu")  # of which the last is by unfold
    assert verdict.startswith("NO PARITY: unfold, case 2 in float64 on cpu: conv1 output [")
    assert last == "1 alarms in 3 clean cases on cpu"


@pytest.mark.parametrize("seed", [131, 471, 696])
def test_what_once_was_a_false_alarm_is_none(seed: int, device: str) -> None:
    """A dead relu, a constant feature whose gradients cancel, and one that only the integers kill."""
    reference, x, t = random_case(seed)
    port = from_reference(reference, "conv2d", device).float()
    report = check_parity(reference, port, x, t, seed=seed)
    assert report.ok, report.verdict
