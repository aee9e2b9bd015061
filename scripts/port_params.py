"""Port the book's weights to a PyTorch state_dict: python scripts/port_params.py params.pkl model.pt

The pickle is read without being run. All three networks must agree on a seeded batch before anything is written.
Exit status: 0 ported, 1 no parity, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from numpy_ref.params import read_params
from torchport import cli
from torchport.parity import Setting
from torchport.parity.cases import check_ports, seeded_batch
from torchport.weights import DTYPES as FILE_DTYPES
from torchport.weights import architecture, cast_params, rounding_loss, save_state_dict, to_state_dict

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "params", type=Path, help="pickled dict of W1 b1 W2 b2 W3 b3, as the book's save_params writes it"
    )
    parser.add_argument("output", type=Path, help="state_dict to write (.pt), for torch.load(weights_only=True)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the state_dict (default: that of the file)")
    cli.add_geometry(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.output.exists() and args.output.samefile(args.params):
        raise ValueError(f"the output must be another file than the input, got {args.output} twice")
    original = read_params(args.params)
    found = architecture(original, args.stride, args.pad)
    dtype = DTYPES[args.dtype] if args.dtype else FILE_DTYPES[original["W1"].dtype]
    params = cast_params(original, dtype)
    print(f"read {args.params}: {sum(value.size for value in original.values()):,} values, {original['W1'].dtype}")
    print(f"SimpleConvNet({', '.join(f'{name}={value}' for name, value in found.items())})")
    changed, largest = rounding_loss(original, params)
    print(f"as {dtype}: {changed:,} values rounded" + (f", by up to {largest:.1e} of themselves" if changed else ""))
    x, t = seeded_batch(seed=0, input_dim=found["input_dim"], classes=found["output_size"])
    reports = check_ports(params, x, t, [Setting(dtype)], stride=args.stride, pad=args.pad)
    print("\n".join(report.verdict for report in reports))
    if not all(report.ok for report in reports):
        print("not written: the networks do not agree", file=sys.stderr)
        return 1
    state_dict = to_state_dict(params)
    save_state_dict(state_dict, args.output)
    for key, value in state_dict.items():
        print(f"  {key}  {tuple(value.shape)}")
    print(f"wrote {args.output}: {args.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
