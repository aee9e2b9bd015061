"""Imports and builds the user's own torch module, given as FILE.py:NAME or package.module:NAME."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

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
        raise ValueError(f"{source} has no {name}")
    target = getattr(python_module, name)

    def build() -> nn.Module:
        with errors_in_one_line(f"{spec} could not be built without arguments"):
            port = target if isinstance(target, nn.Module) else target()
        if not isinstance(port, nn.Module):
            raise ValueError(f"{spec} must make a torch.nn.Module, got a {type(port).__name__}")
        return port

    return build


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
