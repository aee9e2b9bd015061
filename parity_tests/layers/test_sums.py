"""Limits of sums on links: one layer, right, on random geometry and data of every kind, hostile ones among them.

pytest parity_tests/layers/test_sums.py --cases 10000 counts the alarms in as many of each dtype, and shows how near
to their limits they come.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from tqdm.auto import tqdm

import numpy_ref as nr
from layers.judging import SETTINGS, ratios
from numpy_ref.checks import Array
from torchport.choices import BFLOAT16, IEEE, TF32, Mode
from torchport.layers import Setting, kind_of
from torchport.layers.kinds import Terms
from torchport.layers.sums import own_limit
from torchport.networks.ports import load_layer

FEW = 80
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _structured(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A bright half beside a dark one, as an edge in a picture."""
    x = np.full(shape, 0.1)
    x[..., : shape[-1] // 2] = 1 + 0.01 * rng.random()
    return x


def _alike(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One and the same map in every channel, as filters that have learned nothing make."""
    return np.zeros(shape) + rng.standard_normal((shape[0], 1, *shape[2:]))


def _strokes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """As a digit of MNIST: bright strokes of whole 255ths on exact zeros."""
    return np.round(np.clip(rng.normal(0.8, 0.3, shape), 0, 1) * 255) / 255 * (rng.random(shape) < 0.19)


def _per_map(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """One number a map, as behind a global average pool."""
    return np.zeros(shape) + rng.standard_normal((*shape[:2], *(1 for _ in shape[2:])))


KINDS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "relu": lambda rng, shape: np.maximum(rng.standard_normal(shape), 0),
    "positive": lambda rng, shape: rng.random(shape),
    "sparse": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.05),
    "one huge": lambda rng, shape: np.where(rng.random(shape) < 1 / np.prod(shape), 1e4, rng.standard_normal(shape)),
    "heavy tails": lambda rng, shape: rng.standard_t(1.5, shape),
    "constant": lambda rng, shape: np.full(shape, rng.standard_normal()),
    "sorted": lambda rng, shape: np.sort(rng.standard_normal(shape).ravel()).reshape(shape),
    "halves": _structured,
    "constant per map": _per_map,
    "channels alike": _alike,
    "strokes": _strokes,
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Arranged(nn.Module):
    """A module that is given its input in a memory format, in which torch takes other kernels."""

    def __init__(self, module: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.weight, self.bias, self.inner = module.weight, module.bias, [module]
        self.memory_format = memory_format

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner[0](input.contiguous(memory_format=self.memory_format))
        return found


def link(case: int) -> tuple[nr.Convolution | nr.Affine, Array, dict[str, str]]:
    """A layer, an input of it, and what they are."""
    rng = np.random.default_rng(case)
    of = {name: str(rng.choice(list(KINDS))) for name in ("x", "W", "dout")}
    if case % 3 == 0:
        n, d, h = (int(rng.integers(1, most)) for most in (40, 3000, 40))
        W = KINDS[of["W"]](rng, (d, h)) / np.sqrt(d)
        return nr.Affine(W, rng.standard_normal(h)), KINDS[of["x"]](rng, (n, d)), of
    size, f, n = (int(rng.integers(1, most)) for most in (8, 33, 9))
    c, side = int(rng.choice([1, 2, 3, 8, 32, 64])), size + int(rng.integers(0, 12))
    W = KINDS[of["W"]](rng, (f, c, size, size)) / size
    layer = nr.Convolution(W, rng.standard_normal(f), int(rng.integers(1, 3)), int(rng.integers(0, size)))
    return layer, KINDS[of["x"]](rng, (n, c, side, side)), {**of, "format": str(rng.choice(list(FORMATS)))}


PLACES: list[tuple[str, Mode]] = [("cuda:0", IEEE), ("cuda:0", TF32), ("cuda:0", BFLOAT16), ("cpu", BFLOAT16)]
UP_TO = (8, 64, 512, 4096, 10**9)  # products


def judge(case: int, setting: Setting) -> tuple[dict[str, float], dict[tuple[str, int], float]]:
    """error/limit of a right layer by quantity, and by the kind of data and the number of products."""
    layer, x, of = link(case)
    dout = KINDS[of["dout"]](np.random.default_rng([case, 1]), copy.copy(layer).forward(x).shape)
    module = kind_of(layer).module(layer, ("conv2d", "unfold")[case % 2]).to(setting.dtype)
    load_layer(module, layer)
    if "format" in of:
        module = Arranged(module, FORMATS[of["format"]])
    found = ratios(layer, module, x, dout, setting)
    samples, fan = dout.size // dout.shape[1], int(np.prod(layer.W.shape[1:])) if layer.W.ndim == 4 else len(layer.W)
    judged = (("output", of["x"], fan), ("W", of["x"], samples), ("W", of["dout"], samples), ("b", of["dout"], samples))
    buckets: dict[tuple[str, int], float] = defaultdict(float)
    for quantity, data, k in (*judged, ("grad_input", of["dout"], layer.W.size // layer.W.shape[layer.W.ndim == 4])):
        bucket = data, next(most for most in UP_TO if k <= most)
        buckets[bucket] = max(buckets[bucket], found[quantity])
    return found, buckets


@pytest.mark.parametrize("arithmetic", SETTINGS)
def test_no_right_link_is_above_its_limits(
    arithmetic: str, request: pytest.FixtureRequest, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cases = request.config.getoption("--cases")
    alarms: list[str] = []
    largest: dict[tuple[str, int], float] = defaultdict(float)
    with capsys.disabled():
        for case in tqdm(range(cases or FEW), unit="link", disable=None if cases else True):
            found, buckets = judge(case, SETTINGS[arithmetic])
            alarms += [f"case {case} ({link(case)[2]}): {found}"] if max(found.values()) > 1 else []
            for bucket, ratio in buckets.items():
                largest[bucket] = max(largest[bucket], ratio)
    if cases:
        shown += [f"{len(alarms)} alarms in {cases} links; largest error/limit by data and products", ""]
        shown += [f"| {arithmetic} | " + " | ".join(f"to {k}" for k in UP_TO[:-1]) + " | more |"]
        shown += ["|---" * (len(UP_TO) + 1) + "|"]
        shown += [f"| {kind} | " + " | ".join(f"{largest[kind, k]:.2f}" for k in UP_TO) + " |" for kind in KINDS]
        shown += [""]
    assert alarms == []


def test_limits_are_near_to_what_rounding_does() -> None:
    """Random data, strictly sequential sums: the limit is not twenty times what they are off by."""
    for k in (25, 100, 1000):
        rng = np.random.default_rng(k)
        products = rng.standard_normal((4000, k)).astype(np.float32).astype(np.float64)
        found = np.zeros(4000, np.float32)
        for column in products.T:
            found += column.astype(np.float32)
        a = Setting(torch.float32).arithmetic
        total, squares, size = products.sum(axis=1), (products**2).sum(axis=1), np.abs(products).sum(axis=1)
        ratio = np.abs(found - total) / a.of_products(np.full(4000, k), size, total, squares)
        assert 0.05 < ratio.max() < 1


def test_the_limits_are_those_that_are_derived() -> None:
    """By hand: 25 products of sum 3, of sizes that sum to 20 and squares that sum to 25."""
    a = Setting(torch.float32).arithmetic
    limit = a.of_products(np.array(25), np.array(20.0), np.array(3.0), np.array(25.0))
    assert limit / a.u == pytest.approx(182.213, abs=1e-3)
    capped = a.of_products(np.array(3), np.array(4.0), np.array(3.0), np.array(25.0))
    assert capped / a.u == pytest.approx(16, abs=1e-3)


def test_own_products_are_taken_in_the_worst_order_of_their_places() -> None:
    """Of an image's pixels with signs in turn: the sums of a kernel that takes the negative ones first grow most."""
    layer, a = nr.Affine(np.ones((400, 1)), np.array([0.5])), Setting(torch.float32).arithmetic
    x = (np.arange(1, 401) * np.resize([1.0, -1.0], 400)).reshape(1, 1, 20, 20)
    products = kind_of(layer).rule.products
    assert products is not None
    found = own_limit(products(layer, x, np.ones((1, 1)), "output", (0, 0)), a)
    steps = [np.cumsum([0.5, *sorted(x.ravel(), reverse=down)])[1:] for down in (False, True)]
    whole = np.sum(x**2) + 0.25 + max(np.sum(step**2) for step in steps)
    assert found / a.u == pytest.approx(8 / np.sqrt(3) * np.sqrt(whole), rel=1e-3)


def test_equal_terms_are_judged_by_themselves() -> None:
    """0.1 added 10^5 times: all roundings of a binade are alike, and L knows nothing of that."""
    k, a = 10**5, Setting(torch.float32).arithmetic
    term = float(np.float32(0.1))
    found = float(np.cumsum(np.full(k, term, np.float32), dtype=np.float32)[-1])
    error, terms = abs(found - k * term), np.full(k, term)
    assert error > a.of_products(np.array(k), np.array(k * term), np.array(k * term), np.array(k * term**2))
    assert error < own_limit(Terms([terms]), a)


def test_a_product_left_out_is_above_both_limits() -> None:
    rng = np.random.default_rng(0)
    layer, x = nr.Affine(rng.standard_normal((3456, 4)), rng.standard_normal(4)), rng.standard_normal((5, 3456))

    class Short(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([input[:, :-1], torch.zeros_like(input[:, -1:])], dim=1))

    module = Short(3456, 4)
    load_layer(module, layer)
    found = ratios(layer, module, x, rng.standard_normal((5, 4)), Setting(torch.float32))
    assert {quantity for quantity, ratio in found.items() if ratio > 1} == {"output", "grad_input", "W"}


def cut_off(x: Array) -> Array:
    """As TensorFloat-32 holds it: the last 13 of float32's 23 bits are gone."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("data", ["normal", "positive", "constant", "one huge"])
def test_what_tensorfloat_32_cuts_off_is_allowed_for(data: str) -> None:
    """Emulated: exact products of what is left of the operands, added up in float32. No GPU was measured."""
    a = Setting(torch.float32).arithmetic._replace(u_operand=2.0**-10, cuts=True)
    rng, ratios_found = np.random.default_rng(0), []
    for k in (1, 10, 300, 3000):
        w = rng.standard_normal((k, 50)) if data == "normal" else KINDS[data](rng, (k, 50))
        layer, x = nr.Affine(w, rng.standard_normal(50)), KINDS[data](rng, (40, k))
        products, steps = layer.forward(x), np.zeros((40, 50), np.float32)
        for column, row in zip(cut_off(x).T, cut_off(w), strict=True):
            steps = (steps + np.outer(column, row)).astype(np.float32)
        error, rule = np.abs(steps + layer.b - products), kind_of(layer).rule
        limit = rule.forward(layer, x, a)
        assert rule.products is not None
        for index in zip(*np.nonzero(error > limit), strict=True):  # one number in all products: cut off alike
            limit[index] = own_limit(rule.products(layer, x, products, "output", tuple(map(int, index))), a)
        ratios_found.append(np.max(error / limit))
    assert 0.2 < max(ratios_found) <= 1


@pytest.mark.parametrize("most", [1, 7, 20])
def test_limits_are_the_same_whatever_is_computed_at_a_time(
    most: int, setting: Setting, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to one input, of which the weight may have more numbers than that."""
    layer, x = nr.Affine(rng.standard_normal((12, 5)), rng.standard_normal(5)), rng.standard_normal((4, 3, 2, 2))
    dout, backward = rng.standard_normal((4, 5)), kind_of(layer).rule.backward
    whole = backward(layer, x, dout, setting.arithmetic)
    monkeypatch.setattr("torchport.layers.sums.MOST", most)
    parts = backward(layer, x, dout, setting.arithmetic)
    np.testing.assert_allclose(parts.grad_input, whole.grad_input, rtol=1e-12)
    for name, limit in whole.grads.items():
        np.testing.assert_allclose(parts.grads[name], limit, rtol=1e-12)


# Lavin & Gray's F(4, 3): arXiv:1509.09308, section 4.3.
A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=np.float64)
B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float64,
)
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24


