"""Reading a file within limits, and replacing one whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from numpy_ref.refusals import ParamsError, over_limit


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The bytes of a regular file. ParamsError for anything else, and for more than max_bytes; OSError."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ParamsError(f"{path}: {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise over_limit(f"{path}: {status.st_size} bytes", max_bytes)
        # Never max_bytes: read sets aside what it is asked for.
        data = file.read(status.st_size + 1)
    if len(data) > status.st_size:
        raise ParamsError(f"{path}: longer than its size of {status.st_size} bytes: is it still being written?")
    return data


def replace_file(path: str | Path, data: bytes, verify: Callable[[Path], None] | None = None) -> None:
    """Write data to path so that a crash, a full disk or a failing verify leaves the old file as it was.

    data goes to a temporary file in the same folder, onto the disk, through verify (which raises where the file does
    not read back as meant; for None, where its bytes are not data), and only then takes path's place. A symbolic link
    keeps pointing to its target. A process that is killed may leave the temporary file, .NAME.*.tmp. OSError, which
    names path.
    """
    target = check_target(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _naming(path):
            _write(temporary, data, target.stat().st_mode if target.exists() else None)
        if verify is not None:
            verify(temporary)
        elif temporary.read_bytes() != data:
            raise OSError(f"{path}: what was written does not read back as it was")
        with _naming(path):
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):  # gone into its place, or never there
            temporary.unlink()
    _sync_folder(target.parent)


def check_target(path: str | Path, source: str | Path | None = None) -> Path:
    """The file that writing to path replaces or creates, links followed. source must not be the same file.

    OSError for a folder, a device, a FIFO or a loop of links; ValueError for the source.
    """
    try:
        target = Path(path).resolve()
        target.is_file()  # a loop of links: an error here or there, by Python's version
    except RuntimeError:
        raise OSError(f"{path} is a loop of symbolic links, expected a file name") from None
    if target.is_symlink():
        raise OSError(f"{path} is a loop of symbolic links, expected a file name")
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file name")
    if target.exists():
        if not target.is_file():
            raise OSError(f"{path} is no regular file, and would be replaced by one: give another name")
        if source is not None and target.samefile(source):
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
def _naming(path: str | Path) -> Iterator[None]:
    """Say the file that the user named, in errors that name the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"not written, and left as it was: {error.strerror}", str(path)) from None


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
