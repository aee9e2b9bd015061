"""Port weights of the book's networks from one file to another: python scripts/port_params.py SOURCE TARGET"""

import sys

from torchport.commands import cli, port_params

if __name__ == "__main__":
    sys.exit(cli.run(port_params.main))
