"""The scripts as a user runs them: what they print, what they write, and how they refuse bad input."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.files import idx

from numpy_ref import LeNet5, SimpleConvNet, TwoLayerNet, read_params, write_params
from numpy_ref.checks import Array
from torchport import UnfoldConv2d, to_params
from torchport.commands import cli
from torchport.data import mnist
from torchport.evaluation import Evaluation
from torchport.parity import ALL, Report
from torchport.parity.cases import check_ports, seeded_batch, seeded_params

SCRIPTS = Path(__file__).parents[2] / "scripts"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a script in this process, which saves the seconds of importing torch."""

    def run(script: str, *arguments: str | Path) -> Done:
        path = str(SCRIPTS / f"{script}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(path, run_name="__main__")
        assert isinstance(exit_.value.code, int)
        return Done(exit_.value.code, *capfd.readouterr())

    return run


def run_alone(script: str, *arguments: str | Path) -> Done:
    """Run a script in a process of its own, as a user does."""
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def small_params() -> dict[str, Array]:
    conv_param = {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}
    return seeded_params(0, SimpleConvNet((1, 8, 8), conv_param, 6, 4).params)


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    write_params(small_params(), tmp_path / "params.pkl")
    return tmp_path / "params.pkl"


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_help_says_how_to_run_it(script: str, run: Run) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"python scripts/{script}.py" in done.stdout


def few_filters(path: Path) -> Path:
    """Write weights for images of MNIST's size, judged in a tenth of the time of the book's; return path."""
    conv_param = {"filter_num": 2, "filter_size": 5, "pad": 0, "stride": 1}
    write_params(seeded_params(0, SimpleConvNet((1, 28, 28), conv_param, 5).params), path)
    return path


def test_report_of_both_ports_in_both_dtypes(small_mnist: Path, tmp_path: Path, run: Run) -> None:
    options = ("--params", few_filters(small_mnist), "--batch-size", "4")
    done = run("parity_report", *options, "--out", tmp_path / "new" / "folder")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "PARITY"
    assert sum(line.startswith("parity: ") for line in lines) == 4
    folder = tmp_path / "new" / "folder"
    assert [f"wrote {folder / name}" in lines for name in ("report.json", "report.html")] == [True, True]
    report = json.loads((folder / "report.json").read_text())
    assert report["ok"] is True
    assert report["command"] == f"python scripts/parity_report.py --params {small_mnist} --batch-size 4 --out {folder}"
    assert report["command"] in (folder / "report.html").read_text(encoding="utf-8")
    assert [(r["port"], r["dtype"]) for r in report["reports"]] == [
        *(("conv2d", "float64"), ("unfold", "float64"), ("conv2d", "float32"), ("unfold", "float32"))
    ]
    shown = [line for line in lines if line.startswith("ok ")]
    near = [row for r in report["reports"] for row in r["rows"] if row["ratio"] > 0.5]
    assert 0 < len(shown) == len(near) < sum(len(r["rows"]) for r in report["reports"]) / 10


def test_report_says_no_parity_with_status_1(small_mnist: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few_filters(small_mnist)
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: right(self, input.transpose(2, 3)))
    done = run("parity_report", "--params", small_mnist, "--dtype", "float64", "--batch-size", "3")
    assert (done.returncode, done.stderr) == (1, "")
    conv2d, unfold, last = done.stdout.splitlines()[-3:]
    assert conv2d.startswith("parity: conv2d in float64 on cpu: 6 layers")
    assert unfold.startswith("NO PARITY: unfold in float64 on cpu: conv1 ")
    assert unfold.endswith(": the input is in the order N, C, W, H, not N, C, H, W")
    assert last == "NO PARITY"


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each call of check_ports, by name."""
    calls = []

    def record(*args: Any, **options: Any) -> list[Report]:
        calls.append(inspect.signature(check_ports).bind(*args, **options).arguments)
        return check_ports(*args, **options)

    monkeypatch.setattr("torchport.parity.cases.check_ports", record)
    return calls


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_report_on_another_network_from_another_seed_shows_its_progress_on_a_terminal(
    run: Run, compared: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    options = ("--network", "LeNet5", "--batch-size", "2", "--dtype", "float64", "--seed", "1", "--rows")
    done = run("parity_report", *options)
    assert done.returncode == 0
    bars = [line for line in terminal.getvalue().split("\r") if line.strip()]
    assert {bar.split(":")[0] for bar in bars} == {"conv2d", "unfold"}
    assert all(f" 0/{len(ALL)} " in next(bar for bar in bars if bar.startswith(name)) for name in ("conv2d", "unfold"))
    assert "%|" not in done.stdout
    assert re.search(r"^ok +training +subsample2 +grad_weight +0", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\nPARITY\n")
    (arguments,) = compared
    for name, value in seeded_params(1, LeNet5().params).items():
        np.testing.assert_array_equal(arguments["weights"].params[name], value)
    for actual, expected in zip((arguments["x"], arguments["t"]), seeded_batch(1, 2), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert arguments["seed"] == 1


def test_report_compares_the_first_images_and_fails_for_one_prediction_of_all(
    small_mnist: Path, run: Run, compared: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(seeded_params(0, TwoLayerNet(784, 5, 10).params), small_mnist)
    monkeypatch.setattr(
        "torchport.evaluation.evaluate_ports",
        lambda params, images, labels, **_: Evaluation(len(images), {"numpy": 0.5}, len(labels) - 1, None),
    )
    done = run("parity_report", "--params", small_mnist, "--batch-size", "4", "--dtype", "float64")
    assert (done.returncode, done.stderr) == (1, "")
    assert "22 of 23 predictions equal in all 1" in done.stdout
    assert sum(line.startswith("parity: ") for line in done.stdout.splitlines()) == 2
    assert done.stdout.endswith("\nNO PARITY\n")
    (arguments,) = compared
    images, labels = mnist(train=False)
    np.testing.assert_array_equal(arguments["x"], images[:4] / 255)
    np.testing.assert_array_equal(arguments["t"], labels[:4])


def test_report_on_the_books_weights(book_params: Path, data_dir: Path) -> None:
    # One image, as training/test_mnist.py judges more: its memory stays under that of predicting 10,000.
    arguments = "--dtype", "float64", "--batch-size", "1"
    done = run_alone("parity_report", "--params", book_params, "--data-dir", data_dir, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("numpy", "conv2d", "unfold"):
        assert f"{name}: accuracy 0.9600 on 10000 test images" in done.stdout
    assert "10000 of 10000 predictions equal in all 3" in done.stdout
    memory = re.search(r"peak memory of the process: (\d+) MiB", done.stdout)
    assert memory is not None
    assert int(memory[1]) * 2**20 < 1e9


def test_a_reader_who_has_seen_enough_is_no_error(params_file: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "port_params.py"), str(params_file), "--inspect"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_gradient_check_names_a_wrong_gradient_with_status_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_docs.py tests the case in which all gradients are right."""
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: right(self, input.transpose(2, 3)))
    done = run("gradient_check", "--seed", "1", "--batch-size", "2")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.match(r"WRONG: \d of 18 gradients fail, first unfold W1: \[[\d, ]+\] is ", done.stdout.splitlines()[-1])
    rows = re.findall(r"^([Wb]\d) +(\d+) +\S+ .* (ok|FAIL)$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in rows] == 3 * ["W1", "b1", "W2", "b2", "W3", "b3"]
    assert sum(int(entries) for _, entries, _ in rows) == 5460
    assert {verdict for *_, verdict in rows[:12]} == {"ok"}  # of the reference and of conv2d


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_port_params_writes_what_it_read(dtype: str, params_file: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "model.pt"
    done = run("port_params", params_file, output, "--dtype", dtype)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("parity: ") == 2
    assert f"wrote {output}" in done.stdout
    assert re.search(r"^read .*: [\d,]+ values, float64$", done.stdout, re.MULTILINE)
    lost = {"float64": "0 values changed", "float32": r"\d+ values changed, by up to \d\.\de-0[89] of themselves"}
    assert re.search(rf"^as {dtype}: {lost[dtype]}$", done.stdout, re.MULTILINE)
    state_dict = torch.load(output, weights_only=True)
    for name, value in to_params(state_dict).items():
        np.testing.assert_array_equal(value, small_params()[name].astype(dtype), strict=True)


def test_port_params_finds_the_stride(tmp_path: Path, run: Run) -> None:
    conv_param = {"filter_num": 3, "filter_size": 3, "pad": 1, "stride": 2}
    write_params(SimpleConvNet((1, 11, 11), conv_param, 6, 4).params, tmp_path / "params.pkl")
    done = run("port_params", tmp_path / "params.pkl", tmp_path / "model.pt", "--stride", "2", "--pad", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "input_dim=(1, 11, 11)" in done.stdout


@pytest.mark.parametrize("suffix", [".npz", ".pkl", ".safetensors"])
def test_port_params_prints_what_to_type_next(suffix: str, params_file: Path, tmp_path: Path, run: Run) -> None:
    done = run("port_params", params_file, tmp_path / f"new{suffix}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "other values would imply another image size" in done.stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(done.stdout.partition("predict:\n\n")[2], {})
    assert re.fullmatch(r"(tensor\()?\[[0-3]\]\)?\n", printed.getvalue())


def test_port_params_says_no_parity_with_status_1(
    params_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target := tmp_path / "model.pt").write_bytes(b"old")
    right = UnfoldConv2d.forward
    monkeypatch.setattr(UnfoldConv2d, "forward", lambda self, input: right(self, input.transpose(2, 3)))
    done = run("port_params", params_file, target, "--force")
    assert (done.returncode, done.stderr) == (1, "not written: the networks do not agree\n")
    assert "NO PARITY: unfold in float64 on cpu" in done.stdout
    assert target.read_bytes() == b"old"


def test_inspecting_names_the_arrays_and_the_network(params_file: Path, run: Run) -> None:
    done = run("port_params", "--inspect", params_file)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:7]] == ["array", "W1", "b1", "W2", "b2", "W3", "b3"]
    assert lines[7].startswith("SimpleConvNet(input_dim=(1, 8, 8)")
    assert list(params_file.parent.iterdir()) == [params_file]


@pytest.mark.parametrize(
    ("value", "says"),
    [(np.ones((6, 6)), "nearest is SimpleConvNet, but W4 is unexpected"), (np.full(2, np.nan), "W4 is unexpected")],
)
def test_inspecting_shows_what_no_network_has(value: Array, says: str, params_file: Path, run: Run) -> None:
    write_params({**small_params(), "W4": value}, params_file)
    done = run("port_params", "--inspect", params_file)
    assert_refused(done, says)
    assert [line.split()[0] for line in done.stdout.splitlines()][-1] == "W4"


@pytest.mark.parametrize(("script", "option"), [("evaluate", ()), ("parity_report", ("--params",))])
def test_any_of_the_books_networks_is_evaluated(
    script: str, option: tuple[str, ...], small_mnist: Path, tmp_path: Path, run: Run
) -> None:
    write_params(seeded_params(0, TwoLayerNet(784, 5, 10).params), small_mnist)
    assert run("port_params", small_mnist, tmp_path / "two.npz", "--activation", "sigmoid").returncode == 0
    runs = [run(script, *option, tmp_path / "two.npz", "--activation", name) for name in ("relu", "sigmoid")]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 2
    assert runs[0].stdout != runs[1].stdout
    assert_refused(run(script, *option, tmp_path / "two.npz", "--pad", "1"), "cannot be TwoLayerNet's")


def write_mnist(folder: Path, side: int = 28) -> None:
    """Write 23 training and 23 test images to folder, in the files that torchvision uses for MNIST."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for part in ("train", "t10k"):
        images, labels = rng.randint(0, 256, (23, side, side)), np.arange(23) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("TORCHPORT_DATA", str(tmp_path / "data"))
    write_params(seeded_params(0), tmp_path / "mnist.pkl")
    return tmp_path / "mnist.pkl"


def test_evaluate_is_the_same_with_every_network(small_mnist: Path, run: Run) -> None:
    for_all = [
        run("evaluate", small_mnist, "--model", model, "--batch-size", "7") for model in ("conv2d", "unfold", "numpy")
    ]
    assert {(done.returncode, done.stderr) for done in for_all} == {(0, "")}
    assert len({done.stdout.partition("peak memory")[0] for done in for_all}) == 1
    lines = for_all[0].stdout.splitlines()
    assert lines[0] == f"{small_mnist}, SimpleConvNet, on mnist test images prepared as unit"
    assert re.fullmatch(r"accuracy 0\.\d{4}: \d+ of 23 test images right", lines[1])
    assert sum(int(line.split()[2]) for line in lines[4:14]) == 23
    assert lines[15].startswith("most often: ")
    assert lines[-2].startswith("peak memory of the process: ")
    assert lines[-1] == "--out DIR draws the confusion matrix and the mistakes"


def test_evaluate_prints_for_a_program_or_the_accuracy_alone(small_mnist: Path, run: Run) -> None:
    done, quiet = (run("evaluate", small_mnist, option) for option in ("--json", "--quiet"))
    results = json.loads(done.stdout)
    assert (results["samples"], results["data"], results["images"]) == (23, "mnist", "unit")
    right = round(23 * results["accuracy"])
    assert quiet.stdout == f"accuracy {results['accuracy']:.4f}: {right} of 23 test images right\n"
    assert {(process.returncode, process.stderr) for process in (done, quiet)} == {(0, "")}


def test_evaluate_writes_pictures_and_json(small_mnist: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "new" / "folder"
    done = run("evaluate", small_mnist, "--dtype", "float32", "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    names = ("confusion.png", "mistakes.png", "evaluation.json")
    assert [line for line in done.stdout.splitlines() if "wrote" in line] == [f"wrote {folder / n}" for n in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in names[:2])
    results = json.loads((folder / "evaluation.json").read_text())
    assert (results["weights"], results["dtype"], results["samples"]) == (str(small_mnist), "float32", 23)
    assert f"accuracy {results['accuracy']:.4f}: " in done.stdout
    assert sum(map(sum, results["confusion"])) == 23
    assert len(results["mistakes"]) == 23 - sum(results["confusion"][i][i] for i in range(10))


def test_evaluate_refuses_a_file_for_its_folder(small_mnist: Path, run: Run) -> None:
    before = small_mnist.read_bytes()
    assert_refused(run("evaluate", small_mnist, "--out", small_mnist), str(small_mnist))
    assert small_mnist.read_bytes() == before


Spoil = Callable[[dict[str, Array]], dict[str, Array]]

BAD_PARAMS: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda p: {k: v for k, v in p.items() if k != "b1"}, "b1 is missing"),
    "cut": (lambda p: {**p, "W3": p["W3"][1:]}, "W3 (5, 4)"),
    "too large": (lambda p: {**p, "b3": p["b3"] + 1e300}, "b3 holds 1e+300"),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_unfit_weights_are_one_line_and_nothing_is_written(case: str, tmp_path: Path, run: Run) -> None:
    spoil, says = BAD_PARAMS[case]
    write_params(spoil(small_params()), tmp_path / "params.pkl")
    output = tmp_path / "model.pt"
    output.write_bytes(b"old")
    assert_refused(run("port_params", tmp_path / "params.pkl", output, "--dtype", "float32", "--force"), says)
    assert output.read_bytes() == b"old"


def test_a_user_sees_one_line_and_status_2() -> None:
    assert_refused(run_alone("train", "--epochs", "0"), "at least 1, got '0'")


def assert_refused(done: Done, says: str) -> None:
    """Check for exit status 2 and one line on standard error that contains says."""
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["parity_report", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["parity_report", "--dtype", "tf32"], "mode tf32 needs a CUDA device, got cpu"),
        (["parity_report", "--device", "tpu"], "'tpu' cannot be used here"),
        (["parity_report", "--batch-size", "0"], "at least 1, got '0'"),
        (["parity_report", "--seed", "-1"], "at least 0, got '-1'"),
        (["parity_report", "--seed", "x"], "got 'x'"),
        (["parity_report", "--params", "missing.pkl"], "missing.pkl"),
        (["parity_report", "--out", __file__], "test_scripts.py"),
        (["gradient_check", "--device", "tpu"], "'tpu' cannot be used here"),
        (["gradient_check", "--batch-size", "0"], "at least 1, got '0'"),
        (["gradient_check", "--seed", "4294967296"], "at most 4294967295, got '4294967296'"),
        (["port_params", "missing.pkl", "model.pt"], "missing.pkl: No such file or directory"),
        (["port_params", __file__, "model.pt"], "not a pickle"),
        (["parity_report", "--width", "0.5"], "--width is AlexNet's: leave it out"),
        (["parity_report", "--network", "AlexNet", "--width", "0"], "width must be above 0, got 0"),
        (["parity_report", "--network", "LeNet5", "--params", "PARAMS"], "leave out one of --network and --params"),
        (["port_params", "PARAMS", "PARAMS"], "another file than the input"),
        (["port_params", "PARAMS", "PARAMS/model.pt"], "params.pkl"),
        (["port_params", "PARAMS", "/dev/null/model.pt"], "/dev/null"),
        (["port_params", "PARAMS", "model.pt", "--stride", "0"], "at least 1, got '0'"),
        (["port_params", "PARAMS", "model.pt", "--pad", "9"], "pad 9"),
        (["port_params", "PARAMS"], "required: target"),
        (
            ["port_params", "PARAMS", "model.h5"],
            "must end in one of .pkl, .npz, .pt, .pth, .safetensors, .onnx, got .h5",
        ),
        (["port_params", "PARAMS", "model.pt", "--inspect"], "--inspect writes nothing"),
        (["port_params", "PARAMS", "model.pt", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["evaluate"], "required: weights"),
        (["evaluate", "missing.pkl"], "missing.pkl"),
        (["evaluate", __file__], "not a pickle"),
        (["evaluate", str(SCRIPTS)], "is not a run's folder"),
        (["parity_report", "PARAMS"], "these weights are for images (1, 8, 8), got (1, 28, 28)"),
        (["evaluate", "PARAMS"], "these weights are for images (1, 8, 8), got (1, 28, 28)"),
        (["evaluate", "PARAMS", "--stride", "2"], "for images (1, 13, 13), got (1, 28, 28): give the stride and pad"),
        (["evaluate", "PARAMS", "--model", "numpy"], "these weights are for images (1, 8, 8), got (1, 28, 28)"),
        (["evaluate", "PARAMS", "--model", "numpy", "--device", "cuda"], "cuda"),  # not here, or not by NumPy
        (["evaluate", "PARAMS", "--data", "cifar"], "invalid choice: 'cifar'"),
        (["evaluate", "PARAMS", "--data-dir", __file__], "test_scripts.py and could not be downloaded"),
        (["evaluate", "PARAMS", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["evaluate", "PARAMS", "--batch-size", "0"], "at least 1, got '0'"),
    ],
    ids=lambda value: " ".join(value).replace(__file__, "FILE") if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line(
    arguments: list[str], says: str, params_file: Path, small_mnist: Path, run: Run
) -> None:
    script, *rest = (argument.replace("PARAMS", str(params_file)) for argument in arguments)
    assert_refused(run(script, *rest), says)
    assert read_params(params_file).keys() == small_params().keys()


def allocated(how: str) -> int:
    if how == "torch":
        torch.empty(2**60)
    errors = {
        "numpy": MemoryError("Unable to allocate 7 EiB"),
        "python": MemoryError(),
        "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    }
    raise errors[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [("torch", "can't allocate"), ("numpy", "7 EiB"), ("python", "(MemoryError)"), ("cuda", "CUDA out of memory")],
)
def test_too_little_memory_is_one_line(how: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(partial(allocated, how)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not enough memory for these sizes (")
    assert says in line


def test_an_error_of_ours_shows_where_it_is() -> None:
    def broken() -> int:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        cli.run(broken)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named(run: Run) -> None:
    assert_refused(run("parity_report", "--device", "cuda"), "'cuda' cannot be used here")
