"""What load_params proves, from any source: it loads weights only, and never into the wrong place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity.right_ports_wrapped import Plain
from parity.user_ports import DROPPED, EQUAL, MLP, NORMALISED, SIMPLE, SQUARE, Convnet, Perceptron, Reference
from torch import Tensor, nn

import numpy_ref as nr
from torchport import from_reference, load_params, params_from, recognise
from torchport.loading import LoadError

Style = Callable[[nr.Network], nn.Module]


class Mlp(Perceptron):
    def __init__(self, reference: nr.Network, act: Callable[[Tensor], Tensor] = F.relu, *behind: nn.Module) -> None:
        super().__init__(reference)
        self.act, self.behind = act, nn.Sequential(*behind)

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.fc3(self.act(self.fc2(self.act(self.fc1(x))))))


def anew(module: nn.Module) -> Any:
    """Fill a port with weights other than the reference's."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return module


# --- Differences that are not weights


class Normalised(Mlp):
    def __init__(self, reference: nr.Network, **options: float) -> None:
        super().__init__(reference)
        self.bn2, self.bn1 = (nn.BatchNorm1d(size, **options).double() for size in (8, 9))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Any:
        return self.fc3(self.act(self.bn2(self.fc2(self.act(self.bn1(self.fc1(x)))))))


class Gelus(Convnet):
    """Other activations may stand in place of ReLU; maps are flattened in the order H, W, C."""

    def __init__(self, reference: nr.Network, first: Any = F.relu, second: Any = F.relu) -> None:
        super().__init__(reference)
        self.acts = first, second

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(self.acts[0](self.conv1(x)), 2).permute(0, 2, 3, 1)
        return self.fc2(self.acts[1](self.fc1(x.flatten(1))))


OTHERWISE: dict[str, tuple[Reference, Style]] = {
    "gelu in place of activation_function1": (MLP, partial(Mlp, act=F.gelu)),
    "dropout1 is missing": (DROPPED, Mlp),
    "1 / (1 - r)": (DROPPED, lambda reference: Mlp(reference, nn.Sequential(nn.ReLU(), nn.Dropout(0.3)))),
    "log_softmax follows output": (MLP, lambda reference: Mlp(reference, F.relu, nn.LogSoftmax(1))),
    "no gradient arrives": (MLP, partial(Mlp, act=lambda x: F.relu(x).detach())),
    "eps 1e-05": (NORMALISED, Normalised),
    "batchnorm1 running_mean": (NORMALISED, partial(Normalised, eps=1e-6, momentum=0.5)),
    "gelu in place of relu1": (SIMPLE, partial(Gelus, first=F.gelu)),
}


@pytest.mark.parametrize("says", OTHERWISE)
def test_a_port_that_is_another_is_filled_and_the_report_says_so(says: str) -> None:
    case, style = OTHERWISE[says]
    reference, port = case(), anew(style(case()))
    loaded = load_params(port, reference, case.batch()[0])
    assert loaded.report is not None
    assert not loaded.report.ok
    assert str(loaded).splitlines()[-1].startswith("the weights are in place, but the port differs: NO PARITY")
    assert not loaded
    assert says in str(loaded)
    back = params_from(port, case(), case.batch()[0])
    assert all(np.array_equal(back[name], value) for name, value in reference.params.items())
    assert all(np.array_equal(back[name], value) for name, value in reference.statistics.items())


# --- Refusals


class Reversed(Mlp):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.flip(1))


class OtherStride(Convnet):
    """A wrong port whose parameters fit."""

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(F.conv2d(x, self.conv1.weight, self.conv1.bias, dilation=2)), 2, 1)[..., :4, :4]
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Doubled(Mlp):
    """Two adjacent layers are wrong; neither is seen by itself."""

    def forward(self, x: Tensor) -> Any:
        x = F.gelu(self.fc2(F.gelu(self.fc1(x))))
        return F.linear(x, self.fc3.weight, 2 * self.fc3.bias)


COMPUTED: dict[str, tuple[Reference, Style]] = {
    "the input is reversed": (MLP, Reversed),
    "conv1 output": (SIMPLE, OtherStride),
    "activation_function2 and affine3 output": (MLP, Doubled),
    "batchnorm1 output": (NORMALISED, partial(Normalised, eps=0.1)),
}


@pytest.mark.parametrize("says", COMPUTED)
def test_a_layer_with_weights_that_computes_something_else_is_refused(says: str) -> None:
    case, style = COMPUTED[says]
    port = anew(style(case()))
    before = {name: value.clone() for name, value in port.state_dict().items()}
    for attempt in (load_params, params_from):
        with pytest.raises(LoadError, match="the port is not what the reference is: NO PARITY") as caught:
            attempt(port, case(), case.batch()[0])
        assert caught.value.report is not None
        assert says in str(caught.value.report)
    assert all(torch.equal(before[name], value) for name, value in port.state_dict().items())


