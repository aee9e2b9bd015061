"""What every script does alike: devices and dtypes by name, and one line instead of a traceback for bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from torchport.checks import check_device
from torchport.data import DataError

BAD_INPUT = 2  # exit status


def run(main: Callable[[], int]) -> int:
    """main's exit status; on bad input one line on standard error and status 2, on Ctrl-C status 130."""
    try:
        return main()
    except (ValueError, TypeError, OSError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (MemoryError, torch.OutOfMemoryError) as error:
        print(f"error: not enough memory for these sizes ({error})", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def device(name: str) -> str:
    """argparse type: a torch device that this machine has."""
    try:
        check_device("device", name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if name == "meta":
        raise argparse.ArgumentTypeError("device 'meta' holds no numbers: try cpu")
    return name


def count(minimum: int) -> Callable[[str], int]:
    """argparse type: an int of at least minimum."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, got {text!r}")
        return int(text)

    return parse


def add_geometry(parser: argparse.ArgumentParser) -> None:
    """--stride and --pad of the convolution, which leave no trace in the parameters."""
    parser.add_argument("--stride", type=count(1), default=1, help="of the convolution, in pixels (default: 1)")
    parser.add_argument("--pad", type=count(0), default=0, help="of the convolution, in pixels (default: 0)")
