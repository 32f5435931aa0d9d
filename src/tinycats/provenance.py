"""Where a result came from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """Commit of the working tree, with `+changes` where it differs; empty outside git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if head and changed else "")