class Crossed(Mlp):
    """Each bias is used with the other weight, and one weight is transposed."""

    def forward(self, x: Tensor) -> Any:
        x = F.relu(F.linear(F.relu(self.fc1(x)), self.fc2.weight, self.fc3.bias))
        return F.linear(x, self.fc3.weight.T, self.fc2.bias)


def test_use_decides_and_no_module() -> None:
    port = anew(Crossed(EQUAL()))
    loaded = load_params(port, EQUAL(), EQUAL.batch()[0])
    assert loaded.report
    assert (loaded.filled["b2"], loaded.filled["b3"]) == ("fc3.bias", "fc2.bias")
    np.testing.assert_array_equal(port.fc3.weight.detach(), EQUAL().params["W3"])


class Einsum(Mlp):
    def __init__(self, reference: nr.Network, how: str = "ni,oi->no", seen: float = 1) -> None:
        super().__init__(reference)
        self.how, self.seen = how, seen

    def forward(self, x: Tensor) -> Any:
        x = torch.einsum(self.how, self.seen * F.relu(self.fc1(x)), self.fc2.weight) + self.fc2.bias
        return self.fc3(F.relu(x))


@pytest.mark.parametrize("how", ["ni,oi->no", "ni,io->no"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_square_weight_has_the_layout_that_holds(how: str, symmetric: bool) -> None:
    reference = EQUAL()
    if symmetric:  # then either layout would do
        reference.set_params({**reference.params, "W2": reference.params["W2"] + reference.params["W2"].T})
    port = anew(Einsum(EQUAL(), how))
    assert load_params(port, reference, EQUAL.batch()[0]).report
    expected = reference.params["W2"] if how == "ni,io->no" else reference.params["W2"].T
    np.testing.assert_array_equal(port.fc2.weight.detach(), expected)


def test_two_readings_that_hold_are_both_told() -> None:
    """For an input of zeros, both give the same output."""
    layers = dict(EQUAL().layers)
    affine1, relu1 = list(layers)[:2]
    blind = {affine1: layers.pop(affine1), relu1: layers.pop(relu1), "Dropout": nr.Dropout(1.0), **layers}
    port = anew(Einsum(EQUAL(), seen=0))
    before = port.fc1.weight.clone()
    with pytest.raises(LoadError) as caught:
        load_params(port, nr.Network(blind), EQUAL.batch()[0], prove=False)
    assert "fc2.weight holds W2 as (outputs, inputs) or fc2.weight holds W2 as (inputs, outputs)" in str(caught.value)
    assert torch.equal(port.fc1.weight, before)


def test_the_layer_itself_tells_its_layout_whatever_comes_behind() -> None:
    port = anew(Gelus(SIMPLE(), second=F.gelu))
    assert load_params(port, SIMPLE(), prove=False).report is None
    expected = SIMPLE().params["W2"].T.reshape(9, 4, 4, 4).transpose(0, 2, 3, 1).reshape(9, 64)
    np.testing.assert_array_equal(port.fc1.weight.detach(), expected)


# --- Sources, samples, dtypes


def simple_params() -> dict[str, Any]:
    return dict(SIMPLE().params)


def saved(folder: Path) -> Path:
    nr.write_params(simple_params(), folder / "params.pkl")
    return folder / "params.pkl"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "network": lambda _: SIMPLE(),
    "params": lambda _: simple_params(),
    "path": saved,
    "text": lambda folder: str(saved(folder)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_tell_the_shape_of_their_samples(kind: str, tmp_path: Path) -> None:
    port, source = anew(Plain(SIMPLE())), SOURCES[kind](tmp_path)
    assert load_params(port, source).report
    back = params_from(port, source)
    assert all(np.array_equal(back[name], value) for name, value in simple_params().items())


def test_an_architecture_tells_the_layers_to_read_back() -> None:
    back = params_from(Plain(SIMPLE()), recognise(simple_params()))
    assert all(np.array_equal(back[name], value) for name, value in simple_params().items())


def test_a_network_that_does_not_tell_needs_an_example() -> None:
    port = from_reference(SQUARE())
    with pytest.raises(ValueError, match=r"x must be an example batch .* begins with Convolution"):
        load_params(port, SQUARE())
    assert load_params(port, SQUARE(), SQUARE.batch()[0]).report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_port_keeps_its_dtype(dtype: torch.dtype) -> None:
    reference, port = SIMPLE(), anew(Plain(SIMPLE()).to(dtype))
    assert load_params(port, reference).report
    expected = {name: torch.tensor(value).to(dtype) for name, value in reference.params.items()}
    assert port.fc1.weight.dtype == dtype
    assert torch.equal(port.fc1.weight.detach(), expected["W2"].T)
    back = params_from(port, SIMPLE())
    assert back["W2"].dtype == (np.float16 if dtype == torch.float16 else np.float32)
    assert all(np.array_equal(value, expected[name].float().numpy()) for name, value in back.items())


def test_what_a_dtype_cannot_hold_is_named() -> None:
    reference = MLP()
    reference.params["W2"][0, 0] = 1e5
    with pytest.raises(LoadError, match=r"W2 holds 100000, more than torch\.float16 can"):
        load_params(anew(Mlp(MLP()).half()), reference)


class Lazy(nn.Module):
    def __init__(self, reference: nr.Network) -> None:
        super().__init__()
        self.conv, self.hidden, self.out = nn.LazyConv2d(4, 3), nn.LazyLinear(9), nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)
        return self.out(F.relu(self.hidden(x)))


def test_lazy_modules_get_their_shapes_first() -> None:
    assert load_params(Lazy(SIMPLE()), SIMPLE()).filled["W2"] == "hidden.weight"
    with pytest.raises(LoadError, match="on its first batch"):
        load_params(Lazy(SIMPLE()), SIMPLE(), np.zeros((2, 1, 1, 1)))


class Unnamed(Mlp):
    """Statistics with arbitrary names, the variance used first."""

    p1: Tensor
    q1: Tensor

    def __init__(self, reference: nr.Network) -> None:
        super().__init__(reference)
        for letter, start in zip("pqgh", (torch.ones, torch.zeros, torch.ones, torch.zeros), strict=True):
            for number, size in ((1, 9), (2, 8)):
                value = start(size).double()
                if letter in "gh":
                    self.register_parameter(f"{letter}{number}", nn.Parameter(value))
                else:
                    self.register_buffer(f"{letter}{number}", value)

    def normalise(self, x: Tensor, number: int) -> Tensor:
        p, q, g, h = (getattr(self, f"{letter}{number}") for letter in "pqgh")
        if self.training:
            return F.batch_norm(x, q, p, g, h, True, 0.1, 1e-6)
        scale = torch.rsqrt(p + 1e-6)
        return torch.addcmul(h, x * scale - q * scale, g)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.normalise(self.fc1(x), 1))
        return self.fc3(F.relu(self.normalise(self.fc2(x), 2)))


def test_statistics_without_names_lie_where_they_serve() -> None:
    filled = load_params(Unnamed(NORMALISED()), NORMALISED()).filled
    assert [filled[f"{name}{number}"] for name in ("running_mean", "running_var") for number in (1, 2)] == [
        *("q1", "q2"),
        *("p1", "p2"),
    ]


class Deep(nn.Module):
    """Seven normalisations with two readings each: too many combinations."""

    def __init__(self, mean: str, var: str) -> None:
        super().__init__()
        self.names = mean, var
        self.linears = nn.ModuleList(nn.Linear(4, 4) for _ in range(8)).double()
        self.norms: Any = nn.ModuleList(nn.BatchNorm1d(4, track_running_stats=False) for _ in range(7)).double()
        for norm in self.norms:
            norm.register_buffer(mean, torch.zeros(4).double())
            norm.register_buffer(var, torch.ones(4).double())

    def forward(self, x: Tensor) -> Any:
        *linears, last = self.linears
        for linear, norm in zip(linears, self.norms, strict=True):
            mean, var = (getattr(norm, name) for name in self.names)
            x = F.batch_norm(linear(x), mean, var, norm.weight, norm.bias, self.training, eps=1e-6)
            x = F.relu(x)
        return last(x)


def test_names_tell_statistics_where_there_are_many() -> None:
    reference = nr.MultiLayerNetExtend(4, [4] * 7, 4, use_batchnorm=True)
    filled = load_params(Deep("my_running_mean", "my_running_var"), reference, prove=False).filled
    assert filled["running_var7"] == "norms.6.my_running_var"
    with pytest.raises(LoadError, match=r"more than 64 readings .*norms\.6\.p holds running_mean7"):
        load_params(Deep("p", "q"), reference)


def test_all_but_the_weights_stays_as_it_was() -> None:
    port = anew(Plain(SIMPLE()))
    port.conv1.requires_grad_(False)
    port.fc1.eval()
    port.fc2.weight.grad = torch.ones_like(port.fc2.weight)
    state = torch.get_rng_state()
    load_params(port, SIMPLE())
    assert torch.equal(torch.get_rng_state(), state)
    assert not port.conv1.weight.requires_grad
    assert (port.training, port.fc1.training) == (True, False)
    assert bool((port.fc2.weight.grad == 1).all())
