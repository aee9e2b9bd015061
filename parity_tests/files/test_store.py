"""read_weights: the format does not depend on the file's name; limits; a run's folder."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import numpy_ref as nr
from numpy_ref import ParamsError
from numpy_ref.checks import Array
from torchport import to_state_dict
from torchport.files import listing, read_weights, stage_weights
from torchport.files.formats import FORMATS
from torchport.networks import Weights, recognition
from torchport.networks.nearest import nearest_network

SUFFIXES = [kind.suffixes[0] for kind in FORMATS if kind.encode and kind.suffixes != (".onnx",)]
CONV = {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}


@pytest.fixture
def network() -> nr.SimpleConvNet:
    return nr.SimpleConvNet((1, 8, 8), CONV, 6, 4, rng=np.random.RandomState(2))


def test_weights_are_known_by_their_bytes_and_not_by_their_name(network: nr.SimpleConvNet, tmp_path: Path) -> None:
    state_dict = to_state_dict(network.params)
    network.save_params(tmp_path / "weights.pt")
    torch.save(state_dict, tmp_path / "weights.pkl")
    torch.save(state_dict, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    torch.save(state_dict, tmp_path / "model.pt")
    for path in (tmp_path / "weights.pt", tmp_path / "weights.pkl", tmp_path / "old.pkl", tmp_path):
        params = read_weights(path).params
        assert list(params) == list(network.params)
        for name, value in network.params.items():
            np.testing.assert_array_equal(params[name], value)


def test_a_file_is_recognised_once(network: nr.SimpleConvNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(params: Mapping[str, Array]) -> str:
        nonlocal calls
        calls += 1
        return nearest_network(params)

    monkeypatch.setattr(recognition, "nearest_network", counted)
    network.save_params(tmp_path / "params.pkl")
    assert read_weights(tmp_path / "params.pkl", dtype=torch.float32).architecture.name == "SimpleConvNet"
    assert calls == 1


def make_folder(path: Path, *names: str) -> None:
    path.mkdir()
    for name in names:
        (path / name).touch()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (None, "No such file"),
        ((), "is not a run's folder"),
        (("checkpoint.pt",), "is not a run's folder"),  # it cannot be resumed either
        (("config.json", "checkpoint.pt"), "has not ended: go on with .* --resume"),
        (("model.pt",), "this is an empty file"),
    ],
    ids=["missing", "another folder", "an overwritten run", "an unfinished run", "an empty model"],
)
def test_a_folder_without_weights_is_refused_in_one_line(
    names: tuple[str, ...] | None, says: str, tmp_path: Path
) -> None:
    if names is not None:
        make_folder(tmp_path / "weights", *names)
    with pytest.raises((ValueError, OSError), match=says) as error:
        read_weights(tmp_path / "weights")
    assert str(tmp_path / "weights") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_an_error_offers_can_be_had(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    with stage_weights(Weights.of({"W1": np.full((9, 4), np.nan), "b1": np.ones(4)}), path) as staged:
        staged.commit()
    with pytest.raises(ParamsError, match="allow_nonfinite=True"):
        read_weights(path)
    with pytest.raises(ParamsError, match=r"over the limit of 150.* with a larger max_bytes"):
        read_weights(path, max_bytes=150, allow_nonfinite=True)
    assert np.isnan(read_weights(path, max_bytes=10_000, allow_nonfinite=True).params["W1"]).all()


def test_the_limit_is_also_of_what_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "weights.npz", W1=np.zeros(10_000))
    with pytest.raises(ParamsError, match="bytes unpacked, over the limit of 10000: read it from Python with a larger"):
        read_weights(tmp_path / "weights.npz", max_bytes=10_000)
    assert (tmp_path / "weights.npz").stat().st_size < 10_000


def test_what_is_done_with_a_strangers_names_is_said_in_lines(tmp_path: Path) -> None:
    beside = {"a\nb": 1, "x" * 3000: 1, "\x1b[31m": "text"}
    odd = {f"\x1b[2J{name}.weight": torch.ones(shape) for name, shape in {"first": (3, 2), "last": (4, 3)}.items()}
    odd |= {f"\x1b[2J{name}.bias": torch.ones(size) for name, size in {"first": 3, "last": 4}.items()}
    torch.save({**odd, **beside}, tmp_path / "weights.pt")
    weights = read_weights(tmp_path / "weights.pt")
    assert len(weights.source.steps) >= 2
    assert all(step.isprintable() and len(step) < 500 for step in weights.source.steps)


def test_a_table_of_arrays_says_how_they_are_stored(tmp_path: Path) -> None:
    odd = {"a\nb": np.asfortranarray(np.eye(2, 3)), "W": np.arange(6.0).reshape(2, 3), "b": np.array([np.nan])}
    (path := tmp_path / "x.pkl").write_bytes(pickle.dumps(odd))
    rows = [line.split("  ") for line in listing(path).splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [row[:6] for row in cells] == [
        ["array", "shape", "dtype", "order", "min", "max"],
        [r"'a\nb'", "(2, 3)", "float64", "F", "0", "1"],
        ["W", "(2, 3)", "float64", "C", "0", "5"],
        ["b", "(1,)", "float64", "C, F", "nan", "nan"],
    ]
    assert cells[2][6] == hashlib.sha256(np.arange(6.0).tobytes()).hexdigest()
