"""Wrong ports that make another output of the first batch: each mistake with the layer and the line to blame.

Most are one line in a port that is right otherwise: function(module, x), in a layer's place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from parity.user_ports import (
    AVERAGED,
    BOOK_START,
    DEEP,
    DROPPED,
    DROPPED_MAPS,
    GLOBAL,
    LENET,
    MLP,
    NORMALISED,
    NORMALISED_MAPS,
    PAIRS,
    PREDICTION,
    SIGMOID,
    SIMPLE,
    SQUARE,
    STATISTICS,
    Convnet,
    NormalisedPerceptron,
    Perceptron,
    conv2d,
    fill_norm,
    linear,
    step,
    wrong,
)
from torchport import Dropout

ONLY64 = "rounds to float32, which a float32 port does anyway"

# --- The input and the output

step(SIMPLE, "input", "output", "ScaledBy255", lambda m, x: x / 255, cause="255")
step(SIMPLE, "input", "output", "ScaledWhereAbove1", lambda m, x: x / 255 if x.max() > 1 else x, cause="255")
step(SIMPLE, "input", "output", "Normalised", lambda m, x: (x - 0.1307) / 0.3081, cause="normalised")
step(SIMPLE, "input", "output", "CentredByTheBatch", lambda m, x: x - x.mean())
step(SIMPLE, "input", "output", "ClampedTo01", lambda m, x: x.clamp(0, 1), cause="clamp")
step(SIMPLE, "input", "output", "Rounded", lambda m, x: x.round())
step(SIMPLE, "input", "output", "InputThroughFloat16", lambda m, x: x.half().to(x.dtype), cause="float16")
step(SIMPLE, "input", "output", "InputThroughFloat32", lambda m, x: x.float().to(x.dtype), only64=ONLY64)
step(SIMPLE, "input", "output", "HeightAndWidthSwapped", lambda m, x: x.transpose(2, 3), cause="order")
step(SQUARE, "input", "output", "ChannelsReversed", lambda m, x: x.flip(1), cause="reversed")
step(SQUARE, "input", "output", "BatchAsChannelsLast", lambda m, x: x.permute(0, 2, 3, 1).reshape(x.shape))
step(SIMPLE, "input", "output", "SamplesMovedByOne", lambda m, x: x.roll(1, 0), cause="moved")
step(SIMPLE, "input", "output", "FirstSampleEverywhere", lambda m, x: x[:1].expand_as(x), cause="first sample")
step(SIMPLE, "output", "output", "Times0", lambda m, x: x * 0, cause="0 everywhere")
step(SIMPLE, "output", "output", "TimesMinus1", lambda m, x: -x, cause="-1")
step(SIMPLE, "output", "output", "TimesAlmost1", lambda m, x: x * 1.0001, cause="1.0001")
step(SIMPLE, "output", "output", "Temperature", lambda m, x: x / 2, cause="1 / 2")
step(SIMPLE, "output", "output", "CentredLogits", lambda m, x: x - x.mean(1, keepdim=True))  # the same softmax
step(SIMPLE, "output", "output", "LargestLogitAt0", lambda m, x: x - x.amax(1, keepdim=True).detach())
step(SIMPLE, "output", "output", "ReluAtTheEnd", lambda m, x: F.relu(x), cause="relu")
step(SIMPLE, "output", "output", "SamplesReversed", lambda m, x: x.flip(0))
step(SIMPLE, "output", "output", "ClassesMoved", lambda m, x: x.roll(1, 1))
step(SIMPLE, "output", "output", "OutputThroughBfloat16", lambda m, x: x.bfloat16().to(x.dtype), cause="bfloat16")
step(SIMPLE, "output", "output", "ReturnsFloat32", lambda m, x: x.float(), only64=ONLY64)

# --- Convolutions

step(SIMPLE, "conv1", "output", "NoConvBias", lambda m, x: F.conv2d(x, m.weight), cause="missing")
step(SIMPLE, "conv1", "output", "ConvBiasTwice", lambda m, x: m(x) + m.bias[:, None, None], "conv1 relu1")
step(SIMPLE, "conv1", "output", "BiasOfOneFilter", lambda m, x: F.conv2d(x, m.weight, m.bias[:1].expand(4)))
step(SIMPLE, "conv1", "", "FlippedKernels", lambda m, x: F.conv2d(x, m.weight.flip(2, 3), m.bias), cause="reversed")
step(DEEP, "conv1", "", "FlippedOfTwo", lambda m, x: F.conv2d(x, m.weight.flip(2, 3), m.bias, 1, 1), cause="reversed")
step(SIMPLE, "conv1", "", "KernelsTransposed", lambda m, x: F.conv2d(x, m.weight.mT, m.bias), cause="order")
step(SIMPLE, "conv1", "", "FiltersReversed", lambda m, x: F.conv2d(x, m.weight.flip(0), m.bias), cause="reversed")
step(
    DEEP,
    "conv2",
    "",
    "FiltersForChannels",
    lambda m, x: F.conv2d(x, m.weight.transpose(0, 1), m.bias, 1, 1),
    cause="order",
)
step(DEEP, "conv2", "", "ChannelsInTwoGroups", lambda m, x: F.conv2d(x, m.weight[:, :2], m.bias, 1, 1, 1, 2))
step(DEEP, "conv3", "output", "ResidualAdded", lambda m, x: m(x) + x, "conv3 relu3")
step(
    SQUARE,
    "conv1",
    "output",
    "ReplicatedBorder",
    lambda m, x: F.conv2d(F.pad(x, (1,) * 4, "replicate"), m.weight, m.bias),
    cause="mode edge",
)
step(SQUARE, "conv1", "output", "BorderOfOnes", lambda m, x: F.conv2d(F.pad(x, (1,) * 4, value=1.0), m.weight, m.bias))
step(
    SQUARE,
    "conv1",
    "output",
    "PaddedAfterOnlyWithoutStride",
    lambda m, x: F.conv2d(F.pad(x, (0, 2, 0, 2)), m.weight, m.bias),
)
step(SQUARE, "conv1", "output", "DilatedKernels", lambda m, x: F.conv2d(x, m.weight, m.bias, 1, 2, 2), cause="dilation")
step(GLOBAL, "conv1", "output", "PaddedAfterOnly", lambda m, x: F.conv2d(F.pad(x, (0, 2, 0, 2)), m.weight, m.bias, 2))
step(SIMPLE, "conv1", "output", "HalfProducts", lambda m, x: F.conv2d(x.half(), m.weight.half(), m.bias.half()).to(x))

# --- Activations

step(SIMPLE, "relu1", "output", "LeakyRelu", lambda m, x: F.leaky_relu(x), cause="leaky relu")
step(SIMPLE, "relu1", "output", "Gelu", lambda m, x: F.gelu(x), cause="gelu")
step(SIMPLE, "relu2", "output", "Elu", lambda m, x: F.elu(x), cause="elu")
step(SIMPLE, "relu2", "output", "Silu", lambda m, x: F.silu(x), cause="silu")
step(SIMPLE, "relu1", "output", "SmoothRelu", lambda m, x: F.softplus(x, beta=50))
step(SIMPLE, "relu2", "output", "AbsoluteValue", lambda m, x: x.abs())
step(SIMPLE, "relu2", "output", "ReluBelow1", lambda m, x: x.clamp(0, 1), cause="clamp")
step(SIMPLE, "relu2", "output", "DropsSmallValues", lambda m, x: F.threshold(x, 0.05, 0))
step(SIMPLE, "relu1", "output", "MapsThroughBfloat16", lambda m, x: F.relu(x.bfloat16()).to(x.dtype), cause="bfloat16")
step(SIMPLE, "relu1", "output", "MapsThroughFloat32", lambda m, x: F.relu(x.float()).to(x.dtype), only64=ONLY64)
step(PAIRS, "activation_function1", "output", "LeakyReluOfTwo", lambda m, x: F.leaky_relu(x), cause="leaky relu")
step(PAIRS, "activation_function1", "output", "NoReluOfTwo", lambda m, x: x * 1, cause="changes nothing here")
step(SIGMOID, "sigmoid1", "output", "HardSigmoid", lambda m, x: F.hardsigmoid(x))
step(SIGMOID, "sigmoid1", "output", "TanhForSigmoid", lambda m, x: torch.tanh(x), cause="tanh")
step(LENET, "tanh1", "output", "PapersTanh", lambda m, x: 1.7159 * torch.tanh(2 / 3 * x))
step(LENET, "tanh3", "output", "SigmoidForTanh", lambda m, x: torch.sigmoid(x), cause="sigmoid")

# --- Pooling and flattening

step(SIMPLE, "pool1", "output", "AverageForMaximum", lambda m, x: F.avg_pool2d(x, 2), cause="mean")
step(SIMPLE, "pool1", "output", "MinimumForMaximum", lambda m, x: -F.max_pool2d(-x, 2))
step(SIMPLE, "pool1", "output", "EverySecondPixel", lambda m, x: x[..., ::2, ::2])
step(SIMPLE, "pool1", "output", "WindowsOf3", lambda m, x: F.max_pool2d(x, 3, 2, padding=1), cause="3 x 3")
step(SIMPLE, "pool1", "output", "DilatedWindows", lambda m, x: F.max_pool2d(x, 2, 2, padding=1, dilation=2))
step(SIMPLE, "pool1", "output", "ScaledBeforePooling", lambda m, x: F.max_pool2d(x * 2, 2), cause="2 times")
step(LENET, "pool1", "output", "MaximumForAverage", lambda m, x: F.max_pool2d(x, 2), cause="maximum")
step(LENET, "pool2", "output", "SumForAverage", lambda m, x: F.avg_pool2d(x, 2, divisor_override=1), cause="4")
step(
    AVERAGED,
    "pool1",
    "output",
    "BorderNotCounted",
    lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    cause="counts",
)
step(SIMPLE, "affine1", "output", "ChannelsLast", lambda m, x: m(x.view(-1, 4, 16).mT.flatten(1)), cause="order")
step(SIMPLE, "affine1", "output", "WidthFirst", lambda m, x: m(x.view(-1, 4, 4, 4).mT.flatten(1)), cause="order")
step(SIMPLE, "affine1", "output", "PixelsReversed", lambda m, x: m(x.flip(1)))

# --- Affine layers

step(MLP, "affine1", "output", "NoBias", lambda m, x: F.linear(x, m.weight), cause="missing")
step(MLP, "affine3", "output", "BiasTwice", lambda m, x: m(x) + m.bias, "affine3 output")
step(MLP, "affine2", "output", "BiasSubtracted", lambda m, x: F.linear(x, m.weight) - m.bias, cause="negated")
step(SQUARE, "affine2", "", "Transposed", lambda m, x: x @ m.weight + m.bias, cause="transposed")
step(SIMPLE, "affine2", "", "WeightsRounded", lambda m, x: F.linear(x, (m.weight * 64).round() / 64, m.bias))
step(
    MLP,
    "affine2",
    "",
    "WeightsThroughFloat16",
    lambda m, x: F.linear(x, m.weight.half().to(x), m.bias),
    cause="float16",
)
step(
    MLP, "affine2", "", "WeightsThroughFloat32", lambda m, x: F.linear(x, m.weight.float().to(x), m.bias), only64=ONLY64
)
step(MLP, "affine2", "", "UnitRows", lambda m, x: F.linear(x, F.normalize(m.weight), m.bias))
step(SIMPLE, "affine1", "output", "ScaledDotProduct", lambda m, x: F.linear(x, m.weight) / 8 + m.bias)

# --- Layers that are missing, changed places or come too often


@wrong(SIMPLE, "relu1", "output", cause="missing")
class NoFirstRelu(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        x = F.max_pool2d(x, 2)  # missing
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@wrong(MLP, "activation_function2", "output", cause="missing")
class NoSecondRelu(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return self.fc3(x)  # missing


@wrong(BOOK_START, "relu2", "output", cause="missing")
class NoReluAfterABiasOf0(Convnet):
    """The sum with the bias changes nothing, and is no relu that changes nothing."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = x @ self.fc1.weight.T
        x = x + self.fc1.bias
        return self.fc2(x)  # missing


