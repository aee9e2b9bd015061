"""Options and fixtures: devices, dtypes, and data that a user may or may not have."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing.forkserver
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Arrays are small: threads would wait for one another, several times as long as one of them takes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

from torchport.commands import cli
from torchport.data import DATA_VARIABLE
from torchport.parity import Setting
from torchport.training.graph import wake_autograd

# The same examples on every machine and in every run, unless --hypothesis-profile=explore asks for new ones. hypothesis
# has profiles of its own, one of them for CI: a failure there should be one that everybody can see.
settings.register_profile("fixed", derandomize=True, database=None, deadline=None, max_examples=30)
settings.register_profile("explore", database=None, deadline=None, max_examples=int(os.environ.get("EXAMPLES", 1000)))
settings.load_profile("fixed")

if not torch.cuda.is_available():  # Triton asks when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)

# A shell has it ignored by what it starts with &: then no test could interrupt a run.
with contextlib.suppress(ValueError):  # in a thread
    signal.signal(signal.SIGINT, signal.default_int_handler)

DTYPES = [torch.float64, torch.float32]
SHOWN = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "where the ports run; default: cpu, and cuda where there is one"
    parser.addoption("--device", action="append", type=cli.device, help=about)
    parser.addoption("--table", action="store_true", help="show what caught each planted bug, and its error/limit")
    parser.addoption("--docs", action="store_true", help="run the long commands of the documentation, too")
    parser.addoption("--whole-epoch", action="store_true", help="go all 600 steps of the book's first epoch, not 100")
    parser.addoption("--part", metavar="K/N", help="run the K-th of N parts only: each on a core of its own")
    parser.addoption("--cases", type=cli.count(1), help="judge so many unmodified ports, and show the alarms")


@pytest.fixture(scope="session")
def shown(request: pytest.FixtureRequest) -> list[str]:
    """Lines to show at the end, captured or not."""
    return request.config.stash.setdefault(SHOWN, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(SHOWN, []):
        terminalreporter.write_line(line)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --part, the files of other parts are not even imported, which takes seconds."""
    if (part := config.getoption("--part")) is None or not collection_path.name.startswith("test_"):
        return None
    number, count = map(int, part.split("/"))
    return True if collection_path.resolve() not in dealt(count)[number - 1] else None


@functools.cache
def dealt(count: int) -> list[list[Path]]:
    """The files of tests in so many parts: each, the largest first, to the part that has the fewest bytes by then."""
    parts, held = [list[Path]() for _ in range(count)], [0] * count
    sizes = {path: path.stat().st_size for path in Path(__file__).resolve().parent.rglob("test_*.py")}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        least = held.index(min(held))
        parts[least].append(path)
        held[least] += sizes[path]
    return parts


def pytest_collection_finish() -> None:
    """All that is imported by now stays: to look through it again and again would take a twentieth of the time."""
    gc.freeze()


def pytest_sessionstart() -> None:
    """Tests as well may begin with a product, as training does."""
    if torch.cuda.is_available():
        wake_autograd(torch.device("cuda"))


def pytest_sessionfinish() -> None:
    """Some packages complain of what is not collected at the end."""
    gc.unfreeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes a device, or a setting (dtype and device), runs in all of them."""
    available = ["cpu", "cuda:0"] if torch.cuda.is_available() else ["cpu"]
    devices = metafunc.config.getoption("--device") or available
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", devices)
    if "setting" in metafunc.fixturenames:
        where = [Setting(dtype, device) for device in devices for dtype in DTYPES]
        metafunc.parametrize("setting", where, ids=lambda s: f"{str(s.dtype).removeprefix('torch.')}-{s.device}")


@pytest.fixture
def whole_epoch(request: pytest.FixtureRequest) -> bool:
    """Whether to go all the steps that were recorded."""
    return bool(request.config.getoption("--whole-epoch"))


@pytest.fixture(scope="session")
def fork_server() -> None:
    """A process that has imported torch, and what torch.optim imports late, but used none of it, and forks at once."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["training.test_failures", "matplotlib.backends.backend_agg", "torch._dynamo"])
    multiprocessing.forkserver.ensure_running()


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves, which test_figures looks at, would take most of a small run's time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("torchport.training.folder.curves", lambda runs: Figure((1, 1)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20161)


@pytest.fixture
def data_dir() -> Path:
    """A torchvision root with MNIST and, beside it, the book's params.pkl."""
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
    """To run code as a user whom file modes bind: they do not bind root, as whom containers run."""

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
