"""Hints: what a user can say about a network that a file of weights cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy_ref.checks import check_int
from torchport.choices import ACTIVATIONS, AFFINE, FLATTEN, KERNELS, Activation, Affine, Flatten, Kernels

CHOICES = {"activation": ACTIVATIONS, "flatten": FLATTEN, "kernels": KERNELS, "affine": AFFINE}


@dataclass(frozen=True)
class Hints:
    """What shapes do not show, how a file's arrays are laid out, and which part to read; None leaves it to the file.

    stride and pad of the convolutions, in pixels, and the activation. pool: the numbers, from 1, of the convolutions
    that a 2x2 pooling follows. flatten: the order of the inputs of the first Affine after a convolution, "chw", or
    "hwc" as in Keras. kernels: "oihw" or "hwio". affine: "in-out" (x @ W) or "out-in" (torch's Linear). order: the
    network's layers, first to last. part: which part of a checkpoint holds the network.
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
        for name, choices in CHOICES.items():
            if getattr(self, name) not in (None, *choices):
                raise ValueError(f"{name} must be one of {', '.join(choices)} or None, got {getattr(self, name)!r}")

    @property
    def arguments(self) -> dict[str, Any]:
        """The hints that differ from their defaults, by name."""
        return {name: value for name, value in vars(self).items() if value != getattr(Hints, name)}

    @property
    def geometry(self) -> Hints:
        """The hints on the network itself, without those on the layout of a file."""
        return replace(self, flatten=None, kernels=None, affine=None, order=None, part=None)

    def refuse(self, network: str, *names: str) -> None:
        """Raise ValueError if one of these hints, which do not apply to network, is not at its default."""
        for name in names:
            if name in self.arguments:
                raise ValueError(f"{name} {self.arguments[name]!r} cannot be {network}'s: leave it out")


NO_HINTS = Hints()
