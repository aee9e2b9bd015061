"""Where and in which arithmetic a port computes, and what one of its operations may be off by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array
from torchport.checks import check_device
from torchport.choices import BFLOAT16, IEEE, TF32, Mode

DTYPES = (torch.float64, torch.float32)

# Modes: the dtype's own arithmetic; CUDA's TensorFloat-32 products; autocast to bfloat16.
MODES = (IEEE, TF32, BFLOAT16)


class Arithmetic(NamedTuple):
    """What the port's single operations may be off by, relative to their results, the float64 reference's included.

    Sums are derived in sums.py. bfloat16 products (autocast) are exact and added up in float32, which is rounded once,
    and once more where a bias is added. TensorFloat-32 cuts an operand off by up to 2^-10 of it, by half of that in the
    mean: the products lose up to 2^-10 |Y| together, and differ from that as independently as roundings do. Tensor
    cores are reported to cut partial sums off too (Fasi, Higham, Mikaitis & Pranesh, PeerJ CS 7:e330, 2021), which adds
    up: 2 u (K + 1) S. What is said of GPUs is unmeasured.
    """

    u: float  # an operation on numbers of the dtype
    tiny: float  # where a result underflows: absolute
    u_sum: float  # a partial sum inside a kernel
    u_result: float = 0.0  # a sum, where it is rounded once more
    u_operand: float = 0.0  # a factor, where it is cut off
    cuts: bool = False  # whether partial sums are cut off
    u_fast: float = 0.0  # a partial sum of a convolution by transforms, where it may be computed so

    @property
    def by_hand(self) -> Arithmetic:
        """Where a port may do each operation in its dtype: outside of products of matrices."""
        return Arithmetic(self.u, self.tiny, self.u)

    def of_products(
        self, k: Any, size: Any, total: Any, squares: Any, inner: Any = None, *, walk: Any = None, alike: Any = 1.0
    ) -> Array:
        """L for sums of k products (sums.py): total is Y, size S, squares Q; inner is Y without a bias.

        walk is what partial sums add up to, in u, where that is known; alike products at a time are one number.
        """
        if walk is None:
            walk = np.sqrt(alike) * (8 / 3 * np.sqrt(k + 1) * np.abs(total) + 5 * np.sqrt((k + 7) * squares))
        cap = (k + 1) * size
        limit = self.u_sum * (2 * cap if self.cuts else np.minimum(cap, walk)) + k * self.tiny
        if self.u_operand:
            independent = 8 / np.sqrt(3) * np.sqrt(2 * alike * squares)
            limit = limit + self.u_operand * np.minimum(2 * size, np.abs(total) + independent)
        if self.u_result:
            limit = limit + self.u_result * (np.abs(total) + (0 if inner is None else np.abs(inner)))
        return np.asarray(limit)

    def of_transforms(self, k: int, squares: Array) -> Array:
        """What sums (A, B) over k maps or places are off by more where a convolution is computed by transforms.

        squares (A, B) adds up ||w||^2 ||x||^2, the maps' norms. Winograd's F(m, r) is A [(G w)(B x)] in either axis
        (Lavin & Gray, arXiv:1509.09308), on the points 0, +-1, +-2, and +-1/2 where m is 6. Where no factor lies along
        a row of its matrix, a product of row i is ||g_i|| ||b_i|| / sqrt(r (m + r - 1)) of ||w|| ||x|| in the mean of
        squares, in either axis, and counts a_i times: the root of all their squares is 5.2 in F(4, 3), 4.0 in F(3, 4),
        a filter's gradient's, 5.8 in F(6, 3), so 6 at most. A product meets at most 7 + 4 + 7 roundings in either axis:
        64 / 75 of 36 more than the sum's own, in 5 sqrt((K + 7) Q) (sums.py), make it 5 sqrt((K + 38) Q). Fourier's
        errs by less: by the root of its length's logarithm, over the root of the length.
        """
        return np.asarray(5 * 6 * self.u_fast * np.sqrt((k + 38) * squares)[..., np.newaxis, np.newaxis])

    def of_sum(self, k: int | Array, size: Array | float) -> Any:
        """For k roundings and an addend, of results no larger than size: k + 1 at most, 8 sqrt(k / 3) but for 2e-14."""
        return np.minimum(np.add(k, 1), 8 * np.sqrt(np.add(k, 1) / 3)) * self.u * size + np.multiply(k, self.tiny)


# Of operands: what makes K, S, Y and Q of an operation that adds up products.
PARTS: tuple[Callable[[Array], Array], ...] = (
    lambda x: np.asarray(x != 0, np.float64),
    np.abs,
    np.positive,
    np.square,
)


def arithmetic_of(dtype: torch.dtype) -> Arithmetic:
    """That of operations in dtype, and of the float64 reference's, taken together."""
    # finfo.eps is the distance from 1 to the next number: twice the unit roundoff.
    u = torch.finfo(dtype).eps / 2 + torch.finfo(torch.float64).eps / 2
    return Arithmetic(u, torch.finfo(dtype).tiny, u)


