"""Which network a set of parameters belongs to, by their names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from numpy_ref import classic
from numpy_ref.checks import Array, check_mapping
from numpy_ref.classic import alexnet_stack, lenet5_stack
from numpy_ref.classic_layers import Subsampling
from numpy_ref.conv_net import conv_net_stack
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS, deep_convnet_stack
from numpy_ref.layers import WindowLayer
from numpy_ref.network import check_same_layout
from numpy_ref.simple_convnet import DEFAULT_CONV_PARAM, simple_convnet_stack
from numpy_ref.stack import Stack, weight_shapes
from torchport.choices import Activation
from torchport.networks.architectures import Architecture
from torchport.networks.hints import Hints
from torchport.networks.nearest import AVERAGE, DENSE, NAMED, USUAL, first, listed, nearest, weights_of

CHAPTER_3 = [784, 50, 100, 10]  # the sizes of the trained parameters that come with it

_STATISTIC = re.compile(r"running_(mean|var)[1-9]\d{0,3}")
MAX_POOLED = 6  # convolutions, behind each of which a pooling may stand or not

NO_TRACE = "it leaves no trace in the parameters"


def recognise(
    params: Mapping[str, Array],
    stride: int = 1,
    pad: int = 0,
    activation: Activation | None = None,
    pool: Sequence[int] | None = None,
) -> Architecture:
    """The network that params belong to, W1 b1 W2 b2 and so on, by their names and shapes alone.

    Some things leave no trace there (Hints). stride and pad of a SimpleConvNet's convolution: others mean another
    image size. activation: None is chapter 3's sigmoid for its sizes, 784-50-100-10, a LeNet5's tanh, and relu for all
    others. pool, in a network that the book does not have. And whether a square weight is transposed.

    ValueError for anything else, which lists the arrays and says what the nearest network has otherwise, and for an
    argument that such a network does not have; TypeError.
    """
    return recognised(params, Hints(stride, pad, activation, pool))


def without_statistics(params: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """What is trained, and running_mean1, running_var1 and so on."""
    statistics = {name: value for name, value in params.items() if _STATISTIC.fullmatch(str(name))}
    return {name: value for name, value in params.items() if name not in statistics}, statistics


def recognised(params: Mapping[str, Array], hints: Hints) -> Architecture:
    """recognise, with the arguments in one."""
    params, _ = without_statistics(check_mapping("params", params))
    name = nearest(params)
    if name == DENSE:
        hints.refuse("TwoLayerNet" if "W3" not in params else name, "stride", "pad", "pool")
        return _fully_connected(params, hints.activation)
    if hints.pool is None and name in KNOWN:
        found = KNOWN[name](params, hints)
        if found is not None:
            return found
    elif name == "LeNet5":  # whose subsampling is trained
        hints.refuse(name, "pool")
    return _conv_net(params, hints)


def _fully_connected(params: Mapping[str, Array], activation: Activation | None) -> Architecture:
    if activation == "tanh":
        raise ValueError("activation 'tanh' cannot be MultiLayerNet's: leave it out")
    weights = weights_of(params)
    sizes = [len(weights[0]), *(weight.shape[1] for weight in weights)]
    first, *hidden, last = sizes
    ends: dict[str, Any] = {"input_size": first, "output_size": last}
    if sizes == CHAPTER_3 and activation != "relu" and "gamma1" not in params:
        note = "" if activation else f"sigmoid is taken, as in chapter 3: {NO_TRACE}"
        return Architecture("ThreeLayerNet", {**ends, "hidden_size_list": hidden}, note)
    note = "" if activation or not hidden else f"relu is taken, it may be sigmoid: {NO_TRACE}"
    rest = {"hidden_size_list": hidden, "activation": activation or "relu"}
    if "gamma1" in params:
        return Architecture("MultiLayerNetExtend", {**ends, **rest, "use_batchnorm": True}, note)
    if len(hidden) == 1:
        return Architecture("TwoLayerNet", {**ends, "hidden_size": hidden[0], "activation": activation or "relu"}, note)
    return Architecture("MultiLayerNet", {**ends, **rest}, note)


# --- Networks of images


def _simple_convnet(params: Mapping[str, Array], hints: Hints) -> Architecture:
    if hints.activation is not None:  # which the book's has not
        found = _conv_net(params, replace(hints, pool=(1,)))
        return replace(found, note=f"{_geometry_of(found)} are taken, as in the book: {NO_TRACE}")
    stack = simple_convnet_stack({**DEFAULT_CONV_PARAM, "stride": hints.stride, "pad": hints.pad})
    like = f"SimpleConvNet with stride {hints.stride} and pad {hints.pad}"
    (conv,), (hidden, outputs), input_dim = _sized(params, stack, like)
    sizes = {"input_dim": input_dim, "conv_param": conv, "hidden_size": hidden, "output_size": outputs}
    note = "" if hints.arguments else "stride 1 and pad 0 are taken: others would mean another image size"
    return Architecture("SimpleConvNet", sizes, note)


def _deep_convnet(params: Mapping[str, Array], hints: Hints) -> Architecture:
    hints.refuse("DeepConvNet", "stride", "pad", "activation")
    like, way_out = "DeepConvNet with the book's strides and pads", ": say where else it pools with pool (--pool)"
    convs, (hidden, outputs), input_dim = _sized(params, deep_convnet_stack(), like, way_out)
    pairs = enumerate(zip(convs, DEFAULT_CONV_PARAMS, strict=True), 1)
    others = {f"conv_param_{number}": param for number, (param, default) in pairs if param != default}
    sizes = {"input_dim": input_dim, **others, "hidden_size": hidden, "output_size": outputs}
    return Architecture(
        "DeepConvNet", sizes, "the book's strides and pads are taken: they leave no trace in the parameters"
    )


def _lenet5(params: Mapping[str, Array], hints: Hints) -> Architecture | None:
    """None where it is a network of average subsampling's axes only."""
    subsampling = "trainable" if params["W2"].ndim == 1 else "average"
    try:
        _, affine, input_dim = _sized(params, lenet5_stack(subsampling=subsampling), "LeNet5")
        check_same_layout(params, weight_shapes(input_dim, lenet5_stack(affine[-1], subsampling)))
    except ValueError:
        if subsampling == "average":
            return None
        raise
    unusual = input_dim[1] != USUAL.get(input_dim[0], input_dim[1])
    if subsampling == "average" and (unusual or hints.activation == "relu"):
        return None
    hints.refuse("LeNet5", "stride", "pad")
    if hints.activation == "relu":
        raise ValueError("activation 'relu' cannot be LeNet5's: leave it out")
    note = "" if hints.activation else f"tanh is taken, it may be sigmoid: {NO_TRACE}"
    if note and subsampling == "average":
        note = f"tanh and average subsampling are taken, it may be sigmoid, or relu and max pooling: {NO_TRACE}"
    sizes = {"input_dim": input_dim, "output_size": affine[-1], "subsampling": subsampling}
    return Architecture("LeNet5", {**sizes, "activation": hints.activation or "tanh"}, note)


