"""Layouts that follow from the use of a weight, beyond test_catalogue's ports, and the messages for misfits."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import numpy_ref as nr
from torchport import UnfoldConv2d, load_params
from torchport.parity.cases import seeded_batch, seeded_params

X = seeded_batch(1, 4, (1, 10, 10))[0]


def square_network() -> nr.SimpleConvNet:
    """A network whose last weight, 10 x 10, fits in two ways."""
    sizes = ((1, 10, 10), {"filter_num": 5, "filter_size": 3, "pad": 0, "stride": 1}, 10, 10)
    return nr.SimpleConvNet(*sizes, params=seeded_params(0, nr.SimpleConvNet(*sizes).params))


class Modules(nn.Module):
    """A typical module, defined in another order than it is used; layers and names can be replaced."""

    conv: nn.Module
    hidden: nn.Module
    out: nn.Linear
    more: nn.Linear

    def __init__(self, last: Callable[[Modules, Tensor], Tensor] | None = None, **others: nn.Module) -> None:
        super().__init__()
        modules = {"out": nn.Linear(10, 10), "hidden": nn.Linear(80, 10), "conv": nn.Conv2d(1, 5, 3), **others}
        for name, module in modules.items():
            setattr(self, name, module)
        self.last = last or (lambda port, x: port.out(x))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x))[:, :, :8, :8], 2)
        return self.last(self, F.relu(self.hidden(x.flatten(1))))


class ByHand(nn.Module):
    """Zero weights, which look the same in every layout; one product from the left, one with its addend first."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(5, 9), (1, 5, 1), (10, 80), (10, 1), (10, 10), (1, 10)]
        self.held = nn.ParameterList([torch.zeros(shape) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.held
        maps = (w1 @ F.unfold(x, 3) + b1).unflatten(-1, (8, 8))
        x = (w2 @ F.max_pool2d(maps.relu(), 2).flatten(1).T + b2).relu().T
        return torch.addmm(b3, x, w3)


class LastFromTheLeft(ByHand):
    def forward(self, x: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.held
        maps = F.conv2d(x, w1.view(5, 1, 3, 3), b1.flatten())
        x = F.max_pool2d(maps.relu(), 2).flatten(1)
        y: Tensor = (w3 @ (x @ w2.T + b2.T).relu().T).T + b3
        return y


STYLES: dict[str, Callable[[], nn.Module]] = {
    "by hand": ByHand,
    "last from the left": LastFromTheLeft,
    "turned": lambda: Modules(lambda port, x: x @ port.out.weight.t() + port.out.bias, conv=UnfoldConv2d(1, 5, 3)),
    "spare": lambda: Modules(spare=nn.Linear(3, 3)),
}


@pytest.mark.parametrize("style", STYLES)
def test_the_use_of_a_weight_tells_its_layout(style: str) -> None:
    port, reference = STYLES[style]().double(), square_network()
    loaded = load_params(port, reference, X)
    assert list(loaded.filled) == list(reference.params)
    assert port.training
    assert loaded
    assert loaded.unused == (("spare.bias", "spare.weight") if style == "spare" else ())


class Exponential(nn.Module):
    """A parametrization with positive weights only."""

    def forward(self, logarithm: Tensor) -> Tensor:
        return logarithm.exp()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.log()


def positive() -> nn.Module:
    linear = nn.Linear(10, 10)
    linear.weight.data.abs_()
    return parametrize.register_parametrization(linear, "weight", Exponential())


COMPUTED = "cannot hold the reference's W3 (10, 10), since something is computed of it"
MISFITS: dict[str, Callable[[], nn.Module]] = {
    "the port's out.weight (9, 10) (linear at LINE) cannot hold the reference's W3 (10, 10)": lambda: Modules(
        out=nn.Linear(10, 9)
    ),
    "conv.weight (5, 1, 1, 9) (conv2d at LINE) cannot hold the reference's W1 (5, 1, 3, 3)": lambda: Modules(
        conv=nn.Conv2d(1, 5, (1, 9), padding=(0, 4))
    ),
    "hidden.weight (10, 80) (linear at LINE) cannot hold the reference's b1 (5,)": lambda: Modules(
        conv=nn.Conv2d(1, 5, 3, bias=False)
    ),
    "the reference has nothing for the port's more.weight (10, 10)": lambda: Modules(
        lambda port, x: port.more(port.out(x)), more=nn.Linear(10, 10)
    ),
    "the port is seen to use no further parameter, which the reference's W3 (10, 10) needs": lambda: Modules(
        lambda port, x: x
    ),
    "no parameter (scripted code cannot be seen), which the reference's W1 (5, 1, 3, 3)": lambda: torch.jit.script(
        nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
    ),
    f"linear at LINE) {COMPUTED}": lambda: Modules(  # equalised learning rate
        lambda port, x: F.linear(x, 0.5 * port.out.weight, port.out.bias)
    ),
    COMPUTED: lambda: Modules(out=parametrizations.orthogonal(nn.Linear(10, 10))),
    "cannot be set to the reference's W3: its parametrization makes something else of it": lambda: Modules(
        out=positive()
    ),
    "the port raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x80 and 81x10), at LINE": lambda: (
        Modules(hidden=nn.Linear(81, 10))
    ),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("says", MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_changed(says: str) -> None:
    port = MISFITS[says]()
    before = {name: value.clone() for name, value in port.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(says).replace("LINE", r"test_loading\.py:\d+")):
        load_params(port, square_network(), X)
    assert all(torch.equal(before[name], value) for name, value in port.state_dict().items())
