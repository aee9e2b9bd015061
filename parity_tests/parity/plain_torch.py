"""What the catalogues say of their ports, shown with plain torch and without the engine: as a user could show it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import numpy_ref as nr
from numpy_ref.checks import Array
from parity import user_ports as says
from parity.user_ports import RightPort, WrongPort
from torchport import Dropout
from torchport.layers.loss import softmax_with_loss

TOLERANCE = 1e-12  # of the largest value: rounding in float64; a mistake is larger
LEAST = 1.0  # what is meant to be 0 is a sum of such rounding errors
LEARNING_RATE = 1e-3  # a larger one may leave every relu dead, and nothing to compare
Port = RightPort | WrongPort


class TorchDraws(np.random.RandomState):
    """The reference's dropout with the numbers that torch.rand makes."""

    def rand(self, *shape: int) -> Any:
        return torch.rand(shape, dtype=torch.float64).numpy()


def made(port: Port, params: Mapping[str, Array] | None = None) -> tuple[nr.Network, nn.Module]:
    """The reference, perhaps with other params, and the port of it in float64; their dropouts draw the same numbers."""
    reference, own = port.reference(), port.reference()
    for network in (reference, own):
        network.set_params(network.params if params is None else params)
    module = port.build(own).to(port.dtypes[0])
    for layer in reference.layers.values():
        if isinstance(layer, nr.Dropout):
            layer.rng = TorchDraws()
    for child in module.modules():
        if isinstance(child, Dropout):
            child.draw = lambda shape, device: torch.rand(shape, dtype=torch.float64, device=device)
    return reference, module


# --- One run of either side


def logits(port: Port, output: Any) -> Tensor:
    """The part of the output that the port's options name, or the last of a tuple."""
    if isinstance(output, dict | tuple):
        output = output[port.options.get("output", -1)]
    found: Tensor = output
    return found


def as_returned(port: Port, scores: Array) -> Array:
    """The reference's scores; or what a right port ends in besides, of which its name tells."""
    if isinstance(port, RightPort) and "Softmax" in port.name:
        ending = F.log_softmax if port.name.startswith("Log") else F.softmax
        return ending(torch.tensor(scores), 1).numpy()
    return scores


def cotangent(port: Port, samples: int) -> Array:
    """A drawn gradient of the output, (N, classes)."""
    return np.random.default_rng(3).standard_normal((samples, port.reference.classes))


def reference_run(port: Port, reference: nr.Network, x: Array, t: Array) -> dict[str, Array]:
    """The reference's "output" in training, and gradients: by parameter, and "x"."""
    y, head = reference.predict(x, train_flg=True), nr.SoftmaxWithLoss()
    head.forward(y, t)
    dx = head.backward() if _own_loss(port) else cotangent(port, len(x))
    for layer in reversed(reference.layers.values()):
        dx = layer.backward(dx)
    owners = reference.owners.items()
    grads = {name: getattr(reference.layers[layer], f"d{attribute}") for name, (layer, attribute) in owners}
    return {"output": as_returned(port, y), "x": dx, **grads}


def port_run(port: Port, module: nn.Module, x: Tensor, t: Array) -> Tensor:
    """The port's output in training; its gradients are in .grad afterwards."""
    module.zero_grad(set_to_none=True)
    output = logits(port, module(x))
    loss = port.options["loss"] if _own_loss(port) else None
    value = (output * torch.tensor(cotangent(port, len(x)))).sum() if loss is None else loss(output, torch.tensor(t))
    value.backward()
    return output.detach().clone()


def _own_loss(port: Port) -> bool:
    """Whether the gradient at the output is the port's loss's: not a drawn one, nor that of a loss that is wrong."""
    return "loss" in port.options and not (isinstance(port, WrongPort) and port.seen == says.LOSS)


def error(found: Tensor | Array | None, expected: Array) -> float:
    """Largest difference, relative to the largest value; infinite for none, another shape or what is not finite."""
    if found is None:
        return math.inf
    value = np.asarray(found.detach() if isinstance(found, Tensor) else found)
    if value.shape != expected.shape or not np.isfinite(value).all():
        return math.inf
    return float(np.abs(value - expected).max() / max(float(np.abs(expected).max()), LEAST))


def counterparts(reference: nr.Network, module: nn.Module) -> dict[str, tuple[nn.Parameter, bool]]:
    """The port's parameter for each of the reference's, by value, and whether it holds the transposed one."""
    found: dict[str, tuple[nn.Parameter, bool]] = {}
    for name, value in reference.params.items():
        for parameter in module.parameters():
            for transposed in (value.ndim == 2, False):
                layout = torch.tensor(value.T if transposed else value).to(parameter.dtype)
                if torch.equal(parameter.detach().flatten(), layout.flatten()):
                    found.setdefault(name, (parameter, transposed))
    return found


