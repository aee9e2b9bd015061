"""The commands: one module each, run by torchport NAME, python -m torchport NAME or python scripts/NAME.py."""

from __future__ import annotations

import sys
from importlib import import_module

import torchport
from torchport.commands import cli

# Each name is a module here and a file in scripts/.
COMMANDS = {
    "parity_report": "compare the NumPy reference with both ports, or with your own port",
    "train": "train one of the book's networks as the book does, on a GPU if there is one",
    "port_params": "port weights from any file to any other, or into a module of your own",
    "evaluate": "show what a network gets right and wrong, or which digit an image shows",
    "visualize": "draw filters, feature maps, im2col, mistakes, training curves",
    "gradient_check": "run the book's gradient check, with a verdict",
}


def main() -> int:
    """Run the command that the first argument names with the other arguments; its exit status, 2 for another name."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print("usage: torchport COMMAND ...\n\ncommands (torchport COMMAND --help shows the options):")
        print("\n".join(f"  {command:15} {about}" for command, about in COMMANDS.items()))
        return 0
    if name == "--version":
        print(f"torchport {torchport.__version__}")
        return 0
    if (command := name.replace("-", "_")) not in COMMANDS:
        print(f"error: command must be one of {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr)
        return cli.BAD_INPUT
    sys.argv = [f"torchport {command}", *arguments]
    return cli.run(import_module(f"torchport.commands.{command}").main)
