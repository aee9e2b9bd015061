"""Compare the NumPy reference with both PyTorch ports, or with your own port: python scripts/parity_report.py"""

import sys

from torchport.commands import cli, parity_report

if __name__ == "__main__":
    sys.exit(cli.run(parity_report.main))
