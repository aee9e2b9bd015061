"""The reference's weights into ports of many styles: in the order and layout that their use tells, or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import numpy_ref as nr
from torchport import BatchNormalization, UnfoldConv2d, load_params
from torchport.parity import check_parity
from torchport.parity.cases import seeded_batch, seeded_params

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")  # what users still write

SIZES = {"filter_num": 5, "filter_size": 3, "pad": 0, "stride": 1}


def square_network() -> nr.SimpleConvNet:
    """Whose last weight, 10 x 10, fits in two ways."""
    like = nr.SimpleConvNet((1, 10, 10), SIZES, 10, 10).params
    return nr.SimpleConvNet((1, 10, 10), SIZES, 10, 10, params=seeded_params(0, like))


class Modules(nn.Module):
    """What most people write; not in the order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(10, 10)
        self.hidden = nn.Linear(80, 10)
        self.conv = nn.Conv2d(1, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.hidden(self.features(x).flatten(1))))

    def features(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv(x)), 2)

    def last(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(x)
        return found


class Zeros(Modules):
    """By hand, of zeros, which look the same in every layout."""

    w1: nn.Parameter
    b1: nn.Parameter
    w2: nn.Parameter
    b2: nn.Parameter
    w3: nn.Parameter
    b3: nn.Parameter

    def __init__(self) -> None:
        nn.Module.__init__(self)
        shapes = {"w1": (5, 9), "b1": (1, 5, 1), "w2": (80, 10), "b2": (10,), "w3": (10, 10), "b3": (1, 10)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x: Tensor) -> Tensor:
        maps = (self.w1 @ F.unfold(x, 3) + self.b1).unflatten(-1, (8, 8))
        x = F.max_pool2d(maps.relu(), 2).flatten(1)
        return self.last((x @ self.w2 + self.b2).relu())

    def last(self, x: Tensor) -> Tensor:
        return x @ self.w3 + self.b3


class ZerosAddmm(Zeros):
    def last(self, x: Tensor) -> Tensor:
        return torch.addmm(self.b3, x, self.w3)


class ZerosFromTheLeft(Zeros):
    def last(self, x: Tensor) -> Tensor:
        return (self.w3 @ x.T).T + self.b3


class Turned(Modules):
    def last(self, x: Tensor) -> Tensor:
        return x @ self.out.weight.t() + self.out.bias


class TurnedTwice(Modules):
    """The weight is used as (inputs, outputs), which nn.Linear's would not be."""

    def last(self, x: Tensor) -> Tensor:
        return F.linear(x, self.out.weight.T, self.out.bias)


class WholeMap(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv2d(5, 10, 4), nn.Conv2d(10, 10, 1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.hidden(self.features(x)))).flatten(1)


class Unfolding(Modules):
    """A batch of products, with its bias as an addend before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = UnfoldConv2d(1, 5, 3)


class Normed(Modules):
    """Whose weights are computed; a parametrization knows the way back."""

    def __init__(self) -> None:
        super().__init__()
        for module in (self.conv, self.out):
            parametrizations.weight_norm(module)


class Einsum(Modules):
    """Where a weight is not square its shape tells."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("ni,oi->no", self.features(x).flatten(1), self.hidden.weight) + self.hidden.bias
        return self.last(x.relu())


class SquareEinsum(Modules):
    """Where it is, drawn weights tell."""

    def last(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,oi->no", x, self.out.weight) + self.out.bias


class Spare(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


STYLES = [
    *(Modules, Zeros, ZerosAddmm, ZerosFromTheLeft, Turned, TurnedTwice, WholeMap, Unfolding, Normed, Einsum),
    *(SquareEinsum, Spare),
]


@pytest.mark.parametrize("style", STYLES)
def test_the_use_of_a_weight_tells_its_layout(style: Callable[[], nn.Module]) -> None:
    reference, (x, t) = square_network(), seeded_batch(1, 4, (1, 10, 10))
    port = style().double()
    loaded = load_params(port, reference, x)
    assert list(loaded.filled) == list(reference.params)
    assert port.training
    assert loaded.report
    assert check_parity(reference, port, x, t, runs=("training", "prediction"))
    assert loaded.unused == (("spare.bias", "spare.weight") if style is Spare else ())


class Smaller(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(10, 9)


class OtherFilters(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, (1, 9), padding=(0, 4))

    def features(self, x: Tensor) -> Tensor:
        return super().features(x)[:, :, :4, :4]


class Unbiased(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, bias=False)


class Longer(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.more(super().forward(x))
        return found


class Shorter(Modules):
    def last(self, x: Tensor) -> Tensor:
        return x


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU()))


class Scaled(Modules):
    """An equalised rate of learning."""

    def last(self, x: Tensor) -> Tensor:
        return F.linear(x, 0.5 * self.out.weight, self.out.bias)


class Orthogonal(Modules):
    """Which holds no weights but orthogonal ones."""

    def __init__(self) -> None:
        super().__init__()
        parametrizations.orthogonal(self.out)


class Exponential(nn.Module):
    def forward(self, logarithm: Tensor) -> Tensor:
        return logarithm.exp()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.log()


class Positive(Modules):
    """Which holds no weights but positive ones."""

    def __init__(self) -> None:
        super().__init__()
        self.out.weight.data.abs_()
        parametrize.register_parametrization(self.out, "weight", Exponential())


class Raising(Modules):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(81, 10)


MISFITS = [
    (Smaller, "the port's out.weight (9, 10) (linear at LINE) cannot hold the reference's W3 (10, 10)"),
    (
        OtherFilters,
        "conv.weight (5, 1, 1, 9) (conv2d at LINE) cannot hold the reference's W1 (5, 1, 3, 3)",
    ),
    (Unbiased, "hidden.weight (10, 80) (linear at LINE) cannot hold the reference's b1 (5,)"),
    (Longer, "the reference has nothing for the port's more.weight (10, 10)"),
    (Shorter, "the port is seen to use no further parameter, which the reference's W3 (10, 10) needs"),
    (scripted, "no parameter (nothing is seen of what is scripted), which the reference's W1 (5, 1, 3, 3) needs"),
    (Scaled, "cannot hold the reference's W3 (10, 10), since something is computed of it"),
    (Orthogonal, "cannot hold the reference's W3 (10, 10), since something is computed of it"),
    (Positive, "cannot be set to the reference's W3: its parametrization makes something else of it"),
    (
        Raising,
        "the port raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x80 and 81x10), at LINE",
    ),
]


@pytest.mark.parametrize(("style", "says"), MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_changed(style: Callable[[], nn.Module], says: str) -> None:
    port = style()
    before = {name: value.clone() for name, value in port.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(says).replace("LINE", r"test_loading\.py:\d+")):
        load_params(port, square_network(), seeded_batch(1, 4, (1, 10, 10))[0])
    assert all(torch.equal(before[name], value) for name, value in port.state_dict().items())


class Normalising(nn.Module):
    def __init__(self, kind: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.last, self.norms = nn.Linear(8, 8), nn.ModuleList([kind(8), kind(8)])
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[1](self.first(x)).relu()
        found: Tensor = self.last(self.norms[0](self.second(x)).relu())
        return found


class ByHand(nn.Module):
    """Whose variance meets data first, and whose beta comes before the product."""

    my_running_mean: Tensor
    my_running_var: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift, self.gain = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.ones(size))
        self.register_buffer("my_running_mean", torch.zeros(size))
        self.register_buffer("my_running_var", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:  # without the running ones
            return F.batch_norm(x, None, None, self.gain, self.shift, training=True, eps=1e-6)
        scale = torch.rsqrt(self.my_running_var + 1e-6)
        return torch.addcmul(self.shift, x * scale - self.my_running_mean * scale, self.gain)


def normalised_network(rng: np.random.Generator) -> nr.MultiLayerNetExtend:
    network = nr.MultiLayerNetExtend(12, [8, 8], 8, use_batchnorm=True)
    for value in network.params.values():
        value[...] = rng.standard_normal(value.shape)
    for layer in network.layers.values():
        if isinstance(layer, nr.BatchNormalization):
            layer.running_mean, layer.running_var = rng.standard_normal(8), rng.random(8) + 0.5
    return network


@pytest.mark.parametrize("kind", [BatchNormalization, lambda size: nn.BatchNorm1d(size, eps=1e-6), ByHand])
def test_running_statistics_go_along(kind: Callable[[int], nn.Module], rng: np.random.Generator) -> None:
    reference, x = normalised_network(rng), rng.standard_normal((6, 12))
    port = Normalising(kind).double()
    statistics = list(load_params(port, reference, x).filled)[10:]
    assert statistics == ["running_mean1", "running_var1", "running_mean2", "running_var2"]
    with torch.no_grad():
        np.testing.assert_allclose(port.eval()(torch.tensor(x)), reference.predict(x), rtol=1e-9)


def test_wrapped_ports_are_filled_inside() -> None:
    reference, x = square_network(), seeded_batch(1, 4, (1, 10, 10))[0]
    port = Modules()
    assert load_params(nn.DataParallel(port), reference, x).lines[0] == "W1: conv.weight"
    np.testing.assert_array_equal(port.conv.weight.detach(), reference.params["W1"].astype(np.float32))
