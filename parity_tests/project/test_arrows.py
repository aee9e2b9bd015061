"""Which folders (rooms) may import which: read from the source code without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# From the bottom up. For each room: its modules (in torchport unless another package is named) and the rooms that it
# may import; any may import numpy_ref.
ROOMS: dict[str, tuple[str, str]] = {
    "numpy_ref": ("numpy_ref", ""),
    "choices": ("bars choices", ""),
    "layers": ("checks layers", "choices"),
    "optimizers": ("optimizers", ""),
    "data": ("data", "choices"),
    "figures": ("figures", ""),
    "networks": ("networks", "choices layers"),
    # The engine knows no network; parity's own __init__ opens both rooms.
    "parity": ("parity testing", "choices layers"),
    "book": ("parity.__init__ parity.cases parity.gradients", "layers networks parity"),
    "files": ("files", "choices networks"),
    "evaluation": ("evaluation", "choices networks data figures"),
    # figures' own __init__ also takes a file, which the figures themselves do not know.
    "pictures": ("figures.__init__ figures.sources", "figures files"),
    # Into a file, and into a module of the user's own.
    "porting": ("porting loading", "book files networks parity"),
    "training": ("training", "choices data figures files layers networks optimizers"),
    # subjects is what two commands look at, and knows where a run began.
    "commands": (
        "commands subjects moves __main__",
        "book choices data evaluation figures files layers networks optimizers parity porting training",
    ),
    "scripts": ("scripts", "choices commands data evaluation layers networks optimizers training"),
}


def room_of(module: str) -> str:
    """The room of a module, by the longest matching prefix."""
    names = {name: room for room, (modules, _) in ROOMS.items() for name in modules.split()}
    inside = f"{module.removeprefix('torchport.')}."
    return names[max((name for name in names if inside.startswith(f"{name}.")), key=len)]


def imports(path: Path) -> Iterator[str]:
    """The project's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]  # a package's name may be a module
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("numpy_ref", "torchport"))


def files() -> Iterator[tuple[str, Path]]:
    """Room and path of each file of the packages and scripts, except torchport/__init__.py."""
    for path in sorted(
        path for folder in ("numpy_ref", "torchport", "scripts") for path in (ROOT / folder).rglob("*.py")
    ):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name != "torchport.__init__":
            yield room_of(name), path


def test_every_arrow_points_down_to_a_room_that_is_named() -> None:
    against = set()
    for room, path in files():
        for name in imports(path):
            if name == "torchport" and room in ("commands", "scripts"):
                continue  # all that is public
            if room_of(name) not in (room, "numpy_ref", *ROOMS[room][1].split()):
                against.add((str(path.relative_to(ROOT)), name))
    assert not against


def test_no_arrow_goes_round() -> None:
    seen: set[str] = set()
    for room, (_, below) in ROOMS.items():
        assert set(below.split()) <= seen
        seen.add(room)
