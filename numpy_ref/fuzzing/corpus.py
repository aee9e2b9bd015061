"""Valid files, small ones, in every form that read_params knows."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass

import numpy as np

from numpy_ref.checks import Array
from numpy_ref.fuzzing.instructions import Instruction, assemble, disassemble, renamed

PROTOCOLS = range(6)
PACKAGES = ("numpy.core", "numpy._core")  # of NumPy 1 and 2


@dataclass(frozen=True)
class Sample:
    """A valid file, and the arrays in it."""

    arrays: dict[str, Array]
    instructions: list[Instruction]
    framed: bool
    data: bytes


def corpus() -> list[Sample]:
    """The same list on every machine."""
    found = []
    for arrays, protocol, package in itertools.product(_arrays(), PROTOCOLS, PACKAGES):
        instructions = renamed(disassemble(pickle.dumps(arrays, protocol)), package)
        for framed in (False, True) if protocol >= 4 else (False,):
            found.append(Sample(arrays, instructions, framed, assemble(instructions, framed)))
    return found


def _arrays() -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    kinds = ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2"]
    both = [{"W": rng.standard_normal((2, 3)).astype(kind), "b": rng.standard_normal(3)} for kind in kinds]
    fortran = [{"W": np.asfortranarray(rng.standard_normal((3, 2)).astype(kind))} for kind in kinds]
    long = {"W": rng.standard_normal((9, 2, 1, 3)), "same": np.full(70, 0.1)}  # content too long to be a name
    tied = np.arange(3.0)
    return [*both, *fortran, long, {"a": tied, "b": tied}]
