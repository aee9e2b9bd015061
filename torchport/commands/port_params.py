"""Port weights of the book's networks from one file to another: python scripts/port_params.py SOURCE TARGET

    python scripts/port_params.py params.pkl model.pt                   the book's weights, for torch
    python scripts/port_params.py params.pkl model.safetensors          for whatever reads safetensors
    python scripts/port_params.py params.pkl model.onnx                 for onnxruntime: pip install 'torchport[onnx]'
    python scripts/port_params.py runs/1 params.pkl                     trained here, for the book's own code
    python scripts/port_params.py model.pt weights.npz --dtype float32  for numpy.load, in half the size
    python scripts/port_params.py a.pkl b.pt --stride 2 --pad 1         what the shapes of the weights cannot tell
    python scripts/port_params.py params.pkl model.pt --force           in place of an old model.pt
    python scripts/port_params.py params.pkl mynet.pt --into mynet.py:Net  as the state_dict of your own module
    python scripts/port_params.py --inspect params.pkl                  what is in a file, writing nothing

Nothing in SOURCE is run, so it may come from a stranger. Its first bytes tell its format; TARGET's is its suffix.
--into is your own code, which is run: any torch.nn.Module, filled in the order in which it uses its parameters.
TARGET is written whole or not at all, once it reads back bit for bit and all three networks agree on it.
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
    about = "a params.pkl, .npz, .pt or .safetensors file, or a training run's folder"
    parser.add_argument("source", type=Path, help=about)
    parser.add_argument("target", type=Path, nargs="?", help="file to write: .pkl, .npz, .pt, .safetensors or .onnx")
    parser.add_argument("--dtype", choices=DTYPES, help="of TARGET (default: as in SOURCE; float32 for .onnx)")
    parser.add_argument("--force", action="store_true", help="replace TARGET where it exists")
    parser.add_argument("--inspect", action="store_true", help="list SOURCE's arrays and name its network: no TARGET")
    about = "your own module: FILE.py:NAME or package.module:NAME, what builds it; runs that file"
    parser.add_argument("--into", metavar="SPEC", help=about)
    cli.add_output(parser, "errors")
    cli.add_hints(parser)
    args = parser.parse_args()
    about = "--into writes TARGET in your module's own dtype: leave out --inspect and --dtype"
    wrong = {
        about: args.into is not None and (args.inspect or args.dtype),
        "--inspect writes nothing: leave out TARGET and --force": args.inspect and (args.target or args.force),
        "the following arguments are required: target (or give --inspect)": not (args.target or args.inspect),
    }
    cli.refuse(parser, wrong)
    return args


def show(weights: tp.networks.Weights) -> None:
    """What was done to the arrays of the file, a line each, and the network that they make."""
    for step in weights.source.steps:
        print(step)
    print(weights.architecture)


def main() -> int:
    args = parse_arguments()
    hints, dtype = cli.hints(args), tp.networks.DTYPES[np.dtype(args.dtype)] if args.dtype else None
    if args.inspect:
        print(tp.files.listing(args.source))
        show(tp.files.read_weights(args.source, hints, dtype=dtype))
        return 0
    if args.into is not None:
        return into(args, hints)
    try:
        done = tp.porting.port(args.source, args.target, dtype=dtype, hints=hints, force=args.force)
    except tp.porting.NoParity as error:
        print("\n".join(report.verdict for report in error.reports))
        print(f"not written: {error}", file=sys.stderr)
        return 1
    if not args.quiet:
        tell(args, done)
    return 0


def tell(args: argparse.Namespace, done: tp.porting.Ported) -> None:
    """Print what was read, what was done to it, and how to go on."""
    source = done.weights.source
    print(f"read {args.source}: {done.values:,} values, {', '.join(source.dtypes)}")
    show(done.weights)
    lost = f", by up to {source.largest:.1e} of themselves" if source.changed else ""
    print(f"as {str(done.weights.dtype).removeprefix('torch.')}: {source.changed:,} values changed{lost}")
    print("\n".join(done.verdicts))
    print(f"wrote {args.target}: {args.target.stat().st_size:,} bytes, {done.holds}. To load it and predict:")
    print(f"\n{done.example}")


def into(args: argparse.Namespace, hints: tp.files.Hints) -> int:
    """The state_dict of the user's own module."""
    port, weights = own_code.builder(args.into, "--into")(), tp.files.read_weights(args.source, hints)
    try:
        loaded = tp.loading.write_into(port, weights, args.target, force=args.force)
    except tp.loading.LoadError as error:
        if error.report is None:
            raise
        print(f"{error.report}\nnot written: the port is not what the reference is", file=sys.stderr)
        return 1
    if not args.quiet:
        show(weights)
        print(loaded)
        print(f"wrote {args.target}: {args.target.stat().st_size:,} bytes, for {args.into}'s load_state_dict")
    return 0