def _alexnet(params: Mapping[str, Array], hints: Hints) -> Architecture:
    hints.refuse("AlexNet", "stride", "pad", "activation")
    _, affine, input_dim = _sized(params, alexnet_stack(), "AlexNet with the paper's strides and pads")
    sizes: dict[str, Any] = {"input_dim": input_dim, "output_size": affine[-1], "width": _alexnets_width(params)}
    check_same_layout(params, weight_shapes(input_dim, alexnet_stack(affine[-1], sizes["width"])))
    return Architecture("AlexNet", sizes, "the paper's strides and pads are taken: they leave no trace")


# What has these axes is taken to be this network; a function returns None for a network of one's own.
KNOWN: dict[str, Callable[[Mapping[str, Array], Hints], Architecture | None]] = {
    "SimpleConvNet": _simple_convnet,
    "DeepConvNet": _deep_convnet,
    "LeNet5": _lenet5,
    AVERAGE: _lenet5,
    "AlexNet": _alexnet,
}


def _conv_net(params: Mapping[str, Array], hints: Hints) -> Architecture:
    """A network of one's own: where nothing else says it, pooling stands where images have the usual size then."""
    found = list(_readings(params, hints))
    usual = [each for each in found if each.input_shape[1] == USUAL.get(each.input_shape[0], each.input_shape[1])]
    told = (usual or found)[:1] if hints.pool is not None else usual
    if len(told) == 1:
        return told[0]
    sizes = first(NAMED, [f"{each.input_shape[1]} with {_geometry_of(each)}" for each in told or found])
    raise ValueError(
        f"the shapes {listed(params)} do not tell where 2x2 pooling stands. Pixels a side of the images would be "
        f"{'; '.join(sizes) or 'none'}: give pool, the numbers of the convolutions that it follows (--pool), and pad"
    )


