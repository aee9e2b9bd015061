"""The lines of a port's source where calls were made, and how a report names them."""

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

# Calls that only move data: a fault is placed at one only if the link has no other call.
RESHAPING = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as")
MOVING = frozenset([*RESHAPING, "contiguous", "clone", "to", "float", "double"])
# Calls that put the same numbers in another order.
ORDERING = ("permute", "transpose", "t", "T", "mT", "movedim", "roll", "flip")
LAYING = MOVING.union([*ORDERING, "unfold", "pad", "expand", "__getitem__"])

NEARBY = 5  # lines at most this far apart are named as a range


def lines_of(calls: Sequence[Call]) -> str:
    """The lines of the calls that compute something, or of all if none does: "net.py:21", or "net.py:16-18"."""
    computing = [call for call in calls if call.name not in MOVING or _has_own_backward(call)] or calls
    places = dict.fromkeys(call.where for call in computing if call.where)
    files: dict[str, set[int]] = {}
    for place in places:
        file, _, rest = place.partition(":")
        number = rest.partition(",")[0]
        if len(places) == 1 or not number.isdigit():
            return ", ".join(places)
        files.setdefault(file, set()).add(int(number))
    return ", ".join(f"{file}:{span}" for file, numbers in files.items() for span in _spans(sorted(numbers)))


def _has_own_backward(call: Call) -> bool:
    """Whether call is a user's own torch.autograd.Function, which may return its input and change its gradient."""
    return call.edge is not None and isinstance(call.edge.node, torch.autograd.function.BackwardCFunction)


def _spans(numbers: list[int]) -> list[str]:
    """The sorted numbers as one range, 16-18; one by one if they are far apart, as in a function and its caller."""
    if numbers[-1] - numbers[0] > NEARBY:
        return list(map(str, numbers))
    return [str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"]


def line_of(
    frame: FrameType | None, outermost: CodeType, functions: Container[object], paths: Mapping[int, str]
) -> tuple[str, str]:
    """The innermost line of the port's own source in frame or its callers, up to outermost; and the innermost module.

    The line is followed by the module's path if several modules share it, as in an nn.Sequential. paths are the paths
    of modules by id, functions the code of every torch.autograd.Function's forward.
    """
    line, module_path, module_label, module_count = "", "", "", 0
    while frame is not None and frame.f_code is not outermost:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if frame.f_code in functions:
            line = ""  # inside an autograd.Function, name the line that applies it
        elif file == MODULE_CALL and name == "_call_impl":
            module = frame.f_locals.get("self")
            path = paths.get(id(module), "")
            module_path = module_path or path
            if not line:
                module_count += 1
                module_label = module_label or (f"{path} ({type(module).__name__})" if path else "")
        elif not line and not file.startswith((TORCH, *OURS)):
            line = f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    shown = line, module_label if module_count > 1 or not line else ""
    return ", ".join(filter(None, shown)), module_path


def raised_at(error: Exception) -> str:
    """The innermost line of the port's own source in the error's traceback."""
    lines, trace = [""], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((TORCH, *OURS)):
            lines.append(f"{_short(file)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return lines[-1]


def _short(file: str) -> str:
    """The file's name; "cell" for a notebook's cell, whose file name means nothing."""
    return "cell" if file.startswith("<ipython") or "ipykernel_" in file else Path(file).name
