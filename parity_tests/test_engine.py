"""The parity engine itself: it must fail where it should, point at the right layer, and say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import SimpleConvNet, softmax_with_loss
from torchport.layers import Near, kind_of
from torchport.layers.loss import loss_limits
from torchport.parity import Difference, Report, Row, Setting, check_layer, check_loss, check_parity, compare
from torchport.parity.cases import seeded_batch, seeded_params
from torchport.weights import cast_params

ARCHITECTURE: dict[str, Any] = {
    "input_dim": (2, 8, 8),
    "conv_param": {"filter_num": 4, "filter_size": 3, "pad": 0, "stride": 1},
    "hidden_size": 6,
    "output_size": 6,
}


def check_with(spoil: Callable[[SimpleConvNet], Any], dtype: torch.dtype, **options: Any) -> Report:
    """Spoil a port that agrees, or replace it by what spoil returns, and compare."""
    reference = nr.SimpleConvNet(**ARCHITECTURE)
    reference.set_params(seeded_params(0, reference.params))
    port = SimpleConvNet.from_params(cast_params(reference.params, dtype))
    x, t = seeded_batch(0, 8, (2, 8, 8), 6)
    return check_parity(reference, spoil(port) or port, x, t, **options)


def weight_change(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[SimpleConvNet], None]:
    def spoil(port: SimpleConvNet) -> None:
        with torch.no_grad():
            parameter = port.get_parameter(name)
            parameter.copy_(change(parameter.clone()))

    return spoil


def layer_change(name: str, module: nn.Module) -> Callable[[SimpleConvNet], None]:
    return lambda port: setattr(port, name, module)


class Function(nn.Module):
    """A module of a few characters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Rewired(SimpleConvNet):
    """Every layer right, and one too many in between."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flip(0))


def rewired(port: SimpleConvNet) -> SimpleConvNet:
    port.__class__ = Rewired
    return port


SPOILED: dict[str, tuple[Callable[[SimpleConvNet], Any], str, str]] = {
    "one weight by one part in a thousand": (
        weight_change("conv1.weight", lambda w: w * torch.where(torch.arange(w.numel()).view_as(w) == 7, 1.001, 1)),
        "conv1",
        "weight",
    ),
    "untransposed square weight": (weight_change("affine2.weight", lambda w: w.T), "affine2", "weight"),
    "leaky relu": (layer_change("relu1", nn.LeakyReLU(1e-3)), "relu1", "output"),
    "relu that passes every gradient": (
        layer_change("relu2", Function(lambda x: torch.where(x > 0, x, 0 * x + (x - x.detach())))),
        "relu2",
        "grad_input",
    ),
    "average instead of maximum": (layer_change("pool1", nn.AvgPool2d(2)), "pool1", "output"),
    "flattened as H, W, C": (
        layer_change("flatten", Function(lambda x: x.permute(0, 2, 3, 1).flatten(1))),
        "flatten",
        "output",
    ),
    "no gradient": (layer_change("relu1", Function(lambda x: x.relu().detach())), "relu1", "grad_input"),
    "NaN in one place": (
        layer_change("relu2", Function(lambda x: torch.where(x == x.max(), torch.nan, x.relu()))),
        "relu2",
        "output",
    ),
    "another shape": (layer_change("pool1", nn.MaxPool2d(2, padding=1)), "pool1", "output"),
    "another dtype": (layer_change("relu2", Function(lambda x: x.relu().half())), "relu2", "output"),
    "batch reversed before the first layer": (rewired, "network", "output"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_port_is_caught_where_it_is_spoiled(case: str, dtype: torch.dtype) -> None:
    spoil, layer, quantity = SPOILED[case]
    report = check_with(spoil, dtype)
    first = report.first_divergence
    assert first is not None
    assert (first.layer, first.quantity) == (layer, quantity)
    assert first.view == ("end-to-end" if layer == "network" else "local")
    after = [row for row in report.rows if row.view == "end-to-end" and not row.ok]
    assert report.inherited == (() if layer == "network" else tuple(after))
    with pytest.raises(AssertionError, match=f"{first.view} {layer} {quantity}"):
        report.raise_if_failed()


def test_layers_that_work_in_place_are_no_alarm() -> None:
    def in_place(port: SimpleConvNet) -> None:
        port.relu1, port.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    check_with(in_place, torch.float64).raise_if_failed()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_port_as_it_should_be_passes(dtype: torch.dtype) -> None:
    report = check_with(lambda _: None, dtype)
    report.raise_if_failed()
    assert report.first_divergence is None


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "summed": (lambda x, t: softmax_with_loss(x, t) * len(x), "output"),
    "softmax over the batch": (lambda x, t: -(x.softmax(0).gather(1, t[:, None]) + 1e-7).log().mean(), "output"),
    "differentiated with the 1e-7": (
        lambda x, t: -(x.softmax(1).gather(1, t[:, None]) + 1e-7).log().mean(),
        "grad_input",
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_another_loss_is_caught(case: str) -> None:
    loss, quantity = LOSSES[case]
    first = check_with(lambda _: None, torch.float64, loss=loss).first_divergence
    assert first is not None
    assert (first.view, first.layer, first.quantity) == ("local", "loss", quantity)


def test_the_diagnosis_names_everything() -> None:
    report = check_with(weight_change("affine1.bias", lambda b: b + 1), torch.float64)
    message = report.verdict
    for part in (
        "NO PARITY",
        "local affine1 bias",
        "worst at [",
        "expected",
        "got",
        "error 1.00e+00",
        "limit 0.00e+00",
    ):
        assert part in message


def test_the_report_is_json_with_the_same_numbers() -> None:
    report = check_with(layer_change("relu1", Function(lambda x: x.relu() / 0)), torch.float64)
    found = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["ok"] is False
    assert found["verdict"] == report.verdict
    assert len(found["rows"]) == len(report.rows)
    for record, row in zip(found["rows"], report.rows, strict=True):
        assert (record["view"], record["layer"], record["quantity"]) == (row.view, row.layer, row.quantity)
        assert float(record["ratio"]) == row.worst.ratio or np.isnan(row.worst.ratio)


def test_the_text_has_a_line_per_row() -> None:
    report = check_with(lambda _: None, torch.float64)
    lines = report.to_text().splitlines()
    assert len(lines) == len(report.rows) + 2
    assert all(line.endswith(("ok", "hardly judged")) for line in lines[1:-1])
    assert lines[-1].startswith("largest error/limit: local exact 0, local sum ")


def test_the_largest_error_of_a_rule_is_kept_wherever_it_stands() -> None:
    ratios = {"conv1": 0.5, "affine1": 0.75, "affine2": 0.25}
    rows = [Row("local", name, "output", "sum", Difference(ratio=ratio)) for name, ratio in ratios.items()]
    assert Report(tuple(rows), "port", "float64", "cpu", 0, 0).largest == {("local", "sum"): 0.75}
    unknown = Row("local", "relu1", "output", "sum", Difference(ratio=float("nan")))
    for order in ((unknown, *rows), (*rows, unknown)):
        assert Report(order, "port", "float64", "cpu", 0, 0).largest == {("local", "sum"): float("inf")}


@pytest.mark.parametrize(
    ("actual", "expected", "ratio"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.5], [1.0, 2.0], 0.5),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([np.nan, 2.0], [np.nan, 2.0], 0),
        ([np.inf, 2.0], [np.inf, 2.0], 0),
        ([-np.inf, 2.0], [np.inf, 2.0], np.inf),
        ([np.inf, 2.0], [1.0, 2.0], np.inf),
    ],
)
def test_values_that_are_not_finite(actual: list[float], expected: list[float], ratio: float) -> None:
    assert compare(np.array(actual), np.array(expected), 1.0).ratio == ratio


def test_nothing_is_broadcast() -> None:
    difference = compare(np.zeros((3, 1)), np.zeros((3, 4)), 1.0)
    assert difference.ratio == np.inf
    assert difference.note == "shape (3, 1), expected (3, 4)"


def test_an_exact_quantity_allows_nothing() -> None:
    assert compare(np.array([1 + 2.0**-52]), np.array([1.0]), 0).ratio == np.inf
    assert compare(np.array([0.0]), np.array([-0.0]), 0).ratio == 0


KINDS = {
    "sum": (nr.Convolution(np.ones((2, 3, 2, 2)), np.ones(2)), (2, 3, 5, 5)),
    "affine": (nr.Affine(np.ones((6, 4)), np.ones(4)), (3, 6)),
    "relu": (nr.Relu(), (3, 4)),
    "sigmoid": (nr.Sigmoid(), (3, 4)),
    "pooling": (nr.Pooling(3, 3, 2), (2, 2, 7, 7)),
    "average": (nr.AveragePooling(3, 3, 2), (2, 2, 7, 7)),
    "flatten": (nr.Flatten(), (2, 2, 3, 3)),
    "tanh": (nr.Tanh(), (3, 4)),
    "subsampling": (nr.Subsampling(np.ones(2), np.ones(2), 3, 3, 2), (2, 2, 7, 7)),
    "response": (nr.LocalResponseNormalization(3, 0.3, 0.75, 1.0), (2, 5, 3, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_limits_carried_along_hold(kind: str, rng: np.random.Generator) -> None:
    """Move x and the upstream gradient by up to their limits: no result moves by more than the limits say."""
    layer: Any
    layer, shape = KINDS[kind]
    if hasattr(layer, "W"):
        layer.W, layer.b = rng.standard_normal(layer.W.shape), rng.standard_normal(layer.b.shape)
    x = np.round(rng.standard_normal((20, *shape[1:])), 1)  # kinks and ties among them
    dout = rng.standard_normal(layer.forward(x).shape)
    y, dx = layer.forward(x), layer.backward(dout)
    grads = {name: getattr(layer, f"d{name}") for name in ("W", "b") if hasattr(layer, name)}
    x_limit, dout_limit = 0.02 * rng.random(x.shape), 0.02 * rng.random(dout.shape)
    rule, arithmetic = kind_of(layer).rule, Setting().arithmetic
    limit = rule.forward(layer, Near(x, x_limit), arithmetic)
    limits = rule.backward(layer, Near(x, x_limit), Near(dout, dout_limit), arithmetic)
    assert (limits.kinks > 0) == (kind in ("relu", "pooling"))
    moved = 0.0
    limit = limit + 1e-12  # x + x_limit is itself rounded
    for _ in range(200):
        near_x = x + x_limit * rng.choice([-1, 1], x.shape)
        near_dout = dout + dout_limit * rng.choice([-1, 1], dout.shape)
        assert (np.abs(layer.forward(near_x) - y) <= limit).all()
        assert (np.abs(layer.backward(near_dout) - dx) <= limits.grad_input + 1e-12).all()
        moved = max(moved, np.abs(layer.backward(near_dout) - dx).max())
        for name, grad in grads.items():
            assert (np.abs(getattr(layer, f"d{name}") - grad) <= limits.grads[name] + 1e-12).all()
    assert moved > 0


@pytest.mark.parametrize("size", [1e-6, 0.01, 0.5, 1, 10], ids=lambda size: f"logits within {size}")
def test_limits_of_the_loss_hold(size: float, rng: np.random.Generator) -> None:
    """The same for the loss, also where its limit is larger than itself."""
    x, labels = 3 * rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    x_limit, head = size * rng.random(x.shape), nr.SoftmaxWithLoss()
    limit, grad_limit = loss_limits(Near(x, x_limit), labels, Setting().arithmetic)
    loss, grad = head.forward(x, labels), head.backward()
    for _ in range(200):
        near = x + x_limit * rng.choice([-1, 1], x.shape)
        assert abs(head.forward(near, labels) - loss) <= limit
        assert (np.abs(head.backward() - grad) <= grad_limit + 1e-16).all()


class Uncooperative(nn.Module):
    """What a user's module may do."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (AssertionError(), "raised AssertionError"),
        (IndexError("out of\nbounds"), "raised IndexError: out of"),
        (lambda x: (x, x), "expected a tensor, got tuple"),
        (lambda _: None, "the port has none"),
        (lambda x: x.relu()[:, :1], "shape"),
    ],
)
def test_a_port_that_does_something_else_is_a_finding(answer: Any, says: str) -> None:
    first = check_with(layer_change("relu1", Uncooperative(answer)), torch.float64).first_divergence
    assert first is not None
    assert (first.layer, first.quantity) == ("relu1", "output")
    assert says in str(first)


