"""Text to train a story model on: stories, their tokenizer, and shuffled batches of tokens.

Training text is read from a folder or the Hub and never enters the repository.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tinycats.files.atomic import write_text
from tinycats.files.text import read_text
from tinycats.models.folders import sha256_file
from tinycats.program import UserError

if TYPE_CHECKING:
    from tinycats.pretrain.recipe import Recipe

END_OF_TEXT = "<|endoftext|>"
IGNORE = -100


#: the two text files of the Hub's TinyStories data set
HUB_FILES = {
    "train": "TinyStoriesV2-GPT4-train.txt",
    "validation": "TinyStoriesV2-GPT4-valid.txt",
}


def read_stories(path: str | Path) -> list[str]:
    """Stories of a UTF-8 file that separates them by a line ``<|endoftext|>``.

    Raises:
        UserError: the file is not UTF-8, or holds no two stories.
    """
    stories = [story for part in read_text(path).split(END_OF_TEXT) if (story := part.strip())]
    if len(stories) < 2:
        raise UserError(f"{path}: should hold stories separated by lines {END_OF_TEXT}")
    return stories


def fetch(dataset: str, revision: str | None, folder: str | Path) -> None:
    """Download a TinyStories data set from the Hub: ``train.txt``, ``validation.txt``, ``source.json``.

    Args:
        dataset: Hub id of a data set with the files :data:`HUB_FILES`.
        revision: commit; None takes the newest, whose commit ``source.json`` records.
        folder: where the files are written, whole or not at all.

    Raises:
        UserError: the Hub cannot be reached, or what it sent is not stories.
    """
    from huggingface_hub import HfApi, hf_hub_download

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source: dict[str, Any] = {"dataset": dataset, "files": {}}
    # in the target folder, so that an interrupted download resumes and files are moved, not copied
    download = folder / ".download"
    try:
        source["revision"] = HfApi().dataset_info(dataset, revision=revision).sha
        for name, hub_file in HUB_FILES.items():
            path = hf_hub_download(
                dataset,
                hub_file,
                repo_type="dataset",
                revision=source["revision"],
                local_dir=download,
            )
            read_stories(path)
            source["files"][name] = {"name": hub_file, "sha256": sha256_file(path)}
        for name, hub_file in HUB_FILES.items():
            os.replace(download / hub_file, folder / f"{name}.txt")
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"pretrain.corpus: cannot get {dataset} from the Hub: {reason}; "
            "or put its text into a folder and name that"
        ) from error
    shutil.rmtree(download)
    write_text(folder / "source.json", json.dumps(source, indent=2) + "\n")


def train_tokenizer(stories: list[str], folder: Path, vocab_size: int, context: int) -> None:
    """Byte-level BPE (GPT-2's splitting rule) with end-of-text as token 0, written to ``folder``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(stories, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def encode_stories(stories: list[str], tokenizer_folder: Path) -> list[np.ndarray]:
    """Token ids of each story between an opening and a closing end-of-text (token 0)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    encoded = tokenizer.encode_batch(stories)
    return [np.array([0, *e.ids, 0], dtype=np.uint16) for e in encoded]


def windows(ids: np.ndarray, context: int) -> Iterator[tuple[np.ndarray, int]]:
    """Cut one story into windows of at most ``context`` inputs.

    Yields ``(window, first_scored)``: the window's ids (inputs and the last target) and the index of
    its first target that no earlier window has scored. A window after the first starts half a
    context back, so every scored token sees at least half a context.
    """
    start = scored = 0
    while True:
        window = ids[start : start + context + 1]
        yield window, scored - start
        scored = start + len(window) - 1
        if scored >= len(ids) - 1:
            return
        start = scored - context // 2


def batches(
    stories: list[np.ndarray], recipe: Recipe, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch: inputs and targets, each ``(rows, length)``, int64.

    Rows of like length share a batch of about ``batch_tokens``; targets that are padding or were
    scored by an earlier window are ``IGNORE``.
    """
    rng = np.random.default_rng([recipe.seed, epoch])
    widths = [w for w in (96, 128, 160, 192, 224, 256, 320, 384) if w < recipe.context]
    widths.append(recipe.context)
    waiting: dict[int, list[tuple[np.ndarray, int]]] = {width: [] for width in widths}
    ready: list[tuple[int, list[tuple[np.ndarray, int]]]] = []
    for index in rng.permutation(len(stories)):
        ids = stories[index]
        if rng.random() < recipe.open_without_end_of_text:
            ids = ids[1:]
        for window in windows(ids, recipe.context):
            width = next(w for w in widths if len(window[0]) - 1 <= w)
            waiting[width].append(window)
            if len(waiting[width]) * width >= recipe.batch_tokens:
                ready.append((width, waiting[width]))
                waiting[width] = []
    ready += [(width, rows) for width, rows in waiting.items() if rows]
    for index in rng.permutation(len(ready)):
        yield collate(ready[index][1], ready[index][0])


def collate(rows: list[tuple[np.ndarray, int]], width: int) -> tuple[Tensor, Tensor]:
    """Pad windows to ``width``: inputs and targets, each ``(rows, width)``."""
    inputs = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full((len(rows), width), IGNORE)
    for i, (window, first_scored) in enumerate(rows):
        ids = torch.from_numpy(window.astype(np.int64))
        inputs[i, : len(ids) - 1] = ids[:-1]
        targets[i, first_scored : len(ids) - 1] = ids[1 + first_scored :]
    return inputs, targets
