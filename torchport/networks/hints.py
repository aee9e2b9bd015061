"""What a file of weights cannot tell of the network that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy_ref.checks import check_int
from torchport.choices import ACTIVATIONS, AFFINE, FLATTEN, KERNELS, Activation, Affine, Flatten, Kernels

CHOICES = {"activation": ACTIVATIONS, "flatten": FLATTEN, "kernels": KERNELS, "affine": AFFINE}


@dataclass(frozen=True)
class Hints:
    """What leaves no trace in the shapes of parameters, how arrays lie, and in which part; None for what a file says.

    pool has the convolutions that a 2x2 pooling follows. flatten, of what the first Affine behind a convolution takes:
    "chw", or "hwc" as in Keras; kernels: "oihw" or "hwio"; affine: "in-out" (x @ W) or "out-in" (torch's Linear);
    order: the network's layers, first to last; part: which one of a checkpoint.
    """

    stride: int = 1
    pad: int = 0
    activation: Activation | None = None
    pool: Sequence[int] | None = None
    flatten: Flatten | None = None
    kernels: Kernels | None = None
    affine: Affine | None = None
    order: Sequence[str] | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        check_int("stride", self.stride, 1)
        check_int("pad", self.pad, 0)
        for name, known in CHOICES.items():
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"{name} must be one of {', '.join(known)} or None, got {getattr(self, name)!r}")

    @property
    def arguments(self) -> dict[str, Any]:
        """What is not as it is by default."""
        return {name: value for name, value in vars(self).items() if value != getattr(Hints, name)}

    @property
    def geometry(self) -> Hints:
        """Those of the network alone: how arrays lay in a file is of no use once they are read."""
        return replace(self, flatten=None, kernels=None, affine=None, order=None, part=None)

    def refuse(self, network: str, *names: str) -> None:
        """ValueError where one of these, which network does not have, is not as it is by default."""
        for name in names:
            if name in self.arguments:
                raise ValueError(f"{name} {self.arguments[name]!r} cannot be {network}'s: leave it out")


NO_HINTS = Hints()
