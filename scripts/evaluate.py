"""What a network gets right and wrong on a test set: python scripts/evaluate.py WEIGHTS"""

import sys

from torchport import cli
from torchport.commands import evaluate

if __name__ == "__main__":
    sys.exit(cli.run(evaluate.main))
