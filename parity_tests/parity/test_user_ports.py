"""Ports as people write them: the right ones are accepted, and the wrong ones blamed at layer and line."""

from __future__ import annotations

import importlib

import pytest
import torch

from parity import plain_torch as plain, user_ports as says
from parity.user_ports import RIGHT_PORTS, WRONG_PORTS, RightPort, WrongPort

for catalogue in (
    "right_ports",
    "right_ports_by_hand",
    "right_ports_wrapped",
    "wrong_ports",
    "wrong_gradients",
    "wrong_runs",
):
    importlib.import_module(f"parity.{catalogue}")

# What torch says of its older ways, and of the gradient of a tensor that is no leaf.
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a leaf")


# --- The catalogues themselves, by plain torch


@pytest.mark.parametrize("port", RIGHT_PORTS, ids=lambda port: port.name)
def test_a_right_port_does_what_the_reference_does(port: RightPort) -> None:
    """In prediction, in training, with its gradients: a step of SGD leaves both equal."""
    if "scale" in port.known:
        pytest.skip("torch's dropout cannot be made to draw the reference's mask")
    reference, module = plain.made(port)
    tolerance = plain.TOLERANCE if torch.float64 in port.dtypes else 1e-5
    x, t = port.reference.batch()
    leaf = torch.tensor(x).requires_grad_()
    assert (
        plain.error(plain.prediction(port, module, torch.tensor(x)), plain.as_returned(port, reference.predict(x)))
        < tolerance
    )
    torch.manual_seed(0)
    want = plain.reference_run(port, reference, x, t)
    torch.manual_seed(0)
    assert plain.error(plain.port_run(port, module, leaf.clone(), t), want["output"]) < tolerance
    assert plain.error(leaf.grad, want["x"]) < tolerance
    if port.steps:
        plain.step(reference, module, want)
        x, _ = port.reference.batch(seed=1)
        torch.manual_seed(1)
        want = plain.reference_run(port, reference, x, t)
        torch.manual_seed(1)
        assert plain.error(plain.port_run(port, module, torch.tensor(x), t), want["output"]) < 10 * tolerance


@pytest.mark.parametrize("port", WRONG_PORTS, ids=lambda port: port.name)
def test_a_wrong_port_differs_in_what_it_says(port: WrongPort) -> None:
    """And on drawn samples in training in nothing, where it says that it shows elsewhere."""
    if port.seen not in (says.TRAINING, says.LOSS):
        assert not plain.differences(port, *plain.made(port), *port.reference.batch())
    assert plain.EVIDENCE[port.seen](port, *plain.made(port))
