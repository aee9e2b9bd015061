"""Read mutants of valid params.pkl files, which must be accepted or refused, and nothing else:

    python scripts/fuzz_reader.py --cases 1000000 --seed 0
    python scripts/fuzz_reader.py --first 4711 --cases 1 --out found   case 4711 of seed 0 again, kept if it offends

Truncations, flipped bytes, splices, and changes of opcodes, of every protocol. A crash, a hang over 1 s, memory over
the bound, another exception than ParamsError, a name looked up, or wrong arrays are printed by the case's number.
Exit status: 0 none of these, 1 some, 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from numpy_ref.fuzzing import run_campaign
from numpy_ref.fuzzing.campaign import regenerate
from torchport import cli


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--cases", type=cli.count(1), default=100_000, help="how many (default: 100000)")
    parser.add_argument("--seed", type=cli.count(0), default=0, help="of the cases (default: 0)")
    parser.add_argument("--first", type=cli.count(0), default=0, help="number of the first case (default: 0)")
    parser.add_argument("--workers", type=cli.count(1), default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--out", type=Path, help="folder for the files that offend")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # now, not after hours
    with tqdm(total=args.cases, desc="fuzzing", unit="case", disable=None) as bar:
        campaign = run_campaign(
            args.cases, args.seed, args.first, args.workers, progress=lambda done: bar.update(done - bar.n)
        )
    print(campaign.to_text())
    for path in regenerate(campaign, args.out) if args.out is not None else []:
        print(f"wrote {path}")
    return 0 if campaign.ok else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
