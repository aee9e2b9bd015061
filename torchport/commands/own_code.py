"""A module of the user's own, by the name of its file or package."""

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

# Where no code of the user's is.
NOT_THE_USERS = (
    "<",  # frozen
    *(str(Path(__file__).parents[2] / name) + os.sep for name in ("torchport", "numpy_ref", "scripts")),
    *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


def builder(spec: str, option: str = "--port") -> Callable[[], nn.Module]:
    """What makes the torch module that FILE.py:NAME or package.module:NAME names, a class or a function.

    The file is run. ValueError in one line, here or from what is returned, for whatever is wrong with it.
    """
    from torch import nn

    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"{option} must be FILE.py:NAME or package.module:NAME, got {spec!r}")
    with telling(f"{where} could not be imported"):
        module = _imported(where)
    if not hasattr(module, name):
        raise ValueError(f"{where} has no {name}")
    made = getattr(module, name)

    def build() -> nn.Module:
        with telling(f"{spec} could not be built without arguments"):
            found = made if isinstance(made, nn.Module) else made()
        if not isinstance(found, nn.Module):
            raise ValueError(f"{spec} must make a torch.nn.Module, got a {type(found).__name__}")
        return found

    return build


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Whatever a user's code raises becomes a ValueError of one line: what, type, message, and the user's own line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]
        line = f", at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(f"{what}: {message}{line}") from error


def _imported(where: str) -> ModuleType:
    """A module by its file or its name, as python itself would import it from there."""
    path = Path(where)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module
