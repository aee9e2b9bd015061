"""Right ports that odd things are done to: wrapped, scripted, parametrised, hooked, with gradients of their own."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import numpy_ref as nr
from parity.user_ports import (
    MLP,
    NORMALISED,
    SIMPLE,
    SQUARE,
    Convnet,
    Perceptron,
    fill_norm,
    linear,
    right,
    tensors,
)


class Plain(Convnet):
    """What is wrapped."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = x.view(x.size(0), -1)
        return torch.relu(self.fc1(x)) @ self.fc2.weight.t() + self.fc2.bias


# --- Wrapped


@right(SIMPLE)
def compiled(reference: nr.Network) -> Any:
    return torch.compile(Plain(reference), backend="eager", dynamic=True)


@right(SIMPLE)
def data_parallel(reference: nr.Network) -> nn.Module:
    return nn.DataParallel(Plain(reference))


@right(SIMPLE)
def scripted(reference: nr.Network) -> Any:
    return torch.jit.script(Plain(reference))


@right(SIMPLE)
def traced(reference: nr.Network) -> Any:
    return torch.jit.trace(Plain(reference), torch.zeros(2, 1, 10, 10, dtype=torch.float64))


@right(SIMPLE)
def symbolically_traced(reference: nr.Network) -> nn.Module:
    return torch.fx.symbolic_trace(Plain(reference))


@right(SIMPLE)
def averaged_model(reference: nr.Network) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(Plain(reference))


@right(SIMPLE)
class ScriptedBlock(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.block = torch.jit.script(nn.Sequential(self.conv1, nn.ReLU(), nn.MaxPool2d(2)))

    def forward(self, x: Tensor) -> Any:
        return self.fc2(F.relu(self.fc1(self.block(x).flatten(1))))


@right(NORMALISED, known="n/(n - 1)")
def scripted_normalisation(reference: nr.Network) -> nn.Module:
    fc1, fc2, fc3 = (linear(reference, number) for number in (1, 2, 3))
    bn1, bn2 = (fill_norm(nn.BatchNorm1d(size, eps=1e-6), reference, k) for k, size in enumerate((9, 8), 1))
    return nn.Sequential(torch.jit.script(nn.Sequential(fc1, bn1, nn.ReLU(), fc2, bn2)), nn.ReLU(), fc3)


@right(SIMPLE)
class CalledFunctionally(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.net = Plain(reference)

    def forward(self, x: Tensor) -> Any:
        return torch.func.functional_call(self.net, dict(self.net.named_parameters()), (x,))


@right(MLP)
class MappedOverSamples(Perceptron):
    def one(self, x: Tensor) -> Any:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))

    def forward(self, x: Tensor) -> Any:
        return torch.vmap(self.one)(x)


@right(SIMPLE)
class BatchInChunks(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(BatchInChunks, self).forward(chunk) for chunk in x.split(3)])


# --- Parameters of another kind


@right(SIMPLE, steps=False)
def weight_norm(reference: nr.Network) -> nn.Module:
    port = Plain(reference)
    parametrizations.weight_norm(port.conv1)
    parametrizations.weight_norm(port.fc1)
    return port


