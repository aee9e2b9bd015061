"""Where data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "TORCHPORT_DATA"


def default_data_dir() -> Path:
    """The folder that the variable TORCHPORT_DATA names, else data/: a torchvision root."""
    return Path(os.environ.get(DATA_VARIABLE) or "data")
