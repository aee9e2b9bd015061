"""Wrong ports that one run on drawn samples does not show: other sizes, prediction, what stays, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from parity.user_ports import (
    AGAIN,
    ARGUMENT,
    DROPPED,
    EARLIER_OUTPUT,
    EXTREMES,
    INTEGERS,
    LENET,
    MLP,
    MORE_SAMPLES,
    NORMALISED,
    ONE_SAMPLE,
    PREDICTION,
    RANDOM_STATE,
    SIGMOID,
    SIMPLE,
    SQUARE,
    STATE,
    Convnet,
    NormalisedPerceptron,
    Perceptron,
    in_loss,
    step,
    wrong,
)
from torchport import Dropout

# --- Prediction

step(SIMPLE, "output", "output", "SoftmaxInPrediction", lambda m, x: x if m.training else x.softmax(1), sign=PREDICTION)
step(SIMPLE, "output", "output", "ClassesInPrediction", lambda m, x: x if m.training else x.argmax(1), sign=PREDICTION)
step(
    SIMPLE,
    "relu2",
    "output",
    "LeakyInPrediction",
    lambda m, x: F.relu(x) if m.training else F.leaky_relu(x),
    sign=PREDICTION,
)
step(
    SIMPLE,
    "pool1",
    "output",
    "AverageInPrediction",
    lambda m, x: m(x) if m.training else F.avg_pool2d(x, 2),
    sign=PREDICTION,
)
step(
    MLP,
    "affine2",
    "",
    "RoundedInPrediction",
    lambda m, x: m(x) if m.training else F.linear(x, m.weight.bfloat16().to(x), m.bias),
    sign=PREDICTION,
)


@wrong(NORMALISED, "batchnorm1", "", sign=STATE)
class AdaptsInPrediction(NormalisedPerceptron):
    """Its running statistics move with what it is asked."""

    def forward(self, x: Tensor) -> Any:
        x = self.fc1(x)
        y = self.bn1(x)  # wrong
        if not self.training:
            self.bn1.running_mean.lerp_(x.mean(0), 0.1)  # wrong
        return self.fc3(F.relu(self.bn2(self.fc2(F.relu(y)))))


# --- Other numbers of samples


class Body(Convnet):
    """What is right."""

    def features(self, x: Tensor) -> Any:
        return F.max_pool2d(F.relu(self.conv1(x)), 2)

    def head(self, x: Tensor) -> Any:
        return self.fc2(F.relu(self.fc1(x)))


@wrong(SIMPLE, "", sign=ONE_SAMPLE)
class BatchOf8(Body):
    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        x = x.view(8, -1)  # wrong
        return self.head(x)


@wrong(SIMPLE, "", sign=ONE_SAMPLE)
class Squeezed(Convnet):
    """A head of convolutions, whose squeeze takes the axis of a lone sample along."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.head = nn.Conv2d(4, 9, 4).double()
        self.head.load_state_dict({"weight": self.fc1.weight.view(9, 4, 4, 4), "bias": self.fc1.bias})
        del self.fc1

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.head(F.max_pool2d(F.relu(self.conv1(x)), 2)))
        x = x.squeeze()  # wrong
        return self.fc2(x)  # wrong


@wrong(SIMPLE, "", sign=ONE_SAMPLE)
class OneSampleWithoutItsAxis(Body):
    def forward(self, x: Tensor) -> Any:
        x = self.head(self.features(x).flatten(1))
        return x[0] if len(x) == 1 else x  # wrong


@wrong(SIMPLE, "", sign=MORE_SAMPLES)
class RemainderDropped(Body):
    def forward(self, x: Tensor) -> Any:
        whole = len(x) // 4 * 4 or 1
        parts = [self.features(x[i : i + 4]) for i in range(0, whole, 4)]
        x = torch.cat(parts)  # wrong
        return self.head(x.flatten(1))


@wrong(SIMPLE, "", sign=MORE_SAMPLES)
class EightSamplesOnly(Body):
    def forward(self, x: Tensor) -> Any:
        y = x.new_zeros(len(x), 10)
        x = self.head(self.features(x).flatten(1))
        y[:8] = x[:8]  # wrong
        return y


@wrong(SIMPLE, "", sign=EXTREMES)
class AtMost64Samples(Body):
    def forward(self, x: Tensor) -> Any:
        x = x[:64]  # wrong
        return self.head(self.features(x).flatten(1))


@wrong(SIMPLE, "relu2", "output", sign=MORE_SAMPLES)
class MaskOfTheFirst8(Body):
    def forward(self, x: Tensor) -> Any:
        x = self.fc1(self.features(x).flatten(1))
        x = torch.cat([F.relu(x[:8]), x[8:]])  # wrong
        return self.fc2(x)


# --- What stays from call to call