def both(matrix: Array, x: torch.Tensor) -> torch.Tensor:
    """A transform of the last two axes."""
    m = torch.tensor(matrix, dtype=x.dtype)
    return m @ x @ m.T


def winograd(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x (N, C, H, W) by 3 x 3 filters w, 4 x 4 outputs at a time."""
    tiles = both(B, x.unfold(2, 6, 4).unfold(3, 6, 4))
    y = both(A, torch.einsum("nchwij,ocij->nohwij", tiles, both(G, w)))
    found: torch.Tensor = y.permute(0, 1, 2, 4, 3, 5).reshape(len(x), len(w), x.shape[2] - 2, x.shape[3] - 2)
    return found


def fourier(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    size = x.shape[2:]
    products = torch.einsum("nchw,ochw->nohw", torch.fft.rfft2(x), torch.fft.rfft2(w, s=size).conj())
    found: torch.Tensor = torch.fft.irfft2(products, s=size)[..., :-2, :-2]
    return found


def of_transforms(c: int, side: int, kind: str) -> tuple[nr.Convolution, Array, Array]:
    """A layer, an input, dark on one side, and an upstream gradient, dark on the other: many sums have no term."""
    rng, setting = np.random.default_rng([c, side]), Setting(torch.float32, mode="bfloat16")
    x, dout = KINDS[kind](rng, (4, c, side + 2, side + 2)), rng.standard_normal((4, 8, side, side))
    x[..., side // 2 :], dout[..., : side // 2 + 2] = 0, 0
    W = setting.round(rng.standard_normal((8, c, 3, 3)) / np.sqrt(9 * c))
    return nr.Convolution(W, np.zeros(8)), setting.round(x), setting.round(dout)


def limits(layer: nr.Convolution, x: Array, dout: Array, *, fast: bool) -> list[Array]:
    """Of output, grad_input and W, in bfloat16 on CUDA; fast: with what transforms are allowed."""
    a, rule = Setting(torch.float32, mode="bfloat16").arithmetic, kind_of(layer).rule
    a = a._replace(cuts=True, u_fast=a.u_sum if fast else 0.0)
    backward = rule.backward(layer, x, dout, a)
    return [rule.forward(layer, x, a), backward.grad_input, backward.grads["W"]]


@pytest.mark.parametrize("algorithm", [winograd, fourier])
def test_what_transforms_round_is_allowed_for_in_bfloat16(algorithm: Callable[..., torch.Tensor]) -> None:
    """Emulated in float32, the result rounded, as cuDNN's: where nothing is added up they make no zero."""
    largest = dict[bool, list[float]]({False: [], True: []})
    for (c, side), kind in itertools.product(((1, 8), (16, 20), (64, 8)), KINDS):
        layer, x, dout = of_transforms(c, side, kind)
        ran = copy.copy(layer)
        expected = ran.forward(x), ran.backward(dout), ran.dW
        leaf, weight = (torch.tensor(each, dtype=torch.float32, requires_grad=True) for each in (x, layer.W))
        y = algorithm(leaf, weight)
        found = y, *torch.autograd.grad(y, [leaf, weight], torch.tensor(dout, dtype=torch.float32))
        for fast, worst in largest.items():
            for each, exact, limit in zip(found, expected, limits(layer, x, dout, fast=fast), strict=True):
                error = np.abs(each.detach().bfloat16().double().numpy() - exact)
                worst.append(
                    float(np.max(np.divide(error, limit, out=np.where(error > 0, np.inf, 0), where=limit > 0)))
                )
    assert max(largest[False]) == np.inf
    assert 0.1 < max(largest[True]) < 1


def test_what_transforms_are_allowed_is_derived_from_winograds_matrices() -> None:
    """And Winograd's are his, which a misprint would make an emulation of nothing."""
    layer, x, _ = of_transforms(3, 8, "normal")
    y = winograd(*(torch.tensor(each) for each in (x, layer.W)))
    np.testing.assert_allclose(y, copy.copy(layer).forward(x), atol=1e-13)
    amplified = np.max(A**2 @ ((G**2).sum(axis=1) * (B**2).sum(axis=1))) / (3 * 6)
    assert amplified == pytest.approx(5.24, abs=0.01)
    a = Setting(torch.float32, mode="bfloat16").arithmetic._replace(u_fast=1.0)
    assert a.of_transforms(62, np.array([[1.0]])).item() == pytest.approx(5 * 6 * np.sqrt(62 + 38))
    assert amplified < 6


@pytest.mark.parametrize(("c", "side"), [(1, 28), (16, 28), (32, 14), (64, 8)])
def test_no_fault_hides_behind_what_transforms_are_allowed(c: int, side: int) -> None:
    """It is less than a fifth of what an ordinary entry's own sum, rounded to bfloat16, is allowed."""
    rng = np.random.default_rng(c)
    layer = nr.Convolution(rng.standard_normal((16, c, 3, 3)) / np.sqrt(9 * c), np.zeros(16), 1, 1)
    x, dout = np.maximum(rng.standard_normal((8, c, side, side)), 0), rng.standard_normal((8, 16, side, side))
    for plain, fast in zip(*(limits(layer, x, dout, fast=fast) for fast in (False, True)), strict=True):
        assert 0 < np.median(fast - plain) < np.median(plain) / 5


def test_transforms_are_allowed_for_where_they_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By cuDNN in bfloat16: with a stride of 1, and filters of more than one pixel."""
    monkeypatch.setattr("torchport.layers.arithmetic.check_device", lambda name, device: device)  # CUDA on any machine
    on = {(place, mode): Setting(torch.float32, place, mode).arithmetic.u_fast for place, mode in PLACES}
    assert {where for where, u in on.items() if u} == {("cuda:0", "bfloat16")}
    for size, stride, allowed in ((3, 1, True), (3, 2, False), (1, 1, False)):
        layer, x = nr.Convolution(np.ones((1, 1, size, size)), np.zeros(1), stride), np.ones((1, 1, 7, 7))
        dout = copy.copy(layer).forward(x)
        with_, without = (limits(layer, x, dout, fast=fast) for fast in (True, False))
        assert [bool((a > b).all()) for a, b in zip(with_, without, strict=True)] == 3 * [allowed]