def not_differentiable(logits: Tensor, labels: Tensor) -> Tensor:
    return softmax_with_loss(logits, labels).detach()


def broken(logits: Tensor, labels: Tensor) -> Tensor:
    raise ZeroDivisionError(str(labels))


@pytest.mark.parametrize("loss", [not_differentiable, broken])
def test_a_loss_that_raises_is_a_finding(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    first = check_with(lambda _: None, torch.float64, loss=loss).first_divergence
    assert first is not None
    assert first.layer == "loss"


def test_frozen_parameters_and_no_grad_are_no_alarm() -> None:
    frozen = []

    def freeze(port: SimpleConvNet) -> None:
        frozen.append(port.affine1.weight.requires_grad_(False))

    check_with(freeze, torch.float64).raise_if_failed()
    assert [weight.requires_grad for weight in frozen] == [False]
    with torch.no_grad():
        check_with(lambda _: None, torch.float64).raise_if_failed()


def test_rows_that_say_little_are_marked() -> None:
    wide = compare(np.zeros(4), np.ones(4), 10.0)
    assert (wide.ratio, wide.loose) == (0.1, 4)
    row = Row("end-to-end", "conv1", "output", "sum", wide)
    assert row.ok
    assert row.hardly_judged
    assert not Row("local", "conv1", "output", "sum", compare(np.ones(4), np.ones(4), 0.1)).hardly_judged
    lines = Report((row,), "port", "float64", "cpu", 0, 0).to_text().splitlines()
    assert lines[1].endswith("hardly judged")


@pytest.mark.parametrize(("wide", "hardly_judged"), [(2, False), (3, True)])
def test_a_limit_as_large_as_the_values_says_little_of_them(wide: int, hardly_judged: bool) -> None:
    """More than half of the entries must have such a limit."""
    limit = np.where(np.arange(4) < wide, 1.0, np.nextafter(1.0, 0))
    worst = compare(np.ones(4), np.ones(4), limit)
    assert worst.loose == wide
    assert Row("local", "conv1", "output", "sum", worst).hardly_judged == hardly_judged


def test_an_error_as_large_as_its_limit_is_within_it() -> None:
    at, beyond = (Row("local", "conv1", "output", "sum", compare(np.array([x]), np.ones(1), 0.5)) for x in (1.5, 1.75))
    assert (at.worst.ratio, at.ok) == (1, True)
    assert (beyond.worst.ratio, beyond.ok) == (1.5, False)


def test_zeros_that_must_be_equal_are_judged() -> None:
    assert compare(np.zeros(4), np.zeros(4), 0).loose == 0


def test_names_that_do_not_pair_up_are_listed() -> None:
    reference = nr.Network({"Affine1": nr.Affine(np.ones((4, 2)), np.ones(2)), "Relu1": nr.Relu()})
    port = nn.Sequential()
    port.add_module("fc1", nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"reference has \['Affine1', 'Relu1'\], the port \['fc1'\]"):
        check_parity(reference, port, np.ones((1, 4)), np.zeros(1, int))


def one_layer(module: nn.Module) -> nn.Sequential:
    port = nn.Sequential()
    port.add_module("affine1", module)
    return port


AFFINE = {"Affine1": nr.Affine(np.ones((4, 2)), np.ones(2))}


@pytest.mark.parametrize(
    ("layers", "dtype", "x", "t", "error", "says"),
    [
        (AFFINE, torch.float16, np.ones((1, 4)), np.zeros(1, int), ValueError, "float16"),
        (AFFINE, torch.float32, np.ones((0, 4)), np.zeros(0, int), ValueError, r"\(0, 4\)"),
        (AFFINE, torch.float32, np.ones((1, 5)), np.zeros(1, int), ValueError, "5 features"),
        (AFFINE, torch.float32, np.ones((1, 4)), np.array([2]), ValueError, r"0\.\.1, got 2"),
        (AFFINE, torch.float32, [[1.0]], np.array([0]), TypeError, "list"),
        (
            {"Affine1": nr.Affine(np.ones((4, 2)), 0.0)},
            torch.float32,
            np.ones((1, 4)),
            np.array([0]),
            TypeError,
            "float",
        ),
        (
            {"Affine1": nr.Dropout()},
            torch.float32,
            np.ones((1, 4)),
            np.array([0]),
            TypeError,
            "nn.Linear|Linear is another rule",
        ),
    ],
)
def test_what_cannot_be_judged_is_named(
    layers: Any, dtype: torch.dtype, x: Any, t: Array, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        check_parity(nr.Network(layers), one_layer(nn.Linear(4, 2, dtype=dtype)), x, t)


def test_tf32_is_off_while_judging_and_back_afterwards() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        backend = torch.backends.cudnn
        seen.append(backend.conv.fp32_precision == "ieee" if hasattr(backend, "conv") else not backend.allow_tf32)
        return x.relu()

    before = torch.backends.cudnn.allow_tf32
    check_layer("relu1", nr.Relu(), Function(look), np.ones((2, 2)), np.ones((2, 2)), Setting(torch.float32))
    assert seen
    assert all(seen)
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigmoid_written_by_hand_is_no_fault(dtype: torch.dtype) -> None:
    """1 / (1 + exp(-x)), as readers of the book write it: its gradient rounds more often than torch's own."""
    rng = np.random.default_rng(0)
    x, dout = rng.uniform(-30, 30, (200, 1000)), rng.standard_normal((200, 1000))
    rows = check_layer("sigmoid", nr.Sigmoid(), Function(lambda x: 1 / (1 + torch.exp(-x))), x, dout, Setting(dtype))
    assert all(row.ok for row in rows), [str(row) for row in rows if not row.ok]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1, 10, 30, 80])
