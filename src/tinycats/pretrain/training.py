"""Pretrain a small GPT-Neo on short stories: the recipe of the model that ships with the workflow.

Recipe: one story a row, opened by end-of-text (a quarter of the rows drop it, since a prompt is
later given without it), rows of like length batched together; Muon (Jordan et al. 2024) for the
matrices of the blocks and AdamW for everything else; warm-up, constant learning rate, then a decay
to zero (Hu et al. 2024, arXiv 2404.06395): everything before the decay is the same whatever the
length of the run, so a run may be lengthened or shortened while it is under way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pickle
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinycats import source_code
from tinycats.files.atomic import whole
from tinycats.models.folders import sha256_file
from tinycats.pretrain.corpus import IGNORE, batches
from tinycats.pretrain.learning_curve import write_curve
from tinycats.pretrain.model import StoryModel, bits_per_byte, save_story_model
from tinycats.pretrain.recipe import Recipe, learning_rate_factor
from tinycats.program import UserError

log = logging.getLogger(__name__)


def optimizers(model: StoryModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.muon_learning_rate,
            weight_decay=recipe.muon_weight_decay,
            momentum=0.95,
            adjust_lr_fn="original",
        ),
        torch.optim.AdamW(
            others, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def data_sha256(train: Sequence[np.ndarray], validation: Sequence[np.ndarray]) -> str:
    """Checksum of all token ids: changes with the texts and with their tokenizer."""
    digest = hashlib.sha256()
    for part in (train, validation):
        for ids in part:
            digest.update(ids.tobytes())
        digest.update(b"end of part")
    return digest.hexdigest()


def code_sha256() -> str:
    """Digest of the code that decides the result: this module's and that of all it imports."""
    return source_code.digest("tinycats.pretrain.training")


def load_state(
    file: Path, fixed: dict[str, Any], data: str, decay_start: int, epochs: float
) -> dict[str, Any] | None:
    """The state to go on from, or None; one of another run is set aside with a message.

    The length of a run may change while neither the old nor the new decay has begun.
    """
    if not file.exists():
        return None
    try:
        state = torch.load(file, weights_only=True)
        reason = "it is of another recipe" if state["recipe"] != fixed else ""
        if not reason and state["data_sha256"] != data:
            reason = "it was trained on other text"
        if not reason and state["code_sha256"] != code_sha256():
            reason = "the code of the training has changed since"
        decay_began = state["step"] > min(state["decay_start"], decay_start)
        if not reason and state["epochs"] != epochs and decay_began:
            reason = f"its decay towards {state['epochs']:g} epochs had begun"
        best_model = file.parent / "model" / "model.safetensors"
        if not reason and state["best"] < math.inf and not best_model.exists():
            reason = "the best model so far, which belongs to it, is gone"
        if not reason:
            return dict(state)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    aside = file.with_name("state.set-aside.pt")
    file.replace(aside)
    log.warning("not resuming from %s: %s; kept as %s, starting over", file, reason, aside.name)
    return None


