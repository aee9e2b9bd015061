"""The book's gradient check, of the NumPy reference and both PyTorch ports: python scripts/gradient_check.py

Central differences of the reference's loss on the book's small network (section 7.5), against the gradient that each
implementation computes. "mean difference" is what the book prints, and nothing to judge by: it contains what a relu or
a pooling window does that changes sides within the step ("kinks" counts these entries), and the 1e-7 that the loss has
and its gradient has not. The verdict rests on every entry's own limit, at a smaller step where there is a kink; "set
aside" are those with one within the smallest. Exit status: 0 right, 1 wrong, 2 bad input.
"""

from __future__ import annotations

import argparse

import torchport as tp
from torchport.choices import CONVOLUTIONS
from torchport.commands import cli


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--device", type=cli.device, default="cpu", help="of the ports (default: cpu)")
    parser.add_argument("--batch-size", type=cli.count(1), default=1, help="images (default: 1, as in the book)")
    parser.add_argument("--seed", type=cli.count(0), default=0, help="of weights and images (default: 0)")
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
    checks = {name: tp.parity.gradients.judge_gradients(differences, found) for name, found in gradients.items()}
    for name, rows in {} if args.quiet else checks.items():
        print(f"{name}\n{tp.parity.gradients.gradient_table(rows)}\n")
    print(tp.parity.gradients.gradient_verdict(checks))
    return 0 if all(row.ok for rows in checks.values() for row in rows) else 1
