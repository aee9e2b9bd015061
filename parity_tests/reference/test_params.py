"""params.pkl: what is written is whole, reads back, and is read by others; test_refusals.py has what is refused."""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import ParamsError, SimpleConvNet, read_params, write_params
from numpy_ref.params import encode_params
from reference.crafted import arrays, pickled, unpickled, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.pkl"


def test_what_is_written_is_read_by_pickle_and_back(file: Path) -> None:
    write_params(arrays(), file)
    for back in (unpickled(file.read_bytes()), read_params(file)):
        assert list(back) == list(arrays())
        for name, expected in arrays().items():
            assert back[name].dtype == expected.dtype.newbyteorder("=")
            np.testing.assert_array_equal(back[name], expected)
    names = {arg for op, arg, _ in pickletools.genops(file.read_bytes()) if op.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def test_a_network_saves_and_loads(file: Path) -> None:
    first, second = (SimpleConvNet(rng=np.random.RandomState(seed)) for seed in (1, 2))
    first.save_params(file)
    second.load_params(file)
    x = np.random.default_rng(0).random((3, 1, 28, 28))
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    second.params["b3"] += 1
    assert second.layers["Affine2"].b is second.params["b3"]


def test_nonfinite_values_can_be_allowed(file: Path) -> None:
    write_params({"W": np.array([np.nan, np.inf, 1])}, file)
    assert np.isnan(read_params(file, allow_nonfinite=True)["W"][0])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "empty"),
        ({"W": np.zeros(3, int)}, "int64"),
        ({"W": [1.0]}, "list"),
        ({"W": np.zeros(())}, r"shape \(\)"),
        ({"W": np.zeros(3, np.longdouble)}, "W.*float"),
        ({1: np.zeros(3)}, "a key is a int"),
        ({"W" * 257: np.zeros(3)}, "a name of more than 256 bytes"),
        ({"\ud800": np.zeros(3)}, "half a pair of surrogates"),
        pytest.param(
            *({"W": np.zeros((1,) * 33)} if np.__version__ >= "2" else {}, "33 axes"),
            marks=pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 has no such arrays"),
        ),
    ],
)
def test_what_cannot_be_written_is_refused(file: Path, params: Any, says: str) -> None:
    write(file, b"old")
    with pytest.raises(ParamsError, match=says):
        write_params(params, file)
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("params", [None, [1.0]])
def test_only_a_mapping_is_written(file: Path, params: Any) -> None:
    with pytest.raises(TypeError, match=f"mapping.*got {type(params).__name__}"):
        write_params(params, file)


def test_a_write_that_does_not_read_back_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, b"old")
    monkeypatch.setattr("numpy_ref.params.encode_params", lambda _: pickled({"W": np.ones(3)}))
    with pytest.raises(OSError, match="does not read back"):
        write_params({"W": np.zeros(3)}, file)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: {k: v for k, v in p.items() if k != "W2"}, r"missing \['W2'\]"),
        (lambda p: {**p, "W4": p["W3"]}, r"unexpected \['W4'\]"),
        (lambda p: {**p, "W2": p["W2"].T}, r"W2 is \(100, 4320\), expected \(4320, 100\)"),
        (lambda p: {**p, "b2": p["b2"][:, None]}, r"b2 is \(100, 1\), expected \(100,\)"),
    ],
)
def test_a_network_refuses_weights_of_another(file: Path, spoil: Any, says: str) -> None:
    net = SimpleConvNet()
    before = {name: value.copy() for name, value in net.params.items()}
    write_params(spoil(net.params), file)
    with pytest.raises(ValueError, match=says):
        net.load_params(file)
    assert all(np.array_equal(net.params[name], value) for name, value in before.items())


@pytest.mark.parametrize("size", [1, 255, 2**31 - 1, 2**31, 2**40])
def test_sizes_of_any_length_are_written(size: int) -> None:
    assert unpickled(encode_params({"W": np.empty((size, 0))}))["W"].shape == (size, 0)


def test_a_file_that_is_refused_when_read_back_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numpy_ref.params.encode_params", lambda _: b"hello, world")
    with pytest.raises(OSError, match=r"params\.pkl: what was written does not read back: .*not a pickle"):
        write_params({"W": np.zeros(3)}, file)
