"""Replacing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def replace_file(path: str | Path, data: bytes, verify: Callable[[Path], None]) -> None:
    """Write data to path so that a crash, a full disk or a failing verify leaves the old file as it was.

    data goes to a temporary file in the same folder, onto the disk, through verify (which raises where the file does
    not read back as meant), and only then takes path's place. A symbolic link keeps pointing to its target. OSError.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a directory, expected a file name")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        # "x" creates with the user's umask, and never follows a planted link.
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        verify(temporary)
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; Windows cannot open folders and does not need it.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
