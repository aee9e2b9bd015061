"""Weights from any file to any other: bit for bit, checked before an old file is replaced, and read by others."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from numpy_ref.deep_convnet import DEFAULT_CONV_PARAMS
from torchport import UnfoldConv2d, load_network, onnx_files
from torchport.files import FORMATS, load_weights
from torchport.networks.architectures import recognise
from torchport.networks.names import cast_params, state_dict_of
from torchport.parity import Report
from torchport.parity.cases import seeded_params
from torchport.porting import NoParity, port

SUFFIXES = list(FORMATS)
INSTALL = "pip install 'torchport[onnx]' to test ONNX files"


def simple() -> nr.Network:
    return nr.SimpleConvNet((2, 11, 11), {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 2}, 6, 4)


def deep() -> nr.Network:
    few: Any = {f"conv_param_{k}": {**param, "filter_num": 2} for k, param in enumerate(DEFAULT_CONV_PARAMS, 1)}
    return nr.DeepConvNet((1, 4, 4), **few, hidden_size=3, output_size=4)


# The network, and what its weights cannot tell.
NETWORKS: dict[str, tuple[Callable[[], nr.Network], dict[str, Any]]] = {
    "SimpleConvNet": (simple, {"stride": 2, "pad": 1}),
    "DeepConvNet": (deep, {}),
    "TwoLayerNet": (lambda: nr.TwoLayerNet(9, 5, 4, activation="sigmoid"), {"activation": "sigmoid"}),
    "ThreeLayerNet": (nr.ThreeLayerNet, {}),
    "MultiLayerNet": (lambda: nr.MultiLayerNet(6, [6, 6, 6], 6), {}),
    "LeNet5": (lambda: nr.LeNet5((1, 12, 12), 3, activation="sigmoid"), {"activation": "sigmoid"}),
}


def weights(name: str = "SimpleConvNet", dtype: torch.dtype = torch.float64) -> dict[str, Array]:
    return cast_params(seeded_params(0, NETWORKS[name][0]().params), dtype)


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].flags.c_contiguous
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_is_bit_identical(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, options = weights(name), NETWORKS[name][1]
    params["W1"].flat[:3] = [-0.0, 5e-324, -1e300]
    monkeypatch.setattr("torchport.porting.check_ports", lambda *_, **__: [])  # another test has it
    for number, (first, second) in enumerate(itertools.product(SUFFIXES, SUFFIXES)):
        a, b, back = (tmp_path / f"{number}{part}" for part in (f"a{first}", f"b{second}", f"back{first}"))
        a.write_bytes(FORMATS[first].encode(own_terms(first, name, params), {}))
        port(a, b, **options)
        port(b, back, **options)
        assert_same(load_weights(b), params)
        assert_same(load_weights(back), params)


def own_terms(suffix: str, name: str, params: dict[str, Array]) -> dict[str, Array]:
    network = NETWORKS[name][0]()
    network.set_params(params)
    return {k: v.numpy() for k, v in state_dict_of(network).items()} if FORMATS[suffix].torch_terms else params


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_to_be_typed_next_predicts(
    name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchport.porting.check_ports", lambda *_, **__: [])
    nr.write_params(weights(name), "params.pkl")
    assert_predicts(port("params.pkl", f"it's{suffix}", **NETWORKS[name][1]).example, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_ports_are_judged_first(name: str, tmp_path: Path) -> None:
    nr.write_params(weights(name), tmp_path / "params.pkl")
    for verdict, conv in zip(
        port(tmp_path / "params.pkl", tmp_path / "x.npz", **NETWORKS[name][1]).verdicts,
        ("conv2d", "unfold"),
        strict=True,
    ):
        assert verdict.startswith(f"parity: {conv} in float64 on cpu: {len(NETWORKS[name][0]().layers)} layers, ")


def assert_predicts(example: str, name: str) -> None:
    """example prints the class that the reference predicts for zeros."""
    network, printed = NETWORKS[name][0](), io.StringIO()
    network.set_params(weights(name))
    images = {"SimpleConvNet": (2, 11, 11), "DeepConvNet": (1, 4, 4), "LeNet5": (1, 12, 12)}
    shape = images.get(name, (len(weights(name)["W1"]),))
    assert example.count("\n") == 2
    with contextlib.redirect_stdout(printed):
        exec(example, {})
    expected = int(network.predict(np.zeros((1, *shape))).argmax())
    assert printed.getvalue().strip() in (f"[{expected}]", f"tensor([{expected}])")


def read_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 knows numpy.core, and warns of it
        return pickle.loads(path.read_bytes())


def read_npz(path: Path) -> dict[str, Array]:
    with np.load(path) as file:
        return dict(file)


OTHERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".pkl": read_pickle,
    ".npz": read_npz,
    ".pt": lambda path: {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()},
    ".safetensors": lambda path: dict(sorted(safetensors.numpy.load_file(path).items())),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_by_others(suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source, target = tmp_path / "params.pkl", tmp_path / f"model{suffix}"
    nr.write_params(weights(), source)
    done = port(source, target, dtype=dtype, stride=2, pad=1)
    expected = own_terms(suffix, "SimpleConvNet", weights(dtype=dtype))
    found = OTHERS[suffix](target)
    assert_same(found, expected if suffix != ".safetensors" else dict(sorted(expected.items())))
    values = sum(value.size for value in expected.values())
    assert (done.found, done.dtype) == ("float64", str(dtype).removeprefix("torch."))
    assert (done.changed == 0) == (dtype == torch.float64)
    assert done.changed <= done.values == values
    assert done.largest <= {torch.float64: 0, torch.float32: 2**-24, torch.float16: 2**-11}[dtype]


def test_safetensors_tell_what_they_are(tmp_path: Path) -> None:
    nr.write_params(weights(), tmp_path / "params.pkl")
    port(tmp_path / "params.pkl", tmp_path / "x.safetensors", stride=2, pad=1)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="np") as file:
        about = file.metadata()
    assert about["layout"] == "torch"
    assert about["source_sha256"] == hashlib.sha256((tmp_path / "params.pkl").read_bytes()).hexdigest()
    assert isinstance(eval(about["architecture"], dict(vars(nr))), nr.SimpleConvNet)


def test_a_network_is_loaded_from_any_file_to_predict(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"model{suffix}"
        path.write_bytes(FORMATS[suffix].encode(own_terms(suffix, "DeepConvNet", weights("DeepConvNet")), {}))
        x = torch.ones(2, 1, 4, 4, dtype=torch.float64)
        network = deep()
        network.set_params(weights("DeepConvNet"))
        np.testing.assert_allclose(load_network(path)(x).detach(), network.predict(x.numpy()), rtol=1e-12)
        assert [type(load_network(path, conv).conv1) for conv in ("conv2d", "unfold")] == [nn.Conv2d, UnfoldConv2d]
        with pytest.raises(ValueError, match=f"model{suffix}: .* cannot be DeepConvNet's"):
            load_network(path, stride=2)


# --- What keeps the old file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    nr.write_params(weights(), tmp_path / "params.pkl")
    return tmp_path / "params.pkl"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_parity_leaves_the_old_file(
    suffix: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target := tmp_path / f"model{suffix}").write_bytes(b"old")
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: right(self, input.transpose(2, 3)))
    with pytest.raises(NoParity) as failure:
        port(source, target, stride=2, pad=1, force=True)
    assert [report.ok for report in failure.value.reports] == [True, False]
    assert isinstance(failure.value.reports[1], Report)
    assert target.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([source, target])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_target_is_replaced_on_demand_only(suffix: str, source: Path, tmp_path: Path) -> None:
    (target := tmp_path / f"model{suffix}").write_bytes(b"old")
    with pytest.raises(FileExistsError, match=r"model.* exists: .*--force"):
        port(source, target, stride=2, pad=1)
    assert target.read_bytes() == b"old"
    port(source, target, stride=2, pad=1, force=True)
    assert_same(load_weights(target), weights())
    with pytest.raises(ValueError, match="another file than the input"):
        port(target, target, stride=2, pad=1, force=True)


def test_a_runs_folder_is_its_weights(tmp_path: Path) -> None:
    (model := tmp_path / "model.pt").write_bytes(
        FORMATS[".pt"].encode(own_terms(".pt", "TwoLayerNet", weights("TwoLayerNet")), {})
    )
    port(tmp_path, tmp_path / "x.npz")
    assert_same(load_weights(tmp_path / "x.npz"), weights("TwoLayerNet"))
    with pytest.raises(ValueError, match="another file than the input"):
        port(tmp_path, model, force=True)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "suffix": ("model.h5", {}, r"must end in one of \.pkl, \.npz, \.pt, \.safetensors, \.onnx, got \.h5"),
    "no suffix": ("model", {}, "got no suffix"),
    "stride": ("model.pt", {"stride": 1, "pad": 9}, r"params\.pkl: no SimpleConvNet with stride 1 and pad 9"),
    "too large": ("model.pt", {"dtype": torch.float16}, r"params\.pkl: b3 holds 1e\+06, more than torch.float16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ported_is_refused(case: str, source: Path, tmp_path: Path) -> None:
    name, options, says = REFUSED[case]
    nr.write_params({**weights(), "b3": np.full(4, 1e6)}, source)
    with pytest.raises(ValueError, match=says):
        port(source, tmp_path / name, **{"stride": 2, "pad": 1, **options})
    assert list(tmp_path.iterdir()) == [source]


# --- ONNX


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_predicts_as_the_reference(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason=INSTALL)
    pytest.importorskip("onnxruntime", reason=INSTALL)
    nr.write_params(weights(name), tmp_path / "params.pkl")
    for dtype in (None, torch.float16):
        done = port(tmp_path / "params.pkl", tmp_path / "x.onnx", dtype=dtype, force=True, **NETWORKS[name][1])
        assert done.verdicts[-1].startswith(f"parity: onnxruntime in {done.dtype}")
        assert done.dtype == ("float16" if dtype else "float32")
        assert_predicts(done.example, name)
    with pytest.raises(ValueError, match=r"params\.pkl: onnxruntime has no float64"):
        port(tmp_path / "params.pkl", tmp_path / "y.onnx", dtype=torch.float64, **NETWORKS[name][1])
    with pytest.raises(ValueError, match="an ONNX file, which is only written"):
        load_weights(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("spoiled", "says"), [("reference", r"predicts otherwise than the reference: \["), ("port", "does not hold")]
)
def test_onnx_that_is_not_the_network_leaves_the_old_file(
    spoiled: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason=INSTALL)
    pytest.importorskip("onnxruntime", reason=INSTALL)
    (target := tmp_path / "x.onnx").write_bytes(b"old")
    params, x = weights("TwoLayerNet", torch.float32), np.ones((2, 9))
    architecture = recognise(params)
    reference, net = architecture.reference(params), architecture.port(params)
    if spoiled == "reference":
        reference.params["b2"] += 1e-4
    else:
        other = architecture.port({**params, "b2": params["b2"] + np.float32(1)})
        exported = onnx_files._exported
        monkeypatch.setattr(onnx_files, "_exported", lambda _, x: exported(other, x))
    with pytest.raises(ValueError, match=says):
        onnx_files.write_onnx(net, reference, x, target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_onnx_without_its_packages_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'torchport\[onnx\]'"):
        port(source, tmp_path / "model.onnx", stride=2, pad=1)
