"""Prove that the parity checks catch bugs, and raise no false alarm:

    python scripts/planted_bugs.py               every planted bug, as a Markdown table
    python scripts/planted_bugs.py --clean 1000  unmodified ports on random cases: alarms, and largest error/limit

Exit status: 0 all caught at the right layer (no alarm), 1 not, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys

from tqdm import tqdm

import torchport as tp
from torchport import cli


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--clean", type=cli.count(1), metavar="N", help="judge N unmodified cases instead")
    parser.add_argument("--device", type=cli.device, help="of the --clean cases (default: cpu)")
    parser.add_argument("--seed", type=cli.count(0), help="of the first --clean case (default: 0)")
    args = parser.parse_args()
    if args.clean is None and (args.device is not None or args.seed is not None):
        parser.error("--device and --seed go with --clean: the planted bugs run on the CPU, from fixed seeds")
    return args


def main() -> int:
    args = parse_arguments()
    if args.clean is not None:
        return report_clean(args)
    bugs = tqdm(tp.parity.catalogue.BUGS, desc="planted bugs", unit="bug", disable=None)
    findings = [tp.parity.planted.find(bug) for bug in bugs]
    print("| bug | blamed | caught by | error/limit, float64 | float32 |\n|---|---|---|---|---|")
    for finding in findings:
        print(finding.to_markdown())
    caught = sum(finding.ok for finding in findings)
    print(f"\n{caught} of {len(findings)} bugs caught at the right layer")
    return 0 if caught == len(findings) else 1


def report_clean(args: argparse.Namespace) -> int:
    device = args.device or "cpu"
    result = tp.parity.calibration.run_clean(args.clean, device, args.seed or 0, progress=True)
    print("| view | rule | arithmetic | largest error/limit |\n|---|---|---|---|")
    for (view, rule, arithmetic), ratio in sorted(result.largest.items()):
        print(f"| {view} | {rule} | {arithmetic} | {ratio:.2g} |")
    for report in result.alarms:
        print(report.verdict)
    print(f"\n{len(result.alarms)} alarms in {result.cases} clean cases on {device}")
    return 1 if result.alarms else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
