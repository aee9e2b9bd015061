"""Ports as people write them: right ones are accepted, wrong ones blamed at layer and line."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch

import numpy_ref as nr
from parity import (  # which enter their ports
    plain_torch as plain,
    right_ports as right_ports,
    right_ports_by_hand as right_ports_by_hand,
    right_ports_wrapped as right_ports_wrapped,
    user_ports as says,
    wrong_gradients as wrong_gradients,
    wrong_parameters as wrong_parameters,
    wrong_ports as wrong_ports,
    wrong_runs as wrong_runs,
)
from parity.user_ports import RIGHT_PORTS, WRONG_PORTS, RightPort, WrongPort
from torchport.parity import ALL, check_parity

# So many lines may be blamed for one mistake.
MOST_LINES = 6
# What is made besides the first run, by what shows a mistake; all runs where that is not enough to tell.
RUNS = {
    says.TRAINING: (),
    says.EXTRA_PARAMETER: (),
    says.PREDICTION: ("prediction",),
    says.STATISTICS: ("prediction",),
    says.INTEGERS: ("integers",),
    says.EXTREMES: ("integers", "extremes"),
    says.AGAIN: ("batch", "again"),
    says.LOSS: ("batch",),
    says.ONE_SAMPLE: ("sizes",),
    says.MORE_SAMPLES: ("sizes",),
}
# Of most right ports, one after the other, besides the first run; all runs of one in eight.
IN_TURN = (("prediction", "extremes"), ("integers", "sizes"), ("batch", "again", "double"))
EXACT_ENOUGH = {torch.float64: plain.TOLERANCE, torch.float32: 1e-5}

# torch deprecates what users still write, and dynamo looks at the gradient of a tensor that is no leaf.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*not a leaf")


def in_each_dtype(ports: Sequence[RightPort | WrongPort], every: int = 1) -> pytest.MarkDecorator:
    """Parametrise over ports, each in one dtype that can show its mistake, and one port in so many in all of these."""
    pairs = [
        (port, dtype)
        for number, port in enumerate(ports)
        for dtype in (port.dtypes if number % every == 0 else port.dtypes[:1])
    ]
    names = [f"{port.name}-{str(dtype).removeprefix('torch.')}" for port, dtype in pairs]
    return pytest.mark.parametrize(("port", "dtype"), pairs, ids=names)


# --- The verdict


@in_each_dtype(RIGHT_PORTS, every=4)
def test_right_ports_are_accepted(port: RightPort, dtype: torch.dtype) -> None:
    module = port.build(port.reference()).to(dtype)
    number = RIGHT_PORTS.index(port)
    runs = ALL if number % 8 == 4 or port.known else IN_TURN[number % len(IN_TURN)]
    report = check_parity(port.reference(), module, *port.reference.batch(), runs=runs, **port.options)
    assert report.ok, report.verdict
    assert not port.known or any(port.known in row.known for row in report.rows)


@in_each_dtype(WRONG_PORTS, every=8)
def test_wrong_ports_are_blamed(port: WrongPort, dtype: torch.dtype) -> None:
    """The report names the layer, the quantity, the line and the cause that the catalogue does."""
    module = port.build(port.reference()).to(dtype)
    runs = ("training", *RUNS[port.sign]) if port.sign in RUNS else ALL
    if port.reference in (says.DROPPED, says.DROPPED_MAPS):
        runs = (*runs, "extremes")  # what is drawn of few samples may look right
    report = check_parity(port.reference(), module, *port.reference.batch(), runs=runs, **port.options)
    row = report.first_divergence
    assert row is not None, "the mistake was not seen"
    if port.reference is says.PAIRS:
        assert {other.layer for other in report.rows if not other.ok} == {row.layer}
    first = next(iter(port.reference().layers)).lower()
    place = "input" if (row.layer, row.quantity) == (first, "input") and "input" in port.layer else row.layer
    assert not port.layer or {*place.split(" and ")} <= {*port.layer.split()}, row
    # What was done between two layers is told of the input of the second.
    assert ("output" if row.quantity == "input" else row.quantity).startswith(port.quantity), row
    assert not port.lines or blames(row.where, port.lines), f"{row.where!r} is none of {port.lines}: {row}"
    assert port.cause in row.cause or dtype == torch.float32, row  # where a factor may be rounded away


def blames(where: str, lines: Sequence[str]) -> bool:
    """Whether where names one of lines, such as "file.py:12", or a short range that contains one."""
    named = set()
    for file, first, last in re.findall(r"([\w.]+\.py):(\d+)(?:-(\d+))?", where):
        named |= {f"{file}:{number}" for number in range(int(first), int(last or first) + 1)}
    return len(named) <= MOST_LINES and not named.isdisjoint(lines)


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("net.py:17", True),
        ("net.py:16-18", True),
        ("expected relu1 before net.py:17", True),
        ("other.py:3, net.py:17, net.2 (AvgPool2d)", True),
        ("net.py:16", False),
        ("net.py:170", False),
        ("other.py:17", False),
        ("net.py:1-99", False),
        ("", False),
    ],
)
def test_a_line_is_blamed_by_itself_or_in_a_short_range(where: str, right: bool) -> None:
    assert blames(where, ["net.py:17", "net.py:40"]) == right


# --- The catalogue, by plain torch


@pytest.mark.parametrize("ports", [RIGHT_PORTS, WRONG_PORTS], ids=["right", "wrong"])
def test_the_catalogue_is_complete(ports: Sequence[RightPort | WrongPort]) -> None:
    assert len(ports) >= 60
    assert len({port.name for port in ports}) == len(ports)


@pytest.mark.parametrize("port", WRONG_PORTS, ids=lambda port: port.name)
def test_a_wrong_port_says_where(port: WrongPort) -> None:
    assert bool(port.lines) == (port.sign != says.LOSS)
    layers = [name.lower() for name in port.reference().layers]
    assert {*port.layer.split()} <= {"input", *layers, "output", "loss"}


UNSCALED = [port for port in RIGHT_PORTS if port.known != "scale"]


@pytest.mark.parametrize("port", UNSCALED, ids=lambda port: port.name)
def test_a_right_port_does_what_the_reference_does(port: RightPort) -> None:
    """In prediction, in training, in the input's gradient, and in training again after a step of SGD."""
    reference, module = plain.made(port)
    tolerance = EXACT_ENOUGH[port.dtypes[0]]
    x, t = port.reference.batch()
    output = plain.prediction(port, module, torch.tensor(x))
    assert plain.error(output, plain.as_returned(port, reference.predict(x))) < tolerance
    leaf = torch.tensor(x).requires_grad_()
    output, expected = plain.both(port, reference, module, x, t, leaf.clone())
    assert plain.error(output, expected["output"]) < tolerance
    assert plain.error(leaf.grad, expected["x"]) < tolerance
    if port.steps:
        plain.step(reference, module, expected)
        output, expected = plain.both(port, reference, module, *port.reference.batch(seed=1))
        assert plain.error(output, expected["output"]) < tolerance


@pytest.mark.parametrize("port", [port for port in RIGHT_PORTS if port.known == "scale"], ids=lambda port: port.name)
def test_torchs_dropout_predicts_without_a_scale(port: RightPort) -> None:
    reference, module = plain.made(port)
    for layer in reference.layers.values():
        if isinstance(layer, nr.Dropout):
            layer.dropout_ratio = 0.0
    x, _ = port.reference.batch()
    assert plain.error(plain.prediction(port, module, torch.tensor(x)), reference.predict(x)) < plain.TOLERANCE


def test_torchs_normalisation_has_the_books_statistics_but_for_the_unbiased_variance() -> None:
    (port,) = (port for port in RIGHT_PORTS if port.known == "unbiased")
    assert not plain.running_statistics(port, *plain.made(port))


@pytest.mark.parametrize("port", WRONG_PORTS, ids=lambda port: port.name)
def test_a_wrong_port_differs_in_what_it_says(port: WrongPort) -> None:
    """A port whose mistake shows in another run is right in training on drawn samples, so every run is needed."""
    if port.sign not in (says.TRAINING, says.LOSS):
        assert not plain.differences(port, *plain.made(port), *port.reference.batch())
    assert plain.EVIDENCE[port.sign](port, *plain.made(port))
