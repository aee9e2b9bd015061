"""Compare the NumPy reference with both PyTorch ports: python scripts/parity_report.py

Of other networks too; AlexNet of the full size takes minutes and gigabytes, for which a batch of two is enough:
    python scripts/parity_report.py --network AlexNet --batch-size 2
Exit status: 0 parity, 1 no parity, 2 bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

import torchport as tp
from numpy_ref.checks import Array
from torchport import cli
from torchport.choices import BFLOAT16, IEEE, OF_IMAGES, TF32
from torchport.data import mnist

# --dtype to that of the parameters, and how products are computed.
DTYPES = {
    "float64": [("float64", IEEE)],
    "float32": [("float32", IEEE)],
    "both": [("float64", IEEE), ("float32", IEEE)],
    "tf32": [("float32", TF32)],
    "bfloat16": [("float32", BFLOAT16)],
}

SUSPICIOUS = 0.5  # of a limit


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="weights of any of the book's networks, from any file that port_params.py reads; default: seeded",
    )
    parser.add_argument("--network", choices=OF_IMAGES, help="with seeded weights (default: SimpleConvNet)")
    parser.add_argument("--width", type=cli.number, help="of AlexNet's layers, 1 for the paper's (default: 1)")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="MNIST for --params (default: $TORCHPORT_DATA or data/)"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="both",
        help="of the ports: tf32 is CUDA's, bfloat16 autocast (default: both)",
    )
    parser.add_argument("--device", type=cli.device, default="cpu", help="of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=32, help="images compared (default: 32)")
    parser.add_argument("--seed", type=cli.count(0), default=0, help="of weights, images, gradients (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write report.html and report.json there")
    parser.add_argument("--rows", action="store_true", help="print all that was compared, not only what is suspicious")
    cli.add_geometry(parser)
    args = parser.parse_args()
    if args.params is not None and args.network is not None:
        parser.error("--network is for seeded weights: leave out one of --network and --params")
    args.network = args.network or "SimpleConvNet"
    if args.width is not None and args.network != "AlexNet":
        parser.error("--width is AlexNet's: leave it out, or give --network AlexNet")
    if args.data_dir is not None and args.params is None:
        parser.error("--data-dir goes with --params: seeded weights are not evaluated on MNIST")
    return args


def main() -> int:
    args = parse_arguments()
    geometry = {"stride": args.stride, "pad": args.pad, "activation": args.activation}
    images = labels = None
    if args.params is None:
        params, x, t = seeded(args)
    else:
        params = tp.formats.load_weights(args.params)
        images, labels = mnist(train=False, data_dir=args.data_dir)
        x, t = images[: args.batch_size] / 255, labels[: args.batch_size]
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    dtypes = tp.weights.DTYPES
    settings = [tp.parity.Setting(dtypes[np.dtype(name)], args.device, mode) for name, mode in DTYPES[args.dtype]]
    reports = tp.parity.cases.check_ports(params, x, t, settings, seed=args.seed, progress=True, **geometry)
    for report in reports:
        show(report, args.rows)
    evaluation = None
    if images is not None and labels is not None:
        judged = tp.evaluation.evaluate_ports(params, images, labels, device=args.device, progress=True, **geometry)
        print(f"{judged.to_text()}\n")
        evaluation = asdict(judged)
    record = tp.parity.page.to_dict(
        [report.to_dict() for report in reports],
        command=shlex.join(["python", "scripts/parity_report.py", *sys.argv[1:]]),
        evaluation=evaluation,
        about=about(args, x),
    )
    if args.out is not None:
        for path in tp.parity.page.save(args.out, record):
            print(f"wrote {path}")
    for report in reports:
        print(report.verdict)
    print("PARITY" if record["ok"] else "NO PARITY")
    return 0 if record["ok"] else 1


def show(report: tp.parity.Report, all_rows: bool) -> None:
    """Print what is wrong with a port, and the rows that take more than half of their limit, or all."""
    if not report.ok:
        print(f"{report}\n")
    rows = report.rows if all_rows else [row for row in report.rows if row.ok and row.size > SUSPICIOUS]
    if rows:
        print(f"{report.port}, {report.dtype}, {report.device}\n{report.to_text(rows)}\n")


def about(args: argparse.Namespace, x: Array) -> dict[str, str]:
    """What was compared, for the head of the page."""
    weights, data = f"{args.network}, seed {args.seed}", f"normal, seed {args.seed}"
    if args.params is not None:
        weights, data = str(args.params), f"the first {len(x)} test images of MNIST, 0 to 1"
    if args.params is not None and args.params.is_file():
        weights += f" (sha256 {hashlib.sha256(args.params.read_bytes()).hexdigest()[:16]})"
    return {"weights": weights, "data": data, "batch": " x ".join(map(str, x.shape))}


def seeded(args: argparse.Namespace) -> tuple[dict[str, Array], Array, Array]:
    """Weights of the network that args names, and images and labels for it."""
    network = tp.architectures.NETWORKS[args.network](**({} if args.width is None else {"width": args.width}))
    found = tp.architectures.recognise(network.params)
    batch = tp.parity.cases.seeded_batch(args.seed, args.batch_size, found.input_shape, found.classes)
    return tp.parity.cases.seeded_params(args.seed, network.params), *batch


if __name__ == "__main__":
    sys.exit(cli.run(main))
