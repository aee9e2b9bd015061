"""Files of MNIST's kind, of whatever images and labels."""

from __future__ import annotations

import struct

import numpy as np

from numpy_ref.checks import Array


def idx(values: Array) -> bytes:
    """An IDX file of these values, as bytes."""
    return struct.pack(f">{1 + values.ndim}i", 0x800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()
