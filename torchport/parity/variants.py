"""Layers and gradients that people use in place of the reference's; to add one, add a row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.functions import sigmoid
from numpy_ref.layers import WindowLayer
from numpy_ref.network import layer_statistics
from numpy_ref.util import conv_output_size
from torchport.layers import kind_of, other
from torchport.layers.arithmetic import arithmetic_of, rounded
from torchport.parity.arrays import Arrays
from torchport.parity.mistakes import DTYPES, Mistake, Step, no_step, unrounded

# torch's eps in normalisations, other common ones, and the book's 10e-7 misread.
EPSILONS = (1e-5, 1e-3, 1e-7, 1e-8, 1e-12, 0)


def factors(layer: Any, n: int, y: Array) -> dict[str, float]:
    """Factors that people multiply by, by name, for n samples and a result y (n, outputs, ...)."""
    pixels, ratio = math.prod(y.shape[2:]), kind_of(layer).ratio
    r = 0 if ratio is None else ratio(layer)
    window = layer.pool_h * layer.pool_w if isinstance(layer, WindowLayer) else 1
    sizes = {"N": n, "pixels": pixels, "window": window, **({"N pixels": n * pixels} if pixels > 1 else {})}
    whole = {"2": 2, "255": 255, **{f"{name} ({k})": k for name, k in sizes.items() if k > 1}}
    inverse = {f"1 / {name}": 1 / k for name, k in whole.items()}
    return {"-1": -1, **whole, **inverse, **({"1 - r": 1 - r, "nn.Dropout's 1 / (1 - r)": 1 / (1 - r)} if r else {})}


def _padded(x: Array, before: int, after: int, fill: float = 0, **mode: Any) -> Array:
    """x (N, C, H, W) padded by before and after pixels in height and width."""
    return np.asarray(np.pad(x, ((0, 0), (0, 0), *2 * ((before, after),)), **(mode or {"constant_values": fill})))


def _windows(layer: Any, x: Array, _: bool) -> Iterator[Mistake]:
    """Yield other strides, pads, offsets of the windows and padding modes."""
    s, p, bare = layer.stride, layer.pad, other(layer, pad=0)
    size = (layer.pool_h, layer.pool_w) if isinstance(layer, WindowLayer) else layer.W.shape[2:]
    for stride, pad in itertools.product(range(1, 5), range(5)):
        yield Mistake(f"stride {stride} and pad {pad}, not {s} and {p}", other(layer, stride=stride, pad=pad), x)
    height, width = ((conv_output_size(n, k, s, p) - 1) * s + k for n, k in zip(x.shape[2:], size, strict=True))
    for top in range(max(size)):
        padded = _padded(x, top, max(size), -np.inf if isinstance(layer, nr.Pooling) else 0)[:, :, :height, :width]
        yield Mistake(f"{top} pixels of padding at the top and the left, not {p}", bare, padded)
    for mode in ("edge", "reflect", "wrap"):
        yield Mistake(f"padding by mode {mode}", bare, _padded(x, p, p, mode=mode))


def _dilations(layer: nr.Convolution, x: Array, _: bool) -> Iterator[Mistake]:
    for d, pad in itertools.product((2, 3), range(7)):
        spaced = np.kron(layer.W, np.outer(*2 * (np.eye(d)[0],)))[..., : 1 - d, : 1 - d]
        yield Mistake(f"dilation {d} and pad {pad}, not 1 and {layer.pad}", other(layer, W=spaced, pad=pad), x)


def _pools(layer: Any, x: Array, _: bool) -> Iterator[Mistake]:
    """Yield other window sizes, the other kind of pooling, and other ways to pad."""
    size, s, p, bare = (layer.pool_h, layer.pool_w), layer.stride, layer.pad, other(layer, pad=0)
    sizes, right = (size, *((k, k) for k in range(1, 6))), f"{POOLS[type(layer)]} of {size[0]} x {size[1]}"
    for kind, (height, width), pad in itertools.product(POOLS, sizes, dict.fromkeys((p, 0, 1, 2))):
        if pad < min(height, width):
            padding = "" if pad == p else f" with pad {pad}"
            yield Mistake(f"{POOLS[kind]} of {height} x {width}{padding}, not {right}", kind(height, width, s, pad), x)
    if isinstance(layer, nr.Pooling):
        yield Mistake("the least of each window, not the largest", layer, -x, step=lambda value, _: -value)
        yield Mistake("padding of 0 may win the maximum", bare, _padded(x, p, p))
        yield Mistake("ceil_mode", bare, _padded(_padded(x, p, p, -np.inf), 0, s - 1, -np.inf))
        return
    for counts, extra in itertools.product((1, 0), (0, s - 1)):
        counted = _padded(_padded(np.ones_like(x[:1]), p, p, counts), 0, extra)
        share = bare.forward(counted)  # of each window that counts
        sentence = f"padding that counts{'' if counts else ' not'}{', ceil_mode' if extra else ''}"
        step: Step = partial(lambda share, value, _: value * share, share)
        yield Mistake(sentence, bare, _padded(x, p, p + extra), step=step)


def _statistics(layer: nr.BatchNormalization, x: Array, training: bool) -> Iterator[Mistake]:
    """Yield other means, variances and eps, as gamma and beta that have the same effect on this batch."""
    flat, over = x.reshape(len(x), -1), (0, *range(2, x.ndim))
    by_channel = (f(x, over, keepdims=True)[0] for f in (np.mean, np.var))
    channels = (np.broadcast_to(statistic, x.shape[1:]).ravel() for statistic in by_channel)
    statistics = {
        "the batch's": (flat.mean(0), flat.var(0), len(x)),
        "running": (*layer_statistics(layer).values(), len(x)),
        "each channel's": (*channels, x.size // x.shape[1]),
    }
    right_mean, right_var, _ = statistics["the batch's" if training else "running"]
    for (name, (mean, var, n)), eps in itertools.product(statistics.items(), (layer.EPS, *EPSILONS)):
        deviations = {
            "biased variance, eps": np.sqrt(var + eps),
            "unbiased variance, eps": np.sqrt(var * n / max(n - 1, 1) + eps),
            "deviation, to which it adds eps": np.sqrt(var) + eps,
        }
        for kind, deviation in deviations.items():
            relative = layer.gamma / deviation
            gamma, beta = relative * np.sqrt(right_var + layer.EPS), layer.beta + relative * (right_mean - mean)
            sentence = f"{name} mean and {kind} {eps:g} (the reference adds {layer.EPS:g} to the biased variance)"
            yield Mistake(sentence, other(layer, gamma=gamma, beta=beta), x)


def _constants(layer: Any, x: Array, _: bool) -> Iterator[Mistake]:
    """Yield other constants, torch's among them."""
    if isinstance(layer, nr.Subsampling):
        yield Mistake("mean of a window, not sum", other(layer, W=layer.W / (layer.pool_h * layer.pool_w)), x)
        return
    own, sizes = vars(layer), (3, 5, 7, 9)
    tried = {
        "alpha": (layer.alpha, *(layer.alpha / size for size in sizes), layer.alpha * layer.size),  # torch divides it
        "k": (layer.k, 1.0),
        "exponent": (layer.exponent, 0.75, 0.5, 1.0),  # beta
        "size": (layer.size, *sizes),
    }
    choices = (zip(tried, values, strict=True) for values in itertools.product(*map(dict.fromkeys, tried.values())))
    changes = ({name: value for name, value in choice if value != own[name]} for choice in choices)
    for changed in sorted(filter(None, changes), key=len):
        sentence = "; ".join(f"{name} {value:g}, not {own[name]:g}" for name, value in changed.items())
        yield Mistake(sentence, other(layer, **changed), x)


