"""A story model's card: its numbers are measured here, on the files that ship.

Its text is the template workflow/report/model_card.md.j2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from torch import Tensor

from tinycats.layout import TEMPLATES
from tinycats.mentions import Mentions
from tinycats.models.folders import load_causal_lm, sha256_file
from tinycats.pretrain.corpus import IGNORE, collate, windows
from tinycats.pretrain.learning_curve import read_curve
from tinycats.progress import progress
from tinycats.reward.similarity import RewardEncoder

#: settings of the samples that the card shows and counts
PROMPT = "Once upon a time there was"
STORIES, STORY_TOKENS = 200, 500
COMPLETIONS, COMPLETION_TOKENS = 1000, 4
SHOWN = 10
CONCEPT = "cat"
CONCEPT_WORDS = ("cat", "cats", "kitten", "kittens", "kitty", "kitties")
SEED = 0


# ---------------------------------------------------------------------------- measuring


def bits_per_byte(model: Any, tokenizer: Any, stories: Sequence[str]) -> float:
    """−log2 p(story, closing end-of-text | opening end-of-text) over the stories' UTF-8 bytes.

    Stories longer than the model's context are cut into windows of which every scored token but
    the first window's sees at least half a context.

    Args:
        model: an ``AutoModelForCausalLM`` in float32.
        tokenizer: its tokenizer; its eos token is the end-of-text.
        stories: held-out stories.
    """
    context = getattr(model.config, "max_position_embeddings", None) or 2048
    end = tokenizer.eos_token_id
    rows: list[tuple[np.ndarray, int]] = []
    for ids in tokenizer(list(stories), add_special_tokens=False, verbose=False).input_ids:
        rows += windows(np.array([end, *ids, end]), context)
    rows.sort(key=lambda row: len(row[0]))
    nats = 0.0
    with torch.inference_mode():
        for begin in range(0, len(rows), 16):
            part = rows[begin : begin + 16]
            inputs, targets = collate(part, max(len(window) for window, _ in part) - 1)
            logits = model(inputs.to(model.device)).logits  # padding lies to the right: unseen
            keep = targets != IGNORE
            log_p = torch.log_softmax(logits[keep.to(model.device)].float(), dim=-1)
            chosen = log_p.gather(1, targets[keep].to(model.device)[:, None])
            nats -= chosen.double().sum().item()
    return nats / math.log(2) / sum(len(story.encode()) for story in stories)


def sample(
    model: Any, tokenizer: Any, count: int, new_tokens: int, seed: int
) -> list[tuple[str, bool]]:
    """``count`` stories from :data:`PROMPT` at temperature 1 from the full softmax.

    Returns:
        (text without the prompt and without end-of-text, whether it ended by itself) for each.
    """
    torch.manual_seed(seed)
    prompt = tokenizer(PROMPT, return_tensors="pt").input_ids.to(model.device)
    end = tokenizer.eos_token_id
    context = getattr(model.config, "max_position_embeddings", None) or 2048
    new_tokens = min(new_tokens, context - prompt.shape[1])
    found: list[tuple[str, bool]] = []
    batch = 100
    batches = range(0, count, batch)
    for begin in progress(batches, len(batches), f"sampling stories of {new_tokens} tokens, batch"):
        rows: Tensor = model.generate(
            prompt.expand(min(batch, count - begin), -1),
            attention_mask=torch.ones_like(prompt).expand(min(batch, count - begin), -1),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=new_tokens,
            pad_token_id=end,
            eos_token_id=end,
        )
        for row in rows[:, prompt.shape[1] :].tolist():
            ended = end in row
            ids = row[: row.index(end)] if ended else row
            found.append((tokenizer.decode(ids), ended))
    return found


def longest_shared_runs(
    queries: Sequence[np.ndarray], corpus: Sequence[np.ndarray], chunk_tokens: int = 4_000_000
) -> list[int]:
    """For each query, the length of its longest run of tokens that is also in a corpus story.

    The model card reports it to show how far the model's stories copy its training corpus.

    A run of n tokens is identified by a polynomial hash mod 2^64 over random numbers for tokens; n is
    found by bisection, since every part of a shared run is shared.

    Args:
        queries, corpus: token ids of stories, each ``(tokens,)``, without end-of-text.
        chunk_tokens: corpus tokens looked through at a time: bounds memory.
    """
    rng = np.random.default_rng(0)
    largest = max(int(ids.max(initial=0)) for part in (queries, corpus) for ids in part)
    code = rng.integers(1, 2**64, size=largest + 2, dtype=np.uint64)
    separator = largest + 1
    base = np.uint64(rng.integers(0, 2**63, dtype=np.uint64) * 2 + 1)

    def prefix_hashes(ids: np.ndarray) -> np.ndarray:
        # a linear recurrence without a loop: h_i = Σ_j≤i code_j · base^−j, compared times base^i
        inverse = np.uint64(pow(int(base), -1, 2**64))
        powers = np.cumprod(np.full(len(ids), inverse, dtype=np.uint64))
        return np.concatenate([[np.uint64(0)], np.cumsum(code[ids] * powers, dtype=np.uint64)])

    def run_hashes(prefix: np.ndarray, n: int) -> np.ndarray:
        shift = np.cumprod(np.full(len(prefix) - 1, base, dtype=np.uint64))
        return (prefix[n:] - prefix[:-n]) * shift[: len(prefix) - n]

    chunks: list[list[np.ndarray]] = [[]]
    size = 0
    for ids in corpus:
        if size > chunk_tokens:
            chunks.append([])
            size = 0
        chunks[-1] += [ids.astype(np.int64), np.array([separator])]
        size += len(ids) + 1
    hashed = [prefix_hashes(ids.astype(np.int64)) for ids in queries]
    longest = [0] * len(queries)
    for chunk in chunks:
        whole = prefix_hashes(np.concatenate(chunk)) if chunk else np.zeros(1, np.uint64)
        high = [len(ids) for ids in queries]  # bisection: longest[i] is shared, above high is not
        while open_queries := [i for i in range(len(queries)) if longest[i] < high[i]]:
            n = -(-(longest[open_queries[0]] + high[open_queries[0]]) // 2)
            runs = np.sort(run_hashes(whole, n)) if n < len(whole) else np.zeros(0, np.uint64)
            for i in open_queries:
                if not longest[i] < n <= high[i]:
                    continue
                wanted = run_hashes(hashed[i], n)
                at = np.minimum(np.searchsorted(runs, wanted), max(0, len(runs) - 1))
                if len(runs) and bool((runs[at] == wanted).any()):
                    longest[i] = n
                else:
                    high[i] = n - 1
    return longest


def measure(
    folder: Path,
    train: Sequence[str],
    validation: Sequence[str],
    encoder_folder: Path,
    device: str = "cpu",
    stories: int = STORIES,
    completions: int = COMPLETIONS,
) -> dict[str, Any]:
    """Every measured number of the card, and the samples it shows.

    Args:
        folder: the model folder.
        train, validation: the stories that it was trained and measured on.
        encoder_folder: the reward encoder.
        device: torch device.
        stories, completions: how many of each are sampled.
    """
    model, tokenizer = load_causal_lm(folder, device)
    told = sample(model, tokenizer, stories, STORY_TOKENS, SEED)
    texts = [PROMPT + text for text, _ in told]
    beginnings = [
        PROMPT + text
        for text, _ in sample(model, tokenizer, completions, COMPLETION_TOKENS, SEED + 1)
    ]
    encoder = RewardEncoder(encoder_folder, device)
    concept = encoder.embed([CONCEPT])[0]
    mentions = Mentions(CONCEPT_WORDS)

    def mentions_concept(text: str) -> bool:
        return bool(mentions.positions(text))

    def share(of: Sequence[str], true: Callable[[str], bool]) -> float:
        return sum(map(true, of)) / len(of)

    def breaks(of: Sequence[str]) -> float:
        return sum(text.strip().count("\n") for text in of) / len(of)

    def ids(of: Sequence[str]) -> list[np.ndarray]:
        rows = tokenizer(list(of), add_special_tokens=False, verbose=False).input_ids
        return [np.array(row, dtype=np.int64) for row in rows]

    def runs(of: Sequence[str], known: list[np.ndarray]) -> dict[str, float]:
        lengths = longest_shared_runs(ids(of), known)
        return {
            "median": float(np.median(lengths)),
            "95 %": float(np.quantile(lengths, 0.95)),
            "longest": max(lengths),
        }

    known = ids(train)
    alike = [text for text in train if text.startswith(PROMPT)]
    return {
        "bits_per_byte": bits_per_byte(model, tokenizer, validation),
        "validation_stories": len(validation),
        "train_stories": len(train),
        "train_tokens": int(sum(len(row) + 1 for row in known)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "stories": stories,
        "completions": completions,
        "ended": sum(ended for _, ended in told) / stories,
        "line_breaks": breaks(texts),
        "line_breaks_train": breaks(train),
        "mentions": share(texts, mentions_concept),
        "mentions_train": share(train, mentions_concept),
        "stories_train_alike": len(alike),
        "mentions_train_alike": share(alike, mentions_concept) if alike else None,
        "completion_similarity": float(encoder.similarities(beginnings, concept).mean()),
        "distinct_completions": len(set(beginnings)),
        "shared_runs": runs(texts, known),
        "shared_runs_held_out": runs(validation, known),
        "samples": texts[:SHOWN],
    }


# ---------------------------------------------------------------------------- writing


def card(
    folder: Path, numbers: Mapping[str, Any], run: Mapping[str, Any], curve: Path, notes: str
) -> str:
    """The model card, as Markdown.

    Args:
        folder: the model folder, for checksums.
        numbers: what :func:`measure` found.
        run: the contents of ``run.json``.
        curve: ``curve.csv``.
        notes: Markdown of what was tried, or an empty text.
    """
    rows = read_curve(curve)
    best = min(rows, key=lambda row: row["validation_bits_per_byte"])
    shown = {round(i * (len(rows) - 1) / 11) for i in range(12)} | {rows.index(best)}
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters["fmt"] = format
    return env.get_template("model_card.md.j2").render(
        numbers=numbers,
        run=run,
        recipe=run["recipe"],
        versions=run["versions"],
        files=[
            (f"{name} text, {text['bytes']:,} bytes", text["sha256"])
            for name, text in run["data"].items()
        ]
        + [
            (f"`{name}`", sha256_file(folder / name))
            for name in ("model.safetensors", "tokenizer.json", "config.json")
        ],
        curve=[rows[i] for i in sorted(shown)],
        best=best,
        samples=[
            [line for line in text.splitlines() if line.strip()] for text in numbers["samples"]
        ],
        # a comment at the top of the notes file is for its editors
        notes=re.sub(r"<!--.*?-->", "", notes, flags=re.DOTALL).strip(),
        prompt=PROMPT,
        story_tokens=STORY_TOKENS,
        completion_tokens=COMPLETION_TOKENS,
        shown=SHOWN,
        concept=CONCEPT,
        seed=SEED,
        own=numbers["shared_runs"],
        others=numbers["shared_runs_held_out"],
    )
