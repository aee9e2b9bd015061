"""Right ports in the common styles: modules and functions, the ways to flatten, loops, what is returned, losses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from parity.user_ports import (
    AVERAGED,
    BOOK_START,
    DEEP,
    EQUAL,
    GLOBAL,
    LENET,
    MLP,
    SIGMOID,
    SIMPLE,
    SQUARE,
    TIED,
    Convnet,
    Perceptron,
    conv2d,
    linear,
    right,
)
from torchport import Dropout

OFFSET = "1e-7"  # the book's, inside its log


# --- Modules and functions


@right(SIMPLE)
class ModulesAndView(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.relu1, self.pool, self.relu2 = nn.ReLU(), nn.MaxPool2d(2, 2), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.relu1(self.conv1(x)))
        x = x.view(x.size(0), -1)
        return self.fc2(self.relu2(self.fc1(x)))


@right(SIMPLE)
class SequentialBlocks(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.features = nn.Sequential(conv2d(reference, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), linear(reference, 2), nn.ReLU(), linear(reference, 3))

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.features(x))


@right(SQUARE)
def one_sequential(reference: nr.Network) -> nn.Module:
    features = conv2d(reference, 1, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*features, linear(reference, 2), nn.ReLU(), linear(reference, 3))


@right(MLP)
class SubclassOfSequential(nn.Sequential):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(
            linear(reference, 1), nn.ReLU(), linear(reference, 2), nn.ReLU(inplace=True), linear(reference, 3)
        )


@right(SIMPLE)
class FunctionsAndFixedView(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = x.view(-1, 4 * 4 * 4)
        return self.fc2(F.relu(self.fc1(x)))


@right(SIMPLE)
class OneReluReused(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(self.relu(self.conv1(x)), kernel_size=2, stride=2)
        return self.fc2(self.relu(self.fc1(x.flatten(start_dim=1))))


@right(SIMPLE)
class ReluInPlaceByFunction(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        F.relu_(x)
        x = torch.flatten(F.max_pool2d(x, 2), 1)
        return self.fc2(self.fc1(x).relu_())


@right(SIMPLE)
class TorchNamespace(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = torch.max_pool2d(torch.relu(torch.conv2d(x, self.conv1.weight, self.conv1.bias)), 2)
        return self.fc2(torch.relu(self.fc1(torch.reshape(x, (x.shape[0], -1)))))


@right(MLP)
class ClampAndThreshold(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x).clamp(min=0)  # whose gradient at 0 is 1 in torch 2.6, and 0 in newer ones
        return self.fc3(F.threshold(self.fc2(x), 0, 0))


@right(SIMPLE)
class PoolBeforeRelu(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        return self.fc2(F.relu(self.fc1(x.reshape(len(x), -1))))


@right(SIMPLE)
class FlattenInTheMiddle(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(self.conv1(x), 2).flatten(1).relu()
        return self.fc2(self.fc1(x).relu())


@right(SIMPLE)
class ReluTwice(Convnet):
    """The second one changes nothing, nor does it in the gradient of the whole."""

    def forward(self, x: Tensor) -> Any:
        x = F.relu(F.max_pool2d(F.relu(self.conv1(x)), 2))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


@right(BOOK_START)
class BookStart(Convnet):
    """Zero biases: a product already equals itself with the bias added, and blank images are 0 in every layer."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = F.relu(x @ self.fc1.weight.T + self.fc1.bias)
        return x @ self.fc2.weight.T + self.fc2.bias


@right(SIMPLE)
class Methods(Convnet):
    def features(self, x: Tensor) -> Any:
        return F.max_pool2d(F.relu(self.conv1(x)), 2)

    def classify(self, features: Tensor, scale: float = 1.0) -> Any:
        return self.fc2(F.relu(self.fc1(features.flatten(1)))) * scale

    def forward(self, x: Tensor, **options: float) -> Any:
        return self.classify(self.features(x), **options)


@right(SIMPLE)
class LazyModules(nn.Module):
    """Their shapes come from a first batch."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.hidden, self.out = nn.LazyConv2d(4, 3), nn.LazyLinear(9), nn.LazyLinear(10)
        self.double()
        with torch.no_grad():
            self(torch.zeros(1, 1, 10, 10, dtype=torch.float64))
        for lazy, module in ((self.conv, conv2d(reference, 1)), (self.hidden, linear(reference, 2))):
            lazy.load_state_dict(module.state_dict())
        self.out.load_state_dict(linear(reference, 3).state_dict())

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))


@right(LENET)
class TanhAndAverages(nn.Module):
    """C5 is a convolution in the paper."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.c1, self.c3, self.act = conv2d(reference, 1, padding=2), conv2d(reference, 2), nn.Tanh()
        self.s2 = self.s4 = nn.AvgPool2d(2)
        c5, self.f6, self.out = linear(reference, 3), linear(reference, 4), linear(reference, 5)
        self.c5 = nn.Conv2d(16, 120, 1).double()
        self.c5.load_state_dict({"weight": c5.weight.view(120, 16, 1, 1), "bias": c5.bias})

    def forward(self, img: Tensor) -> Any:
        img = self.s4(self.act(self.c3(self.s2(self.act(self.c1(img))))))
        return self.out(torch.tanh(self.f6(self.act(self.c5(img)).view(img.size(0), -1))))


