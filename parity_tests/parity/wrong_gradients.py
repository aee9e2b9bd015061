"""Wrong ports with right outputs: gradients cut, scaled, hooked or written wrongly.

Where a mistake lies between two layers, either may be blamed.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import numpy_ref as nr
from parity.user_ports import (
    DEEP,
    DROPPED,
    INTEGERS,
    LENET,
    MLP,
    NORMALISED,
    SIGMOID,
    SIMPLE,
    SQUARE,
    Convnet,
    NormalisedPerceptron,
    Perceptron,
    step,
    wrong,
)

# --- At exact zeros and ties only


def of_clamp() -> str:
    """What torch's clamp passes at its limit, as a cause says it: all of it, or in newer versions half."""
    x = torch.zeros(1, requires_grad=True)
    x.clamp(min=torch.zeros(1)).backward()
    assert x.grad is not None
    return "half" if x.grad.item() == 0.5 else "x >= 0"


RELU = MLP, "activation_function1", "grad"
step(*RELU, "MaskOfAtLeast0", lambda m, x: x * (x >= 0), sign=INTEGERS, cause="x >= 0")
step(*RELU, "MaximumWith0", lambda m, x: torch.maximum(x, x.new_zeros(())), sign=INTEGERS, cause="half")
step(*RELU, "ClampAtATensor", lambda m, x: x.clamp(min=torch.zeros_like(x)), sign=INTEGERS, cause=of_clamp())
step(*RELU, "HalfOfAbsolute", lambda m, x: (x + x.abs()) / 2, sign=INTEGERS, cause="half")
step(*RELU, "WhereBelow0", lambda m, x: torch.where(x < 0, 0, x), sign=INTEGERS, cause="x >= 0")
step(*RELU, "FilledBelow0", lambda m, x: x.masked_fill(x < 0, 0), sign=INTEGERS, cause="x >= 0")
step(*RELU, "MaximumOfAStack", lambda m, x: torch.stack([x, torch.zeros_like(x)]).max(0).values, sign=INTEGERS)
step(
    SIMPLE,
    "pool1",
    "",
    "GradientOfTheMean",
    lambda m, x: (mean := F.avg_pool2d(x, 2)) + (m(x) - mean).detach(),
    cause="roundings",
)
POOL = SIMPLE, "pool1", "grad"
step(*POOL, "AmaxOfAView", lambda m, x: x.view(-1, 4, 4, 2, 4, 2).amax((3, 5)), sign=INTEGERS, cause="equal maxima")
step(
    *POOL,
    "AmaxOfWindows",
    lambda m, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)),
    sign=INTEGERS,
    cause="equal maxima",
)
step(*POOL, "ColumnsFirst", lambda m, x: F.max_pool2d(F.max_pool2d(x, (2, 1)), (1, 2)), sign=INTEGERS)
step(*POOL, "PooledTransposed", lambda m, x: F.max_pool2d(x.mT, 2).mT, sign=INTEGERS)
step(*POOL, "PooledMirrored", lambda m, x: F.max_pool2d(x.flip(3), 2).flip(3), sign=INTEGERS)


class Amax(nn.Module):
    """Max pooling of 4 maps of 8 x 8 that passes half the gradient to each of two equal maxima."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 4, 4, 2, 4, 2).amax((3, 5))


@wrong(SIMPLE, "relu1", "grad", sign=INTEGERS, cause="x >= 0")
class MaskBesideAPrunedWeight(Convnet):
    """A weight that is computed cannot be set to integers."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        prune.identity(self.fc1, "weight")

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        x = F.max_pool2d(x * (x >= 0), 2)  # wrong
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@wrong(SIMPLE, "relu1 pool1", "grad", sign=INTEGERS)
class AmaxBeforeRelu(Convnet):
    """Two layers that are judged together."""

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x).view(-1, 4, 4, 2, 4, 2).amax((3, 5))  # wrong
        return self.fc2(F.relu(self.fc1(F.relu(x).flatten(1))))


