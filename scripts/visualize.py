"""Draw pictures of networks and of what they do: python scripts/visualize.py filters params.pkl"""

import sys

from torchport.commands import cli, visualize

if __name__ == "__main__":
    sys.exit(cli.run(visualize.main))
