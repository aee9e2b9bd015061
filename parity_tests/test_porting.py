"""Porting from any format to any other: bit for bit, checked before an old file is replaced, readable by others."""

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
from reference.networks import deep

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport import UnfoldConv2d, load_network
from torchport.files import Hints, read_weights
from torchport.files.formats import FORMATS, format_named
from torchport.files.onnx_files import encode_onnx
from torchport.networks import CONVOLUTIONS, Weights
from torchport.networks.names import cast_params
from torchport.parity import Report
from torchport.parity.cases import seeded_params
from torchport.porting import NoParity, port

SUFFIXES = [kind.suffixes[0] for kind in FORMATS if kind.encode and kind.suffixes != (".onnx",)]
INSTALL = "pip install onnx onnxruntime to test ONNX files"


def simple() -> nr.Network:
    return nr.SimpleConvNet((2, 11, 11), {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 2}, 6, 4)


def own() -> nr.Network:
    conv_params = [{"filter_num": 2, "filter_size": 3, "pad": 1, "stride": 1}] * 2
    return nr.ConvNet((1, 8, 8), conv_params, [5], 3, pool_after=[2], activation="tanh")


# The network, and the hints that its weights need.
NETWORKS: dict[str, tuple[Callable[[], nr.Network], Hints]] = {
    "SimpleConvNet": (simple, Hints(stride=2, pad=1)),
    "DeepConvNet": (lambda: deep(4, 2, 3, 4), Hints()),
    "ConvNet": (own, Hints(pad=1, activation="tanh", pool=[2])),
    "TwoLayerNet": (lambda: nr.TwoLayerNet(9, 5, 4, activation="sigmoid"), Hints(activation="sigmoid")),
    "ThreeLayerNet": (nr.ThreeLayerNet, Hints()),
    "MultiLayerNet": (lambda: nr.MultiLayerNet(6, [6, 6, 6], 6), Hints()),
    "MultiLayerNetExtend": (lambda: nr.MultiLayerNetExtend(6, [5, 4], 3, use_batchnorm=True), Hints()),
    "LeNet5": (lambda: nr.LeNet5((1, 12, 12), 3, activation="sigmoid"), Hints(activation="sigmoid")),
}
STATISTICS = {f"running_{name}{k}": np.arange(1.0, 7 - k) for k in (1, 2) for name in ("mean", "var")}


def weights(name: str = "SimpleConvNet", dtype: torch.dtype = torch.float64) -> Weights:
    params = seeded_params(0, NETWORKS[name][0]().params)
    statistics = STATISTICS if name == "MultiLayerNetExtend" else {}
    return Weights.of(cast_params({**params, **statistics}, dtype), NETWORKS[name][1].geometry)


def write(path: Path, weights: Weights) -> Path:
    encode = format_named(path).encode
    assert encode is not None
    path.write_bytes(encode(weights, {}))
    return path


