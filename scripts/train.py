"""Train the book's network as the book does: python scripts/train.py"""

import sys

from torchport.commands import cli, train

if __name__ == "__main__":
    sys.exit(cli.run(train.main))
