"""Compare the NumPy reference with both PyTorch ports, or with your own: python scripts/parity_report.py

Your own port is any torch.nn.Module. It is built without arguments, given the weights in the order in which it uses its
parameters, and judged layer by layer:
    python scripts/parity_report.py --port mynet.py:Net --params params.pkl
Loading a user's file is running it: do not give it a file that you do not trust.

Of other networks too; AlexNet of the full size takes minutes and gigabytes, for which a batch of two is enough:
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

# --dtype to that of the parameters, and how products are computed.
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

SUSPICIOUS = 0.5  # of a limit, at least
PIXELS = 28 * 28  # of MNIST's images


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    about = "your own: FILE.py:NAME or package.module:NAME, a class or a function that builds it; runs that file"
    parser.add_argument("--port", metavar="SPEC", help=about)
    about = "of your own port: nll_loss where it ends in log_softmax (default: book, with 1e-7 in its log)"
    parser.add_argument("--loss", choices=LOSSES, help=about)
    about = "weights of any of the book's networks, from any file that port_params.py reads; default: seeded"
    parser.add_argument("weights", type=Path, nargs="?", help=about)
    parser.add_argument("--params", type=Path, metavar="FILE", help="the same as WEIGHTS")
    parser.add_argument("--network", choices=OF_IMAGES, help="with seeded weights (default: SimpleConvNet)")
    parser.add_argument("--width", type=cli.number, help="of AlexNet's layers, 1 for the paper's (default: 1)")
    about = "MNIST for --params (default: $TORCHPORT_DATA or data/; with --port and neither, seeded images)"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=about)
    about = "of the ports: tf32 is CUDA's, bfloat16 autocast (default: both; your own port's as it is built)"
    parser.add_argument("--dtype", choices=DTYPES, help=about)
    parser.add_argument("--device", type=cli.device, default="cpu", help="of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=32, help="images compared (default: 32)")
    parser.add_argument("--seed", type=cli.count(0), default=0, help="of weights, images, gradients (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write report.html and report.json there")
    cli.add_output(parser, "the verdicts", "the report")
    parser.add_argument("--rows", action="store_true", help="print all that was compared, not only what is suspicious")
    cli.add_images(parser, "with --params of a run, as it was trained, else unit")
    cli.add_hints(parser)
    return checked(parser, parser.parse_args())


def checked(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """args with what they stand for where they were left out; what does not go together is refused."""
    seeded = not (args.weights or args.params)
    wide = args.width is not None
    wrong = {
        "--params is the same as WEIGHTS: leave out one of the two": args.weights and args.params,
        "--network is for seeded weights: leave out one of --network and --params": args.network and not seeded,
        "--width is AlexNet's: leave it out, or give --network AlexNet": wide and args.network != "AlexNet",
        "--data-dir goes with --params: seeded weights are not evaluated on MNIST": args.data_dir and seeded,
        "--images goes with --params: seeded images are not prepared": args.images and seeded,
        "--loss is your own port's: give --port, or leave it out": args.loss and not args.port,
    }
    cli.refuse(parser, wrong)
    args.params, args.network = args.params or args.weights, args.network or "SimpleConvNet"
    args.progress = not (args.quiet or args.json)
    return args


def main() -> int:
    args = parse_arguments()
    build = None if args.port is None else own_code.builder(args.port)
    case = given(args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    reports = judged(args, case) if build is None else judged_port(args, build, case)
    evaluation = evaluated(args, build, case) if build is None or all(reports) else None
    record = tp.parity.page.to_dict(
        [report.to_dict() for report in reports],
        command=shlex.join(["python", "scripts/parity_report.py", *sys.argv[1:]]),
        evaluation=None if evaluation is None else asdict(evaluation),
        about=about(args, case),
    )
    written = [] if args.out is None else tp.parity.page.save(args.out, record)
    ok = all(reports) and (evaluation is None or evaluation.ok)
    if args.json:
        print(json.dumps(record))
        return 0 if ok else 1
    if not args.quiet:
        tell(args, reports, evaluation)
        print("".join(f"wrote {path}\n" for path in written), end="")
    print(*(report.verdict for report in reports), "PARITY" if ok else "NO PARITY", sep="\n")
    return 0 if ok else 1


def tell(args: argparse.Namespace, reports: Sequence[tp.parity.Report], evaluation: Evaluation | None) -> None:
    """Print all that was found but the verdicts."""
    for report in reports:
        show(report, args.rows)
    if evaluation is not None:
        print(f"{evaluation.to_text()}\n")
    if evaluation is not None and evaluation.low:
        print(f"hint: python scripts/evaluate.py {args.params} tries how else images may have been given\n")


class Case(NamedTuple):
    """What is compared on, and the test set (uint8) that it comes from; seeded images come from none."""

    weights: tp.networks.Weights
    x: Array
    t: Array
    test: tuple[Array, Array] | None


def given(args: argparse.Namespace) -> Case:
    """Weights from a file, with MNIST's test images where those are asked for and fit; else seeded ones."""
    if args.params is None:
        network = tp.networks.NETWORKS[args.network](**({} if args.width is None else {"width": args.width}))
        hints = cli.hints(args)
        weights = tp.networks.Weights.of(tp.parity.cases.seeded_params(args.seed, network.params), hints.geometry)
    else:
        weights = tp.files.read_weights(args.params, cli.hints(args), dtype=torch_dtype(args))
        args.images = args.images or Preparation.parse(weights.source.trained.get("images", "unit"))
    found = weights.architecture
    asked = args.data_dir is not None or (os.environ.get(DATA_VARIABLE) and math.prod(found.input_shape) == PIXELS)
    if args.params is None or (args.port is not None and not asked):
        batch = tp.parity.cases.seeded_batch(args.seed, args.batch_size, found.input_shape, found.classes)
        return Case(weights, *batch, None)
    images, labels = mnist(train=False, data_dir=args.data_dir)
    tp.evaluation.check_takes(found, images, labels)
    x = args.images.apply(images[: args.batch_size].astype(np.float64), np.float64)
    if args.port is not None:
        x = x.reshape(len(x), *found.input_shape)
    return Case(weights, x, labels[: args.batch_size], (images, labels))


