"""Reading params.pkl: what pickle writes is read as pickle reads it, in little memory (refusals: test_refusals.py)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import ParamsError, pickles, read_params
from numpy_ref.checks import Array
from reference.crafted import array, arrays, binary, dtype, peak_of, pickled, renamed, saved, u4, unpickled, write

MIB = 2**20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.pkl"


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is np.ndarray
        assert found[name].dtype == value.dtype.newbyteorder("=")
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read_as_pickle_reads_it(file: Path, protocol: int, package: str) -> None:
    content = renamed(pickled(arrays(), protocol), package)
    assert package.encode() in content
    assert_same(read_params(write(file, content)), arrays())
    if package == "numpy.core" or np.__version__ >= "2":
        assert_same(read_params(file), unpickled(content))


READ: dict[str, Any] = {
    "every byte": {"W": np.frombuffer(bytes(range(256)) * 4, "<f2")},
    "keys in another order": dict(reversed(arrays().items())),
    "an ordered dict": OrderedDict(arrays()),
    "a defaultdict": defaultdict(list, arrays()),
    "a defaultdict of nothing": defaultdict(None, arrays()),
    "32 axes": {"W": np.ones((1,) * 32)},
    "one under two names": dict.fromkeys(["W1", "W2"], np.arange(3.0)),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("case", READ)
def test_dicts_of_arrays_are_read_each_to_memory_of_its_own(file: Path, case: str, protocol: int) -> None:
    found = read_params(write(file, pickled(READ[case], protocol)), allow_nonfinite=True)
    assert_same(found, READ[case])
    assert len({value.ctypes.data for value in found.values()}) == len(found)


def test_as_many_arrays_as_are_promised_are_read(file: Path) -> None:
    many = {f"W{number}": np.full(1, number, float) for number in range(10_000)}
    assert_same(read_params(write(file, pickled(many))), many)


def test_the_books_weights_are_read_as_pickle_reads_them(book_params: Path) -> None:
    assert_same(read_params(book_params), unpickled(book_params.read_bytes()))


# --- What the file system can hold in its place


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)])
def test_the_size_cap_is_checked(file: Path, limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_bytes must be"):
        read_params(write(file, pickled(arrays())), max_bytes=limit)


def test_a_file_over_the_cap_is_refused_unread(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(2**30 + 1)
    with pytest.raises(
        ParamsError, match=f"{2**30 + 1} bytes, over the limit of {2**30}: read it from Python with a larger max_bytes"
    ):
        read_params(file)
    with pytest.raises(ParamsError, match="over the limit of 100"):
        read_params(write(file, pickled(arrays())), max_bytes=100)
    assert read_params(file, max_bytes=2**70).keys() == arrays().keys()


def test_a_file_that_grows_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickled(arrays())
    write(file, content)
    before = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, len(content) - 1, 0, 0, 0))
    monkeypatch.setattr("numpy_ref.files.os.fstat", lambda _: before)
    with pytest.raises(ParamsError, match="still being written"):
        read_params(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.pkl"):
        read_params(tmp_path / "missing.pkl")
    with pytest.raises((ParamsError, OSError), match=r"a folder|denied"):
        read_params(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_refused_at_once(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(ParamsError, match="not a regular file"):
        read_params(file)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no file modes")
def test_an_unreadable_file_is_refused(file: Path, as_nobody: Callable[[], Any]) -> None:
    write(file, pickled(arrays())).chmod(0)
    with as_nobody(), pytest.raises(PermissionError, match=r"params\.pkl|denied"):
        read_params(file)


# --- What reading costs


# Big-endian, Fortran-ordered zeros and ones: what takes most copies, and in protocol 0 the most room; and noise.
CONTENTS: dict[str, Callable[[], Array]] = {
    "ones": lambda: np.asfortranarray(np.eye(1024).astype(">f8")),
    "noise": lambda: np.random.default_rng(0).standard_normal((1024, 1024)),
}


def limit(protocol: int) -> float:
    """Bytes of memory for each of the file: protocols 0 to 2 keep bytes as text."""
    return 2.1 if protocol > 2 else 5


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("protocol", range(6))
def test_memory_is_in_proportion_to_the_file(file: Path, protocol: int, content: str) -> None:
    size = write(file, pickled({"W": CONTENTS[content]()}, protocol)).stat().st_size
    assert peak_of(partial(read_params, file)) < limit(protocol) * size


SHARED: dict[str, Callable[[], bytes]] = {
    "content shared by many arrays": lambda: saved(
        array(b"J" + u4(2**17) + b"\x85", dtype() + b"\x94", binary(bytes(2**20)) + b"\x94"),
        *[array(b"J" + u4(2**17) + b"\x85", b"h\x00", b"h\x01")] * 80,
    ),
    "one array under many names": lambda: pickled(dict.fromkeys([f"W{i}" for i in range(200)], np.zeros(2**16))),
}


@pytest.mark.parametrize("bomb", SHARED)
def test_no_file_has_the_same_arrays_without_end(file: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_SHARED", 2**16)
    content = SHARED[bomb]()
    with pytest.raises(ParamsError, match=rf"more than {2 * len(content) + 2**16} bytes.* under many names"):
        read_params(write(file, content))
    assert peak_of(partial(read_params, file)) < 3 * len(content) + 2**18


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
@pytest.mark.parametrize("protocol", [2, 5])
def test_the_whole_process_takes_no_more(file: Path, protocol: int) -> None:
    size = write(file, pickled({"W": np.eye(1024, 4096)}, protocol)).stat().st_size
    # getrusage would count what the parent process holds.
    program = (
        "import re, sys; from pathlib import Path; from numpy_ref import read_params\n"
        "def peak(): return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "read_params(sys.argv[1])\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert size < int(done.stdout) < limit(protocol) * size + MIB