def gradient(own: tuple[nn.Parameter, bool] | None, like: Array) -> Array | None:
    """Of a counterpart, in the reference's layout."""
    if own is None or own[0].grad is None:
        return None
    grad, transposed = own[0].grad.numpy(), own[1]
    return grad.reshape(like.T.shape).T if transposed else grad.reshape(like.shape)


def both(
    port: Port, reference: nr.Network, module: nn.Module, x: Array, t: Array, given: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, dict[str, Array]]:
    """port_run on x, or given of the same value, and reference_run; they draw the same numbers."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds devices, a millisecond each
    expected = reference_run(port, reference, x, t)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds devices, a millisecond each
    return port_run(port, module, torch.tensor(x) if given is None else given, t), expected


def differences(port: Port, reference: nr.Network, module: nn.Module, x: Array, t: Array, seed: int = 0) -> set[str]:
    """What differs in a run in training: "output", and the reference's names of parameters by their gradients."""
    own = counterparts(reference, module)
    try:
        output, expected = both(port, reference, module, x, t, seed=seed)
    except (RuntimeError, ValueError, IndexError):  # shapes that do not fit, say
        return {"raises"}
    found = {name: gradient(own.get(name), expected[name]) for name in reference.params} | {"output": output}
    return {name for name, value in found.items() if error(value, expected[name]) > TOLERANCE}


@contextmanager
def predicting(module: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; every module's own flag is as it was afterwards."""
    flags = {child: child.training for child in module.modules()}
    module.eval()
    with torch.no_grad():
        yield
    for child, flag in flags.items():
        child.training = flag


def prediction(port: Port, module: nn.Module, x: Tensor) -> Tensor:
    with predicting(module):
        return logits(port, module(x))


def step(reference: nr.Network, module: nn.Module, grads: Mapping[str, Array]) -> None:
    """One step of gradient descent on either side."""
    for name, value in reference.params.items():
        value -= LEARNING_RATE * grads[name]
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.sub_(LEARNING_RATE * parameter.grad)


# --- What shows a mistake: whether it does, for each word that a wrong port may say of it

Shows = Callable[[WrongPort, nr.Network, nn.Module], bool]


def in_training(port: WrongPort, reference: nr.Network, module: nn.Module) -> bool:
    """The output differs; or a gradient, and that of no layer behind the one to blame."""
    found = differences(port, reference, module, *port.reference.batch())
    if not port.quantity.startswith("grad"):
        return "output" in found or (not port.quantity and bool(found))
    return bool(found) and "output" not in found and lies_there(port, reference, found)


def lies_there(port: WrongPort, reference: nr.Network, found: set[str]) -> bool:
    """Whether no gradient found lies behind the layer to blame, and its own does where that is to be blamed."""
    order = ["input", *(name.lower() for name in reference.layers), "output"]
    at = {name: order.index(layer.lower()) for name, (layer, _) in reference.owners.items()}
    blamed = [order.index(layer) for layer in port.layer.split()]
    last, own = max(at[name] for name in found), {name[0] for name in found if at[name] in blamed}
    if port.quantity in ("grad_weight", "grad_bias"):
        return last == max(blamed) and own == {"W" if port.quantity == "grad_weight" else "b"}
    return last < max(blamed) if port.quantity == "grad_input" else last <= max(blamed)


def in_prediction(port: WrongPort, reference: nr.Network, module: nn.Module) -> bool:
    x, _ = port.reference.batch()
    return error(prediction(port, module, torch.tensor(x)), reference.predict(x)) > TOLERANCE


def with_samples(samples: int) -> Shows:
    return lambda port, reference, module: bool(differences(port, reference, module, *port.reference.batch(samples)))


def again(port: WrongPort, reference: nr.Network, module: nn.Module) -> bool:
    """The second time, on the same batch."""
    x, t = port.reference.batch()
    first = differences(port, reference, module, x, t)
    return not first and bool(differences(port, reference, module, x, t, seed=1))


def on_integers(port: WrongPort, *_: Any) -> bool:
    """Integers bring exact zeros and ties; the factors, large and small numbers."""
    rng = np.random.default_rng(5)
    x, t = 1.0 * rng.integers(0, 3, (8, *port.reference.shape)), port.reference.batch()[1]
    params = {name: 1.0 * rng.integers(-1, 2, value.shape) for name, value in port.reference().params.items()}
    for factor in (1.0, 2.0**12, 2.0**-30):
        scaled = {name: value * (factor if name.startswith("b") else 1) for name, value in params.items()}
        if differences(port, *made(port, scaled), factor * x, t):
            return True
    return False


def at_extremes(port: WrongPort, reference: nr.Network, module: nn.Module) -> bool:
    """Of many samples, with large values, and of another order in memory."""
    x, _ = port.reference.batch(128)
    given = [torch.tensor(x), torch.tensor(1e3 * x)]
    if x.ndim == 4:
        given.append(torch.tensor(x).to(memory_format=torch.channels_last))
    with np.errstate(over="ignore"):  # the book's sigmoid of large numbers
        return any(error(prediction(port, module, each), reference.predict(each.numpy())) > TOLERANCE for each in given)


def in_loss(port: WrongPort, *_: Any) -> bool:
    """Its value is the book's neither with the book's 1e-7 nor without; or it is, and the gradient is another."""
    scores, t = cotangent(port, 10), np.arange(10)
    for factor in (1.0, 1e3):
        leaf, labels = torch.tensor(factor * scores).requires_grad_(), torch.tensor(t)
        value = port.options["loss"](leaf, labels)
        values = [softmax_with_loss(leaf, labels).detach().numpy(), F.cross_entropy(leaf, labels).detach().numpy()]
        other_value = all(error(value, each) > 1e-6 for each in values)
        (grad,), (right,) = (torch.autograd.grad(each, leaf) for each in (value, softmax_with_loss(leaf, labels)))
        if other_value if port.quantity == "output" else not other_value and error(grad, right.numpy()) > TOLERANCE:
            return True
    return False


def extra_parameter(port: WrongPort, reference: nr.Network, module: nn.Module) -> bool:
    """One that is none of the reference's, and moves."""
    own = {id(parameter) for parameter, _ in counterparts(reference, module).values()}
    differences(port, reference, module, *port.reference.batch())
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters() if id(p) not in own)


