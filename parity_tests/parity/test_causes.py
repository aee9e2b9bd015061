"""Causes: mistakes made on purpose in small layers are named, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.functions import sigmoid
from numpy_ref.network import PARAMETERS
from torchport.layers import kind_of
from torchport.layers.arithmetic import arithmetic_of, rounded
from torchport.parity.causes import cause_of
from torchport.parity.deviation import Deviation

Port = Callable[..., Tensor]  # (x, and the layer's parameters in the reference's layout) -> what the port makes
BOTH = [torch.float64, torch.float32]
HELD = (*PARAMETERS, "running_mean", "running_var")


def forward(layer: Any, x: Array, train_flg: bool = True) -> Array:
    own = copy.copy(layer)
    return np.asarray(own.forward(x) if train_flg else own.forward(x, train_flg=False))


def limit(layer: Any, x: Array, dtype: torch.dtype, train_flg: bool = True) -> Array:
    """The limit of the layer's output, in its shape."""
    kind, a = kind_of(layer), arithmetic_of(dtype)
    limits = kind.rule.forward(layer, x, a) if train_flg or kind.prediction is None else kind.prediction(layer, x, a)
    return np.broadcast_to(limits, forward(layer, x).shape)


def fault(
    layer: Any, x: Array, actual: Array, dtype: torch.dtype, train_flg: bool = True, params: Any = None
) -> Deviation:
    """A deviation at a link, as forward_rows makes it."""
    others = {name: rounded(value, dtype) for name, value in OTHERS.items()}
    a = arithmetic_of(dtype)
    return Deviation(
        "it", layer, x, actual, a, predicting=not train_flg, port_tensors=params or {}, reference_params=others
    )


def drawn(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape)


MASK = torch.tensor(np.random.RandomState(1).rand(6, 9) > 0.4)
OTHERS = {"other.bias": np.arange(8.0), "other.weight": np.random.default_rng(5).standard_normal((8, 3, 3, 3))}

# A layer of each kind, and an input.
LAYERS: dict[str, Callable[[np.random.Generator], tuple[Any, Array]]] = {
    "conv": lambda rng: (nr.Convolution(drawn(rng, 8, 3, 3, 3), drawn(rng, 8), 1, 1), drawn(rng, 6, 3, 8, 8)),
    "strided": lambda rng: (nr.Convolution(drawn(rng, 4, 3, 3, 3), drawn(rng, 4), 2, 0), drawn(rng, 6, 3, 9, 9)),
    "affine": lambda rng: (nr.Affine(drawn(rng, 12, 12), drawn(rng, 12)), drawn(rng, 6, 12)),
    "sparse": lambda rng: (nr.Affine(drawn(rng, 12, 12), drawn(rng, 12)), drawn(rng, 6, 12) * (np.arange(12) > 2)),
    "flat": lambda rng: (nr.Affine(drawn(rng, 24, 5), drawn(rng, 5)), drawn(rng, 6, 2, 3, 4)),
    "zeros": lambda rng: (nr.Relu(), np.round(drawn(rng, 6, 3, 5, 5))),
    "ties": lambda rng: (nr.Pooling(2, 2, 2, 0), np.round(drawn(rng, 6, 3, 6, 6))),
    "relu": lambda rng: (nr.Relu(), drawn(rng, 6, 3, 5, 5)),
    "sigmoid": lambda rng: (nr.Sigmoid(), drawn(rng, 6, 7)),
    "tanh": lambda rng: (nr.Tanh(), drawn(rng, 6, 7)),
    "pool": lambda rng: (nr.Pooling(2, 2, 2, 0), drawn(rng, 6, 3, 7, 7)),
    "padded": lambda rng: (nr.Pooling(3, 3, 2, 1), drawn(rng, 6, 3, 7, 7) - 3),
    "mean": lambda rng: (nr.AveragePooling(3, 3, 2, 1), drawn(rng, 6, 3, 8, 8)),
    "norm": lambda rng: (_norm(rng, (6, 5)), 0.1 * drawn(rng, 6, 5)),
    "channels": lambda rng: (_norm(rng, (6, 2, 3, 3)), 0.1 * drawn(rng, 6, 2, 3, 3)),
    "dropout": lambda rng: (nr.Dropout(0.4, np.random.RandomState(1)), drawn(rng, 6, 9)),
    "response": lambda rng: (nr.LocalResponseNormalization(5, 0.1), drawn(rng, 2, 8, 4, 4)),
    "subsampling": lambda rng: (nr.Subsampling(*rng.standard_normal((2, 3))), drawn(rng, 2, 3, 6, 6)),
}


