"""Reads files within a size limit, and replaces files atomically: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNCHANGED = "not written, and left as it was"


class ParamsError(ValueError):
    """Raised for a file that does not hold named float arrays, and for arrays that such a file cannot hold."""


def over_limit(what: str, max_bytes: int) -> ParamsError:
    """Return the error for something larger than max_bytes."""
    way_out = "read it from Python with a larger max_bytes if you trust it"
    return ParamsError(f"{what}, over the limit of {max_bytes}: {way_out}")


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file. ParamsError for anything else, and for more than max_bytes; OSError."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ParamsError(f"{path}: {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    with _naming(path, "not read"), os.fdopen(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise over_limit(f"{path}: {status.st_size} bytes", max_bytes)
        # Not read(max_bytes): it would allocate that much.
        data = file.read(status.st_size + 1)
    if len(data) > status.st_size:
        raise ParamsError(f"{path}: longer than its size of {status.st_size} bytes: is it still being written?")
    return data


@dataclass(frozen=True)
class Staged:
    """A temporary file that is to replace target."""

    path: Path  # of the temporary file
    name: str | Path  # the user's name for target
    target: Path

    def commit(self) -> None:
        """Replace target atomically: nobody sees it empty or half written. OSError."""
        with _naming(self.name, _UNCHANGED):
            self.path.replace(self.target)
        _sync_folder(self.target.parent)


@contextlib.contextmanager
def stage(name: str | Path, data: bytes) -> Iterator[Staged]:
    """Write data to a temporary file beside name, which is removed again unless it is committed. OSError names name.

    Until the commit, and whatever fails, the old file stays as it is. A symbolic link keeps pointing to its target. A
    process that is killed may leave the temporary file, .NAME.*.tmp.
    """
    target = check_target(name)
    path = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _naming(name, _UNCHANGED):
            _write(path, data, target.stat().st_mode if target.exists() else None)
        yield Staged(path, name, target)
    finally:
        with contextlib.suppress(OSError):  # committed, or never created
            path.unlink()


def replace_file(name: str | Path, data: bytes) -> None:
    """Write data to name atomically, after it reads back. OSError names name."""
    with stage(name, data) as staged:
        if staged.path.read_bytes() != data:
            raise OSError(f"{name}: what was written does not read back as it was")
        staged.commit()


def check_target(path: str | Path, source: str | Path | None = None) -> Path:
    """Return the file that writing to path would replace or create, links followed; it must not be source.

    OSError for a folder, a device, a FIFO or a loop of links; ValueError for the source.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(f"{path} is a loop of symbolic links, expected a file name")
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file name")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {target.parent} is missing: make it first, or name another")
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is no regular file, and would be replaced by one: give another name")
    if source is not None and target.exists() and target.samefile(source):
        raise ValueError(f"the output must be another file than the input, got {path} for both")
    return target


def _write(path: Path, data: bytes, mode: int | None) -> None:
    # "x" respects the user's umask, and never follows a link that somebody has planted.
    with path.open("xb") as file:
        if mode is not None:
            path.chmod(stat.S_IMODE(mode))  # the old file's mode: it may be private
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _naming(name: str | Path, what: str) -> Iterator[None]:
    """Make an OSError name the user's file and what became of it, instead of the temporary file or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror or error}", str(name)) from None


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk. Windows cannot open folders and need not; some network file systems cannot
    # sync them, but have replaced the file all the same.
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
