"""Which part of the house may import which: read from the code, not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up: each room with its modules of torchport, and the rooms that these may import.
ROOMS: dict[str, tuple[str, set[str]]] = {
    "numpy_ref": ("", set()),
    "choices": ("choices", {"numpy_ref"}),
    "layers": ("checks columns layers loss", {"numpy_ref"}),
    "optimizers": ("optimizers", {"numpy_ref", "layers"}),
    "data": ("data drawn glyphs images", {"numpy_ref", "layers"}),
    "figures": ("figures", {"numpy_ref", "layers"}),
    "networks": ("networks twins states weights architectures", {"numpy_ref", "choices", "layers"}),
    "parity": ("parity", {"numpy_ref", "choices", "layers", "networks"}),
    "files": ("formats", {"numpy_ref", "choices", "networks"}),
    "evaluation": ("evaluation", {"numpy_ref", "layers", "networks", "data"}),
}
