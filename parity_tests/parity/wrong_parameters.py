"""Wrong ports with right outputs whose parameters are not the reference's: more of them, shared ones, none at all."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from parity.user_ports import EQUAL, EXTRA_PARAMETER, MLP, SIMPLE, Convnet, Perceptron, linear, tensors, wrong

# --- More of them


@wrong(MLP, "", seen=EXTRA_PARAMETER)
class AdapterAtTheStart(Perceptron):
    """LoRA: one factor is 0, and has a gradient."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.a, self.b = nn.Parameter(torch.randn(2, 9)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        x = self.fc2(x) + x @ self.a.T @ self.b.T  # wrong
        return self.fc3(F.relu(x))


@wrong(MLP, "", seen=EXTRA_PARAMETER)
class SlopeOf0(Perceptron):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.act = nn.PReLU(init=0.0)

    def forward(self, x: Tensor) -> Any:
        x = self.act(self.fc1(x))  # wrong
        return self.fc3(F.relu(self.fc2(x)))


@wrong(SIMPLE, "", seen=EXTRA_PARAMETER)
class GainOf1(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = x * self.gain  # wrong
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@wrong(SIMPLE, "", seen=EXTRA_PARAMETER)
class PositionsOf0(Convnet):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.positions = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2).flatten(1)
        x = x + self.positions  # wrong
        return self.fc2(F.relu(self.fc1(x)))


@wrong(MLP, "", seen=EXTRA_PARAMETER)
class GateOf0(Perceptron):
    """A skip connection that is closed at the start."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.fc1(x))
        h = F.relu(self.fc2(h)) + self.gate * h[:, :8]  # wrong
        return self.fc3(h)


@wrong(MLP, "", seen=EXTRA_PARAMETER)
class TemperatureOf1(Perceptron):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        x = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return x * self.log_scale.exp()  # wrong


# --- Others


@wrong(MLP, "affine2", "grad_weight")
class WeightInABuffer(Perceptron):
    weight: Tensor

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        self.register_buffer("weight", tensors(reference)["W2"])
        self.bias = self.fc2.bias
        del self.fc2

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        x = x @ self.weight + self.bias  # wrong
        return self.fc3(F.relu(x))


@wrong(EQUAL, "affine2 affine3", "grad")
class OneLayerTwice(Perceptron):
    """The reference has two, which only start alike."""

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))  # wrong
        return self.fc2(x)  # wrong


@wrong(MLP, "affine1", "", only64="its layers stay float64")
class LayersInAList(nn.Module):
    """Which torch does not look into: no optimizer gets them."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.layers = [linear(reference, number) for number in (1, 2)]
        self.head = linear(reference, 3)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = F.relu(layer(x))  # wrong
        return self.head(x)


@wrong(SIMPLE, "conv1", "")
class ScaleMoved(Convnet):
    """From one layer to another: the same function, trained otherwise."""

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        with torch.no_grad():
            for parameter in self.conv1.parameters():
                parameter.mul_(2)
            self.fc1.weight.mul_(0.5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv1(x))  # wrong
        x = F.max_pool2d(x, 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class ComputedWeight(Perceptron):
    """Whose second weight is computed of itself, with the right value."""

    def weight(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.fc1(x))
        x = F.linear(x, self.weight(), self.fc2.bias)  # wrong
        return self.fc3(F.relu(x))


@wrong(MLP, "affine2", "grad_weight", marked=ComputedWeight)
class HalfOfTheWeightDetached(ComputedWeight):
    def weight(self) -> Tensor:
        return 0.5 * self.fc2.weight + 0.5 * self.fc2.weight.detach()


@wrong(MLP, "affine2", "grad_weight", marked=ComputedWeight)
class SomeRowsDetached(ComputedWeight):
    def weight(self) -> Tensor:
        return torch.cat([self.fc2.weight[:4], self.fc2.weight[4:].detach()])


@wrong(MLP, "affine2", "grad_weight", marked=ComputedWeight)
class WeightOnlyInValue(ComputedWeight):
    def weight(self) -> Tensor:
        return self.fc2.weight.detach() + 0 * self.fc2.weight
