"""Judges: rewards that are measured and not trained on, against the one that is.

A policy that is trained on a reward may raise it in ways that nobody meant (over-optimisation; Gao,
Schulman & Hilton 2022, arXiv 2210.10760). If a judge of what is meant does not rise with it, this
has happened.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinycats.completions.columns import COMPLETIONS
from tinycats.files.tables import Row, TableError, read_table
from tinycats.layout import ModelId
from tinycats.scores.columns import STORIES
from tinycats.scores.scoring import Complete, Rewards, read_stories

#: the group of prompts whose stories are judged
GROUP = "training"


class Judged(NamedTuple):
    """A text, how often it occurs, and the reward that is trained on."""

    text: str
    drawn: int
    reward: float


#: (model and seed, ``completions`` or ``stories``) → its texts
Texts = dict[tuple[ModelId, str], list[Judged]]


def completions(paths: Iterable[str | Path], complete: Complete) -> Texts:
    """The texts of completions/**.csv, as the reward read them.

    Args:
        paths: the files.
        complete: the text that is rewarded, decoded from prompt and new tokens.

    Raises:
        TableError: a file is damaged.
    """
    texts: Texts = {}
    for path in map(Path, paths):
        try:
            found = [
                Judged(
                    complete(row["prompt"], [int(token) for token in row["token_ids"].split()]),
                    int(row["count"]),
                    float(row["reward"]),
                )
                for row in read_table(path, COMPLETIONS)
            ]
        except ValueError as error:
            raise TableError(f"{path}: should hold numbers ({error})") from error
        if found:  # the prompted base has none where it cannot begin with the text
            texts[ModelId.from_path(path), "completions"] = found
    return texts


def stories(paths: Iterable[str | Path], scores: str | Path) -> Texts:
    """The stories of the training prompts that have a word, with their rewards.

    Args:
        paths: stories/**.jsonl.
        scores: scores/stories.csv.

    Raises:
        TableError: a file is damaged, or a story has no score.
    """
    rewards = {
        (ModelId.from_row(row), row["story"]): row["story_reward"]
        for row in read_table(scores, STORIES)
    }
    texts: Texts = defaultdict(list)
    for path in map(Path, paths):
        model = ModelId.from_path(path)
        for index, story in enumerate(read_stories(path)):
            if story["prompt_group"] != GROUP or not story["text"].strip():
                continue
            try:
                reward = float(rewards[model, str(index)])
            except (KeyError, ValueError) as error:
                raise TableError(
                    f"{scores}: story {index} of {path} has no story_reward; delete it and rerun"
                ) from error
            texts[model, "stories"].append(Judged(story["text"], 1, reward))
    return texts


def judge(texts: Texts, judges: Mapping[str, Callable[[], Rewards]]) -> list[Row]:
    """Rows of scores/judges.csv.

    Args:
        texts: what is judged.
        judges: name → what loads a judge, one after the other, so that one at a time is in memory.
    """
    order = sorted(texts, key=lambda key: (key[0].order(), key[1]))
    distinct = list(dict.fromkeys(one.text for key in order for one in texts[key]))
    rows = []
    for name, load in judges.items():
        value = dict(zip(distinct, load()(distinct).tolist(), strict=True))
        for model, kind in order:
            mine = texts[model, kind]
            counts = [one.drawn for one in mine]
            rows.append(
                {
                    **model.columns(),
                    "judge": name,
                    "texts": kind,
                    "count": sum(counts),
                    "reward": _mean([one.reward for one in mine], counts),
                    "score": _mean([value[one.text] for one in mine], counts),
                }
            )
    return rows


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    return math.fsum(np.multiply(values, counts).tolist()) / sum(counts)
