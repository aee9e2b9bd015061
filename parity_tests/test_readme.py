"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from parity import test_user_ports as test_user_ports  # for which all ports are entered
from parity.catalogue import BUGS
from parity.user_ports import RIGHT_PORTS, WRONG_PORTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_PORT = README.split("## A port of your own")[1]


def in_ones_own_test(code: str) -> None:
    """What pytest does with it."""
    names: dict[str, object] = {}
    exec(compile(code, "test_net.py", "exec"), names)
    (test,) = (names[name] for name in names if name.startswith("test_"))
    assert callable(test)
    test()


def test_the_example_of_ones_own_port_says_what_is_shown() -> None:
    code = re.search(r"```python\n(.*?)```", OWN_PORT, re.DOTALL)
    shown = re.search(r"```\nAssertionError: (.*?)```", OWN_PORT, re.DOTALL)
    assert code is not None
    assert shown is not None
    with pytest.raises(AssertionError) as failure:
        in_ones_own_test(code[1])
    assert str(failure.value) == shown[1].strip()
    in_ones_own_test(code[1].replace("  # forgotten: .T", ".T"))


def test_as_many_ports_are_judged_as_it_says() -> None:
    assert f"{len(BUGS)} of {len(BUGS)} planted bugs caught" in README
    assert f"{len(RIGHT_PORTS)} right ones accepted, {len(WRONG_PORTS)} wrong ones blamed" in README


def test_the_scripts_that_it_names_are_there() -> None:
    named = set(re.findall(r"[\w/]*(?:scripts|parity_tests)/[\w/]+\.py", README))
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).is_file()] == []
