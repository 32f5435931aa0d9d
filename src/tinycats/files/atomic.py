"""Atomic writes with checksum sidecars.

Each file that another stage reads has a sidecar ``.sha256/<name>.sha256``, a line in the format of
``sha256sum``. Only the checksum detects a changed digit, a file cut short at the end of a line, or two
files swapped. A file whose sidecar is lost or damaged is refused, since nothing else shows whether it
is as it was written.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tinycats.program import UserError

FOLDER = ".sha256"
LOCK = "lock"  # in a temporary folder: its writer keeps this file locked


def create_locked(path: Path) -> IO[bytes]:
    """A new file that is locked until it is closed, from the moment that it has this name.

    The system releases the lock however the process ends. Some network file systems have no locks;
    there, partial files are not removed.
    """
    fresh = path.with_name(path.name + "~")
    file = open(fresh, "xb")  # noqa: SIM115 (the caller closes it)
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(fresh, path)
    return file


def remove_leftovers(folder: Path, start: str, end: str = "") -> None:
    """Remove partial files of killed processes; those that another process is writing are locked."""
    for path in folder.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
        # missing or locked: another process removed it or is writing it
        with suppress(OSError), open(path / LOCK if path.is_dir() else path, "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def to_disk(path: str | Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk.

    Raises:
        OSError: they cannot be written; a network file system may notice only now that it is full.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # some network file systems have no such thing for a folder
        if not (os.path.isdir(path) and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(file)


def checksum_file(path: str | Path) -> Path:
    """Where the checksum of a file is."""
    path = Path(path)
    return path.parent / FOLDER / f"{path.name}.sha256"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which then becomes ``path``; nothing is left where that fails.

    The old file is replaced when the new one is on the disk: after a loss of power, one is there.
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
                to_disk(temporary)
                os.replace(temporary, path)
                to_disk(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary sibling to fill, which becomes ``folder`` when the block ends without error.

    What an earlier, killed run left behind is removed first; an existing ``folder`` is replaced
    when the new one is on the disk. Several processes may do so at once: the last wins.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.partial-"
    remove_leftovers(folder.parent, prefix)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    new = scratch / "new"
    new.mkdir()
    try:
        with create_locked(scratch / LOCK):
            yield new
            for path in (*new.rglob("*"), new):
                to_disk(path)
            while new.exists():
                with suppress(FileNotFoundError):  # there is none, or another process took it
                    os.replace(folder, scratch / f"old-{secrets.token_hex(4)}")
                try:
                    os.replace(new, folder)
                except OSError as error:  # another process has put its own there
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            to_disk(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` whole or not at all."""
    with whole(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def check_writable(folder: str | Path) -> None:
    """Fail early if ``folder`` is not writable; creates it.

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


def write_sealed(path: str | Path, text: str) -> None:
    """Write ``text`` whole or not at all, and its checksum."""
    write_text(path, text)
    seal(path)


def write_tensors(path: str | Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write numpy arrays as safetensors, whole or not at all, and the checksum.

    The same content gives the same bytes.
    """
    from safetensors.numpy import save

    with whole(Path(path)) as temporary:
        temporary.write_bytes(_sorted_header(save(tensors, metadata)))
    seal(path)


def _sorted_header(data: bytes) -> bytes:
    """A safetensors file with the keys of its header sorted; the library's order is random.

    The format: 8 bytes with the header's length, the header as JSON padded to a multiple of 8
    bytes, the tensors' bytes (https://github.com/huggingface/safetensors#format).
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: str | Path) -> None:
    """Write down the checksum of a file that is whole."""
    path, sealed = Path(path), None
    while sealed != (found := _version(path)):  # another process may have written it meanwhile
        with whole(checksum_file(path)) as temporary:
            temporary.write_text(f"{_digest(path)}  {path.name}\n", encoding="utf-8")
        sealed = found


def _version(path: Path) -> tuple[int, int]:
    """Changes whenever a file is replaced."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def problem(path: str | Path) -> str | None:
    """What is wrong with a file, in one line, or None.

    Raises:
        OSError: the file cannot be read.
    """
    path, beside = Path(path), checksum_file(path)
    found = _digest(path)
    try:
        line = beside.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return f"{path}: its checksum {beside} is missing; delete {path} and run again"
    stated = re.fullmatch(r"([0-9a-f]{64})  (.+)\n", line)
    if stated is None or stated[2] != path.name:
        return (
            f"{beside}: found {line[:80]!r}, expected a sha256, two spaces and {path.name}; delete"
            f" {path} and run again"
        )
    if found == stated[1]:
        return None
    return (
        f"{path}: not as it was written (damaged, cut short or swapped): sha256 is {found}, but"
        f" {FOLDER}/{path.name}.sha256 says {stated[1]}; delete it and run again"
    )


def verify(path: str | Path) -> None:
    """Compare a file with its checksum.

    Raises:
        UserError: they differ, or the checksum is missing or damaged.
        OSError: the file cannot be read.
    """
    if found := problem(path):
        raise UserError(found)
