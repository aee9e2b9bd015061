"""What the reader makes of one file, and whether that is right."""

from __future__ import annotations

import importlib
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.fuzzing.mutations import Case
from numpy_ref.params import write_params
from numpy_ref.refusals import ParamsError

ACCEPTED = "accepted"
REFUSED = "refused"
MEMORY = 2**20  # bytes that small files may take besides three times their size

Reader = Callable[..., dict[str, Array]]


class Judge:
    """Reads cases in a folder of its own. Once there is a judge, its process records what the reader looks up."""

    def __init__(self, reader: str, folder: Path) -> None:
        """reader is "module:function", with read_params's arguments."""
        module, name = reader.split(":")
        self.read: Reader = getattr(importlib.import_module(module), name)
        self.source, self.copy = folder / "params.pkl", folder / "copy.pkl"
        self.events: list[str] | None = None
        sys.addaudithook(self._hear)

    def verdict(self, case: Case, allow_nonfinite: bool, measure: bool) -> tuple[str, str]:
        """(ACCEPTED, ""), (REFUSED, the message) or what went wrong, and how."""
        self.source.write_bytes(case.data)
        kind, detail, found = self._measured(case, allow_nonfinite) if measure else self._read(allow_nonfinite)
        if kind == ACCEPTED:
            wrong = self._flaw(found, case, allow_nonfinite)
            return ("wrong", wrong) if wrong else (kind, detail)
        if kind == REFUSED and case.expected is not None and all(np.isfinite(v).all() for v in case.expected.values()):
            return "wrong", f"a valid file is refused: {detail}"
        return kind, detail

    def _measured(self, case: Case, allow_nonfinite: bool) -> tuple[str, str, dict[str, Array] | None]:
        tracemalloc.start()
        kind, detail, found = self._read(allow_nonfinite)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > 3 * len(case.data) + MEMORY:
            return "memory", f"{peak} bytes for a file of {len(case.data)}", None
        return kind, detail, found

    def _read(self, allow_nonfinite: bool) -> tuple[str, str, dict[str, Array] | None]:
        found: dict[str, Array] | None = None
        self.events = []
        try:
            kind, detail, found = ACCEPTED, "", self.read(self.source, allow_nonfinite=allow_nonfinite)
        except ParamsError as error:
            kind, detail = REFUSED, str(error)
        except MemoryError:
            kind, detail = "memory", "MemoryError"
        except BaseException as error:
            kind, detail = "exception", f"{type(error).__name__}: {error}"
        events, self.events = self.events, None
        if events:
            return "lookup", ", ".join(events), None
        if kind == REFUSED and not (
            detail.startswith(str(self.source)) and detail.isprintable() and len(detail) < 1000
        ):
            return "message", detail, None
        return kind, detail, found

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # All that reading needs is to open this one file, once by its name and once by its descriptor.
        if self.events is None or (event == "open" and str(arguments[0]).endswith(("params.pkl", *"0123456789"))):
            return
        if event != "builtins.id":
            self.events.append(f"{event}{arguments!r:.200}")

    def _flaw(self, found: object, case: Case, allow_nonfinite: bool) -> str:
        """What is wrong with the arrays, in words: nothing if they are plain, as expected, and can be written."""
        if not isinstance(found, dict) or not found:
            return f"not a dict of arrays: {found!r:.200}"
        for name, array in found.items():
            if not isinstance(name, str) or not _is_plain(array):
                return f"{name!r:.80} is no plain array of floats"
            if not (allow_nonfinite or np.isfinite(array).all()):
                return f"{name!r:.80} is not finite"
        if sum(array.nbytes for array in found.values()) > 2 * len(case.data) + MEMORY:
            return "the arrays outgrow the file"
        if case.expected is not None and not _same(found, case.expected):
            return "other arrays than those that were written"
        write_params(found, self.copy)
        return "" if _same(self.read(self.copy, allow_nonfinite=True), found) else "written and read, they are others"


def _is_plain(array: object) -> bool:
    return (
        type(array) is np.ndarray
        and array.dtype in (np.float16, np.float32, np.float64)
        and array.dtype.isnative
        and array.flags.carray
        and 0 < array.ndim <= 32
        and array.size > 0
    )


def _same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    """Names in order, shapes and bits; b may be of any layout."""
    return list(a) == list(b) and all(
        a[name].shape == b[name].shape
        and a[name].tobytes() == b[name].astype(b[name].dtype.newbyteorder("=")).tobytes()
        for name in a
    )
