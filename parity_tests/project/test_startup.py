"""What is imported when: torch takes a second to import, so --help and light modules must not need it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import torchport
from numpy_ref.classic import LENET_ACTIVATIONS
from numpy_ref.conv_net import ACTIVATIONS
from numpy_ref.optimizer import OPTIMIZERS
from torchport import choices
from torchport.data import DATA_SETS
from torchport.layers.sums import CONVOLUTIONS
from torchport.networks import NETWORKS
from torchport.networks.nearest import CONVOLUTIONAL
from torchport.training import Config

SCRIPTS = Path(__file__).parents[2] / "scripts"
PACKAGES = ("torchport", "torchport.training")

# Prints which of the scripts in argv import torch to show their help.
SHOW_HELP = """
import contextlib, io, json, runpy, sys
slow = []
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_path(path, run_name="__main__")
    if "torch" in sys.modules:
        slow.append(path)
        break  # torch is imported now, so nothing can be said of the others
print(json.dumps(slow))
"""

# torch.compile, which takes as long to import as torch itself, and drawing.
WEIGHTY = ("torch._dynamo", "matplotlib", "onnx", "torchvision")


def printed_by(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_no_script_needs_torch_to_show_its_help() -> None:
    scripts = sorted(map(str, SCRIPTS.glob("*.py")))
    assert scripts
    assert json.loads(printed_by(SHOW_HELP, *scripts)) == []


def test_what_everybody_imports_is_light() -> None:
    """Importing every public name, and so its module, imports nothing heavy but torch."""
    code = f"import sys, torch\nbefore = set(sys.modules)\nfrom torchport import {', '.join(names_of('torchport'))}\n"
    code += "print(*sorted(set(sys.modules) - before))"
    imported = printed_by(code).split()
    assert "torchport.networks" in imported
    assert [name for name in imported if name in WEIGHTY] == []


def exports_of(package: str) -> dict[str, str]:
    """Public names of a package, each with the module that it comes from according to the package's stub."""
    module = import_module(package)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{package}.{node.module or ''}".rstrip(".") for node in froms for alias in node.names}


def names_of(package: str) -> list[str]:
    return [name for name, home in exports_of(package).items() if home != package]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_type_checkers_see_in_a_package_is_there(package: str) -> None:
    module = import_module(package)
    exports = exports_of(package)
    assert exports
    for name, home in exports.items():
        inside = import_module(f"{package}.{name}") if home == package else getattr(import_module(home), name)
        assert getattr(module, name) is inside
        assert name in dir(module)


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="No torchport attribute SimpleConvnet"):
        _ = torchport.SimpleConvnet  # type: ignore[attr-defined]


def test_a_name_that_is_none_is_found_by_a_type_checker_too() -> None:
    with pytest.raises(ValueError, match="data must be one of mnist, drawn, got 'drwn'"):
        Config(data="drwn")  # type: ignore[arg-type]


def test_choices_are_what_they_stand_for() -> None:
    assert tuple(CONVOLUTIONS) == choices.CONVOLUTIONS
    assert tuple(OPTIMIZERS) == get_args(choices.Rule)
    assert ACTIVATIONS.keys() | LENET_ACTIVATIONS.keys() == set(choices.ACTIVATIONS)
    assert get_args(choices.Data) == DATA_SETS
    assert tuple(name for name in NETWORKS if name in CONVOLUTIONAL) == choices.OF_IMAGES