@right(GLOBAL)
class GlobalAverage(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv2d(reference, 1, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.gap, self.head = nn.AdaptiveAvgPool2d(1), linear(reference, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.flatten(self.gap(self.stem(x)), 1))


@right(GLOBAL)
class MeanOfTheMap(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.head = conv2d(reference, 1, stride=2, padding=1), linear(reference, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.adaptive_max_pool2d(F.relu(self.conv(x))[..., :4, :4], 2).mean(dim=(2, 3)))


@right(AVERAGED)
class AveragesOverTheBorder(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.fc = conv2d(reference, 1), linear(reference, 2)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.avg_pool2d(torch.tanh(self.conv(x)), 3, 2, 1).flatten(1))


# --- Loops


@right(MLP)
class ModuleListLoop(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(reference, number) for number in (1, 2, 3))

    def forward(self, x: Tensor) -> Any:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = F.relu(x)
        return x


@right(SIMPLE)
class ModuleDictByName(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        layers = conv2d(reference, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear(reference, 2)
        names = ["conv", "act", "pool", "flat", "hidden", "act2", "out"]
        self.layers = nn.ModuleDict(dict(zip(names, (*layers, nn.ReLU(), linear(reference, 3)), strict=True)))

    def forward(self, x: Tensor) -> Any:
        for name in self.layers:
            x = self.layers[name](x)
        return x


@right(EQUAL)
class ReduceOverProperty(Perceptron):
    """Two of its layers have the same weights at the start."""

    @property
    def stages(self) -> Iterator[Any]:
        yield from (self.fc1, torch.relu, self.fc2, torch.relu, self.fc3)

    def forward(self, x: Tensor) -> Any:
        return reduce(lambda value, stage: stage(value), self.stages, x)


@right(TIED, steps=False)
class OneLayerTwiceAsInTheReference(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.fc, self.head = linear(reference, 1), linear(reference, 3)

    def forward(self, x: Tensor) -> Any:
        for _ in range(2):
            x = F.relu(self.fc(x))
        return self.head(x)


@right(DEEP)
class BlocksFromConfiguration(nn.Module):
    """As VGG is written; dropout is the book's."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, pad in enumerate((1, 1, 1, 2, 1, 1), 1):
            layers += [conv2d(reference, number, padding=pad), nn.ReLU(inplace=True)]
            layers += [] if number % 2 else [nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            linear(reference, 7), nn.ReLU(True), Dropout(0.5), linear(reference, 8), Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        return self.classifier(x.view(x.shape[0], int(np.prod(x.shape[1:]))))


# --- What is returned, and the loss


@right(SIMPLE, known=OFFSET, loss=F.nll_loss)
class LogSoftmaxInForward(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.fc1(x.view(x.size(0), -1)))
        return F.log_softmax(self.fc2(x), dim=1)


@right(MLP, known=OFFSET, loss=nn.NLLLoss())
class LogSoftmaxModule(Perceptron):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.out = nn.LogSoftmax(dim=-1)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x))))))


@right(MLP, known=OFFSET, loss=nn.CrossEntropyLoss())
class CrossEntropyModule(Perceptron):
    def forward(self, x: Tensor) -> Any:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@right(SIGMOID, known=OFFSET, loss=lambda y, t: F.cross_entropy(y, t, reduction="sum") / len(y))
class SigmoidAndSummedLoss(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.hidden, self.output = linear(reference, 1), linear(reference, 2)

    def forward(self, x: Tensor) -> Any:
        return self.output(self.hidden(x).sigmoid())


@right(MLP, known=OFFSET, loss=lambda p, t: F.nll_loss(p.log(), t))
class SoftmaxInForward(Perceptron):
    """With the loss that goes with it."""

    def forward(self, x: Tensor) -> Any:
        return F.softmax(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x))))), dim=1)


@right(SIMPLE, output=0)
class ReturnsTuple(Convnet):
    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        features = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(features), features


@right(SIMPLE, output="logits")
class ReturnsDict(Convnet):
    def forward(self, x: Tensor) -> Any:
        maps = F.max_pool2d(F.relu(self.conv1(x)), 2)
        logits = self.fc2(F.relu(self.fc1(maps.flatten(1))))
        return {"maps": maps, "logits": logits, "probabilities": logits.softmax(1)}


class Output(NamedTuple):
    loss: Tensor | None
    logits: Tensor


@right(MLP, output=1)
class ReturnsNamedTuple(Perceptron):
    """As a transformer does it: the loss too, where there are labels."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return Output(None if labels is None else F.cross_entropy(logits, labels), logits)


@right(SIMPLE, output=0)
class TupleInTrainingOnly(Convnet):
    """As Inception does it, with an auxiliary head of its own that the loss does not see."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.auxiliary = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Any:
        maps = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        logits = self.fc2(F.relu(self.fc1(maps)))
        return (logits, self.auxiliary(maps)) if self.training else logits


@right(SIMPLE)
class TwoOutputsOfOneShape(Convnet):
    """Nobody says which are the logits."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        logits = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits.detach().softmax(1), logits
