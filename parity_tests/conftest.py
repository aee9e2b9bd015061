"""Options and fixtures for all tests: devices, dtypes, real data if there is any, and dealing files to cores."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing.forkserver
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# The arrays are small: several threads would wait for one another longer than one thread takes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

from torchport.commands import cli
from torchport.data import DATA_VARIABLE
from torchport.parity import Setting
from torchport.training.graph import wake_autograd

# The same examples on every machine and in every run, unless --hypothesis-profile=explore asks for new ones. Hypothesis
# switches to a profile of its own in CI; a failure there should be reproducible anywhere.
settings.register_profile("fixed", derandomize=True, database=None, deadline=None, max_examples=30)
settings.register_profile("explore", database=None, deadline=None, max_examples=int(os.environ.get("EXAMPLES", 1000)))
settings.load_profile("fixed")

if not torch.cuda.is_available():  # Triton reads this when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)

# A shell ignores Ctrl-C for jobs started with &; then no test could interrupt a run.
with contextlib.suppress(ValueError):  # raised in a thread
    signal.signal(signal.SIGINT, signal.default_int_handler)

DTYPES = [torch.float64, torch.float32]
SHOWN = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "device of the ports (default: cpu, and cuda if there is one)"
    parser.addoption("--device", action="append", type=cli.device, help=about)
    parser.addoption("--table", action="store_true", help="show what caught each planted bug, and its error/limit")
    parser.addoption("--docs", action="store_true", help="run the long commands of the documentation, too")
    parser.addoption("--whole-epoch", action="store_true", help="take all 600 steps of the book's first epoch, not 100")
    parser.addoption("--part", metavar="K/N", help="run only the K-th of N parts, to use several cores")
    parser.addoption("--cases", type=cli.count(1), help="judge so many right ports and show the false alarms")


@pytest.fixture(scope="session")
def shown(request: pytest.FixtureRequest) -> list[str]:
    """Lines to print after all tests, even with output captured."""
    return request.config.stash.setdefault(SHOWN, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(SHOWN, []):
        terminalreporter.write_line(line)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --part, ignore the files of other parts: importing them would take seconds."""
    if (part := config.getoption("--part")) is None or not collection_path.name.startswith("test_"):
        return None
    number, count = map(int, part.split("/"))
    return True if collection_path.resolve() not in dealt(count)[number - 1] else None


@functools.cache
def dealt(count: int) -> list[list[Path]]:
    """The test files in count parts: each file, the largest first, goes to the part with the fewest bytes so far."""
    parts, held = [list[Path]() for _ in range(count)], [0] * count
    sizes = {path: path.stat().st_size for path in Path(__file__).resolve().parent.rglob("test_*.py")}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        least = held.index(min(held))
        parts[least].append(path)
        held[least] += sizes[path]
    return parts


def pytest_collection_finish() -> None:
    """Exclude everything imported so far from garbage collection, which would take a twentieth of the time."""
    gc.freeze()


def pytest_sessionstart() -> None:
    """Wake autograd's CUDA thread as training does, so that any test may begin with a matrix product."""
    if torch.cuda.is_available():
        wake_autograd(torch.device("cuda"))


def pytest_sessionfinish() -> None:
    """Undo gc.freeze: some packages complain about objects that are not collected at the end."""
    gc.unfreeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes device, or setting (dtype and device), with each of them."""
    available = ["cpu", "cuda:0"] if torch.cuda.is_available() else ["cpu"]
    devices = metafunc.config.getoption("--device") or available
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", devices)
    if "setting" in metafunc.fixturenames:
        where = [Setting(dtype, device) for device in devices for dtype in DTYPES]
        metafunc.parametrize("setting", where, ids=lambda s: f"{str(s.dtype).removeprefix('torch.')}-{s.device}")


@pytest.fixture
def whole_epoch(request: pytest.FixtureRequest) -> bool:
    """Whether to take all recorded steps of the first epoch."""
    return bool(request.config.getoption("--whole-epoch"))


@pytest.fixture(scope="session")
def fork_server() -> None:
    """Start a server that has imported torch, and what torch.optim imports late, without using it: it forks at once."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["training.test_failures", "matplotlib.backends.backend_agg", "torch._dynamo"])
    multiprocessing.forkserver.ensure_running()


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curves: they would take most of a small run's time, and parity_tests/figures tests them."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("torchport.training.folder.curves", lambda runs: Figure((1, 1)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20161)


@pytest.fixture
def data_dir() -> Path:
    """A folder that is a torchvision root with MNIST and has the book's params.pkl; the test is skipped without it."""
    folder = Path(os.environ.get(DATA_VARIABLE, ""))
    if not os.environ.get(DATA_VARIABLE):
        pytest.skip(
            f"set {DATA_VARIABLE} to a folder with MNIST/raw and the book's params.pkl to run this on real data"
        )
    assert (folder / "MNIST" / "raw").is_dir(), f"{DATA_VARIABLE} is {folder}, which has no MNIST/raw"
    return folder


@pytest.fixture
def book_params(data_dir: Path) -> Path:
    path = data_dir / "params.pkl"
    if not path.exists():
        pytest.skip(f"put the params.pkl of the book's chapter 7 into {data_dir} to run this on its weights")
    return path


@pytest.fixture
def as_nobody() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context manager that runs code as a user without root's rights, since file modes do not restrict root."""

    @contextlib.contextmanager
    def bound() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return bound
