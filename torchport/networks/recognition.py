"""Recognises the network that a set of parameters belongs to, from their names and shapes.

nearest.py chooses the class; the functions here find its arguments, the sizes by sizes.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from numpy_ref import classic
from numpy_ref.checks import Array, check_mapping
from numpy_ref.classic import alexnet_stack, lenet5_stack
from numpy_ref.conv_net import conv_net_stack
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS, deep_convnet_stack
from numpy_ref.network import check_same_layout
from numpy_ref.simple_convnet import DEFAULT_CONV_PARAM, simple_convnet_stack
from numpy_ref.stack import weight_shapes
from torchport.choices import Activation
from torchport.networks.architectures import Architecture
from torchport.networks.hints import Hints
from torchport.networks.nearest import AVERAGE, DENSE, USUAL_SIDES, list_shapes, nearest_network, truncate
from torchport.networks.sizes import infer_sizes, weights_of

CHAPTER_3 = [784, 50, 100, 10]  # layer sizes of the trained parameters that come with the chapter

_STATISTIC = re.compile(r"running_(mean|var)[1-9]\d{0,3}")
MAX_POOLED = 6  # only the first six convolutions are tried with and without a pooling: 2^6 combinations

NO_TRACE = "it leaves no trace in the parameters"


def recognise(
    params: Mapping[str, Array],
    stride: int = 1,
    pad: int = 0,
    activation: Activation | None = None,
    pool: Sequence[int] | None = None,
) -> Architecture:
    """Return the network that params (W1, b1, W2, b2, ...) belong to, judged by names and shapes alone.

    The other arguments are what shapes cannot tell (see Hints): stride and pad of the convolutions, which decide the
    image size; activation, by default sigmoid for chapter 3's 784-50-100-10, tanh for LeNet5 and relu otherwise; and
    pool, for a network that the book does not have. Nor can shapes tell whether a square weight is transposed.

    Raises ValueError if no network fits, listing the arrays and their differences from the nearest network, or if that
    network does not take one of the arguments; TypeError if params is not a mapping.
    """
    return recognise_with_hints(params, Hints(stride, pad, activation, pool))


def without_statistics(params: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Split params into the trained ones and the running statistics (running_mean1, running_var1, ...)."""
    statistics = {name: value for name, value in params.items() if _STATISTIC.fullmatch(str(name))}
    return {name: value for name, value in params.items() if name not in statistics}, statistics


def recognise_with_hints(params: Mapping[str, Array], hints: Hints) -> Architecture:
    """Like recognise, with the optional arguments as one Hints object."""
    params, _ = without_statistics(check_mapping("params", params))
    name = nearest_network(params)
    if name == DENSE:
        hints.refuse("TwoLayerNet" if "W3" not in params else name, "stride", "pad", "pool")
        return _fully_connected(params, hints.activation)
    if hints.pool is None and name in KNOWN:
        architecture = KNOWN[name](params, hints)
        if architecture is not None:
            return architecture
    elif name == "LeNet5":  # whose subsampling is trained
        hints.refuse(name, "pool")
    return _conv_net(params, hints)


def _fully_connected(params: Mapping[str, Array], activation: Activation | None) -> Architecture:
    if activation == "tanh":
        raise ValueError("activation 'tanh' cannot be MultiLayerNet's: leave it out")
    weights = weights_of(params)
    sizes = [len(weights[0]), *(weight.shape[1] for weight in weights)]
    first, *hidden, last = sizes
    io: dict[str, Any] = {"input_size": first, "output_size": last}
    if sizes == CHAPTER_3 and activation != "relu" and "gamma1" not in params:
        note = "" if activation else f"sigmoid is assumed, as in chapter 3: {NO_TRACE}"
        return Architecture("ThreeLayerNet", {**io, "hidden_size_list": hidden}, note)
    note = "" if activation or not hidden else f"relu is assumed; it may be sigmoid: {NO_TRACE}"
    layers = {"hidden_size_list": hidden, "activation": activation or "relu"}
    if "gamma1" in params:
        return Architecture("MultiLayerNetExtend", {**io, **layers, "use_batchnorm": True}, note)
    if len(hidden) == 1:
        return Architecture("TwoLayerNet", {**io, "hidden_size": hidden[0], "activation": activation or "relu"}, note)
    return Architecture("MultiLayerNet", {**io, **layers}, note)


