"""Files that are written whole or not at all, and known again when they are read.

Beside each table, stories file or file of tensors lies ``.sha256/<name>.sha256``, a line as ``sha256sum``
writes it. A changed digit, a file cut short at the end of a line, or two files swapped look like
good files; only this tells. A file without one was not written by a stage and is taken as it is.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = ".sha256"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which then becomes ``path``; nothing is left where that fails.

    Raises:
        OSError: it cannot be written; the message names ``path``.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
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
    path = Path(path)
    with whole(path.parent / FOLDER / f"{path.name}.sha256") as temporary:
        temporary.write_text(f"{_digest(path)}  {path.name}\n", encoding="utf-8")


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
