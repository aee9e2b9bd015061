"""A process that reads one case after another: python -m numpy_ref.fuzzing.worker, started by campaign.

It notes each case's number before reading it, so that the campaign knows which case ended the process.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from numpy_ref.fuzzing.corpus import corpus
from numpy_ref.fuzzing.judge import ACCEPTED, REFUSED, Judge
from numpy_ref.fuzzing.mutations import make_case
from numpy_ref.pickles import interpret

HEADROOM = 256 * 2**20  # bytes of address space that reading may take: a huge allocation fails
MEASURED = 16  # every so many cases, memory is measured
BOARD = struct.Struct("<qqqq")  # the case at work, cases accepted, cases refused, whether the work has begun


@dataclass(frozen=True)
class Finding:
    """A case that was neither read nor refused as it should be."""

    number: int
    kind: str
    mutation: str
    detail: str


@dataclass(frozen=True)
class Task:
    """The cases first to stop - 1, for a reader ("module:function")."""

    seed: int
    first: int
    stop: int
    reader: str
    cpu_seconds: float  # that one case may take
    folder: str = ""  # for the cases, in memory if there is such

    @property
    def board(self) -> Path:
        """The file for BOARD."""
        return Path(self.folder, "board")

    @property
    def findings(self) -> Path:
        """The file for findings, one a line."""
        return Path(self.folder, "findings")


def run(task: Task) -> None:
    """Run the cases. The process ends by SIGPROF where one takes too long."""
    warnings.simplefilter("error")
    samples = corpus()
    with (
        task.board.open("r+b") as file,
        mmap.mmap(file.fileno(), BOARD.size) as board,
        task.findings.open("a", encoding="utf-8") as findings,
    ):
        judge = Judge(task.reader, Path(task.folder))
        for sample in samples:  # codecs are imported where they are first needed
            interpret(sample.data)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + HEADROOM, resource.RLIM_INFINITY))
        _, accepted, refused, _ = BOARD.unpack_from(board)
        parent = os.getppid()
        for number in range(task.first, task.stop):
            BOARD.pack_into(board, 0, number, accepted, refused, 1)
            if os.getppid() != parent:  # nobody is there to be told
                return
            case = make_case(task.seed, number, samples)
            signal.setitimer(signal.ITIMER_PROF, task.cpu_seconds)
            kind, detail = judge.verdict(case, allow_nonfinite=number % 2 == 1, measure=number % MEASURED == 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            accepted += kind == ACCEPTED
            refused += kind == REFUSED
            if kind not in (ACCEPTED, REFUSED):
                findings.write(json.dumps(asdict(Finding(number, kind, case.mutation, detail[:1000]))) + "\n")
                findings.flush()
        BOARD.pack_into(board, 0, task.stop, accepted, refused, 1)


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory where the system has such: cases are written there and forced to the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def _address_space() -> int:
    """Bytes that this process has mapped; where the system does not say, more than any process has."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 2**40


if __name__ == "__main__":
    run(Task(**json.loads(sys.argv[1])))
