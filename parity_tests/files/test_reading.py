"""Files of weights as people have them, each with its correct values or the words of its refusal."""

from __future__ import annotations

import datetime
import pickle
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import numpy_ref as nr
from numpy_ref.checks import Array
from torchport.files import Hints, read_weights
from torchport.networks import Weights, cast_params

Params = dict[str, Array]

SIZES = {"filter_num": 3, "filter_size": 5, "pad": 0, "stride": 1}
BOOK = ("W1", "b1", "W2", "b2", "W3", "b3")
OWN = ("conv1", "affine1", "affine2")


def drawn(**shapes: tuple[int, ...]) -> Params:
    rng = np.random.default_rng(7)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def forked(*weights: tuple[int, ...]) -> Params:
    """Return the params of a network with these weights, and biases to match."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, shape in enumerate(weights, 1):
        shapes |= {f"W{number}": shape, f"b{number}": (shape[0] if len(shape) == 4 else shape[1],)}
    return drawn(**shapes)


SIMPLE = forked((3, 1, 5, 5), (432, 11), (11, 10))
SQUARE = forked((3, 1, 5, 5), (432, 10), (10, 10))
SQUARES = forked((6, 6), (6, 6), (6, 6))
TWO_CONVS = forked((4, 1, 3, 3), (6, 4, 3, 3), (294, 9), (9, 10))
BATCHNORM = nr.MultiLayerNetExtend(9, [7], 5, use_batchnorm=True, rng=np.random.RandomState(0)).params
STATISTICS = {"running_mean1": np.arange(7.0), "running_var1": np.arange(1.0, 8)}


def keyed(params: Mapping[str, Array], *layers: str, part: tuple[str, str] = ("weight", "bias")) -> dict[str, Any]:
    """Return params as a torch state_dict with these names of layers."""
    return {
        f"{layer}.{part[name[0] == 'b']}": torch.tensor(np.ascontiguousarray(value.T if value.ndim == 2 else value))
        for layer, pair in zip(layers, zip(*[iter(params.items())] * 2, strict=True), strict=True)
        for name, value in pair
    }


def arrays(state_dict: Mapping[str, Any]) -> dict[str, Array]:
    return {key: value.numpy() for key, value in state_dict.items()}


def turned(params: Params, *names: str) -> Params:
    return {name: np.ascontiguousarray(value.T) if name in names else value for name, value in params.items()}


def parts(params: Params) -> dict[str, Params]:
    """Return params as nested dicts, by layer."""
    return {f"l{k[1]}": {name: params[f"{name}{k[1]}"] for name in "Wb"} for k in params if k[0] == "W"}


def keras_rows(params: Params) -> Params:
    """Return params with the first Affine's rows in the order H, W, C."""
    rows = params["W2"].reshape(len(params["W1"]), 12, 12, -1).transpose(1, 2, 0, 3)
    return {**params, "W2": rows.reshape(params["W2"].shape)}


def hwio(params: Params) -> Params:
    return {name: value.transpose(2, 3, 1, 0) if value.ndim == 4 else value for name, value in params.items()}


def keras(params: Params) -> Params:
    names = [f"{layer}/{part}:0" for layer in ("conv2d", "dense", "dense_1") for part in ("kernel", "bias")]
    return dict(zip(names, hwio(params).values(), strict=True))


def written(name: str, save: Callable[[Any, Any], object], value: object) -> Callable[[Path], Path]:
    """Return a function that writes value into a folder by save(path, value)."""

    def write(folder: Path) -> Path:
        save(folder / name, value)
        return folder / name

    return write


def pickled(value: object) -> Callable[[Path], Path]:
    return written("w.pkl", lambda path, value: path.write_bytes(pickle.dumps(value, 4)), value)


def saved(value: object, name: str = "w.pt", **options: Any) -> Callable[[Path], Path]:
    return written(name, lambda path, value: torch.save(value, path, **options), value)


def npz(value: Mapping[str, Any]) -> Callable[[Path], Path]:
    return written("w.npz", lambda path, value: np.savez(path, **value), value)


def npy(value: Any) -> Callable[[Path], Path]:
    return written("w.npy", np.save, value)


def before(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in arrays.items()}


