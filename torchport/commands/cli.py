"""What all commands share: argument types, options that several of them take, and one-line errors for bad input."""

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
LARGEST = 2**32 - 1  # NumPy's largest seed; no other count needs to be larger


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that keeps the line breaks of its description and reports errors in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print message as one line on standard error and exit with status 2."""
        self.exit(BAD_INPUT, f"error: {message} (--help says more)\n")


def run(main: Callable[[], int]) -> int:
    """main's exit status; 2 with one line on standard error for bad input, 130 after Ctrl-C, 141 for a closed pipe."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open as long as the process lives
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores Ctrl-C for jobs started with &
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"  # without file, line and source
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader closed the pipe, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that flushing at exit does not fail
        return CLOSED_PIPE
    except (ValueError, TypeError, OSError, DataError) as error:
        print(f"error: {_text(error)}", file=sys.stderr)
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
        warnings.formatwarning = format_warning


def _text(error: Exception) -> str:
    """The text of an error; that of the system's errors is their file and reason, without their number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out in Python, in torch on CUDA (its own class) or in torch on the CPU (told by the text)."""
    classes = (MemoryError, sys.modules["torch"].OutOfMemoryError) if "torch" in sys.modules else MemoryError
    return isinstance(error, classes) or "can't allocate memory" in str(error)


def argument_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """parse as an argparse type: argparse prints the text of an ArgumentTypeError, but not that of a ValueError."""

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


@argument_type
def device(name: str) -> str:
    """argparse type: a torch device that this machine has."""
    from torchport.checks import check_computing_device

    return check_computing_device(name)


@argument_type
def path(text: str) -> Path:
    """argparse type: a path; not "", which an unset shell variable gives."""
    if not text:
        raise ValueError("must be a name, got ''")
    return Path(text)


def count(minimum: int) -> Callable[[str], int]:
    """argparse type: an int of at least minimum."""

    @argument_type
    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < minimum:
            raise ValueError(f"must be a whole number of at least {minimum}, got {text!r}")
        if int(text) > LARGEST:
            raise ValueError(f"must be at most {LARGEST}, got {text!r}")
        return int(text)

    return parse


def add_field(parser: argparse.ArgumentParser, option: Field[Any]) -> None:
    """Add the option for a field of Config; if it is not given, the namespace does not have it."""
    field, flag = option.metadata, f"--{option.name.replace('_', '-')}"
    about = field["help"] if option.default is None else f"{field['help']} (default: {option.default})"
    if option.type == "bool":
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=field["help"])
        return
    kind: Callable[[str], Any] = str if field["choices"] or "str" in str(option.type) else number
    if field["minimum"] is not None:
        kind = count(field["minimum"])
    metavar = None if field["choices"] else option.name.upper()
    parser.add_argument(
        flag, type=kind, choices=field["choices"], metavar=metavar, default=argparse.SUPPRESS, help=about
    )


@argument_type
def number(text: str) -> float:
    """argparse type: a float."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number, got {text!r}") from None


def refuse(parser: argparse.ArgumentParser, errors: Mapping[str, object]) -> None:
    """Exit with status 2 and the first message of errors (message to whether it applies) that applies, if any."""
    for message, applies in errors.items():
        if applies:
            parser.error(message)


def add_images(parser: argparse._ActionsContainer, default: str) -> None:
    """Add --images, which is None if it is not given."""
    about = f"{IMAGES_HELP} (default: {default})"
    parser.add_argument("--images", "--preprocess", type=argument_type(Preparation.parse), metavar="HOW", help=about)


def add_windows(parser: argparse._ActionsContainer, layer: str = "") -> None:
    """Add --stride and --pad."""
    parser.add_argument("--stride", type=count(1), default=1, help=f"stride{layer} in pixels (default: 1)")
    parser.add_argument("--pad", type=count(0), default=0, help=f"zero padding{layer} in pixels (default: 0)")


def add_output(parser: argparse.ArgumentParser, quiet: str, json: str = "") -> None:
    """Add --quiet and, if json is given, --json; quiet and json say what they print."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quiet", action="store_true", help=f"print only {quiet}, without progress")
    if json:
        group.add_argument("--json", action="store_true", help=f"print {json} as JSON, and nothing else")


def add_hints(parser: argparse._ActionsContainer) -> None:
    """Add an option for each field of files.Hints."""
    group = parser.add_argument_group("what a file of weights cannot tell")
    add_windows(group, " of SimpleConvNet's convolution")
    about = "activation function (default: relu; sigmoid for chapter 3's 784-50-100-10 network; tanh for LeNet5)"
    group.add_argument("--activation", choices=ACTIVATIONS, help=about)
    about = "convolutions that are followed by a 2x2 pooling, such as 1,2, or none (default: what fits 28 x 28 images)"
    group.add_argument("--pool", type=numbers, metavar="N,N", help=about)
    about = "order in which images are flattened for the first Affine; hwc is Keras' (default: chw)"
    group.add_argument("--flatten", choices=FLATTEN, help=about)
    about = "axes of convolution weights; hwio is Keras' (default: what fits the biases, else oihw)"
    group.add_argument("--kernels", choices=KERNELS, help=about)
    about = "axes of Affine weights: in-out for x @ W, out-in for torch's Linear (default: by names and biases)"
    group.add_argument("--affine", choices=AFFINE, help=about)
    about = "names of the layers to read, first to last (default: all, in the order that shapes and numbers give)"
    group.add_argument("--order", type=names, metavar="NAME,NAME", help=about)
    about = "part of a checkpoint to read, by its key or prefix (default: the one that is a network)"
    group.add_argument("--part", metavar="KEY", help=about)


def hints(args: argparse.Namespace) -> Hints:
    """The Hints that the options of add_hints give."""
    from torchport.files import Hints

    return Hints(**{name: getattr(args, name) for name in Hints.__dataclass_fields__})


def names(text: str) -> list[str]:
    """argparse type: names between commas."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """argparse type: whole numbers between commas, or none."""
    return [] if text == "none" else [count(1)(word) for word in names(text)]
