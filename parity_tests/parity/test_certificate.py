"""check_parity itself: a fault is reported where it is and nowhere else, and judging leaves no trace in the port."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from parity.planted import small_network
from torchport import SimpleConvNet, softmax_with_loss
from torchport.choices import BFLOAT16, IEEE, TF32, Mode
from torchport.layers import Setting
from torchport.networks import from_reference
from torchport.parity import Report, Row, check_layer, check_parity, compare
from torchport.parity.cases import seeded_batch
from torchport.parity.compare import AT_ONCE
from torchport.parity.losses import check_loss
from torchport.parity.preparation import BATCH, INTEGERS, PREDICTION, TRAINING

Spoil = Callable[[Any], Any]


class Function(nn.Module):
    """A module that computes function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def check(
    spoil: Spoil = lambda _: None, dtype: torch.dtype = torch.float64, device: str = "cpu", **options: Any
) -> Report:
    """Spoil a port that agrees, or replace it by what spoil returns, and compare."""
    reference, port, x, t = small_network(dtype)
    return check_parity(reference, spoil(port.to(device)) or port, x, t, **options)


def layer(name: str, function: Callable[[Tensor], Any]) -> Spoil:
    return lambda port: setattr(port, name, Function(function))


def followed_by(function: Callable[[Tensor], Any]) -> Spoil:
    return lambda port: nn.Sequential(port, Function(function))


def failed(report: Report) -> set[str]:
    return {row.layer for row in report.rows if not row.ok}


# --- Where a fault is told


