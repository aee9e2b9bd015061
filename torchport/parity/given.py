"""What a user gives to be judged: taken out of its wrappers, and refused where it is not finite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from numpy_ref.checks import Array

# Where torch.compile, and DataParallel and DistributedDataParallel, keep the module that they wrap.
WRAPPED = ("_orig_mod", "module")
WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel")


def unwrapped(port: nn.Module) -> nn.Module:
    """The module inside torch.compile's, DataParallel's and DistributedDataParallel's wrappers."""
    while type(port).__name__ in WRAPPERS:
        port = next(getattr(port, name) for name in WRAPPED if hasattr(port, name))
    return port


def check_finite(x: Array, params: Mapping[str, Array], port: nn.Module) -> None:
    """ValueError that names the first number that is not finite: of x, the reference's params, the port's."""
    arrays = {"x": x, **{f"the reference's {name}": value for name, value in params.items()}}
    arrays |= {f"the port's {name}": _array(value) for name, value in port.named_parameters()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite to be judged, got {array[index]} at {list(index)}")


def _array(value: Tensor) -> Array:
    found: Array = value.detach().double().cpu().numpy()
    return found
