"""Rewards that earlier jobs of a study computed, shared through files.

A text's reward is the same in every job, bit for bit (:mod:`tinycats.reward.model`), so a job may
read it from another's memo: most texts of a KL factor's second seed also occurred in the first.
Each job adds one file, written atomically and named by the sha256 of its content; no file is ever
changed, so jobs may run side by side. A file that is not what a job wrote is not used. Deleting
the folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from tinycats.compute.devices import arithmetic
from tinycats.files.atomic import write_text
from tinycats.reward.model import RewardModel, vector_sha256
from tinycats.source_code import digest

log = logging.getLogger(__name__)
#: a cosine in float32 may be this much beyond 1
ROUNDING = 1e-5


def _identity(model: RewardModel, encoder_identity: str) -> dict[str, Any]:
    """What rewards depend on to the last bit: encoder, concept, code, the machine's arithmetic."""
    return {
        "encoder_identity": encoder_identity,
        "encoding": model.encoder.encode.name,
        "code_sha256": digest("tinycats.reward.model"),
        "reference_sha256": vector_sha256(model.reference),
        "arithmetic": arithmetic(model.encoder.device),
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Identity and rewards of one file.

    Raises:
        ValueError: the file is not what a job wrote; the text says why.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise ValueError("its name is not the sha256 of its content")
    found = json.loads(content)
    if not isinstance(found, dict) or found.keys() != {"identity", "rewards"}:
        raise ValueError("expected an object with identity and rewards")
    identity, rewards = found["identity"], found["rewards"]
    if not isinstance(identity, dict) or not isinstance(rewards, dict):
        raise ValueError("identity and rewards should be objects")
    for text, value in rewards.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and abs(value) <= 1 + ROUNDING):
            raise ValueError(f"the reward of {text!r} is {value!r}, expected a number from -1 to 1")
    return identity, rewards


def load_memo(model: RewardModel, folder: Path, encoder_identity: str) -> int:
    """Fill ``model.memo`` from ``folder``; returns how many texts it holds.

    A file with another identity is ignored, one that is damaged is reported and left as it is.
    """
    identity = _identity(model, encoder_identity)
    for path in sorted(folder.glob("*.json")):
        try:
            made_with, rewards = _read(path)
        except (ValueError, RecursionError, OSError) as error:
            line = " ".join(str(error).split())
            log.warning("%s is damaged; its rewards will be computed again (%s)", path, line)
            continue
        if made_with == identity:
            model.memo.update({text: np.float32(value) for text, value in rewards.items()})
    return len(model.memo)


def save_memo(model: RewardModel, folder: Path, encoder_identity: str, known: int) -> None:
    """Add the texts beyond the first ``known`` of the memo to ``folder``."""
    new = dict(list(model.memo.items())[known:])
    if not new:
        return
    identity = _identity(model, encoder_identity)
    rewards = {text: float(value) for text, value in sorted(new.items())}
    content = json.dumps({"identity": identity, "rewards": rewards}, ensure_ascii=False)
    write_text(folder / f"{hashlib.sha256(content.encode()).hexdigest()}.json", content)
