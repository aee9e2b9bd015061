"""The book's six update rules (Deep Learning from Scratch, section 6.1), which update a dict of parameters in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np

from numpy_ref.checks import Array, check_array, check_number

EPS = 1e-7  # added outside the root, in AdaGrad, RMSprop and Adam


class Optimizer:
    """Base of the rules, which implement _step for one parameter.

    ValueError for a missing or extra gradient, or one of another shape; TypeError for anything but arrays and numbers,
    and for arrays of integers, in which an update in place would lose the fractions.
    """

    def __init__(self, lr: float) -> None:
        self.lr = check_number("lr", lr, 0)
        self.iter = 0

    def update(self, params: MutableMapping[str, Any], grads: Mapping[str, Any]) -> None:
        """Update params by one step; params and grads map the same names to arrays of the same shapes, or to numbers.

        Arrays are updated in place; plain numbers, as in chapter 6's comparison, are replaced.
        """
        if params.keys() != grads.keys():
            raise ValueError(f"params and grads must have the same names, got {sorted(params)} and {sorted(grads)}")
        arrays = {name: _as_array(f"parameter {name}", param) for name, param in params.items()}
        gradients = {name: _as_array(f"the gradient of {name}", grads[name]) for name in arrays}
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise TypeError(f"parameter {name} must be floating point, got dtype {array.dtype}")
            if array.shape != gradients[name].shape:
                raise ValueError(f"{name} has shape {array.shape}, its gradient {gradients[name].shape}")
        self.iter += 1
        for name, array in arrays.items():
            self._step(name, array, gradients[name])
            if array is not params[name]:
                params[name] = float(array)

    def _step(self, name: str, param: Array, grad: Array) -> None:
        raise NotImplementedError


def _as_array(name: str, value: object) -> Array:
    """Return value, a plain number as an array (). TypeError."""
    return np.array(check_number(name, value, -np.inf)) if np.isscalar(value) else check_array(name, value)


def _state_of(states: dict[str, Array], name: str, param: Array) -> Array:
    if name not in states:
        states[name] = np.zeros_like(param)
    return states[name]


class SGD(Optimizer):
    """p -= lr g."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def _step(self, name: str, param: Array, grad: Array) -> None:
        param -= self.lr * grad


class Momentum(Optimizer):
    """v = momentum v - lr g; p += v (Polyak 1964)."""

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = check_number("momentum", momentum, 0, 1)
        self.v: dict[str, Array] = {}

    def _step(self, name: str, param: Array, grad: Array) -> None:
        v = _state_of(self.v, name, param)
        v *= self.momentum
        v -= self.lr * grad
        param += v


class Nesterov(Momentum):
    """p += momentum^2 v - (1 + momentum) lr g with the old v, then v = momentum v - lr g (arXiv:1212.0901).

    Older printings of the book update v first, which is an erratum.
    """

    def _step(self, name: str, param: Array, grad: Array) -> None:
        v = _state_of(self.v, name, param)
        param += self.momentum * self.momentum * v
        param -= (1 + self.momentum) * self.lr * grad
        v *= self.momentum
        v -= self.lr * grad


class AdaGrad(Optimizer):
    """h += g^2; p -= lr g / (sqrt(h) + 1e-7) (Duchi et al. 2011)."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.h: dict[str, Array] = {}

    def _step(self, name: str, param: Array, grad: Array) -> None:
        h = _state_of(self.h, name, param)
        h += grad * grad
        param -= self.lr * grad / (np.sqrt(h) + EPS)


class RMSprop(Optimizer):
    """h = decay h + (1 - decay) g^2; p -= lr g / (sqrt(h) + 1e-7) (Tieleman & Hinton 2012)."""

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__(lr)
        self.decay_rate = check_number("decay_rate", decay_rate, 0, 1)
        self.h: dict[str, Array] = {}

    def _step(self, name: str, param: Array, grad: Array) -> None:
        h = _state_of(self.h, name, param)
        h *= self.decay_rate
        h += (1 - self.decay_rate) * grad * grad
        param -= self.lr * grad / (np.sqrt(h) + EPS)


class Adam(Optimizer):
    """Adam (arXiv:1412.6980) as the book writes it: p -= lr_t m / (sqrt(v) + 1e-7).

    lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t): the epsilon is outside the bias correction, so torch.optim.Adam does
    not equal it for any constant eps.
    """

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__(lr)
        self.beta1 = check_number("beta1", beta1, 0, np.nextafter(1, 0))
        self.beta2 = check_number("beta2", beta2, 0, np.nextafter(1, 0))
        self.m: dict[str, Array] = {}
        self.v: dict[str, Array] = {}

    def _step(self, name: str, param: Array, grad: Array) -> None:
        m, v = _state_of(self.m, name, param), _state_of(self.v, name, param)
        # A Python float, not a NumPy one, which would promote float32 parameters to float64.
        lr_t = self.lr * math.sqrt(1 - self.beta2**self.iter) / (1 - self.beta1**self.iter)
        m += (1 - self.beta1) * (grad - m)
        v += (1 - self.beta2) * (grad**2 - v)
        param -= lr_t * m / (np.sqrt(v) + EPS)


# By the lower-case name that Trainer takes.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": AdaGrad,
    "rmsprop": RMSprop,
    "adam": Adam,
}
