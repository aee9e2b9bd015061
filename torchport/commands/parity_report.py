"""Compare the NumPy reference with both PyTorch ports, or with your own port: python scripts/parity_report.py

Your own port is any torch.nn.Module. It is built without arguments, filled with the weights in the order in which it
uses its parameters, and judged layer by layer. If it copies the weights itself, its own copies are judged:
    python scripts/parity_report.py --port mynet.py:Net --params params.pkl
This runs your file, so only give files that you trust.

Other networks can be compared, too. AlexNet in full size takes minutes and gigabytes; two images are enough for it:
    python scripts/parity_report.py --network AlexNet --batch-size 2
Exit status: 0 parity, 1 no parity, 2 bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import torchport as tp
from numpy_ref.checks import Array
from torchport.choices import BFLOAT16, IEEE, OF_IMAGES, TF32, Mode
from torchport.commands import cli, own_code
from torchport.data import DATA_VARIABLE, mnist
from torchport.data.preparation import Preparation

if TYPE_CHECKING:
    import torch
    from torch import nn

    from numpy_ref.network import Network
    from torchport.evaluation import Evaluation

# What --dtype means: the dtype of the parameters, and how products are computed.
DTYPES: dict[str, list[tuple[str, Mode]]] = {
    "float64": [("float64", IEEE)],
    "float32": [("float32", IEEE)],
    "both": [("float64", IEEE), ("float32", IEEE)],
    "tf32": [("float32", TF32)],
    "bfloat16": [("float32", BFLOAT16)],
}
AS_BUILT: list[tuple[str, Mode]] = [("", IEEE)]

BOOK = "book"
LOSSES = (BOOK, "cross_entropy", "nll_loss")  # of torch.nn.functional

SUSPICIOUS = 0.5  # error/limit from which a row is printed
PIXELS = 28 * 28  # of one of MNIST's images


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    about = "your own port: FILE.py:NAME or package.module:NAME, a class or a function that builds it; runs that file"
    parser.add_argument("--port", metavar="SPEC", help=about)
    about = "loss for your own port: nll_loss if it ends in log_softmax (default: book, with 1e-7 inside the log)"
    parser.add_argument("--loss", choices=LOSSES, help=about)
    about = "weights of any of the book's networks, in any file that port_params.py reads (default: seeded weights)"
    parser.add_argument("weights", type=Path, nargs="?", help=about)
    parser.add_argument("--params", type=Path, metavar="FILE", help="the same as WEIGHTS")
    parser.add_argument("--network", choices=OF_IMAGES, help="network for seeded weights (default: SimpleConvNet)")
    parser.add_argument("--width", type=cli.number, help="AlexNet's width in multiples of the paper's (default: 1)")
    about = "folder of MNIST, for --params (default: $TORCHPORT_DATA, else data/, but seeded images for --port)"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=about)
    about = "of the ports; tf32 needs CUDA, bfloat16 is autocast (default: both; your own port's as it is built)"
    parser.add_argument("--dtype", choices=DTYPES, help=about)
    parser.add_argument("--device", type=cli.device, default="cpu", help="device of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=32, help="number of images (default: 32)")
    parser.add_argument("--seed", type=cli.count(0), default=0, help="of weights, images and gradients (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write report.html and report.json there")
    cli.add_output(parser, "the verdicts", "the report")
    parser.add_argument("--rows", action="store_true", help="print all comparisons, not only those near their limits")
    cli.add_images(parser, "as the run of --params was trained, else unit")
    cli.add_hints(parser)
    return check_arguments(parser, parser.parse_args())


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """args with defaults filled in; exits with an error if options contradict each other."""
    seeded = not (args.weights or args.params)
    width_given = args.width is not None
    errors = {
        "--params is the same as WEIGHTS: leave out one of the two": args.weights and args.params,
        "--network is for seeded weights: leave out one of --network and --params": args.network and not seeded,
        "--width is AlexNet's: leave it out, or give --network AlexNet": width_given and args.network != "AlexNet",
        "--data-dir goes with --params: seeded weights are not evaluated on MNIST": args.data_dir and seeded,
        "--images goes with --params: seeded images are not prepared": args.images and seeded,
        "--loss is your own port's: give --port, or leave it out": args.loss and not args.port,
    }
    cli.refuse(parser, errors)
    args.params, args.network = args.params or args.weights, args.network or "SimpleConvNet"
    args.progress = not (args.quiet or args.json)
    return args


def main() -> int:
    args = parse_arguments()
    build = None if args.port is None else own_code.builder(args.port)
    case = load_case(args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    reports = check_both_ports(args, case) if build is None else check_own_port(args, build, case)
    evaluation = evaluate(args, build, case) if build is None or all(reports) else None
    record = tp.parity.page.to_dict(
        [report.to_dict() for report in reports],
        command=shlex.join(["python", "scripts/parity_report.py", *sys.argv[1:]]),
        evaluation=None if evaluation is None else asdict(evaluation),
        about=describe(args, case),
    )
    written = [] if args.out is None else tp.parity.page.save(args.out, record)
    ok = all(reports) and (evaluation is None or evaluation.ok)
    if args.json:
        print(json.dumps(record))
        return 0 if ok else 1
    if not args.quiet:
        print_details(args, reports, evaluation)
        print("".join(f"wrote {path}\n" for path in written), end="")
    print(*(report.verdict for report in reports), "PARITY" if ok else "NO PARITY", sep="\n")
    return 0 if ok else 1


def print_details(args: argparse.Namespace, reports: Sequence[tp.parity.Report], evaluation: Evaluation | None) -> None:
    """Print notes, rows and the evaluation: everything but the verdicts."""
    for report in reports:
        print_report(report, args.rows)
    if evaluation is not None:
        print(f"{evaluation.to_text()}\n")
    if evaluation is not None and evaluation.low:
        print(f"hint: python scripts/evaluate.py {args.params} tries other preparations of the images\n")


class Case(NamedTuple):
    """The weights and the batch to compare on, and the test set that the batch comes from."""

    weights: tp.networks.Weights
    x: Array
    t: Array
    test_set: tuple[Array, Array] | None  # images uint8 and labels; None if x is seeded


def load_case(args: argparse.Namespace) -> Case:
    """Weights from --params, with MNIST's test images (with --port: only if a folder is given); else a seeded case."""
    hints = cli.hints(args)
    if args.params is None:
        network = tp.networks.NETWORKS[args.network](**({} if args.width is None else {"width": args.width}))
        weights = tp.networks.Weights.of(tp.parity.cases.seeded_params(args.seed, network.params), hints.geometry)
    else:
        weights = tp.files.read_weights(args.params, hints, dtype=torch_dtype(args))
        args.images = args.images or Preparation.parse(weights.source.trained.get("images", "unit"))
    input_shape, classes = weights.architecture.input_shape, weights.architecture.classes
    wants_mnist = args.data_dir is not None or (os.environ.get(DATA_VARIABLE) and math.prod(input_shape) == PIXELS)
    if args.params is None or (args.port is not None and not wants_mnist):
        batch = tp.parity.cases.seeded_batch(args.seed, args.batch_size, input_shape, classes)
        return Case(weights, *batch, None)
    images, labels = mnist(train=False, data_dir=args.data_dir)
    tp.evaluation.check_takes(weights.architecture, images, labels)
    x = args.images.apply(images[: args.batch_size].astype(np.float64), np.float64)
    if args.port is not None:
        x = x.reshape(len(x), *input_shape)
    return Case(weights, x, labels[: args.batch_size], (images, labels))


