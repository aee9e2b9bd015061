"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_example_of_ones_own_network_says_what_is_shown() -> None:
    section = README.split("## A network of your own")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    shown = re.search(r"```\nAssertionError: (.*?)```", section, re.DOTALL)
    assert code is not None
    assert shown is not None
    with pytest.raises(AssertionError) as failure:
        exec(code[1], {})
    assert str(failure.value) == shown[1].strip().replace("\n", " ")
    exec(code[1].replace("  # forgotten: .T", ".T").replace('["W2"])).T', '["W2"]).T)'), {})
