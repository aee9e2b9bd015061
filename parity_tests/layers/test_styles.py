"""Right modules in other words than torch's own, on ordinary and on hostile data: within their layer's limits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from layers.judging import SETTINGS, ratios
from numpy_ref.checks import Array
from numpy_ref.functions import LOG_OFFSET, softmax
from torchport.layers import BatchNormalization, Setting, softmax_with_loss
from torchport.layers.loss import LogSoftmax, Softmax, loss_limits
from torchport.layers.smooth import running_limits
from torchport.networks.ports import load_layer

Draw = Callable[[np.random.Generator], Array]


class Written(nn.Module):
    """A function of the input, and of a weight and a bias where the layer has them; in bfloat16, from the first on."""

    def __init__(self, function: Callable[..., Tensor], layer: Any, setting: Setting) -> None:
        super().__init__()
        self.function, self.low = function, setting.mode == "bfloat16"
        for name, value in zip(("weight", "bias"), _parameters(layer), strict=False):
            self.register_parameter(name, nn.Parameter(setting.tensor(setting.round(value))))

    def forward(self, input: Tensor) -> Tensor:
        if not self.low:
            return self.function(input, *self.parameters())
        return self.function(input.bfloat16(), *(parameter.bfloat16() for parameter in self.parameters()))


def _parameters(layer: Any) -> list[Array]:
    return [getattr(layer, name) for name in ("W", "gamma", "b", "beta") if hasattr(layer, name)]


def logits(rng: np.random.Generator) -> Array:
    return np.asarray(rng.choice([0.1, 1, 30]) * rng.standard_normal((20, 10)))


def spread(rng: np.random.Generator) -> Array:
    return np.asarray(rng.choice([1e-4, 1, 10]) * rng.standard_normal((200, 10)))


def images(rng: np.random.Generator) -> Array:
    return np.asarray(rng.choice([1e-4, 1, 10]) * rng.standard_normal((4, 6, 8, 8)))


def blank(rng: np.random.Generator) -> Array:
    """Maps of one value, as behind a relu of blank patches; large enough for their sums to round."""
    return np.zeros((3, 2, 30, 30)) + rng.random((3, 2, 1, 1))


BATCHES: dict[str, Draw] = {
    "normal": lambda rng: rng.standard_normal((32, 12)),
    "two samples": lambda rng: rng.standard_normal((2, 12)),
    "many": lambda rng: rng.random((600, 12)),
    "far from 0": lambda rng: 100 + rng.standard_normal((32, 12)),
    "constant columns": lambda rng: np.zeros((1000, 12)) + 10 * rng.standard_normal(12),
    "far constant columns": lambda rng: np.zeros((64, 12)) + 1e5 * rng.standard_normal(12),
    "far and hardly moved": lambda rng: 1e5 * rng.standard_normal(12) + 1e-3 * rng.standard_normal((64, 12)),
    "black and white": lambda rng: np.where(rng.random((100, 12)) < 0.1, 1.0, 0.0),
    "one huge": lambda rng: np.where(np.arange(1200).reshape(100, 12) == 7, 1e4, rng.standard_normal((100, 12))),
    "tiny": lambda rng: 1e-5 * rng.standard_normal((50, 12)),
}


def normalised(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return (x - x.mean(0)) * torch.rsqrt(x.var(0, unbiased=False) + 1e-6) * gamma + beta


def fused(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-6)


def response(x: Tensor) -> Tensor:
    squares = F.pad(x.square(), (0, 0, 0, 0, 1, 1))
    return x / (1.5 + 0.3 * sum(squares[:, k : k + x.shape[1]] for k in range(3))) ** 0.75


def subsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    sums = x[:, :, ::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, ::2] + x[:, :, 1::2, 1::2]
    return sums * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def norm(_: np.random.Generator) -> nr.BatchNormalization:
    return nr.BatchNormalization(np.linspace(-1, 2, 12), np.linspace(-3, 3, 12))


STYLES: dict[str, tuple[Any, Callable[..., Tensor], Draw]] = {
    "sigmoid of exp": (nr.Sigmoid(), lambda x: 1 / (1 + torch.exp(-x)), spread),
    "sigmoid": (nr.Sigmoid(), torch.sigmoid, spread),
    "tanh": (nr.Tanh(), torch.tanh, spread),
    "relu by clamp": (nr.Relu(), lambda x: x.clamp(min=0), images),
    "relu by where": (nr.Relu(), lambda x: torch.where(x > 0, x, 0), images),
    "overlapping maxima": (nr.Pooling(3, 3, 1), lambda x: F.max_pool2d(x, 3, 1), images),
    "maxima of unfold": (nr.Pooling(3, 3, 2), lambda x: x.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4).max(4)[0], images),
    "overlapping means": (nr.AveragePooling(3, 3, 1), lambda x: F.avg_pool2d(x, 3, 1), images),
    "means of slices": (
        nr.AveragePooling(2, 2),
        lambda x: (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4,
        images,
    ),
    "global mean of blank maps": (nr.AveragePooling(30, 30), lambda x: x.mean((2, 3), keepdim=True), blank),
    "subsampling of slices": (nr.Subsampling(np.arange(1, 7) / 3, np.arange(6) / 7), subsampled, images),
    "response": (nr.LocalResponseNormalization(3, 0.3, 0.75, 1.5), response, images),
    "softmax by hand": (Softmax(), lambda x: x.exp() / x.exp().sum(1, keepdim=True), logits),
    "softmax": (Softmax(), lambda x: x.softmax(1), logits),
    "log_softmax": (LogSoftmax(), lambda x: x.log_softmax(1), logits),
    "logsumexp": (LogSoftmax(), lambda x: x - x.logsumexp(1, keepdim=True), logits),
    "log of softmax": (LogSoftmax(), lambda x: x.softmax(1).log(), lambda rng: rng.standard_normal((20, 10))),
    **{f"normalised by hand, {name}": (norm(np.random.default_rng()), normalised, BATCHES[name]) for name in BATCHES},
    **{f"batch_norm, {name}": (norm(np.random.default_rng()), fused, BATCHES[name]) for name in BATCHES},
}


@pytest.mark.parametrize("arithmetic", SETTINGS)
@pytest.mark.parametrize("style", STYLES)
def test_a_right_module_is_within_its_limits(style: str, arithmetic: str, rng: np.random.Generator) -> None:
    (layer, function, draw), setting = STYLES[style], SETTINGS[arithmetic]
    for _ in range(8):
        x = draw(rng)
        shape = copy.copy(layer).forward(x).shape
        dout = rng.standard_normal(shape)
        found = ratios(layer, Written(function, layer, setting), x, dout, setting)
        assert max(found.values()) <= 1, found


# Nothing is left of some gradients, or of the deviation.
HOSTILE = ("two samples", "far from 0", "constant columns", "hardly moved", "one huge", "tiny")


@pytest.mark.parametrize("style", [style for style in STYLES if not style.endswith(HOSTILE)])
def test_an_error_of_a_ten_thousandth_is_above_its_limits(style: str, rng: np.random.Generator) -> None:
    """Of the output and of all gradients, in float32."""
    layer, function, draw = STYLES[style]
    x = draw(rng)
    dout = rng.standard_normal(copy.copy(layer).forward(x).shape)
    wrong = Written(lambda *given: 1.0001 * function(*given), layer, SETTINGS["float32"])
    found = ratios(layer, wrong, x, dout, SETTINGS["float32"])
    assert min(found.values()) > 1, found


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "the book's": (softmax_with_loss, LOG_OFFSET),
    "cross_entropy": (F.cross_entropy, 0.0),
    "nll of log_softmax": (lambda x, t: F.nll_loss(x.log_softmax(1), t), 0.0),
    "by hand": (lambda x, t: -(x.softmax(1)[range(len(t)), t] + LOG_OFFSET).log().mean(), LOG_OFFSET),
    "a summed one": (lambda x, t: F.cross_entropy(x, t, reduction="sum") / len(t), 0.0),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_a_right_loss_is_within_its_limits(name: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    """On logits of every size: F.cross_entropy rounds where the book does not."""
    (loss, offset), setting = LOSSES[name], Setting(dtype)
    for scale in (1e-3, 1, 10, 30, 80):
        x, t = setting.round(scale * rng.standard_normal((300, 10))), rng.integers(0, 10, 300)
        leaf = setting.tensor(x).requires_grad_()
        value = loss(leaf, torch.from_numpy(t))
        (grad,) = torch.autograd.grad(value, leaf)
        limit, grad_limit = loss_limits(x, t, setting.arithmetic, offset)
        y = softmax(x)
        log_y = LogSoftmax().forward(x)[range(300), t]
        expected = -np.mean(np.logaddexp(log_y, np.log(offset)) if offset else log_y)
        assert abs(value.item() - expected) <= limit
        if name != "by hand":  # the gradient of which knows of the 1e-7
            assert (np.abs(grad.double().numpy() - (y - np.eye(10)[t]) / 300) <= grad_limit).all()
        assert limit <= 1e3 * setting.arithmetic.u * max(1, scale) ** 2
        assert grad_limit.max() <= 1e3 * setting.arithmetic.u * max(1, scale) / 300


def test_the_books_loss_is_never_off_by_more_than_its_offset_lets_it(rng: np.random.Generator) -> None:
    """Of 5,000 classes bfloat16's softmax may be off by more than itself."""
    x, t = rng.standard_normal((30, 5000)), rng.integers(0, 5000, 30)
    assert 1 < loss_limits(x, t, SETTINGS["bfloat16"].arithmetic)[0] < -np.log(LOG_OFFSET)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", BATCHES)
