"""Many cases in a few processes, which are watched: one that crashes is counted, and another goes on after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from numpy_ref.checks import check_int, check_number
from numpy_ref.fuzzing.corpus import corpus
from numpy_ref.fuzzing.mutations import Case, make_case
from numpy_ref.fuzzing.worker import BOARD, Finding, Task

READER = "numpy_ref.params:read_params"
MAX_FINDINGS = 100  # then the campaign stops: the reader is broken
HANG = -signal.SIGPROF if hasattr(signal, "SIGPROF") else None


@dataclass(frozen=True)
class Campaign:
    """What became of the cases. Those neither accepted nor refused are findings, at most about MAX_FINDINGS."""

    seed: int
    cases: int
    accepted: int
    refused: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every case was read or refused as it should be."""
        return not self.findings and self.accepted + self.refused == self.cases

    def to_text(self) -> str:
        """A line for each finding, and one with the counts."""
        lines = [f"case {f.number}: {f.kind}: {f.detail!r:.300} ({f.mutation})" for f in self.findings]
        kinds = Counter(finding.kind for finding in self.findings)
        rest = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "0 anything else"
        return "\n".join([*lines, f"{self.cases} cases: {self.accepted} accepted, {self.refused} refused, {rest}"])


def run_campaign(
    cases: int,
    seed: int = 0,
    first: int = 0,
    workers: int = 1,
    reader: str | None = None,
    cpu_seconds: float = 1.0,
    wall_seconds: float = 10.0,
    progress: Callable[[int], object] = lambda done: None,
) -> Campaign:
    """Read the cases first, first + 1 ... of a seed with a reader ("module:function", None for read_params).

    A case hangs that takes more than cpu_seconds of computing or wall_seconds of time. progress gets the number of
    cases done, several times a second. TypeError, ValueError.
    """
    check_int("cases", cases, 1)
    check_int("seed", seed, 0)
    check_int("first", first, 0)
    share = -(-cases // check_int("workers", workers, 1))
    limits = check_number("cpu_seconds", cpu_seconds, 0.001), check_number("wall_seconds", wall_seconds, 0.001)
    with tempfile.TemporaryDirectory() as folder:
        starts = range(first, first + cases, share)
        runs = [
            _Run(
                Task(
                    seed, start, min(start + share, first + cases), reader or READER, limits[0], *_files(folder, start)
                ),
                limits[1],
            )
            for start in starts
        ]
        try:
            while sum(run.goes_on() for run in runs) and sum(len(run.findings()) for run in runs) < MAX_FINDINGS:
                progress(sum(run.done for run in runs))
                time.sleep(0.05)
        finally:
            for run in runs:
                run.stop()
        progress(sum(run.done for run in runs))
        findings = sorted((f for run in runs for f in run.findings()), key=lambda finding: finding.number)
        accepted, refused = (sum(run.board[i] for run in runs) for i in (1, 2))
        return Campaign(seed, sum(run.done for run in runs), accepted, refused, tuple(findings))


def regenerate(campaign: Campaign, folder: Path) -> list[Path]:
    """Write the file of each finding into folder, named by seed and number. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = corpus()
    paths = []
    for finding in campaign.findings:
        case: Case = make_case(campaign.seed, finding.number, samples)
        path = folder / f"seed{campaign.seed}-case{finding.number}-{finding.kind}.pkl"
        path.write_bytes(case.data)
        paths.append(path)
    return paths


def _files(folder: str, start: int) -> tuple[str, str]:
    return str(Path(folder, f"{start}.board")), str(Path(folder, f"{start}.findings"))


class _Run:
    """One worker's share of the cases, and the processes that work at it, one after another."""

    def __init__(self, task: Task, wall_seconds: float) -> None:
        self.task = task
        self.wall_seconds = wall_seconds
        Path(task.board).write_bytes(BOARD.pack(task.first, 0, 0))
        Path(task.findings).touch()
        self.start(task.first)

    def start(self, first: int) -> None:
        """A process for the cases from first on."""
        command = [
            sys.executable,
            "-m",
            "numpy_ref.fuzzing.worker",
            json.dumps(asdict(replace(self.task, first=first))),
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        self.first = first
        self.seen, self.since = -1, time.monotonic()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def board(self) -> tuple[int, int, int]:
        number, accepted, refused = BOARD.unpack(Path(self.task.board).read_bytes())
        return number, accepted, refused

    @property
    def done(self) -> int:
        return self.board[0] - self.task.first

    def findings(self) -> list[Finding]:
        lines = Path(self.task.findings).read_text(encoding="utf-8").splitlines()
        return [Finding(**json.loads(line)) for line in lines]

    def goes_on(self) -> bool:
        """Whether cases are left; looks after the process."""
        number = self.board[0]
        if self.process.poll() is None:
            if number != self.seen:
                self.seen, self.since = number, time.monotonic()
            elif time.monotonic() - self.since > self.wall_seconds:
                self.stop()
                self.bury(number, "hang", f"over {self.wall_seconds} s")
            return True
        if number == self.task.stop:
            return False
        if self.process.returncode == HANG:
            self.bury(number, "hang", f"over {self.task.cpu_seconds} s of computing")
        else:
            self.bury(number, "crash", f"the process ended with status {self.process.returncode}")
        return True

    def bury(self, number: int, kind: str, detail: str) -> None:
        """Record what ended the process, and go on after it."""
        finding = Finding(number, kind, "", detail)
        with Path(self.task.findings).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(finding)) + "\n")
        _, accepted, refused = self.board
        Path(self.task.board).write_bytes(BOARD.pack(number + 1, accepted, refused))
        self.start(number + 1)

    def stop(self) -> None:
        """End the process, if it runs."""
        self.process.kill()
        self.process.wait()
