"""Right ports whose layers are written by hand: products, windows, weights in other shapes, relus, normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from parity.user_ports import (
    DROPPED,
    DROPPED_MAPS,
    GLOBAL,
    MLP,
    NORMALISED,
    NORMALISED_MAPS,
    SIGMOID,
    SIMPLE,
    SQUARE,
    Convnet,
    NormalisedPerceptron,
    Perceptron,
    conv2d,
    fill_norm,
    linear,
    right,
    tensors,
)
from torchport import BatchNormalization

# --- Affine layers


class BookLayout(nn.Module):
    """Parameters by the book's names and in its layout."""

    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    W3: Tensor
    b3: Tensor

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        for name, value in tensors(reference).items():
            self.register_parameter(name, nn.Parameter(value))


@right(MLP)
class ProductPlusBias(BookLayout):
    def forward(self, x: Tensor) -> Any:
        x = torch.relu(x @ self.W1 + self.b1)
        x = torch.relu(torch.matmul(x, self.W2) + self.b2)
        return torch.mm(x, self.W3).add(self.b3)


@right(MLP)
class OtherProducts(BookLayout):
    def forward(self, x: Tensor) -> Any:
        x = torch.addmm(self.b1, x, self.W1).relu()
        x = F.linear(x, self.W2.t(), self.b2).relu()
        return torch.einsum("nd,dh->nh", x, self.W3) + self.b3


@right(MLP)
class BiasAddedInPlace(BookLayout):
    def forward(self, x: Tensor) -> Any:
        x = x @ self.W1
        x += self.b1
        x = torch.tensordot(F.relu_(x), self.W2, dims=1)
        x.add_(self.b2).relu_()
        return (x.unsqueeze(1) @ self.W3).squeeze(1).add_(self.b3)


@right(MLP)
class BiasInTwoHalves(BookLayout):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(x @ self.W1 + self.b1 / 2 + self.b1 / 2)
        x = F.relu((x @ (2 * self.W2) + 2 * self.b2) * 0.5)
        return x @ self.W3 + self.b3


@right(MLP)
class BiasAsLastRow(nn.Module):
    """[x, 1] times [W; b]."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        p = tensors(reference)
        rows = [torch.cat([p[f"W{k}"], p[f"b{k}"][None]]) for k in (1, 2, 3)]
        self.weights = nn.ParameterList(nn.Parameter(value) for value in rows)

    def forward(self, x: Tensor) -> Any:
        for weight in self.weights[:-1]:
            x = F.relu(torch.cat([x, x.new_ones(len(x), 1)], dim=1) @ weight)
        return torch.cat([x, x.new_ones(len(x), 1)], dim=1) @ self.weights[-1]


@right(SIMPLE)
class OneVectorOfParameters(nn.Module):
    """As an optimizer's flat buffer is used."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        values = tensors(reference)
        self.shapes = [value.shape for value in values.values()]
        self.flat = nn.Parameter(torch.cat([value.flatten() for value in values.values()]))

    def forward(self, x: Tensor) -> Any:
        parts = self.flat.split([shape.numel() for shape in self.shapes])
        w1, b1, w2, b2, w3, b3 = (part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))
        x = F.max_pool2d(F.relu(F.conv2d(x, w1, b1)), 2).flatten(1)
        return F.relu(x @ w2 + b2) @ w3 + b3


@right(SIMPLE)
class InputsInTwoHalves(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        left, right = self.fc1.weight.detach().chunk(2, dim=1)
        self.left, self.right, self.bias = nn.Parameter(left.clone()), nn.Parameter(right.clone()), self.fc1.bias
        del self.fc1

    def forward(self, x: Tensor) -> Any:
        left, right = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1).chunk(2, dim=1)
        return self.fc2(F.relu(F.linear(left, self.left) + F.linear(right, self.right) + self.bias))


@right(MLP)
class OutputsInTwoHeads(Perceptron):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.first, self.others = nn.Linear(8, 1).double(), nn.Linear(8, 4).double()
        for head, rows in ((self.first, slice(0, 1)), (self.others, slice(1, 5))):
            head.load_state_dict({"weight": self.fc3.weight[rows], "bias": self.fc3.bias[rows]})
        del self.fc3

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        return torch.cat([self.first(x), self.others(x)], dim=1)


@right(SIMPLE)
class ConvolutionsForAffine(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.head, self.out = nn.Conv2d(4, 9, 4).double(), nn.Conv1d(9, 10, 1).double()
        self.head.load_state_dict({"weight": self.fc1.weight.view(9, 4, 4, 4), "bias": self.fc1.bias})
        self.out.load_state_dict({"weight": self.fc2.weight.view(10, 9, 1), "bias": self.fc2.bias})
        del self.fc1, self.fc2

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.head(F.max_pool2d(F.relu(self.conv1(x)), 2)))  # (N, 9, 1, 1)
        return self.out(x.squeeze(-1)).squeeze(dim=2)


