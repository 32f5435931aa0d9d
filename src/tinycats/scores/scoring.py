"""From stories to scores: one row a story, one row a set of stories.

The reward is loaded once and sees each distinct text once, whatever the number of models and
seeds. Which text each score is of: ``completion_reward`` is the reward, of the prompt with the
first new tokens, as trained; everything else is of the generated text alone, so that what a prompt
says never counts. What the base was made to begin with (``prompted``) counts as generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinycats.files.tables import Row, TableError, read_lines
from tinycats.kinds import KINDS
from tinycats.layout import BASE, ModelId
from tinycats.mentions import Mentions
from tinycats.program import UserError
from tinycats.progress import progress
from tinycats.scores import metrics
from tinycats.scores.columns import STORIES
from tinycats.stories.columns import FORGETTING_FIELDS, STORY_FIELDS

#: distinct texts → their rewards, float32, in the same order
Rewards = Callable[[list[str]], np.ndarray]
#: prompt, new token ids → prompt and new tokens as one text, without special tokens
Complete = Callable[[str, list[int]], str]

_PER_TOKEN = (
    "tokens",
    "log_prob_policy",
    "log_prob_base",
    "kl_policy_to_base_nats",
    "kl_base_to_policy_nats",
)


def parse_words(text: str) -> list[str]:
    """The word list as programs are given it: a JSON list of texts.

    Raises:
        UserError: it is something else.
    """
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        words = None
    if not (isinstance(words, list) and words and all(isinstance(w, str) and w for w in words)):
        raise UserError(f"--concept-words is {text!r}, should be a JSON list such as '[\"cat\"]'")
    return words


# ---------------------------------------------------------------------------- reading


def read_stories(path: str | Path) -> Iterator[Row]:
    """Stories of one file, each checked to have one value per token.

    Raises:
        TableError: a line is cut short, has other fields, or lists of unequal length.
    """
    number = 0
    try:
        for number, story in enumerate(read_lines(path, STORY_FIELDS), start=1):
            tokens = len(story["token_ids"])
            for field in _PER_TOKEN:
                if len(story[field]) != tokens:
                    raise TableError(
                        f"{path}: line {number} has {len(story[field])} values of {field}"
                        f" for {tokens} tokens"
                    )
            for field in _PER_TOKEN[1:]:
                # KL(base‖model) is infinite, null, where the model was made to say a token
                if not all(
                    isinstance(v, int | float) or _may_be_null(story, field, v)
                    for v in story[field]
                ):
                    raise TableError(
                        f"{path}: line {number} has a value of {field} that is no number"
                    )
            yield story
    except (TypeError, AttributeError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: line {number + 1} is damaged ({error})") from error
    if not number:
        raise TableError(f"{path}: holds no stories; delete it and rerun")


def _may_be_null(story: Row, field: str, value: object) -> bool:
    return value is None and bool(story["forced"]) and field == "kl_base_to_policy_nats"


def read_forgetting(path: str | Path, base_stories: Sequence[Row]) -> dict[int, float]:
    """Index of a base story → its perplexity under the policy of this file.

    Raises:
        TableError: a line does not fit the base's story of that index.
    """
    perplexities = {}
    try:
        for row in read_lines(path, FORGETTING_FIELDS):
            story, log_p = row["story"], row["log_prob_policy"]
            if not 0 <= story < len(base_stories):
                raise TableError(
                    f"{path}: story {story} is not among the base's {len(base_stories)}"
                )
            expected = len(base_stories[story]["token_ids"])
            if len(log_p) != expected:
                raise TableError(
                    f"{path}: story {story} has {len(log_p)} log probabilities for {expected} tokens"
                )
            perplexities[story] = metrics.perplexity(log_p)
    except (TypeError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: line {len(perplexities) + 1} is damaged ({error})") from error
    if not perplexities:
        raise TableError(f"{path}: holds no stories; delete it and rerun")
    return perplexities


# ---------------------------------------------------------------------------- scoring


def score_story(story: Row, mentions: Mentions) -> Row:
    """The columns of scores/stories.csv that need neither encoder nor another file."""
    text = story["text"]
    words = metrics.words(text)
    found = len(mentions.positions(text))
    return {
        "mentions_concept": int(found > 0),
        "mentions_per_100_words": 100 * found / len(words) if words else metrics.UNDEFINED,
        "perplexity_under_base": metrics.perplexity(story["log_prob_base"]),
        "line_breaks": metrics.line_breaks(text),
        "ended": int(story["ended"]),
        "distinct_2": metrics.distinct_share(words, 2),
        "repeated_4_grams": 1 - metrics.distinct_share(words, 4),
        "words": len(words),
        "tokens": len(story["token_ids"]),
    }


def score_set(texts: Sequence[str]) -> Row:
    """The columns of scores/sets.csv for one set of stories."""
    stories = [metrics.words(text) for text in texts]
    sample = metrics.evenly_spaced(stories, metrics.SELF_BLEU_STORIES)
    return {
        "stories": len(stories),
        "self_bleu": metrics.self_bleu(sample),
        "vendi_score": metrics.vendi_score(stories),
        "compression_ratio": metrics.compression_ratio(texts),
    }


def _in_order(paths: Iterable[str | Path], *kinds: str) -> dict[ModelId, Path]:
    found: dict[ModelId, Path] = {}
    for path in map(Path, paths):
        teller = ModelId.from_path(path)
        if teller.kind not in kinds or teller.seed is None:
            expected = " or ".join(kinds)
            raise TableError(f"{path}: expected one seed of {expected}, not {teller.stem}")
        if teller in found:
            raise TableError(f"{path}: the same model and seed as {found[teller]}")
        found[teller] = path
    return dict(sorted(found.items(), key=lambda item: item[0].order()))


def score(
    base_stories: Iterable[str | Path],
    prompted_stories: Iterable[str | Path],
    policy_stories: Iterable[str | Path],
    forgetting: Iterable[str | Path],
    concept_words: Sequence[str],
    completion_tokens: int,
    rewards: Rewards,
    complete: Complete,
    opening_stories: Iterable[str | Path] = (),
) -> tuple[list[Row], list[Row]]:
    """Score every story and every set of stories of a study.

    Args:
        base_stories, prompted_stories, policy_stories: story files, named as in :mod:`tinycats.layout`.
        forgetting: the base's stories under each policy (``*.base.jsonl``).
        concept_words: the words that count as a mention.
        completion_tokens: how many new tokens the reward covers.
        rewards: the rewards of a list of distinct texts.
        complete: the text that is rewarded, decoded from prompt and new tokens.
        opening_stories: story files of the models that begin with openings.

    Returns:
        Rows of scores/stories.csv and of scores/sets.csv.

    Raises:
        TableError: a file is damaged, misnamed or given twice.
    """
    mentions = Mentions(concept_words)
    stories_of = {
        **_in_order(base_stories, "base"),
        **_in_order(prompted_stories, "prompted"),
        **_in_order(policy_stories, "policy"),
        **_in_order(opening_stories, *(name for name, kind in KINDS.items() if kind.opened)),
    }
    forgetting_of = _in_order(forgetting, "policy")
    for teller in forgetting_of:
        if replace(BASE, seed=teller.seed) not in stories_of:
            raise TableError(
                f"{forgetting_of[teller]}: the base's stories of this seed are missing"
            )

    base_of_seed: dict[int | None, list[Row]] = {}
    rows: list[Row] = []
    texts: list[tuple[str, str]] = []  # of each row: the text that is rewarded, the whole story
    groups: dict[tuple[ModelId, str], list[str]] = {}
    files = progress(stories_of.items(), len(stories_of), "file of stories")
    for teller, path in files:
        stories = list(read_stories(path))
        if teller.kind == BASE.kind:
            base_of_seed[teller.seed] = stories
        forgotten = (
            read_forgetting(forgetting_of[teller], base_of_seed[teller.seed])
            if teller in forgetting_of
            else {}
        )
        for index, story in enumerate(stories):
            own: dict[str, Any] = score_story(story, mentions)
            own["base_perplexity_under_policy"] = (
                own["perplexity_under_base"]  # the base is its own reference
                if teller.kind == BASE.kind
                else forgotten.get(index, metrics.UNDEFINED)
            )
            rows.append(
                {
                    **teller.columns(),
                    "prompt_group": story["prompt_group"],
                    "prompt": story["prompt"],
                    "story": index,
                    **own,
                }
            )
            completion = complete(story["prompt"], story["token_ids"][:completion_tokens])
            texts.append((completion, story["text"]))
            if not teller.opened:  # their sets are of another size: scores/opening_sets.csv
                groups.setdefault((teller, story["prompt_group"]), []).append(story["text"])

    distinct = list(dict.fromkeys(text for pair in texts for text in pair if text.strip()))
    value = dict(zip(distinct, rewards(distinct).tolist(), strict=True))
    for i, (completion, text) in enumerate(texts):
        rows[i]["completion_reward"] = value.get(completion, metrics.UNDEFINED)
        # a reward has a value for the empty text too, but it says nothing about any story
        rows[i]["story_reward"] = value.get(text, metrics.UNDEFINED)
        rows[i] = {column: rows[i][column] for column in STORIES}
    sets = [
        {**teller.columns(), "prompt_group": group, **score_set(stories_of_group)}
        for (teller, group), stories_of_group in progress(
            groups.items(), len(groups), "set of stories"
        )
    ]
    return rows, sets
