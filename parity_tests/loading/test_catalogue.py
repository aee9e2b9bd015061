"""The catalogue's ports, reset and filled from their references: right ones read back, none is filled wrongly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from parity import (  # they add their ports to the catalogue
    right_ports as right_ports,
    right_ports_by_hand as right_ports_by_hand,
    right_ports_wrapped as right_ports_wrapped,
    wrong_gradients as wrong_gradients,
    wrong_parameters as wrong_parameters,
    wrong_ports as wrong_ports,
    wrong_runs as wrong_runs,
)
from parity.user_ports import RIGHT_PORTS, WRONG_PORTS, RightPort, WrongPort
from torch import nn

import numpy_ref as nr
from torchport import load_params, params_from
from torchport.loading import LoadError, proof
from torchport.loading.proof import RUNS
from torchport.parity import check_parity
from torchport.parity.preparation import unwrapped

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*not a leaf")

SCRIPTED = "scripted code cannot be seen"
COMPUTED = "since something is computed of it"

# Ports that are refused, each with a word of the reason.
REFUSED = {
    "BiasInTwoHalves": COMPUTED,
    "WeightNormOfOld": COMPUTED,
    "AdapterAtRest": COMPUTED,
    "BiasAsLastRow": "weights.0 (13, 9) (matmul",
    "InputsInTwoHalves": "left (9, 32) (linear",
    "OutputsInTwoHeads": "first.weight (1, 8) (linear",
    "TransposedConvolution": "conv1.weight (4, 1, 3, 3) (conv_transpose2d",
    "ConvolutionByFft": "conv1.bias (4,) (add",
    "scripted": SCRIPTED,
    "traced": SCRIPTED,
    "ScriptedBlock": SCRIPTED,
    "scripted_normalisation": SCRIPTED,
    "equalized_learning_rate": COMPUTED,
    "OneLayerTwiceAsInTheReference": "head.weight (5, 8) (linear",
    "MappedOverSamples": SCRIPTED,
}


def begun_anew(port: RightPort | WrongPort) -> nn.Module:
    """Reset a port to its state before loading: other weights, initial statistics."""
    module = port.build(port.reference()).to(port.dtypes[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unwrapped(module).parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in unwrapped(module).named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.fill_(1)
    return module


def tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from (value.detach().clone() for value in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("port", RIGHT_PORTS, ids=lambda port: port.name)
def test_a_right_port_is_filled_and_read_back_or_refused(port: RightPort, monkeypatch: pytest.MonkeyPatch) -> None:
    module, (x, t) = begun_anew(port), port.reference.batch()
    before = list(tensors(module))
    if port.name in REFUSED:
        with pytest.raises(LoadError) as caught:
            load_params(module, port.reference(), x)
        assert REFUSED[port.name] in str(caught.value)
        assert all(map(torch.equal, before, tensors(module)))
        return
    reference = port.reference()
    loaded = load_params(module, reference, x)
    assert list(loaded.filled) == [*reference.params, *reference.statistics]
    assert loaded or check_parity(reference, module, x, t, runs=RUNS, **port.options)
    monkeypatch.setattr(proof, "RUNS", RUNS[:1])  # these weights and places have been proved before
    for name, value in params_from(module, emptied(port.reference()), x).items():
        expected = {**reference.params, **reference.statistics}[name]
        np.testing.assert_allclose(value, expected, rtol=1e-6 if value.dtype == np.float32 else 1e-13, atol=1e-16)


def emptied(reference: nr.Network) -> nr.Network:
    """All weights are zero: only the layers tell them apart."""
    reference.set_params({name: np.zeros_like(value) for name, value in reference.params.items()})
    return reference


def test_so_many_of_them_are_refused() -> None:
    assert len(RIGHT_PORTS) - len(REFUSED) >= 87
    assert {port.name for port in RIGHT_PORTS} >= REFUSED.keys()


@pytest.mark.parametrize("port", WRONG_PORTS[::12], ids=lambda port: port.name)
def test_no_mistake_misleads(port: WrongPort) -> None:
    """The weights are where the port's author has put them, or the port has become right, or nothing has changed."""
    module = begun_anew(port)
    before = list(tensors(module))
    authors = dict(unwrapped(port.build(port.reference()).to(port.dtypes[0])).named_parameters())
    try:
        loaded = load_params(module, port.reference(), port.reference.batch()[0])
    except LoadError:
        assert all(map(torch.equal, before, tensors(module)))
        return
    filled = [(name, value) for name, value in unwrapped(module).named_parameters() if name in loaded.filled.values()]
    assert loaded.report or all(torch.equal(authors[name], value) for name, value in filled)
