"""port_params.py --into: writes weights from a file as the state_dict of the user's own module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from commands.test_own_port import folder as folder
from commands.test_scripts import Run, assert_refused, run as run, small_params
from numpy_ref import SimpleConvNet, write_params
from torchport.loading import writing
from torchport.parity.cases import seeded_params

EARLIER = b"what was there before"


def state_in(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return state


@pytest.mark.parametrize("target", ["model.pt", "model.safetensors"])
def test_a_users_module_gets_its_state_dict(target: str, folder: Path, run: Run) -> None:
    done = run("port_params", "params.pkl", target, "--into", "mine.py:Spare")
    assert (done.returncode, done.stderr) == (0, "")
    network, *lines = done.stdout.splitlines()
    assert network.startswith("SimpleConvNet(")
    assert lines[:2] == ["W1: conv.weight", "b1: conv.bias"]
    assert lines[6:8] == ["not used: spare.bias", "not used: spare.weight"]
    assert lines[8].startswith("parity: port in float32 on cpu: 6 layers, loss and prediction")
    size = (folder / target).stat().st_size
    assert lines[9:] == [f"wrote {target}: {size:,} bytes, for mine.py:Spare's load_state_dict"]
    state = state_in(folder / target)
    assert list(state)[-2:] == ["spare.weight", "spare.bias"] or target.endswith(".safetensors")
    np.testing.assert_array_equal(state["hidden.weight"], small_params()["W2"].T.astype(np.float32))


def test_the_geometry_is_the_sources(folder: Path, run: Run) -> None:
    conv_param = {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 1}
    write_params(seeded_params(0, SimpleConvNet((1, 6, 6), conv_param, 6, 4).params), folder / "padded.pkl")
    source = (folder / "mine.py").read_text().replace("nn.Conv2d(1, 3, 3)", "nn.Conv2d(1, 3, 3, padding=1)")
    (folder / "padding.py").write_text(source)
    arguments = ("padded.pkl", "model.pt", "--into", "padding.py:Net")
    assert run("port_params", *arguments, "--pad", "1").returncode == 0
    done = run("port_params", *arguments, "--force")  # of an image of another size
    assert done.returncode == 2


def test_a_module_that_is_another_is_no_parity(folder: Path, run: Run) -> None:
    source = (folder / "mine.py").read_text().replace("x = F.max_pool2d(", "x = F.max_pool2d(0.5 * ")
    (folder / "halving.py").write_text(source.replace("self.conv(x)", "self.conv(2 * x)"))
    (folder / "model.pt").write_bytes(EARLIER)
    done = run("port_params", "params.pkl", "model.pt", "--into", "halving.py:Net", "--force")
    assert done.returncode == 1
    assert "conv1" in done.stderr
    assert done.stderr.splitlines()[-1] == "not written: the port does not match the reference"
    assert (folder / "model.pt").read_bytes() == EARLIER


def test_what_differs_besides_weights_is_said(folder: Path, run: Run) -> None:
    done = run("port_params", "params.pkl", "model.pt", "--into", "mine.py:Wrong")
    assert done.returncode == 0
    assert "the weights are in place, but the port differs: NO PARITY: port in float32 on cpu: relu2" in done.stdout


REFUSED = [
    (("params.pkl", "model.pt", "--into", "mine.py:Wider"), "cannot hold the reference's W2 (27, 6)"),
    (("params.pkl", "model.pt", "--into", "mine.py"), "--into must be FILE.py:NAME"),
    (("params.pkl", "model.pt", "--into", "mine.py:Missing"), "mine.py has no Missing"),
    (("params.pkl", "model.npz", "--into", "mine.py:Net"), "goes into .pt or .safetensors, got model.npz"),
    (("missing.pkl", "model.pt", "--into", "mine.py:Net"), "missing.pkl"),
    (("params.pkl", "there.pt", "--into", "mine.py:Net"), "there.pt exists"),
    (("params.pkl", "model.pt", "--into", "mine.py:Net", "--dtype", "float32"), "leave out --inspect and --dtype"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED)
def test_bad_input_is_told_and_nothing_written(arguments: tuple[str, ...], says: str, folder: Path, run: Run) -> None:
    (folder / "there.pt").write_bytes(EARLIER)
    before = sorted(folder.rglob("*.pt"))
    assert_refused(run("port_params", *arguments), says)
    assert sorted(folder.rglob("*.pt")) == before
    assert (folder / "there.pt").read_bytes() == EARLIER


def test_what_does_not_read_back_is_not_left(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, decode = writing.FORMATS[".pt"]
    wrong = (lambda state: encode({key: 0 * value for key, value in state.items()}), decode)
    monkeypatch.setitem(writing.FORMATS, ".pt", wrong)
    (folder / "model.pt").write_bytes(EARLIER)
    done = run("port_params", "params.pkl", "model.pt", "--into", "mine.py:Net", "--force")
    assert_refused(done, "does not read back as it was")
    assert (folder / "model.pt").read_bytes() == EARLIER