# --- Networks of images


def _simple_convnet(params: Mapping[str, Array], hints: Hints) -> Architecture:
    if hints.activation is not None:  # SimpleConvNet takes none, ConvNet does
        architecture = _conv_net(params, replace(hints, pool=(1,)))
        return replace(architecture, note=f"{_describe_geometry(architecture)} are assumed, as in the book: {NO_TRACE}")
    stack = simple_convnet_stack({**DEFAULT_CONV_PARAM, "stride": hints.stride, "pad": hints.pad})
    label = f"SimpleConvNet with stride {hints.stride} and pad {hints.pad}"
    (conv,), (hidden, outputs), input_dim = infer_sizes(params, stack, label)
    sizes = {"input_dim": input_dim, "conv_param": conv, "hidden_size": hidden, "output_size": outputs}
    note = "" if hints.arguments else "stride 1 and pad 0 are assumed: other values would imply another image size"
    return Architecture("SimpleConvNet", sizes, note)


def _deep_convnet(params: Mapping[str, Array], hints: Hints) -> Architecture:
    hints.refuse("DeepConvNet", "stride", "pad", "activation")
    label, way_out = "DeepConvNet with the book's strides and pads", ": say where else it pools with pool (--pool)"
    convs, (hidden, outputs), input_dim = infer_sizes(params, deep_convnet_stack(), label, way_out)
    pairs = enumerate(zip(convs, DEFAULT_CONV_PARAMS, strict=True), 1)
    conv_params = {f"conv_param_{number}": param for number, (param, default) in pairs if param != default}
    sizes = {"input_dim": input_dim, **conv_params, "hidden_size": hidden, "output_size": outputs}
    return Architecture(
        "DeepConvNet", sizes, "the book's strides and pads are assumed: they leave no trace in the parameters"
    )


def _lenet5(params: Mapping[str, Array], hints: Hints) -> Architecture | None:
    """Return the LeNet5, or None if its subsampling would be average and the sizes or relu point to a ConvNet."""
    subsampling = "trainable" if params["W2"].ndim == 1 else "average"
    try:
        _, affine, input_dim = infer_sizes(params, lenet5_stack(subsampling=subsampling), "LeNet5")
        check_same_layout(params, weight_shapes(input_dim, lenet5_stack(affine[-1], subsampling)))
    except ValueError:
        if subsampling == "average":
            return None
        raise
    unusual_side = input_dim[1] != USUAL_SIDES.get(input_dim[0], input_dim[1])
    if subsampling == "average" and (unusual_side or hints.activation == "relu"):
        return None
    hints.refuse("LeNet5", "stride", "pad")
    if hints.activation == "relu":
        raise ValueError("activation 'relu' cannot be LeNet5's: leave it out")
    note = "" if hints.activation else f"tanh is assumed; it may be sigmoid: {NO_TRACE}"
    if note and subsampling == "average":
        note = f"tanh and average subsampling are assumed; it may be sigmoid, or relu and max pooling: {NO_TRACE}"
    sizes = {"input_dim": input_dim, "output_size": affine[-1], "subsampling": subsampling}
    return Architecture("LeNet5", {**sizes, "activation": hints.activation or "tanh"}, note)


def _alexnet(params: Mapping[str, Array], hints: Hints) -> Architecture:
    hints.refuse("AlexNet", "stride", "pad", "activation")
    _, affine, input_dim = infer_sizes(params, alexnet_stack(), "AlexNet with the paper's strides and pads")
    sizes: dict[str, Any] = {"input_dim": input_dim, "output_size": affine[-1], "width": _alexnet_width(params)}
    check_same_layout(params, weight_shapes(input_dim, alexnet_stack(affine[-1], sizes["width"])))
    return Architecture("AlexNet", sizes, "the paper's strides and pads are assumed: they leave no trace")