@wrong(SIMPLE, "conv1 relu1 pool1", "grad", sign=INTEGERS)
class ScriptedAmax(Convnet):
    """Three layers that are seen in one piece."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.block = torch.jit.script(nn.Sequential(self.conv1, nn.ReLU(), Amax()))

    def forward(self, x: Tensor) -> Any:
        x = self.block(x).flatten(1)  # wrong
        return self.fc2(F.relu(self.fc1(x)))


# --- Cut

NEXT = "relu1 pool1"
step(SIMPLE, "relu1", "grad", "Detached", lambda m, x: F.relu(x).detach(), NEXT)
step(SIMPLE, "relu1", "grad", "DetachedBefore", lambda m, x: F.relu(x.detach()), "conv1 relu1")
step(SIMPLE, "relu1", "grad", "ByData", lambda m, x: F.relu(x.data), "conv1 relu1")
step(SIMPLE, "relu1", "grad", "NewLeaf", lambda m, x: F.relu(x).detach().requires_grad_(), NEXT)
step(SIMPLE, "relu1", "grad", "ThroughNumpy", lambda m, x: torch.from_numpy(F.relu(x).detach().numpy()), NEXT)
step(SIMPLE, "relu1", "grad", "HalfTheBatchCut", lambda m, x: torch.cat([F.relu(x[:4]), F.relu(x[4:]).detach()]), NEXT)
step(SIMPLE, "affine2", "grad_input", "InputDetached", lambda m, x: m(x.detach()), "relu2 affine2")
step(MLP, "affine2", "grad_weight", "WeightDetached", lambda m, x: F.linear(x, m.weight.detach(), m.bias))
step(MLP, "affine2", "grad_bias", "BiasDetached", lambda m, x: F.linear(x, m.weight, m.bias.data))
step(MLP, "affine2", "grad", "NewParameterEachTime", lambda m, x: F.linear(x, nn.Parameter(m.weight), m.bias))
step(SIMPLE, "output", "grad", "OutputDetached", lambda m, x: x.detach().requires_grad_(), "affine2 output")


@wrong(SIMPLE, "conv1", "grad")
class NoGradAroundFeatures(Convnet):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            x = self.conv1(x)  # wrong
        x = F.max_pool2d(F.relu(x), 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


@wrong(SIMPLE, "relu1 pool1", "grad")
class NoGradInTheMiddle(Convnet):
    @torch.no_grad()
    def pooled(self, x: Tensor) -> Any:
        return F.max_pool2d(x, 2)  # wrong

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x))
        x = self.pooled(x)  # wrong
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@wrong(SIMPLE, "relu1 pool1", "grad")
class ZeroedBehindAutogradsBack(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        with torch.no_grad():
            x[x < 0] = 0  # wrong
        x = F.max_pool2d(x, 2)  # wrong
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@wrong(MLP, "activation_function1", "grad")
class ClampedData(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        x.data.clamp_(min=0)  # wrong
        x = self.fc2(x)  # wrong
        return self.fc3(F.relu(x))


@wrong(SIMPLE, "")
class InPlaceInTwoViews(Convnet):
    """backward raises: what it needs was overwritten."""

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        x[:, :2].relu_()  # wrong
        x[:, 2:].relu_()  # wrong
        return self.fc2(F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1))))


@wrong(SIMPLE, "conv1", "grad")
class CheckpointedFromTheInput(Convnet):
    """Reentrant: its input needs no gradient, so its weights get none."""

    def features(self, x: Tensor) -> Any:
        return F.max_pool2d(F.relu(self.conv1(x)), 2)  # wrong

    def forward(self, x: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as everybody reads past it
            x = checkpoint(self.features, x, use_reentrant=True)  # wrong
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


# --- Scaled and added

step(SIMPLE, "relu1", "grad", "DoubledGradient", lambda m, x: (y := F.relu(x)) + (y - y.detach()), NEXT, cause="2")
step(SIMPLE, "relu1", "grad", "HalvedGradient", lambda m, x: (y := F.relu(x) / 2) + y.detach(), NEXT, cause="1 / 2")
step(SIMPLE, "output", "grad", "PenaltyOfValue0", lambda m, x: x + (x - x.detach()).sum(1, True), "affine2 output")
step(SIMPLE, "affine2", "grad_bias", "BiasGradientTwice", lambda m, x: m(x) + (m.bias - m.bias.detach()), cause="2")
step(SIMPLE, "relu1", "grad", "Reversed", lambda m, x: own(torch.clone, negative, F.relu(x)), NEXT, cause="-1")
step(
    SIMPLE,
    "affine1",
    "grad_weight",
    "WeightReversed",
    lambda m, x: F.linear(x, own(torch.clone, negative, m.weight), m.bias),
)
step(DROPPED, "dropout1", "grad", "MaskLeavesTheGradient", lambda m, x: x + (m(x) - x).detach(), cause="as it is")

# --- Backward functions of one's own


class Own(torch.autograd.Function):
    """value(*tensors), whose gradients are backward(grad, *tensors)."""

    @staticmethod
    def forward(ctx: Any, value: Any, backward: Any, *inputs: Tensor) -> Any:
        ctx.save_for_backward(*inputs)
        ctx.function = backward
        return value(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *ctx.function(grad, *ctx.saved_tensors)


own: Any = Own.apply


def everything(grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return (grad,)


def of_softplus(grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return (grad * torch.sigmoid(x),)


def negative(grad: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
    return (-grad,)


def spread_evenly(grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return (F.interpolate(grad / 4, scale_factor=2),)


@wrong(MLP, "activation_function2", "grad", cause="-1")
class GradientReversal(Perceptron):
    """A function of its own that returns its input."""

    def forward(self, x: Tensor) -> Any:
        x = self.fc2(F.relu(self.fc1(x)))
        x = F.relu(x)
        x = own(lambda x: x.view_as(x), negative, x)  # wrong
        return self.fc3(x)


def sigmoid_half(grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return (grad * torch.sigmoid(x),)  # and not times 1 - sigmoid(x)


def tanh_not_squared(grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    return (grad * (1 - torch.tanh(x)),)


def weight_for_transpose(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return grad @ weight.T, grad.T @ x, grad.sum(0)


def product_transposed(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return grad @ weight, x.T @ grad, grad.sum(0)


def mean_for_sum(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return grad @ weight, grad.T @ x, grad.mean(0)


def divided_by_n(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return grad @ weight, grad.T @ x / len(x), grad.sum(0)


def no_bias_gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor | None, ...]:
    return grad @ weight, grad.T @ x, None


def conv_not_flipped(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    _, dw, db = conv_right(grad, x, weight, bias)
    return F.conv2d(grad, weight.transpose(0, 1), padding=1), dw, db


def conv_weight_flipped(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    dx, dw, db = conv_right(grad, x, weight, bias)
    return dx, dw.flip(2, 3), db


def conv_bias_of_a_pixel(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    dx, dw, _ = conv_right(grad, x, weight, bias)
    return dx, dw, grad[:, :, 0, 0].sum(0)


def conv_right(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    dx = conv2d_input(x.shape, weight, grad, padding=1)
    return dx, conv2d_weight(x, weight.shape, grad, padding=1), grad.sum((0, 2, 3))


def padded(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


step(SIMPLE, "relu1", "grad", "StraightThrough", lambda m, x: own(F.relu, everything, x))
step(SIMPLE, "relu1", "grad", "Surrogate", lambda m, x: own(F.relu, of_softplus, x))
step(
    SIMPLE,
    "pool1",
    "grad",
    "SpreadEvenly",
    lambda m, x: own(lambda x: F.max_pool2d(x, 2), spread_evenly, x),
    cause="all of",
)
step(SIGMOID, "sigmoid1", "grad", "SigmoidHalf", lambda m, x: own(torch.sigmoid, sigmoid_half, x), cause="1 - y")
step(LENET, "tanh4", "grad", "TanhNotSquared", lambda m, x: own(torch.tanh, tanh_not_squared, x), cause="square")
LINEAR = SQUARE, "affine2"
step(*LINEAR, "grad_input", "ByW", lambda m, x: own(F.linear, weight_for_transpose, x, m.weight, m.bias))
step(*LINEAR, "grad_weight", "ProductTransposed", lambda m, x: own(F.linear, product_transposed, x, m.weight, m.bias))
step(*LINEAR, "grad_weight", "DividedByN", lambda m, x: own(F.linear, divided_by_n, x, m.weight, m.bias), cause="1 / N")
step(*LINEAR, "grad_bias", "MeanForSum", lambda m, x: own(F.linear, mean_for_sum, x, m.weight, m.bias), cause="1 / N")
step(*LINEAR, "grad_bias", "NoBiasGradient", lambda m, x: own(F.linear, no_bias_gradient, x, m.weight, m.bias))
CONV = DEEP, "conv2"
step(*CONV, "grad_input", "KernelNotFlipped", lambda m, x: own(padded, conv_not_flipped, x, m.weight, m.bias))
step(*CONV, "grad_weight", "WeightFlipped", lambda m, x: own(padded, conv_weight_flipped, x, m.weight, m.bias))
step(*CONV, "grad_bias", "BiasOfAPixel", lambda m, x: own(padded, conv_bias_of_a_pixel, x, m.weight, m.bias))


@wrong(NORMALISED, "batchnorm1", "grad_input")
class StatisticsAreConstants(NormalisedPerceptron):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        scale = self.bn1.weight * (x.detach().var(0, unbiased=False) + 1e-6).rsqrt()
        x = self.bn1(x.detach()) + (x - x.detach()) * scale  # wrong
        return self.fc3(F.relu(self.bn2(self.fc2(F.relu(x)))))


# --- Hooks


@wrong(SIMPLE, "relu1 pool1", "grad")
class HookOnATensor(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x))  # wrong
        if x.requires_grad:
            x.register_hook(lambda grad: 0.5 * grad)  # wrong
        x = F.max_pool2d(x, 2)  # wrong
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Hooked(Convnet):
    """fc1 has the hook."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)  # wrong
        x = self.fc1(x)  # wrong
        return self.fc2(F.relu(x))


