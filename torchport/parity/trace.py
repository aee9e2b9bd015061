"""One pass of the reference, and of a port, recorded layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref import layers as reference_layers
from numpy_ref.checks import Array
from numpy_ref.layers import Flatten, Layer
from torchport.layers import Dropout
from torchport.layers.arithmetic import Setting, rounded
from torchport.states import layer_parameters
from torchport.weights import MODULE_ATTRIBUTES, in_torch_terms

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """A layer of the reference, in float64 and in what the port works with, and the module that stands for it."""

    name: str
    layer: Layer
    oracle: Layer
    module: nn.Module


@dataclass(frozen=True)
class NetworkTrace:
    """One run of a whole port; gradients of the loss by parameter name, and "input"; None where there is none."""

    output: Tensor
    loss: Tensor
    grads: dict[str, Tensor | None]


class _OneDraw(np.random.RandomState):
    """The same uniform numbers again and again, so that a Dropout repeats its mask in every pass."""

    def __init__(self, rng: np.random.RandomState) -> None:
        super().__init__()
        self.rng = rng
        self.drawn: dict[tuple[int, ...], Array] = {}

    def rand(self, *shape: int) -> Array:  # type: ignore[override]
        if shape not in self.drawn:
            self.drawn[shape] = self.rng.rand(*shape)
        return self.drawn[shape]


def align(layers: Mapping[str, Layer], port: nn.Module, setting: Setting) -> list[Step]:
    """Pair the reference's layers with the port's children by name, in order, upper and lower case alike.

    The port may have an nn.Flatten, or any module named flatten, where the reference's Affine flattens by itself.
    ValueError that lists both sides where they do not pair up; TypeError for nn.Dropout, whose rule is another.
    """
    waiting = dict(layers)
    steps = []
    for name, module in port.named_children():
        expected = next(iter(waiting), None)
        if expected is not None and expected.lower() == name.lower():
            steps.append(make_step(name, waiting.pop(expected), module, setting))
        elif isinstance(module, nn.Flatten) or name.lower() == "flatten":
            steps.append(Step(name, Flatten(), Flatten(), module))
        else:
            break
    if waiting or len(steps) != len(list(port.children())):
        children = [name for name, _ in port.named_children()]
        raise ValueError(
            f"layers must pair up by name, in order: the reference has {list(layers)}, the port {children}"
        )
    return steps


def make_step(name: str, layer: Layer, module: nn.Module, setting: Setting) -> Step:
    """Pair one layer with one module. TypeError for nn.Dropout, or a bias given as a number."""
    oracle = copy.copy(layer)
    if isinstance(oracle, reference_layers.Dropout):
        if not isinstance(module, Dropout):
            raise TypeError(f"{name}: {type(module).__name__} is another rule than the book's: use torchport.Dropout")
        oracle.rng = _OneDraw(oracle.rng)
    for attribute in MODULE_ATTRIBUTES:
        if hasattr(layer, attribute):
            setattr(oracle, attribute, setting.round(getattr(layer, attribute)))
    return Step(name, layer, oracle, module)


@contextmanager
def judged(steps: Sequence[Step], setting: Setting) -> Iterator[None]:
    """The modules in training mode, with the oracles' dropout masks; what that changes is put back afterwards."""
    modules = [module for step in steps for module in step.module.modules()]  # those inside others too
    kept = [(m.training, m.__dict__.get("draw"), {k: b.clone() for k, b in m.named_buffers()}) for m in modules]
    frozen = [p for step in steps for p in step.module.parameters() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for step in steps:
            step.module.train()
            if isinstance(step.oracle, reference_layers.Dropout):
                _repeat_draw(step.module, step.oracle.rng)
        # A caller may be inside torch.no_grad().
        with setting.computing(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, (training, draw, buffers) in zip(modules, kept, strict=True):
            module.training = training  # train() would set what is inside as well
            if draw is not None:
                module.__dict__["draw"] = draw
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def predicting(steps: Sequence[Step]) -> Iterator[None]:
    """The modules in evaluation mode; inside judged, which has them in training mode.

    Not under torch.no_grad: torch 2.6's autocast would keep the weights that it casts there, and have no gradient for
    them in training.
    """
    for step in steps:
        step.module.eval()
    try:
        yield
    finally:
        for step in steps:
            step.module.train()


def _repeat_draw(module: nn.Module, rng: np.random.RandomState) -> None:
    def draw(shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.tensor(rng.rand(*shape), device=device)

    module.__dict__["draw"] = draw


def parameters(layer: Layer, dtype: torch.dtype = torch.float64) -> dict[str, Array]:
    """The trained arrays of a reference layer, rounded to dtype, in torch's terms."""
    return {name: rounded(value, dtype) for name, value in layer_parameters(layer).items()}


def gradients(layer: Layer) -> dict[str, Array]:
    """Their gradients, after the layer's backward, in torch's terms."""
    return in_torch_terms({name: getattr(layer, f"d{name}") for name in MODULE_ATTRIBUTES if hasattr(layer, name)})


def forward(steps: Sequence[Step], x: Array) -> tuple[list[Array], list[Layer]]:
    """The input of every oracle and the network's output at the end; and the copies of the oracles that have run."""
    passed, ran = [x], [copy.copy(step.oracle) for step in steps]
    for layer in ran:
        passed.append(layer.forward(passed[-1]))
    return passed, ran


def backward(ran: Sequence[Layer], dout: Array) -> list[Array]:
    """The upstream gradient of every layer that forward has run."""
    upstream = [dout]
    for layer in reversed(ran):
        upstream.append(layer.backward(upstream[-1]))
    return upstream[:-1][::-1]


def trace_module(module: nn.Module, x: Tensor, dout: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Output of one module, and gradients by name of its parameters and of its "input"."""
    leaves = {"input": x.detach().requires_grad_(), **dict(module.named_parameters())}
    output = module(leaves["input"].clone())  # which nn.ReLU(inplace=True) may overwrite
    if not isinstance(output, Tensor) or output.shape != dout.shape or not output.requires_grad:
        return output, {}
    grads = torch.autograd.grad(output, list(leaves.values()), dout.to(output.dtype), allow_unused=True)
    return output, dict(zip(leaves, grads, strict=True))


def trace_children(port: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of each child, run one after the other."""
    outputs = [x]
    with torch.no_grad():
        for child in port.children():
            outputs.append(child(outputs[-1].clone()))
    return outputs[1:]


def trace_network(
    port: nn.Module, run: Run, x: Tensor, t: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> NetworkTrace:
    """The port as a user runs it, forward, loss and backward."""
    leaves = {"input": x.detach().requires_grad_(), **dict(port.named_parameters())}
    output = run(leaves["input"].clone())
    value = loss(output, t)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return NetworkTrace(output, value, dict(zip(leaves, grads, strict=True)))
