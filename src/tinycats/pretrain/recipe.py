"""The settings of pretraining, as ``config/pretrain.yaml`` gives them. Needs no heavy library."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tinycats.program import UserError


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe; ``config/pretrain.yaml`` documents how to choose them.

    Raises:
        UserError: a value that cannot work, named with what would be right.
    """

    vocab_size: int = 4096
    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 512
    batch_tokens: int = 8192
    epochs: float = 9.0
    muon_learning_rate: float = 0.02
    adam_learning_rate: float = 3.0e-3
    muon_weight_decay: float = 0.1
    warmup_steps: int = 100
    decay_fraction: float = 0.4
    gradient_clip: float = 1.0
    open_without_end_of_text: float = 0.25
    validate_every: int = 250
    checkpoint_seconds: float = 120.0
    precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        def require(ok: bool, key: str, right: str) -> None:
            if not ok:
                raise UserError(f"pretrain.{key} is {getattr(self, key)!r}: should be {right}")

        for key in ("layers", "width", "heads", "batch_tokens", "validate_every", "warmup_steps"):
            require(getattr(self, key) >= 1, key, "a whole number of at least 1")
        for key in ("epochs", "muon_learning_rate", "adam_learning_rate", "gradient_clip"):
            require(getattr(self, key) > 0, key, "a number above 0")
        for key in ("decay_fraction", "open_without_end_of_text"):
            require(0 <= getattr(self, key) <= 1, key, "between 0 and 1")
        require(257 < self.vocab_size <= 65536, "vocab_size", "more than 257 and at most 65536")
        require(self.seed >= 0, "seed", "at least 0")
        require(self.context >= 2, "context", "at least 2")
        require(self.width % self.heads == 0, "heads", f"a divisor of the width {self.width}")
        require(self.precision in ("bf16", "fp32"), "precision", "bf16 or fp32")


def learning_rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Warm-up, constant, then 1 − √(progress) to zero over the last ``decay_fraction``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    decay_start = total - round(total * recipe.decay_fraction)
    if step < decay_start:
        return 1.0
    return max(0.0, 1.0 - math.sqrt((step - decay_start) / max(1, total - decay_start)))


@dataclass(frozen=True)
class Pretraining:
    """The whole of the config's ``pretrain`` block: the recipe, and what is around it."""

    name: str
    corpus: str
    corpus_revision: str | None
    device: str
    threads: int
    notes: str | None
    recipe: Recipe

    @classmethod
    def from_config(cls, block: Any) -> Pretraining:
        """Read and check the block; every key is needed.

        Raises:
            UserError: a key is missing, unknown or mistyped, or a value cannot work.
        """
        if not isinstance(block, Mapping):
            raise UserError("pretrain: should be a block of keys, as in config/pretrain.yaml")
        around: dict[str, tuple[type, ...]] = {
            "name": (str,),
            "corpus": (str,),
            "corpus_revision": (str, type(None)),
            "device": (str,),
            "threads": (int,),
            "notes": (str, type(None)),
        }
        types = around | {f.name: (type(f.default),) for f in fields(Recipe)}
        for key, value in block.items():
            if key not in types:
                near = difflib.get_close_matches(str(key), types, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UserError(f"pretrain.{key}: unknown key{hint}")
            allowed = (*types[key], int) if float in types[key] else types[key]
            if isinstance(value, bool) or not isinstance(value, allowed):
                names = {str: "text", int: "a whole number", float: "a number", type(None): "null"}
                right = " or ".join(names[t] for t in types[key])
                note = (
                    " (YAML reads 2e-3 as text: write 2.0e-3)"
                    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value)
                    else ""
                )
                raise UserError(f"pretrain.{key} is {value!r}: should be {right}{note}")
        if missing := [key for key in types if key not in block]:
            raise UserError(f"pretrain: missing {', '.join(missing)}; see config/pretrain.yaml")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", block["name"]):
            raise UserError(
                f"pretrain.name is {block['name']!r}: should be letters, digits, '.', '_' and '-'"
            )
        recipe: dict[str, Any] = {
            name: float(block[name]) if float in types[name] else block[name]
            for name in (f.name for f in fields(Recipe))
        }
        return cls(**{key: block[key] for key in around}, recipe=Recipe(**recipe))

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

    def arguments(self) -> list[str]:
        """The recipe as arguments of ``workflow/scripts/pretrain.py``."""
        settings = asdict(self.recipe) | {"device": self.device, "threads": self.threads}
        return [
            word
            for key, value in settings.items()
            for word in ("--" + key.replace("_", "-"), str(value))
        ]
