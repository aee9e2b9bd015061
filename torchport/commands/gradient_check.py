"""Run the book's gradient check on the NumPy reference and both PyTorch ports: python scripts/gradient_check.py

The gradients that each implementation computes are compared with central differences of the reference's loss, on the
book's small network (section 7.5). "mean difference" is what the book prints, but it cannot decide: it also contains
kinks, where a relu or a pooling window changes sides within the step ("kinks" counts these entries), and the 1e-7 in
the book's loss, which its gradient ignores. So the verdict compares every entry with a limit of its own, with a smaller
step if there is a kink; entries with a kink within even the smallest step are "set aside".
Exit status: 0 right, 1 wrong, 2 bad input.
"""

from __future__ import annotations

import argparse

import torchport as tp
from torchport.choices import CONVOLUTIONS
from torchport.commands import cli


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--device", type=cli.device, default="cpu", help="device of the ports (default: cpu)")
    parser.add_argument(
        "--batch-size", type=cli.count(1), default=1, help="number of images (default: 1, as in the book)"
    )
    parser.add_argument("--seed", type=cli.count(0), default=0, help="seed of weights and images (default: 0)")
    cli.add_output(parser, "the verdict")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    reference, x, t = tp.parity.cases.book_gradient_case(args.seed, args.batch_size)
    differences = tp.parity.gradients.central_differences(reference, x, t)
    gradients = {"numpy": reference.gradient(x, t)}
    for conv in CONVOLUTIONS:
        port = tp.SimpleConvNet.from_params(reference.params, conv, device=args.device)
        gradients[conv] = tp.parity.gradients.port_gradients(port, x, t)
    checks = {name: tp.parity.gradients.judge_gradients(differences, grads) for name, grads in gradients.items()}
    for name, rows in {} if args.quiet else checks.items():
        print(f"{name}\n{tp.parity.gradients.gradient_table(rows)}\n")
    print(tp.parity.gradients.gradient_verdict(checks))
    return 0 if all(row.ok for rows in checks.values() for row in rows) else 1
