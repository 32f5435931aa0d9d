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
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinycats import source_code
from tinycats.files.atomic import whole
from tinycats.models.folders import sha256_file
from tinycats.pretrain.corpus import IGNORE, batches
from tinycats.pretrain.learning_curve import write_curve
from tinycats.pretrain.model import StoryModel, bits_per_byte, save_story_model
from tinycats.pretrain.recipe import Recipe, learning_rate_factor
from tinycats.program import UserError
from tinycats.progress import Report

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
    """The state to resume from, or None; one that does not match the run is renamed, with a warning.

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


@dataclass
class Progress:
    """How far a run has come; with the weights and the optimizers' moments, its whole state.

    Attributes:
        step: updates done.
        epoch, in_epoch: epochs done, and batches done of the epoch under way.
        tokens: tokens trained on.
        nats, seen: loss and number of the tokens since the last validation.
        best: lowest validation so far, in bits per byte.
        curve: rows of ``curve.csv`` so far.
        seconds: time of earlier parts of an interrupted run, then of the whole.
    """

    step: int = 0
    epoch: int = 0
    in_epoch: int = 0
    tokens: int = 0
    nats: float = 0.0
    seen: int = 0
    best: float = math.inf
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


class Pretraining:
    """One run: model, optimizers, data and progress. Arguments: see :func:`pretrain`."""

    def __init__(
        self,
        train: list[np.ndarray],
        validation: list[np.ndarray],
        validation_bytes: int,
        recipe: Recipe,
        checkpoint: Path,
        device: str,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.train, self.recipe, self.device = train, recipe, device
        self.validation, self.validation_bytes = validation, validation_bytes
        self.model = StoryModel(recipe).to(device)
        self.opts = optimizers(self.model, recipe)
        self.groups = [group for opt in self.opts for group in opt.param_groups]
        self.base_rates = [group["lr"] for group in self.groups]
        self.steps_per_epoch = sum(1 for _ in batches(train, recipe, 0))
        self.steps = max(1, round(self.steps_per_epoch * recipe.epochs))
        self.best_model, self.state_file = checkpoint / "model", checkpoint / "state.pt"
        self.progress = Progress()
        self.began = self.saved_at = time.monotonic()
        # what a state must agree with, besides the code
        self.fixed = {
            k: v for k, v in asdict(recipe).items() if k not in ("epochs", "checkpoint_seconds")
        }
        self.data = data_sha256(train, validation)
        self.decay_start = self.steps - round(self.steps * recipe.decay_fraction)

    def resume(self) -> None:
        """Resume from the state of an interrupted run, if there is one that matches."""
        state = load_state(
            self.state_file, self.fixed, self.data, self.decay_start, self.recipe.epochs
        )
        if not state:
            return
        self.model.load_state_dict(state["model"])
        for opt, saved in zip(self.opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
        self.groups = [group for opt in self.opts for group in opt.param_groups]
        self.progress = Progress(**{f.name: state[f.name] for f in fields(Progress)})
        log.info("resumed at step %d of %d", self.progress.step, self.steps)

    def save_state(self) -> None:
        """Write all that :meth:`resume` needs."""
        state = asdict(self.progress) | {
            "recipe": self.fixed,
            "data_sha256": self.data,
            "code_sha256": code_sha256(),
            "epochs": self.recipe.epochs,
            "decay_start": self.decay_start,
            "model": self.model.state_dict(),
            "optimizers": [opt.state_dict() for opt in self.opts],
            "seconds": self.seconds(),
        }
        with whole(self.state_file) as temporary:
            torch.save(state, temporary)
        self.saved_at = time.monotonic()

    def seconds(self) -> float:
        """Training time so far, that before an interruption included."""
        return self.progress.seconds + time.monotonic() - self.began

    def update(self, inputs: Tensor, targets: Tensor) -> int:
        """One step of both optimizers on a batch of token ids ``(rows, tokens)``; its tokens."""
        factor = learning_rate_factor(self.progress.step, self.steps, self.recipe)
        for group, rate in zip(self.groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        count = int((targets != IGNORE).sum())
        loss = self.model(inputs.to(self.device), targets.to(self.device))
        (loss / count).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        for opt in self.opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        now = self.progress
        now.step, now.in_epoch = now.step + 1, now.in_epoch + 1
        now.tokens, now.seen, now.nats = (
            now.tokens + count,
            now.seen + count,
            now.nats + loss.item(),
        )
        return count

    def validate(self) -> None:
        """Add a row to the curve; keep the model if it is the best so far.

        Raises:
            UserError: the loss is no longer finite.
        """
        now = self.progress
        value = bits_per_byte(
            self.model, self.validation, self.validation_bytes, self.recipe.context
        )
        if not math.isfinite(value):
            raise UserError(
                f"validation is {value} bits per byte at step {now.step}: training diverged; "
                "lower pretrain.muon_learning_rate or pretrain.adam_learning_rate"
            )
        now.curve.append(
            {
                "step": now.step,
                "tokens": now.tokens,
                "train_nats_per_token": now.nats / now.seen,
                "validation_bits_per_byte": value,
            }
        )
        now.nats, now.seen = 0.0, 0
        log.info("step %d: validation %.4f bits per byte", now.step, value)
        if value < now.best:
            now.best = value
            save_story_model(self.model, self.recipe, self.best_model)

    def run(self) -> None:
        """Train to the last step, with validations and saved states on the way."""
        now, recipe = self.progress, self.recipe
        report = Report(self.steps, "step", now.step)
        lap, lap_tokens = time.monotonic(), 0
        while now.step < self.steps:
            for inputs, targets in islice(
                batches(self.train, recipe, now.epoch), now.in_epoch, None
            ):
                lap_tokens += self.update(inputs, targets)
                last = now.step == self.steps
                if report.due(now.step):
                    report.write(
                        now.step,
                        f"epoch {now.epoch + now.in_epoch / self.steps_per_epoch:.2f},"
                        f" loss {now.nats / now.seen:.4f} nats per token,"
                        f" {lap_tokens / (time.monotonic() - lap):.0f} tokens per second",
                    )
                    lap, lap_tokens = time.monotonic(), 0
                if now.step % recipe.validate_every == 0 or last:
                    self.validate()
                    lap, lap_tokens = time.monotonic(), 0
                if time.monotonic() - self.saved_at > recipe.checkpoint_seconds or last:
                    self.save_state()
                if last:
                    return
            now.epoch, now.in_epoch = now.epoch + 1, 0


def pretrain(
    train: list[np.ndarray],
    validation: list[np.ndarray],
    validation_bytes: int,
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train; write ``out/curve.csv`` and the best model by validation to ``out/model``.

    ``out/checkpoint`` has the best model so far, and the state from which an interrupted run resumes,
    with the same result as without the interruption.

    Args:
        train, validation: token ids of stories, from :func:`tinycats.pretrain.corpus.encode_stories`.
        validation_bytes: UTF-8 bytes of the validation stories.
        recipe: the settings.
        out: folder; ``out/checkpoint/model`` already holds the tokenizer.
        device: torch device.

    Returns:
        What ``run.json`` records of the training: steps, tokens, parameters, best value, seconds.

    Raises:
        UserError: the loss is no longer finite.
    """
    training = Pretraining(train, validation, validation_bytes, recipe, out / "checkpoint", device)
    training.resume()
    training.run()
    done = training.progress
    shutil.copytree(training.best_model, out / "model", dirs_exist_ok=True)
    write_curve(out / "curve.csv", done.curve)
    log.info("done: best validation %.4f bits per byte", done.best)
    return {
        "steps": training.steps,
        "tokens": done.tokens,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "best_validation_bits_per_byte": done.best,
        "seconds": round(training.seconds(), 1),
    }


def run_record(
    recipe: Recipe, texts: Mapping[str, Path], result: Mapping[str, Any], device: str
) -> str:
    """The text of ``run.json``: recipe, data, versions, machine and result."""
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
