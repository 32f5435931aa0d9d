"""Provenance of a policy: its run.json, and the commit of the code."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinycats import layout
from tinycats.files.atomic import verify
from tinycats.files.tables import Row, TableError
from tinycats.files.text import read_json
from tinycats.layout import ModelId
from tinycats.models.folders import folder_identity, sha256_file
from tinycats.policies.settings import TrainingSettings
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


def describe_step(row: Row, most_frequent: str) -> str:
    """A row of training.csv in words, for a log; :func:`read_step` reads it."""
    return (
        f"reward {row['reward_mean']:.4f}, KL(policy‖base) {row['kl_policy_to_base_nats']:.4f} nats,"
        f" {row['distinct_completions']} distinct completions,"
        f" most frequent {json.dumps(most_frequent, ensure_ascii=False)} ({row['top_1_mass']:.1%})"
    )


def last_step(rows: Sequence[Row], top: Sequence[Row]) -> str:
    """The last rows of training.csv and of top_completions.csv in words."""
    step = rows[-1]["step"]
    return describe_step(rows[-1], next(row["text"] for row in top[-10:] if row["step"] == step))


_STEP = re.compile(
    r"reward (?P<reward>-?[\d.]+), KL\(policy‖base\) (?P<kl>-?[\d.]+) nats,"
    r" (?P<distinct>\d+) distinct completions, most frequent (?P<text>\".*\") \((?P<share>[\d.]+)%\)"
)


def read_step(text: str) -> Row | None:
    """The columns of training.csv that :func:`describe_step` wrote, and ``most_frequent``."""
    found = _STEP.fullmatch(text)
    if not found:
        return None
    return {
        "reward_mean": float(found["reward"]),
        "kl_policy_to_base_nats": float(found["kl"]),
        "distinct_completions": int(found["distinct"]),
        "top_1_mass": round(float(found["share"]) / 100, 4),
        "most_frequent": json.loads(found["text"]),
    }


def read_run(path: str | Path) -> Row:
    """A policy's run.json.

    Raises:
        UserError: the file is missing, damaged or another than its stage wrote, or has no ``new_tokens``.
    """
    run: Row = read_json(path)
    new_tokens = run.get("new_tokens")
    if type(new_tokens) is not int or new_tokens < 1:
        raise TableError(
            f"{path}: not a policy's run.json: new_tokens is {new_tokens!r}, expected a whole number"
            " of at least 1; delete it and run again"
        )
    verify(path)
    return run


def check_policy(
    folder: Path,
    base_model: Path,
    expected: Mapping[str, Any] | None = None,
) -> None:
    """Check that a policy folder is of this study and that its weights match its run.json.

    Args:
        folder: holds model/ and run.json; ``<variant>/kl=<k>/seed=<s>`` at its end is compared too.
        base_model: folder of the study's base model.
        expected: what run.json should say, as far as the caller knows: of the settings, and of the
            reward's identity.

    Raises:
        UserError: something differs; names the folder, both values and what to do.
    """
    run = read_run(folder / layout.RUN.name)
    model = (folder / layout.WEIGHTS.name).parent
    expected = {
        **(expected or {}),
        "policy_sha256": sha256_file(folder / layout.WEIGHTS.name),
        "policy_identity": folder_identity(model),
        "base_model_sha256": sha256_file(base_model / "model.safetensors"),
        "base_model_identity": folder_identity(base_model),
    }
    found = {**run.get("settings", {}), **run}
    if (place := ModelId.find(folder)) and place.is_policy:
        own = {"variant": place.variant, "kl_factor": float(place.kl_factor), "seed": place.seed}
        expected |= own
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(
                f"{folder}: not a policy of this study: its run.json has {key}"
                f" {found.get(key)!r}, expected {value!r}; delete the folder and run again"
            )


def run_identity(settings: TrainingSettings, data: dict[str, str], code: str) -> str:
    """Hash of parameters, checksums of the data, and the digest of the program's code."""
    content = json.dumps([asdict(settings), data, code], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