POOLS: dict[type, str] = {nr.Pooling: "maximum", nr.AveragePooling: "mean"}
LAYERS: dict[Any, Callable[[Any, Array, bool], Iterator[Mistake]]] = {
    nr.Convolution | WindowLayer: _windows,
    nr.Convolution: _dilations,
    nr.Pooling | nr.AveragePooling: _pools,
    nr.BatchNormalization: _statistics,
    nr.Subsampling | nr.LocalResponseNormalization: _constants,
}


def precisions(layer: Any, x: Array, parameters: Mapping[str, Array], u: float) -> Iterator[Mistake]:
    """Yield operands rounded to less precision than u; but for TF32 the result is rounded to it as well."""

    def tf32(cut: Callable[[Array], Array], array: Array) -> Array:
        mantissa, exponent = np.frexp(array)
        return np.asarray(np.ldexp(cut(np.ldexp(mantissa, 11)), exponent - 11))

    # TF32 rounds the factors of products, and no biases.
    kinds: list[tuple[str, tuple[str, ...], Callable[[Array], Array], Step]] = [
        ("TF32", ("W",), partial(tf32, np.round), no_step),
        ("TF32, cut off", ("W",), partial(tf32, np.trunc), no_step),
    ]
    for name, dtype in DTYPES.items():
        if (share := u / arithmetic_of(dtype).u) < 0.5:
            kinds.append((name, tuple(parameters), partial(rounded, dtype=dtype), unrounded(dtype, share)))
    for name, rounding, function, step in kinds:
        twin = other(layer, **{key: function(parameters[key]) for key in rounding if key in parameters})
        yield Mistake(f"computed in {name}", twin, function(x), step=step)


