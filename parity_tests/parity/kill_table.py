"""How small a mistake is still seen: by check_parity, and by the rules by which other tools accept a port.

python parity_tests/parity/kill_table.py prints two tables as Markdown, in some minutes: the smallest size at which each
planted mistake is caught, and the smallest relative errors that are seen in every layer that adds products.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS
from torchport.layers import Setting, kind_of, rounded, softmax_with_loss
from torchport.layers.sums import own_limit
from torchport.layers.terms import to_torch_layout
from torchport.networks import from_reference
from torchport.parity import cases, check_parity
from torchport.parity.given import BATCH
from torchport.parity.integers import homogeneous, integer_case

FOUR: dict[str, Any] = {f"conv_param_{k}": {**p, "filter_num": 4} for k, p in enumerate(DEFAULT_CONV_PARAMS, 1)}
NETWORKS: dict[str, tuple[Callable[[], nr.Network], tuple[int, ...]]] = {  # and the shape of a batch
    "small SimpleConvNet": (lambda: nr.SimpleConvNet((2, 8, 8), FOUR["conv_param_1"], 6), (8, 2, 8, 8)),
    "small DeepConvNet": (lambda: nr.DeepConvNet((2, 12, 12), **FOUR, hidden_size=6), (8, 2, 12, 12)),
    "SimpleConvNet": (nr.SimpleConvNet, (4, 1, 28, 28)),
    "DeepConvNet": (nr.DeepConvNet, (4, 1, 28, 28)),
    "LeNet5": (nr.LeNet5, (4, 1, 28, 28)),
    "AlexNet, width 1/4": (lambda: nr.AlexNet(width=0.25), (2, 3, 227, 227)),
}
SPOILED = {"small SimpleConvNet": "affine1", "small DeepConvNet": "conv4"}  # where mistakes are made
SCALES = (START, FAN_IN) = ("0.01", "fan-in")  # of weights: the book's start, with biases of 0; seeded_params'
DTYPES = (torch.float64, torch.float32)


def network(name: str, scale: str = FAN_IN) -> tuple[nr.Network, Array, Array]:
    """One of NETWORKS without dropout and a batch, in numbers that float32 can hold."""
    make, (n, *shape) = NETWORKS[name]
    reference = make()
    for layer in reference.layers.values():
        vars(layer).update({"dropout_ratio": 0.0} if isinstance(layer, nr.Dropout) else {})
    params = cases.seeded_params(0, reference.params)
    if scale == START:
        params = {key: 0.01 * value / value.std() * (value.ndim > 1) for key, value in params.items()}
    reference.set_params({key: rounded(value, torch.float32) for key, value in params.items()})
    x, t = cases.seeded_batch(0, n, tuple(shape))
    return reference, rounded(x, torch.float32), t


# --- Mistakes of size eps, where 0 is none


def slope(eps: float, value: Tensor, *_: Any) -> Tensor:
    """value, of which the gradient counts 1 + eps times."""
    return value + eps * (value - value.detach())


def one_product(eps: float, y: Tensor, x: Tensor, module: Any) -> Tensor:
    """y, where the largest product in the first sample's largest entry counts 1 + eps times."""
    change, inputs = torch.zeros_like(y), x[0]
    channel, place = divmod(int(y[0].argmax()), y[0, 0].numel())
    if isinstance(module, nn.Conv2d):
        inputs = F.unfold(x[:1], 3, padding=module.padding)[0, :, place]  # type: ignore[arg-type]
    products = (inputs * module.weight[channel].flatten()).detach()
    change[0, channel].view(-1)[place] = eps * products[products.abs().argmax()]
    return y + change


# Of what, and how: "input", "weight" and "bias" of the spoiled layer, its output, or a named layer's.
MISTAKES: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "output times 1 + eps": ("output", lambda eps, y, *_: y * (1 + eps)),
    "largest entry of the output": ("output", lambda eps, y, *_: y * (1 + eps * (y == y.max()))),
    "one product of one entry": ("output", one_product),
    "bias times 1 + eps": ("output", lambda eps, y, x, own: y + eps * own.bias.view(-1, *(1,) * (y.ndim - 2))),
    "relu leaks eps": ("relu1", lambda eps, y, x, _: y + eps * x.clamp(max=0)),
    "maximum with eps of the mean": ("pool1", lambda eps, y, x, _: (1 - eps) * y + eps * F.avg_pool2d(x, 2)),
    "dx times 1 + eps": ("input", slope),
    "dW times 1 + eps": ("weight", lambda eps, grad: grad * (1 + eps)),
    "db times 1 + eps": ("bias", lambda eps, grad: grad * (1 + eps)),
    "largest entry of dW": ("weight", lambda eps, grad: grad * (1 + eps * (grad.abs() == grad.abs().max()))),
    "the loss's gradient times 1 + eps": ("affine2", slope),
    "that of one sample": ("affine2", lambda eps, y, *_: torch.cat([y[:-1], slope(eps, y[-1:])])),
}