def momentums(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint as in PyTorch's ImageNet example: the optimizer's moments are as large as the network."""
    state = {number: {"momentum_buffer": 0 * value} for number, value in enumerate(state_dict.values())}
    return {"state_dict": state_dict, "optimizer": {"state": state, "param_groups": [{"lr": 0.1}]}}


def adams(state_dict: dict[str, Any]) -> dict[str, Any]:
    net = nn.Linear(3, 2)
    rule = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    rule.step()
    return {"epoch": 4, "net": state_dict, "opt": rule.state_dict(), "loss": torch.tensor(0.3)}


class Case(NamedTuple):
    """A file: how to write it, the params expected from it, words of a line about it, and the hints it needs."""

    write: Callable[[Path], Path]
    expected: Params
    says: str = ""
    hints: Hints = Hints()
    dtype: torch.dtype | None = None


STATE = keyed(SIMPLE, *OWN)
PEOPLE: dict[str, Case] = {
    # prefixes
    "DataParallel": Case(saved({f"module.{k}": v for k, v in STATE.items()}), SIMPLE, "'module' is left out"),
    "compiled and wrapped": Case(saved({f"_orig_mod.net.{k}": v for k, v in STATE.items()}), SIMPLE, "'_orig_mod.net'"),
    "the book's names too": Case(npz({f"model/{k}": v for k, v in SIMPLE.items()}), SIMPLE, "'model' is left out"),
    # checkpoints
    "the tutorial's checkpoint": Case(saved(adams(STATE), "w.tar"), SIMPLE, "'net' is left out"),
    "Lightning's": Case(
        saved({"state_dict": {f"net.{k}": v for k, v in STATE.items()}, "hyper_parameters": {"lr": 0.1}}, "w.ckpt"),
        SIMPLE,
        "'state_dict.net' is left out",
    ),
    "two networks, one asked for": Case(
        saved({"best": STATE, "last": {k: 2 * v for k, v in STATE.items()}}), SIMPLE, "'best'", Hints(part="best")
    ),
    "momentum's sums": Case(saved(momentums(STATE)), SIMPLE, "optimizer (a dict)"),
    "one of two prefixes": Case(
        saved({"state_dict": {**before("student.", STATE), **before("teacher.", STATE)}}),
        SIMPLE,
        "in the part 'state_dict.student'",
        Hints(part="state_dict.student"),
    ),
    "Chainer's snapshot": Case(
        npz({**before("updater/model:main/", arrays(STATE)), "updater/optimizer:main/conv1/W/m": SIMPLE["W1"]}),
        SIMPLE,
        "left out beside it: updater/optimizer:main/conv1/W/m (3, 1, 5, 5)",
        Hints(part="updater/model:main"),
    ),
    "layers that order names": Case(
        saved({**before("net.", STATE), "criterion.weight": torch.ones(10), "hits.tp": torch.ones(10)}),
        SIMPLE,
        "left out: criterion, hits.tp",
        Hints(order=["net.conv1", "net.affine1", "net.affine2"]),
    ),
    "losses beside": Case(pickled({"net": SIMPLE, "losses": np.ones(9)}), SIMPLE, "beside it: losses (9,)"),
    "with numbers beside": Case(pickled({**SIMPLE, "lr": 0.1, "seen": None}), SIMPLE, "left out: lr (a number)"),
    "with objects beside": Case(
        pickled({"params": SIMPLE, "args": types.SimpleNamespace(lr=1), "when": datetime.date(2020, 1, 2)}),
        SIMPLE,
        "args (an object of types.SimpleNamespace)",
    ),
    # names
    "fc1, fc2": Case(saved(keyed(SIMPLE, "conv1", "fc1", "fc2")), SIMPLE, "conv1, fc1, fc2 are layers 1 to 3"),
    "numbers of an nn.Sequential": Case(saved(keyed(SIMPLE, "0", "4", "6")), SIMPLE, "0, 4, 6 are layers"),
    "features and classifier": Case(saved(keyed(SIMPLE, "features.0", "classifier.1", "classifier.3")), SIMPLE),
    "defined in another order": Case(
        saved(dict(reversed(keyed(SIMPLE, "first", "hidden", "out").items()))), SIMPLE, "by their shapes"
    ),
    "ten layers, sorted as text": Case(
        npz(dict(sorted(arrays(keyed(forked(*[(6, 6)] * 11), *(f"fc{k}" for k in range(1, 12)))).items()))),
        forked(*[(6, 6)] * 11),
    ),
    "Keras' names of equal layers": Case(
        npz(
            {
                f"dense{end}/{part}:0": SQUARES[f"{name}{k}"]
                for k, end in enumerate(("", "_1", "_2"), 1)
                for part, name in (("kernel", "W"), ("bias", "b"))
            }
        ),
        SQUARES,
    ),
    "blocks of equal layers": Case(
        npz(arrays(keyed(forked(*[(6, 6)] * 4), "a1.fc1", "a1.fc2", "a2.fc1", "a2.fc2"))), forked(*[(6, 6)] * 4)
    ),
    "superscripts": Case(saved(keyed(SQUARES, "¹", "³", "²")), SQUARES),
    "one layer, with a prefix": Case(saved(keyed(p := forked((6, 5)), "net.fc")), p),
    "an order that is told": Case(
        saved(keyed(forked((6, 6), (6, 6)), "fc2", "fc1")), forked((6, 6), (6, 6)), hints=Hints(order=["fc2", "fc1"])
    ),
    # keys over suffix
    "torch's keys in .npz": Case(npz(arrays(STATE)), SIMPLE),
    "torch's keys in .pkl": Case(pickled(arrays(keyed(SIMPLE, "conv1", "fc1", "fc2"))), SIMPLE),
    "the book's keys in .pt": Case(saved({k: torch.tensor(v) for k, v in SIMPLE.items()}), SIMPLE),
    "arr_0, arr_1": Case(npz({f"arr_{i}": v for i, v in enumerate(SIMPLE.values())}), SIMPLE, "by their order, arr_0"),
    "arr_10 before arr_2": Case(
        npz(dict(sorted((f"arr_{i}", v) for i, v in enumerate(forked(*[(6, 6)] * 6).values())))),
        forked(*[(6, 6)] * 6),
        "arr_9, arr_10, arr_11 are",
    ),
    "one output, by order": Case(pickled(list((p := forked((9, 4), (4, 1))).values())), p),
    # containers
    "the second book's list": Case(pickled(list(SIMPLE.values())), SIMPLE, "are W1, b1, W2, b2, W3, b3"),
    "weights before biases": Case(pickled(tuple(SIMPLE[k] for k in ("W1", "W2", "W3", "b1", "b2", "b3"))), SIMPLE),
    "a list of torch's parameters": Case(saved(list(STATE.values())), SIMPLE, "transposed"),
    "np.save of a list": Case(npy(np.array(list(SIMPLE.values()), dtype=object)), SIMPLE),
    "by layer": Case(
        pickled({f"l{k}": {"W": SIMPLE[f"W{k}"], "b": SIMPLE[f"b{k}"]} for k in (1, 2, 3)}), SIMPLE, "l1, l2, l3"
    ),
    # depths
    "another Affine": Case(pickled(p := forked((3, 1, 5, 5), (432, 9), (9, 8), (8, 10))), p, "pool=1 pad=0"),
    "no hidden layer": Case(pickled(p := forked((3, 1, 5, 5), (432, 10))), p, "pool=1 pad=0"),
    "two convolutions that pad": Case(pickled(TWO_CONVS), TWO_CONVS, "pool=1,2 pad=1"),
    "CIFAR": Case(pickled(p := forked((4, 3, 5, 5), (5, 4, 5, 5), (125, 9), (9, 10))), p, "pool=1,2 pad=0"),
    "pads of two sizes": Case(
        pickled(p := forked((8, 1, 5, 5), (8, 8, 3, 3), (8, 8, 3, 3), (392, 10))), p, "pad=2,1,1", Hints(pool=[1, 3])
    ),
    "filters of one pixel": Case(pickled(p := forked((4, 1, 1, 1), (784, 10))), p, "pool=1 pad=0"),
    "images of another size": Case(
        pickled(p := forked((3, 1, 5, 5), (75, 9), (9, 8), (8, 7))), p, hints=Hints(pool=[1])
    ),
    # batch normalisation
    "without statistics": Case(pickled(BATCHNORM), BATCHNORM, "running_mean1, running_var1 are not there"),
    # dtypes
    "mixed": Case(
        pickled({**SIMPLE, "b1": SIMPLE["b1"].astype("f4")}), cast_params(SIMPLE, torch.float32), dtype=torch.float32
    ),
    "whole numbers": Case(
        pickled(p := {k: np.rint(9 * v).astype(int) for k, v in SIMPLE.items()}),
        {k: v.astype("f8") for k, v in p.items()},
        dtype=torch.float64,
    ),
    "bfloat16": Case(
        saved({k: v.bfloat16() for k, v in STATE.items()}),
        {k: torch.tensor(v).bfloat16().float().numpy() for k, v in SIMPLE.items()},
        "widened from bfloat16",
    ),
    "a module without bias": Case(
        saved({k: v for k, v in STATE.items() if k != "affine1.bias"}),
        {**SIMPLE, "b2": np.zeros(11)},
        "affine1.weight: it has no bias, so 0 is used",
    ),
    # axes of length 1
    "biases as rows": Case(pickled({k: v[None] if k[0] == "b" else v for k, v in SIMPLE.items()}), SIMPLE, "(1, 10)"),
    "biases as columns": Case(pickled({k: v[:, None] if k[0] == "b" else v for k, v in SIMPLE.items()}), SIMPLE),
    "a 1x1 convolution at the end": Case(
        saved({**STATE, "affine2.weight": STATE["affine2.weight"][..., None, None]}), SIMPLE
    ),
    # layouts
    "im2col's matrix": Case(pickled({**SIMPLE, "W1": SIMPLE["W1"].reshape(3, 25)}), SIMPLE, "the matrix of im2col"),
    "im2col's, transposed": Case(pickled({**SIMPLE, "W1": SIMPLE["W1"].reshape(3, 25).T.copy()}), SIMPLE),
    "two of im2col's": Case(
        pickled(
            {
                **(p := forked((3, 1, 5, 5), (4, 3, 5, 5), (64, 9), (9, 10))),
                "W1": p["W1"].reshape(3, 25),
                "W2": p["W2"].reshape(4, 75),
            }
        ),
        p,
    ),
    "im2col's, square": Case(
        pickled({**(p := forked((25, 1, 5, 5), (3600, 9), (9, 10))), "W1": p["W1"].reshape(25, 25)}),
        p,
        hints=Hints(affine="out-in"),
    ),
    "transposed": Case(pickled(turned(SIMPLE, "W2", "W3")), SIMPLE, "W2, W3: transposed"),
    "one transposed": Case(pickled(turned(SIMPLE, "W3")), SIMPLE, "W3: transposed"),
    "a square one transposed": Case(pickled(turned(SQUARE, "W2", "W3")), SQUARE, "W2, W3", Hints(affine="out-in")),
    "a square state_dict": Case(saved(keyed(SQUARE, "a", "b", "c")), SQUARE),
    "Keras": Case(pickled(keras(keras_rows(SIMPLE))), SIMPLE, "as Keras has it", Hints(flatten="hwc")),
    "Keras' get_weights": Case(
        pickled(list(hwio(keras_rows(SIMPLE)).values())), SIMPLE, "from the order H, W, C", Hints(flatten="hwc")
    ),
    "rows of channels last": Case(pickled(keras_rows(SIMPLE)), SIMPLE, "W2: rows from", Hints(flatten="hwc")),
    "Keras, as many filters as rows": Case(
        pickled(list(hwio(p := forked((5, 1, 5, 5), (720, 9), (9, 10))).values())), p, hints=Hints(flatten="chw")
    ),
    "Keras, one kernel as the others": Case(
        pickled(list(hwio(p := forked((3, 3, 3, 3), (8, 3, 3, 3), (200, 9), (9, 10))).values())),
        p,
        "(3, 3, 3, 3): H, W",
        Hints(flatten="chw", pool=[1, 2]),
    ),
    "Keras, by the kernel's name": Case(
        pickled(keras(p := forked((3, 3, 3, 3), (675, 9), (9, 10)))), p, hints=Hints(flatten="chw")
    ),
    "kernels that are told": Case(
        pickled(hwio(p := forked((5, 5, 5, 5), (720, 9), (9, 10)))), p, hints=Hints(kernels="hwio", flatten="chw")
    ),
}


@pytest.mark.parametrize("case", PEOPLE)
def test_what_people_have_is_read(case: str, tmp_path: Path) -> None:
    write, expected, says, hints, dtype = PEOPLE[case]
    weights = read_weights(write(tmp_path), hints, dtype=dtype)
    assert list(weights.params) == list(expected)
    for name, value in expected.items():
        assert weights.params[name].dtype == value.dtype
        np.testing.assert_array_equal(weights.params[name], value)
    assert says in "\n".join([*weights.source.steps, str(weights.architecture)])


def test_what_the_book_writes_needs_no_step(tmp_path: Path) -> None:
    assert read_weights(pickled(SIMPLE)(tmp_path)).source.steps == ()
    assert read_weights(saved(STATE)(tmp_path)).source.steps == ()


@pytest.mark.parametrize("keys", [BATCHNORM, None])
def test_running_statistics_come_along(keys: Params | None, tmp_path: Path) -> None:
    weights = Weights.of({**BATCHNORM, **STATISTICS})
    state_dict = {**weights.state_dict(), "batchnorm1.num_batches_tracked": torch.tensor(3)}
    write = saved(state_dict) if keys is None else pickled({**keys, **STATISTICS})
    statistics = read_weights(write(tmp_path)).reference().statistics
    for name, value in STATISTICS.items():
        np.testing.assert_array_equal(statistics[name], value)


COPIES = {"best": STATE, "last": {k: 2 * v for k, v in STATE.items()}}


class Unclear(NamedTuple):
    """A file that is refused: how to write it, the words of the refusal, and the hints."""

    write: Callable[[Path], Path]
    says: str
    hints: Hints = Hints()
    error: type[Exception] = ValueError


UNCLEAR: dict[str, Unclear] = {
    "two networks": Unclear(saved(COPIES), r"in best and last: say which with part \(--part\)"),
    "a part that is none": Unclear(saved(COPIES), "part must be one of best, last, got 'ema'", Hints(part="ema")),
    "two prefixes": Unclear(
        saved({**before("model.", STATE), **before("ema.", STATE)}), r"in model and ema: say which with part \(--part\)"
    ),
    "a network beside another": Unclear(
        saved({"G": {"up.weight": torch.ones(3, 4, 5, 5), "up2.weight": torch.ones(9, 4, 5, 5)}, "D": STATE}),
        r"the part 'D' is a network by itself, but G\.up\.weight is beside it: give part 'D' .*\(--part\)",
    ),
    "a prefix that may not be all": Unclear(
        saved({**before("net.", STATE), "criterion.weight": torch.ones(10)}),
        "'net' is a network by itself, but criterion.weight is beside it",
    ),
    "layers beside": Unclear(
        pickled({"body": parts(SIMPLE), "norm": {"scale": np.ones(11), "bias": np.ones(11)}}),
        "'body' is a network by itself, but norm.scale is beside it",
    ),
    "a head, where the whole lacks an option": Unclear(
        pickled(
            {
                "body": parts({k: v.astype("f4") for k, v in SIMPLE.items() if "1" in k}),
                "head": parts({k: v for k, v in SIMPLE.items() if "1" not in k}),
            }
        ),
        r"W1 float32, b1 float32, W2 float64, .*\(--dtype float32\)",
        error=TypeError,
    ),
    "a bias without a weight": Unclear(
        pickled({name: value for name, value in SQUARES.items() if name != "W2"}),
        r"b2 is a bias without a weight: W1 \(6, 6\)",
    ),
    "equal layers, sorted as text": Unclear(
        npz(dict(sorted(arrays(keyed(SQUARES, "input", "hidden", "output")).items()))),
        r"may be hidden, input, output or hidden, output, input: say which with order",
    ),
    "im2col's, square": Unclear(
        pickled({**forked((25, 1, 5, 5), (3600, 9), (9, 10)), "W1": np.ones((25, 25))}),
        r"W1 \(25, 25\) is a convolution's matrix of im2col, and square: .*\(--affine\)",
    ),
    "one file of several": Unclear(saved(keyed(forked((3, 1, 5, 5)), "conv1")), "but W2 is missing"),
    "keys of bytes": Unclear(
        pickled({k.encode(): v for k, v in SIMPLE.items()}),
        "several arrays stand under a bytes: save them again under texts",
    ),
    "batch normalisation of maps": Unclear(
        saved(
            {**keyed(forked((3, 1, 5, 5), (432, 10)), "c", "fc"), "bn.weight": torch.ones(3), "bn.bias": torch.ones(3)}
        ),
        "nearest is ConvNet with 1 convolution, but gamma1 is unexpected",
    ),
    "longdouble": Unclear(pickled({"W1": np.ones((2, 2), "longdouble")}), "longdouble, expected float64"),
    "a whole network": Unclear(saved(nn.Linear(2, 2)), r"torch\.save\(net\.state_dict\(\), path\)"),
    "numbers against the order": Unclear(
        saved(keyed(forked((6, 6), (6, 6)), "fc2", "fc1")),
        r"may be fc1, fc2 or fc2, fc1: say which with order \(--order\)",
    ),
    "an order of others": Unclear(saved(STATE), "order must name the layers conv1, affine1", Hints(order=["a"])),
    "a square one among transposed": Unclear(
        pickled(turned(SQUARE, "W2", "W3")),
        r"W3 \(10, 10\) is square: nothing tells whether it is transposed, as W2 is\. .*\(--affine\)",
    ),
    "rows of Keras": Unclear(pickled(keras(SIMPLE)), r"order H, W, C, or in C, H, W\. .*\(--flatten\)"),
    "rows without a convolution": Unclear(pickled(forked((6, 6))), "leave it out", Hints(flatten="hwc")),
    "pooling": Unclear(
        pickled(forked((3, 1, 5, 5), (75, 9), (9, 8), (8, 7))),
        r"9 with pool=none pad=0; .*; 14 with pool=1 pad=0; .* \(--pool\)",
    ),
    "mixed dtypes": Unclear(
        pickled({**SIMPLE, "b1": SIMPLE["b1"].astype("f4")}),
        r"W1 float64, b1 float32, .*\(--dtype float32\)",
        error=TypeError,
    ),
    "whole numbers": Unclear(
        pickled({**SIMPLE, "b1": np.ones(3, int)}), r"b1 has dtype int64.*--dtype", error=TypeError
    ),
    "truths": Unclear(
        pickled({**SIMPLE, "b1": np.ones(3, bool)}), "b1 has dtype bool, expected float16", error=TypeError
    ),
    "one more": Unclear(pickled({**SIMPLE, "velocity": SIMPLE["W3"]}), "but velocity is unexpected"),
    "one less": Unclear(pickled(SIMPLE | {"b3": None}), "nearest is SimpleConvNet, but b3 is missing"),
    "weights alone": Unclear(pickled([SIMPLE["W2"], SIMPLE["W3"]]), "2 weights have 0 biases"),
    "no arrays": Unclear(pickled({"epoch": 3}), "holds a dict of epoch \\(a number\\), expected"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_unclear_is_refused_with_its_readings(case: str, tmp_path: Path) -> None:
    write, says, hints, error = UNCLEAR[case]
    path = write(tmp_path)
    with pytest.raises(error, match=says) as failure:
        read_weights(path, hints)
    assert str(failure.value).startswith(f"{path}: ")
    assert "\n" not in str(failure.value)


def test_a_fork_predicts_as_its_layers_do(tmp_path: Path) -> None:
    weights = read_weights(pickled(TWO_CONVS)(tmp_path))
    net, x = weights.port().eval(), np.random.default_rng(0).standard_normal((3, 1, 28, 28))
    by_hand = torch.tensor(x)
    for number in (1, 2):
        weight, bias = (torch.tensor(TWO_CONVS[f"{kind}{number}"]) for kind in "Wb")
        by_hand = nn.functional.max_pool2d(nn.functional.conv2d(by_hand, weight, bias, padding=1).relu(), 2)
    by_hand = (by_hand.flatten(1) @ torch.tensor(TWO_CONVS["W3"]) + torch.tensor(TWO_CONVS["b3"])).relu()
    expected = by_hand @ torch.tensor(TWO_CONVS["W4"]) + torch.tensor(TWO_CONVS["b4"])
    torch.testing.assert_close(net(torch.tensor(x)), expected)
    np.testing.assert_allclose(weights.reference().predict(x), expected, rtol=1e-9)
