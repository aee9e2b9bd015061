"""Where a fault lies: the lines of calls, in a few words."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType

import torch

from torchport.parity.calls import Call

TORCH = str(Path(torch.__file__).parent) + os.sep
OURS = tuple(str(Path(__file__).parents[2] / name) + os.sep for name in ("torchport", "numpy_ref"))
MODULE_CALL = str(Path(TORCH, "nn", "modules", "module.py"))

# Calls that only move data: a fault is not looked for there unless there is nothing else.
RESHAPING = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as")
MOVING = frozenset([*RESHAPING, "contiguous", "clone", "to", "float", "double"])
# Calls that lay the same numbers out otherwise.
ORDERING = ("permute", "transpose", "t", "T", "mT", "movedim", "roll", "flip")
LAYING = MOVING.union([*ORDERING, "unfold", "pad", "expand", "__getitem__"])

NEARBY = 5  # lines that are told as a range


def lines_of(calls: Sequence[Call]) -> str:
    """The lines of the calls that compute something, or of all: "net.py:21", or "net.py:16-18"."""
    computing = [call for call in calls if call.name not in MOVING] or calls
    places = dict.fromkeys(call.where for call in computing if call.where)
    files: dict[str, set[int]] = {}
    for place in places:
        file, _, rest = place.partition(":")
        number = rest.partition(",")[0]
        if len(places) == 1 or not number.isdigit():
            return ", ".join(places)
        files.setdefault(file, set()).add(int(number))
    return ", ".join(f"{file}:{span}" for file, numbers in files.items() for span in _spans(sorted(numbers)))


def _spans(numbers: list[int]) -> list[str]:
    """16-18; lines far apart, as of a function's and its caller's, one by one."""
    if numbers[-1] - numbers[0] > NEARBY:
        return list(map(str, numbers))
    return [str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"]


def line_of(
    frame: FrameType | None, outermost: CodeType, functions: Container[object], paths: Mapping[int, str]
) -> tuple[str, str]:
    """The line of the port's author in frame or around it, within outermost; and the path of the innermost module.

    With that where many share the line. paths are of modules by id, functions forwards of torch.autograd.Function.
    """
    line, inner, told, modules = "", "", "", 0
    while frame is not None and frame.f_code is not outermost:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if frame.f_code in functions:
            line = ""  # inside an autograd.Function: the line that applies it
        elif file == MODULE_CALL and name == "_call_impl":
            module = frame.f_locals.get("self")
            path = paths.get(id(module), "")
            inner = inner or path
            if not line:
                modules += 1
                told = told or (f"{path} ({type(module).__name__})" if path else "")
        elif not line and not file.startswith((TORCH, *OURS)):
            line = f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ", ".join(part for part in (line, told if modules > 1 or not line else "") if part), inner


def raised_at(error: Exception) -> str:
    """The innermost line of the port's author on the way to the error."""
    lines, trace = [""], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((TORCH, *OURS)):
            lines.append(f"{_short(file)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return lines[-1]


def _short(file: str) -> str:
    """The file's name; a notebook's cells have none that means anything."""
    return "cell" if file.startswith("<ipython") or "ipykernel_" in file else Path(file).name