def test_torchs_cross_entropy_is_no_fault(dtype: torch.dtype, scale: float) -> None:
    """On logits of every size: log_softmax rounds what it exponentiates once more than softmax."""
    rng = np.random.default_rng(0)
    x, t = scale * rng.standard_normal((20000, 10)), rng.integers(0, 10, 20000)
    rows = check_loss(x, t, Setting(dtype), nn.functional.cross_entropy)
    assert all(row.ok for row in rows), [str(row) for row in rows]


def test_nnpack_is_off_while_a_port_is_judged_and_on_again_afterwards() -> None:
    with Setting().computing():
        assert torch.backends.nnpack.set_flags(False) == (False,)
    assert torch.backends.nnpack.set_flags(True) == (True,)


def test_a_report_is_true_only_for_parity_and_shows_its_verdict() -> None:
    right = check_with(lambda port: None, torch.float64)
    wrong = check_with(weight_change("conv1.bias", lambda b: b + 1), torch.float64)
    assert right
    assert not wrong
    assert repr(right) == right.verdict
    assert repr(wrong).startswith("NO PARITY: port in float64 on cpu, ")


def log_softmax_and_nll(x: Tensor, t: Tensor) -> Tensor:
    return nn.functional.nll_loss(nn.functional.log_softmax(x, dim=1), t)


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, log_softmax_and_nll])
def test_a_loss_without_the_books_offset_is_named_and_no_fault(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    report = check_with(lambda _: None, torch.float64, loss=loss)
    assert report
    assert report.verdict.endswith("; the book adds 1e-7 inside the log, this loss does not")
    assert [row.view for row in report.rows if row.known] == ["local", "end-to-end"]
    assert report.to_text().count("known") == 2
    wrong = check_with(lambda _: None, torch.float64, loss=lambda x, t: 1.00001 * loss(x, t))
    assert not wrong
    assert not any(row.known for row in wrong.rows)


TIES: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "x * (x >= 0)": ("relu1", lambda x: x * (x >= 0), "exactly 0"),
    "maximum": ("relu1", lambda x: torch.maximum(x, torch.zeros_like(x)), "exactly 0"),
    "where": ("relu2", lambda x: torch.where(x < 0, 0.0, x), "exactly 0"),
    "amax": ("pool1", lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)), "the first in row order"),
}


