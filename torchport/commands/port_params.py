"""Port weights of the book's networks from one file to another: python scripts/port_params.py SOURCE TARGET

    python scripts/port_params.py params.pkl model.pt                   the book's weights, for torch
    python scripts/port_params.py params.pkl model.safetensors          for anything that reads safetensors
    python scripts/port_params.py params.pkl model.onnx                 for onnxruntime: pip install onnx onnxruntime
    python scripts/port_params.py runs/1 params.pkl                     a training run, for the book's own code
    python scripts/port_params.py model.pt weights.npz --dtype float32  for numpy.load, at half the size
    python scripts/port_params.py a.pkl b.pt --stride 2 --pad 1         give what the shapes cannot tell
    python scripts/port_params.py params.pkl model.pt --force           replace an old model.pt
    python scripts/port_params.py params.pkl mynet.pt --into mynet.py:Net  the state_dict of your own module
    python scripts/port_params.py --inspect params.pkl                  list what is in a file; nothing is written

No code in SOURCE is run, so it may come from a stranger. Its format is recognised by its first bytes; TARGET's suffix
gives the format to write. --into runs your file and fills your module (any torch.nn.Module) in the order in which it
uses its parameters. TARGET is written only if it reads back bit for bit and the reference and the ports agree on it;
with --into, if your module's layers with weights agree. What else differs in it, such as a missing relu, is printed.
Exit status: 0 ported, 1 no parity, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import torchport as tp
from torchport.commands import cli, own_code

DTYPES = ("float64", "float32", "float16")


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    about = "file to read (.pkl, .npz, .npy, .pt, .safetensors or .onnx), or a training run's folder"
    parser.add_argument("source", type=Path, help=about)
    parser.add_argument("target", type=Path, nargs="?", help="file to write: .pkl, .npz, .pt, .safetensors or .onnx")
    about = "dtype of TARGET (default: that of SOURCE; float32 for .onnx)"
    parser.add_argument("--dtype", choices=DTYPES, help=about)
    parser.add_argument("--force", action="store_true", help="replace TARGET if it exists")
    about = "list SOURCE's arrays and name its network, without a TARGET"
    parser.add_argument("--inspect", action="store_true", help=about)
    about = "your own module: FILE.py:NAME or package.module:NAME, a class or a function that builds it; runs that file"
    parser.add_argument("--into", metavar="SPEC", help=about)
    cli.add_output(parser, "errors")
    cli.add_hints(parser)
    args = parser.parse_args()
    own_dtype = "--into writes TARGET in your module's own dtype: leave out --inspect and --dtype"
    errors = {
        own_dtype: args.into is not None and (args.inspect or args.dtype),
        "--inspect writes nothing: leave out TARGET and --force": args.inspect and (args.target or args.force),
        "the following arguments are required: target (or give --inspect)": not (args.target or args.inspect),
    }
    cli.refuse(parser, errors)
    return args


def print_network(weights: tp.networks.Weights) -> None:
    """Print what was done to the arrays of the file, one line for each step, and the network that they make."""
    for step in weights.source.steps:
        print(step)
    print(weights.architecture)


def main() -> int:
    args = parse_arguments()
    hints, dtype = cli.hints(args), tp.networks.DTYPES[np.dtype(args.dtype)] if args.dtype else None
    if args.inspect:
        print(tp.files.listing(args.source))
        print_network(tp.files.read_weights(args.source, hints, dtype=dtype))
        return 0
    if args.into is not None:
        return port_into(args, hints)
    try:
        ported = tp.porting.port(args.source, args.target, dtype=dtype, hints=hints, force=args.force)
    except tp.porting.NoParity as error:
        print("\n".join(report.verdict for report in error.reports))
        print(f"not written: {error}", file=sys.stderr)
        return 1
    if not args.quiet:
        print_result(args, ported)
    return 0


def print_result(args: argparse.Namespace, ported: tp.porting.Ported) -> None:
    """Print what was read, what was done to it, the verdicts, and how to load the file that was written."""
    source = ported.weights.source
    print(f"read {args.source}: {ported.values:,} values, {', '.join(source.dtypes)}")
    print_network(ported.weights)
    change = f", by up to {source.largest:.1e} of themselves" if source.changed else ""
    print(f"as {str(ported.weights.dtype).removeprefix('torch.')}: {source.changed:,} values changed{change}")
    print("\n".join(ported.verdicts))
    print(f"wrote {args.target}: {args.target.stat().st_size:,} bytes, {ported.holds}. To load it and predict:")
    print(f"\n{ported.example}")


def port_into(args: argparse.Namespace, hints: tp.files.Hints) -> int:
    """Write the state_dict of the user's own module; the exit status."""
    port, weights = own_code.builder(args.into, "--into")(), tp.files.read_weights(args.source, hints)
    try:
        loaded = tp.loading.write_into(port, weights, args.target, force=args.force)
    except tp.loading.LoadError as error:
        if error.report is None:
            raise
        print(f"{error.report}\nnot written: the port does not match the reference", file=sys.stderr)
        return 1
    if not args.quiet:
        print_network(weights)
        print(loaded)
        print(f"wrote {args.target}: {args.target.stat().st_size:,} bytes, for {args.into}'s load_state_dict")
    return 0