def plant(port: nn.Sequential, layer: str, at: str, change: Callable[..., Any]) -> None:
    """Make a mistake in the port's layer, or in another one."""
    module = port.get_submodule(at if at in dict(port.named_children()) else layer)
    if at in ("weight", "bias"):
        getattr(module, at).register_hook(change)
    elif at == "input":
        module.register_forward_pre_hook(lambda _, args: change(*args))
    else:
        module.register_forward_hook(lambda _, args, y: change(y, *args, module))


# --- Rules: whether an array is accepted in place of the expected one

CLOSE = {torch.float64: (1e-7, 1e-7), torch.float32: (1.3e-6, 1e-5)}  # torch.testing.assert_close's rtol and atol
# PaDiff compares means by default; its rtol is 1e-7 and its atol 0, in its README's example 1e-4.
RULES: dict[str, Callable[[Array, Array, torch.dtype], Any]] = {
    "assert_close": lambda a, e, dtype: np.allclose(a, e, *CLOSE[dtype]),
    "1e-3 / 1e-3": lambda a, e, _: np.allclose(a, e, 1e-3, 1e-3),
    "PaDiff": lambda a, e, _: np.allclose(a.mean(), e.mean(), 1e-7, 0),
    "PaDiff, 1e-4": lambda a, e, _: np.allclose(a.mean(), e.mean(), 1e-7, 1e-4),
    "cosine 0.9999": lambda a, e, _: np.vdot(a, e) >= 0.9999 * np.linalg.norm(a) * np.linalg.norm(e),
    "Frobenius 1e-3": lambda a, e, _: np.linalg.norm(a - e) <= 1e-3 * np.linalg.norm(e),
}
ALL_RUNS, ONE_RUN = "check_parity", "check_parity, one run"
SIZES = (4, 8, 12, 16, 20, 22)  # a mistake of size k has an eps of 2^-k
NEVER, ALWAYS = 0, -1  # not caught; refused where there is no mistake


def numbers(reference: nr.Network, port: nn.Sequential, x: Array, t: Array) -> Iterator[tuple[Array, Array]]:
    """(actual, expected) of the whole, and of each layer on the port's own input and upstream gradient of it."""
    tensors = [torch.tensor(x, dtype=next(port.parameters()).dtype, requires_grad=True)]
    for module in port:
        module.register_forward_hook(lambda _, __, y: tensors.append(y))
    loss = softmax_with_loss(port(tensors[0]), torch.tensor(t))
    of_loss = torch.autograd.grad(loss, [*tensors, *port.parameters()])
    values, grads = ([np.asarray(each.detach().double()) for each in some] for some in (tensors, of_loss))
    reference.loss(x, t)
    yield values[-1], reference.predict(x)
    yield grads[len(values) - 1], reference.last_layer.backward()
    layers = {name.lower(): layer for name, layer in reference.layers.items()}
    of_parameters = iter(grads[len(values) :])
    for k, (name, _) in enumerate(port.named_children()):
        own: Any = copy.copy(layers.get(name, nr.Flatten()))
        yield values[k + 1], own.forward(values[k])
        yield grads[k], own.backward(grads[k + 1])
        if hasattr(own, "W"):
            yield next(of_parameters), to_torch_layout(own.dW)
            yield next(of_parameters), own.db


def smallest(mistake: str, name: str, scale: str, dtype: torch.dtype) -> dict[str, int]:
    """Of each rule, the size of the smallest mistake that is caught as all larger ones are; or NEVER, ALWAYS."""
    found = dict.fromkeys((ALL_RUNS, ONE_RUN, *RULES), NEVER)
    for before, size in zip((NEVER, NEVER, *SIZES), (ALWAYS, *SIZES), strict=False):
        at, change = MISTAKES[mistake]
        reference, x, t = network(name, scale)
        port = from_reference(reference).to(dtype)
        plant(port, SPOILED[name], at, partial(change, 0.0 if size == ALWAYS else 2.0**-size))
        ok = check_parity(reference, port, x, t, runs=(BATCH,)).ok
        accepted = {ONE_RUN: ok, ALL_RUNS: ok and check_parity(reference, port, x, t).ok}
        pairs = list(numbers(reference, port, x, t))
        accepted |= {rule: all(fits(*pair, dtype) for pair in pairs) for rule, fits in RULES.items()}
        found |= {rule: size for rule, fits in accepted.items() if not fits and found[rule] == before}
    return found


# --- The smallest relative errors that are seen

HIGH = 48  # a power so high that the sum of powers is that of the largest
TINY = 1e-200
EXACT = "integers"


class Sight(NamedTuple):
    """An entry of a layer's output or gradient, its limit, and the smallest relative error that is above it."""

    at: tuple[int, ...]  # in the reference's layout
    limit: float
    error: float