def _norm(rng: np.random.Generator, shape: tuple[int, ...]) -> nr.BatchNormalization:
    gamma, beta, mean, var = rng.uniform(0.1, 1, (4, int(np.prod(shape[1:]))))
    return nr.BatchNormalization(gamma, beta, 0.9, mean, var)


def held(layer: Any, x: Array, dtype: torch.dtype) -> tuple[Any, Array]:
    """The layer's parameters and x, rounded to dtype."""
    for name in HELD:
        if hasattr(layer, name):
            setattr(layer, name, rounded(getattr(layer, name), dtype))
    return layer, rounded(x, dtype)


class Row(NamedTuple):
    """A mistake in a port, and words of the sentence that must name it."""

    layer: str
    words: str
    port: Port
    train_flg: bool = True
    dtypes: Any = BOTH


def conv(x: Tensor, W: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:
    return F.conv2d(x, W, b, **{"padding": 1, **options})


def behind(function: Callable[[Tensor], Tensor]) -> Port:
    return lambda x, W, b: function(conv(x, W, b))


def lost(x: Tensor, share: float, scale: float = 1) -> Tensor:
    """x with share of its entries set to 0, always the same ones, and the others times scale."""
    keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) > share
    return x * keep * scale


def norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-6, over: Any = 0, **options: Any) -> Tensor:
    var, mean = torch.var_mean(x, over, keepdim=True, **{"correction": 0, **options})
    return ((x - mean) / (var + eps).sqrt()).flatten(1).mul(gamma).add(beta).view_as(x)


def tf32(x: Tensor) -> Tensor:
    """x truncated to a TensorFloat-32 factor."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def low(x: Tensor, W: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The rounded product of rounded operands, as tensor cores compute it."""
    cast = [each.to(dtype).float() for each in (x, W, b)]
    return conv(*cast).to(dtype).to(x.dtype)


