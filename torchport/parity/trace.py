"""One pass of the reference, and of a port, recorded layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from numpy_ref.checks import Array, check_array
from numpy_ref.layers import BatchNormalization, Dropout, Flatten, Layer
from torchport.weights import MODULE_ATTRIBUTES, to_torch_layout


@dataclass(frozen=True)
class Step:
    """A layer of the reference and the module of the port that stands for it."""

    name: str
    layer: Layer
    module: nn.Module


@dataclass(frozen=True)
class NetworkTrace:
    """One run of a whole port; gradients of the loss by parameter name, and "input"; None where there is none."""

    output: Tensor
    loss: Tensor
    grads: dict[str, Tensor | None]


def align(layers: Mapping[str, Layer], port: nn.Module) -> list[Step]:
    """Pair the reference's layers with the port's children by name, in order, upper and lower case alike.

    The port may have an nn.Flatten, or any module named flatten, where the reference's Affine flattens by itself.
    ValueError that lists both sides where they do not pair up; TypeError for a layer that draws random numbers or keeps
    statistics.
    """
    waiting = dict(layers)
    steps = []
    for name, module in port.named_children():
        expected = next(iter(waiting), None)
        if expected is not None and expected.lower() == name.lower():
            steps.append(Step(name, waiting.pop(expected), module))
        elif isinstance(module, nn.Flatten) or name.lower() == "flatten":
            steps.append(Step(name, Flatten(), module))
        else:
            break
    if waiting or len(steps) != len(list(port.children())):
        children = [name for name, _ in port.named_children()]
        raise ValueError(
            f"layers must pair up by name, in order: the reference has {list(layers)}, the port {children}"
        )
    for step in steps:
        if isinstance(step.layer, Dropout | BatchNormalization):
            raise TypeError(f"{step.name}: no parity rule for {type(step.layer).__name__} yet")
    return steps


def in_precision(layer: Layer, dtype: torch.dtype) -> Layer:
    """A copy of layer in float64 whose parameters hold only what dtype can. TypeError for a bias given as a number."""
    twin = copy.copy(layer)
    for attribute in MODULE_ATTRIBUTES:
        if hasattr(layer, attribute):
            setattr(twin, attribute, rounded(check_array(attribute, getattr(layer, attribute)), dtype))
    return twin


def rounded(x: Array, dtype: torch.dtype) -> Array:
    """x in float64, each entry rounded to what dtype can hold."""
    return torch.tensor(x).to(dtype).to(torch.float64).numpy()


def in_torch_terms(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Parameters, their gradients or limits of a layer: W and b as weight and bias, in torch's layout."""
    return {MODULE_ATTRIBUTES[name]: to_torch_layout(value) for name, value in arrays.items()}


def parameters(layer: Layer) -> dict[str, Array]:
    """The trained arrays of a reference layer, in torch's terms."""
    return in_torch_terms({name: getattr(layer, name) for name in MODULE_ATTRIBUTES if hasattr(layer, name)})


def gradients(layer: Layer) -> dict[str, Array]:
    """Their gradients, after the layer's backward."""
    return in_torch_terms({name: getattr(layer, f"d{name}") for name in MODULE_ATTRIBUTES if hasattr(layer, name)})


def forward(layers: Sequence[Layer], x: Array) -> list[Array]:
    """The input of every layer of the reference, and the network's output at the end."""
    passed = [x]
    for layer in layers:
        passed.append(layer.forward(passed[-1]))
    return passed


def backward(layers: Sequence[Layer], dout: Array) -> list[Array]:
    """The upstream gradient of every layer of the reference, which must have run forward before."""
    upstream = [dout]
    for layer in reversed(layers):
        upstream.append(layer.backward(upstream[-1]))
    return upstream[:-1][::-1]


def trace_module(module: nn.Module, x: Tensor, dout: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Output of one module, and gradients by name of its parameters and of its "input"."""
    leaves = {"input": x.requires_grad_(), **dict(module.named_parameters())}
    output = module(x)
    grads = torch.autograd.grad(output, list(leaves.values()), dout, allow_unused=True)
    return output, dict(zip(leaves, grads, strict=True))


def trace_children(port: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of each child, run one after the other."""
    outputs = [x]
    with torch.no_grad():
        for child in port.children():
            outputs.append(child(outputs[-1]))
    return outputs[1:]


def trace_network(port: nn.Module, x: Tensor, t: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> NetworkTrace:
    """The port as a user runs it, forward, loss and backward."""
    leaves = {"input": x.requires_grad_(), **dict(port.named_parameters())}
    output = port(x)
    value = loss(output, t)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return NetworkTrace(output, value, dict(zip(leaves, grads, strict=True)))


@contextmanager
def full_precision() -> Iterator[None]:
    """TensorFloat-32 off, which CUDA's convolutions use by default, and back as it was afterwards."""
    # torch 2.9 names the precision of each operation; before, TF32 is a flag. Mixing the two is an error there.
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    named = convolutions is not None
    places = (torch.backends.cuda.matmul, convolutions if named else torch.backends.cudnn)
    switch = "fp32_precision" if named else "allow_tf32"
    before = [getattr(place, switch) for place in places]
    try:
        for place in places:
            setattr(place, switch, "ieee" if named else False)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, switch, value)
