"""Many cases in a few processes, which are watched: one that crashes is counted, and another goes on after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from numpy_ref.checks import check_int, check_number
from numpy_ref.fuzzing.corpus import corpus
from numpy_ref.fuzzing.mutations import Case, make_case
from numpy_ref.fuzzing.worker import BOARD, Finding, Task, memory_folder

READER = "numpy_ref.params:read_params"
MAX_FINDINGS = 100  # then the campaign stops: the reader is broken
START_SECONDS = 120.0  # for a process to begin
HANG = -signal.SIGPROF


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
    cases done, several times a second. TypeError, ValueError; RuntimeError where no process can start.
    """
    check_int("cases", cases, 1)
    stop = check_int("first", first, 0) + cases
    share = -(-cases // check_int("workers", workers, 1))
    check_number("wall_seconds", wall_seconds, 0.001)
    task = Task(
        check_int("seed", seed, 0), first, stop, reader or READER, check_number("cpu_seconds", cpu_seconds, 0.001)
    )
    with memory_folder() as folder:
        shares = [
            replace(task, first=i, stop=min(i + share, stop), folder=str(folder / str(i)))
            for i in range(first, stop, share)
        ]
        runs = [_Run(share, wall_seconds) for share in shares]
        try:
            while sum(run.goes_on() for run in runs) and sum(len(run.findings()) for run in runs) < MAX_FINDINGS:
                progress(sum(run.done for run in runs))
                time.sleep(0.05)
        finally:
            for run in runs:
                run.stop()
        progress(sum(run.done for run in runs))
        return _summary(seed, runs)


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


class _Run:
    """One worker's share of the cases, and the processes that work at it, one after another."""

    def __init__(self, task: Task, wall_seconds: float) -> None:
        self.task = task
        self.wall_seconds = wall_seconds
        self.errors = Path(task.folder, "errors")
        Path(task.folder).mkdir()
        task.findings.touch()
        self.start(task.first, 0, 0)

    def start(self, first: int, accepted: int, refused: int) -> None:
        """A process for the cases from first on, after so many that were accepted and refused."""
        task = json.dumps(asdict(replace(self.task, first=first)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        self.task.board.write_bytes(BOARD.pack(first, accepted, refused, 0))
        self.seen, self.since = (first, 0), time.monotonic()
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "numpy_ref.fuzzing.worker", task],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def board(self) -> tuple[int, int, int, int]:
        """The case at work, cases accepted, cases refused, whether the work has begun."""
        number, accepted, refused, begun = BOARD.unpack(self.task.board.read_bytes())
        return number, accepted, refused, begun

    @property
    def done(self) -> int:
        return self.board[0] - self.task.first

    def findings(self) -> list[Finding]:
        lines = self.task.findings.read_text(encoding="utf-8").splitlines()
        return [Finding(**json.loads(line)) for line in lines]

    def goes_on(self) -> bool:
        """Whether cases are left; looks after the process. RuntimeError where it cannot start: no case is to blame."""
        running = self.process.poll() is None  # before a look at the board, which a process may change until its end
        number, _, _, begun = self.board
        if (number, begun) != self.seen:
            self.seen, self.since = (number, begun), time.monotonic()
        waited = time.monotonic() - self.since
        if not begun and (not running or waited > START_SECONDS):
            raise RuntimeError(f"a fuzzing process cannot start: {self.errors.read_text()[-300:]!r}")
        if running and begun and waited > self.wall_seconds:
            self.stop()
            self.bury(number, "hang", f"over {self.wall_seconds} s")
        elif not running and number < self.task.stop:
            hung = self.process.returncode == HANG
            ended = f"the process ended with status {self.process.returncode}"
            self.bury(number, *(("hang", f"over {self.task.cpu_seconds} s of computing") if hung else ("crash", ended)))
        return running or number < self.task.stop

    def bury(self, number: int, kind: str, detail: str) -> None:
        """Record what ended the process, and go on after it."""
        _, accepted, refused, _ = self.board
        with self.task.findings.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Finding(number, kind, "", detail))) + "\n")
        self.start(number + 1, accepted, refused)

    def stop(self) -> None:
        """End the process, if it runs."""
        self.process.kill()
        self.process.wait()


def _summary(seed: int, runs: list[_Run]) -> Campaign:
    findings = sorted((finding for run in runs for finding in run.findings()), key=lambda finding: finding.number)
    accepted, refused = (sum(run.board[i] for run in runs) for i in (1, 2))
    return Campaign(seed, sum(run.done for run in runs), accepted, refused, tuple(findings))
