"""parity_report.py --port with the user's own module: right ports, wrong ones, and ones that cannot be used."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.test_scripts import Run, assert_refused, run as run, small_mnist as small_mnist, small_params
from numpy_ref import TwoLayerNet, write_params
from torchport.parity.cases import seeded_params

# A user's file, for the weights of small_params: a right port, and classes that differ a little from it.
MINE = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

SIX = 6


class Net(nn.Module):
    def __init__(self, hidden=SIX):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.hidden, self.out = nn.Linear(27, hidden), nn.Linear(hidden, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))  # right


class Wrong(Net):
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.out(F.gelu(self.hidden(x.flatten(1))))  # not relu


class Logs(Net):
    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.hidden = nn.LazyLinear(SIX)


class Wider(Net):
    def __init__(self):
        super().__init__(hidden=7)


class Sized(Net):
    def __init__(self, hidden):
        super().__init__(hidden)


class Broken(Net):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(self.size, 4)  # has no size


class Spare(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 10))

    def forward(self, x):
        return self.layers(x)


class Pair(Dense):
    def forward(self, x):
        return super().forward(x), x


class Wanting(Lazy):
    def forward(self, x):
        return super().forward(x[None])  # of five axes


def build():
    return Net()


def halved():
    return Net().half()


def listed():
    return [Net()]


built = Net().double()
"""


# A port that copies the weights itself; that of its square layer must be transposed.
COPIES = """
import torch
from torch import nn

from numpy_ref import read_params


def build():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    params = {key: torch.tensor(value) for key, value in read_params("square.pkl").items()}
    layers = {"0.weight": params["W1"].T, "0.bias": params["b1"], "2.weight": params["W2"].T, "2.bias": params["b2"]}
    net.load_state_dict(layers)
    return net
"""


def line_of(comment: str) -> str:
    """The file and line of mine.py that end with this comment."""
    number = next(n for n, line in enumerate(MINE.split("\n"), 1) if line.endswith(f"# {comment}"))
    return f"mine.py:{number}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's working folder with weights, files and a package, and without TORCHPORT_DATA."""
    files = {"mine.py": MINE, "pack/__init__.py": "", "pack/inside.py": MINE}
    files |= {"typo.py": "def build(:\n", "leaves.py": "import sys\n\nsys.exit('usage')\n"}
    (tmp_path / "pack").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    write_params(small_params(), tmp_path / "params.pkl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHPORT_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in {"mine", "typo", "leaves", "copies", "pack", "pack.inside"} & (set(sys.modules) - before):
        del sys.modules[name]


RIGHT = ["mine.py:Net", "mine.py:build", "mine.py:built", "pack.inside:Net", "pack/inside.py:build", "mine.py:Lazy"]


@pytest.mark.parametrize("spec", RIGHT)
def test_a_right_port_has_parity(spec: str, folder: Path, run: Run) -> None:
    done = run("parity_report", "--port", spec, "--params", "params.pkl", "--batch-size", "5")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    names = ("conv.weight", "conv.bias", "hidden.weight", "hidden.bias", "out.weight", "out.bias")
    pairs = zip(("W1", "b1", "W2", "b2", "W3", "b3"), names, strict=True)
    assert lines[0] == f"loaded {', '.join(f'{theirs}: {ours}' for theirs, ours in pairs)}"
    dtype = "float64" if spec.endswith("built") else "float32"  # as it is built
    assert lines[-2].startswith(f"parity: {Path(spec).name} in {dtype} on cpu: 6 layers, loss and prediction")
    assert lines[-1] == "PARITY"


def test_a_wrong_port_is_told_where_it_is_wrong(folder: Path, run: Run) -> None:
    done = run("parity_report", "--port", "mine.py:Wrong", "--params", "params.pkl", "--out", "page")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[2] == "NO PARITY: mine.py:Wrong in float32 on cpu"
    assert any(line.startswith(f"relu2 output at {line_of('not relu')}, in training") for line in lines)
    assert lines[-2].startswith("NO PARITY: mine.py:Wrong in float32 on cpu: relu2 output [")
    assert lines[-1] == "NO PARITY"
    record = json.loads((folder / "page" / "report.json").read_text())
    assert record["ok"] is False
    assert record["about"]["weights"].startswith("params.pkl (sha256 ")
    assert record["about"] == {**record["about"], "data": "normal, seed 0", "batch": "32 x 1 x 8 x 8"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("transposed", [True, False])
def test_weights_that_a_port_copies_itself_are_judged(transposed: bool, dtype: str, folder: Path, run: Run) -> None:
    write_params(seeded_params(0, TwoLayerNet(6, 6, 4).params), folder / "square.pkl")
    (folder / "copies.py").write_text(COPIES if transposed else COPIES.replace('["W1"].T', '["W1"]'))
    done = run("parity_report", "--port", "copies.py:build", "--params", "square.pkl", "--dtype", dtype)
    assert (done.returncode, done.stderr) == (0 if transposed else 1, "")
    kept = "kept 0.weight as built: copies.py:build copies the reference's weights itself"
    assert (done.stdout.splitlines()[1] == kept) is not transposed
    assert ("affine1 output" in done.stdout) is not transposed


def test_dtypes_are_those_that_are_asked_for(folder: Path, run: Run) -> None:
    options = ("--params", "params.pkl", "--batch-size", "3", "--seed", "2", "--rows", "--out", "page")
    done = run("parity_report", "--port", "mine.py:Spare", "--dtype", "both", *options)
    assert done.returncode == 0
    assert [f"parity: mine.py:Spare in {dtype} on cpu" in done.stdout for dtype in ("float64", "float32")] == [True] * 2
    assert done.stdout.count("loaded ") == 1
    assert "not used: spare.bias, not used: spare.weight" in done.stdout
    record = json.loads((folder / "page" / "report.json").read_text())
    assert [report["seed"] for report in record["reports"]] == [2, 2]
    rows = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "known "))]
    assert len(rows) == sum(len(report["rows"]) for report in record["reports"]) > 200


