"""How a run went, from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchport.figures import Curve
from torchport.files import CONFIG
from torchport.training.folder import RunFolder


def read_curve(path: str | Path) -> Curve:
    """The losses and evaluations of the run in the folder path, as far as its last checkpoint.

    ValueError where there is no run, a damaged one, or one without an evaluation yet.
    """
    folder = RunFolder(path)
    if not folder.is_run:
        raise ValueError(f"{path} holds no run (no {CONFIG}): name the folder that scripts/train.py wrote")
    checkpoint = folder.read_checkpoint()  # which holds what metrics.jsonl says, and at the same moment
    if not checkpoint.records:
        raise ValueError(f"{path} has no evaluation yet: let it come to the end of its first epoch")
    return Curve.of(checkpoint.losses.numpy(), checkpoint.records)


def read_curves(paths: Sequence[str | Path]) -> dict[str, Curve]:
    """Of several runs, by their folders' names, or by their whole paths where two have one name. ValueError."""
    names = [Path(path).name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(set(labels)) < len(labels):
        raise ValueError(f"each run must be named once, got {', '.join(labels)}")
    return {label: read_curve(path) for label, path in zip(labels, paths, strict=True)}