@wrong(SIMPLE, "", sign=AGAIN)
class AnswerKept(Body):
    """For samples of a shape that came before."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.answers: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        if x.shape in self.answers:
            return self.answers[x.shape].detach() + 0 * self.fc2.bias  # wrong
        self.answers[x.shape] = self.head(self.features(x).flatten(1))
        return self.answers[x.shape]


@wrong(SIMPLE, "affine2 output", "output", sign=AGAIN)
class CallsCounted(Body):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        x = self.head(self.features(x).flatten(1))
        x = x * 0.999**self.calls  # wrong
        self.calls += 1
        return x


@wrong(SIMPLE, "", sign=AGAIN)
class StateOfTheLastBatch(Body):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        x = self.features(x).flatten(1)
        if self.state is not None:
            x = x + 0.1 * self.state  # wrong
        self.state = x.detach().mean(0)
        return self.head(x)


@wrong(SIMPLE, "affine2", "", sign=AGAIN)
class WeightsOfTheFirstCall(Body):
    """Transposed once, and no more after a step."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(self.features(x).flatten(1)))
        fresh = self.fc2.weight.t()
        weight = fresh if self.kept is None else self.kept  # wrong
        self.kept = fresh.detach()
        return x @ weight + self.fc2.bias  # wrong


@wrong(SIMPLE, "", sign=STATE)
class WeightsDecay(Body):
    """After they served, so the first output is right."""

    def forward(self, x: Tensor) -> Any:
        x = self.head(self.features(x).flatten(1))
        with torch.no_grad():
            self.fc2.bias.data.mul_(0.999)  # wrong
        return x


@wrong(SIMPLE, "", sign=EARLIER_OUTPUT)
class OneBufferForAllOutputs(Body):
    out: Tensor

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.register_buffer("out", torch.zeros(256, 10), persistent=False)

    def forward(self, x: Tensor) -> Any:
        y = self.head(self.features(x).flatten(1))
        if torch.is_grad_enabled():
            return y
        self.out[: len(x)] = y  # wrong
        return self.out[: len(x)]  # wrong


@wrong(SIMPLE, "", sign=ARGUMENT)
class CentresTheCallersSamples(Body):
    def forward(self, x: Tensor) -> Any:
        y = self.head(self.features(x.clone()).flatten(1))
        x.sub_(x.mean())  # wrong
        return y


@wrong(MLP, "", sign=ARGUMENT)
class ScalesInPlace(Perceptron):
    def forward(self, x: Tensor) -> Any:
        x.mul_(2)  # wrong
        x = self.fc1(x / 2)  # wrong
        return self.fc3(F.relu(self.fc2(F.relu(x))))


@wrong(DROPPED, "dropout1", "output")
class LeavesTrainingMode(Perceptron):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.drop = Dropout(0.3)

    def forward(self, x: Tensor) -> Any:
        self.eval()  # wrong
        x = self.drop(F.relu(self.fc1(x)))  # wrong
        return self.fc3(self.drop(F.relu(self.fc2(x))))


# --- Random numbers


@wrong(SIMPLE, "", sign=RANDOM_STATE)
class DrawsForNothing(Body):
    def forward(self, x: Tensor) -> Any:
        keep = torch.rand(len(x)) < 2  # wrong
        return self.head(self.features(x[keep]).flatten(1))


@wrong(SIMPLE, "", sign=RANDOM_STATE)
class DrawsAWholeRound(Body):
    """After 312 numbers NumPy's generator is at the same place as before."""

    def forward(self, x: Tensor) -> Any:
        x = x * np.ceil(np.random.rand(312).max())  # wrong
        return self.head(self.features(x).flatten(1))


@wrong(SIMPLE, "", sign=RANDOM_STATE)
class DrawsFromNumpy(Body):
    def forward(self, x: Tensor) -> Any:
        x = x * np.random.uniform(1, 1)  # wrong
        return self.head(self.features(x).flatten(1))


@wrong(SIMPLE, "", sign=RANDOM_STATE)
class SeedsAnew(Body):
    def forward(self, x: Tensor) -> Any:
        torch.manual_seed(0)
        x = F.relu(self.conv1(x))  # wrong
        return self.head(F.max_pool2d(x, 2).flatten(1))


