"""A small file system of its own, to fill or to make read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SUDO = ["sudo", "-n"] if os.getuid() and shutil.which("sudo") else []


@dataclass
class Disk:
    """A mounted file system."""

    folder: Path

    def remount(self, options: str) -> None:
        subprocess.run([*SUDO, "mount", "-o", f"remount,{options}", self.folder], check=True)

    def fill(self) -> Path:
        """Leave no room; returns the file to delete for some."""
        filler = self.folder / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return filler


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """Mount one at ``folder``, which is made; skips the test where nothing can be mounted."""
    folder.mkdir(exist_ok=True)
    options = f"size={size},uid={os.getuid()}"
    mounted = subprocess.run(
        [*SUDO, "mount", "-t", "tmpfs", "-o", options, "tinycats-test", folder],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run([*SUDO, "umount", "-l", folder], check=True)
