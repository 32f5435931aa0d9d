"""The settings of pretraining, as ``config/pretrain.yaml`` gives them. Needs no heavy library."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tinycats.compute.settings import MachineSettings
from tinycats.program import UserError
from tinycats.settings import LONGEST_NAME, check, setting, typed


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe; ``config/pretrain.yaml`` documents how to choose them.

    Raises:
        UserError: ``heads`` does not divide ``width``.
    """

    vocab_size: int = setting(4096, "tokens of the byte-level BPE", minimum=258, maximum=65536)
    layers: int = setting(4, "blocks", minimum=1)
    width: int = setting(256, "width of the hidden state", minimum=1)
    heads: int = setting(4, "attention heads, a divisor of the width", minimum=1)
    context: int = setting(512, "context window, in tokens", minimum=2)
    batch_tokens: int = setting(8192, "tokens in one update", minimum=1)
    epochs: float = setting(9.0, "passes over the training text", above=0)
    muon_learning_rate: float = setting(0.02, "learning rate of the blocks' matrices", above=0)
    adam_learning_rate: float = setting(3.0e-3, "learning rate of everything else", above=0)
    muon_weight_decay: float = setting(0.1, "weight decay of the blocks' matrices", minimum=0)
    warmup_steps: int = setting(100, "updates until the learning rate is full", minimum=1)
    decay_fraction: float = setting(
        0.4, "last share of the run over which the rate falls to zero", minimum=0, maximum=1
    )
    gradient_clip: float = setting(1.0, "gradient norm above which gradients are clipped", above=0)
    open_without_end_of_text: float = setting(
        0.25, "share of stories without the opening end-of-text", minimum=0, maximum=1
    )
    validate_every: int = setting(250, "updates between measurements of validation", minimum=1)
    checkpoint_seconds: float = setting(120.0, "seconds between checkpoints", minimum=0)
    precision: str = setting("bf16", "arithmetic of the blocks", choices=("bf16", "fp32"))
    seed: int = setting(0, "seed of the random numbers", minimum=0)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(
                f"pretrain.heads: {self.heads} found, expected a divisor of the width {self.width}"
            )


def learning_rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Warm-up, constant, then 1 − √(progress) to zero over the last ``decay_fraction``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    decay_start = total - round(total * recipe.decay_fraction)
    if step < decay_start:
        return 1.0
    return max(0.0, 1.0 - math.sqrt((step - decay_start) / max(1, total - decay_start)))


@dataclass(frozen=True, kw_only=True)
class _Around(MachineSettings):
    """Keys of the config's ``pretrain`` block beside the recipe's."""

    name: str = setting(
        help="names the folder results/pretrain/<name>/",
        pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*",
        spelled="letters, digits, dot, dash and underscore",
        longest=LONGEST_NAME,
    )
    corpus: str = setting(help="folder with the texts, or a data set of the Hub")
    corpus_revision: str | None = setting(None, "commit of a Hub data set; null: the newest")
    notes: str | None = setting(None, "Markdown file for the model's card; null: nothing")


@dataclass(frozen=True, kw_only=True)
class _Block(Recipe, _Around):
    """Every key of the block."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(_Around):
    """The whole of the config's ``pretrain`` block: the recipe, and what is around it."""

    recipe: Recipe

    @classmethod
    def from_config(cls, block: Any, given: Any = None) -> Pretraining:
        """Read and check the block; every key is needed.

        Args:
            block: as Snakemake merges it.
            given: the part of it from the command line, where values are texts.

        Raises:
            UserError: a key is missing, unknown or mistyped, or a value cannot work.
        """
        if isinstance(block, Mapping):
            block = {**block, **typed(_Block, given or {})}
            if missing := [f.name for f in fields(_Block) if f.name not in block]:
                raise UserError(f"pretrain: missing {', '.join(missing)}; see config/pretrain.yaml")
        values = vars(check(_Block, block, "pretrain"))
        recipe = Recipe(**{f.name: values[f.name] for f in fields(Recipe)})
        return cls(**{f.name: values[f.name] for f in fields(_Around)}, recipe=recipe)

    def is_on_hub(self) -> bool:
        """Whether the corpus is a data set of the Hub: not a folder here, and named owner/name."""
        return not Path(self.corpus).is_dir() and bool(
            re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.corpus)
        )

    def text(self, name: str) -> str:
        """Path of the ``train`` or ``validation`` text.

        In a folder it is the only ``*train*.txt`` or ``*valid*.txt``.

        Raises:
            UserError: the folder is missing, or has none or several.
        """
        if self.is_on_hub():
            return f"resources/corpora/{self.corpus.replace('/', '--')}/{name}.txt"
        folder = Path(self.corpus)
        if not folder.is_dir():
            raise UserError(
                f"pretrain.corpus is {self.corpus!r}: no such folder; name one that holds"
                " *train*.txt and *valid*.txt, or the Hub's roneneldan/TinyStories"
            )
        pattern = {"train": "*train*.txt", "validation": "*valid*.txt"}[name]
        paths = sorted(folder.glob(pattern))
        if len(paths) != 1:
            found = ", ".join(path.name for path in paths) or "none"
            raise UserError(f"pretrain.corpus: {folder} should hold one {pattern}, has {found}")
        return str(paths[0])
