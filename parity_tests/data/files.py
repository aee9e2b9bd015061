"""Writes images and labels in MNIST's file format."""

from __future__ import annotations

import struct

import numpy as np

from numpy_ref.checks import Array


def idx(values: Array) -> bytes:
    """The bytes of an IDX file with these values as uint8."""
    return struct.pack(f">{1 + values.ndim}i", 0x800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()
