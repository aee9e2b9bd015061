"""Setting, in which dtype, on which device and in which mode a port computes; Arithmetic, the errors that follow."""

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

# The dtype's own arithmetic; CUDA's TensorFloat-32 products; autocast to bfloat16.
MODES = (IEEE, TF32, BFLOAT16)


class Arithmetic(NamedTuple):
    """Relative errors of the port's single operations, each with that of the float64 reference added.

    Limits of sums are derived in sums.py. bfloat16 products (autocast) are exact and summed in float32; the sum is
    rounded once, and once more if a bias is added. TensorFloat-32 truncates an operand by up to 2^-10 of it, by half of
    that on average: together the products lose up to 2^-10 |Y|, and deviate from that as independently as roundings do.
    Tensor cores are reported to truncate partial sums too (Fasi, Higham, Mikaitis & Pranesh, PeerJ CS 7:e330, 2021),
    whose errors add up: 2 u (K + 1) S. The statements on GPUs have not been measured here.
    """

    u: float  # of an operation on numbers of the dtype
    tiny: float  # absolute error of a result that underflows
    u_sum: float  # of a partial sum inside a kernel
    u_result: float = 0.0  # of a sum that is rounded once more
    u_operand: float = 0.0  # of a factor that is truncated
    cuts: bool = False  # whether partial sums are truncated
    u_fast: float = 0.0  # of a partial sum of a convolution by transforms; 0 if none may be used

    @property
    def by_hand(self) -> Arithmetic:
        """The arithmetic outside of matrix products, where a port may do each operation in its dtype."""
        return Arithmetic(self.u, self.tiny, self.u)

    def of_products(
        self, k: Any, size: Any, total: Any, squares: Any, inner: Any = None, *, walk: Any = None, alike: Any = 1.0
    ) -> Array:
        """The limit L of sums of k products (sums.py): total is Y, size is S, squares is Q, inner Y without the bias.

        walk is the probable bound on the error of the partial sums in units of u; by default it follows from total and
        squares. alike is how many products on average have the same value, and so round alike.
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
        """The additional error of sums (A, B) over k maps or places if a convolution is computed by transforms.

        squares (A, B) is the sum of ||w||^2 ||x||^2, the norms of the maps. Winograd's F(m, r) is A [(G w)(B x)] in
        each axis (Lavin & Gray, arXiv:1509.09308), on the points 0, +-1, +-2, and +-1/2 if m is 6. If no factor lies
        along a row of its matrix, the root mean square of a product of row i is ||g_i|| ||b_i|| / sqrt(r (m + r - 1))
        times ||w|| ||x|| in each axis, and it counts a_i times: the root of the sum of their squares is 5.2 in F(4, 3),
        4.0 in F(3, 4) (the gradient of a filter) and 5.8 in F(6, 3), so at most 6. A product goes through at most
        7 + 4 + 7 roundings in each axis: 64 / 75 of these 36, added to the sum's own in 5 sqrt((K + 7) Q) (sums.py),
        give 5 sqrt((K + 38) Q). Fourier transforms err by less: by the root of the logarithm of their length, over the
        root of the length.
        """
        return np.asarray(5 * 6 * self.u_fast * np.sqrt((k + 38) * squares)[..., np.newaxis, np.newaxis])

    def of_sum(self, k: int | Array, size: Array | float) -> Any:
        """The limit of k roundings and an addend, of results up to size.

        In units of u size: k + 1 at most, and 8 sqrt((k + 1) / 3) except with a probability of 2e-14.
        """
        return np.minimum(np.add(k, 1), 8 * np.sqrt(np.add(k, 1) / 3)) * self.u * size + np.multiply(k, self.tiny)


# Functions of the operands with which an operation that sums products gives K, S, Y and Q (sums.py).
PARTS: tuple[Callable[[Array], Array], ...] = (
    lambda x: np.asarray(x != 0, np.float64),
    np.abs,
    np.positive,
    np.square,
)


def arithmetic_of(dtype: torch.dtype) -> Arithmetic:
    """The arithmetic of operations in dtype, with the errors of the float64 reference added."""
    # finfo.eps is the distance from 1 to the next number: twice the unit roundoff.
    u = torch.finfo(dtype).eps / 2 + torch.finfo(torch.float64).eps / 2
    return Arithmetic(u, torch.finfo(dtype).tiny, u)


@dataclass(frozen=True)
class Setting:
    """The dtype and device of a port's parameters, and a mode. Raises ValueError for what cannot be judged."""

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
        """The setting of the port's parameters. Raises ValueError if they differ from each other, or there are none."""
        places = {(parameter.dtype, str(parameter.device)) for parameter in port.parameters()}
        if len(places) != 1:
            raise ValueError(f"the port's parameters must share one dtype and device, got {sorted(map(str, places))}")
        return cls(*places.pop(), mode)

    @property
    def name(self) -> str:
        """The dtype, or the mode if that computes with less precision."""
        return str(self.dtype).removeprefix("torch.") if self.mode == IEEE else self.mode

    @property
    def held(self) -> torch.dtype:
        """The dtype that inputs and parameters are rounded to before both sides compute with them."""
        return torch.bfloat16 if self.mode == BFLOAT16 else self.dtype

    @property
    def arithmetic(self) -> Arithmetic:
        """The arithmetic of the port's operations, with the errors of the float64 reference added."""
        base, cuda = arithmetic_of(self.held), torch.device(self.device).type == "cuda"
        if self.mode == BFLOAT16:
            u = arithmetic_of(torch.float32).u
            # cuDNN, which may use transforms, stays on while judging bfloat16.
            return base._replace(u_sum=u, u_result=base.u, cuts=cuda, u_fast=u if cuda else 0.0)
        return base._replace(u_operand=2.0**-10, cuts=True) if self.mode == TF32 else base

    def tensor(self, x: Array) -> Tensor:
        """x as a tensor on the device, in the dtype."""
        return torch.tensor(x, dtype=self.dtype, device=self.device)

    def round(self, x: Array) -> Array:
        """x in float64, each entry rounded to the dtype that the port computes with."""
        return rounded(x, self.held)

    def allows(self, dtype: torch.dtype) -> bool:
        """Whether a result may have this dtype: that of the parameters, or of autocast."""
        return dtype in (self.dtype, self.held)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A context in which torch computes in the mode; TF32 is off in all others, unlike in torch's defaults.

        NNPACK is off too: it computes convolutions by Winograd's and Fourier's transforms, whose errors exceed the
        limits of an entry's own sum.
        """
        autocast: AbstractContextManager[Any] = nullcontext()
        if self.mode == BFLOAT16:
            autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16)
        # torch 2.9 has a precision for each operation, older ones a flag for TF32; mixing the two raises an error.
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
        """computing(), and in float32 and TF32 without cuDNN, which may use Winograd's transforms as NNPACK does.

        torch's own convolutions are products by cuBLAS, one sample at a time, in TF32 if these are. In bfloat16 they
        would round each sample, so cuDNN stays on: the limits there allow for transforms (of_transforms).
        """
        cudnn, winograd = torch.backends.cudnn, self.dtype == torch.float32 and self.mode != BFLOAT16
        with self.computing(), _switched((cudnn, "enabled", cudnn.enabled and not winograd)):
            yield


def rounded(x: Array, dtype: torch.dtype) -> Array:
    """x in float64, each entry rounded to what dtype can hold."""
    array = np.array(x, dtype=np.float64, order="C")  # torch takes no negative strides, nor foreign byte orders
    return torch.from_numpy(array).to(dtype).to(torch.float64).numpy()


@contextmanager
def _switched(*switches: tuple[Any, str, Any]) -> Iterator[None]:
    """A context with attributes of torch's backends set to (owner, name, value), and restored afterwards."""
    old_values = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), old in zip(switches, old_values, strict=True):
            setattr(owner, name, old)
