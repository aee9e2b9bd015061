"""A port against the reference: every layer by itself, then the whole network, each entry against its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from numpy_ref.checks import Array, check_array, check_batch
from numpy_ref.functions import class_labels
from numpy_ref.layers import Layer, SoftmaxWithLoss
from numpy_ref.networks import Network
from numpy_ref.optimizers import Optimizer as ReferenceOptimizer
from torchport.loss import softmax_with_loss
from torchport.parity.bounds import EXACT, EXP, SUM, Arithmetic, loss_limits, rule_of
from torchport.parity.report import END_TO_END, LOCAL, Difference, Report, Row
from torchport.parity.trace import (
    NetworkTrace,
    Step,
    align,
    backward,
    forward,
    full_precision,
    gradients,
    in_precision,
    in_torch_terms,
    parameters,
    rounded,
    trace_children,
    trace_module,
    trace_network,
)

Loss = Callable[[Tensor, Tensor], Tensor]

STEP_ROUNDINGS = 11  # of an optimizer, check_optimizer says which


def check_parity(
    reference: Network,
    port: nn.Module,
    x: Array,
    t: Array,
    *,
    seed: int = 0,
    loss: Loss = softmax_with_loss,
    name: str = "port",
) -> Report:
    """Compare port with reference on the batch x (N, ...) and labels t (N,) or one-hot, in the port's dtype and device.

    The port's children must bear the names of the reference's layers, upper and lower case alike; it must hold the same
    weights, which is compared too. The reference is the oracle, in float64, on weights and inputs rounded to the port's
    dtype. Local rows give each module the reference's input and upstream gradient, which comes from a random gradient
    (seed) at the output; end-to-end rows run the port by itself, through its loss. name is the report's.
    ValueError, TypeError for networks that do not pair up, dtypes other than float64 and float32, layers without a
    rule, or an unfit x or t.
    """
    setting = Setting.of(port)
    steps = [
        Step(step.name, in_precision(step.layer, setting.dtype), step.module) for step in align(reference.layers, port)
    ]
    x = rounded(check_batch("x", x), setting.dtype)
    passed = forward([step.layer for step in steps], x)
    labels = class_labels(t, _logits_shape(passed[-1]))
    cotangent = np.random.default_rng(seed).standard_normal(passed[-1].shape)
    with full_precision():
        rows = _local_rows(setting, steps, passed, cotangent, labels, loss)
        whole, kinks = _end_to_end_rows(setting, steps, port, passed, labels, loss)
    dtype = str(setting.dtype).removeprefix("torch.")
    return Report(tuple(rows + whole), name, dtype, setting.device, seed, kinks)


def check_layer(name: str, layer: Layer, module: nn.Module, x: Array, dout: Array, setting: Setting) -> list[Row]:
    """Rows for one module against one layer of the reference, both given x and dout. ValueError, TypeError."""
    oracle = in_precision(layer, setting.dtype)
    with full_precision():
        return list(_layer_rows(setting, Step(name, oracle, module), check_array("x", x), check_array("dout", dout)))


def check_loss(x: Array, t: Array, setting: Setting, loss: Loss = softmax_with_loss) -> list[Row]:
    """Rows for the port's loss, value and gradient, on logits x (N, C) against t. ValueError, TypeError."""
    return list(_loss_rows(setting, x, class_labels(t, _logits_shape(x)), loss))


def check_optimizer(
    reference: Callable[[], ReferenceOptimizer],
    port: Callable[[list[Tensor]], torch.optim.Optimizer],
    start: Array,
    grads: Array,
    setting: Setting,
) -> list[Row]:
    """A row per step for one parameter, moved from start (...) along grads (T, ...) by both rules.

    S of the linear rule is the reference's own rule on absolute values, |start| along -|grad|, which only ever adds up;
    K is the number of roundings between an input and the result, at most STEP_ROUNDINGS a step (the rules with the
    most, RMSprop and Adam: two moments of three operations each, a root, an addend, a product, a quotient and a sum).
    """
    start, grads = rounded(start, setting.dtype), rounded(grads, setting.dtype)
    expected, size = {"p": start.copy()}, {"p": np.abs(start)}
    ours, ours_size = reference(), reference()
    param = setting.tensor(start).requires_grad_()
    theirs = port([param])
    rows = []
    for step, grad in enumerate(grads, start=1):
        ours.update(expected, {"p": grad})
        ours_size.update(size, {"p": -np.abs(grad)})
        param.grad = setting.tensor(grad)
        theirs.step()
        limit = setting.arithmetic.of_sum(STEP_ROUNDINGS * step, size["p"])
        rows.append(Row(LOCAL, type(ours).__name__, f"step {step}", SUM, setting.compare(param, expected["p"], limit)))
    return rows


