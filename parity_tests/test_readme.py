"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
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
