"""Geometries that nobody thought of: hypothesis draws them, and shrinks one that fails to the smallest.

By default the examples are the same in every run (conftest.py). New ones, a thousand for most tests:

    pytest parity_tests/layers/test_geometries.py --hypothesis-profile=explore
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, find, given, settings, strategies as st
from parity.cases import check_twin
from torch import Tensor, nn

import numpy_ref as nr
import torchport
from numpy_ref.checks import Array
from torchport.choices import Convolution
from torchport.layers import kind_of
from torchport.layers.columns import im2col
from torchport.networks import CONVOLUTIONS
from torchport.networks.names import cast_params
from torchport.parity import Row, Setting, check_parity
from torchport.parity.cases import seeded_batch, seeded_params

PIXELS = 9  # of an image or a filter, at most
Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Windows over images, and how many filters look through them."""

    images: tuple[int, int, int, int]  # (N, C, H, W)
    filters: int
    size: Pair  # (FH, FW)
    stride: Pair
    pad: Pair

    @property
    def output(self) -> Pair:
        axes = zip(self.images[2:], self.size, self.stride, self.pad, strict=True)
        out_h, out_w = ((image + 2 * pad - size) // stride + 1 for image, size, stride, pad in axes)
        return out_h, out_w


class Values(NamedTuple):
    """What an image holds; drawn as two small choices, so that shrinking a geometry is fast."""

    kind: str
    seed: int

    def image(self, shape: tuple[int, ...]) -> tuple[Array, np.random.Generator]:
        """An image, and the stream for all other numbers."""
        rng = np.random.default_rng(self.seed)
        normal = rng.standard_normal(shape)
        # Rounding leaves small whole numbers: most windows have several maxima, and there are zeros of either sign.
        return {"zeros": 0 * normal, "ties": np.round(normal), "distinct": normal}[self.kind], rng


# For what takes longer, or has less to be drawn.
a_fifth = settings(max_examples=settings().max_examples // 5)

VALUES = st.builds(Values, st.sampled_from(["distinct", "ties", "zeros"]), st.integers(0, 2**32 - 1))


@st.composite
def geometries(draw: st.DrawFn, *, square: bool = True, pooling: bool = False) -> Geometry:
    """Every window fits its padded image. Stride and pad are one number for both axes, as in the book, if square.

    A pool's pad is smaller than its window.
    """
    sizes = st.integers(1, 4) | st.integers(1, PIXELS)  # small ones more often: most things happen there
    size = draw(sizes), draw(sizes)
    strides, pads = st.integers(1, 6), st.integers(0, min(size) - 1 if pooling else 6)
    stride, pad = draw(strides), draw(pads)
    stride_x, pad_x = (stride, pad) if square else (draw(strides), draw(pads))
    n, channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height = draw(st.integers(max(1, size[0] - 2 * pad), PIXELS))
    width = draw(st.integers(max(1, size[1] - 2 * pad_x), PIXELS))
    return Geometry((n, channels, height, width), filters, size, (stride, stride_x), (pad, pad_x))


def failed(rows: list[Row]) -> list[str]:
    assert rows
    return [str(row) for row in rows if not row.ok]


@pytest.mark.parametrize("conv", CONVOLUTIONS)
@given(geometry=geometries(), values=VALUES)
def test_convolution(conv: Convolution, setting: Setting, geometry: Geometry, values: Values) -> None:
    x, rng = values.image(geometry.images)
    weight = rng.standard_normal((geometry.filters, geometry.images[1], *geometry.size))
    layer = nr.Convolution(weight, rng.standard_normal(geometry.filters), geometry.stride[0], geometry.pad[0])
    assert not failed(check_twin(layer, kind_of(layer).module(layer, conv), x, rng, setting))


@pytest.mark.parametrize("kind", [nr.Pooling, nr.AveragePooling])
@given(geometry=geometries(pooling=True), values=VALUES)
def test_pooling(kind: type[nr.Pooling], setting: Setting, geometry: Geometry, values: Values) -> None:
    x, rng = values.image(geometry.images)
    layer = kind(*geometry.size, geometry.stride[0], geometry.pad[0])
    # Padding, over half a window too, must lose against negative values.
    assert not failed(check_twin(layer, kind_of(layer).module(layer, "conv2d"), x - 1, rng, setting))


@example(geometry=Geometry((2, 3, 7, 8), 1, (1, 1), (3, 3), (2, 2)), values=Values("distinct", 0))  # all padding
@example(geometry=Geometry((2, 3, 7, 8), 1, (4, 5), (3, 3), (1, 1)), values=Values("distinct", 0))
@given(geometry=geometries(), values=VALUES)
def test_im2col_moves_the_same_entries(setting: Setting, geometry: Geometry, values: Values) -> None:
    image, _ = values.image(geometry.images)
    tensor = setting.tensor(image)
    x = tensor.cpu().numpy()
    size, stride, pad = geometry.size, geometry.stride[0], geometry.pad[0]
    expected = nr.im2col_by_window(x, *size, stride, pad)
    assert expected.shape == (geometry.images[0] * np.prod(geometry.output), geometry.images[1] * np.prod(size))
    port = torchport.im2col(tensor, size, stride, pad).cpu().numpy()
    for found in (nr.im2col(x, *size, stride, pad), port):
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1))
def test_col2im_is_the_adjoint_of_im2col(setting: Setting, geometry: Geometry, seed: int) -> None:
    """<im2col(x), col> = <x, col2im(col)> for all x and col; exactly so on small whole numbers."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, geometry.images).astype(float)
    size, stride, pad = geometry.size, geometry.stride[0], geometry.pad[0]
    rows = nr.im2col(x, *size, stride, pad)
    col = rng.integers(-8, 9, rows.shape).astype(float)
    image = nr.col2im(col, geometry.images, *size, stride, pad)
    assert np.sum(rows * col) == np.sum(x * image)
    found = torchport.col2im(setting.tensor(col), geometry.images, size, stride, pad)
    np.testing.assert_array_equal(found.cpu().numpy(), image)


def reference_in_pairs(layer: nr.Convolution, x: Array, dout: Array, geometry: Geometry) -> tuple[Array, Array]:
    """Output and grad_input of a convolution with a stride and a pad for each axis, by one that has neither."""
    (stride_y, stride_x), (pad_y, pad_x) = geometry.stride, geometry.pad
    padded = np.pad(x, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    dense = layer.forward(padded)
    upstream = np.zeros_like(dense)
    upstream[:, :, ::stride_y, ::stride_x] = dout
    _, _, h, w = x.shape
    return dense[:, :, ::stride_y, ::stride_x], layer.backward(upstream)[:, :, pad_y : pad_y + h, pad_x : pad_x + w]


def pairs_agree(geometry: Geometry, seed: int, setting: Setting) -> bool:
    """UnfoldConv2d with a stride and a pad for each axis, on small whole numbers, whose sums are exact."""
    rng = np.random.default_rng(seed)
    n, channels, _, _ = geometry.images
    x, weight = (
        rng.integers(-4, 5, shape).astype(float)
        for shape in (geometry.images, (geometry.filters, channels, *geometry.size))
    )
    dout = rng.integers(-4, 5, (n, geometry.filters, *geometry.output)).astype(float)
    output, grad = reference_in_pairs(nr.Convolution(weight, 0), x, dout, geometry)
    module = torchport.UnfoldConv2d(channels, geometry.filters, *geometry[2:], bias=False)
    module = module.to(setting.device, setting.dtype)
    module.weight = nn.Parameter(setting.tensor(weight))
    leaf = setting.tensor(x).requires_grad_()
    found = module(leaf)
    if tuple(found.shape) != output.shape:
        return False
    found.backward(setting.tensor(dout))
    assert leaf.grad is not None
    return np.array_equal(found.detach().cpu(), output) and np.array_equal(leaf.grad.cpu(), grad)


@given(geometry=geometries(square=False), seed=st.integers(0, 2**32 - 1))
def test_unfold_with_a_stride_and_a_pad_for_each_axis(setting: Setting, geometry: Geometry, seed: int) -> None:
    assert pairs_agree(geometry, seed, setting)


@st.composite
def illegal_geometries(draw: st.DrawFn) -> Geometry:
    """One thing about a legal geometry broken."""
    legal = draw(geometries())
    axis = draw(st.integers(0, 1))
    n, channels, h, w = legal.images

    def with_axis(pair: Pair, value: int) -> Pair:
        return (value, pair[1]) if axis == 0 else (pair[0], value)

    return draw(
        st.sampled_from(
            [
                legal._replace(size=with_axis(legal.size, legal.images[2 + axis] + 2 * legal.pad[axis] + 1)),
                legal._replace(size=with_axis(legal.size, 0)),
                legal._replace(stride=(0, 0)),
                legal._replace(stride=(-1, -1)),
                legal._replace(pad=(-1, -1)),
                legal._replace(images=(0, channels, h, w)),
                legal._replace(images=(n, 0, h, w)),
                legal._replace(images=(n, channels, 0, w) if axis == 0 else (n, channels, h, 0)),
            ]
        )
    )


def columns(geometry: Geometry) -> Array:
    """Of the shape that col2im takes, where there is one."""
    rows = geometry.images[0] * np.prod(np.maximum(geometry.output, 0)) if all(geometry.stride) else 1
    return np.zeros((rows, geometry.images[1] * np.prod(geometry.size)))


def convolve(geometry: Geometry) -> Array:
    weight = np.ones((geometry.filters, geometry.images[1], *geometry.size))
    return nr.Convolution(weight, 0, geometry.stride[0], geometry.pad[0]).forward(np.ones(geometry.images))


TAKES_GEOMETRY: dict[str, Callable[[Geometry], Any]] = {
    "numpy im2col": lambda g: nr.im2col(np.ones(g.images), *g.size, g.stride[0], g.pad[0]),
    "numpy im2col_by_window": lambda g: nr.im2col_by_window(np.ones(g.images), *g.size, g.stride[0], g.pad[0]),
    "numpy col2im": lambda g: nr.col2im(columns(g), g.images, *g.size, g.stride[0], g.pad[0]),
    "numpy Convolution": convolve,
    "torch im2col": lambda g: torchport.im2col(torch.ones(g.images), *g[2:]),
    "torch col2im": lambda g: torchport.col2im(torch.from_numpy(columns(g)), g.images, *g[2:]),
    "torch UnfoldConv2d": lambda g: torchport.UnfoldConv2d(g.images[1], g.filters, *g[2:])(torch.ones(g.images)),
}

# torch's constructor lets empty weights pass with a warning.
may_be_empty = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@may_be_empty
@pytest.mark.parametrize("name", TAKES_GEOMETRY)
@given(geometry=illegal_geometries())
def test_an_illegal_geometry_is_refused(name: str, geometry: Geometry) -> None:
    with pytest.raises(ValueError, match=r"must|fit"):
        TAKES_GEOMETRY[name](geometry)


@may_be_empty
@pytest.mark.parametrize("name", ["numpy Convolution", "torch UnfoldConv2d"])
@given(geometry=geometries())
def test_no_filters_are_refused(name: str, geometry: Geometry) -> None:
    with pytest.raises(ValueError, match="must"):
        TAKES_GEOMETRY[name](geometry._replace(filters=0))


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of SimpleConvNet. In one of three the image has a pixel too many or too few, or none."""
    conv_param = {
        "filter_num": draw(st.integers(1, 3)),
        "filter_size": draw(st.integers(1, 6)),
        "pad": draw(st.integers(0, 4)),
        "stride": draw(st.integers(1, 4)),
    }
    out = 2 * draw(st.integers(1, 3))
    fitting = (out - 1) * conv_param["stride"] + conv_param["filter_size"] - 2 * conv_param["pad"]
    image = fitting + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    return {
        "input_dim": (draw(st.integers(1, 3)), image, image),
        "conv_param": conv_param,
        "hidden_size": draw(st.integers(1, 6)),
        "output_size": draw(st.integers(1, 6)),
    }


