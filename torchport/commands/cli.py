"""What every script does alike: devices and dtypes by name, and one line instead of a traceback for bad input."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from torchport.choices import ACTIVATIONS, AFFINE, FLATTEN, KERNELS
from torchport.data import DataError
from torchport.data.preparation import HELP as IMAGES_HELP, Preparation

if TYPE_CHECKING:
    from torchport.files import Hints

T = TypeVar("T")

BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141  # exit statuses
LARGEST = 2**32 - 1  # NumPy's largest seed, and more than anything that is counted


class Parser(argparse.ArgumentParser):
    """A parser that keeps a docstring's lines in its help, and tells what is wrong with an argument in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One line on standard error, and status 2."""
        self.exit(BAD_INPUT, f"error: {message} (--help says more)\n")


def run(main: Callable[[], int]) -> int:
    """main's exit status; on bad input one line on standard error and status 2, on Ctrl-C 130, on a closed pipe 141."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process lives
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has ignored by what it starts with &
    formatted = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"  # without our own line
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes what is left
        return CLOSED_PIPE
    except (ValueError, TypeError, OSError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"error: not enough memory for these sizes ({reason})", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        warnings.formatwarning = formatted


def _out_of_memory(error: Exception) -> bool:
    """Also torch's own: on CUDA a class of errors, which only those know who have imported torch; on the CPU a text."""
    known = (MemoryError, sys.modules["torch"].OutOfMemoryError) if "torch" in sys.modules else MemoryError
    return isinstance(error, known) or "can't allocate memory" in str(error)


def told(parse: Callable[[str], T]) -> Callable[[str], T]:
    """argparse type: parse, whose ValueError is told."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


@told
def device(name: str) -> str:
    """argparse type: a torch device that this machine has."""
    from torchport.checks import check_computing_device

    return check_computing_device(name)


@told
def path(text: str) -> Path:
    """argparse type: a path, which a shell's variable that is not set does not give."""
    if not text:
        raise ValueError("must be a name, got ''")
    return Path(text)


def count(minimum: int) -> Callable[[str], int]:
    """argparse type: an int of at least minimum."""

    @told
    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < minimum:
            raise ValueError(f"must be a whole number of at least {minimum}, got {text!r}")
        if int(text) > LARGEST:
            raise ValueError(f"must be at most {LARGEST}, got {text!r}")
        return int(text)

    return parse


def add_field(parser: argparse.ArgumentParser, option: Field[Any]) -> None:
    """The option of a configuration's field, with its help; left out of the namespace where it was not given."""
    about, flag = option.metadata, f"--{option.name.replace('_', '-')}"
    text = about["help"] if option.default is None else f"{about['help']} (default: {option.default})"
    if option.type == "bool":
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=about["help"])
        return
    kind: Callable[[str], Any] = str if about["choices"] or "str" in str(option.type) else number
    if about["minimum"] is not None:
        kind = count(about["minimum"])
    metavar = None if about["choices"] else option.name.upper()
    parser.add_argument(
        flag, type=kind, choices=about["choices"], metavar=metavar, default=argparse.SUPPRESS, help=text
    )


@told
def number(text: str) -> float:
    """argparse type: a float."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number, got {text!r}") from None


def refuse(parser: argparse.ArgumentParser, wrong: Mapping[str, object]) -> None:
    """Exit with status 2 and the first message, of those that say what options would be ignored, that is true."""
    for message, is_wrong in wrong.items():
        if is_wrong:
            parser.error(message)


def add_images(parser: argparse._ActionsContainer, default: str) -> None:
    """--images, None where it is not given."""
    about = f"{IMAGES_HELP} (default: {default})"
    parser.add_argument("--images", "--preprocess", type=told(Preparation.parse), metavar="HOW", help=about)


def add_windows(parser: argparse._ActionsContainer, whose: str = "") -> None:
    """--stride and --pad."""
    parser.add_argument("--stride", type=count(1), default=1, help=f"{whose}in pixels (default: 1)")
    parser.add_argument("--pad", type=count(0), default=0, help=f"{whose}in pixels (default: 0)")


def add_output(parser: argparse.ArgumentParser, quiet: str, json: str = "") -> None:
    """--quiet and, where there are numbers to read, --json, and what each prints."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--quiet", action="store_true", help=f"print {quiet} only, and no progress")
    if json:
        one.add_argument("--json", action="store_true", help=f"print {json} as JSON, and nothing else")


def add_hints(parser: argparse._ActionsContainer) -> None:
    """What a file of weights cannot tell, by the fields of files.Hints."""
    group = parser.add_argument_group("what a file of weights cannot tell")
    add_windows(group, "of SimpleConvNet's convolution, ")
    about = "between layers (default: relu, of chapter 3's 784-50-100-10 sigmoid, of LeNet5 tanh)"
    group.add_argument("--activation", choices=ACTIVATIONS, help=about)
    about = "convolutions that a 2x2 pooling follows, as 1,2, or none (default: so that images have 28 pixels a side)"
    group.add_argument("--pool", type=numbers, metavar="N,N", help=about)
    about = "order in which the first Affine takes an image's values: hwc as in Keras (default: chw)"
    group.add_argument("--flatten", choices=FLATTEN, help=about)
    about = "axes of convolution weights: hwio as Keras has them (default: what the biases tell, or oihw)"
    group.add_argument("--kernels", choices=KERNELS, help=about)
    about = "axes of Affine weights: in-out for x @ W, out-in for torch's Linear (default: what names and biases tell)"
    group.add_argument("--affine", choices=AFFINE, help=about)
    about = "the layers' names, first to last, without what is none (default: all, as shapes and numbers tell)"
    group.add_argument("--order", type=names, metavar="NAME,NAME", help=about)
    about = "which part of a checkpoint, or how its keys begin (default: the one that is a network)"
    group.add_argument("--part", metavar="KEY", help=about)


def hints(args: argparse.Namespace) -> Hints:
    """What add_hints asked for."""
    from torchport.files import Hints

    return Hints(**{name: getattr(args, name) for name in Hints.__dataclass_fields__})


def names(text: str) -> list[str]:
    """argparse type: names between commas."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """argparse type: whole numbers between commas, or none."""
    return [] if text == "none" else [count(1)(each) for each in names(text)]
