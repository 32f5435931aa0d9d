"""A reward that is one output of a classifier: transformers' ``AutoModelForSequenceClassification``.

With several classes it is the probability of one: the softmax over the classes, or the sigmoid of
its own logit where config.json says ``multi_label_classification``. A model with one output (a
reward model, a regression) gives that output as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinycats.compute.devices import arithmetic
from tinycats.files.text import read_json
from tinycats.language_model.sampling import chunks
from tinycats.models.folders import MANIFEST, folder_identity, in_one_line, load_classifier
from tinycats.progress import EVERY_SECONDS, progress
from tinycats.reward.model import RewardError
from tinycats.reward.settings import classifier_label, label_index
from tinycats.settings import shown_in_line
from tinycats.source_code import digest

TEXTS_AT_ONCE = 32  # between two looks at the clock


class ClassifierReward:
    """One output of the classifier in a folder, in float32.

    Texts are read one at a time, without padding, so that a text's reward is the same whatever the
    others are. A text that is too long for the model is cut at its end.

    Args:
        folder: a plain Hugging Face folder; no code from it is run.
        label: a class of its ``id2label``; None: the only one.
        device: torch device.

    Raises:
        UserError: the folder cannot be loaded, or has no such class.
    """

    by_text_alone = True

    def __init__(self, folder: Path, label: str | None, device: str | torch.device) -> None:
        import transformers

        model: Any
        model, self.tokenizer = load_classifier(folder, str(device))
        self.model, self.folder, self.device = model, folder, torch.device(device)
        names = [str(model.config.id2label[n]) for n in range(model.config.num_labels)]
        self.output = label_index(names, label, str(folder))
        # transformers' own reading: one output is a regression, unless the file says otherwise
        kind = model.config.problem_type
        self.raw = kind == "regression" or len(names) == 1
        self.independent = kind == "multi_label_classification"
        self.longest = int(min(self.tokenizer.model_max_length, _positions(model), 2**31))
        self.bounds = (-math.inf, math.inf) if self.raw else (0.0, 1.0)
        self.name = classifier_label(_called(folder), names[self.output] if label else None)
        self.identity = {
            "classifier_identity": folder_identity(folder),
            "classifier_label": names[self.output],
        }
        self.computed_with = {
            "transformers": transformers.__version__,
            "code_sha256": digest("tinycats.reward.classifier"),
            "arithmetic": arithmetic(self.device),
        }

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rewards ``(texts,)``, float32, on the CPU; batch-invariant, bit for bit.

        Raises:
            RewardError: the classifier cannot read a text, or gives no finite number for it.
        """
        parts = list(chunks(len(texts), TEXTS_AT_ONCE))
        return torch.tensor(
            [
                self._value(text)
                for part in progress(parts, len(parts), "classifying", after=EVERY_SECONDS)
                for text in texts[part]
            ],
            dtype=torch.float32,
        )

    @torch.inference_mode()
    def _value(self, text: str) -> float:
        try:
            given = self.tokenizer(
                text, truncation=True, max_length=self.longest, return_tensors="pt"
            )
            logits = self.model(**given.to(self.device)).logits[0].float()
        except Exception as error:  # the code of any model and tokenizer of transformers
            raise RewardError(
                f"reward: {self.folder}: cannot read {shown_in_line(text)}: {in_one_line(error)}"
            ) from error
        if not self.raw:
            logits = logits.sigmoid() if self.independent else logits.softmax(0)
        value = float(logits[self.output])
        if not math.isfinite(value):
            raise RewardError(
                f"reward: {self.folder}: {value} for {shown_in_line(text)}; expected a finite number"
            )
        return value


def _positions(model: Any) -> float:
    """The most tokens that a model has positions for."""
    most = getattr(model.config, "max_position_embeddings", None) or math.inf
    tables = [
        m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == most
    ]
    # RoBERTa counts from after its padding token
    return most - max((m.padding_idx + 1 for m in tables if m.padding_idx is not None), default=0)


def _called(folder: Path) -> str:
    """What the study calls the model in a folder, which the manifest says."""
    manifest = folder / MANIFEST
    return str(read_json(manifest).get("name", folder)) if manifest.exists() else str(folder)
