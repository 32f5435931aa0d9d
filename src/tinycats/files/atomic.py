"""Files that are written whole or not at all, and known again when they are read.

Beside each table, stories file or file of tensors lies ``.sha256/<name>.sha256``, a line as ``sha256sum``
writes it. A changed digit, a file cut short at the end of a line, or two files swapped look like
good files; only this tells. A file without one was not written by a stage and is taken as it is.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

FOLDER = ".sha256"
LOCK = "lock"  # in a temporary folder: whoever fills it holds this file locked


def create_locked(path: Path) -> IO[bytes]:
    """A new file that is locked until it is closed, from the moment that it has this name.

    The system releases the lock however the process ends. Some network file systems have no locks;
    there, nobody takes the file for a leftover.
    """
    fresh = path.with_name(path.name + "~")
    file = open(fresh, "xb")  # noqa: SIM115 (the caller closes it)
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(fresh, path)
    return file


def remove_leftovers(folder: Path, start: str, end: str = "") -> None:
    """Remove what killed processes left half written; what another process writes is locked."""
    for path in folder.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
        # missing or locked: somebody else is at work
        with suppress(OSError), open(path / LOCK if path.is_dir() else path, "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which then becomes ``path``; nothing is left where that fails.

    Several processes may write one file at once: each has its own temporary name, the last wins.

    Raises:
        OSError: it cannot be written; the message names ``path``.
    """
    start, end = f"{path.name}.", ".tmp"
    temporary = path.with_name(f"{start}{secrets.token_hex(8)}{end}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, start, end)
        with create_locked(temporary):
            try:
                yield temporary
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` whole or not at all."""
    with whole(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def check_writable(folder: str | Path) -> None:
    """Say now, not after hours of work, that nothing can be written to ``folder``; makes it.

    Raises:
        OSError: it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder}: {error.strerror}") from error


def write_tensors(path: str | Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write numpy arrays as safetensors, whole or not at all."""
    from safetensors.numpy import save

    with whole(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, metadata))
    seal(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: str | Path) -> None:
    """Write down the checksum of a file that is whole."""
    path, sealed = Path(path), None
    while sealed != (found := _version(path)):  # another process may have written it meanwhile
        with whole(path.parent / FOLDER / f"{path.name}.sha256") as temporary:
            temporary.write_text(f"{_digest(path)}  {path.name}\n", encoding="utf-8")
        sealed = found


def _version(path: Path) -> tuple[int, int]:
    """Changes whenever a file is replaced."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def problem(path: str | Path) -> str | None:
    """What is wrong with a file, in one line, or None."""
    path = Path(path)
    try:
        line = (path.parent / FOLDER / f"{path.name}.sha256").read_text(encoding="utf-8")
        stated = line.split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    found = _digest(path)
    if found == stated:
        return None
    return (
        f"{path}: not as it was written (damaged, cut short or swapped): sha256 is {found}, but"
        f" {FOLDER}/{path.name}.sha256 says {stated}; delete it and run again"
    )
