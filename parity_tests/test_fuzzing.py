"""The reader survives mutants of valid files, and the fuzzer that says so finds readers that do not."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import ParamsError, pickled_arrays, read_params
from numpy_ref.checks import Array
from numpy_ref.fuzzing.campaign import READER, regenerate, run_campaign
from numpy_ref.fuzzing.corpus import corpus
from numpy_ref.fuzzing.instructions import assemble, disassemble
from numpy_ref.fuzzing.judge import Judge
from numpy_ref.fuzzing.mutations import make_case
from numpy_ref.fuzzing.worker import memory_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX's")

CASES = 4000


def test_mutants_are_accepted_or_refused() -> None:
    campaign = run_campaign(CASES, seed=0, workers=2)
    assert campaign.ok, campaign.to_text()
    assert min(campaign.accepted, campaign.refused) > CASES // 20
    assert campaign.to_text().endswith("refused, 0 anything else")


def test_cases_are_the_same_again_and_of_every_kind() -> None:
    samples = corpus()
    first, second = ([make_case(1, number, samples) for number in range(300)] for _ in range(2))
    assert [case.data for case in first] == [case.data for case in second]
    assert {case.mutation.split(":")[0] for case in first} == {
        *("nothing", "truncated", "flipped", "spliced", "value", "edited")
    }
    assert [case.data for case in first] != [make_case(2, number, samples).data for number in range(300)]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_taken_apart_and_put_together_is_the_same(protocol: int) -> None:
    content = pickle.dumps({"W": 1, "b": b"bytes"}, protocol)
    assert assemble(disassemble(content), framed=protocol >= 4) == content


# Each does to odd files what no reader may do, and reads the others as read_params does.
ENDS = """
import os, time
from numpy_ref.params import read_params

def but(fault):
    def read(path, **options):
        if path.stat().st_size % 50 == 7: fault()
        return read_params(path, **options)
    return read

def spin():
    while True: pass