def running_statistics(port: Port, reference: nr.Network, module: nn.Module) -> bool:
    """After a run in training the first normalisation has others, whichever variance they are of."""
    old = reference.statistics["running_var1"]
    differences(port, reference, module, *port.reference.batch())
    new, own = reference.statistics, dict(module.named_buffers(prefix="bn1"))
    mean, var = (next(value for key, value in own.items() if key.endswith(name)) for name in ("_mean", "_var"))
    unbiased = 0.9 * old + (new["running_var1"] - 0.9 * old) * 8 / 7  # of 8 samples
    other_variance = all(error(var, each) > TOLERANCE for each in (new["running_var1"], unbiased))
    return error(mean, new["running_mean1"]) > TOLERANCE or other_variance


def state_moves(port: WrongPort, _: nr.Network, module: nn.Module) -> bool:
    before = copy.deepcopy(module.state_dict())
    prediction(port, module, torch.tensor(port.reference.batch()[0]))
    return any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def argument_changes(port: WrongPort, _: nr.Network, module: nn.Module) -> bool:
    x = port.reference.batch()[0]
    given = torch.tensor(x)
    prediction(port, module, given)
    return error(given, x) > 0


def earlier_output_changes(port: WrongPort, _: nr.Network, module: nn.Module) -> bool:
    first, second = (torch.tensor(port.reference.batch(seed=seed)[0]) for seed in (0, 1))
    output = prediction(port, module, first)
    before = output.clone()
    prediction(port, module, second)
    return not torch.equal(output, before)


def random_state_moves(port: WrongPort, _: nr.Network, module: nn.Module) -> bool:
    torch.default_generator.manual_seed(7)  # torch.manual_seed also seeds devices, a millisecond each
    before, numpys = torch.get_rng_state(), repr(np.random.get_state())
    prediction(port, module, torch.tensor(port.reference.batch()[0]))
    return repr(np.random.get_state()) != numpys or not torch.equal(torch.get_rng_state(), before)


EVIDENCE: dict[str, Shows] = {
    says.TRAINING: in_training,
    says.PREDICTION: in_prediction,
    says.ONE_SAMPLE: with_samples(1),
    says.MORE_SAMPLES: with_samples(11),
    says.AGAIN: again,
    says.INTEGERS: on_integers,
    says.EXTREMES: at_extremes,
    says.LOSS: in_loss,
    says.EXTRA_PARAMETER: extra_parameter,
    says.STATISTICS: running_statistics,
    says.STATE: state_moves,
    says.ARGUMENT: argument_changes,
    says.EARLIER_OUTPUT: earlier_output_changes,
    says.RANDOM_STATE: random_state_moves,
}
