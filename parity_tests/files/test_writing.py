"""Whatever happens while weights are written, what stands there is the old file or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import files, read_params, write_params
from numpy_ref.checks import Array
from torchport.files import read_weights, stage_weights
from torchport.files.formats import FORMATS
from torchport.networks import Weights

OLD, NEW = {"W1": np.zeros((10, 10)), "b1": np.zeros(10)}, {"W1": np.ones((1000, 100)), "b1": np.ones(100)}
SUFFIXES = [kind.suffixes[0] for kind in FORMATS if kind.encode and kind.suffixes != (".onnx",)]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file modes, signals and limits are POSIX's")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_params(OLD, tmp_path / "params.pkl")
    return tmp_path / "params.pkl"


@pytest.fixture(params=SUFFIXES)
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of each format."""
    write(OLD, tmp_path / f"params{request.param}")
    return tmp_path / f"params{request.param}"


def write(arrays: dict[str, Array], path: Path) -> None:
    with stage_weights(Weights.of(arrays), path) as staged:
        staged.read()
        staged.commit()


def assert_old(file: Path) -> None:
    """The old file is there, and nothing else."""
    assert same(read_weights(file).params, OLD)
    assert list(file.parent.iterdir()) == [file]


def same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel writes as much and then refuses, as when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 1, 4096, 700_000])
def test_a_disk_that_takes_a_part_only(each: Path, size: int) -> None:
    with (
        files_of_at_most(size),
        pytest.raises(OSError, match=r"not written, and left as it was: File too large: '.*params\.\w+'"),
    ):
        write(NEW, each)
    assert_old(each)


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


STEPS = ["pathlib.Path.open", "os.fsync", "pathlib.Path.read_bytes", "pathlib.Path.replace"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_any_step_may_fail(each: Path, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step, failing(error))
        with pytest.raises(type(error)) as caught:
            write(NEW, each)
    assert_old(each)
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value).endswith(f"No space left on device: '{each}'") or step == "pathlib.Path.read_bytes"


def test_a_file_that_cannot_be_read_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells no path where a file is open already."""
    monkeypatch.setattr(os, "fdopen", lambda *_: Unreadable())
    with pytest.raises(OSError, match=r"not read: Input/output error: '.*params\.pkl'") as error:
        read_params(file)
    assert error.value.errno == errno.EIO


class Unreadable(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_disk_that_lies_is_found_out(each: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written reads back as something else, down to one bit."""
    right = files._write

    def flip(path: Path, data: bytes, mode: int | None) -> None:
        right(path, data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:], mode)

    monkeypatch.setattr(files, "_write", flip)
    with pytest.raises(OSError, match="what was written does not read back"):
        write(NEW, each)
    assert_old(each)


def test_a_read_only_folder(each: Path, as_nobody: Callable[[], Any]) -> None:
    folder = each.parent
    above = [path for path in folder.parents if path.stat().st_uid == os.getuid() and path != Path(path.anchor)]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in above}
    try:
        for path in above:
            path.chmod(modes[path] | 0o055)  # for nobody to come here
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(PermissionError, match=r"left as it was: Permission denied: '.*params\.\w+'"):
            write(NEW, each)
    finally:
        folder.chmod(0o755)
        for path, mode in modes.items():
            path.chmod(mode)
    assert_old(each)


# Forks once for each line that writing runs, kills itself there, and looks at what is left; for each format.
KILLED = """
import os, signal, sys
from pathlib import Path
from numpy_ref import files

def kill_at(left):
    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

def outcomes(path, data, lines=0, killed=True):
    old = path.read_bytes()
    while killed:
        lines += 1
        child = os.fork()
        if child == 0:
            kill_at(lines)
            files.replace_file(path, data)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] != 0
        found = path.read_bytes()
        yield "old" if found == old else "new" if found == data else "neither"

for path in map(Path, sys.argv[1:]):
    print(*outcomes(path, path.with_name(f"new{path.suffix}").read_bytes()))
"""


