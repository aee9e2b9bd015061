"""Where and in which arithmetic a port computes, and what one of its operations may be off by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array
from torchport.checks import check_device
from torchport.choices import BFLOAT16, IEEE, TF32

DTYPES = (torch.float64, torch.float32)

# Modes: the dtype's own arithmetic; CUDA's TensorFloat-32 products; autocast to bfloat16.
MODES = (IEEE, TF32, BFLOAT16)


class Arithmetic(NamedTuple):
    """What one operation may be off by relative to its result: u, in sums u_sum; and tiny where it underflows."""

    u: float
    u_sum: float
    tiny: float
    sharp: bool = False  # both sides have the same inputs, and compute in the dtype's own arithmetic

    def of_products(self, terms: Array, size: Array, total: Array, squares: Array) -> Array:
        """L for sums of K products that are not 0, where what is summed is known (sums.py): entry by entry."""
        walk = 8 / 3 * np.sqrt(terms + 1) * np.abs(total) + 5 * np.sqrt((terms + 7) * squares)
        return np.asarray(self.u * np.minimum((terms + 1) * size, walk) + terms * self.tiny)

    def of_sum(self, terms: int | Array, size: Array | float) -> Any:
        """c(K) u S for a sum of K products and one addend, c(K) = min(K + 1, 8 + sqrt(K)), S = size (sums.py)."""
        return np.minimum(np.add(terms, 1), 8 + np.sqrt(terms)) * self.u_sum * size + np.multiply(terms, self.tiny)


def arithmetic_of(dtype: torch.dtype) -> Arithmetic:
    """That of operations in dtype, and of the float64 reference's, taken together."""
    # finfo.eps is the distance from 1 to the next number: twice the unit roundoff.
    reference = torch.finfo(torch.float64).eps / 2
    u = torch.finfo(dtype).eps / 2 + reference
    return Arithmetic(u, u, torch.finfo(dtype).tiny)


@dataclass(frozen=True)
class Setting:
    """The dtype of a port's parameters, its device, and a mode. ValueError for what cannot be judged."""

    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    mode: str = IEEE

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"parity is judged in {', '.join(map(str, DTYPES))}, got {self.dtype}")
        check_device("device", self.device)
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode != IEEE and self.dtype != torch.float32:
            raise ValueError(f"mode {self.mode} needs float32 parameters, got {self.dtype}")
        if self.mode == TF32 and torch.device(self.device).type != "cuda":
            raise ValueError(f"mode {TF32} needs a CUDA device, got {self.device}")

    @classmethod
    def of(cls, port: nn.Module, mode: str = IEEE) -> Setting:
        """That of the port's parameters. ValueError where they differ among themselves, or there are none."""
        found = {(parameter.dtype, str(parameter.device)) for parameter in port.parameters()}
        if len(found) != 1:
            raise ValueError(f"the port's parameters must share one dtype and device, got {sorted(map(str, found))}")
        return cls(*found.pop(), mode)

    @property
    def name(self) -> str:
        """The dtype, or the mode that computes in less."""
        return str(self.dtype).removeprefix("torch.") if self.mode == IEEE else self.mode

    @property
    def held(self) -> torch.dtype:
        """What inputs and parameters are rounded to before both sides compute with them."""
        return torch.bfloat16 if self.mode == BFLOAT16 else self.dtype

    @property
    def arithmetic(self) -> Arithmetic:
        """Of the port's operations and the float64 reference's, taken together."""
        found = arithmetic_of(self.held)
        return found._replace(u_sum=2.0**-11) if self.mode == TF32 else found

    def tensor(self, x: Array) -> Tensor:
        """x on the device, in the dtype."""
        return torch.tensor(x, dtype=self.dtype, device=self.device)

    def round(self, x: Array) -> Array:
        """x in float64, each entry rounded to what the port works with."""
        return rounded(x, self.held)

    def allows(self, dtype: torch.dtype) -> bool:
        """Whether a result may have this dtype: the parameters', or the one that autocast computes in."""
        return dtype in (self.dtype, self.held)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The mode, for the length of a with statement; TF32 is off in all others, which is not CUDA's default.

        NNPACK is off too: its convolutions are Winograd's and Fourier's, which no limit of an entry's own sum holds.
        """
        autocast: AbstractContextManager[Any] = nullcontext()
        if self.mode == BFLOAT16:
            autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16)
        with _tf32(self.mode == TF32), torch.backends.nnpack.flags(enabled=False), autocast:
            yield


def rounded(x: Array, dtype: torch.dtype) -> Array:
    """x in float64, each entry rounded to what dtype can hold."""
    own = np.array(x, dtype=np.float64, order="C")  # torch takes no negative strides, nor foreign byte orders
    return torch.from_numpy(own).to(dtype).to(torch.float64).numpy()


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    """TensorFloat-32 in CUDA's products on or off, and back as it was afterwards."""
    # torch 2.9 names the precision of each operation; before, TF32 is a flag. Mixing the two is an error there.
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    named = convolutions is not None
    places = (torch.backends.cuda.matmul, convolutions if named else torch.backends.cudnn)
    switch, value = ("fp32_precision", "tf32" if on else "ieee") if named else ("allow_tf32", on)
    before = [getattr(place, switch) for place in places]
    try:
        for place in places:
            setattr(place, switch, value)
        yield
    finally:
        for place, old in zip(places, before, strict=True):
            setattr(place, switch, old)
