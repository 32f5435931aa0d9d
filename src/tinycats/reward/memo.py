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

from tinycats.files.atomic import write_text
from tinycats.reward.model import RewardModel

log = logging.getLogger(__name__)
#: a cosine in float32 may be this much beyond its bounds
ROUNDING = 1e-5


def _identity(model: RewardModel) -> dict[str, Any]:
    """What rewards depend on to the last bit: their data, code, the machine's arithmetic."""
    return {**model.reward.identity, **model.reward.computed_with}


def _read(path: Path, wanted: dict[str, Any], bounds: tuple[float, float]) -> dict[str, float]:
    """Rewards of one file; none if they are of another identity.

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
    if identity != wanted:
        return {}
    low, high = bounds
    for text, value in rewards.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and low - ROUNDING <= value <= high + ROUNDING):
            raise ValueError(
                f"the reward of {text!r} is {value!r}, expected a number from {low:g} to {high:g}"
            )
    return rewards


def load_memo(model: RewardModel, folder: Path) -> int:
    """Fill ``model.memo`` from ``folder``; returns how many texts it holds.

    A file with another identity is ignored, one that is damaged is reported and left as it is.
    """
    wanted = _identity(model)
    for path in sorted(folder.glob("*.json")):
        try:
            rewards = _read(path, wanted, model.reward.bounds)
        except (ValueError, RecursionError, OSError) as error:
            line = " ".join(str(error).split())
            log.warning("%s is damaged; its rewards will be computed again (%s)", path, line)
            continue
        model.memo.update({text: np.float32(value) for text, value in rewards.items()})
    return len(model.memo)


def save_memo(model: RewardModel, folder: Path, known: int) -> None:
    """Add the texts beyond the first ``known`` of the memo to ``folder``."""
    new = dict(list(model.memo.items())[known:])
    if not new:
        return
    identity = _identity(model)
    rewards = {text: float(value) for text, value in sorted(new.items())}
    content = json.dumps({"identity": identity, "rewards": rewards}, ensure_ascii=False)
    write_text(folder / f"{hashlib.sha256(content.encode()).hexdigest()}.json", content)