def pretrain(
    train: list[np.ndarray],
    validation: list[np.ndarray],
    validation_bytes: int,
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train; write ``out/curve.csv`` and the best model by validation to ``out/model``.

    Everything unfinished is in ``out/checkpoint``: the best model so far, and the state from which
    an interrupted run goes on as if it had not been interrupted.

    Args:
        train, validation: token ids of stories, as :func:`tinycats.pretrain.corpus.encode_stories` gives.
        validation_bytes: UTF-8 bytes of the validation stories.
        recipe: the settings.
        out: folder; ``out/checkpoint/model`` already holds the tokenizer.
        device: torch device.

    Returns:
        What ``run.json`` says of the training: steps, tokens, parameters, best value, seconds.

    Raises:
        UserError: the loss is no longer finite.
    """
    torch.manual_seed(recipe.seed)
    model = StoryModel(recipe).to(device)
    opts = optimizers(model, recipe)
    base_rates = [group["lr"] for opt in opts for group in opt.param_groups]
    per_epoch = sum(1 for _ in batches(train, recipe, 0))
    total = max(1, round(per_epoch * recipe.epochs))
    decay_start = total - round(total * recipe.decay_fraction)
    fixed = {k: v for k, v in asdict(recipe).items() if k not in ("epochs", "checkpoint_seconds")}
    step, epoch, in_epoch, tokens, best, seconds = 0, 0, 0, 0, math.inf, 0.0
    nats, seen = 0.0, 0
    curve: list[dict[str, float]] = []
    data = data_sha256(train, validation)
    best_model, state_file = out / "checkpoint" / "model", out / "checkpoint" / "state.pt"
    if state := load_state(state_file, fixed, data, decay_start, recipe.epochs):
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
        step, epoch, in_epoch, tokens = (state[k] for k in ("step", "epoch", "in_epoch", "tokens"))
        best, curve, seconds = state["best"], state["curve"], state["seconds"]
        nats, seen = state["nats"], state["seen"]
        log.info("resumed at step %d of %d", step, total)
    began = saved_at = lap = time.monotonic()
    lap_tokens = 0

    def save_state() -> None:
        state = {
            "recipe": fixed,
            "data_sha256": data,
            "code_sha256": code_sha256(),
            "epochs": recipe.epochs,
            "decay_start": decay_start,
            "model": model.state_dict(),
            "optimizers": [opt.state_dict() for opt in opts],
            "step": step,
            "epoch": epoch,
            "in_epoch": in_epoch,
            "tokens": tokens,
            "best": best,
            "curve": curve,
            "nats": nats,
            "seen": seen,
            "seconds": seconds + time.monotonic() - began,
        }
        with whole(state_file) as temporary:
            torch.save(state, temporary)

    while step < total:
        for index, (inputs, targets) in enumerate(batches(train, recipe, epoch)):
            if index < in_epoch:
                continue
            factor = learning_rate_factor(step, total, recipe)
            groups = [group for opt in opts for group in opt.param_groups]
            for group, rate in zip(groups, base_rates, strict=True):
                group["lr"] = rate * factor
            count = int((targets != IGNORE).sum())
            loss = model(inputs.to(device), targets.to(device))
            (loss / count).backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            step, in_epoch = step + 1, index + 1
            tokens, lap_tokens, seen = tokens + count, lap_tokens + count, seen + count
            nats += loss.item()
            if step % 50 == 0:
                rate = lap_tokens / (time.monotonic() - lap)
                log.info(
                    "step %d/%d  epoch %.2f  loss %.4f nats/token  %.0f tokens/s",
                    *(step, total, epoch + in_epoch / per_epoch, nats / seen, rate),
                )
                lap, lap_tokens = time.monotonic(), 0
            if step % recipe.validate_every == 0 or step == total:
                value = bits_per_byte(model, validation, validation_bytes, recipe.context)
                if not math.isfinite(value):
                    raise UserError(
                        f"validation is {value} bits per byte at step {step}: training diverged; "
                        "lower pretrain.muon_learning_rate or pretrain.adam_learning_rate"
                    )
                curve.append(
                    {
                        "step": step,
                        "tokens": tokens,
                        "train_nats_per_token": nats / seen,
                        "validation_bits_per_byte": value,
                    }
                )
                nats, seen = 0.0, 0
                log.info("step %d: validation %.4f bits per byte", step, value)
                if value < best:
                    best = value
                    save_story_model(model, recipe, best_model)
                lap, lap_tokens = time.monotonic(), 0
            if time.monotonic() - saved_at > recipe.checkpoint_seconds or step == total:
                save_state()
                saved_at = time.monotonic()
            if step == total:
                break
        else:
            epoch, in_epoch = epoch + 1, 0
    shutil.copytree(best_model, out / "model", dirs_exist_ok=True)
    write_curve(out / "curve.csv", curve)
    log.info("done: best validation %.4f bits per byte", best)
    return {
        "steps": total,
        "tokens": tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_validation_bits_per_byte": best,
        "seconds": round(seconds + time.monotonic() - began, 1),
    }


def run_record(
    recipe: Recipe, texts: Mapping[str, Path], result: Mapping[str, Any], device: str
) -> str:
    """``run.json``: what was trained on what, with what and how it went, as JSON text."""
    import platform

    import tokenizers
    import transformers

    modules = (torch, transformers, tokenizers, np)
    record = {
        "recipe": asdict(recipe),
        "data": {
            name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for name, path in texts.items()
        },
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in modules},
        "device": device,
        "threads": torch.get_num_threads(),
        **result,
    }
    return json.dumps(record, indent=2) + "\n"
