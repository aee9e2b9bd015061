"""How pixels are prepared for a network: it must get them as in training, or it sees other images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from numpy_ref.checks import Array

HELP = (
    "how pixels are prepared for the network: unit, 0 to 1 as in the book; normalized, (x - 0.1307) / 0.3081 as in "
    "torchvision's examples; signed, -1 to 1; 0-255; inverted, 1 to 0; or MEAN,STD of your own"
)


@dataclass(frozen=True)
class Preparation:
    """Maps pixels of 0 to 255: divides by white, inverts if inverted, subtracts mean and divides by std."""

    white: float = 255.0
    inverted: bool = False
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Preparation:
        """The Preparation that text gives: a name in NAMED, "book" for unit, or "MEAN,STD". ValueError."""
        if text in (*NAMED, "book"):
            return NAMED.get(text, UNIT)
        try:
            mean, std = map(float, text.split(","))
        except ValueError:
            mean, std = math.nan, math.nan
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"images must be {', '.join(NAMED)} or MEAN,STD, as in 0.1307,0.3081, got {text!r}")
        return cls(mean=mean, std=std)

    def __str__(self) -> str:
        return next((name for name, known in NAMED.items() if known == self), f"{self.mean!r},{self.std!r}")

    def __call__(self, images: Array) -> Array:
        """uint8 images of any shape, prepared, as float32."""
        return np.asarray(self.apply(images.astype(np.float32)))

    def apply(self, values: Any, number: Callable[[float], Any] = np.float32) -> Any:
        """values of 0 to 255, an array or a tensor, prepared; number makes a constant of their dtype."""
        x = values / number(self.white)  # a product with 1 / 255 would round differently
        if self.inverted:
            x = number(255 / self.white) - x
        return x if (self.mean, self.std) == (0, 1) else (x - number(self.mean)) / number(self.std)


UNIT = Preparation()
NAMED = {
    "unit": UNIT,
    "normalized": Preparation(mean=0.1307, std=0.3081),
    "signed": Preparation(mean=0.5, std=0.5),
    "0-255": Preparation(white=1.0),
    "inverted": Preparation(inverted=True),
}
