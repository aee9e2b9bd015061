"""Gradients against values alone: central differences, Taylor remainders, adjoints; and that these catch wrong ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from parity.derivatives import adjoint_gap, taylor_slope
from torchport import SimpleConvNet, UnfoldConv2d
from torchport.choices import Model
from torchport.networks import CONVOLUTIONS
from torchport.parity import GradientRow, Setting, gradient_check
from torchport.parity.cases import book_gradient_case, seeded_batch, seeded_params
from torchport.parity.gradients import (
    CentralDifferences,
    central_differences,
    gradient_verdict,
    judge_gradients,
    port_gradients,
)

IMPLEMENTATIONS = ("numpy", *CONVOLUTIONS)

Params = dict[str, Array]


def small_case() -> tuple[nr.SimpleConvNet, Array, Array]:
    """The same with fewer parameters, of which each takes losses of its own."""
    conv_param = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
    rng = np.random.RandomState(0)
    net = nr.SimpleConvNet((1, 6, 6), conv_param, hidden_size=4, output_size=4, rng=rng)
    return net, rng.rand(1, 1, 6, 6), np.array([1])


@functools.cache
def differences(seed: int, batch_size: int) -> Mapping[str, CentralDifferences]:
    return central_differences(*book_gradient_case(seed, batch_size))


def gradients_of(implementation: Model, net: nr.SimpleConvNet, x: Array, t: Array, device: str = "cpu") -> Params:
    if implementation == "numpy":
        return net.gradient(x, t)
    return port_gradients(SimpleConvNet.from_params(net.params, implementation, device=device), x, t)


def judge(seed: int, batch_size: int, implementation: Model = "numpy", device: str = "cpu") -> dict[str, GradientRow]:
    gradients = gradients_of(implementation, *book_gradient_case(seed, batch_size), device)
    return {row.parameter: row for row in judge_gradients(differences(seed, batch_size), gradients)}


# --- Central differences


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_those_of_the_books_network(implementation: Model, device: str) -> None:
    """Of one image, as in the book, by its script: commands/test_scripts."""
    rows = judge(0, 3, implementation, device)
    assert gradient_verdict({implementation: list(rows.values())}).startswith("RIGHT: ")


def one_entry(gradient: Array, change: Callable[[Array], Array]) -> Array:
    """change applied to the largest entry alone."""
    largest = np.abs(gradient) == np.abs(gradient).max()
    return np.where(largest, change(gradient), gradient)


WRONG: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "W3 transposed": ("W3", np.transpose),
    "W1 with height and width swapped": ("W1", lambda g: g.transpose(0, 1, 3, 2)),
    "W1 of a flipped filter": ("W1", lambda g: g[:, :, ::-1, ::-1]),
    "W2 flattened as H, W, C": ("W2", lambda g: g.reshape(10, 4, 4, 10).transpose(1, 2, 0, 3).reshape(160, 10)),
    "b1 missing": ("b1", np.zeros_like),
    "b2 twice": ("b2", lambda g: 2 * g),
    "b3 with the sign of descent": ("b3", np.negative),
    "not divided by N": ("W2", lambda g: 3 * g),
    "W1 off by a thousandth in one entry": ("W1", lambda g: one_entry(g, lambda g: 1.001 * g)),
    "W2 off by a thousandth in one entry": ("W2", lambda g: one_entry(g, lambda g: 1.001 * g)),
    "b3 of the loss with 1e-7 inside the log": ("b3", lambda g: g * 0.1 / (0.1 + 1e-7)),
    "through float32": ("b3", lambda g: g.astype(np.float32).astype(np.float64)),
    "NaN in one entry": ("W1", lambda g: one_entry(g, lambda g: np.full_like(g, np.nan))),
    "NaN everywhere": ("W1", lambda g: np.full_like(g, np.nan)),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_gradient_fails_in_its_row_alone(case: str) -> None:
    parameter, spoil = WRONG[case]
    gradients = book_gradient_case(0, 3)[0].gradient(*book_gradient_case(0, 3)[1:])
    gradients[parameter] = np.ascontiguousarray(spoil(gradients[parameter]))
    rows = judge_gradients(differences(0, 3), gradients)
    assert [row.parameter for row in rows if not row.ok] == [parameter]
    assert f"first numpy {parameter}: [" in gradient_verdict({"numpy": rows})


BACKWARD: dict[str, tuple[type, Callable[[Any, Any, Array], Array], set[str]]] = {
    "the loss's gradient is not divided by N": (
        nr.SoftmaxWithLoss,
        lambda right, layer, dout: right(layer, dout) * len(layer.y),
        {"W1", "b1", "W2", "b2", "W3", "b3"},
    ),
    "relu passes everything": (nr.Relu, lambda right, layer, dout: dout, {"W1", "b1", "W2", "b2"}),
    "pooling chooses the entry after": (
        nr.Pooling,
        lambda right, layer, dout: np.roll(right(layer, dout), 1, axis=3),
        {"W1", "b1"},
    ),
    "the convolution is given the batch in reverse": (
        nr.Convolution,
        lambda right, layer, dout: right(layer, dout[::-1]),
        {"W1"},
    ),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_a_wrong_backward_fails_in_what_it_reaches(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, wrong, reached = BACKWARD[case]
    right = layer.backward  # type: ignore[attr-defined]
    monkeypatch.setattr(layer, "backward", lambda self, dout=1.0: wrong(right, self, dout))
    assert {name for name, row in judge(0, 3).items() if not row.ok} == reached


def test_a_port_without_a_bias_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: UnfoldConv2d, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.detach()
        return F.conv2d(input, self.weight, bias)

    monkeypatch.setattr(UnfoldConv2d, "forward", forward)
    assert [name for name, row in judge(0, 3, "unfold").items() if not row.ok] == ["b1"]


def test_a_kink_spoils_the_books_mean_and_not_the_verdict() -> None:
    row = judge(1, 1)["b2"]
    assert (row.kinks, row.set_aside, row.ok) == (1, 0, True)
    assert row.mean_difference > 1e-4
    assert judge(0, 3)["b2"].mean_difference < 1e-8


def test_where_all_is_set_aside_nothing_is_right() -> None:
    """A blank image and no biases: every relu stands on its kink."""
    net, x, t = small_case()
    rows = {row.parameter: row for row in gradient_check(net, 0 * x, t, net.gradient(0 * x, t))}
    for name in ("b1", "b2"):
        assert rows[name].set_aside == rows[name].kinks == rows[name].entries
    assert [name for name, row in rows.items() if not row.ok] == ["b1", "b2"]
    assert "nothing was judged" in gradient_verdict({"numpy": list(rows.values())})


def test_not_a_number_fails_also_where_an_entry_is_set_aside() -> None:
    found = CentralDifferences(np.zeros(2), np.array([np.nan, 0]), np.array([np.nan, 0]), kinks=1)
    for value, ok in ((1.0, True), (math.nan, False), (math.inf, False)):
        (row,) = judge_gradients({"b1": found}, {"b1": np.array([value, 0.0])})
        assert (row.ok, row.set_aside) == (ok, 1)


def test_the_books_differences_are_the_references() -> None:
    net, x, t = small_case()
    found = central_differences(net, x, t)
    for name, value in net.numerical_gradient(x, t).items():
        np.testing.assert_array_equal(found[name].book, value)


def test_a_network_of_ones_own_is_judged_and_not_changed(rng: np.random.Generator) -> None:
    affine = [nr.Affine(rng.standard_normal(shape), rng.standard_normal(shape[1])) for shape in ((5, 4), (4, 3))]
    net = nr.Network({"First": affine[0], "Sigmoid": nr.Sigmoid(), "Second": affine[1]})
    x, t = rng.standard_normal((6, 5)), rng.integers(0, 3, 6)
    before = {name: (value, value.copy()) for name, value in net.params.items()}
    right = net.gradient(x, t)
    assert all(row.ok and row.kinks == 0 for row in gradient_check(net, x, t, right))
    wrong = {**net.params, "b2": right["b2"]}
    assert [row.parameter for row in gradient_check(net, x, t, wrong) if row.ok] == ["b2"]
    for name, (value, copy) in before.items():
        assert net.params[name] is value
        np.testing.assert_array_equal(value, copy)


def test_a_limit_is_three_times_a_truncation_that_drowns_rounding(rng: np.random.Generator) -> None:
    """D(h) truncates a third of D(2h) - D(h). Large inputs bend the loss so much that rounding adds a thousandth."""
    net = nr.Network({"Affine": nr.Affine(rng.standard_normal((5, 3)) / 10, np.zeros(3))})
    x, t = 10 * rng.standard_normal((6, 5)), rng.integers(0, 3, 6)
    row = gradient_check(net, x, t, net.gradient(x, t))[0]
    assert row.worst.ratio == pytest.approx(1 / 3, rel=1e-2)


def test_an_unlikely_label_is_judged_without_the_offset() -> None:
    """At a probability far below 1e-7 the book's loss is flat, and its gradient is not."""
    net, x, t = small_case()
    net.params["b3"][2] = 40
    rows = {row.parameter: row for row in gradient_check(net, x, t, net.gradient(x, t))}
    assert all(row.ok for row in rows.values())
    assert rows["b3"].mean_difference > 0.1


