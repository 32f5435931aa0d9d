"""Pinned revisions and checksums of models: ``config/pins.yaml``."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinycats.files.atomic import write_text
from tinycats.program import UserError

HEADER = """\
# Revisions and checksums of models from outside this repository. Commit this file.
#
# By Hub id: the commit, and the sha256 of each file as obtained. Entries apply to every source (Hub,
# package or folder): a file with another checksum stops the workflow. The first download of a model
# adds its entry. To use another version of a model, delete or change its entry.
"""


class Pins:
    """The pins file, read when a program starts; :meth:`record` only adds entries.

    Raises:
        UserError: the file is not of the form ``{id: {revision: …, files: {name: sha256}}}``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.known = self._read()

    def _read(self) -> dict[str, Any]:
        import yaml

        if not self.path.exists():
            return {}
        try:
            known = yaml.safe_load(self.path.read_text(encoding="utf-8")) or {}
            for entry in known.values():
                entry.setdefault("revision", None)
                entry["files"] = {str(k): str(v) for k, v in (entry.get("files") or {}).items()}
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
            text = " ".join(str(error).split())
            raise UserError(
                f"{self.path}: should map a Hub id to its revision and files: {text}"
            ) from error
        return dict(known)

    def revision(self, repo: str) -> str | None:
        """The pinned commit of a Hub id, if it is known."""
        return self.known.get(repo, {}).get("revision")

    def check_revision(self, repo: str, commit: str) -> None:
        """Refuse another commit than the pinned one.

        Raises:
            UserError: names both commits.
        """
        pinned = self.revision(repo)
        if pinned is not None and pinned != commit:
            raise UserError(
                f"{repo}: wrong revision {commit}, but {self.path} pins {pinned}; to move on"
                " purpose, delete the model's entry there"
            )

    def check_file(self, repo: str, name: str, checksum: str, where: str) -> None:
        """Refuse a file with another sha256 than the pinned one.

        Raises:
            UserError: names both checksums.
        """
        pinned = self.known.get(repo, {}).get("files", {}).get(name)
        if pinned is not None and pinned != checksum:
            raise UserError(
                f"{where}: wrong bytes in {name}: sha256 is {checksum}, but {self.path} pins {pinned}"
            )

    def record(self, repo: str, commit: str | None, files: Mapping[str, str]) -> None:
        """Add commit and checksums that are not yet pinned; pinned ones stay as they are.

        Args:
            repo: Hub id.
            commit: resolved commit, or None if the source does not know it.
            files: file name → sha256.
        """
        import yaml
        from filelock import FileLock

        # base model and encoder may be obtained at the same time
        digest = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:16]
        lock = f"tinycats-{os.getuid()}-{digest}.lock"
        with FileLock(Path(tempfile.gettempdir()) / lock):
            self.known = self._read()
            old = self.known.get(repo, {})
            new = {
                "revision": old.get("revision") or commit,
                "files": dict(sorted({**files, **old.get("files", {})}.items())),
            }
            if new == old:
                return
            self.known[repo] = new
            text = yaml.safe_dump(dict(sorted(self.known.items())), sort_keys=False, width=200)
            write_text(self.path, HEADER + "\n" + text)
