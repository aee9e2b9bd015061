"""Train the book's network as the book does: python scripts/train.py

Runs on CUDA if there is a device. The run is saved in a folder: weights for torch and for the book's code, metrics,
curves, and a checkpoint from which --resume continues. In float64 it is the book's own run:
    python scripts/train.py --dtype float64 --log-loss after
On several GPUs, or several processes on CPUs: torchrun --nproc-per-node=2 scripts/train.py
Exit status: 0 trained, 1 diverged, 2 bad input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import torchport as tp
from torchport.commands import cli
from torchport.training.config import Config

RUNS = Path("runs")
RESUMABLE = ("epochs", "device", "kernels")  # options that may be given with --resume


def parse_arguments() -> tuple[dict[str, Any], argparse.Namespace]:
    """The fields of Config that were given as options, by name, and all arguments."""
    parser = cli.Parser(description=__doc__)
    for option in fields(Config):
        cli.add_field(parser, option)
    folder = parser.add_argument_group("the run's folder")
    about = "folder to save the run in (default: the first of runs/1, runs/2, ... that does not exist)"
    folder.add_argument("--out", type=cli.path, metavar="DIR", help=about)
    about = "continue the run in --out with the options that it was started with"
    folder.add_argument("--resume", action="store_true", help=about)
    folder.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    cli.add_output(parser, "the final accuracy", "the result")
    args = parser.parse_args()
    settings = {option.name: getattr(args, option.name) for option in fields(Config) if hasattr(args, option.name)}
    fixed = [f"--{name.replace('_', '-')}" for name in settings if name not in RESUMABLE]
    resume_needs = "--resume goes with --out DIR, the run's folder, and without --overwrite"
    errors = {
        "--overwrite goes with --out DIR, the folder of the run to replace": args.overwrite and args.out is None,
        resume_needs: args.resume and (args.out is None or args.overwrite),
        f"--resume keeps the run's own configuration, got {', '.join(fixed)}": args.resume and fixed,
    }
    cli.refuse(parser, errors)
    return settings, args


def main() -> int:
    settings, args = parse_arguments()
    start = time.perf_counter()
    first = tp.training.ranks.is_first()  # which imports torch, and whatever else a run needs
    imported = time.perf_counter() - start
    if args.out is not None or not first:
        return train_in(args.out, settings, args, imported)
    with tp.training.folder.numbered_folder(RUNS) as out:
        return train_in(out, settings, args, imported)


def train_in(out: Path | None, settings: dict[str, Any], args: argparse.Namespace, imported: float) -> int:
    """Train or resume in folder out (None: a rank that writes nothing), print the result; the exit status.

    imported is the time that imports took, in seconds.
    """
    display: dict[str, Any] = {} if args.quiet or args.json else {"watch": print_epoch, "progress": True}
    try:
        if args.resume:
            result = tp.training.resume(args.out, **settings, **display)
        else:
            result = tp.training.train(Config(**settings), out=out, overwrite=args.overwrite, **display)
    except tp.training.Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except tp.training.Stopped as stopped:
        if tp.training.ranks.is_first():
            print(
                f"{stopped}: go on with python scripts/train.py --out {shlex.quote(str(out))} --resume", file=sys.stderr
            )
        return cli.INTERRUPTED
    if tp.training.ranks.is_first():
        result = replace(result, seconds={"import": imported, **result.seconds})
        if args.json:
            print_json(result, out)
        else:
            print_result(result, out, args.quiet)
    return 0


def print_epoch(progress: tp.training.Progress) -> None:
    """Print one line for each evaluation, above the progress bar if there is one."""
    if (record := progress.record) is not None:
        epochs = progress.steps // (record.step // record.epoch)
        tqdm.write(
            f"epoch {record.epoch}/{epochs}  loss {record.loss:.4f}  accuracy: training {record.train_accuracy:.4f}, "
            f"test {record.test_accuracy:.4f}"
        )


def print_json(result: tp.training.Result, out: Path | None) -> None:
    summary = {name: getattr(result, name) for name in ("device", "kept", "test_accuracy", "seconds")}
    print(json.dumps({"out": str(out), **summary, "records": [record._asdict() for record in result.records]}))


def print_result(result: tp.training.Result, out: Path | None, quiet: bool) -> None:
    when = "after its update, as in the book" if result.config.log_loss == "after" else "before its update"
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result.seconds.items() if seconds >= 0.005)
    weights = f"the {result.kept} step's weights"
    if result.kept == "mean":
        last = result.records[-2].test_accuracy
        weights = f"the mean of the last epoch's weights, {last:.4f} with those of the last step"
    elif result.config.keeps_mean:
        weights += ", which are better on the training images than the mean of the last epoch's"
    print(f"test accuracy {result.test_accuracy:.4f} on all {len(result.predictions)} test images with {weights}")
    if quiet:
        return
    print(f"the loss of a step is that {when}")
    print(f"{result.device}: {times}")
    print(f"saved in {out}; python scripts/evaluate.py {shlex.quote(str(out))} shows the mistakes")