def weight(name: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    def spoil(port: SimpleConvNet) -> None:
        parameter = port.get_parameter(name)
        parameter.data.copy_(change(parameter.data.clone()))

    return spoil


WRONG: dict[str, Spoil] = {
    "conv1": weight("conv1.weight", lambda w: w * torch.where(torch.arange(w.numel()).view_as(w).to(w) == 7, 1.001, 1)),
    "relu1": lambda port: setattr(port, "relu1", nn.LeakyReLU(1e-3)),
    "pool1": lambda port: setattr(port, "pool1", nn.AvgPool2d(2)),
    "affine1": weight("affine1.bias", lambda b: b + 1),
    "relu2": layer("relu2", lambda x: torch.where(x == x.max(), torch.nan, x.relu())),
    "affine2": weight("affine2.weight", lambda w: w.T),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_layer_is_the_only_one_that_is_blamed(place: str, setting: Setting) -> None:
    """The layers after it compute other numbers too, but correctly from their input."""
    report = check(WRONG[place], setting.dtype, setting.device, runs=[TRAINING, PREDICTION, INTEGERS])
    assert failed(report) == {place}
    assert {row.layer for row in report.rows} > {*WRONG} - {place}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_gradient_is_blamed_on_its_layer_alone(place: str, setting: Setting) -> None:
    def spoil(port: SimpleConvNet) -> None:
        port.get_submodule(place).register_forward_pre_hook(lambda module, inputs: (regrad(inputs[0]),))

    def regrad(x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x * 1
            x.register_hook(lambda grad: 1.01 * grad)
        return x

    report = check(spoil, setting.dtype, setting.device, runs=[TRAINING, BATCH])
    first = report.first_divergence
    assert first is not None
    assert (first.layer, first.quantity) == (place, "grad_input")
    assert failed(report) == {place}


FAULTS: dict[str, tuple[Spoil, str, str]] = {
    "another shape": (lambda port: setattr(port, "pool1", nn.MaxPool2d(2, padding=1)), "pool1", "the port raised"),
    "fewer classes": (followed_by(lambda x: x[:, :5]), "output", "shape (8, 5), expected (8, 6)"),
    "another dtype": (followed_by(lambda x: x.half()), "output", "dtype torch.float16, expected torch.float64"),
    "an assertion": (
        layer("relu2", lambda x: 1 / 0 * x),
        "relu2",
        "the port raised ZeroDivisionError: division by zero",
    ),
    "an error of two lines": (layer("pool1", lambda x: vars(x)["a\nb"]), "pool1", "the port raised KeyError: 'a\\nb'"),
    "a backward that raises": (
        layer("relu1", lambda x: (y := x.exp()) * 0 + y.mul_(0) + x.relu()),
        "port",
        "backward raised RuntimeError",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_number_is_told_in_words(name: str) -> None:
    spoil, blamed, says = FAULTS[name]
    first = check(spoil, runs=[TRAINING]).first_divergence
    assert first is not None
    assert (first.layer, says in first.worst.note) == (blamed, True), first


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Any], str, str]] = {
    "summed": (lambda x, t: softmax_with_loss(x, t) * len(x), "output", ""),
    "differentiated with the 1e-7": (
        lambda x, t: -(x.softmax(1).gather(1, t[:, None]) + 1e-7).log().mean(),
        "grad_input",
        "",
    ),
    "detached": (lambda x, t: softmax_with_loss(x, t).detach(), "gradient", "backward raised RuntimeError"),
    "for every sample": (
        lambda x, t: F.cross_entropy(x, t, reduction="none"),
        "gradient",
        "backward raised RuntimeError",
    ),
    "raising": (lambda x, t: 1 / 0, "gradient", "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_loss_is_told(name: str) -> None:
    loss, quantity, says = LOSSES[name]
    first = check(loss=loss, runs=[BATCH]).first_divergence
    assert first is not None
    assert (first.layer, first.quantity, says in first.worst.note) == ("loss", quantity, True), first


def test_a_batch_with_as_many_labels_of_each_class_does_not_hide_weights() -> None:
    def balanced(x: Tensor, t: Tensor) -> Tensor:
        return (F.cross_entropy(x, t, reduction="none") / t.bincount()[t]).sum() / len(t.unique())

    reference, port, x, _ = small_network(torch.float64)
    first = check_parity(reference, port, x[:6], np.arange(6), loss=balanced, runs=[BATCH]).first_divergence
    assert first is not None
    assert (first.layer, first.quantity) == ("loss", "output")


def log_softmax_and_nll(x: Tensor, t: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(x, dim=1), t)


@pytest.mark.parametrize("loss", [F.cross_entropy, log_softmax_and_nll])
def test_a_loss_without_the_books_offset_is_named_and_no_fault(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    report = check(loss=loss, runs=[BATCH])
    assert report
    assert report.known == ("loss output: the book adds 1e-7 inside the log, this loss does not",)
    wrong = check(loss=lambda x, t: 1.00001 * loss(x, t), runs=[BATCH])
    assert not wrong
    assert not wrong.known


class ByReciprocal(torch.autograd.Function):
    """softmax_with_loss, which divides by the number of samples as CUDA does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, labels: Tensor) -> Tensor:
        y, one_hot = x.softmax(1), F.one_hot(labels, x.shape[1])
        ctx.save_for_backward((y - one_hot) * torch.tensor(1 / len(x), dtype=x.dtype))
        return softmax_with_loss(x, labels)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_loss_may_round_the_logarithm_of_the_sum(dtype: torch.dtype, scale: float, rng: np.random.Generator) -> None:
    x, setting = scale * rng.standard_normal((2000, 10)), Setting(dtype)

    def off(relative: float) -> float:
        def loss(x: Tensor, t: Tensor) -> Tensor:
            value = (x.logsumexp(1) - x.gather(1, t[:, None])[:, 0]).mean()
            return value + relative * (value - value.detach())

        (row,) = (row for row in check_loss(x, np.arange(2000) % 10, setting, loss) if row.quantity == "grad_input")
        return row.worst.ratio

    u = torch.finfo(dtype).eps / 2
    assert 0.2 < off(0.0) <= 1
    assert off(40 * max(1, scale / 100) * u) > 1


@pytest.mark.parametrize("n", [3, 63, 1000, 2000, 2040])
def test_a_mean_may_be_a_product_with_the_rounded_reciprocal(n: int, rng: np.random.Generator) -> None:
    """At labels of low probability, where the limit allows for these roundings only."""
    gap, setting = rng.uniform(6, 12, n), Setting(torch.float32)
    x, labels = setting.round(np.stack([gap, np.zeros(n)], axis=1)), np.ones(n, np.int64)
    rows = check_loss(x, labels, setting, ByReciprocal.apply)
    assert all(row.ok for row in rows), rows

    def four_ulps_off(x: Tensor, t: Tensor) -> Tensor:
        loss: Tensor = ByReciprocal.apply(x, t)
        return loss.detach() + (1 + 2.0**-21) * (loss - loss.detach())

    assert [row.quantity for row in check_loss(x, labels, setting, four_ulps_off) if not row.ok] == ["grad_input"]


# --- What a report says besides


def pooled_before_relu(port: SimpleConvNet) -> nn.Module:
    return nn.Sequential(port.conv1, port.pool1, port.relu1, *port[3:])


def with_a_parameter_too_many(port: SimpleConvNet) -> None:
    port.register_parameter("spare", nn.Parameter(torch.ones(1, dtype=torch.float64)))


def of_a_narrow_range(port: SimpleConvNet) -> nn.Module:
    def checked(x: Tensor) -> Tensor:
        if x.abs().max() > 5:
            raise ValueError("out of range")
        return x

    return nn.Sequential(Function(checked), port)


def of_one_layout(port: SimpleConvNet) -> nn.Module:
    return nn.Sequential(Function(lambda x: x.view(len(x), -1).view(x.shape)), port)


class InThreads(nn.Module):
    """A port that computes each sample in a thread, where no call is seen."""

    def __init__(self, port: nn.Module) -> None:
        super().__init__()
        self.port = port

    def forward(self, x: Tensor) -> Tensor:
        enabled = torch.is_grad_enabled()

        def run(sample: Tensor) -> Any:
            with torch.set_grad_enabled(enabled):
                return self.port(sample)

        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(run, x.split(1))))


def normed(port: SimpleConvNet) -> None:
    nn.utils.parametrizations.weight_norm(port.affine1)


NOTES: dict[str, tuple[Spoil, str]] = {
    "layers in one piece": (pooled_before_relu, "relu1 and pool1 were judged together (1 (MaxPool2d), 2 (ReLU))"),
    "work in threads": (InThreads, "conv1 and relu1 and pool1 and affine1 and relu2 and affine2 were judged together"),
    "a parameter that nobody uses": (with_a_parameter_too_many, "spare is not used"),
    "data that it does not take": (of_a_narrow_range, "not judged on integers"),
    "a layout that it does not take": (
        of_one_layout,
        "not judged on channels_last: the port raised RuntimeError: view",
    ),
    "a weight that cannot be set": (normed, "affine1.weight cannot be set: the relu or pooling after it was not"),
    "one of three outputs": (
        followed_by(lambda x: (x.softmax(1), x, 2 * x)),
        "judged is part 1 of the 3 that the port returns",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_how_a_right_port_was_judged_is_noted(name: str) -> None:
    spoil, note = NOTES[name]
    report = check(spoil)
    report.raise_if_failed()
    assert any(note in each for each in report.notes), report.notes


@pytest.mark.parametrize(
    ("returned", "part"), [(lambda x: (2 * x, x), 1), (lambda x: {"wrong": 2 * x, "right": x}, "right")]
)
def test_output_names_the_part_to_judge(returned: Callable[[Tensor], Any], part: int | str) -> None:
    assert check(followed_by(returned), output=part, runs=[TRAINING])
    assert failed(check(followed_by(returned), output=0 if part == 1 else "wrong", runs=[TRAINING])) == {"output"}
    with pytest.raises(ValueError, match=r"output='none' must be a part of what the port returns, a (tuple|dict)"):
        check(followed_by(returned), output="none", runs=[TRAINING])


def test_what_torch_exports_is_refused_as_it_has_one_mode() -> None:
    reference, port, x, t = small_network(torch.float64)
    exported = torch.export.export(port, (torch.tensor(x),)).module()
    with pytest.raises(ValueError, match=r"got \w+, which raises NotImplementedError.*: give the module that was exp"):
        check_parity(reference, exported, x, t)


def test_any_seed_that_numpy_takes_will_do() -> None:
    assert check(seed=2**32 - 1, runs=[TRAINING, BATCH])


def test_only_the_runs_that_are_asked_for_are_made() -> None:
    whole, part = check(), check(runs=[TRAINING, BATCH])
    assert part.runs == (TRAINING, BATCH)
    assert set(part.runs) < set(whole.runs)
    assert {row.run for row in part.rows} == {TRAINING, BATCH, "loss, logits x 1", "loss, logits x 1000"}
    assert {row.run for row in whole.rows} >= {*whole.runs}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_weight_with_one_wrong_number_serves_its_layer_all_the_same(dtype: torch.dtype) -> None:
    """Also where one sample does not show it; in float32 it is below the output's limit, and the weight is told."""
    report = check(weight("affine2.weight", lambda w: w * (1 + 1e-6 * (w == w[1, 1]))), dtype)
    assert failed(report) == {"affine2"}
    assert not any("serves no layer" in row.worst.note for row in report.rows)
    assert "affine2.weight is not the reference's: 1 of 36 numbers differ" in str(report.first_divergence)


# --- Another callable of the same port, in one piece


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "torch.compile": lambda port: torch.compile(port, backend="eager"),
    "DataParallel": nn.DataParallel,
    "both": lambda port: nn.DataParallel(torch.compile(port, backend="eager")),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at the input's
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_port_is_judged_inside_and_as_one_piece(name: str) -> None:
    ran = []

    def wrapped(port: SimpleConvNet) -> Any:
        wrapped = WRAPPERS[name](port)
        wrapped.register_forward_hook(lambda *_: ran.append(1))
        return wrapped

    report = check(wrapped, runs=[TRAINING, BATCH])
    assert report
    assert {row.layer for row in report.rows} >= {*WRONG}
    assert {row.quantity for row in report.rows if row.run == "in one piece"} == {"output", "grad_weight", "grad_bias"}
    assert ran
    assert failed(check(lambda port: wrapped(layer("relu1", F.leaky_relu)(port) or port), runs=[TRAINING])) >= {"relu1"}


PIECES: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "times 0": (lambda port, x: 0 * port(x), "output"),
    "times 1.0001": (lambda port, x: 1.0001 * port(x), "output"),
    "without gradients": (lambda port, x: port(x).detach(), "output"),
    "a gradient twice": (lambda port, x: (y := port(x)) + (y - y.detach()), "grad_weight"),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_wrong_piece_is_told(name: str, setting: Setting) -> None:
    reference, port, x, t = small_network(setting.dtype)
    port.to(setting.device)
    function, quantity = PIECES[name]
    first = check_parity(reference, port, x, t, run=lambda x: function(port, x), runs=[TRAINING]).first_divergence
    assert first is not None
    assert (first.run, first.quantity) == ("in one piece", quantity)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch.jit.script is
def test_where_no_layer_can_be_seen_none_is_blamed_alone() -> None:
    reference = nr.MultiLayerNet(6, [5], 4)
    port = from_reference(reference)
    port.get_parameter("affine2.bias").data.add_(1)
    scripted = torch.jit.script(nn.Sequential(*port.children()))
    first = check_parity(reference, scripted, *seeded_batch(0, 8, (6,), 4), runs=[TRAINING]).first_divergence
    assert first is not None
    assert first.layer == "affine1 and activation_function1 and affine2"


# --- What judging leaves behind


def drawing_network() -> nr.Network:
    """A port that draws, keeps statistics and has a buffer."""
    rng = np.random.default_rng(0)
    layers: dict[str, Any] = {
        "Affine1": nr.Affine(rng.standard_normal((6, 5)), rng.standard_normal(5)),
        "Norm": nr.BatchNormalization(rng.random(5), rng.random(5), 0.9, rng.random(5), rng.random(5)),
        "Relu": nr.Relu(),
        "Dropout": nr.Dropout(0.3, np.random.RandomState(0)),
        "Affine2": nr.Affine(rng.standard_normal((5, 3)), rng.standard_normal(3)),
    }
    return nr.Network(layers)


def generators(device: str) -> list[bytes]:
    cuda = [torch.cuda.get_rng_state(device)] if torch.device(device).type == "cuda" else []
    return [
        repr((random.getstate(), np.random.get_state())).encode(),
        *(bytes(state.tolist()) for state in (torch.get_rng_state(), *cuda)),
    ]


def state(port: nn.Module) -> dict[str, Any]:
    """All that a run may change, in a form that == compares."""
    tensors = {**dict(port.named_parameters()), **dict(port.named_buffers())}
    snapshot: dict[str, Any] = {}
    for name, value in tensors.items():
        grad = None if value.grad is None else value.grad.clone().cpu().numpy().tobytes()
        snapshot[name] = (
            id(value),
            value.data_ptr(),
            value.requires_grad,
            value.dtype,
            grad,
            value.detach().cpu().numpy().tobytes(),
        )
    return snapshot | {f"{name}.training": module.training for name, module in port.named_modules()}


@pytest.mark.parametrize("raises", [False, True], ids=["judged", "raising"])
def test_the_port_is_put_back_bit_for_bit(raises: bool, setting: Setting) -> None:
    """Weights, buffers, flags, gradients, requires_grad, and every random generator."""
    reference = drawing_network()
    port: Any = from_reference(reference, device=setting.device).to(setting.dtype)
    x, t = seeded_batch(0, 6, (6,), 3)
    port.affine1.weight.grad = torch.full_like(port.affine1.weight, 7)
    port.affine2.bias.requires_grad_(False)
    port.eval().norm.train()
    if raises:
        port.affine2.register_forward_hook(lambda *_: 1 / 0)
    before, drawn = state(port), generators(setting.device)
    check_parity(reference, port, x, t)
    assert state(port) == before
    assert generators(setting.device) == drawn


class Replacing(nn.Module):
    """A port that counts its calls and replaces a parameter in each."""

    def __init__(self, port: SimpleConvNet) -> None:
        super().__init__()
        self.port, self.calls = port, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        out = self.port(x)
        self.port.conv1.weight = nn.Parameter(self.port.conv1.weight.detach().clone())
        return out


def test_what_a_forward_replaces_is_put_back() -> None:
    reference, inner, x, t = small_network(torch.float64)
    port = Replacing(inner)
    before = state(port)
    check_parity(reference, port, x, t)
    assert (state(port), port.calls) == (before, 0)


def test_a_layer_that_has_nothing_to_do_keeps_its_gradient() -> None:
    """A relu without negative inputs: the gradient at zeros is the relu's own, not the layer's before it."""
    x = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.float64)
    rows = check_layer("Relu", nr.Relu(), nn.ReLU(), x, np.ones((4, 5)), Setting())
    assert [str(row) for row in rows if not row.ok] == []
    wrong = check_layer("Relu", nr.Relu(), Function(lambda x: x * (x >= 0)), x, np.ones((4, 5)), Setting())
    assert {(row.layer, row.quantity) for row in wrong if not row.ok} == {("relu", "grad_input")}


def test_a_symmetric_weight_lies_as_its_gradient_does() -> None:
    """A symmetric weight, whose values fit both layouts."""
    rng = np.random.default_rng(0)
    reference = nr.Network({"Affine1": nr.Affine(np.diag(rng.standard_normal(4)), rng.standard_normal(4))})
    report = check_parity(reference, from_reference(reference), *seeded_batch(0, 8, (4,), 4), runs=[TRAINING])
    report.raise_if_failed()


class Slip(torch.autograd.Function):
    """F.linear, with an input gradient that is off by some roundings."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return grad @ weight * (1 + 2**-48), grad.T @ x, grad.sum(0)


def test_a_slip_of_a_few_limits_is_no_matter_of_the_relu_before() -> None:
    """A gradient that fails alone and holds together with the relu before is no fault; the limit stays the same."""
    rng = np.random.default_rng(0)
    first, second = (nr.Affine(rng.standard_normal((4, 4)), rng.standard_normal(4)) for _ in range(2))
    reference = nr.Network({"Affine1": first, "Relu1": nr.Relu(), "Affine2": second})
    port = from_reference(reference)
    weight, bias = port.get_submodule("affine2").parameters()
    port.get_submodule("affine2").forward = lambda x: Slip.apply(x, weight, bias)
    report = check_parity(reference, port, *seeded_batch(0, 8, (4,), 4), runs=[TRAINING])
    slips = [row for row in report.rows if not row.ok]
    assert {(row.layer, row.quantity) for row in slips} == {("affine2", "grad_input")}
    assert all(row.worst.ratio < 8 for row in slips)


def dead_network() -> nr.Network:
    """A port whose first and second relu make zeros of any input."""
    first, second = (
        nr.Affine(np.full((4, 4), weight), np.full(4, bias)) for weight, bias in ((-0.5, -90.0), (-1.5, -1.0))
    )
    last = nr.Affine(np.ones((4, 3)), np.arange(3.0))
    return nr.Network({"Affine1": first, "Relu1": nr.Relu(), "Affine2": second, "Relu2": nr.Relu(), "Affine3": last})


class Tied(nn.Module):
    """One weight three times; the last use of it is off by a few limits in its input's gradient."""

    def __init__(self, layer: nr.Affine, last: Callable[..., Tensor]) -> None:
        super().__init__()
        self.affine = nn.Linear(*layer.W.shape).double()
        self.last = last
        with torch.no_grad():
            self.affine.weight.copy_(torch.from_numpy(layer.W.T))
            self.affine.bias.copy_(torch.from_numpy(layer.b))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.affine(self.affine(x).relu()).relu(), self.affine.weight, self.affine.bias)


def test_a_shared_gradient_is_summed_once_where_a_layer_is_judged_again() -> None:
    rng = np.random.default_rng(0)
    weight, bias = 0.3 * rng.standard_normal((8, 8)), 0.1 * rng.standard_normal(8)
    layers: list[Any] = [
        nr.Affine(weight, bias),
        nr.Relu(),
        nr.Affine(weight, bias),
        nr.Relu(),
        nr.Affine(weight, bias),
    ]
    reference = nr.Network({f"Layer{i}": layer for i, layer in enumerate(layers, 1)})
    for last, wrong in ((F.linear, set()), (Slip.apply, {("layer5", "grad_input")})):
        report = check_parity(
            reference, Tied(nr.Affine(weight, bias), last), *seeded_batch(0, 6, (8,), 8), runs=[TRAINING]
        )
        assert {(row.layer, row.quantity) for row in report.rows if not row.ok} == wrong


def test_layers_behind_a_dead_one_are_told_apart(setting: Setting) -> None:
    """A later layer makes the same zeros, and the layers between are still each judged alone."""
    reference = dead_network()
    port = from_reference(reference, "conv2d", setting.device).to(setting.dtype)
    report = check_parity(reference, port, np.ones((5, 4)), np.arange(5) % 3, runs=[TRAINING])
    assert report.ok, report
    assert {*reference.layers} == {row.layer.capitalize() for row in report.rows} - {"Input", "Output", "Loss"}


def test_a_dropout_before_a_dead_layer_is_told_from_it(setting: Setting) -> None:
    """Dropout may drop all of so few numbers, so that the zeros after the dead relu could be its output."""
    rng, dead = np.random.default_rng(0), dead_network().layers
    first = nr.Affine(rng.standard_normal((4, 4)), np.ones(4))
    reference = nr.Network({"Affine0": first, "Dropout0": nr.Dropout(0.5), **dead})
    port = from_reference(reference, "conv2d", setting.device).to(setting.dtype)
    check_parity(reference, port, *seeded_batch(0, 4, (4,), 3), runs=[TRAINING]).raise_if_failed()


def test_a_wrong_layer_behind_a_dead_one_is_wrong(setting: Setting) -> None:
    reference = dead_network()
    for name in ("affine2.weight", "affine2.bias"):
        port = from_reference(reference, "conv2d", setting.device).to(setting.dtype)
        port.get_parameter(name).data.mul_(1.01)
        assert not check_parity(reference, port, np.ones((5, 4)), np.arange(5) % 3, runs=[TRAINING])


def test_links_are_found_anew_where_values_coincided_in_the_first_run() -> None:
    """No negative value reached the relu, so that a call after it that changes nothing looked like the relu."""
    reference = nr.TwoLayerNet(3, 2, 4)
    reference.params["b1"][...] = 1
    port = from_reference(reference)
    port.relu1 = Function(lambda x: F.relu(x) * 1)
    report = check_parity(reference, port, *seeded_batch(0, 8, (3,), 4), runs=["integers"])
    report.raise_if_failed()


def test_the_reference_and_the_arguments_are_not_changed() -> None:
    """The reference's random stream and its layers' cached values are not changed either."""
    reference, (x, t) = drawing_network(), seeded_batch(0, 6, (6,), 3)
    reference.gradient(x, t)

    def everything() -> str:
        parts = {
            name: {**vars(layer), "rng": layer.rng.get_state()} if hasattr(layer, "rng") else vars(layer)
            for name, layer in reference.layers.items()
        }
        with np.printoptions(threshold=10**6, floatmode="unique"):
            return repr((parts, reference.params, x, t))

    before = everything()
    assert check_parity(reference, from_reference(reference), x, t)
    assert everything() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_modes_of_the_caller_do_not_count(mode: Any) -> None:
    reference, port, x, t = small_network(torch.float64)
    with mode():
        assert check_parity(reference, port, x, t, runs=[TRAINING, PREDICTION])


def tf32() -> bool:
    """Whether TF32 is on for convolutions, as it is by default on CUDA."""
    backend = torch.backends.cudnn
    return bool(backend.conv.fp32_precision != "ieee" if hasattr(backend, "conv") else backend.allow_tf32)


def tf32_products() -> bool:
    backend = torch.backends.cuda.matmul
    return bool(backend.fp32_precision == "tf32" if hasattr(backend, "fp32_precision") else backend.allow_tf32)


def nnpack() -> bool:
    (before,) = torch.backends.nnpack.set_flags(False)
    torch.backends.nnpack.set_flags(before)
    return bool(before)


def cudnn() -> bool:
    return torch.backends.cudnn.enabled


@pytest.mark.parametrize("is_on", [tf32, nnpack, cudnn])
def test_fast_products_are_off_while_judging_and_back_afterwards(is_on: Callable[[], bool]) -> None:
    flags = []

    def look(x: Tensor) -> Tensor:
        flags.append(is_on())
        if x.requires_grad:
            x.register_hook(lambda grad: flags.append(is_on()))
        return x.relu()

    assert is_on()
    check(layer("relu1", look), torch.float32, runs=[TRAINING])
    assert flags
    assert not any(flags)
    assert is_on()


@pytest.mark.parametrize(
    ("dtype", "place", "mode", "off"),
    [
        (torch.float64, "cuda:0", IEEE, False),
        (torch.float32, "cuda:0", IEEE, True),
        (torch.float32, "cuda:0", TF32, True),
        (torch.float32, "cpu", BFLOAT16, False),
    ],
)
def test_cudnn_is_off_in_float32_alone_and_where_it_is_judged(
    dtype: torch.dtype, place: str, mode: Mode, off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchport.layers.arithmetic.check_device", lambda name, device: device)  # CUDA on any machine
    setting = Setting(dtype, place, mode)
    with setting.computing():
        assert cudnn()
        with setting.judging():
            assert cudnn() != off
            assert tf32_products() == (mode == TF32)
            with setting.computing():
                assert cudnn() != off
        assert cudnn()
        torch.backends.cudnn.enabled = False  # as a user may have it
        with setting.judging():
            assert not cudnn()
        assert not cudnn()
        torch.backends.cudnn.enabled = True


# --- Entry by entry


@pytest.fixture(params=[AT_ONCE, 1], ids=["at once", "in pieces"])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of entries compared at a time."""
    monkeypatch.setattr(sys.modules[compare.__module__], "AT_ONCE", request.param)
    size: int = request.param
    return size


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize(
    ("actual", "expected", "limit", "ratio"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0, 0),
        ([1.0, 2.5], [1.0, 2.0], 1.0, 0.5),
        ([1.0, 2.5], [1.0, 2.0], 0.5, 1),
        ([1.0, np.nan], [1.0, 2.0], 1.0, np.inf),
        ([1.0, 2.0], [1.0, np.nan], 1.0, np.inf),
        ([np.nan, 2.0], [np.nan, 2.0], 1.0, 0),
        ([np.inf, 2.0], [np.inf, 2.0], 1.0, 0),
        ([-np.inf, 2.0], [np.inf, 2.0], 1.0, np.inf),
        ([np.inf, 2.0], [1.0, 2.0], 1.0, np.inf),
        ([1 + 2.0**-52, 0.0], [1.0, 0.0], 0.0, np.inf),
        ([0.0, 0.0], [-0.0, 0.0], 0.0, 0),
        ([[1.0], [2.0]], [1.0, 2.0], 9.0, np.inf),  # nothing is broadcast
    ],
)
def test_the_worst_entry_is_found(actual: Any, expected: Any, limit: float, ratio: float) -> None:
    worst = compare(np.array(actual), np.array(expected), limit)
    assert worst.ratio == ratio
    if not worst.note:
        assert worst.shape == np.shape(actual)
        np.testing.assert_equal(worst.actual, np.array(actual)[worst.index])
    assert Row(TRAINING, "conv1", "output", "sum", worst).ok == (ratio <= 1)


@pytest.mark.usefixtures("most")
def test_a_limit_that_is_no_number_allows_nothing() -> None:
    assert not compare(np.array([5.0, 0.0]), np.zeros(2), np.array([np.nan, 1.0])).ratio <= 1
    assert not compare(np.array([0.0, 5.0]), np.zeros(2), np.array([1.0, np.nan])).ratio <= 1


@pytest.mark.parametrize(
    ("entry_limits", "expected_calls", "ratio"),
    [
        ([9, 9, 9, 9], {1, 2, 3}, 0.5),  # all that are above the limit, and then none is
        ([0, 0, 0, 0], {2}, 4.0),  # the worst is seen to be wrong
        ([0, 2, 9, 9], {1, 2, 3}, 1.5),
    ],
)
def test_an_entry_above_its_limit_is_judged_by_its_own(
    entry_limits: list[float], expected_calls: set[int], ratio: float, most: int
) -> None:
    """The search stops at the first entry above its own limit too: judging the others would show no more."""
    calls = set()

    def limit(index: tuple[int, ...]) -> float:
        calls.add(index[0])
        return entry_limits[index[0]]

    actual = np.array([0.5, 3.0, 4.0, 3.5])
    worst = compare(actual, np.zeros(4), 1.0, limit)
    assert (calls, worst.ratio) == (expected_calls if most > 1 else {1, 2, 3}, ratio)


class ThroughASparseMatrix(nn.Module):
    """A layer by a sparse matrix in compressed rows, of whose layout there is no empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        same = torch.eye(3, dtype=x.dtype).to_sparse_csr()
        output: Tensor = (same @ self.affine(x).relu().t()).t()
        return output


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_matrix_on_the_way_is_let_go_of() -> None:
    rng = np.random.default_rng(0)
    port = ThroughASparseMatrix()
    weight, bias = (each.detach().numpy() for each in port.affine.parameters())
    reference = nr.Network({"Affine": nr.Affine(weight.T.copy(), bias.copy()), "Relu": nr.Relu()})
    report = check_parity(reference, port, rng.standard_normal((4, 5)), np.arange(4) % 3)
    assert report, report.verdict
