"""Rewards that earlier jobs of a study computed, shared through files.

A text's reward is the same in every job, bit for bit (:mod:`tinycats.reward.model`), so a job may
read it from another's memo: most texts of a KL factor's second seed also occurred in the first.
Each job adds one file, written atomically and named by its content; no file is ever changed, so
jobs may run side by side. Deleting the folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from pathlib import Path

import numpy as np

from tinycats.compute.devices import gpu_name
from tinycats.files.atomic import write_text
from tinycats.reward.model import RewardModel
from tinycats.source_code import digest

log = logging.getLogger(__name__)


def _identity(model: RewardModel, encoder_sha256: str) -> dict[str, str]:
    """What rewards depend on to the last bit: encoder, concept, code, the machine's arithmetic."""
    import torch

    arithmetic = (
        torch.backends.cpu.get_cpu_capability()
        if model.encoder.device.type == "cpu"
        else gpu_name(model.encoder.device)
    )
    return {
        "encoder_sha256": encoder_sha256,
        "encoding": model.encoder.encode.name,
        "code_sha256": digest("tinycats.reward.model"),
        "reference_sha256": hashlib.sha256(model.reference.tobytes()).hexdigest(),
        "arithmetic": f"torch {torch.__version__}, {platform.machine()}, {arithmetic}",
    }


def load_memo(model: RewardModel, folder: Path, encoder_sha256: str) -> int:
    """Fill ``model.memo`` from ``folder``; returns how many texts it holds.

    Entries with another identity are ignored.
    """
    identity = _identity(model, encoder_sha256)
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["identity"] == identity:
                rewards = found["rewards"]
                model.memo.update({text: np.float32(value) for text, value in rewards.items()})
        except (ValueError, KeyError, TypeError):
            log.warning("%s is damaged; its rewards will be computed again", path)
    return len(model.memo)


def save_memo(model: RewardModel, folder: Path, encoder_sha256: str, known: int) -> None:
    """Add the texts beyond the first ``known`` of the memo to ``folder``."""
    new = dict(list(model.memo.items())[known:])
    if not new:
        return
    identity = _identity(model, encoder_sha256)
    rewards = {text: float(value) for text, value in sorted(new.items())}
    content = json.dumps({"identity": identity, "rewards": rewards}, ensure_ascii=False)
    write_text(folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json", content)
