"""Where a result came from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinycats import layout
from tinycats.files.tables import Row, TableError
from tinycats.layout import ModelId
from tinycats.models.folders import sha256_file
from tinycats.program import UserError


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


def read_run(path: str | Path) -> Row:
    """A policy's run.json.

    Raises:
        TableError: the file is damaged or has no ``new_tokens``.
    """
    try:
        run: Row = json.loads(Path(path).read_text(encoding="utf-8"))
        if int(run["new_tokens"]) < 1:
            raise ValueError("new_tokens is less than 1")
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path}: not a policy's run.json ({error!r})") from error
    return run


def check_policy(
    folder: Path,
    base_model: Path,
    settings: Mapping[str, Any] | None = None,
    reference: Path | None = None,
) -> None:
    """Refuse a policy folder that is another study's, or whose weights are another policy's.

    Args:
        folder: holds model/ and run.json; ``<variant>/kl=<k>/seed=<s>`` at its end is compared too.
        base_model: folder of the study's base model.
        settings: what run.json's settings should be, as far as the caller knows.
        reference: the concept's embedding.

    Raises:
        UserError: something differs; names the folder, both values and what to do.
    """
    run = read_run(folder / layout.RUN.name)
    expected = {
        "policy_sha256": sha256_file(folder / layout.WEIGHTS.name),
        "base_model_sha256": sha256_file(base_model / "model.safetensors"),
        **({"reference_sha256": sha256_file(reference)} if reference else {}),
        **(settings or {}),
    }
    found = {**run.get("settings", {}), **run}
    if (place := ModelId.find(folder)) and place.is_policy:
        own = {"variant": place.variant, "kl_factor": float(place.kl_factor), "seed": place.seed}
        expected |= own
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(
                f"{folder}: not a policy of this study: its run.json says {key}"
                f" {found.get(key)!r}, but here it is {value!r}; delete the folder and run again"
            )