# --- Gradients of an input: (the layer after its forward, x, dout) -> the gradient

Slope = Callable[[Any, Array, Array], Any]


def _pooled(share: Callable[[Array, Array], Array]) -> Slope:
    """Pooling's gradient with other shares for a window's entries: share(windows, where they equal their maximum)."""

    def slope(layer: nr.Pooling, x: Array, dout: Array) -> Array:
        windows = layer.windows(x, -np.inf)  # (N*OH*OW*C, PH*PW)
        best = windows == windows.max(axis=1, keepdims=True)
        return layer.scatter(layer.per_window(dout)[:, np.newaxis] * share(windows, best))

    return slope


SLOPES: dict[type, dict[str, Slope]] = {
    nr.Relu: {
        "passes where x >= 0 ({zeros} entries of x are 0)": lambda _, x, dout: dout * (x >= 0),
        "is half at x == 0 ({zeros} entries of x are 0)": lambda _, x, dout: dout * ((x > 0) + 0.5 * (x == 0)),
    },
    nr.Sigmoid: {
        "is dout y, without 1 - y": lambda layer, _, dout: dout * layer.out,
        "is the slope at y, not at x": lambda layer, _, dout: dout * sigmoid(layer.out) * (1 - sigmoid(layer.out)),
        "is tanh's, dout (1 - y^2)": lambda layer, _, dout: dout * (1 - layer.out**2),
    },
    nr.Tanh: {
        "is dout (1 - y), without the square": lambda layer, _, dout: dout * (1 - layer.out),
        "is dout (1 - x^2), of x and not of y": lambda _, x, dout: dout * (1 - x**2),
        "is sigmoid's, dout y (1 - y)": lambda layer, _, dout: dout * layer.out * (1 - layer.out),
    },
    nr.Pooling: {
        "goes to all of a window": _pooled(lambda windows, _: np.ones_like(windows)),
        "is shared by all of a window": _pooled(lambda windows, _: np.full_like(windows, 1 / windows.shape[1])),
        "goes to each of equal maxima": _pooled(lambda _, best: best),
        "is shared by equal maxima": _pooled(lambda _, best: best / best.sum(axis=1, keepdims=True)),
        "goes to the last of equal maxima": _pooled(lambda _, best: best & (np.cumsum(best[:, ::-1], 1)[:, ::-1] == 1)),
    },
}


def slopes(layer: Any, x: Array, dout: Array) -> Arrays:
    """Yield gradients of the input that people write for such a layer."""
    if dout.size == x.size:
        yield "is the upstream one as it is", dout.reshape(x.shape)
    twin = other(layer)
    twin.forward(x)
    for phrase, slope in SLOPES.get(type(layer), {}).items():
        yield phrase.format(zeros=np.sum(x == 0)), slope(twin, x, dout)


def parts(dout: Array) -> Arrays:
    """Yield dout (N, ...) with all but a part of the batch or of the pixels set to 0."""
    n, pixels = len(dout), math.prod(dout.shape[2:])
    samples, places = np.arange(n).reshape(-1, *(1,) * (dout.ndim - 1)), np.arange(pixels).reshape(dout.shape[2:])
    yield "is that of the first half of the batch alone", dout * (samples < n // 2)
    yield "is that of the second half of the batch alone", dout * (samples >= n // 2)
    for name, number, place in (("first", 0, 0), ("last", n - 1, pixels - 1)):
        yield f"is that of the {name} sample alone", dout * (samples == number)
        yield f"is that of the {name} pixel alone", dout * (places == place)