def links(reference: nr.Network, x: Array, dout: Array | None = None) -> Iterator[tuple[str, Any, Array, Array]]:
    """Name, layer, x (N, ...) and dout of each layer that adds products, from the last on; dout is drawn, or given."""
    y = reference.predict(x, train_flg=True)
    dout = np.random.default_rng(0).standard_normal(y.shape) if dout is None else dout
    layer: Any
    for name, layer in reversed(reference.layers.items()):
        if kind_of(layer).rule.products is not None:
            yield name.lower(), layer, layer.x, dout
        dout = layer.backward(dout)


def changed(change: Callable[[Array], Array], layer: Any, x: Array, dout: Array) -> dict[str, Array]:
    """Output and gradients of a layer without a bias, on changed arrays."""
    twin = copy.copy(layer)
    twin.W, twin.b = change(layer.W), np.zeros_like(layer.b)
    return {"output": twin.forward(change(x)), "grad_input": twin.backward(change(dout)), "W": twin.dW, "b": twin.db}


def sights(dtype: torch.dtype, layer: Any, x: Array, dout: Array, *, exact: bool = False) -> dict[str, list[Sight]]:
    """By quantity, the entry of which the smallest relative error is seen, and the one with such a product.

    An entry Y is seen to be wrong above its limit: L, or L' by its own products where that is wider
    (torchport.layers.sums). So of Y the smallest relative error is limit / |Y|, of its largest product p limit / |p|.
    exact is for whole numbers, where nothing may be off: there an error of a unit in the last place of the sum of all
    |p| is never rounded away, so that is the limit.
    """
    rule, a, found = kind_of(layer).rule, Setting(dtype).arithmetic, dict[str, list[Sight]]()
    assert rule.products is not None
    limits = {"output": rule.forward(layer, x, a), **rule.backward(layer, x, dout, a).each}
    values = changed(np.positive, layer, x, dout)
    powers = changed(lambda value: (np.abs(value) / np.abs(value).max()) ** HIGH, layer, x, dout)
    for quantity, limit in (changed(np.abs, layer, x, dout) if exact else limits).items():
        for k, size in enumerate((np.abs(values[quantity]), powers[quantity] ** (1 / HIGH))):
            near = np.argsort(np.where(size > 0, limit / np.maximum(size, TINY), np.inf), axis=None)[:3]
            seen = list[Sight]()
            for at in zip(*np.unravel_index(near, limit.shape), strict=True):
                terms = rule.products(layer, x, dout, quantity, at)
                products, own = np.append(terms.orders[0], terms.bias), max(limit[at], own_limit(terms, a))
                if exact:
                    own = torch.finfo(dtype).eps * 2.0 ** np.floor(np.log2(np.abs(products).sum()))
                size_there = abs(products.sum()), np.abs(products[:-1]).max()
                seen.append(Sight(at, own, own / max(size_there[k], TINY)))
            found.setdefault(quantity, []).append(min(seen, key=lambda each: each.error))
    return found


def runs_of(name: str) -> Iterator[tuple[str, Iterator[tuple[str, Any, Array, Array]]]]:
    """The links of a network on one sample, as in one of check_parity's runs, and on integers where those are exact."""
    reference, x, _ = network(name)
    yield "one sample", links(reference, x[:1])
    if homogeneous(reference):
        whole = integer_case(reference, x.shape[1:], len(x), 0)
        yield EXACT, links(whole.network, whole.x, whole.cotangent)


def row(mistake: str, name: str, scale: str) -> str:
    """Of the first table."""
    words = {NEVER: "never", ALWAYS: "always"}
    found = [smallest(mistake, name, scale, dtype) for dtype in DTYPES]
    cells = (" ".join(words.get(each[rule], f"-{each[rule]}") for each in found) for rule in found[0])
    return f"| {name} | {scale} | {mistake} | {' | '.join(cells)} |"


def tables() -> Iterator[str]:
    """Both in Markdown: a row for each mistake, network and scale; a row for each layer."""
    yield "Smallest eps that is caught, as a power of 2, in float64 and in float32:\n"
    yield f"| network | weights | mistake | {' | '.join((ALL_RUNS, ONE_RUN, *RULES))} |\n{'|---' * (5 + len(RULES))}|"
    for name, scale, mistake in itertools.product(SPOILED, SCALES, MISTAKES):
        yield row(mistake, name, scale)
    yield "\nSmallest relative error that is seen, as a power of 2, of an entry and of a product:\n"
    yield f"| network | dtype | run | layer | output | dx | dW | db |\n{'|---' * 8}|"
    for name, dtype in itertools.product(list(NETWORKS)[len(SPOILED) :], DTYPES):
        for run, every in runs_of(name):
            for layer, *link in every:
                seen = sights(dtype, *link, exact=run == EXACT).values()
                cells = (" ".join(f"{np.log2(sight.error):.1f}" for sight in pair) for pair in seen)
                yield f"| {name} | {str(dtype)[6:]} | {run} | {layer} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in tables():
        print(line, flush=True)