@right(SIMPLE)
class ChannelsLastFlattened(Convnet):
    """(H, W, C) order, with weights to match, as from another framework."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        weight = self.fc1.weight.detach().view(9, 4, 4, 4).permute(0, 2, 3, 1).reshape(9, 64)
        self.fc1.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc2(F.relu(self.fc1(x.permute(0, 2, 3, 1).reshape(x.size(0), -1))))


# --- Convolution and pooling


class ByHand(Convnet):
    """Its convolution has a bias, which torch's types do not know."""

    conv1: Any


@right(SIMPLE)
class UnfoldAndProduct(ByHand):
    """relu comes before the maps have the shape of maps."""

    def forward(self, x: Tensor) -> Any:
        rows = F.unfold(x, 3).transpose(1, 2)  # (N, 8*8, 9)
        rows = F.relu(rows @ self.conv1.weight.view(4, -1).T + self.conv1.bias)
        maps = rows.transpose(1, 2).reshape(-1, 4, 8, 8)
        return self.fc2(F.relu(self.fc1(F.max_pool2d(maps, 2).flatten(1))))


@right(SQUARE)
class WindowsByUnfold(ByHand):
    def forward(self, x: Tensor) -> Any:
        windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, 8, 8, 3, 3)
        y = torch.einsum("nchwij,fcij->nfhw", windows, self.conv1.weight) + self.conv1.bias.view(1, -1, 1, 1)
        pooled = F.relu(y).unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).max(dim=-1).values
        return self.fc2(F.relu(self.fc1(pooled.flatten(1))))


@right(SIMPLE)
class WindowsByStrides(ByHand):
    def forward(self, x: Tensor) -> Any:
        n, (sn, sc, sh, sw) = len(x), x.stride()
        windows = torch.as_strided(x, (n, 1, 8, 8, 3, 3), (sn, sc, sh, sw, sh, sw))
        y = torch.tensordot(windows, self.conv1.weight, dims=([1, 4, 5], [1, 2, 3]))  # (N, 8, 8, 4)
        y = (y + self.conv1.bias).permute(0, 3, 1, 2)
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(y), 2).flatten(1))))


@right(SIMPLE)
class FilterByFilter(ByHand):
    def forward(self, x: Tensor) -> Any:
        maps = x.new_empty(len(x), 4, 8, 8)
        for k in range(4):
            maps[:, k] = F.conv2d(x, self.conv1.weight[k : k + 1])[:, 0] + self.conv1.bias[k]
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(maps), 2).flatten(1))))


@right(SIMPLE)
class OffsetByOffset(ByHand):
    """The kernel's pixels, one after another; separable pooling, row by row first."""

    def forward(self, x: Tensor) -> Any:
        y = self.conv1.bias.view(4, 1, 1).expand(len(x), 4, 8, 8).clone()
        for i in range(3):
            for j in range(3):
                y += self.conv1.weight[:, 0, i, j].view(4, 1, 1) * x[:, :, i : i + 8, j : j + 8]
        y = F.max_pool2d(F.max_pool2d(F.relu(y), (1, 2)), (2, 1))
        return self.fc2(F.relu(self.fc1(y.flatten(1))))


@right(SIMPLE)
class SampleBySample(ByHand):
    def one(self, image: Tensor) -> Any:
        image = F.max_pool2d(F.relu(self.conv1(image)), 2)  # of three axes
        return self.fc2(F.relu(self.fc1(image.reshape(-1))))

    def forward(self, x: Tensor) -> Any:
        return torch.stack([self.one(image) for image in x])


@right(SQUARE)
class PaddedAndCropped(ByHand):
    def forward(self, x: Tensor) -> Any:
        y = F.conv2d(nn.ZeroPad2d(2)(x), self.conv1.weight, self.conv1.bias)[:, :, 1:-1, 1:-1]
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(y), 2).flatten(1))))


@right(SQUARE)
class PaddingByName(ByHand):
    """Two convolutions of one channel each, whose maps are added."""

    def forward(self, x: Tensor) -> Any:
        first, second = self.conv1.weight.split(1, dim=1)
        y = F.conv2d(x[:, :1], first, padding="same") + F.conv2d(x[:, 1:], second, padding="same")
        y = y + self.conv1.bias[:, None, None]
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(y), 2).flatten(1))))


@right(SIMPLE)
class TransposedConvolution(ByHand):
    """Of the flipped filters: the same sum."""

    def forward(self, x: Tensor) -> Any:
        weight = self.conv1.weight.flip(2, 3).transpose(0, 1)
        y = F.conv_transpose2d(x, weight, self.conv1.bias, padding=2)
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(y), 2).flatten(1))))


@right(SIMPLE)
class ConvolutionByFft(ByHand):
    def forward(self, x: Tensor) -> Any:
        product = torch.fft.rfft2(x) * torch.fft.rfft2(self.conv1.weight[:, 0], s=(10, 10)).conj()
        y = torch.fft.irfft2(product, s=(10, 10))[..., :8, :8] + self.conv1.bias.view(4, 1, 1)
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(y), 2).flatten(1))))


