"""Layers of the networks that the book describes in section 7.6: LeNet (1998) and AlexNet (2012)."""

from __future__ import annotations

import numpy as np

from numpy_ref.checks import Array, check_array, check_batch, check_int, check_number, check_shape, recorded
from numpy_ref.layers import WindowLayer


class Tanh:
    """tanh(x), LeNet's activation without its two scale factors."""

    KEPT = ("out",)

    def __init__(self) -> None:
        self.out: Array | None = None

    def forward(self, x: Array) -> Array:
        self.out = np.tanh(check_batch("x", x))
        return self.out

    def backward(self, dout: Array) -> Array:
        out = recorded(self.out, self)
        return np.asarray(dout * (1.0 - out * out))


class Subsampling(WindowLayer):
    """The sum of each window times a trained coefficient plus a trained bias, one of each per channel: W, b (C,).

    LeNet-5's S2 and S4, without their activation (LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86(11), 1998, section
    II.B). ValueError for shapes other than (C,), and for x with another number of channels.
    """

    KEPT = ("x", "sums")

    def __init__(self, W: Array, b: Array, pool_h: int = 2, pool_w: int = 2, stride: int = 2) -> None:
        super().__init__(pool_h, pool_w, stride)
        check_shape("b", check_array("b", b, ndim=1), check_array("W", W, ndim=1).shape)
        self.W = W
        self.b = b
        self.sums: Array | None = None  # (N, C, OH, OW)
        self.dW: Array | None = None
        self.db: Array | None = None

    def forward(self, x: Array) -> Array:
        if check_batch("x", x, ndim=4).shape[1] != len(self.W):
            raise ValueError(f"x must be (N, {len(self.W)}, H, W), got shape {x.shape}")
        self.sums = self.image(self.windows(x, 0).sum(axis=1))
        return np.asarray(self.sums * self.W[:, np.newaxis, np.newaxis] + self.b[:, np.newaxis, np.newaxis])

    def backward(self, dout: Array) -> Array:
        self.dW = np.sum(dout * recorded(self.sums, self), axis=(0, 2, 3))
        self.db = dout.sum(axis=(0, 2, 3))
        share = self.per_window(dout * self.W[:, np.newaxis, np.newaxis])
        return self.scatter(np.repeat(share[:, np.newaxis], self.pool_h * self.pool_w, axis=1))


class LocalResponseNormalization:
    """x / (k + alpha * S)^beta, where S is the sum of x^2 over size neighbouring channels, at the same pixel.

    AlexNet's, with its constants (Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.3): k = 2, n = 5, alpha = 1e-4,
    beta = 0.75. torch's LocalResponseNorm divides alpha by size. x is (N, C, H, W). ValueError for an even size, whose
    neighbours would not be centred on the channel, and for constants of 0 or less.
    """

    KEPT = ("x", "base")

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        self.size = check_int("size", size, 1)
        if size % 2 == 0:
            raise ValueError(f"size must be odd, so that as many neighbours lie on either side, got {size}")
        for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
            if check_number(name, value, 0) == 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.alpha, self.k = alpha, k
        self.exponent = beta  # a network would take an attribute beta for a parameter
        self.x: Array | None = None
        self.base: Array | None = None  # k + alpha * S

    def forward(self, x: Array) -> Array:
        self.x = check_batch("x", x, ndim=4)
        self.base = self.k + self.alpha * self.neighbours(x * x)
        return np.asarray(x * self.base**-self.exponent)

    def backward(self, dout: Array) -> Array:
        x, base = recorded(self.x, self), recorded(self.base, self)
        scaled = dout * base**-self.exponent
        # Each channel appears in its neighbours' sums just as they appear in its own, so the same sum serves.
        through_sums = self.neighbours(scaled * x / base)
        return np.asarray(scaled - 2 * self.alpha * self.exponent * x * through_sums)

    def neighbours(self, x: Array) -> Array:
        """Sum x (N, C, H, W) over the size channels centred on each, as far as they exist; same shape."""
        reach = self.size // 2
        padded = np.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0)))
        return np.asarray(sum(padded[:, start : start + x.shape[1]] for start in range(self.size)))