# --- Taylor remainders

# At this scale a kink is some 1e-4 away along a random direction of unit length, and rounding shows below 1e-6.
STEPS = (3e-4, 1e-4, 3e-5, 1e-5)


def taylor(implementation: Model, seed: int, device: str, spoil: Callable[[Params], Params] = dict) -> float:
    net, _, _ = book_gradient_case(seed)
    net.set_params(seeded_params(seed, net.params))
    x, t = seeded_batch(seed, 2, (1, 10, 10))
    shapes = {name: value.shape for name, value in net.params.items()}

    def flat(values: Params) -> Array:
        return np.concatenate([values[name].ravel() for name in shapes])

    def loss(theta: Array) -> float:
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
        params = {n: v.reshape(shapes[n]) for n, v in zip(shapes, np.split(theta, ends), strict=True)}
        if implementation == "numpy":
            net.set_params(params)
            logits = torch.from_numpy(net.predict(x))
        else:
            port = SimpleConvNet.from_params(params, implementation, device=device)
            logits = port(torch.tensor(x, device=device)).cpu()
        return F.cross_entropy(logits, torch.from_numpy(t)).item()  # the loss without the 1e-7

    theta, grad = flat(net.params), flat(spoil(gradients_of(implementation, net, x, t, device)))
    direction = np.random.default_rng(seed).standard_normal(theta.shape)
    return taylor_slope(loss, grad, theta, direction / np.linalg.norm(direction), STEPS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_remainder_is_of_second_order(implementation: Model, seed: int, device: str) -> None:
    assert taylor(implementation, seed, device) > 1.9


@pytest.mark.parametrize("parameter", ["W1", "b1", "W2", "b2", "W3", "b3"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_with_one_gradient_off_by_a_tenth_it_is_of_first_order(implementation: Model, parameter: str) -> None:
    slope = taylor(implementation, 0, "cpu", lambda grads: {**grads, parameter: 1.1 * grads[parameter]})
    assert slope < 1.1


# --- Adjoints: filter, stride, pad, on images of 2 x 3 channels x 9 x 8 pixels

GEOMETRIES = [((1, 1), 1, 0), ((3, 3), 1, 0), ((3, 2), 1, 1), ((3, 3), 2, 0), ((2, 3), 2, 2), ((5, 4), 3, 1)]
geometries = pytest.mark.parametrize(("size", "stride", "pad"), GEOMETRIES, ids=str)

Size = tuple[int, int]
IMAGES, FILTERS = (2, 3, 9, 8), 4


def draw(rng: np.random.Generator, shape: tuple[int, ...], setting: Setting) -> Array:
    """Standard normal numbers that the setting's dtype can hold, in that dtype."""
    dtype = np.float64 if setting.dtype == torch.float64 else np.float32
    return rng.standard_normal(shape).astype(dtype)


Backward = Callable[[Array, Array, Array], tuple[Array, Array]]


def convolution(
    implementation: Model, setting: Setting, stride: int, pad: int
) -> tuple[Callable[[Array, Array], Array], Backward]:
    """The convolution of x with W, and (dx, dW) of x, W, dout."""

    def reference(x: Array, W: Array, dout: Array) -> tuple[Array, Array]:
        layer = nr.Convolution(W, 0.0, stride, pad)
        layer.forward(x)
        dx = layer.backward(dout)
        assert layer.dW is not None
        return dx, layer.dW

    def module(W: Array) -> nn.Conv2d:
        assert implementation != "numpy"
        size = (W.shape[2], W.shape[3])
        layer = CONVOLUTIONS[implementation](W.shape[1], W.shape[0], size, stride, pad, bias=False)
        layer.weight = nn.Parameter(setting.tensor(W))
        return layer

    def port(x: Array, W: Array, dout: Array) -> tuple[Array, Array]:
        layer, leaf = module(W), setting.tensor(x).requires_grad_()
        with setting.judging():
            dx, dW = torch.autograd.grad(layer(leaf), [leaf, layer.weight], setting.tensor(dout))
        return dx.cpu().numpy(), dW.cpu().numpy()

    def port_forward(x: Array, W: Array) -> Array:
        with setting.judging(), torch.no_grad():
            return np.asarray(module(W)(setting.tensor(x)).cpu().numpy())

    if implementation == "numpy":
        return lambda x, W: nr.Convolution(W, 0.0, stride, pad).forward(x), reference
    return port_forward, port


def adjoint_ratios(
    conv: Callable[[Array, Array], Array], backward: Backward, size: Size, setting: Setting, rng: np.random.Generator
) -> tuple[float, float]:
    """Gap over limit of a convolution as a map of the image, and as one of the filter."""
    x, W = draw(rng, IMAGES, setting), draw(rng, (FILTERS, IMAGES[1], *size), setting)
    y = draw(rng, conv(x, W).shape, setting)
    area = math.prod(size)
    in_x = adjoint_gap(
        lambda v: conv(v, W),
        lambda dout: backward(x, W, dout)[0],
        x,
        y,
        terms=(IMAGES[1] * area, FILTERS * area),
        magnitude=lambda v: conv(v, np.abs(W)),
        dtype=setting.dtype,
    )
    in_w = adjoint_gap(
        lambda v: conv(x, v),
        lambda dout: backward(x, W, dout)[1],
        W,
        y,
        terms=(IMAGES[1] * area, y.size // FILTERS),
        magnitude=lambda v: conv(np.abs(x), v),
        dtype=setting.dtype,
    )
    return in_x.ratio, in_w.ratio


@geometries
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_backward_of_a_convolution_is_its_adjoint(
    implementation: Model, size: Size, stride: int, pad: int, setting: Setting, rng: np.random.Generator
) -> None:
    conv, backward = convolution(implementation, setting, stride, pad)
    assert max(adjoint_ratios(conv, backward, size, setting, rng)) <= 1


def overwriting_col2im(col: Array) -> Array:
    """col2im that keeps the last of the overlapping windows instead of adding them; 3 x 3, stride 1, no padding."""
    pixels = nr.im2col(np.arange(math.prod(IMAGES)).reshape(IMAGES), 3, 3)
    image = np.zeros(math.prod(IMAGES), dtype=col.dtype)
    image[pixels.ravel()] = col.ravel()
    return image.reshape(IMAGES)


WRONG_ADJOINTS: dict[str, Callable[[Array], Array]] = {
    "col2im that overwrites": overwriting_col2im,
    "columns in another order": lambda col: nr.col2im(
        col.reshape(-1, 3, 3, 3).transpose(0, 1, 3, 2).reshape(col.shape), IMAGES, 3, 3
    ),
    "the batch reversed": lambda col: nr.col2im(col, IMAGES, 3, 3)[::-1],
    "off by a thousandth": lambda col: 1.001 * nr.col2im(col, IMAGES, 3, 3),
}


@pytest.mark.parametrize("case", WRONG_ADJOINTS)
def test_a_wrong_col2im_is_no_adjoint(case: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal(IMAGES)
    y = rng.standard_normal(nr.im2col(x, 3, 3).shape)
    assert adjoint_gap(lambda x: nr.im2col(x, 3, 3), WRONG_ADJOINTS[case], x, y, terms=(1, 9)).ratio > 1e6


WRONG_CONVOLUTIONS: dict[str, tuple[Callable[[Backward], Backward], int]] = {
    "dx of a flipped filter": (lambda right: lambda x, W, dout: right(x, W[:, :, ::-1, ::-1].copy(), dout), 0),
    "dW of half the batch": (lambda right: lambda x, W, dout: right(x[:1], W, dout[:1]), 1),
    "dW transposed": (lambda right: lambda x, W, dout: (x, right(x, W, dout)[1].transpose(0, 1, 3, 2)), 1),
}


@pytest.mark.parametrize("case", WRONG_CONVOLUTIONS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_wrong_backward_is_no_adjoint(
    implementation: Model, case: str, setting: Setting, rng: np.random.Generator
) -> None:
    spoil, which = WRONG_CONVOLUTIONS[case]
    conv, right = convolution(implementation, setting, 1, 1)

    def both(x: Array, W: Array, dout: Array) -> tuple[Array, Array]:
        """One of the two gradients wrong, the other right: only one may fail."""
        grads = [right(x, W, dout), right(x, W, dout)]
        grads[which] = spoil(right)(x, W, dout)
        return grads[0][0], grads[1][1]

    ratios = adjoint_ratios(conv, both, (3, 3), setting, rng)
    assert ratios[which] > 100
    assert ratios[1 - which] <= 1


# --- Bad input


def with_dropout() -> nr.Network:
    return nr.Network({"Affine": nr.Affine(np.ones((100, 2)), np.zeros(2)), "Dropout": nr.Dropout()})


def sure_network() -> nr.SimpleConvNet:
    net = book_gradient_case(0)[0]
    net.params["b3"][0] = 1e4
    return net


def check(**changed: Any) -> Any:
    net, x, t = book_gradient_case(0, 3)
    return judge_gradients(differences(0, 3), {**net.gradient(x, t), **changed})


def slope(**changed: Any) -> float:
    three = np.arange(3.0)
    arguments: dict[str, Any] = {"grad": 2 * three, "theta": three, "direction": three, "steps": (1e-2, 1e-3)}
    return taylor_slope(lambda x: float(x @ x), **{**arguments, **changed})


BAD_INPUT: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another name": (lambda: check(W4=np.zeros(3)), ValueError, r"unexpected \['W4'\]"),
    "another shape": (lambda: check(b1=np.zeros((10, 1))), ValueError, r"b1 is \(10, 1\), expected \(10,\)"),
    "another dtype": (lambda: check(b1=np.zeros(10, np.float32)), TypeError, "b1 has dtype float32"),
    "a random layer": (
        lambda: central_differences(with_dropout(), np.ones((1, 100)), np.array([1])),
        TypeError,
        "a loss with Dropout is another at every call",
    ),
    "a label of probability 0": (
        lambda: central_differences(sure_network(), *book_gradient_case(0)[1:]),
        ValueError,
        r"above 1e-154 .*, got 0\.0",
    ),
    "a direction of another shape": (lambda: slope(direction=np.ones(2)), ValueError, r"direction .*\(2,\)"),
    "a gradient of another shape": (lambda: slope(grad=np.ones((3, 1))), ValueError, r"grad .*\(3, 1\)"),
    "one step": (lambda: slope(steps=(0.1, 0.1)), ValueError, r"\[0\.1, 0\.1\]"),
    "a negative step": (lambda: slope(steps=(0.1, -0.1)), ValueError, r"\[0\.1, -0\.1\]"),
    "nothing but zeros": (lambda: slope(direction=np.zeros(3)), ValueError, r"got \[0\.0, 0\.0\]"),
    "an adjoint of another shape": (
        lambda: adjoint_gap(lambda x: x, lambda y: y[:1], np.ones(2), np.ones(2), terms=(1, 1)),
        ValueError,
        r"must have shape \(2,\), got \(1,\)",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(case: str) -> None:
    call, error, says = BAD_INPUT[case]
    with pytest.raises(error, match=says):
        call()