@right(GLOBAL)
class StrideByIndexing(nn.Module):
    """Every second pixel of a denser convolution; means by a convolution with constant weights."""

    mean: Tensor

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(reference, 1, padding=1), linear(reference, 2)
        self.register_buffer("mean", torch.full((6, 1, 2, 2), 0.25, dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        pooled = F.max_pool2d(F.relu(self.conv(x)[:, :, ::2, ::2]), 2)
        return self.fc(F.conv2d(pooled, self.mean, groups=6).flatten(1))


# --- Activations


@right(MLP)
class MaskedProducts(Perceptron):
    """0 where x is 0, as the book's, in value and in gradient."""

    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        x = self.fc2(x * (x > 0))
        return self.fc3(torch.where(x > 0, x, torch.zeros_like(x)))


@right(MLP)
class MaskedFills(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        x = self.fc2(x.masked_fill(x <= 0, 0.0)).clone()
        x[x <= 0] = 0
        return self.fc3(x)


@right(MLP)
class UnusualRelus(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = F.leaky_relu(self.fc1(x), negative_slope=0.0)
        return self.fc3(-F.hardtanh(-self.fc2(x), -float("inf"), 0.0))


@right(SIMPLE)
class ReluInTwoHalves(Convnet):
    """And scaled, which relu does not mind."""

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        x = torch.cat([x[:, :2].relu(), F.threshold(x[:, 2:], 0, 0)], dim=1)
        x = F.max_pool2d(x, 2).flatten(1)
        return self.fc2(F.relu(4 * self.fc1(x)) / 4)


@right(SIGMOID)
class SigmoidByHand(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.hidden, self.output = linear(reference, 1), linear(reference, 2)

    def forward(self, x: Tensor) -> Any:
        return self.output(1 / (1 + torch.exp(-self.hidden(x))))


# --- Batch normalisation and dropout


@right(NORMALISED)
class BooksNormalisation(NormalisedPerceptron):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.bn1(self.fc1(x)))
        return self.fc3(F.relu(self.bn2(self.fc2(x))))


@right(NORMALISED, known="unbiased")
class TorchNormalisation(Perceptron):
    """With the book's numbers: only the running variance is another, the unbiased one."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.bn1 = fill_norm(nn.BatchNorm1d(9, eps=1e-6, momentum=0.1), reference, 1)
        self.bn2 = fill_norm(nn.BatchNorm1d(8, eps=1e-6, momentum=0.1), reference, 2)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.bn1(self.fc1(x)))
        return self.fc3(F.relu(self.bn2(self.fc2(x))))


@right(NORMALISED_MAPS)
class NormalisationByHand(nn.Module):
    """Of every pixel of every map, as the book's."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(reference, 1), linear(reference, 2)
        self.norm = fill_norm(BatchNormalization(144), reference, 1)

    def forward(self, x: Tensor) -> Any:
        flat = self.conv(x).flatten(1)
        mean, var = self.norm.running_mean, self.norm.running_var
        if self.training:
            mean, var = flat.mean(0), flat.var(0, unbiased=False)
            self.norm.running_mean.lerp_(mean.detach(), 0.1)
            self.norm.running_var.lerp_(var.detach(), 0.1)
        flat = (flat - mean) * torch.rsqrt(var + 1e-6) * self.norm.weight + self.norm.bias
        return self.fc(F.relu(flat))


@right(DROPPED)
class DropoutByHand(Perceptron):
    """The book's: nothing is scaled in training."""

    def drop(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.3) if self.training else x * (1 - 0.3)

    def forward(self, x: Tensor) -> Any:
        x = self.drop(F.relu(self.fc1(x)))
        return self.fc3(self.drop(F.relu(self.fc2(x))))


@right(DROPPED)
class ScaledBack(DropoutByHand):
    """It divides as torch's dropout does, and multiplies again."""

    def drop(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.3) / (1 - 0.3) * 0.7 if self.training else x * 0.7


@right(DROPPED_MAPS)
class MasksDrawnAtOnce(Convnet):
    """Drawn for all layers at once, before the first."""

    def forward(self, x: Tensor) -> Any:
        keep = torch.rand(2, len(x), 96, dtype=torch.float64) > 0.4 if self.training else [0.6, 0.6]
        x = self.fc1(F.relu(self.conv1(x)).flatten(1) * keep[0])
        return self.fc2(F.relu(x) * keep[1])


@right(DROPPED)
class DropoutBeforeRelu(DropoutByHand):
    """Once: of the first layer, as in torch's example for MNIST; both orders make the same numbers."""

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.drop(self.fc1(x)))
        return self.fc3(self.drop(F.relu(self.fc2(x))))


@right(SIMPLE)
class DropoutThatDoesNothing(Convnet):
    """By its ratio, or kept in evaluation mode by its owner."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.none, self.off = nn.Dropout2d(0.0), nn.Dropout(0.5).eval()

    def forward(self, x: Tensor) -> Any:
        x = self.none(F.max_pool2d(F.relu(self.conv1(x)), 2))
        return self.fc2(self.off(F.relu(self.fc1(x.flatten(1)))))