def _readings(params: Mapping[str, Array], hints: Hints) -> Iterator[Architecture]:
    weights = weights_of(params)
    as_before = [weight.shape[2] // 2 for weight in weights if weight.ndim == 4]  # pads that keep an image's size
    convs, activation = len(as_before), hints.activation or "relu"
    numbers = range(1, min(convs, MAX_POOLED) + 1)
    pools = [pool for count in range(convs + 1) for pool in combinations(numbers, count)]
    pools = pools if hints.pool is None else [tuple(hints.pool)]
    pads = [[hints.pad] * convs, *[as_before] * (not hints.pad and any(as_before))]
    for pool, pad in product(pools, pads):
        conv_params = [{**DEFAULT_CONV_PARAM, "stride": hints.stride, "pad": each} for each in pad]
        try:
            stack = conv_net_stack(conv_params, [1] * (len(weights) - convs), pool, activation)
            own, (*hidden, outputs), input_dim = _sized(params, stack, f"ConvNet with pool {[*pool]} and pad {pad}")
        except ValueError:
            if hints.pool is not None and pad == pads[0]:
                raise
            continue
        sizes = {"input_dim": input_dim, "conv_params": own, "hidden_size_list": hidden, "output_size": outputs}
        found = Architecture("ConvNet", {**sizes, "pool_after": list(pool), "activation": activation})
        if hints.pool is None or pad != pads[0]:
            images = f"images of {input_dim[1]} pixels a side"
            found = replace(found, note=f"{_geometry_of(found)} and {activation} are taken, as for {images}")
        yield found


def _geometry_of(found: Architecture) -> str:
    pads = [conv["pad"] for conv in found.arguments["conv_params"]]
    shown = str(pads[0]) if len(set(pads)) == 1 else ",".join(map(str, pads))
    return f"pool={','.join(map(str, found.arguments['pool_after'])) or 'none'} pad={shown}"


def _sized(
    params: Mapping[str, Array], stack: Stack, like: str, way_out: str = ""
) -> tuple[list[dict[str, int]], list[int], tuple[int, int, int]]:
    """The convolutions and the outputs of Affine layers of a network like stack, and its images (C, H, W).

    Walks back from the rows of the first Affine, through layers that know stride, pad and window. ValueError.
    """
    weights, sized = weights_of(params), dict(stack)
    images, channels = weights[0].shape[1], [len(weight) for weight in weights if weight.ndim != 2][-1]
    side = math.isqrt(next(len(weight) for weight in weights if weight.ndim == 2) // channels)
    for name, part in reversed(sized.items()):
        if isinstance(part, int):
            sized[name] = weights.pop().shape[1]
        elif isinstance(part, Mapping):
            filters, _, size, _ = weights.pop().shape
            sized[name] = {**part, "filter_num": filters, "filter_size": size}
            side = (side - 1) * part["stride"] + size - 2 * part["pad"]
        elif part is Subsampling:
            weights.pop()
            side *= 2
        elif isinstance(part, WindowLayer):
            side = (side - 1) * part.stride + part.pool_h
    try:
        if side < 1:
            raise ValueError(f"an image would have {side} pixels a side")
        check_same_layout(params, weight_shapes((images, side, side), sized))
    except ValueError as error:
        raise ValueError(f"no {like} has {listed(params)}: {error}{way_out}") from None
    convs = [part for part in sized.values() if isinstance(part, dict)]
    outputs = [part for part in sized.values() if isinstance(part, int)]
    return convs, outputs, (images, side, side)


def _alexnets_width(params: Mapping[str, Array]) -> float:
    """Of the widths at which each layer has as many filters or units as these, the plainest; any, where none has."""
    counts = [*(row[0] for row in classic.ALEXNET_CONVOLUTIONS), classic.ALEXNET_HIDDEN]
    found = [params[f"b{number}"].size for number in range(1, len(counts) + 1)]
    plain = found[-1] / classic.ALEXNET_HIDDEN
    if [classic.scaled(count, plain) for count in counts] == found:
        return plain
    low = max((n - 0.5) / count if n > 1 else 0 for n, count in zip(found, counts, strict=True))  # 1 at the least
    high = min((n + 0.5) / count for n, count in zip(found, counts, strict=True))
    return (low + high) / 2