def test_a_kill_between_any_two_steps(tmp_path: Path) -> None:
    paths = [tmp_path / f"params{suffix}" for suffix in SUFFIXES]
    for path in paths:
        write(OLD, path)
        write(NEW, path.with_name(f"new{path.suffix}"))
    command = [sys.executable, "-c", KILLED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for path, outcomes in zip(paths, map(str.split, lines), strict=True):
        assert outcomes == sorted(outcomes, reverse=True)  # "old" until it is replaced, "new" from then on
        assert set(outcomes) == {"old", "new"}
        assert len(outcomes) > 40
        assert outcomes.count("new") > 2  # the last was not killed
        assert same(read_weights(path).params, NEW)
    left = {path.name for path in tmp_path.iterdir() if path not in paths and not path.name.startswith("new.")}
    assert all(name.startswith(".params.") and name.endswith(".tmp") for name in left)


# --- What stands where the file is to go


def linked(path: Path) -> Path:
    (path.parent / "link").symlink_to(path)
    return path.parent / "link"


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


TARGETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder": (lambda folder: folder, "is a folder, expected a file name"),
    "a link to a folder": (linked, "link is a folder"),
    "a fifo": (lambda folder: fifo(folder / "x"), "x is no regular file, and would be replaced"),
    "a link to a fifo": (lambda folder: linked(fifo(folder / "x")), "link is no regular file, and would be replaced"),
    "a device": (lambda folder: Path("/dev/null"), "/dev/null is no regular file"),
    "a link to itself": (lambda folder: linked(folder / "link"), "loop of symbolic links"),
    "a missing folder": (lambda folder: folder / "x" / "y", r"y: the folder .*x is missing: make it first"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_that_is_no_file_stays_what_it_is(case: str, tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    make, says = TARGETS[case]
    target = make(folder)
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    with pytest.raises(OSError, match=says):
        files.check_target(target)  # first, since /dev/null would be replaced for all
    if case != "a device":
        with pytest.raises(OSError, match=says):
            write_params(NEW, target)
    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == before


def test_a_link_as_target_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.pkl"
    link.symlink_to(file.name)
    write_params(NEW, link)
    assert link.is_symlink()
    assert same(read_weights(file).params, NEW)


def test_a_link_to_nothing_as_target_creates_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "link.pkl").symlink_to(tmp_path / "new.pkl")
    write_params(NEW, tmp_path / "link.pkl")
    assert (tmp_path / "link.pkl").is_symlink()
    assert same(read_weights(tmp_path / "new.pkl").params, NEW)


def test_a_loop_of_links_as_target(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="loop of symbolic links"):
        write_params(NEW, tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params\.pkl: the folder .*missing is missing: make it first"):
        write_params(NEW, tmp_path / "missing" / "params.pkl")


@pytest.mark.parametrize("alias", ["params.pkl", "../{folder}/params.pkl", "link.pkl", "hard.pkl"])
def test_the_source_as_target(file: Path, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "link.pkl").symlink_to(file)
    (file.parent / "hard.pkl").hardlink_to(file)
    monkeypatch.chdir(file.parent)
    target = Path(alias.format(folder=file.parent.name))
    with pytest.raises(ValueError, match=f"another file than the input, got {target} for both"):
        files.check_target(target, source=file)
    assert files.check_target(file.parent / "other.pkl", source=file).name == "other.pkl"


def test_the_file_and_its_folder_reach_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    write_params(NEW, file)
    assert synced == [False, True]


def test_a_folder_that_cannot_be_synced_is_no_failure(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems; the file has been replaced by then."""

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", sync)
    write_params(NEW, file)
    assert same(read_weights(file).params, NEW)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_who_may_read_a_file_stays(each: Path, mode: int) -> None:
    each.chmod(mode)
    write(NEW, each)
    assert stat.S_IMODE(each.stat().st_mode) == mode