@dataclass(frozen=True)
class Setting:
    """Where and in which precision a port computes."""

    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    @classmethod
    def of(cls, port: nn.Module) -> Setting:
        """That of the port's parameters. ValueError where they differ among themselves, or there are none."""
        found = {(parameter.dtype, str(parameter.device)) for parameter in port.parameters()}
        if len(found) != 1:
            raise ValueError(f"the port's parameters must share one dtype and device, got {sorted(map(str, found))}")
        return cls(*found.pop())

    @property
    def arithmetic(self) -> Arithmetic:
        """What its operations, and the reference's, may be off by."""
        return Arithmetic.of(self.dtype)

    def tensor(self, x: Array) -> Tensor:
        """x on the device, in the dtype."""
        return torch.tensor(x, dtype=self.dtype, device=self.device)

    def compare(self, actual: Tensor | None, expected: Array, limit: Array | float) -> Difference:
        """compare, after a look at the dtype; None is what a port lacks: a parameter, or a gradient for it."""
        if actual is None:
            return Difference(note="the port has none")
        if actual.dtype != self.dtype:
            return Difference(note=f"dtype {actual.dtype}, expected {self.dtype}")
        return compare(actual.detach().to("cpu", torch.float64).numpy(), expected, limit)


def compare(actual: Array, expected: Array, limit: Array | float) -> Difference:
    """The entry of actual whose distance from expected is the greatest multiple of its limit.

    Shapes must be equal: nothing is broadcast. NaN must stand where NaN is expected, and infinities with their sign;
    anything else that is not finite fails.
    """
    if actual.shape != expected.shape:
        return Difference(note=f"shape {actual.shape}, expected {expected.shape}")
    limit = np.broadcast_to(limit, expected.shape)
    agree = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(agree, 0, np.abs(actual - expected))
        ratio = np.where(agree, 0, error / limit)
    ratio = np.where(agree | np.isfinite(actual) & np.isfinite(expected), ratio, np.inf)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    return Difference(
        shape=actual.shape,
        index=index,
        expected=float(expected[index]),
        actual=float(actual[index]),
        error=float(error[index]),
        limit=float(limit[index]),
        ratio=float(ratio[index]),
    )


def _logits_shape(logits: Array) -> tuple[int, int]:
    if logits.ndim != 2:
        raise ValueError(f"the loss takes outputs (N, classes), got shape {logits.shape}")
    return logits.shape[0], logits.shape[1]


def _local_rows(
    setting: Setting, steps: list[Step], passed: list[Array], cotangent: Array, labels: Array, loss: Loss
) -> list[Row]:
    """Every layer by itself on what the reference recorded: forward in order, the loss, backward from it."""
    upstream = backward([step.layer for step in steps], cotangent)
    by_layer = [
        list(_layer_rows(setting, step, x, dout)) for step, x, dout in zip(steps, passed, upstream, strict=False)
    ]
    onward = [row for rows in by_layer for row in rows if not row.quantity.startswith("grad")]
    back = [row for rows in reversed(by_layer) for row in rows if row.quantity.startswith("grad")]
    return [*onward, *_loss_rows(setting, passed[-1], labels, loss), *back]


def _layer_rows(setting: Setting, step: Step, x: Array, dout: Array) -> Iterator[Row]:
    """One module by itself, on what the dtype can hold of x and dout."""
    x, dout = rounded(x, setting.dtype), rounded(dout, setting.dtype)
    yield from _parameter_rows(setting, step)
    rule = rule_of(step.layer)
    try:
        output, grads = trace_module(step.module, setting.tensor(x), setting.tensor(dout))
    except (RuntimeError, ValueError, TypeError) as error:
        yield Row(LOCAL, step.name, "output", rule.name, _raised(error))
        return
    limit = rule.forward(step.layer, x, np.zeros_like(x), setting.arithmetic)
    yield Row(LOCAL, step.name, "output", rule.name, setting.compare(output, step.layer.forward(x), limit))
    limits = rule.backward(step.layer, x, np.zeros_like(x), dout, np.zeros_like(dout), setting.arithmetic)
    expected = {"input": step.layer.backward(dout), **gradients(step.layer)}
    for name, limit in {"input": limits.grad_input, **in_torch_terms(limits.grads)}.items():
        worst = setting.compare(grads.get(name), expected[name], limit)
        yield Row(LOCAL, step.name, f"grad_{name}", limits.rule, worst)