@dataclass(frozen=True)
class Setting:
    """The dtype of a port's parameters, its device, and a mode. ValueError for what cannot be judged."""

    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    mode: Mode = IEEE

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"parity is judged in {' and '.join(map(str, DTYPES))}, got {self.dtype}: give port.float(), with "
                f"mode={BFLOAT16!r} for products in less"
            )
        check_device("device", self.device)
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode != IEEE and self.dtype != torch.float32:
            raise ValueError(f"mode {self.mode} needs float32 parameters, got {self.dtype}")
        if self.mode == TF32 and torch.device(self.device).type != "cuda":
            raise ValueError(f"mode {TF32} needs a CUDA device, got {self.device}")

    @classmethod
    def of(cls, port: nn.Module, mode: Mode = IEEE) -> Setting:
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
        own, cuda = arithmetic_of(self.held), torch.device(self.device).type == "cuda"
        if self.mode == BFLOAT16:
            u = arithmetic_of(torch.float32).u
            # Here cuDNN stays on while judging.
            return own._replace(u_sum=u, u_result=own.u, cuts=cuda, u_fast=u if cuda else 0.0)
        return own._replace(u_operand=2.0**-10, cuts=True) if self.mode == TF32 else own

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
        # torch 2.9 names the precision of each operation; before, TF32 is a flag. Mixing the two is an error there.
        products, convolutions = torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None)
        on = self.mode == TF32
        switch, value = ("fp32_precision", "tf32" if on else "ieee") if convolutions else ("allow_tf32", on)
        switches = (
            (products, switch, value),
            (convolutions or torch.backends.cudnn, switch, value),
            (products, "allow_bf16_reduced_precision_reduction", False),  # partial sums would be rounded
        )
        with _switched(*switches), torch.backends.nnpack.flags(enabled=False), autocast:
            yield

    @contextmanager
    def judging(self) -> Iterator[None]:
        """As computing, and in float32 and TF32 without cuDNN, whose convolutions may be Winograd's as NNPACK's are.

        torch's own are cuBLAS's products, a sample at a time, in TF32 where these are. In bfloat16 each sample would be
        rounded, so cuDNN stays: the limits there allow for it (of_transforms).
        """
        cudnn, winograd = torch.backends.cudnn, self.dtype == torch.float32 and self.mode != BFLOAT16
        with self.computing(), _switched((cudnn, "enabled", cudnn.enabled and not winograd)):
            yield


def rounded(x: Array, dtype: torch.dtype) -> Array:
    """x in float64, each entry rounded to what dtype can hold."""
    own = np.array(x, dtype=np.float64, order="C")  # torch takes no negative strides, nor foreign byte orders
    return torch.from_numpy(own).to(dtype).to(torch.float64).numpy()


@contextmanager
def _switched(*switches: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of torch's backends as given, and back as they were afterwards."""
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, value in switches:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), old in zip(switches, before, strict=True):
            setattr(place, name, old)