def judged(args: argparse.Namespace, case: Case) -> Sequence[tp.parity.Report]:
    """Both ports, in every dtype that is asked for."""
    settings = [
        tp.parity.Setting(tp.networks.DTYPES[np.dtype(name)], args.device, mode)
        for name, mode in DTYPES[args.dtype or "both"]
    ]
    return tp.parity.cases.check_ports(*case[:3], settings, seed=args.seed, progress=args.progress)


def judged_port(args: argparse.Namespace, build: Callable[[], nn.Module], case: Case) -> Sequence[tp.parity.Report]:
    """The user's own, as it is built, or in every dtype that is asked for."""
    from torch.nn import functional

    loss = tp.softmax_with_loss if args.loss in (None, BOOK) else getattr(functional, args.loss)
    options = {"seed": args.seed, "loss": loss, "name": Path(args.port).name, "progress": args.progress}
    reference, reports = case.weights.reference(), list[tp.parity.Report]()
    for dtype, mode in DTYPES[args.dtype] if args.dtype else AS_BUILT:
        port, filled = loaded(args, build, reference, case.x, dtype)
        if args.progress and not reports:
            print(f"loaded {', '.join(filled)}\n")
        reports.append(tp.check_parity(reference, port, case.x, case.t, mode=mode, **options))
    return reports


def torch_dtype(args: argparse.Namespace) -> torch.dtype | None:
    """In which weights are read: where one is asked for, whatever a file mixes serves."""
    return None if args.dtype in (None, "both") else tp.networks.DTYPES[np.dtype(DTYPES[args.dtype][0][0])]


def loaded(
    args: argparse.Namespace, build: Callable[[], nn.Module], reference: Network, x: Array, dtype: str
) -> tuple[nn.Module, list[str]]:
    """A port of the user's with the reference's weights, in dtype ("": as it is built); and what was filled."""
    import torch

    port = build().to(args.device)
    if dtype:
        port.to(getattr(torch, dtype))
    if any(map(torch.nn.parameter.is_lazy, port.parameters())):
        with own_code.telling(f"{args.port} could not be run"), torch.no_grad():
            port(torch.tensor(x, dtype=next(port.parameters()).dtype, device=args.device))
    return port, tp.load_params(port, reference, x, prove=False).lines


def evaluated(args: argparse.Namespace, build: Callable[[], nn.Module] | None, case: Case) -> Evaluation | None:
    """Predictions on the test set, where there is one: of all ports, or of the user's, in float64."""
    if case.test is None:
        return None
    if build is None:
        options = {"preparation": args.images, "device": args.device, "progress": args.progress}
        return tp.evaluation.evaluate_ports(case.weights, *case.test, **options)
    try:
        with own_code.telling("not evaluated on the test set"):
            reference = case.weights.reference()
            port, _ = loaded(args, build, reference, case.x, "float64")
            port.register_forward_pre_hook(lambda _, given: given[0].reshape(-1, *case.x.shape[1:]))  # flat, perhaps
            networks: dict[str, Network | nn.Module] = {"numpy": reference, Path(args.port).name: port}
            return tp.evaluation.compare_predictions(networks, *case.test, preparation=args.images, progress=True)
    except ValueError as reason:  # of a port that computes in float32 alone, or returns more than one tensor
        print(f"{reason}\n")
        return None


def show(report: tp.parity.Report, all_rows: bool) -> None:
    """Print what is wrong with a port or must be known of it, and the rows near to their limits, or all."""
    print("".join(f"note: {note}\n" for note in report.notes) if report else f"{report}\n", end="")
    rows = report.rows if all_rows else [row for row in report.rows if row.ok and row.size > SUSPICIOUS]
    if rows:
        print(f"{report.port}, {report.dtype}, {report.device}\n{report.to_text(rows)}\n")


def about(args: argparse.Namespace, case: Case) -> dict[str, str]:
    """What was compared, for the head of the page."""
    weights, data = args.params or f"{args.network}, seed {args.seed}", f"normal, seed {args.seed}"
    if args.params is not None and args.params.is_file():
        weights = f"{weights} (sha256 {hashlib.sha256(args.params.read_bytes()).hexdigest()[:16]})"
    if case.test is not None:
        how = "0 to 1" if str(args.images) == "unit" else f"as {args.images}"
        data = f"the first {len(case.x)} test images of MNIST, {how}"
    return {"weights": str(weights), "data": data, "batch": " x ".join(map(str, case.x.shape))}