def _alexnet_width(params: Mapping[str, Array]) -> float:
    """Return a width that gives AlexNet the sizes of params, hidden units / 4096 if that does; any if none does."""
    full_sizes = [*(row[0] for row in classic.ALEXNET_CONVOLUTIONS), classic.ALEXNET_HIDDEN]
    sizes = [params[f"b{number}"].size for number in range(1, len(full_sizes) + 1)]
    width = sizes[-1] / classic.ALEXNET_HIDDEN
    if [classic.scaled(full, width) for full in full_sizes] == sizes:
        return width
    pairs = list(zip(sizes, full_sizes, strict=True))
    low = max((size - 0.5) / full if size > 1 else 0 for size, full in pairs)  # any width down to 0 gives size 1
    high = min((size + 0.5) / full for size, full in pairs)
    return (low + high) / 2


# By the name that nearest_network returns. A function returns None if the parameters rather belong to a ConvNet.
KNOWN: dict[str, Callable[[Mapping[str, Array], Hints], Architecture | None]] = {
    "SimpleConvNet": _simple_convnet,
    "DeepConvNet": _deep_convnet,
    "LeNet5": _lenet5,
    AVERAGE: _lenet5,
    "AlexNet": _alexnet,
}


def _conv_net(params: Mapping[str, Array], hints: Hints) -> Architecture:
    """Return the one ConvNet that params fit; without hints.pool, of those for images of the usual size."""
    candidates = list(_conv_net_candidates(params, hints))
    usual = [c for c in candidates if c.input_shape[1] == USUAL_SIDES.get(c.input_shape[0], c.input_shape[1])]
    remaining = (usual or candidates)[:1] if hints.pool is not None else usual
    if len(remaining) == 1:
        return remaining[0]
    sizes = [f"{each.input_shape[1]} with {_describe_geometry(each)}" for each in remaining or candidates]
    raise ValueError(
        f"the shapes {list_shapes(params)} do not tell where 2x2 pooling stands. Pixels a side of the images would be "
        f"{'; '.join(truncate(sizes)) or 'none'}: give pool, the numbers of the convolutions that it follows (--pool), "
        "and pad"
    )


def _conv_net_candidates(params: Mapping[str, Array], hints: Hints) -> Iterator[Architecture]:
    """Yield every ConvNet that params fit, over all placements of 2x2 pooling and two choices of pads."""
    weights = weights_of(params)
    same_pads = [weight.shape[2] // 2 for weight in weights if weight.ndim == 4]  # these keep an image's size
    convs, activation = len(same_pads), hints.activation or "relu"
    numbers = range(1, min(convs, MAX_POOLED) + 1)
    pools = [pool for count in range(convs + 1) for pool in combinations(numbers, count)]
    pools = pools if hints.pool is None else [tuple(hints.pool)]
    pad_choices = [[hints.pad] * convs, *[same_pads] * (not hints.pad and any(same_pads))]
    for pool, pads in product(pools, pad_choices):
        conv_params = [{**DEFAULT_CONV_PARAM, "stride": hints.stride, "pad": pad} for pad in pads]
        label = f"ConvNet with pool {[*pool]} and pad {pads}"
        try:
            stack = conv_net_stack(conv_params, [1] * (len(weights) - convs), pool, activation)
            conv_params, (*hidden, outputs), input_dim = infer_sizes(params, stack, label)
        except ValueError:
            if hints.pool is not None and pads == pad_choices[0]:
                raise
            continue
        sizes = {"input_dim": input_dim, "conv_params": conv_params, "hidden_size_list": hidden, "output_size": outputs}
        net = Architecture("ConvNet", {**sizes, "pool_after": list(pool), "activation": activation})
        if hints.pool is None or pads != pad_choices[0]:
            images = f"images of {input_dim[1]} pixels a side"
            net = replace(net, note=f"{_describe_geometry(net)} and {activation} are assumed, as for {images}")
        yield net


def _describe_geometry(architecture: Architecture) -> str:
    pads = [str(conv["pad"]) for conv in architecture.arguments["conv_params"]]
    pools = ",".join(map(str, architecture.arguments["pool_after"])) or "none"
    return f"pool={pools} pad={pads[0] if len(set(pads)) == 1 else ','.join(pads)}"