def assert_same(actual: Any, expected: Any) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].flags.c_contiguous
        assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape)
        assert actual[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_is_bit_identical(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, hints = weights(name), NETWORKS[name][1]
    expected.params["W1"].flat[:3] = [-0.0, 5e-324, -1e300]
    monkeypatch.setattr("torchport.porting.check_ports", lambda *_, **__: [])  # covered by another test
    pairs = [*itertools.product(SUFFIXES, SUFFIXES)] if name == "SimpleConvNet" else [*itertools.pairwise(SUFFIXES)]
    for number, (first, second) in enumerate(pairs):
        a, b, back = (tmp_path / f"{number}{part}" for part in (f"a{first}", f"b{second}", f"back{first}"))
        port(write(a, expected), b, hints=hints)
        port(b, back, hints=hints)
        for path in (b, back):
            restored = read_weights(path, hints)
            assert_same(restored.params, expected.params)
            assert_same(restored.statistics, expected.statistics)
        assert back.read_bytes() == a.read_bytes() or first == ".safetensors"  # its header names the source


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_to_be_typed_next_predicts(
    name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchport.porting.check_ports", lambda *_, **__: [])
    source = write(Path("params.pkl"), weights(name))
    assert_predicts(port(source, f"it's{suffix}", hints=NETWORKS[name][1]).example, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_ports_are_judged_first(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "params.pkl", weights(name))
    verdicts = port(source, tmp_path / "x.npz", hints=NETWORKS[name][1]).verdicts
    for verdict, conv in zip(verdicts, ("conv2d", "unfold"), strict=True):
        assert verdict.startswith(f"parity: {conv} in float64 on cpu: {len(NETWORKS[name][0]().layers)} layers, ")


def assert_predicts(example: str, name: str) -> None:
    """The example prints the class that the reference predicts for zeros."""
    written, printed = weights(name), io.StringIO()
    assert example.count("\n") == 2
    with contextlib.redirect_stdout(printed):
        exec(example, {})
    expected = int(written.reference().predict(np.zeros((1, *written.architecture.input_shape))).argmax())
    assert printed.getvalue().strip() in (f"[{expected}]", f"tensor([{expected}])")


HINTS = NETWORKS["SimpleConvNet"][1]


def read_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 warns of numpy.core
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
    done = port(write(source, weights()), target, dtype=dtype, hints=HINTS)
    expected = weights(dtype=dtype)
    terms = {k: v.numpy() for k, v in expected.state_dict().items()} if done.format.torch_terms else expected.params
    assert_same(OTHERS[suffix](target), terms if suffix != ".safetensors" else dict(sorted(terms.items())))
    came = done.weights.source
    assert (came.dtypes, done.weights.dtype) == (("float64",), dtype)
    assert (came.changed == 0) == (dtype == torch.float64)
    assert came.changed <= done.values == sum(value.size for value in expected.params.values())
    assert came.largest <= {torch.float64: 0, torch.float32: 2**-24, torch.float16: 2**-11}[dtype]


@pytest.mark.parametrize(
    ("name", "target", "holds"),
    [
        ("SimpleConvNet", "x.pt", "the state_dict of torchport.SimpleConvNet"),
        ("ConvNet", "x.safetensors", "the state_dict of torchport.from_reference(numpy_ref.ConvNet)"),
        ("ConvNet", "x.npz", "the params of numpy_ref.ConvNet"),
    ],
)
def test_whose_weights_a_target_holds_is_said(name: str, target: str, holds: str, tmp_path: Path) -> None:
    source = write(tmp_path / "params.pkl", weights(name))
    assert port(source, tmp_path / target, hints=NETWORKS[name][1]).holds == holds


def test_safetensors_tell_what_they_are(tmp_path: Path) -> None:
    port(write(tmp_path / "params.pkl", weights()), tmp_path / "x.safetensors", hints=HINTS)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="np") as file:
        about = file.metadata()
    assert about["layout"] == "torch"
    assert about["source_sha256"] == hashlib.sha256((tmp_path / "params.pkl").read_bytes()).hexdigest()
    assert isinstance(eval(about["architecture"], dict(vars(nr))), nr.SimpleConvNet)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_is_loaded_from_any_file_to_predict(suffix: str, tmp_path: Path) -> None:
    written, x = weights("DeepConvNet"), torch.ones(2, 1, 4, 4, dtype=torch.float64)
    path = write(tmp_path / f"model{suffix}", written)
    np.testing.assert_allclose(load_network(path)(x).detach(), written.reference().predict(x.numpy()), rtol=1e-12)
    for conv, kind in CONVOLUTIONS.items():
        assert type(load_network(path, conv).get_submodule("conv1")) is kind
    assert load_network(path, dtype=torch.float32).get_parameter("conv1.weight").dtype == torch.float32
    with pytest.raises(ValueError, match=f"model{suffix}: stride 2 cannot be DeepConvNet's: leave it out"):
        load_network(path, stride=2)


# --- Failures, which leave the old file unchanged


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "params.pkl", weights())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_parity_leaves_the_old_file(
    suffix: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target := tmp_path / f"model{suffix}").write_bytes(b"old")
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: right(self, input.transpose(2, 3)))
    with pytest.raises(NoParity) as failure:
        port(source, target, hints=HINTS, force=True)
    assert [report.ok for report in failure.value.reports] == [True, False]
    assert isinstance(failure.value.reports[1], Report)
    assert target.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([source, target])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_target_is_replaced_on_demand_only(suffix: str, source: Path, tmp_path: Path) -> None:
    (target := tmp_path / f"model{suffix}").write_bytes(b"old")
    with pytest.raises(FileExistsError, match=r"model.* exists: .*--force"):
        port(source, target, hints=HINTS)
    assert target.read_bytes() == b"old"
    port(source, target, hints=HINTS, force=True)
    assert_same(read_weights(target).params, weights().params)
    with pytest.raises(ValueError, match="another file than the input"):
        port(target, target, hints=HINTS, force=True)


def test_a_runs_folder_is_its_weights(tmp_path: Path) -> None:
    model = write(tmp_path / "model.pt", weights("TwoLayerNet"))
    port(tmp_path, tmp_path / "x.npz")
    assert_same(read_weights(tmp_path / "x.npz").params, weights("TwoLayerNet").params)
    with pytest.raises(ValueError, match="another file than the input"):
        port(tmp_path, model, force=True)


def test_how_arrays_lay_in_the_source_is_not_told_of_the_target(tmp_path: Path) -> None:
    names = {"W1": "in.kernel", "b1": "in.bias", "W2": "out.kernel", "b2": "out.bias"}
    arrays = {names[name]: value for name, value in weights("TwoLayerNet").params.items()}
    (source := tmp_path / "x.pkl").write_bytes(pickle.dumps(arrays))
    done = port(source, tmp_path / "x.pt", hints=Hints(activation="sigmoid", order=["in", "out"], affine="in-out"))
    assert done.weights.geometry == Hints(activation="sigmoid")
    assert_predicts(done.example, "TwoLayerNet")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "suffix": ("model.h5", {}, r"must end in one of \.pkl, \.npz, \.pt, \.pth, \.safetensors, \.onnx, got \.h5"),
    "no suffix": ("model", {}, "got no suffix"),
    "stride": ("model.pt", {"hints": Hints(pad=9)}, r"params\.pkl: no SimpleConvNet with stride 1 and pad 9"),
    "too large": ("model.pt", {"dtype": torch.float16}, r"params\.pkl: b3 holds 1e\+06, more than torch.float16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ported_is_refused(case: str, source: Path, tmp_path: Path) -> None:
    name, options, says = REFUSED[case]
    nr.write_params({**weights().params, "b3": np.full(4, 1e6)}, source)
    with pytest.raises(ValueError, match=says):
        port(source, tmp_path / name, **{"hints": HINTS, **options})
    assert list(tmp_path.iterdir()) == [source]


# --- ONNX


@pytest.fixture
def onnx() -> None:
    pytest.importorskip("onnx", reason=INSTALL)
    pytest.importorskip("onnxruntime", reason=INSTALL)


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_predicts_as_the_reference_and_is_read(name: str, tmp_path: Path) -> None:
    source, target, hints = write(tmp_path / "params.pkl", weights(name)), tmp_path / "x.onnx", NETWORKS[name][1]
    for given, dtype in ((None, torch.float32), (torch.float16, torch.float16)):
        done = port(source, target, dtype=given, hints=hints, force=True)
        assert done.weights.dtype == dtype
        assert done.verdicts[-1].startswith(f"parity: onnxruntime in {str(dtype).removeprefix('torch.')}")
        assert_predicts(done.example, name)
        assert_same(read_weights(target, hints).params, weights(name, dtype).params)
    with pytest.raises(ValueError, match="onnxruntime has no float64"):
        port(source, tmp_path / "y.onnx", dtype=torch.float64, hints=hints)


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize(
    ("spoiled", "error", "says"),
    [
        (lambda w: Weights.of(w.params, Hints(activation="relu")), ValueError, r"otherwise than the reference: \["),
        (lambda w: Weights.of({**w.params, "b2": w.params["b2"] + 1}, w.geometry), OSError, "does not read back"),
    ],
    ids=["another network", "other weights"],
)
def test_onnx_that_is_not_the_network_leaves_the_old_file(
    spoiled: Callable[[Weights], Weights],
    error: type[Exception],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = write(tmp_path / "params.pkl", weights("TwoLayerNet")), tmp_path / "x.onnx"
    target.write_bytes(b"old")
    monkeypatch.setattr("torchport.files.formats.encode_onnx", lambda weights: encode_onnx(spoiled(weights)))
    with pytest.raises(error, match=says):
        port(source, target, hints=NETWORKS["TwoLayerNet"][1], force=True)
    assert target.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_onnx_without_its_packages_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match="pip install onnx onnxruntime"):
        port(source, tmp_path / "model.onnx", hints=HINTS)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(ValueError, match=r"model\.onnx: .*pip install onnx onnxruntime"):
        read_weights(tmp_path / "model.onnx")