@wrong(DROPPED, "dropout1 dropout2", "", sign=AGAIN)
class MaskKept(Perceptron):
    """The same units are dropped for good."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.masks: dict[Any, Tensor] = {}

    def drop(self, x: Tensor) -> Any:
        if not self.training:
            return x * 0.7
        if x.shape not in self.masks:
            self.masks[x.shape] = torch.rand_like(x) > 0.3
        return x * self.masks[x.shape]  # wrong

    def forward(self, x: Tensor) -> Any:
        x = self.drop(F.relu(self.fc1(x)))
        return self.fc3(self.drop(F.relu(self.fc2(x))))


# --- Large and small numbers, and memory

step(SIMPLE, "input", "output", "ClampedTo50", lambda m, x: x.clamp(-50, 50), sign=INTEGERS, cause="clamp")
step(
    SIMPLE,
    "input",
    "output",
    "ScaledWhereAbove10",
    lambda m, x: x / 255 if x.max() > 10 else x,
    sign=INTEGERS,
    cause="255",
)
step(SIMPLE, "relu1", "output", "ReluUpTo100", lambda m, x: x.relu().clamp(max=100), sign=INTEGERS, cause="clamp")
step(SIMPLE, "relu1", "output", "ReluFrom1e6", lambda m, x: F.threshold(x, 1e-6, 0), sign=INTEGERS)
step(
    SIMPLE,
    "output",
    "output",
    "SoftCapAt1e4",
    lambda m, x: 1e4 * torch.tanh(x / 1e4) if x.abs().max() > 1e3 else x,
    sign=INTEGERS,
)
step(MLP, "activation_function1", "grad", "NanBelow0", lambda m, x: torch.where(x > 0, x + 0 * x.sqrt(), 0))
step(MLP, "activation_function1", "output", "NanAt0", lambda m, x: F.relu(x) * (x / x).detach(), sign=INTEGERS)
step(
    LENET,
    "tanh1",
    "output",
    "TanhOverflows",
    lambda m, x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    sign=EXTREMES,
)
step(LENET, "tanh1", "output", "TanhClipped", lambda m, x: torch.tanh(x.clamp(-7, 7)), "conv1 tanh1", sign=EXTREMES)
step(SIGMOID, "sigmoid1", "output", "SigmoidOverflows", lambda m, x: x.exp() / (1 + x.exp()), sign=EXTREMES)
step(
    SIGMOID,
    "sigmoid1",
    "output",
    "SigmoidClipped",
    lambda m, x: torch.sigmoid(x.clamp(-9, 9)),
    "affine1 sigmoid1",
    sign=EXTREMES,
)


@wrong(SQUARE, "input", "output", sign=EXTREMES)
class ReadsTheStorage(Convnet):
    """As if it lay in the order of its axes."""

    def forward(self, x: Tensor) -> Any:
        x = x.as_strided(x.shape, (128, 64, 8, 1))  # wrong
        y = self.conv1(x)  # wrong
        return self.fc2(F.relu(self.fc1(F.max_pool2d(F.relu(y), 2).flatten(1))))


# --- Losses

in_loss("SummedLoss", "output", lambda y, t: F.cross_entropy(y, t, reduction="sum"), cause="a sum in place of")
in_loss("BatchOf32", "output", lambda y, t: F.cross_entropy(y, t, reduction="sum") / 32)
in_loss("LossOf8", "output", lambda y, t: F.cross_entropy(y, t, reduction="sum") / 8)
in_loss("Class9Ignored", "output", lambda y, t: F.cross_entropy(y, t, ignore_index=9))
in_loss("MeanOverClasses", "output", lambda y, t: F.cross_entropy(y, t) / y.shape[1])
in_loss(
    "BooksLossDifferentiated",
    "grad_input",
    lambda y, t: F.nll_loss(torch.log(y.softmax(1) + 1e-7), t),
    cause="the 1e-7 inside the log is differentiated too",
)
in_loss("LabelSmoothing", "output", lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1), cause="smoothing by 0.1")
in_loss("ClassWeights", "output", lambda y, t: F.cross_entropy(y, t, torch.linspace(1, 2, 10).to(y)))
in_loss("Class0Ignored", "output", lambda y, t: F.cross_entropy(y, t, ignore_index=0))
in_loss("LabelsMoved", "output", lambda y, t: F.cross_entropy(y, (t + 1) % 10))
in_loss("HalfTheBatch", "output", lambda y, t: F.cross_entropy(y[::2], t[::2]))
in_loss("SoftmaxTwice", "output", lambda y, t: F.cross_entropy(y.softmax(1), t))
in_loss("NoLogSoftmax", "output", lambda y, t: F.nll_loss(y, t), layer="output")
in_loss(
    "FocalLoss",
    "output",
    lambda y, t: ((1 - y.softmax(1).gather(1, t[:, None])) * -F.log_softmax(y, 1).gather(1, t[:, None])).mean(),
)
in_loss("SquaredError", "output", lambda y, t: F.mse_loss(y.softmax(1), F.one_hot(t, 10).to(y)))
in_loss("BinaryCrossEntropy", "output", lambda y, t: F.binary_cross_entropy_with_logits(y, F.one_hot(t, 10).to(y)))
in_loss("MarginLoss", "output", F.multi_margin_loss)
in_loss("PenaltyOfLogits", "output", lambda y, t: F.cross_entropy(y, t) + 1e-4 * y.logsumexp(1).square().mean())
in_loss("OffsetOf1e8", "", lambda y, t: -(y.softmax(1).gather(1, t[:, None]) + 1e-8).log().mean())
in_loss("ProbabilityClamped", "output", lambda y, t: -y.softmax(1).clamp(1e-4, 1).gather(1, t[:, None]).log().mean())
in_loss("Overflows", "output", lambda y, t: (y.exp().sum(1).log() - y.gather(1, t[:, None])[:, 0]).mean())
in_loss("OffsetInTheGradient", "grad_input", lambda y, t: -(y.softmax(1).gather(1, t[:, None]) + 1e-7).log().mean())
in_loss("GradientTwice", "grad_input", lambda y, t: (v := F.cross_entropy(y, t)) + (v - v.detach()), cause="2")
in_loss("GradientOfTheSum", "grad_input", lambda y, t: (v := F.cross_entropy(y, t)) + 7 * (v - v.detach()))