@right(MLP, steps=False)
class WeightNormOfOld(Perceptron):
    """By a hook before forward, as torch did it first: g v / |v|."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.fc1 = torch.nn.utils.weight_norm(self.fc1)

    def forward(self, x: Tensor) -> Any:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class EqualizedLinear(nn.Module):
    """A parameter of unit size, scaled at run time as StyleGAN does it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.scale, self.bias = layer.in_features**-0.5, layer.bias
        self.weight = nn.Parameter(layer.weight.detach() / self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


@right(MLP, steps=False)
def equalized_learning_rate(reference: nr.Network) -> nn.Module:
    fc1, fc2, fc3 = (EqualizedLinear(linear(reference, number)) for number in (1, 2, 3))
    return nn.Sequential(fc1, nn.ReLU(), fc2, nn.ReLU(), fc3)


class Transposed(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.T

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.T


@right(SIMPLE)
def kept_transposed(reference: nr.Network) -> nn.Module:
    port = Plain(reference)
    parametrize.register_parametrization(port.fc1, "weight", Transposed())
    return port


@right(SIMPLE)
def pruned_by_nothing(reference: nr.Network) -> nn.Module:
    port = Plain(reference)
    prune.identity(port.conv1, "weight")
    prune.l1_unstructured(port.fc1, "weight", amount=0.0)
    return port


@right(MLP)
class AdapterAtRest(Perceptron):
    """LoRA whose factors are 0 and frozen."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.a = nn.Parameter(torch.zeros(9, 2).double(), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(2, 12).double(), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        x = F.linear(x, self.fc1.weight + self.a @ self.b, self.fc1.bias)
        return self.fc3(F.relu(self.fc2(F.relu(x))))


@right(SIMPLE, steps=False)
def frozen_on_purpose(reference: nr.Network) -> nn.Module:
    port = Plain(reference)
    port.conv1.requires_grad_(False)
    return port


@right(SIMPLE)
class CopiesOfTheWeights(Plain):
    """Buffers that are equal to the weights at the start, and parameters that nobody uses."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        for name, value in tensors(reference).items():
            self.register_buffer(f"average_{name}", value)
        self.spare = copy.deepcopy(self.fc1)


# --- Gradients of their own


class OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, 0)


class OwnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.T @ x, grad.sum(0)


class OwnConvolution(torch.autograd.Function):
    """By im2col, with the transposed product and col2im behind it; the context is filled apart, as torch.func wants."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        columns = F.unfold(x, 3)  # (N, C*3*3, OH*OW)
        y = weight.flatten(1) @ columns + bias[:, None]
        return y.view(len(x), len(weight), x.shape[2] - 2, x.shape[3] - 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(2)  # (N, F, OH*OW)
        dweight = torch.einsum("nfp,ncp->fc", rows, F.unfold(x, 3)).view_as(weight)
        dx = F.fold(weight.flatten(1).T @ rows, x.shape[2:], 3)
        return dx, dweight, rows.sum((0, 2))


@right(SIMPLE)
class OwnFunctions(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = OwnRelu.apply(OwnConvolution.apply(x, self.conv1.weight, self.conv1.bias))
        x = F.max_pool2d(x, 2).flatten(1)
        return self.fc2(OwnRelu.apply(OwnLinear.apply(x, self.fc1.weight, self.fc1.bias)))


class BooksRelu(torch.autograd.Function):
    """Its backward writes into the gradient that it is given, as the book's does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mask = x <= 0
        out = x.clone()
        out[ctx.mask] = 0
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad[ctx.mask] = 0
        return grad


@right(MLP)
class OwnFunctionInPlace(Perceptron):
    def forward(self, x: Tensor) -> Any:
        return self.fc3(BooksRelu.apply(self.fc2(BooksRelu.apply(self.fc1(x)))))


@right(SIMPLE)
class Checkpointed(Convnet):
    def head(self, x: Tensor) -> Any:
        return self.fc2(F.relu(self.fc1(x.flatten(1))))

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return checkpoint(self.head, x, use_reentrant=False)


@right(SIMPLE)
class CheckpointedOfOld(Checkpointed):
    """Reentrant: backward runs a graph inside the graph, which torch.autograd.grad refuses."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return checkpoint(self.head, x, use_reentrant=True) if self.training else self.head(x)


@right(MLP)
class CheckpointedSequential(Perceptron):
    def forward(self, x: Tensor) -> Any:
        stages = [self.fc1, nn.ReLU(), self.fc2, nn.ReLU(), self.fc3]
        return checkpoint_sequential(stages, 2, x, use_reentrant=False)


@right(SIMPLE)
class GradientsAllowedByMode(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            return super().forward(x)


# --- Beside the way of the data


@right(SIMPLE)
class HooksThatLook(Plain):
    """They keep activations and gradients, and change none."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.kept: dict[str, Tensor] = {}
        for name, module in self.named_children():
            module.register_forward_hook(lambda m, args, y, name=name: self.kept.update({name: y.detach()}))
        self.fc1.register_full_backward_hook(self.keep_gradients)
        self.fc1.weight.register_post_accumulate_grad_hook(lambda weight: self.kept.update(grad=weight.grad.clone()))

    def keep_gradients(self, module: nn.Module, dx: Any, dy: Any) -> None:
        self.kept.update(dx=dx[0], dy=dy[0])

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.requires_grad:
            y.retain_grad()
            y.register_hook(lambda grad: self.kept.update(dy=grad))
        return y


@right(SIMPLE)
class StatisticsOnTheSide(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.calls, self.means = 0, list[float]()

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        x = F.relu(self.conv1(x))
        assert torch.isfinite(x.detach()).all()
        with torch.no_grad():
            self.means.append(float(x.clone().mul_(2).mean()))
        x = F.max_pool2d(x, 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


@right(SIMPLE)
class TeacherOnTheSide(Plain):
    """A copy runs first on the same samples, and so has the same values everywhere."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.teacher = Plain(reference).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.taught = self.teacher(x).softmax(1)
        return super().forward(x)


@right(SIMPLE, output=0)
class SaliencyOnTheSide(Plain):
    """The network's own gradient by its input, from a run of its own."""

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            pixels = x.detach().clone().requires_grad_()
            (saliency,) = torch.autograd.grad(super().forward(pixels).amax(1).sum(), pixels)
        return super().forward(x), saliency.abs()


@right(SIMPLE)
class UnusedHeadKeptAlive(Plain):
    """Times 0, so that DistributedDataParallel finds a gradient for every parameter."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.unused = nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.0 * sum(p.sum() for p in self.unused.parameters())


@right(SIMPLE)
class AssertsItsRange(Plain):
    def forward(self, x: Tensor) -> Tensor:
        assert x.abs().max() < 100, "images must be standardised"
        return super().forward(x)


# --- Memory, casts and values that stay


@right(SQUARE)
class ChannelsLastMemory(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x.to(memory_format=torch.channels_last))), 2)
        return self.fc2(F.relu(self.fc1(x.contiguous().view(x.size(0), -1))))


@right(SIMPLE)
class PermutedAndBack(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


@right(SIMPLE)
class SortedAndBack(Plain):
    """The samples in another order inside, as sequences are sorted by length."""

    def forward(self, x: Tensor) -> Tensor:
        order = x.detach().flatten(1).sum(1).argsort(stable=True)
        return super().forward(x[order])[order.argsort()]


@right(SIMPLE)
class DoubleInside(Plain):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x.to(self.conv1.weight.dtype))), 2).flatten(1)
        hidden = F.linear(x.double(), self.fc1.weight.double(), self.fc1.bias.double())
        return self.fc2(F.relu(hidden).to(x.dtype))


@right(SIMPLE, dtypes=(torch.float32,))
class FloatOnly(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).float()


@right(SIMPLE)
class NothingChanges(Plain):
    """Buffers of 0 and 1, identities, copies."""

    mean: Tensor
    std: Tensor

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.register_buffer("mean", torch.zeros(1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1))
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Any:
        x = torch.nan_to_num(self.same((x - self.mean) / self.std).clone().mul_(1.0))
        y = super().forward(x)
        return self.same(y + 0.0).clone().contiguous()
