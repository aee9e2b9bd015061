"""Short descriptions of arrays and of names from a file, for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy_ref.checks import Array

MAX_ARRAYS, MAX_DIFFERENCES = 24, 6  # listed in one message


def list_shapes(params: Mapping[str, Array]) -> str:
    """List names and shapes for a message: W1 (30, 1, 5, 5), b1 (30,)."""
    shapes = [f"{printable(name)} {value.shape}" for name, value in params.items()]
    return ", ".join(truncate(shapes, MAX_ARRAYS)) or "no arrays"


def truncate(texts: Sequence[str], count: int) -> list[str]:
    """Return the first count texts, followed by "and N more" if there are more."""
    return list(texts) if len(texts) <= count else [*texts[:count], f"and {len(texts) - count} more"]


def printable(name: object) -> str:
    """Return a name from an untrusted file in printable characters, about 40 at most."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 40 else ascii(text)[:40] + "..."