@wrong(SIMPLE, "affine1", "grad_weight", marked=Hooked, cause="2")
def hook_on_a_weight(reference: nr.Network) -> nn.Module:
    port = Hooked(reference)
    port.fc1.weight.register_hook(lambda grad: 2 * grad)
    return port


@wrong(SIMPLE, "affine1", "grad_weight", marked=Hooked)
def gradient_clipping(reference: nr.Network) -> nn.Module:
    port = Hooked(reference)
    port.fc1.weight.register_hook(lambda grad: grad.clamp(-0.01, 0.01))
    return port


@wrong(SIMPLE, "affine1", "grad_bias", marked=Hooked)
def hook_after_accumulation(reference: nr.Network) -> nn.Module:
    """autograd.grad does not call it."""
    port = Hooked(reference)

    def halve(bias: Tensor) -> None:
        bias.grad = None if bias.grad is None else bias.grad / 2

    port.fc1.bias.register_post_accumulate_grad_hook(halve)
    return port


def eighth(module: nn.Module, gradients: Any, *_: Any) -> Any:
    return (gradients[0] / 8,)


@wrong(SIMPLE, "pool1 affine1", "grad", marked=Hooked)
def full_backward_hook(reference: nr.Network) -> nn.Module:
    port = Hooked(reference)
    port.fc1.register_full_backward_hook(eighth)
    return port


@wrong(SIMPLE, "affine1 relu2", "grad", marked=Hooked)
def full_backward_pre_hook(reference: nr.Network) -> nn.Module:
    port = Hooked(reference)
    port.fc1.register_full_backward_pre_hook(eighth)
    return port


def halved(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * 0.5,)  # wrong


@wrong(SIMPLE, "affine1", "output", marked=halved)
def forward_pre_hook(reference: nr.Network) -> nn.Module:
    port = Hooked(reference)
    port.fc1.register_forward_pre_hook(halved)
    return port
