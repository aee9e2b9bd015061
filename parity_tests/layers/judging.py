"""One torch module against one layer of the reference, by the layer's own rule."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from numpy_ref.checks import Array
from torchport.layers import Setting, kind_of
from torchport.layers.sums import own_limit
from torchport.layers.terms import MODULE_ATTRIBUTES

SETTINGS = {
    "float64": Setting(torch.float64),
    "float32": Setting(torch.float32),
    "bfloat16": Setting(torch.float32, mode="bfloat16"),
}


def ratios(layer: Any, module: nn.Module, x: Array, dout: Array, setting: Setting) -> dict[str, float]:
    """The largest error/limit of output, grad_input and of each parameter's gradient, by the reference's attribute.

    module has the layer's parameters, and is given x (N, ...) and dout as its output, what the port can hold of them.
    """
    kind, a = kind_of(layer), setting.arithmetic
    layer, x, dout = copy.copy(layer), setting.round(x), setting.round(dout)
    for name in MODULE_ATTRIBUTES:
        if hasattr(layer, name):
            setattr(layer, name, setting.round(getattr(layer, name)))
    found = computed(layer, module, x, dout, setting)
    if kind.repeat:
        layer = kind.repeat(layer, x, found["output"], found["grad_input"])
    of_quantity = {"output": kind.rule.forward(layer, x, a), **kind.rule.backward(layer, x, dout, a).each}
    return {
        quantity: _ratio(layer, x, dout, quantity, found[quantity], expected, of_quantity[quantity], setting)
        for quantity, expected in _expected(layer, x, dout).items()
    }


def computed(layer: Any, module: nn.Module, x: Array, dout: Array, setting: Setting) -> dict[str, Array]:
    """What the module makes of x, and its gradients, in the reference's layout."""
    own = dict(module.named_parameters())
    leaf = setting.tensor(x).requires_grad_()
    with setting.judging():
        y = module(leaf.clone())
        grads = torch.autograd.grad(y, [leaf, *own.values()], setting.tensor(dout).to(y.dtype))
    arrays = [each.detach().to(torch.float64).numpy() for each in (y, *grads)]
    found = dict(zip(("output", "grad_input", *own), arrays, strict=True))
    names = {name: found[key] for name, key in MODULE_ATTRIBUTES.items() if hasattr(layer, name)}
    transposed = {name: value.T if value.ndim == 2 else value for name, value in names.items()}
    return {"output": found["output"], "grad_input": found["grad_input"], **transposed}


def _expected(layer: Any, x: Array, dout: Array) -> dict[str, Array]:
    ran = copy.copy(layer)
    found = {"output": ran.forward(x), "grad_input": ran.backward(dout)}
    return found | {name: getattr(ran, f"d{name}") for name in MODULE_ATTRIBUTES if hasattr(ran, name)}


def _ratio(
    layer: Any, x: Array, dout: Array, quantity: str, actual: Array, expected: Array, limit: Array, setting: Setting
) -> float:
    """The largest error/limit; an entry above its limit is judged by its own products, where the rule has them."""
    assert actual.shape == expected.shape
    limit = np.array(np.broadcast_to(limit, expected.shape))
    error, products = np.abs(actual - expected), kind_of(layer).rule.products
    for index in zip(*np.nonzero(error > limit), strict=True):
        place = tuple(int(i) for i in index)
        if products is not None:
            limit[place] = max(limit[place], own_limit(products(layer, x, dout, quantity, place), setting.arithmetic))
        if error[place] > limit[place]:
            break
    return float(np.max(np.divide(error, limit, out=np.where(error > 0, np.inf, 0), where=limit > 0)))