crash = but(os.abort)
leave_quietly = but(lambda: os._exit(0))
hang = but(spin)
sleep = but(lambda: time.sleep(60))
take_memory = but(lambda: bytearray(2**29))
"""


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("crash", "crash"), ("leave_quietly", "crash"), ("hang", "hang"), ("sleep", "hang"), ("take_memory", "memory")],
)
def test_a_process_that_ends_is_counted_and_replaced(
    fault: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_readers.py").write_text(ENDS)
    monkeypatch.syspath_prepend(tmp_path)
    campaign = run_campaign(40, reader=f"broken_readers:{fault}", cpu_seconds=0.2, wall_seconds=1.0)
    assert {finding.kind for finding in campaign.findings} == {kind}, campaign.to_text()
    odd = [number for number in range(40) if len(make_case(0, number, corpus()).data) % 50 == 7]
    assert [finding.number for finding in campaign.findings] == odd
    assert odd
    assert not campaign.ok
    assert campaign.accepted + campaign.refused + len(odd) == campaign.cases == 40


Read = Callable[..., Any]


def otherwise(**changes: Any) -> Read:
    """Read with other options than were asked for."""
    return lambda path, **options: read_params(path, **{**options, **changes})


def then(change: Callable[[Any], Any]) -> Read:
    """Read, and change what was read."""
    return lambda path, **options: change(read_params(path, **options))


def saying(change: Callable[[str], str]) -> Read:
    """Refuse with other words."""

    def read(path: Path, **options: Any) -> Any:
        try:
            return read_params(path, **options)
        except ParamsError as error:
            raise ParamsError(change(str(error))) from None

    return read


def first(fault: Callable[[Path], object]) -> Read:
    """Do something before reading."""

    def read(path: Path, **options: Any) -> Any:
        fault(path)
        return read_params(path, **options)

    return read


def raised(error: BaseException) -> Read:
    def read(path: Path, **options: Any) -> Any:
        raise error

    return read


def refused(path: Path, **options: Any) -> Any:
    raise ParamsError(f"{path}: no")


def each(change: Callable[[Array], Array]) -> Read:
    return then(lambda found: {name: change(value) for name, value in found.items()})


def import_nothing(_: Path) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("this_is_no_module")


FAULTS: dict[str, tuple[Read, str]] = {
    "another exception": (raised(KeyError("key")), "exception"),
    "exit": (raised(SystemExit(0)), "exception"),
    "MemoryError": (raised(MemoryError()), "memory"),
    "4 MiB": (first(lambda _: bytearray(2**22)), "memory"),
    "an import": (first(import_nothing), "lookup"),
    "another file": (first(lambda _: Path(os.devnull).read_bytes()), "lookup"),
    "unpickling": (lambda path, **options: read_params(path) and pickle.loads(path.read_bytes()), "lookup"),
    "a message of two lines": (saying(lambda message: f"{message}\nreally"), "message"),
    "a message without a path": (saying(lambda _: "damaged"), "message"),
    "nothing accepted": (refused, "wrong"),
    "nothing read": (then(lambda _: None), "wrong"),
    "no arrays": (then(lambda _: {}), "wrong"),
    "lists": (then(lambda found: {name: value.tolist() for name, value in found.items()}), "wrong"),
    "the wrong order": (then(lambda found: dict(reversed(found.items()))), "wrong"),
    "other values": (each(lambda value: -value), "wrong"),
    "other shapes": (each(np.ravel), "wrong"),
    "other strides": (each(np.asfortranarray), "wrong"),
    "another byte order": (each(lambda value: value.astype(value.dtype.newbyteorder("S"))), "wrong"),
    "other precision": (each(lambda value: value.astype(np.float16 if value.itemsize > 2 else "f4")), "wrong"),
    "a subclass": (each(lambda value: value.view(np.recarray)), "wrong"),
    "NaN": (otherwise(allow_nonfinite=True), "wrong"),
    "arrays larger than the file": (each(lambda _: np.ones(2**18)), "wrong"),
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with memory_folder() as folder:
        yield Judge(READER, folder)


def verdicts(judge: Judge, measure: bool = False) -> Iterator[str]:
    samples = corpus()
    return (judge.verdict(make_case(0, n, samples), False, measure)[0] for n in range(4000))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:numpy.core")
def test_a_wrong_reader_is_found_out(fault: str, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    read, kind = FAULTS[fault]
    monkeypatch.setattr(judge, "read", read)
    assert any(verdict == kind for verdict in verdicts(judge, measure=fault == "4 MiB"))


def test_the_right_reader_is_right(judge: Judge) -> None:
    found = Counter(itertools.islice(verdicts(judge, measure=True), 100))
    assert found.keys() == {"accepted", "refused"}


@pytest.mark.parametrize(
    ("check", "kinds"),
    [("_is_dtype_state", {"exception", "wrong"}), ("_is_content", {"exception"}), ("_is_dtype_call", {"exception"})],
)
def test_a_reader_without_a_check_is_found_out(
    check: str, kinds: set[str], judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that was made to be found: the reader itself, with one of its checks gone."""
    monkeypatch.setattr(pickled_arrays, check, lambda _: True)
    assert any(verdict in kinds for verdict in verdicts(judge))


def test_offending_files_are_kept(tmp_path: Path) -> None:
    campaign = run_campaign(3, seed=5, first=7, reader="os.path:basename")
    assert not campaign.ok
    paths = regenerate(campaign, tmp_path / "new")
    assert [path.name for path in paths] == [f"seed5-case{number}-exception.pkl" for number in (7, 8, 9)]
    assert [path.read_bytes() for path in paths] == [make_case(5, number, corpus()).data for number in (7, 8, 9)]


def test_a_process_that_cannot_start_is_no_finding() -> None:
    with pytest.raises(RuntimeError, match=r"cannot start: .*no_such_reader"):
        run_campaign(1, reader="no_such_reader:read")