@pytest.mark.parametrize("case", TIES)
def test_zeros_and_ties_are_judged_whatever_the_batch(case: str) -> None:
    """A random batch has none of them."""
    layer, function, says = TIES[case]
    report = check_with(layer_change(layer, Function(function)), torch.float64)
    failed = [row for row in report.rows if not row.ok and row.view == "local"]
    assert {row.layer for row in failed} == {layer}
    (at_ties,) = (row for row in failed if row.quantity == "grad_input at ties")
    assert says in str(at_ties)


def test_a_relu_that_is_wrong_elsewhere_too_is_not_explained_by_zeros() -> None:
    report = check_with(layer_change("relu1", Function(lambda x: torch.relu(x) * 1.5)), torch.float64)
    assert not any(row.cause for row in report.rows)


@pytest.mark.parametrize("where", ["x", "reference", "port"])
def test_what_is_not_finite_is_named_before_any_layer_is_blamed(where: str) -> None:
    reference = nr.SimpleConvNet(**ARCHITECTURE)
    port, (x, t) = SimpleConvNet.from_params(reference.params), seeded_batch(0, 8, (2, 8, 8), 6)
    if where == "x":
        x[3, 1, 5, 6] = np.nan
    elif where == "reference":
        reference.params["b2"][4] = np.inf
    else:
        with torch.no_grad():
            port.affine2.weight[2, 1] = np.nan
    says = {
        "x": r"x must be finite to be judged, got nan at \[3, 1, 5, 6\]",
        "reference": r"the reference's b2 must be finite .* got inf at \[4\]",
        "port": r"the port's affine2\.weight must be finite .* got nan at \[2, 1\]",
    }
    with pytest.raises(ValueError, match=says[where]):
        check_parity(reference, port, x, t)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.compile": lambda port: torch.compile(port, backend="eager"),
    "DataParallel": lambda port: nn.DataParallel(port),
    "both": lambda port: nn.DataParallel(torch.compile(port, backend="eager")),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at the input's
@pytest.mark.parametrize("case", WRAPPERS)
def test_a_wrapped_port_is_judged_inside_and_run_as_it_is(case: str) -> None:
    ran = []

    def wrapped(port: SimpleConvNet) -> Any:
        found = WRAPPERS[case](port)
        found.register_forward_hook(lambda *_: ran.append(1))
        return found

    assert check_with(wrapped, torch.float64)
    assert ran
    wrong = check_with(lambda port: wrapped(wrong_inside(port)), torch.float64).first_divergence
    assert wrong is not None
    assert wrong.layer == "affine1"


def wrong_inside(port: SimpleConvNet) -> SimpleConvNet:
    weight_change("affine1.bias", lambda b: b + 1)(port)
    return port