def _parameter_rows(setting: Setting, step: Step) -> Iterator[Row]:
    """Whether both sides hold the same weights."""
    own = dict(step.module.named_parameters())
    for name, value in parameters(step.layer).items():
        yield Row(LOCAL, step.name, name, EXACT, setting.compare(own.get(name), value, 0))


def _loss_rows(setting: Setting, logits: Array, labels: Array, loss: Loss) -> Iterator[Row]:
    """The loss by itself."""
    x = rounded(logits, setting.dtype)
    reference = SoftmaxWithLoss()
    value = np.asarray(reference.forward(x, labels), dtype=float)
    limits = loss_limits(x, np.zeros_like(x), labels, setting.arithmetic)
    leaf = setting.tensor(x).requires_grad_()
    found = loss(leaf, torch.from_numpy(labels).to(setting.device))
    yield Row(LOCAL, "loss", "output", EXP, setting.compare(found, value, limits.loss))
    (grad,) = torch.autograd.grad(found, leaf)
    yield Row(LOCAL, "loss", "grad_input", EXP, setting.compare(grad, reference.backward(), limits.grad_input))


def _end_to_end_rows(
    setting: Setting, steps: list[Step], port: nn.Module, passed: list[Array], labels: Array, loss: Loss
) -> tuple[list[Row], int]:
    """The port by itself from x to the gradients, against limits carried along. Also counts the kinks."""
    limits = [np.zeros_like(passed[0])]
    for step, x in zip(steps, passed, strict=False):
        limits.append(rule_of(step.layer).forward(step.layer, x, limits[-1], setting.arithmetic))
    try:
        outputs = trace_children(port, setting.tensor(passed[0]))
        run = trace_network(port, setting.tensor(passed[0]), torch.from_numpy(labels).to(setting.device), loss)
    except (RuntimeError, ValueError, TypeError) as error:
        return [Row(END_TO_END, "network", "output", SUM, _raised(error))], 0
    rows = [
        Row(END_TO_END, step.name, "output", rule_of(step.layer).name, setting.compare(found, expected, limit))
        for step, found, expected, limit in zip(steps, outputs, passed[1:], limits[1:], strict=True)
    ]
    rows.append(Row(END_TO_END, "network", "output", SUM, setting.compare(run.output, passed[-1], limits[-1])))
    head = SoftmaxWithLoss()
    value = np.asarray(head.forward(passed[-1], labels), dtype=float)
    loss_limit = loss_limits(passed[-1], limits[-1], labels, setting.arithmetic)
    rows.append(Row(END_TO_END, "loss", "output", EXP, setting.compare(run.loss, value, loss_limit.loss)))
    back, kinks = _end_to_end_gradients(setting, steps, passed, limits, (head.backward(), loss_limit.grad_input), run)
    return rows + back, kinks


def _end_to_end_gradients(
    setting: Setting,
    steps: list[Step],
    passed: list[Array],
    limits: list[Array],
    upstream: tuple[Array, Array],
    run: NetworkTrace,
) -> tuple[list[Row], int]:
    """Gradients of the loss in every parameter, from the last layer to the first, and in the input."""
    forward([step.layer for step in steps], passed[0])  # the local rows ran the layers on other inputs
    rows, kinks = [], 0
    dout, dout_limit = upstream
    for step, x, x_limit in zip(steps[::-1], passed[-2::-1], limits[-2::-1], strict=True):
        bound = rule_of(step.layer).backward(step.layer, x, x_limit, dout, dout_limit, setting.arithmetic)
        dout, dout_limit = step.layer.backward(dout), bound.grad_input
        expected = gradients(step.layer)
        for name, limit in in_torch_terms(bound.grads).items():
            worst = setting.compare(run.grads[f"{step.name}.{name}"], expected[name], limit)
            rows.append(Row(END_TO_END, step.name, f"grad_{name}", bound.rule, worst))
        kinks += bound.kinks
    rows.append(Row(END_TO_END, "network", "grad_input", SUM, setting.compare(run.grads["input"], dout, dout_limit)))
    return rows, kinks


def _raised(error: Exception) -> Difference:
    return Difference(note=f"the port raised {type(error).__name__}: {str(error).splitlines()[0]}")
