"""Where a fault lies: the lines of calls, in a few words."""

from __future__ import annotations

from collections.abc import Sequence

from torchport.parity.recording import Call

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
