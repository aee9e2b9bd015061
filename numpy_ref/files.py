"""Reading a file within a limit, and replacing one whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KEPT = "not written, and left as it was"


class ParamsError(ValueError):
    """A file that does not hold named float arrays, or arrays that such a file cannot hold."""


def over_limit(what: str, max_bytes: int) -> ParamsError:
    """That what is larger than max_bytes."""
    way_out = "read it from Python with a larger max_bytes if you trust it"
    return ParamsError(f"{what}, over the limit of {max_bytes}: {way_out}")


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The bytes of a regular file. ParamsError for anything else, and for more than max_bytes; OSError."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ParamsError(f"{path}: {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    with _naming(path, "not read"), os.fdopen(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise over_limit(f"{path}: {status.st_size} bytes", max_bytes)
        # Never max_bytes: read sets aside what it is asked for.
        data = file.read(status.st_size + 1)
    if len(data) > status.st_size:
        raise ParamsError(f"{path}: longer than its size of {status.st_size} bytes: is it still being written?")
    return data


@dataclass(frozen=True)
class Staged:
    """A file that waits to take the place of another: path is where it is now, name what the user calls its place."""

    path: Path
    name: str | Path
    target: Path

    def commit(self) -> None:
        """Take the place, which nobody sees empty or half filled. OSError."""
        with _naming(self.name, _KEPT):
            self.path.replace(self.target)
        _sync_folder(self.target.parent)


@contextlib.contextmanager
def stage(name: str | Path, data: bytes) -> Iterator[Staged]:
    """data in a temporary file beside name, on the disk; it goes again if it is not committed. OSError names name.

    Until then, and whatever fails, the old file stays as it was. A symbolic link keeps pointing to its target. A
    process that is killed may leave the temporary file, .NAME.*.tmp.
    """
    target = check_target(name)
    path = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _naming(name, _KEPT):
            _write(path, data, target.stat().st_mode if target.exists() else None)
        yield Staged(path, name, target)
    finally:
        with contextlib.suppress(OSError):  # gone into its place, or never there
            path.unlink()


def replace_file(name: str | Path, data: bytes) -> None:
    """Write data to name, whole or not at all, once it reads back. OSError names name."""
    with stage(name, data) as staged:
        if staged.path.read_bytes() != data:
            raise OSError(f"{name}: what was written does not read back as it was")
        staged.commit()


def check_target(path: str | Path, source: str | Path | None = None) -> Path:
    """The file that writing to path replaces or creates, links followed. source must not be the same file.

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
    # "x" creates with the user's umask, and never follows a planted link.
    with path.open("xb") as file:
        if mode is not None:
            path.chmod(stat.S_IMODE(mode))  # of the file it replaces, which others may not be meant to read
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _naming(name: str | Path, what: str) -> Iterator[None]:
    """Say the file that the user named, and what became of it, in errors that name the temporary one or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror or error}", str(name)) from None


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk. Windows cannot open folders and does not need it; nor can some network file
    # systems do it, on which the file is nevertheless replaced.
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
