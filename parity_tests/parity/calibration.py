"""False alarms: unmodified ports on random cases, and how near to their limits correct ports come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from parity.cases import random_case
from torchport.choices import BFLOAT16, IEEE, TF32, Mode
from torchport.layers.arithmetic import Setting
from torchport.networks import CONVOLUTIONS, from_reference
from torchport.parity import check_parity
from torchport.parity.report import Report


@dataclass(frozen=True)
class Calibration:
    """Reports that failed, and the largest error/limit by (kind of run, rule, arithmetic)."""

    cases: int
    alarms: tuple[Report, ...]
    largest: dict[tuple[str, str, str], float]

    def table(self, device: str) -> list[str]:
        """Lines of Markdown, a row for each of largest, what the alarms say, and how many there are."""
        head = "| run | rule | arithmetic | largest error/limit |", "|---|---|---|---|"
        rows = [f"| {' | '.join(key)} | {ratio:.2g} |" for key, ratio in sorted(self.largest.items())]
        verdicts = [report.verdict for report in self.alarms]
        return [*head, *rows, *verdicts, "", f"{len(self.alarms)} alarms in {self.cases} clean cases on {device}"]


def settings(device: str) -> list[Setting]:
    """Every arithmetic that a port can be judged in on this device."""
    modes: list[Mode] = [IEEE, BFLOAT16, *((TF32,) if torch.device(device).type == "cuda" else ())]
    return [Setting(torch.float64, device), *(Setting(torch.float32, device, mode) for mode in modes)]


def run_clean(cases: int, device: str = "cpu", *, progress: bool = False) -> Calibration:
    """Judge that many random networks, in turn with either convolution and in every arithmetic.

    progress shows a bar on a terminal.
    """
    alarms, largest = [], dict[tuple[str, str, str], float]()
    choices = [choice for choice in itertools.product(CONVOLUTIONS, settings(device)) if _is_sound(*choice)]
    for seed in tqdm(range(cases), desc="clean cases", unit="case", disable=None if progress else True):
        conv, setting = choices[seed % len(choices)]
        reference, x, t = random_case(seed)
        port = from_reference(reference, conv, device).to(setting.dtype)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of what the port drops
            report = check_parity(reference, port, x, t, mode=setting.mode, seed=seed, name=f"{conv}, case {seed}")
        if not report.ok:
            alarms.append(report)
        for row in report.rows:
            key = kind_of_run(row.run), row.rule, setting.name
            largest[key] = max(largest.get(key, 0.0), row.size)
    return Calibration(cases, tuple(alarms), largest)


def kind_of_run(name: str) -> str:
    """The run's name, without how many samples there were."""
    return "N samples" if name.endswith(("sample", "samples")) else name


def _is_sound(conv: str, setting: Setting) -> bool:
    """Whether torch computes this at all: nn.Conv2d in bfloat16 on CPUs does not.

    oneDNN's kernel (in torch 2.15, on a CPU with AVX-512) reads memory that nobody has written for some geometries, a
    1x5 filter with stride 2 among them; its results then differ from run to run, up to 1e38.
    """
    return not (conv == "conv2d" and setting.mode == BFLOAT16 and torch.device(setting.device).type == "cpu")
