"""Compare the NumPy reference with both PyTorch ports: python scripts/parity_report.py

Of other networks too; AlexNet of the full size takes minutes and gigabytes, for which a batch of two is enough:
    python scripts/parity_report.py --network AlexNet --batch-size 2
Exit status: 0 parity, 1 no parity, 2 bad input.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from numpy_ref.checks import Array
from torchport import cli
from torchport.architectures import NETWORKS, OF_IMAGES, recognise
from torchport.data import mnist
from torchport.evaluation import evaluate_ports
from torchport.formats import load_weights
from torchport.parity import Setting
from torchport.parity.cases import check_ports, seeded_batch, seeded_params
from torchport.parity.page import all_agree, save

F64, F32 = torch.float64, torch.float32
# --dtype to parameters and mode.
DTYPES = {
    "float64": [(F64, "ieee")],
    "float32": [(F32, "ieee")],
    "both": [(F64, "ieee"), (F32, "ieee")],
    "tf32": [(F32, "tf32")],
    "bfloat16": [(F32, "bfloat16")],
}


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
        params = load_weights(args.params)
        images, labels = mnist(train=False, data_dir=args.data_dir)
        x, t = images[: args.batch_size] / 255, labels[: args.batch_size]
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    settings = [Setting(dtype, args.device, mode) for dtype, mode in DTYPES[args.dtype]]
    reports = check_ports(params, x, t, settings, seed=args.seed, **geometry)
    for report in reports:
        print(f"{report.port}, {report.dtype}, {report.device}\n{report.to_text()}\n")
    evaluation = None
    if images is not None and labels is not None:
        judged = evaluate_ports(params, images, labels, device=args.device, **geometry)
        print(f"{judged.to_text()}\n")
        evaluation = asdict(judged)
    if args.out is not None:
        command = shlex.join(["python", "scripts/parity_report.py", *sys.argv[1:]])
        for path in save(args.out, reports, command=command, evaluation=evaluation):
            print(f"wrote {path}")
    for report in reports:
        print(report.verdict)
    ok = all_agree(reports, evaluation)
    print("PARITY" if ok else "NO PARITY")
    return 0 if ok else 1


def seeded(args: argparse.Namespace) -> tuple[dict[str, Array], Array, Array]:
    """Weights of the network that args names, and images and labels for it."""
    network = NETWORKS[args.network](**({} if args.width is None else {"width": args.width}))
    found = recognise(network.params)
    batch = seeded_batch(args.seed, args.batch_size, found.input_shape, found.classes)
    return seeded_params(args.seed, network.params), *batch


if __name__ == "__main__":
    sys.exit(cli.run(main))