def check_both_ports(args: argparse.Namespace, case: Case) -> Sequence[tp.parity.Report]:
    """Reports of both ports in every dtype of --dtype."""
    settings = [
        tp.parity.Setting(tp.networks.DTYPES[np.dtype(name)], args.device, mode)
        for name, mode in DTYPES[args.dtype or "both"]
    ]
    return tp.parity.cases.check_ports(*case[:3], settings, seed=args.seed, progress=args.progress)


def check_own_port(args: argparse.Namespace, build: Callable[[], nn.Module], case: Case) -> Sequence[tp.parity.Report]:
    """Reports of the user's port in every dtype of --dtype; without it, in the dtype in which it is built."""
    from torch.nn import functional

    loss = tp.softmax_with_loss if args.loss in (None, BOOK) else getattr(functional, args.loss)
    options = {"seed": args.seed, "loss": loss, "name": Path(args.port).name, "progress": args.progress}
    reference, reports = case.weights.reference(), list[tp.parity.Report]()
    for dtype, mode in DTYPES[args.dtype] if args.dtype else AS_BUILT:
        port, loaded = own_code.load_port(args.port, build, reference, case.x, args.device, dtype)
        if args.progress and not reports:
            print(f"{loaded}\n")
        reports.append(tp.check_parity(reference, port, case.x, case.t, mode=mode, **options))
    return reports


def torch_dtype(args: argparse.Namespace) -> torch.dtype | None:
    """The dtype to read weights in; None to keep the file's."""
    return None if args.dtype in (None, "both") else tp.networks.DTYPES[np.dtype(DTYPES[args.dtype][0][0])]


def evaluate(args: argparse.Namespace, build: Callable[[], nn.Module] | None, case: Case) -> Evaluation | None:
    """Predictions of the reference and both ports, or of the user's port in float64; None without a test set."""
    if case.test_set is None:
        return None
    if build is None:
        options = {"preparation": args.images, "device": args.device, "progress": args.progress}
        return tp.evaluation.evaluate_ports(case.weights, *case.test_set, **options)
    try:
        with own_code.errors_in_one_line("not evaluated on the test set"):
            reference = case.weights.reference()
            port, _ = own_code.load_port(args.port, build, reference, case.x, args.device, "float64")
            port.register_forward_pre_hook(lambda _, inputs: inputs[0].reshape(-1, *case.x.shape[1:]))  # maybe flat
            networks: dict[str, Network | nn.Module] = {"numpy": reference, Path(args.port).name: port}
            return tp.evaluation.compare_predictions(
                networks, *case.test_set, preparation=args.images, progress=args.progress
            )
    except ValueError as reason:  # the port computes in float32 only, or returns more than one tensor
        print(f"{reason}\n")
        return None


def print_report(report: tp.parity.Report, all_rows: bool) -> None:
    """Print the report of a failure or else its notes, then all rows, or only those near their limits."""
    print("".join(f"note: {note}\n" for note in report.notes) if report else f"{report}\n", end="")
    rows = report.rows if all_rows else [row for row in report.rows if row.ok and row.size > SUSPICIOUS]
    if rows:
        print(f"{report.port}, {report.dtype}, {report.device}\n{report.to_text(rows)}\n")


def describe(args: argparse.Namespace, case: Case) -> dict[str, str]:
    """What was compared, for the head of the report's page."""
    weights, data = args.params or f"{args.network}, seed {args.seed}", f"normal, seed {args.seed}"
    if args.params is not None and args.params.is_file():
        weights = f"{weights} (sha256 {hashlib.sha256(args.params.read_bytes()).hexdigest()[:16]})"
    if case.test_set is not None:
        preparation = "0 to 1" if str(args.images) == "unit" else f"as {args.images}"
        data = f"the first {len(case.x)} test images of MNIST, {preparation}"
    return {"weights": str(weights), "data": data, "batch": " x ".join(map(str, case.x.shape))}