FORWARD = [
    # parameters
    Row("conv", "it.bias is missing", lambda x, W, b: conv(x, W)),
    Row("conv", "it.bias is doubled", lambda x, W, b: conv(x, W, 2 * b)),
    Row("conv", "it.weight is negated", lambda x, W, b: conv(x, -W, b)),
    Row("conv", "it.weight is reversed along H and W", lambda x, W, b: conv(x, W.flip(2, 3), b)),
    Row("conv", "it.weight is in the order O, I, W, H", lambda x, W, b: conv(x, W.mT, b)),
    Row("conv", "it.weight is in the order I, O, H, W", lambda x, W, b: conv(x, W.transpose(0, 1).reshape(W.shape), b)),
    Row("conv", "it.weight is reversed along I", lambda x, W, b: conv(x.flip(1), W, b)),
    Row("conv", "it.weight is reversed along O", lambda x, W, b: conv(x, W.flip(0), b)),
    Row("conv", "it.weight is rounded to bfloat16", lambda x, W, b: conv(x, W.bfloat16().to(x.dtype), b)),
    Row("conv", "it.weight is rounded to float32", lambda x, W, b: conv(x, W.float().double(), b), dtypes=BOTH[:1]),
    Row("conv", "it.bias is other.bias", lambda x, W, b: conv(x, W, torch.arange(8).to(b))),
    Row("conv", "it.weight is other.weight", lambda x, W, b: conv(x, torch.tensor(OTHERS["other.weight"]).to(b), b)),
    Row("affine", "it.weight is the reference's, not transposed", lambda x, W, b: F.linear(x, W, b)),
    Row(
        "flat", "it.weight is the reference's, not transposed", lambda x, W, b: F.linear(x.flatten(1), W.view(5, 24), b)
    ),
    # inputs
    Row("conv", "the input is in the order N, C, W, H", lambda x, W, b: conv(x.mT, W, b)),
    Row(
        "conv",
        "the input is in the order N, H, W, C",
        lambda x, W, b: conv(x.permute(0, 2, 3, 1).reshape(x.shape), W, b),
    ),
    Row("flat", "the input is in the order N, H, W, C", lambda x, W, b: x.permute(0, 2, 3, 1).flatten(1) @ W + b),
    Row("conv", "the input is reversed along H", lambda x, W, b: conv(x.flip(2), W, b)),
    Row("conv", "the input is moved by one along N", lambda x, W, b: conv(x.roll(1, 0), W, b)),
    Row("conv", "the input is divided by 255", lambda x, W, b: conv(x / 255, W, b)),
    Row("conv", "the input is multiplied by 255", lambda x, W, b: conv(x * 255, W, b)),
    Row("conv", "the input is scaled, 2 x - 1", lambda x, W, b: conv((x - 0.5) / 0.5, W, b)),
    Row("conv", "the input is normalised by its own", lambda x, W, b: conv((x - x.mean()) / x.std(correction=0), W, b)),
    Row("conv", "the input is inverted", lambda x, W, b: conv(1 - x, W, b)),
    Row("conv", "the input is normalised by MNIST's", lambda x, W, b: conv((x - 0.1307) / 0.3081, W, b)),
    Row("conv", "the input is rounded to float16", lambda x, W, b: conv(x.half().to(x.dtype), W, b)),
    Row("conv", "the input goes through relu", lambda x, W, b: conv(x.relu(), W, b)),
    Row("affine", "the input goes through tanh", lambda x, W, b: x.tanh() @ W + b),
    Row("affine", "the input is its first sample", lambda x, W, b: x[:1].expand(6, -1) @ W + b),
    # windows
    Row("strided", "stride 1 and pad 0", lambda x, W, b: conv(x, W, b, padding=0)),
    Row("strided", "stride 2 and pad 1", lambda x, W, b: conv(x, W, b, stride=2)),
    Row("conv", "stride 1 and pad 0", lambda x, W, b: conv(x, W, b, padding=0)),
    Row("conv", "dilation 2", lambda x, W, b: conv(x, W, b, padding=2, dilation=2)),
    Row("conv", "mode reflect", lambda x, W, b: conv(F.pad(x, (1,) * 4, "reflect"), W, b, padding=0)),
    Row("conv", "0 pixels of padding at the top", lambda x, W, b: conv(F.pad(x, (0, 2, 0, 2)), W, b, padding=0)),
    Row("conv", "the bias is added along axis 3", lambda x, W, b: conv(x, W) + b),
    # behind the layer
    Row("conv", "relu follows it", behind(torch.relu)),
    Row("conv", "sigmoid follows it", behind(torch.sigmoid)),
    Row("affine", "log_softmax follows it", lambda x, W, b: (x @ W + b).log_softmax(1)),
    Row("affine", "softmax follows it", lambda x, W, b: (x @ W + b).softmax(1)),
    Row("affine", "gelu follows it", lambda x, W, b: F.gelu(x @ W + b)),
    Row("affine", "silu follows it", lambda x, W, b: F.silu(x @ W + b)),
    Row("conv", "leaky relu of slope 0.2 follows it", behind(lambda y: F.leaky_relu(y, 0.2))),
    Row("conv", "a clamp to -1 … 6", behind(lambda y: y.clamp(-1, 6))),
    Row("conv", "of its entries and 2 times", behind(lambda y: F.dropout(y, 0.5))),
    Row("conv", "of its entries and the reference's in the others: dropout or a mask", behind(lambda y: lost(y, 0.3))),
    Row("conv", "is 2 times", behind(lambda y: 2 * y)),
    Row("conv", "is 1 / N (6) times", behind(lambda y: y / len(y))),
    Row("conv", "is 1 / 255 times", behind(lambda y: y / 255)),
    Row("conv", "is 1.0001 times", behind(lambda y: y * 1.0001)),
    Row("conv", "is 1.00000001 times", behind(lambda y: y * 1.00000001), dtypes=BOTH[:1]),
    Row("conv", "is -1 times", behind(torch.neg)),
    Row("conv", "is 0 everywhere", behind(torch.zeros_like)),
    Row("conv", "0.3 added to every entry", behind(lambda y: y + 0.3)),
    Row("conv", "the result is rounded to bfloat16", behind(lambda y: y.bfloat16().to(y.dtype))),
    Row("conv", "computed in bfloat16", lambda x, W, b: low(x, W, b, torch.bfloat16)),
    Row("conv", "computed in float16", lambda x, W, b: low(x, W, b, torch.float16)),
    Row("conv", "computed in TF32", lambda x, W, b: conv(tf32(x), tf32(W), b), dtypes=BOTH[1:]),
    Row("conv", "computed in float32", lambda x, W, b: conv(x.float(), W.float(), b.float()).double(), dtypes=BOTH[:1]),
    # activations
    Row("relu", "it is missing", lambda x: x),
    Row("relu", "the result is right but for roundings", lambda x: x.relu() * (1 + torch.finfo(x.dtype).eps)),
    Row("relu", "leaky relu of slope 0.01 in place of it", lambda x: F.leaky_relu(x)),
    Row("relu", "leaky relu of slope 0.3 in place of it", lambda x: F.leaky_relu(x, 0.3)),
    Row("relu", "a clamp to 0 … 0.8", lambda x: x.clamp(0, 0.8)),
    Row("relu", "gelu in place of it", lambda x: F.gelu(x)),
    Row("relu", "gelu by tanh in place of it", lambda x: F.gelu(x, approximate="tanh")),
    Row("relu", "silu in place of it", lambda x: F.silu(x)),
    Row("relu", "elu in place of it", lambda x: F.elu(x), dtypes=BOTH[:1]),  # older versions round expm1 to 1e-7
    Row("relu", "softplus in place of it", lambda x: F.softplus(x)),
    Row("relu", "sigmoid in place of it", lambda x: x.sigmoid()),
    Row("relu", "sigmoid follows it", lambda x: x.relu().sigmoid()),
    Row("relu", "2 times the reference's in the others: dropout or a mask", lambda x: lost(x.relu(), 0.5, 2)),
    Row("sigmoid", "tanh in place of it", lambda x: x.tanh()),
    Row("tanh", "sigmoid in place of it", lambda x: x.sigmoid()),
    # pooling
    Row("pool", "mean of 2 x 2, not maximum of 2 x 2", lambda x: F.avg_pool2d(x, 2)),
    Row("pool", "stride 1", lambda x: F.max_pool2d(x, 2, 1)),
    Row("pool", "maximum of 3 x 3, not maximum of 2 x 2", lambda x: F.max_pool2d(x, 3, 2)),
    Row("pool", "maximum of 3 x 3 with pad 1, not maximum of 2 x 2", lambda x: F.max_pool2d(x, 3, 2, 1)),
    Row("pool", "ceil_mode", lambda x: F.max_pool2d(x, 2, ceil_mode=True)),
    Row("pool", "the least of each window", lambda x: -F.max_pool2d(-x, 2)),
    Row("pool", "maximum of 1 x 1", lambda x: x[:, :, ::2, ::2]),
    Row("padded", "padding of 0 may win", lambda x: F.max_pool2d(F.pad(x, (1,) * 4), 3, 2)),
    Row("mean", "maximum of 3 x 3, not mean of 3 x 3", lambda x: F.max_pool2d(x, 3, 2, 1)),
    Row("mean", "padding that counts not", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    Row("mean", "padding that counts, ceil_mode", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    Row("mean", "window (9) times", lambda x: 9 * F.avg_pool2d(x, 3, 2, 1)),
    Row(
        "subsampling",
        "mean of a window, not sum",
        lambda x, W, b: F.avg_pool2d(x, 2) * W.view(-1, 1, 1) + b.view(-1, 1, 1),
    ),
    # normalisation
    Row("norm", "eps 1e-05", lambda x, g, b, *_: norm(x, g, b, 1e-5)),
    Row("norm", "biased variance, eps 1e-07", lambda x, g, b, *_: norm(x, g, b, 1e-7)),
    Row(
        "norm",
        "deviation, to which it adds eps 1e-06",
        lambda x, g, b, *_: (x - x.mean(0)) / (x.std(0, correction=0) + 1e-6) * g + b,
    ),
    Row("norm", "unbiased variance", lambda x, g, b, *_: norm(x, g, b, correction=1)),
    Row("norm", "it.weight is missing", lambda x, g, b, *_: norm(x, 0 * g + 1, b)),
    Row("norm", "it.bias is missing", lambda x, g, b, *_: norm(x, g, 0 * b)),
    Row(
        "channels",
        "each channel's mean and biased variance, eps 1e-05",
        lambda x, g, b, *_: norm(x, g, b, 1e-5, (0, 2, 3)),
    ),
    Row("norm", "running mean and biased variance", lambda x, g, b, m, v: (x - m) / (v + 1e-6).sqrt() * g + b),
    Row("norm", "the batch's mean and biased", lambda x, g, b, *_: norm(x, g, b), train_flg=False),
    Row("response", "alpha 0.02, not 0.1", lambda x: F.local_response_norm(x, 5, 0.1, 0.75, 2)),
    Row("response", "k 1, not 2", lambda x: F.local_response_norm(x, 5, 0.5, 0.75, 1)),
    Row("response", "alpha 0.02, not 0.1; k 1, not 2", lambda x: F.local_response_norm(x, 5, 0.1, 0.75, 1)),
    Row("response", "exponent 0.5, not 0.75", lambda x: F.local_response_norm(x, 5, 0.5, 0.5, 2)),
    Row("response", "size 3, not 5", lambda x: F.local_response_norm(x, 3, 0.3, 0.75, 2)),
    # dropout
    Row("dropout", "1 / (1 - r)", lambda x: x * MASK.to(x) / 0.6),
    Row("dropout", "it is missing", lambda x: x),
    Row("dropout", "1 / (1 - r)", lambda x: x, train_flg=False),
    Row("dropout", "in the others: dropout or a mask", lambda x: x * MASK.to(x), train_flg=False),
]


def port_of(row: Row, rng: np.random.Generator, dtype: torch.dtype) -> tuple[Any, Array, Array]:
    """A layer, an input, and the port's output for it."""
    layer, x = held(*LAYERS[row.layer](rng), dtype)
    tensors = [torch.tensor(getattr(layer, name), dtype=dtype) for name in HELD if hasattr(layer, name)]
    made = row.port(torch.tensor(x, dtype=dtype), *tensors)
    assert made.dtype == dtype
    return layer, x, made.double().numpy()


CASES = [
    pytest.param(row, dtype, id=f"{row.layer}: {row.words} ({str(dtype)[6:]})")
    for row in FORWARD
    for dtype in row.dtypes
]


@pytest.mark.parametrize(("row", "dtype"), CASES)
def test_a_mistake_is_named(row: Row, dtype: torch.dtype, rng: np.random.Generator) -> None:
    layer, x, actual = port_of(row, rng, dtype)
    it = fault(layer, x, actual, dtype, row.train_flg)
    if actual.shape == forward(layer, x).shape and row.words != "it is missing":
        assert not it.fits(actual, layer, x, actual), "no mistake"
    assert row.words in cause_of(it)


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# A third of them, in both dtypes by turns.
@pytest.mark.parametrize(("row", "dtype"), CASES[::3])
def test_a_mistake_that_nearly_fits_is_not_named(row: Row, dtype: torch.dtype, rng: np.random.Generator) -> None:
    layer, x, actual = port_of(row, rng, dtype)
    size = np.maximum(np.abs(actual), max(np.abs(actual).max(), 1) / 8)
    nearly = actual + 300 * torch.finfo(dtype).eps * size * rng.choice([-1, 1], actual.shape)
    assert cause_of(fault(layer, x, rounded(nearly, dtype), dtype, row.train_flg)) == ""


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("size", "dtype"), [(0.1, torch.float64), (1e-5, torch.float32)])
def test_nothing_is_guessed(kind: str, size: float, dtype: torch.dtype, rng: np.random.Generator) -> None:
    layer, x = held(*LAYERS[kind](rng), dtype)
    y = forward(layer, x)
    assert cause_of(fault(layer, x, rounded(y + size * drawn(rng, *y.shape), dtype), dtype)) == ""
    one = y.copy()
    one.flat[one.argmax()] -= size
    assert cause_of(fault(layer, x, rounded(one, dtype), dtype)) == ""


def test_a_sigmoid_by_other_roundings_is_no_other_function() -> None:
    """Neither "sigmoid in place of it" nor "elu follows it", which change nothing."""
    x = np.linspace(-30, 5, 48).reshape(6, 8)
    it = fault(nr.Sigmoid(), x, np.exp(-np.logaddexp(0, -x)), torch.float64)
    assert not it.fits(it.actual, it.layer, x, it.expected), "no mistake"
    assert cause_of(it) == ""


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("affine", lambda W, b: {"fc.weight": W, "fc.bias": b}, "fc.weight is the reference's, not transposed"),
        ("affine", lambda W, b: {"fc.weight": W.T, "fc.bias": b[::-1]}, "fc.bias is reversed along O"),
        ("affine", lambda W, b: {"fc.weight": W.T[::-1], "fc.bias": 2 * b}, "along O; fc.bias is doubled"),
        ("affine", lambda W, b: {"fc.weight": 3 * W.T, "fc.bias": b}, "fc.weight is 3 times the reference's"),
        ("affine", lambda W, b: {"fc.weight": W.T + np.eye(12), "fc.bias": b}, "12 of 144 numbers differ, by up to 1"),
        ("affine", lambda W, b: {"fc.weight": np.sort(W), "fc.bias": b}, "the reference's numbers in another order"),
        ("flat", lambda W, b: {"fc.weight": by_pixels(W).T, "fc.bias": b}, "fc.weight is in the order H, W, C, O"),
        ("conv", lambda W, b: {"c.weight": W[:, ::-1], "c.bias": b}, "c.weight is reversed along I"),
        ("conv", lambda W, b: {"c.weight": W, "c.bias": OTHERS["other.bias"]}, "c.bias is other.bias"),
        ("conv", lambda W, b: {"c.weight": rounded(W, torch.float16), "c.bias": b}, "c.weight is rounded to float16"),
    ],
)
@pytest.mark.parametrize("dtype", BOTH, ids=named)
def test_parameters_are_told_by_the_ports_own(
    kind: str, change: Any, words: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    layer, x = held(*LAYERS[kind](rng), dtype)
    params = {name: rounded(array, dtype) for name, array in change(layer.W, layer.b).items()}
    weight, bias = (torch.tensor(each, dtype=dtype) for each in params.values())
    tensor = torch.tensor(x, dtype=dtype)
    made = conv(tensor, weight, bias) if kind == "conv" else F.linear(tensor.flatten(1), weight, bias)
    assert words in cause_of(fault(layer, x, made.double().numpy(), dtype, params=params))


def by_pixels(W: Array) -> Array:
    """W with its rows, of an image (2, 3, 4), in the order H, W, C."""
    return W.reshape(2, 3, 4, -1).transpose(1, 2, 0, 3).reshape(W.shape)


class Backward(NamedTuple):
    """A quantity of the layer's backward pass, of x and dout."""

    layer: Any
    quantity: str

    def __call__(self, x: Array, dout: Array) -> Array:
        own = copy.deepcopy(self.layer)
        own.forward(x)
        grad_input = own.backward(dout)
        return np.asarray(grad_input if self.quantity == "grad_input" else getattr(own, f"d{self.quantity}"))


class Slip(NamedTuple):
    """A mistake in a gradient: a function of backward(x, dout) -> the quantity, x and dout."""

    layer: str
    quantity: str
    words: str
    make: Callable[..., Any]


def where(dout: Array, *part: Any) -> Array:
    """dout in the given part, and 0 elsewhere."""
    only = np.zeros_like(dout)
    only[part] = dout[part]
    return only


def flipped(layer: Any) -> Any:
    twin = copy.copy(layer)
    twin.W = layer.W[..., ::-1, ::-1]
    return twin


def by_windows(y: Array) -> Array:
    """Each entry repeated for its window of 2 x 2."""
    return y.repeat(2, axis=2).repeat(2, axis=3)


def of_windows(x: Array, function: Callable[..., Array]) -> Array:
    n, c, h, w = x.shape
    return np.asarray(function(x.reshape(n, c, h // 2, 2, w // 2, 2), axis=(3, 5)))


def best(x: Array) -> Array:
    return np.asarray(x == by_windows(of_windows(x, np.max)))


GRADIENTS = [
    Slip("conv", "W", "is 0 everywhere", lambda g, x, d: 0 * g(x, d)),
    Slip("conv", "W", "is 1 / N (6) times", lambda g, x, d: g(x, d) / 6),
    Slip("conv", "W", "is N (6) times", lambda g, x, d: g(x, d) * 6),
    Slip("conv", "b", "is 1 / pixels (64) times", lambda g, x, d: g(x, d) / 64),
    Slip("conv", "b", "is 1 / N pixels (384) times", lambda g, x, d: g(x, d) / 384),
    Slip("affine", "W", "is 2 times", lambda g, x, d: g(x, d) * 2),
    Slip("affine", "grad_input", "is -1 times", lambda g, x, d: -g(x, d)),
    Slip("affine", "W", "is 0.97 times", lambda g, x, d: 0.97 * g(x, d)),
    Slip("affine", "W", "a clamp to -1.5 … 1.5", lambda g, x, d: np.clip(g(x, d), -1.5, 1.5)),
    Slip("affine", "W", "0.01 times the parameter added", lambda g, x, d: g(x, d) + 0.01 * g.layer.W),
    Slip("sparse", "W", "has 0.0001 times the parameter added", lambda g, x, d: g(x, d) + 1e-4 * g.layer.W),
    Slip("affine", "W", "is the reference's, not transposed", lambda g, x, d: g(x, d).T),
    Slip("conv", "W", "is reversed along H and W", lambda g, x, d: g(x, d)[..., ::-1, ::-1]),
    Slip("conv", "W", "is in the order O, I, W, H", lambda g, x, d: g(x, d).swapaxes(2, 3)),
    Slip("affine", "W", "first half of the batch", lambda g, x, d: g(x, where(d, np.s_[:3]))),
    Slip("conv", "b", "last sample", lambda g, x, d: g(x, where(d, -1))),
    Slip(
        "conv",
        "W",
        "of its entries and the reference's in the others",
        lambda g, x, d: g(x, d) * (np.sin(g.layer.W) > 0),
    ),
    Slip("affine", "W", "first sample", lambda g, x, d: g(x, where(d, 0))),
    Slip("conv", "b", "last pixel", lambda g, x, d: g(x, where(d, np.s_[:], np.s_[:], -1, -1))),
    Slip("conv", "b", "first pixel", lambda g, x, d: g(x, where(d, np.s_[:], np.s_[:], 0, 0))),
    Slip(
        "conv",
        "grad_input",
        "in the gradient, it.weight is reversed along H and W",
        lambda g, x, d: Backward(flipped(g.layer), "grad_input")(x, d),
    ),
    Slip(
        "affine", "grad_input", "the upstream gradient is moved by one along N", lambda g, x, d: g(x, np.roll(d, 1, 0))
    ),
    Slip("affine", "W", "is moved by one along N", lambda g, x, d: g(np.roll(x, 1, 0), d)),
    Slip("affine", "grad_input", "is the upstream one as it is", lambda g, x, d: d),
    Slip("zeros", "grad_input", "is the upstream one as it is", lambda g, x, d: d),
    Slip("zeros", "grad_input", "passes where x >= 0 (", lambda g, x, d: d * (x >= 0)),
    Slip("zeros", "grad_input", "is half at x == 0 (", lambda g, x, d: d * (0.5 * (x >= 0) + 0.5 * (x > 0))),
    Slip("sigmoid", "grad_input", "without 1 - y", lambda g, x, d: d * sigmoid(x)),
    Slip("sigmoid", "grad_input", "at y, not at x", lambda g, x, d: g(sigmoid(x), d)),
    Slip("sigmoid", "grad_input", "is tanh's", lambda g, x, d: d * (1 - sigmoid(x) ** 2)),
    Slip("tanh", "grad_input", "is sigmoid's", lambda g, x, d: d * np.tanh(x) * (1 - np.tanh(x))),
    Slip("tanh", "grad_input", "without the square", lambda g, x, d: d * (1 - np.tanh(x))),
    Slip("tanh", "grad_input", "of x and not of y", lambda g, x, d: d * (1 - x**2)),
    Slip("ties", "grad_input", "goes to all of a window", lambda g, x, d: by_windows(d)),
    Slip("ties", "grad_input", "is shared by all of a window", lambda g, x, d: by_windows(d) / 4),
    Slip("ties", "grad_input", "goes to each of equal maxima", lambda g, x, d: by_windows(d) * best(x)),
    Slip(
        "ties",
        "grad_input",
        "is shared by equal maxima",
        lambda g, x, d: by_windows(d) * best(x) / by_windows(of_windows(best(x), np.sum)),
    ),
    Slip(
        "ties",
        "grad_input",
        "goes to the last of equal maxima",
        lambda g, x, d: g(x[..., ::-1, ::-1], d[..., ::-1, ::-1])[..., ::-1, ::-1],
    ),
    Slip("dropout", "grad_input", "nn.Dropout's 1 / (1 - r) times", lambda g, x, d: g(x, d) / 0.6),
    Slip("dropout", "grad_input", "is the upstream one as it is", lambda g, x, d: d),
    Slip("norm", "gamma", "is 1 / N (6) times", lambda g, x, d: g(x, d) / 6),
    Slip("norm", "beta", "is that of the second half", lambda g, x, d: g(x, where(d, np.s_[3:]))),
]


def slip_of(slip: Slip, rng: np.random.Generator, dtype: torch.dtype) -> tuple[Deviation, Array]:
    """The deviation at the link, and the limit of its quantity."""
    layer, x = held(*LAYERS[slip.layer](rng), dtype)
    dout = rounded(drawn(rng, *forward(copy.deepcopy(layer), x).shape), dtype)
    backward = Backward(layer, slip.quantity)
    limits = kind_of(layer).rule.backward(copy.deepcopy(layer), x, dout, arithmetic_of(dtype))
    bound, expected = limits.by_name[slip.quantity], backward(x, dout)
    actual = rounded(slip.make(backward, x, dout), dtype)
    assert actual.shape != expected.shape or (np.abs(actual - expected) > bound).any(), "no mistake"
    repeat = kind_of(layer).repeat
    same = repeat(layer, x, forward(copy.deepcopy(layer), x), None) if repeat else layer
    return Deviation("it", same, x, actual, arithmetic_of(dtype), bound, slip.quantity, dout), bound


SLIPS = [
    pytest.param(slip, dtype, id=f"{slip.layer} {slip.quantity}: {slip.words} ({named(dtype)})")
    for slip in GRADIENTS
    for dtype in BOTH
]


@pytest.mark.parametrize(("slip", "dtype"), SLIPS)
def test_a_mistake_in_a_gradient_is_named(slip: Slip, dtype: torch.dtype, rng: np.random.Generator) -> None:
    assert slip.words in cause_of(slip_of(slip, rng, dtype)[0])


@pytest.mark.parametrize(("slip", "dtype"), SLIPS[::3])
def test_a_gradient_that_nearly_fits_is_not_named(slip: Slip, dtype: torch.dtype, rng: np.random.Generator) -> None:
    it, bound = slip_of(slip, rng, dtype)
    size = np.maximum(np.abs(it.actual), max(np.abs(it.actual).max(), 1) / 8)
    off = np.maximum(300 * torch.finfo(dtype).eps * size, 10 * bound)
    nearly = it.actual + off * rng.choice([-1, 1], it.actual.shape)
    assert cause_of(replace(it, actual=rounded(nearly, dtype))) == ""