@wrong(GLOBAL, "pool1", "output")
class NoPooling(nn.Module):
    """The mean of the whole map hides it."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(reference, 1, stride=2, padding=1), linear(reference, 2)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv(x))
        x = x.mean((2, 3))  # missing
        return self.fc(x)


@wrong(GLOBAL, "pool1", "output")
class CeilMode(nn.Module):
    """3 x 3 maps, of which the mean is taken all the same."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(reference, 1, stride=2, padding=1), linear(reference, 2)
        self.pool, self.gap = nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv(x))
        x = self.pool(x)  # wrong
        return self.fc(self.gap(x).flatten(1))


@wrong(MLP, "affine3", "output")
class SkipConnection(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        h = F.relu(self.fc2(x))
        h = h + x[:, :8]  # wrong
        return self.fc3(h)


@wrong(DEEP, "conv2", "")
class LayersSwapped(nn.Module):
    """The second and the third convolution have the same shapes."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        pads = dict(enumerate((1, 1, 1, 2, 1, 1), 1))
        order = (1, 3, 2, 4, 5, 6)
        self.convs = nn.ModuleList(conv2d(reference, k, padding=pads[i]) for i, k in enumerate(order, 1))
        self.fc1, self.fc2 = linear(reference, 7), linear(reference, 8)
        self.drop = nn.ModuleList([Dropout(0.5), Dropout(0.5)])

    def forward(self, x: Tensor) -> Any:
        for number, conv in enumerate(self.convs):
            x = F.relu(conv(x))  # wrong
            x = F.max_pool2d(x, 2) if number % 2 else x
        x = F.relu(self.fc1(x.flatten(1)))
        return self.drop[1](self.fc2(self.drop[0](x)))


# --- What is returned


@wrong(SIMPLE, "output", "output", cause="softmax", loss=F.cross_entropy)
class SoftmaxBeforeCrossEntropy(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = self.fc2(F.relu(self.fc1(x)))
        return F.softmax(x, dim=1)  # wrong


@wrong(SIMPLE, "output", "output", cause="give it as loss", loss=nn.CrossEntropyLoss())
class LogSoftmaxBeforeCrossEntropy(Convnet):
    """Loss and gradients are right."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = self.fc2(F.relu(self.fc1(x)))
        return F.log_softmax(x, dim=1)  # wrong


@wrong(SIMPLE, "output", "output", loss=F.nll_loss)
class LogSoftmaxOverTheBatch(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = self.fc2(F.relu(self.fc1(x)))
        return F.log_softmax(x, dim=0)  # wrong


@wrong(SIMPLE, "output", "output", loss=F.nll_loss)
class LogOfSigmoid(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = self.fc2(F.relu(self.fc1(x)))
        return F.logsigmoid(x)  # wrong


# --- Batch normalisation and dropout

FEATURES = NORMALISED, "batchnorm1"
step(*FEATURES, "output", "NoGamma", lambda m, x: F.batch_norm(x, None, None, None, m.bias, True, eps=1e-6))
step(
    *FEATURES,
    "output",
    "GammaForBeta",
    lambda m, x: F.batch_norm(x, None, None, m.bias, m.weight, True, eps=1e-6),
    cause="batchnorm1.bias, in place of batchnorm1.weight",
)
step(*FEATURES, "output", "BetaTwice", lambda m, x: m(x) + m.bias, "batchnorm1 activation_function1")
step(*FEATURES, "output", "NormalisesSamples", lambda m, x: F.layer_norm(x, (9,), m.weight, m.bias, 1e-6))
step(*FEATURES, "output", "NormalisesBefore", lambda m, x: m(F.relu(x)))


@wrong(NORMALISED, "batchnorm1", "output", cause="eps")
class EpsOfTorch(Perceptron):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.bn1 = fill_norm(nn.BatchNorm1d(9, momentum=0.1), reference, 1)
        self.bn2 = fill_norm(nn.BatchNorm1d(8, momentum=0.1), reference, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        x = F.relu(self.bn1(x))  # wrong
        return self.fc3(F.relu(self.bn2(self.fc2(x))))


class Normalised(NormalisedPerceptron):
    """The second normalisation is right."""

    def head(self, x: Tensor) -> Any:
        return self.fc3(F.relu(self.bn2(self.fc2(F.relu(x)))))


@wrong(NORMALISED, "batchnorm1", "output", cause="unbiased")
class VarianceOfNMinus1(Normalised):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        if not self.training:
            return self.head(self.bn1(x))
        x = (x - x.mean(0)) / (x.var(0) + 1e-6).sqrt()  # wrong
        return self.head(x * self.bn1.weight + self.bn1.bias)


@wrong(NORMALISED, "batchnorm1", "output", only64="it is a rounding error of float32 here")
class EpsOutsideTheRoot(Normalised):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        if not self.training:
            return self.head(self.bn1(x))
        x = (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-6)  # wrong
        return self.head(x * self.bn1.weight + self.bn1.bias)


@wrong(NORMALISED, "batchnorm1", "output", cause="running")
class RunningStatisticsInTraining(Normalised):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        x = (x - self.bn1.running_mean) / (self.bn1.running_var + 1e-6).sqrt()  # wrong
        return self.head(x * self.bn1.weight + self.bn1.bias)


@wrong(NORMALISED, "batchnorm1", "", sign=PREDICTION)
class BatchStatisticsInPrediction(Normalised):
    """track_running_stats=False."""

    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        x = F.batch_norm(x, None, None, self.bn1.weight, self.bn1.bias, True, eps=1e-6)  # wrong
        return self.head(x)


@wrong(NORMALISED, "batchnorm1", "running", cause="counts 0.9, in the reference 0.1: another", sign=STATISTICS)
class MomentumOfTheBook(Normalised):
    """In torch it is the weight of the new value."""

    def forward(self, x: Tensor) -> Any:
        x, m = self.fc1(x), self.bn1
        x = F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, self.training, 0.9, 1e-6)  # wrong
        return self.head(x)


@wrong(NORMALISED, "batchnorm1", "", sign=STATISTICS)
class StatisticsNeverMove(Normalised):
    def forward(self, x: Tensor) -> Any:
        x, m = self.fc1(x), self.bn1
        x = F.batch_norm(x, None, None, m.weight, m.bias, True, eps=1e-6) if self.training else m(x)  # wrong
        return self.head(x)


@wrong(NORMALISED, "batchnorm1", "", sign=STATISTICS)
class OnlyTheMeanMoves(Normalised):
    def forward(self, x: Tensor) -> Any:
        x, m = self.fc1(x), self.bn1
        if self.training:
            m.running_mean.lerp_(x.detach().mean(0), 0.1)
            return self.head(F.batch_norm(x, None, None, m.weight, m.bias, True, eps=1e-6))  # wrong
        return self.head(m(x))  # wrong


@wrong(NORMALISED, "batchnorm1", "running", cause="counts 0.01, in the reference 0.1: another", sign=STATISTICS)
class MomentumInAScript(Normalised):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        norm = fill_norm(nn.BatchNorm1d(9, eps=1e-6, momentum=0.01), reference, 1)
        block: Any = torch.jit.script(nn.Sequential(self.fc1, norm, nn.ReLU()))
        self.bn1 = block

    def forward(self, x: Tensor) -> Any:
        x = self.bn1(x).flatten(1)  # wrong
        return self.fc3(F.relu(self.bn2(self.fc2(x))))


@wrong(NORMALISED_MAPS, "batchnorm1", "output")
class NormalisesChannels(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(reference, 1), linear(reference, 2)
        self.bn = nn.BatchNorm2d(4, eps=1e-6).double()

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        x = self.bn(x)  # wrong
        return self.fc(F.relu(x).flatten(1))


MASK = DROPPED, "dropout1"
step(*MASK, "output", "MaskInverted", lambda m, x: x * (torch.rand_like(x) < 0.3) if m.training else x * 0.7)
step(*MASK, "output", "DropsHalf", lambda m, x: x * (torch.rand_like(x) > 0.5) if m.training else x * 0.7)
step(*MASK, "output", "OneMaskForAll", lambda m, x: x * (torch.rand_like(x[:1]) > 0.3) if m.training else x * 0.7)
step(*MASK, "output", "RatioOf35", lambda m, x: x * (torch.rand_like(x) > 0.35) if m.training else x * 0.7)
step(*MASK, "output", "WholeSamples", lambda m, x: x * (torch.rand(len(x), 1) > 0.3) if m.training else x * 0.7)
step(
    *MASK,
    "output",
    "UnitsInThrees",
    lambda m, x: x * (torch.rand(len(x), 3) > 0.3).repeat_interleave(3, 1) if m.training else x * 0.7,
)
step(*MASK, "output", "ScaledTwice", lambda m, x: F.dropout(x, 0.3, m.training) if m.training else x * 0.7)
step(*MASK, "output", "ScaledByTheRatio", lambda m, x: m(x) if m.training else x * 0.3, sign=PREDICTION)
step(*MASK, "output", "DropsInPrediction", lambda m, x: x * (torch.rand_like(x) > 0.3), sign=PREDICTION)
step(*MASK, "output", "TorchDropoutOfHalf", lambda m, x: F.dropout(x, 0.5, m.training))
step(PAIRS, "dropout1", "output", "TorchDropoutOfTwo", lambda m, x: F.dropout(x, 0.3, m.training), cause="nn.Dropout")
step(SIMPLE, "relu2", "output", "DropoutAdded", lambda m, x: F.dropout(F.relu(x), 0.5, m.training), "relu2 affine2")
step(SIMPLE, "relu2", "output", "DropoutForgotTraining", lambda m, x: F.dropout(F.relu(x)), "relu2 affine2")
step(SIMPLE, "input", "output", "NoiseInTraining", lambda m, x: x + 0.01 * torch.randn_like(x) if m.training else x)


step(
    DROPPED_MAPS,
    "dropout1",
    "output",
    "WholeMaps",  # as nn.Dropout2d
    lambda m, x: x * (torch.rand(*x.shape[:2], 1, 1) > 0.4) if m.training else x * 0.6,
)


class Dropping(nn.Module):
    """What is right, but for the masks."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv1, self.fc1, self.fc2 = conv2d(reference, 1), linear(reference, 2), linear(reference, 3)

    def mask(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) > 0.4 if self.training else torch.full_like(x, 0.6)


@wrong(DROPPED_MAPS, "dropout2", "output")
class OneMaskForTwoLayers(Dropping):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x)).flatten(1)
        mask = self.mask(x)
        return self.fc2(F.relu(self.fc1(x * mask)) * mask)  # wrong


@wrong(DROPPED, "dropout1", "output", sign=PREDICTION)
class NotScaledAtAll(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        x = x * (torch.rand_like(x) > 0.3) if self.training else x
        x = F.relu(self.fc2(x))  # wrong
        return self.fc3(x * (torch.rand_like(x) > 0.3) if self.training else x)


@wrong(DROPPED, "dropout1", "output", cause="nn.Dropout")
class TorchDropout(Perceptron):
    """It scales in training what the book scales in prediction."""

    def forward(self, x: Tensor) -> Any:
        x = F.dropout(F.relu(self.fc1(x)), 0.3, self.training)  # wrong
        return self.fc3(F.dropout(F.relu(self.fc2(x)), 0.3, self.training))