def built_or_refused(network: Callable[..., Any], **arguments: Any) -> Any:
    """The network, or the message of the ValueError."""
    try:
        return network(**arguments)
    except ValueError as error:
        return str(error)


# What sees a geometry; numbers of samples and the like are no matter of it.
RUNS = "training", "prediction", "batch", "integers"


@pytest.mark.parametrize("conv", CONVOLUTIONS)
@a_fifth
@given(architecture=architectures(), batch=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_network(conv: Convolution, setting: Setting, architecture: dict[str, Any], batch: int, seed: int) -> None:
    """Both sides refuse an architecture in the same words, or agree on it."""
    reference = built_or_refused(nr.SimpleConvNet, **architecture)
    port = built_or_refused(torchport.SimpleConvNet, **architecture, conv=conv)
    if isinstance(reference, str) or isinstance(port, str):
        assert port == reference
        return
    reference.set_params(seeded_params(seed, reference.params))
    shapes = {name: value.shape for name, value in port.state_dict().items()}
    stride, pad = (architecture["conv_param"][key] for key in ("stride", "pad"))
    params = cast_params(reference.params, setting.dtype)
    port = torchport.SimpleConvNet.from_params(params, conv, stride, pad, device=setting.device)
    assert port.input_dim == architecture["input_dim"]
    assert {name: value.shape for name, value in port.state_dict().items()} == shapes
    x, t = seeded_batch(seed, batch, architecture["input_dim"], architecture["output_size"])
    check_parity(reference, port, x, t, seed=seed, runs=RUNS).raise_if_failed()


# --- The search itself


KINDS_OF_GEOMETRY: dict[str, Callable[[Geometry], bool]] = {
    "one pixel": lambda g: g.images[2:] == (1, 1),
    "image not square": lambda g: g.images[2] > g.images[3] > 1,
    "filter not square": lambda g: g.size[1] > g.size[0] > 1,
    "padded by more than the filter": lambda g: g.pad[0] > max(g.size),
    "stride larger than the filter": lambda g: g.stride[0] > max(g.size) and min(g.output) > 1,
    "stride does not divide": lambda g: (g.images[2] + 2 * g.pad[0] - g.size[0]) % g.stride[0] > 0,
    "window in padding only": lambda g: g.pad[0] >= g.size[0],
    "filter larger than the image": lambda g: g.size[0] > g.images[2],
}


def test_the_search_reaches_every_kind() -> None:
    reached: set[str] = set()

    @settings(max_examples=500)
    @given(geometry=geometries())
    def look(geometry: Geometry) -> None:
        reached.update(kind for kind, holds in KINDS_OF_GEOMETRY.items() if holds(geometry))

    look()
    assert reached == KINDS_OF_GEOMETRY.keys()


def columns_before_rows(input: Tensor, size: Pair, stride: Pair, pad: Pair) -> Tensor:
    windows = im2col(input, size, stride, pad).reshape(-1, input.shape[1], *size)
    return windows.transpose(2, 3).flatten(1)


def strides_swapped(input: Tensor, size: Pair, stride: Pair, pad: Pair) -> Tensor:
    return im2col(input, size, stride[::-1], pad)


def shown(geometry: Geometry) -> bool:
    try:
        return not pairs_agree(geometry, 0, Setting())
    except RuntimeError:  # a shape that does not fit
        return True


@pytest.mark.parametrize("wrong", [columns_before_rows, strides_swapped])
def test_a_planted_bug_is_found(wrong: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchport.layers.modules.im2col", wrong)
    few = settings(max_examples=settings().max_examples, derandomize=True, database=None, phases=[Phase.generate])
    assert shown(find(geometries(square=False), shown, settings=few))