def test_running_statistics_are_within_their_limits(batch: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    setting = Setting(dtype)
    x, (mean, var) = setting.round(BATCHES[batch](rng)), setting.round(rng.random((2, 12)))
    layer = nr.BatchNormalization(np.ones(12), np.zeros(12), 0.75, mean, var)
    module = BatchNormalization(12, momentum=0.75).to(dtype)
    load_layer(module, layer)
    module(setting.tensor(x))
    after = copy.copy(layer)
    after.forward(x)
    for name, limit in running_limits(layer, x, setting.arithmetic).items():
        error = np.abs(getattr(module, name).double().numpy() - getattr(after, name))
        assert (error <= limit).all()
        if dtype == torch.float32 and not batch.endswith(HOSTILE):
            assert 0 < error.max() <= limit.max() < 3e-6 * np.abs(getattr(after, name)).max()


def test_a_constant_feature_whose_gradients_cancel_is_within_its_limits(rng: np.random.Generator) -> None:
    """Its xn are 0, and in float32 all off alike, so that only roundings are left of their product with dout."""
    layer, x = nr.BatchNormalization(np.ones(40), np.zeros(40)), np.tile(rng.standard_normal(40), (9, 1))
    dout = np.concatenate([each := rng.standard_normal((4, 40)), np.zeros((1, 40)), -each])
    module = BatchNormalization(40).float()
    assert max(ratios(layer, module, x, dout, Setting(torch.float32)).values()) <= 1
