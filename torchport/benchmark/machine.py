"""What the figures of a benchmark depend on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Processor, cores, threads, device and versions, by name."""
    return {
        "processor": _processor(),
        "cores": str(_cores()),
        "torch threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