@pytest.mark.parametrize(
    ("loss", "status", "says"),
    [
        ("nll_loss", 0, "loss output: the book adds 1e-7 inside the log, this loss does not"),
        ("cross_entropy", 1, "NO PARITY"),
        ("book", 1, "NO PARITY"),
    ],
)
def test_a_port_is_judged_with_its_loss(loss: str, status: int, says: str, folder: Path, run: Run) -> None:
    done = run("parity_report", "--port", "mine.py:Logs", "--params", "params.pkl", "--loss", loss)
    assert (done.returncode, done.stderr) == (status, "")
    assert says in done.stdout


def test_without_weights_they_are_drawn(folder: Path, run: Run) -> None:
    sizes = (
        MINE.replace("Conv2d(1, 3, 3)", "Conv2d(1, 30, 5)").replace("27", "4320").replace("(hidden, 4)", "(hidden, 10)")
    )
    (folder / "book.py").write_text(sizes.replace("SIX = 6", "SIX = 100"))
    done = run("parity_report", "--port", "book.py:Net", "--batch-size", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("PARITY\n")


def test_on_mnist_it_predicts_as_the_reference_does(small_mnist: Path, folder: Path, run: Run) -> None:
    write_params(seeded_params(0, TwoLayerNet(784, 5, 10).params), folder / "dense.pkl")
    options = ("--params", "dense.pkl", "--data-dir", small_mnist.parent / "data", "--out", "page")
    done = run("parity_report", "--port", "mine.py:Dense", *options)
    assert (done.returncode, done.stderr) == (0, "")
    accuracy = [line.split(": accuracy ")[1] for line in done.stdout.splitlines() if ": accuracy " in line]
    assert len(accuracy) == 2
    assert len(set(accuracy)) == 1
    assert "23 of 23 predictions equal in both" in done.stdout
    record = json.loads((folder / "page" / "report.json").read_text())
    assert list(record["evaluation"]["accuracy"]) == ["numpy", "mine.py:Dense"]
    assert record["about"]["data"] == "the first 23 test images of MNIST, 0 to 1"
    assert record["about"]["batch"] == "23 x 784"


def test_what_returns_more_than_logits_is_judged_and_not_evaluated(small_mnist: Path, folder: Path, run: Run) -> None:
    write_params(seeded_params(0, TwoLayerNet(784, 5, 10).params), folder / "dense.pkl")
    done = run(
        "parity_report", "--port", "mine.py:Pair", "--params", "dense.pkl", "--data-dir", small_mnist.parent / "data"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "not evaluated on the test set: TypeError: a network must return a tensor to be evaluated, got a tuple" in (
        done.stdout
    )
    assert done.stdout.endswith("PARITY\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("mine.py", "--port must be FILE.py:NAME or package.module:NAME, got 'mine.py'"),
        ("mine.py:", "--port must be FILE.py:NAME or package.module:NAME, got 'mine.py:'"),
        ("absent.py:Net", "absent.py could not be imported: FileNotFoundError: "),
        ("pack.absent:Net", "pack.absent could not be imported: ModuleNotFoundError: No module named 'pack.absent'"),
        ("typo.py:build", "typo.py could not be imported: SyntaxError: invalid syntax (typo.py, line 1)"),
        ("leaves.py:build", "leaves.py could not be imported: SystemExit: usage, at leaves.py:3"),
        ("mine.py:Absent", "mine.py has no Absent; it has Net, Wrong, Logs, Lazy, "),
        ("mine.py:SIX", "mine.py:SIX could not be built without arguments: TypeError: 'int' object is not callable"),
        ("mine.py:listed", "mine.py:listed must make a torch.nn.Module, got a list"),
        ("mine.py:Sized", "without arguments: TypeError: Sized.__init__() missing 1 required positional argument"),
        ("mine.py:Broken", f"AttributeError: 'Broken' object has no attribute 'size', at {line_of('has no size')}"),
        ("mine.py:Wanting", "mine.py:Wanting could not be run: "),
        (
            "mine.py:Wider",
            f"hidden.weight (7, 27) (linear at {line_of('right')}) cannot hold the reference's W2 (27, 6)",
        ),
        ("mine.py:halved", "got torch.float16: give port.float(), with mode='bfloat16'"),
        ("mine.py:Net --params absent.pkl", "absent.pkl"),
        ("mine.py:Net --network LeNet5", "leave out one of --network and --params"),
        ("mine.py:Net --stride 2 --data-dir DATA", "images (1, 13, 13), got (1, 28, 28): give the stride"),
    ],
    ids=lambda text: text if "mine.py:Net" in text or " " not in text else "",
)
def test_an_unfit_port_is_one_line(arguments: str, says: str, folder: Path, small_mnist: Path, run: Run) -> None:
    arguments = arguments.replace("DATA", str(small_mnist.parent / "data"))
    assert_refused(run("parity_report", "--params", "params.pkl", "--port", *arguments.split()), says)


def test_a_loss_is_a_ports_of_ones_own(run: Run) -> None:
    assert_refused(run("parity_report", "--loss", "nll_loss"), "--loss is your own port's")


def test_help_says_that_a_file_is_run(run: Run) -> None:
    assert "This runs your file, so only give files that you trust." in (run("parity_report", "--help").stdout)
