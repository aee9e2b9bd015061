"""The planted bugs: each a small change to running code, each to be caught at the right layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array, recorded
from numpy_ref.optimizer import EPS
from parity.planted import (
    Bug,
    Spoil,
    first_failing,
    in_layer,
    in_loss,
    in_optimizer,
    in_port,
    in_reference,
    in_run,
    small_deep_network,
    small_network,
)
from torchport.layers import EXACT, BatchNormalization, Dropout, Subsampling
from torchport.layers.columns import im2col
from torchport.layers.loss import softmax_with_loss
from torchport.networks.ports import load_layer
from torchport.optimizers import BookAdam, make_optimizer
from torchport.parity.compare import compare
from torchport.parity.rows import Row

# --- Small changes to a port


def change(layer: str, function: Callable[[Any, Tensor], Tensor]) -> Spoil:
    """Let a layer's forward be function(module, x)."""

    def spoil(port: nn.Sequential) -> None:
        module = port.get_submodule(layer)
        module.__dict__["forward"] = lambda x: function(module, x)

    return spoil


def weights(function: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Spoil:
    """Load what function makes of the port's state_dict."""

    def spoil(port: nn.Sequential) -> None:
        state = {name: value.clone() for name, value in port.state_dict().items()}
        port.load_state_dict({**state, **function(state)})

    return spoil


class _Regrad(torch.autograd.Function):
    """A value, with a gradient of one's own that another tensor gets."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.function = function
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, ctx.function(grad), None


def regrad(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """x, whose gradient is function's of what it was."""
    result: Tensor = _Regrad.apply(x.detach(), x, function)
    return result


def only_value(x: Tensor, gradient_of: Tensor) -> Tensor:
    """The value of x with the gradient of another tensor of its shape."""
    result: Tensor = _Regrad.apply(x.detach(), gradient_of, lambda grad: grad)
    return result


def in_tf32(x: Tensor) -> Tensor:
    """x rounded to the ten bits of a TensorFloat-32 factor."""
    return only_value((x.float().view(torch.int32) & ~0x1FFF).view(torch.float32).to(x.dtype), x)


def conv(m: Any, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **options: Any) -> Tensor:
    """The module's own convolution, but for what is given."""
    result: Tensor = F.conv2d(x, m.weight if weight is None else weight, m.bias if bias is None else bias, **options)
    return result


def half_batch(m: Any, x: Tensor) -> Tensor:
    """A linear layer whose weight has its gradient from the first half of the batch."""
    first, second = x.chunk(2)
    return torch.cat([F.linear(first, m.weight, m.bias), F.linear(second, m.weight.detach(), m.bias)])


def corner_bias(m: Any, x: Tensor) -> Tensor:
    """A convolution whose bias has its gradient from one pixel."""
    y = conv(m, x, bias=m.bias.detach())
    at_corner = torch.zeros_like(y)
    at_corner[:, :, 0, 0] = 1
    zero: Tensor = m.bias - m.bias.detach()
    return y + at_corner * zero.view(-1, 1, 1)


def one_nan(m: Any, x: Tensor) -> Tensor:
    """A linear layer with NaN in the last place."""
    y = F.linear(x, m.weight, m.bias)
    return torch.where(torch.arange(y.numel(), device=y.device).view_as(y) == y.numel() - 1, torch.nan, y)


class _OverwritingIm2col(torch.autograd.Function):
    """im2col of 3x3 windows, whose gradient is written into the image and not added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return im2col(x, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        n, c, h, w = ctx.shape
        image = grad.new_zeros(ctx.shape)
        by_offset = grad.view(n, h - 2, w - 2, c, 3, 3)
        for y in range(3):
            for x in range(3):
                image[:, :, y : y + h - 2, x : x + w - 2] = by_offset[..., y, x].permute(0, 3, 1, 2)
        return image


def by_columns(m: Any, x: Tensor, columns: Tensor, im2col: Callable[[Tensor], Tensor]) -> Tensor:
    """A 3x3 convolution as a product of im2col's rows with a matrix (out_channels, C*3*3)."""
    n, _, h, w = x.shape
    return F.linear(im2col(x), columns, m.bias).view(n, h - 2, w - 2, -1).permute(0, 3, 1, 2)


PORT = [
    in_port(
        "col2im overwrites and does not add",
        "conv1",
        change("conv1", lambda m, x: by_columns(m, x, m.weight.flatten(1), _OverwritingIm2col.apply)),
    ),
    in_port("convolution without bias", "conv1", change("conv1", lambda m, x: conv(m, x, bias=0 * m.bias))),
    in_port("bias added twice", "conv1", change("conv1", lambda m, x: conv(m, x, bias=2 * m.bias))),
    in_port("H and W swapped", "conv1", change("conv1", lambda m, x: conv(m, x.transpose(2, 3)))),
    in_port(
        "filter flipped: a true convolution", "conv1", change("conv1", lambda m, x: conv(m, x, m.weight.flip(2, 3)))
    ),
    in_port("input channels reversed", "conv1", change("conv1", lambda m, x: conv(m, x.flip(1)))),
    in_port(
        "im2col columns as fy, fx, c",
        "conv1",
        change("conv1", lambda m, x: by_columns(m, x, m.weight.permute(0, 2, 3, 1).flatten(1), lambda x: im2col(x, 3))),
    ),
    in_port("im2col rows as out_x, out_y", "conv1", change("conv1", lambda m, x: conv(m, x).transpose(2, 3))),
    in_port("stride off by one", "conv1", change("conv1", lambda m, x: conv(m, x, stride=2))),
    in_port("pad off by one", "conv1", change("conv1", lambda m, x: conv(m, x, padding=1))),
    in_port(
        "pad off by one, cropped to fit", "conv1", change("conv1", lambda m, x: conv(m, x, padding=1)[..., :-2, :-2])
    ),
    in_port("TF32 left on", "conv1", change("conv1", lambda m, x: conv(m, in_tf32(x), in_tf32(m.weight)))),
    in_port("db from one pixel", "conv1", change("conv1", corner_bias)),
    in_port("db as a mean", "conv1", change("conv1", lambda m, x: conv(m, x, bias=regrad(m.bias, lambda g: g / 36)))),
    in_port("dW flipped", "conv1", change("conv1", lambda m, x: conv(m, x, regrad(m.weight, lambda g: g.flip(2, 3))))),
    in_port("dx missing", "affine2", change("affine2", lambda m, x: F.linear(x.detach(), m.weight, m.bias))),
    in_port("dx twice", "input", change("conv1", lambda m, x: conv(m, regrad(x, lambda g: 2 * g)))),
    in_port("dW from the first half of the batch", "affine1", change("affine1", half_batch)),
    in_port("flattened as H, W, C", "affine1", change("flatten", lambda _, x: x.permute(0, 2, 3, 1).flatten(1))),
    in_port("flattened as C, W, H", "affine1", change("flatten", lambda _, x: x.transpose(2, 3).flatten(1))),
    in_port(
        "last instead of first maximum", "pool1", change("pool1", lambda m, x: F.max_pool2d(x.flip(2, 3), 2).flip(2, 3))
    ),
    in_port("average instead of maximum", "pool1", change("pool1", lambda _, x: F.avg_pool2d(x, 2))),
    in_port("pooling's gradient to all of the window", "pool1", change("pool1", lambda _, x: _spread(x))),
    in_port("relu left out", "relu1", change("relu1", lambda _, x: x)),
    in_port("leaky relu", "relu1", change("relu1", lambda _, x: F.leaky_relu(x, 1e-3))),
    in_port("relu's gradient passed at x <= 0", "relu1", change("relu1", lambda _, x: only_value(x.relu(), x))),
    in_port(
        "relu's gradient from the output's sign", "relu2", change("relu2", lambda _, x: only_value(x.relu(), 0 * x))
    ),
    in_port("square weight not transposed", "affine2", weights(lambda s: {"affine2.weight": s["affine2.weight"].T})),
    in_port(
        "square weight not transposed in use",
        "affine2",
        change("affine2", lambda m, x: F.linear(x, m.weight.T, m.bias)),
    ),
    in_port(
        "bias along the wrong axis", "affine2", change("affine2", lambda m, x: F.linear(x, m.weight) + m.bias.flip(0))
    ),
    in_port(
        "parameters restored in the wrong order",
        "affine1",
        weights(lambda s: {"affine1.bias": s["affine2.bias"], "affine2.bias": s["affine1.bias"]}),
    ),
    in_port(
        "weights cast through float32",
        "conv1",
        weights(lambda s: {key: value.float().to(value.dtype) for key, value in s.items()}),
        only_float64="the weights are float32 to begin with",
    ),
    in_port("NaN in one entry", "affine1", change("affine1", one_nan)),
]


def in_deep_port(name: str, layer: str, spoil: Spoil) -> Bug:
    """In the book's deeper network."""
    return in_port(f"DeepConvNet: {name}", layer, spoil, network=small_deep_network)


DEEP = [
    in_deep_port("the fourth convolution's pad is 1", "conv4", change("conv4", lambda m, x: conv(m, x, padding=1))),
    in_deep_port(
        "the fourth convolution's wider pad comes after it",
        "conv4",
        change("conv4", lambda m, x: F.pad(conv(m, x, padding=1), (1, 1, 1, 1))),
    ),
    in_deep_port("the last dropout left out", "dropout2", change("dropout2", lambda _, x: x)),
    in_deep_port(
        "the biases of two convolutions exchanged",
        "conv5",
        weights(lambda s: {"conv5.bias": s["conv6.bias"], "conv6.bias": s["conv5.bias"]}),
    ),
]


def _spread(x: Tensor) -> Tensor:
    return only_value(F.max_pool2d(x, 2), F.avg_pool2d(x, 2))


RUN = [
    in_run("batch index off by one", "conv1", lambda port, x: port(x.roll(1, 0))),
    in_run(
        "second relu before the first affine layer",
        "relu2",
        lambda port, x: port.affine2(port.affine1(port[:4](x).relu())),
    ),
    in_run("pooling after flattening undone", "affine1", lambda port, x: port[4:](port[:4](x).flip(1))),
    in_run("softmax twice", "output", lambda port, x: port(x).softmax(1)),
    in_run("detached from its input", "conv1", lambda port, x: port(x.detach()) + 0 * x.sum()),
]


def _picked(y: Tensor, t: Tensor) -> Tensor:
    return -(y.gather(1, t[:, None]) + EPS).log()


LOSS = [
    in_loss("gradient not divided by N", lambda x, t: softmax_with_loss(regrad(x, lambda g: len(g) * g), t)),
    in_loss("loss summed", lambda x, t: len(x) * softmax_with_loss(x, t)),
    in_loss("softmax over the batch", lambda x, t: _picked(x.softmax(0), t).mean()),
    in_loss("labels off by one", lambda x, t: softmax_with_loss(x, (t + 1) % x.shape[1])),
    in_loss("value without the 1e-7", F.cross_entropy),
    in_loss(
        "gradient of the value with the 1e-7",
        lambda x, t: _picked(x.softmax(1), t).mean(),
        note="1e-7 is two units of float32's roundoff",
    ),
]


# --- Changes to the reference


@contextmanager
def _backward_of(kind: type, function: Callable[[Any, Array], Array]) -> Iterator[None]:
    """Let kind's backward return function(layer, what it returned)."""
    right = kind.backward  # type: ignore[attr-defined]
    with mock.patch.object(kind, "backward", lambda layer, dout: function(layer, right(layer, dout))):
        yield


def _halved_dw(layer: nr.Affine, dx: Array) -> Array:
    layer.dW = recorded(layer.dW, layer) / 2
    return dx


REFERENCE = [
    in_reference(
        "the reference's relu passes all", "relu2", lambda: mock.patch.object(nr.Relu, "backward", lambda _, d: d)
    ),
    in_reference("the reference's dW halved", "affine2", lambda: _backward_of(nr.Affine, _halved_dw)),
    in_reference(
        "the reference's pooling gradient one row too low",
        "pool1",
        lambda: _backward_of(nr.Pooling, lambda _, dx: np.roll(dx, 1, axis=2)),
    ),
]


# --- Changes to single layers


def _norm(module: Callable[[int], Any], images: bool = False, carry: bool = True) -> Callable[..., Any]:
    """A layer that has seen batches, and the module with its parameters; with its running statistics too, if carry."""

    def make(rng: np.random.Generator) -> tuple[Any, nn.Module, Array]:
        x = 0.1 * rng.standard_normal((6, 2, 2, 2) if images else (6, 5))
        gamma, beta, mean = rng.standard_normal((3, x[0].size))
        layer, own = nr.BatchNormalization(gamma, beta, 0.9, mean, rng.random(x[0].size)), module(x[0].size).double()
        load_layer(own, layer)
        if not carry:
            own.running_mean.zero_()
            own.running_var.zero_()
        return layer, own, x

    return make


class _Unbiased(BatchNormalization):
    def _statistics(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = super()._statistics(flat)
        return mean, var * len(flat) / (len(flat) - 1)


class _LargerEps(BatchNormalization):
    def _statistics(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = super()._statistics(flat)
        return mean, var + 1e-5 - 1e-6


class _PerChannel(BatchNormalization):
    def _statistics(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        pixels = flat.view(len(flat), 2, -1).transpose(1, 2).flatten(0, 1)  # (N*H*W, C)
        mean, var = pixels.mean(0), pixels.var(0, unbiased=False)
        return mean.repeat_interleave(4), var.repeat_interleave(4)


class _OfTheBatch(BatchNormalization):
    def forward(self, input: Tensor) -> Tensor:
        kept, self.training = self.training, True
        output = super().forward(input)
        self.training = kept
        return output


class _Unscaled(Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if self.training else input


class _Rescaled(Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / (1 - self.dropout_ratio)


class _Inverted(Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return input - super().forward(input)


class _SlopeOfTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.sigmoid()
        return only_value(y, x * (1 - y * y).detach())


def _dropped(module: nn.Module) -> Callable[[np.random.Generator], Any]:
    return lambda rng: (nr.Dropout(0.4, np.random.RandomState(1)), module, rng.standard_normal((6, 5)))


class _ZeroPadded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)


class _PassesAtZero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return only_value(x.relu(), x * (x >= 0))


def _subsampled(change: Callable[[nn.Module], object]) -> Callable[[np.random.Generator], tuple[Any, nn.Module, Array]]:
    """LeNet's subsampling, whose module change spoils."""

    def make(rng: np.random.Generator) -> tuple[Any, nn.Module, Array]:
        layer, module = nr.Subsampling(*rng.standard_normal((2, 3))), Subsampling(3).double()
        load_layer(module, layer)
        change(module)
        return layer, module, rng.standard_normal((2, 3, 6, 6))

    return make


def _quartered(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0] / 4,)


def _maximum(module: Any, inputs: tuple[Tensor], _: Tensor) -> Tensor:
    found: Tensor = F.max_pool2d(inputs[0], 2) * module.weight[:, None, None] + module.bias[:, None, None]
    return found


class _Computing(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input)


def _normalised(function: Callable[[Tensor], Tensor]) -> Callable[[np.random.Generator], tuple[Any, nn.Module, Array]]:
    """AlexNet's normalisation, for which function passes; with an alpha that shows on numbers around 1."""
    return lambda rng: (
        nr.LocalResponseNormalization(5, 0.1),
        _Computing(function),
        rng.standard_normal((2, 8, 4, 4)),
    )


def _alexnet_base(x: Tensor) -> Tensor:
    around = F.pad(x * x, (0, 0, 0, 0, 2, 2))
    return 2 + 0.1 * sum((around[:, start : start + x.shape[1]] for start in range(5)), torch.zeros_like(x))


def _over_pixels(x: Tensor) -> Tensor:
    return x / (2 + 0.1 * 25 * F.avg_pool2d(x * x, 5, 1, 2)) ** 0.75


LAYERS = [
    in_layer("batch normalisation with unbiased variance", _norm(_Unbiased)),
    in_layer("batch normalisation with torch's eps", _norm(_LargerEps)),
    in_layer("batch normalisation per channel", _norm(_PerChannel, images=True)),
    in_layer("running variance unbiased", _norm(lambda d: nn.BatchNorm1d(d, eps=1e-6, momentum=0.1))),
    in_layer("momentum as the weight of the new value", _norm(lambda d: BatchNormalization(d, momentum=0.1))),
    in_layer("running statistics left behind", _norm(BatchNormalization, carry=False)),
    in_layer("prediction by the batch's statistics", _norm(_OfTheBatch)),
    in_layer("prediction without dropout's factor", _dropped(_Unscaled(0.4))),
    in_layer("dropout rescaled", _dropped(_Rescaled(0.4)), behind=True),
    in_layer("dropout keeps what it should drop", _dropped(_Inverted(0.4)), behind=True),
    in_layer("tanh that is a sigmoid", lambda rng: (nr.Tanh(), nn.Sigmoid(), rng.standard_normal((6, 5)))),
    in_layer("subsampling by the mean", _subsampled(lambda module: module.register_forward_pre_hook(_quartered))),
    in_layer("subsampling by the maximum", _subsampled(lambda module: module.register_forward_hook(_maximum))),
    in_layer("response normalised by torch's alpha", _normalised(lambda x: F.local_response_norm(x, 5, 0.1, 0.75, 2))),
    in_layer("response normalised over pixels", _normalised(_over_pixels)),
    in_layer("response normalised by constants", _normalised(lambda x: x / _alexnet_base(x).detach() ** 0.75)),
    in_layer("sigmoid with another slope", lambda rng: (nr.Sigmoid(), _SlopeOfTanh(), rng.standard_normal((6, 5)))),
    in_layer(
        "padding wins the maximum",
        lambda rng: (nr.Pooling(3, 3, 2, 1), _ZeroPadded(), rng.standard_normal((2, 2, 6, 6)) - 3),
    ),
    in_layer(
        "padding not counted in the average",
        lambda rng: (
            nr.AveragePooling(3, 3, 2, 1),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            rng.standard_normal((2, 2, 6, 6)),
        ),
    ),
    in_layer(
        "relu's gradient passed at 0", lambda rng: (nr.Relu(), _PassesAtZero(), np.round(rng.standard_normal((6, 5))))
    ),
]


# --- Changes to update rules


class _NoCorrection(BookAdam):
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        group["rate"] = torch.full_like(group["params"][0].detach().sum(), group["lr"])
        super().step()


class _StepOffByOne(BookAdam):
    def __init__(self, params: list[Tensor]) -> None:
        super().__init__(params)
        self.param_groups[0]["step"] += 1


def _eps_inside(rule: nr.Adam, name: str, param: Array, grad: Array) -> None:
    kept = param.copy()
    nr.Adam._step(rule, name, param, grad)
    rate = rule.lr * np.sqrt(1 - rule.beta2**rule.iter) / (1 - rule.beta1**rule.iter)
    param[...] = kept - rate * rule.m[name] / np.sqrt(rule.v[name] + EPS)


def _erratum(rule: nr.Nesterov, name: str, param: Array, grad: Array) -> None:
    """v updated first, as older printings have it."""
    kept = param.copy()
    nr.Nesterov._step(rule, name, param, grad)
    param[...] = kept + rule.momentum**2 * rule.v[name] - (1 + rule.momentum) * rule.lr * grad


def _root_of_sum(rule: nr.RMSprop, name: str, param: Array, grad: Array) -> None:
    """eps inside the root."""
    kept = param.copy()
    nr.RMSprop._step(rule, name, param, grad)
    param[...] = kept - rule.lr * grad / np.sqrt(rule.h[name] + EPS)


def _named(name: str, **options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda params: make_optimizer(name, params, **options)


OPTIMIZERS = [
    in_optimizer("Adam without bias correction", nr.Adam, _NoCorrection),
    in_optimizer("Adam with eps inside the root", type("Adam", (nr.Adam,), {"_step": _eps_inside}), _named("adam")),
    in_optimizer("torch's Adam, eps 1e-7", nr.Adam, lambda params: torch.optim.Adam(params, eps=EPS)),
    in_optimizer("Adam with the betas swapped", nr.Adam, _named("adam", betas=(0.999, 0.9))),
    in_optimizer("Adam's step counter off by one", nr.Adam, _StepOffByOne),
    in_optimizer("SGD with weight decay", nr.SGD, lambda params: torch.optim.SGD(params, 0.01, weight_decay=0.01)),
    in_optimizer(
        "Momentum's sign", nr.Momentum, lambda params: torch.optim.SGD(params, 0.01, momentum=0.9, maximize=True)
    ),
    in_optimizer(
        "Momentum with dampening",
        nr.Momentum,
        lambda params: torch.optim.SGD(params, 0.01, momentum=0.9, dampening=0.9),
    ),
    in_optimizer("Nesterov's erratum", type("Nesterov", (nr.Nesterov,), {"_step": _erratum}), _named("nesterov")),
    in_optimizer(
        "RMSprop with eps inside the root", type("RMSprop", (nr.RMSprop,), {"_step": _root_of_sum}), _named("rmsprop")
    ),
    in_optimizer("RMSprop with torch's eps", nr.RMSprop, lambda params: torch.optim.RMSprop(params, eps=1e-8)),
    in_optimizer(
        "AdaGrad with torch's eps, 1e-10", nr.AdaGrad, lambda params: torch.optim.Adagrad(params, 0.01, eps=1e-10)
    ),
]


def _dropped_batch(dtype: torch.dtype) -> Row | None:
    """An evaluation of 7 samples by twos that forgets the last and still divides by 7."""
    reference, port, x, _ = small_network(dtype)
    with torch.no_grad():
        y = port(torch.tensor(x[:7], dtype=dtype)).argmax(dim=1).numpy()
    right = np.array(reference.accuracy(x[:7], y, batch_size=2))
    worst = compare(np.array(np.sum(y[:6] == y[:6]) / 7), right, 0.0)
    return first_failing([Row("evaluation", "evaluation", "accuracy", EXACT, worst)])


BUGS: list[Bug] = [
    *PORT,
    *DEEP,
    *RUN,
    *LOSS,
    *REFERENCE,
    *LAYERS,
    *OPTIMIZERS,
    Bug("an evaluation that drops the last batch", "evaluation", _dropped_batch),
]
