"""Speed and memory of all implementations, side by side: python scripts/benchmark.py

Interleaved in one process, since machines are noisy: compare within one run, by the ratios. Images are random, so
nothing is downloaded. All figures as JSON:
    python scripts/benchmark.py --json benchmark.json
Exit status: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchport as tp
from numpy_ref.checks import Array
from numpy_ref.files import check_target, replace_file
from torchport import cli

SCALE = (100, 1000, 10_000, 65_536)  # batch sizes for CUDA


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--device", type=cli.device, default="cpu", help="of all but numpy_ref (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--quick", action="store_true", help="few rounds and images: under a minute, for a first look")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.json is not None:
        check_target(args.json)  # now, not after minutes
    found: dict[str, Any] = {"machine": tp.benchmark.describe_machine(args.device)}
    print("\n".join(f"{name}: {value}" for name, value in found["machine"].items()))
    found["step"] = measure_steps(args)
    found["operations"] = list_operations(args)
    if args.device != "cpu":
        found["device"] = measure_device(args)
    found["memory"] = measure_memory(args)
    if args.json is not None:
        replace_file(args.json, (json.dumps(found, indent=2) + "\n").encode())
        print(f"wrote {args.json}")
    return 0


def measure_steps(args: argparse.Namespace) -> dict[str, Any]:
    steps = tp.benchmark.contenders(tp.benchmark.Case(device=args.device))
    counts = {name: 1 if name == tp.benchmark.REFERENCE else 10 if args.device == "cpu" else 100 for name in steps}
    rounds = 5 if args.quick else 30
    times = tp.benchmark.interleave(steps, rounds, counts, device=args.device, progress=True)
    print(f"\nOne training step of 100 images, milliseconds: median and quartiles of {rounds} rounds")
    for name, values in times.items():
        print(f"  {name:16} {tp.benchmark.spread(values * 1e3)}")
    print("Ratios, round by round")
    ratios = {f"{of} / {to}": tp.benchmark.ratio(times[of], times[to]) for of, to in tp.benchmark.RATIOS}
    for name, value in ratios.items():
        print(f"  {name:30} {value}")
    return {"seconds": as_lists(times), "ratios": ratios}


def list_operations(args: argparse.Namespace) -> str:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # none: the profiler calls it an error that a machine has no CUDA
    steps = 10 if args.quick else 100
    table = tp.benchmark.operations(tp.benchmark.Case(device=args.device), steps)
    print(f"\nWhat torch.profiler sees of the training loop in {steps} steps, the longest first")
    print(table)
    return table


def measure_device(args: argparse.Namespace) -> dict[str, Any]:
    print("\nImages a second in training, by batch size; and if all arithmetic went as fast as a large product")
    scale: dict[str, Any] = {}
    for precision in ("full", "tf32", "bf16"):
        rates = tp.benchmark.throughput(SCALE, precision, device=args.device, progress=True)
        scale[precision] = {"rates": rates, "limit": tp.benchmark.limit(precision, device=args.device)}
        shown = "  ".join(f"{size}: {rate.median:,.0f}" for size, rate in rates.items())
        print(f"  {precision:5} {shown}  limit: {scale[precision]['limit']:,.0f}")
    return {"throughput": scale}


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    images = 1_000 if args.quick else 10_000
    predicting = tp.benchmark.prediction(images)
    print(f"\nPrediction of {images:,} images on the CPU, in a process of its own: seconds, peak memory in MiB")
    for name, usage in predicting.items():
        print(f"  {name:16} {usage.seconds:8.2f} {mebibytes(usage.peak)}")
    sizes = (1_000, 2_000) if args.quick else (10_000, 60_000)
    training = tp.benchmark.training_memory(sizes)
    print("An epoch of training: peak memory in MiB by images, which are 0.75 KiB each")
    print("  " + ", ".join(f"{n:,}: {mebibytes(usage.peak).strip()}" for n, usage in training.items()))
    return {"prediction": predicting, "training": training}


def mebibytes(memory: int | None) -> str:
    return "unknown" if memory is None else f"{memory / 2**20:8.0f}"


def as_lists(arrays: Mapping[str, Array]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in arrays.items()}


if __name__ == "__main__":
    sys.exit(cli.run(main))
