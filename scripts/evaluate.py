"""Show what a network gets right and wrong on a test set: python scripts/evaluate.py WEIGHTS"""

import sys

from torchport.commands import cli, evaluate

if __name__ == "__main__":
    sys.exit(cli.run(evaluate.main))
