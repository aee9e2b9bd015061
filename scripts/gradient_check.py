"""Run the book's gradient check on the NumPy reference and both PyTorch ports: python scripts/gradient_check.py"""

import sys

from torchport.commands import cli, gradient_check

if __name__ == "__main__":
    sys.exit(cli.run(gradient_check.main))
