"""A model folder's further files as one file, ``other_files.zip``.

Which files a folder holds besides weights, ``config.json`` and so on depends on the model, but a rule
has to name its outputs beforehand. The archive is such an output. Where a run's files are in a storage,
only declared files reach a job, and the others are restored from the archive when the folder is read.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from tinycats.files.atomic import whole
from tinycats.program import UserError

ARCHIVE = "other_files.zip"
#: declared as outputs themselves
DECLARED = {
    "model.safetensors", "config.json", "tokenizer.json", "modules.json", "manifest.json", ARCHIVE,
}  # fmt: skip


def pack(folder: Path) -> None:
    """Write the archive of all further files; the same files give the same bytes."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            if name not in DECLARED:
                # a ZipInfo has no time of its own
                about = zipfile.ZipInfo(name)
                about.external_attr = 0o644 << 16
                archive.writestr(about, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)


def unpack(folder: Path) -> None:
    """Restore what is missing, or left by an earlier model: other and older than the archive.

    A file that was changed since stays, so that its checksum shows the change. A folder without
    an archive stays as it is.

    Raises:
        UserError: the archive is damaged, or names a file outside the folder.
        OSError: a file cannot be written.
    """
    path = folder / ARCHIVE
    if not path.is_file():
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                file = folder / entry.filename
                if not file.resolve().is_relative_to(folder.resolve()):
                    raise UserError(f"{path}: refused file name {entry.filename!r}")
                if not _is_current(file, entry.CRC, path):
                    content = archive.read(entry)
                    with whole(file) as temporary:
                        temporary.write_bytes(content)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); obtain the model again") from error


def _is_current(file: Path, crc: int, archive: Path) -> bool:
    if not file.is_file():
        return False
    newer = file.stat().st_mtime_ns >= archive.stat().st_mtime_ns
    return newer or zlib.crc32(file.read_bytes()) == crc
