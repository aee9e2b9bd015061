"""Every example in a docstring does what it shows."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from torchport.layers import KINDS, kinds

ROOT = Path(__file__).parents[2]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("numpy_ref", "torchport")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_what_a_user_calls_first_has_an_example() -> None:
    first = {"parity.certificate", "testing", "layers.kinds", "loading.filling", "files.store", "porting"}
    assert {f"torchport.{name}" for name in first} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_do_what_they_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", dict(KINDS))  # into which one registers a layer
    results = doctest.testmod(import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
