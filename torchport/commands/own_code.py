"""Imports and builds the user's own torch module, given as FILE.py:NAME or package.module:NAME."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor, nn

    from numpy_ref.checks import Array
    from numpy_ref.network import Network

# How the file names of frames begin that are not the user's code.
NOT_THE_USERS = (
    "<",  # frozen
    *(str(Path(__file__).parents[2] / name) + os.sep for name in ("torchport", "numpy_ref", "scripts")),
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


def builder(spec: str, option: str = "--port") -> Callable[[], nn.Module]:
    """A function that builds the torch module named by spec: a class, a function or a module itself.

    Runs the file. This and the function raise a ValueError of one line for anything that is wrong with the user's code.
    """
    from torch import nn

    source, _, name = spec.rpartition(":")
    if not source or not name.isidentifier():
        raise ValueError(f"{option} must be FILE.py:NAME or package.module:NAME, got {spec!r}")
    with errors_in_one_line(f"{source} could not be imported"):
        python_module = _import_module(source)
    if not hasattr(python_module, name):
        classes = [key for key, value in vars(python_module).items() if _defines(python_module, value, nn.Module)]
        raise ValueError(f"{source} has no {name}{'; it has ' if classes else ''}{', '.join(classes)}")
    target = getattr(python_module, name)

    def build() -> nn.Module:
        with errors_in_one_line(f"{spec} could not be built without arguments"):
            port = target if isinstance(target, nn.Module) else target()
        if not isinstance(port, nn.Module):
            raise ValueError(f"{spec} must make a torch.nn.Module, got a {type(port).__name__}")
        return port

    return build


def load_port(
    spec: str, build: Callable[[], nn.Module], reference: Network, x: Array, device: str, dtype: str
) -> tuple[nn.Module, str]:
    """The user's port in dtype ("": as it is built) with the reference's weights, and text that says what was loaded.

    A port that copies the reference's weights itself keeps those that it copied otherwise, so that they are judged.
    """
    import torch

    from torchport.loading import load_params

    port = build().to(device)
    built = {name: value.clone() for name, value in _arrays_of(port).items()}
    if dtype:
        port.to(getattr(torch, dtype))
    if any(map(torch.nn.parameter.is_lazy, port.parameters())):
        with errors_in_one_line(f"{spec} could not be run"), torch.no_grad():
            port(torch.tensor(x, dtype=next(port.parameters()).dtype, device=device))
    filled = load_params(port, reference, x, prove=False)
    text = f"loaded {', '.join(filled.lines)}"
    if kept := _put_back_copies(port, {name: built[name] for name in filled.filled.values() if name in built}):
        text += f"\nkept {', '.join(kept)} as built: {spec} copies the reference's weights itself"
    return port, text


def _put_back_copies(port: nn.Module, built: Mapping[str, Tensor]) -> list[str]:
    """Put back the tensors that the port was built with where they differ from those loaded; their names.

    None if no tensor had the numbers loaded, in any order: then the port does not copy the reference's weights itself.
    """
    loaded = _arrays_of(port)
    if not any(_are_same_numbers(value, loaded[name]) for name, value in built.items()):
        return []
    kept = [name for name, value in built.items() if not value.equal(loaded[name].to(value.dtype))]
    for name in kept:
        loaded[name].copy_(built[name])
    return kept


def _arrays_of(port: nn.Module) -> dict[str, Tensor]:
    """The floating-point tensors of a module's state by name, without those that have no shape yet."""
    from torch.nn.parameter import is_lazy

    state = port.state_dict().items()
    return {name: value for name, value in state if not is_lazy(value) and value.is_floating_point()}


def _are_same_numbers(built: Tensor, loaded: Tensor) -> bool:
    """Whether two tensors hold the same numbers, in any order; not if all are one number, such as biases of 0."""
    numbers = built.flatten().sort().values
    same = numbers.equal(loaded.to(built.dtype).flatten().sort().values)
    return same and len(numbers) > 1 and bool(numbers[0] < numbers[-1])


@contextmanager
def errors_in_one_line(what: str) -> Iterator[None]:
    """Turn any error in the user's code into a ValueError: what, the error's type and message, the user's own line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        user_frames = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]
        line = f", at {Path(user_frames[-1].filename).name}:{user_frames[-1].lineno}" if user_frames else ""
        message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(f"{what}: {message}{line}") from error


def _defines(python_module: ModuleType, value: object, base: type) -> bool:
    """Whether value is a subclass of base that this Python module defines, not one that it imports."""
    return isinstance(value, type) and issubclass(value, base) and value.__module__ == python_module.__name__


def _import_module(source: str) -> ModuleType:
    """The Python module in a file, or of a dotted name, with imports that resolve as they would for python itself."""
    path = Path(source)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(source)
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
