"""Train the book's network as the book does: python scripts/train.py

On CUDA where there is one. The run is kept in a folder: weights for torch and for the book's code, metrics, curves, and
a checkpoint from which --resume goes on. In float64 it is the book's own run:
    python scripts/train.py --dtype float64 --log-loss after
On several GPUs, or processes on CPUs: torchrun --nproc-per-node=2 scripts/train.py
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
RESUMABLE = ("epochs", "device", "kernels")  # what may be given beside --resume


def parse_arguments() -> tuple[dict[str, Any], argparse.Namespace]:
    """The options of Config that were given, and those of the folder."""
    parser = cli.Parser(description=__doc__)
    for option in fields(Config):
        cli.add_field(parser, option)
    folder = parser.add_argument_group("the run's folder")
    about = "(default: runs/1, runs/2, ..., the first that is free)"
    folder.add_argument("--out", type=cli.path, metavar="DIR", help=about)
    folder.add_argument("--resume", action="store_true", help="go on with the run in --out, as it was configured")
    folder.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    cli.add_output(parser, "the accuracy at the end", "the result")
    args = parser.parse_args()
    given = {option.name: getattr(args, option.name) for option in fields(Config) if hasattr(args, option.name)}
    fixed = [f"--{name.replace('_', '-')}" for name in given if name not in RESUMABLE]
    about = "--resume goes with --out DIR, the run's folder, and without --overwrite"
    wrong = {
        "--overwrite goes with --out DIR, the folder of the run to replace": args.overwrite and args.out is None,
        about: args.resume and (args.out is None or args.overwrite),
        f"--resume keeps the run's own configuration, got {', '.join(fixed)}": args.resume and fixed,
    }
    cli.refuse(parser, wrong)
    return given, args


def main() -> int:
    given, args = parse_arguments()
    start = time.perf_counter()
    first = tp.training.ranks.is_first()  # which imports torch, and what else a run needs
    imported = time.perf_counter() - start
    if args.out is not None or not first:
        return train_in(args.out, given, args, imported)
    with tp.training.folder.numbered_folder(RUNS) as out:
        return train_in(out, given, args, imported)


def train_in(out: Path | None, given: dict[str, Any], args: argparse.Namespace, imported: float) -> int:
    """Train in the folder out, None on other ranks than the first; imported is the time that imports took, seconds."""
    shown: dict[str, Any] = {} if args.quiet or args.json else {"watch": print_epoch, "progress": True}
    try:
        if args.resume:
            result = tp.training.resume(args.out, **given, **shown)
        else:
            result = tp.training.train(Config(**given), out=out, overwrite=args.overwrite, **shown)
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
    """A line of every evaluation, above the bar of steps if there is one."""
    if (found := progress.record) is not None:
        epochs = progress.steps // (found.step // found.epoch)
        tqdm.write(
            f"epoch {found.epoch}/{epochs}  loss {found.loss:.4f}  accuracy: training {found.train_accuracy:.4f}, "
            f"test {found.test_accuracy:.4f}"
        )


def print_json(result: tp.training.Result, out: Path | None) -> None:
    found = {name: getattr(result, name) for name in ("device", "kept", "test_accuracy", "seconds")}
    print(json.dumps({"out": str(out), **found, "records": [record._asdict() for record in result.records]}))


def print_result(result: tp.training.Result, out: Path | None, quiet: bool) -> None:
    loss = "after each update, as in the book" if result.config.log_loss == "after" else "of the step itself"
    spent = {name: seconds for name, seconds in result.seconds.items() if seconds >= 0.005}
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items())
    kept = f"the {result.kept} step's weights"
    if result.kept == "mean":
        last = result.records[-2].test_accuracy
        kept = f"the mean of the last epoch's weights, {last:.4f} with those of the last step"
    elif result.config.keeps_mean:
        kept += ", which are better on the training images than the mean of the last epoch's"
    print(f"test accuracy {result.test_accuracy:.4f} on all {len(result.predictions)} test images with {kept}")
    if quiet:
        return
    print(f"losses are {loss}")
    print(f"{result.device}: {times}")
    print(f"saved in {out}; python scripts/evaluate.py {shlex.quote(str(out))} shows the mistakes")
