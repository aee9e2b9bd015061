"""Networks of the book's, small ones."""

from __future__ import annotations

from typing import Any

import numpy as np

import numpy_ref as nr
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS


def deep(image: int, filters: int, hidden_size: int, output_size: int, channels: int = 1) -> nr.DeepConvNet:
    """A DeepConvNet with so many filters in every convolution."""
    conv_params: Any = {
        f"conv_param_{number}": {**param, "filter_num": filters} for number, param in enumerate(DEFAULT_CONV_PARAMS, 1)
    }
    rng = np.random.RandomState(0)
    return nr.DeepConvNet(
        (channels, image, image), **conv_params, hidden_size=hidden_size, output_size=output_size, rng=rng
    )
