"""How long it takes until a command has started, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from numpy_ref.checks import Array
from torchport.benchmark.contenders import Case
from torchport.benchmark.rounds import interleave

TORCH, TORCHPORT, PORT, HELP = "import torch", "import torchport after it", "port_params.py", "train.py --help"

# Prints the seconds. Of one of its names, without which nothing is imported yet.
IMPORT = """
import time, torch
start = time.perf_counter()
from torchport import SimpleConvNet
print(time.perf_counter() - start)
"""


def start_times(scripts: Path, rounds: int = 5, *, progress: bool = False) -> dict[str, Array]:
    """Seconds of each, float64 (rounds,), in turns; PORT writes a .pt file of weights as many as the book's.

    All but TORCHPORT are of a whole process. RuntimeError with what a process said that failed.
    """
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "params.pkl"), Path(folder, "model.pt")
        Case().reference().save_params(source)
        commands = {
            TORCH: ("-c", "import torch"),
            PORT: (str(scripts / "port_params.py"), str(source), str(target), "--force"),
            HELP: (str(scripts / "train.py"), "--help"),
        }
        steps = {name: partial(_run_often, arguments) for name, arguments in commands.items()}
        times = interleave(steps, rounds, dict.fromkeys(steps, 1), progress=progress)
    return {**times, TORCHPORT: np.array([float(_run(("-c", IMPORT))) for _ in range(rounds)])}


def _run_often(arguments: tuple[str, ...], count: int) -> None:
    for _ in range(count):
        _run(arguments)


def _run(arguments: tuple[str, ...]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout
