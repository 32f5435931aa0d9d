"""How an effect carries along a story: scores by position of the token, from the stories files.

Training saw a few new tokens after one prompt; the bins begin with exactly those, and each further
bin is as wide as everything before it.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinycats.files.tables import Row
from tinycats.layout import ModelId
from tinycats.mentions import Mentions
from tinycats.scores.scoring import read_stories

METRICS = (
    "mentions_per_100_tokens",
    "kl_policy_to_base_nats_per_token",
    "log_ratio_nats_per_token",
)
KLS = ("kl_policy_to_base_nats", "kl_base_to_policy_nats")


def bins(first: int, length: int) -> list[tuple[int, int]]:
    """``[0, first), [first, 2·first), [2·first, 4·first) …``, the last one ending at ``length``."""
    edges = [0]
    while edges[-1] < length:
        edges.append(min(length, max(first, 2 * edges[-1])))
    return list(itertools.pairwise(edges))


#: how many characters of the text may lie between one token's piece and the next
_SLACK = 16


def token_ends(text: str, pieces: list[str]) -> list[int]:
    """Where in ``text`` each token ends.

    The pieces nearly make up the text: an end token is not in it, some tokenizers drop a blank at
    a piece's beginning, and a character split among several tokens is no piece's.
    """
    ends, at = [], 0
    for piece in pieces:
        found = text.find(piece, at, at + len(piece) + _SLACK)
        at = at if found < 0 else found + len(piece)
        ends.append(at)
    return ends


def tokens_that_mention(text: str, pieces: list[str], mentions: Mentions) -> list[int]:
    """Index of the token in which each mention of ``text`` begins."""
    ends = token_ends(text, pieces)
    found = (int(np.searchsorted(ends, at, side="right")) for at in mentions.positions(text))
    return [min(token, len(pieces) - 1) for token in found if pieces]


@dataclass
class _Sums:
    """Sums over one seed's stories of one prompt group, by position; grown as needed."""

    # (metrics + 1, positions): the three metrics' sums, then the number of tokens
    by_position: np.ndarray = field(default_factory=lambda: np.zeros((len(METRICS) + 1, 0)))
    completion_kl: dict[str, list[float]] = field(default_factory=lambda: {k: [] for k in KLS})

    def add(self, story: Row, mentions: Mentions, completion_tokens: int) -> None:
        length = len(story["token_ids"])
        if length > self.by_position.shape[1]:
            missing = length - self.by_position.shape[1]
            self.by_position = np.pad(self.by_position, ((0, 0), (0, missing)))
        for token in tokens_that_mention(story["text"], story["tokens"], mentions):
            self.by_position[0, token] += 100
        self.by_position[1, :length] += story["kl_policy_to_base_nats"]
        log_p, log_prob_base = story["log_prob_policy"], story["log_prob_base"]
        self.by_position[2, :length] += np.subtract(log_p, log_prob_base)
        self.by_position[3, :length] += 1
        for name in KLS:
            values = story[name][:completion_tokens]
            # null: infinite, where the model was made to say a token
            self.completion_kl[name].append(math.nan if None in values else math.fsum(values))


@dataclass
class Positions:
    """What the stories files say that the scores do not.

    Attributes:
        rows: (model, prompt group) → (position from, to, metric) → seed → average over the
            group's tokens in the bin.
        completion_kl: prompt group → (model, metric) → seed → KL per completion, nats.
    """

    rows: dict[tuple[ModelId, str], dict[tuple[int, int, str], dict[int, float]]]
    completion_kl: dict[str, dict[tuple[ModelId, str], dict[int, float]]]


def read_positions(
    paths: Iterable[str | Path], concept_words: list[str], completion_tokens: int
) -> Positions:
    """Go through all stories once, one file in memory at a time at most.

    Raises:
        TableError: a file is damaged.
    """
    mentions = Mentions(concept_words)
    sums: dict[tuple[ModelId, str], _Sums] = defaultdict(_Sums)
    for path in sorted(map(Path, paths), key=lambda p: ModelId.from_path(p).order()):
        teller = ModelId.from_path(path)
        for story in read_stories(path):
            sums[teller, story["prompt_group"]].add(story, mentions, completion_tokens)
    longest = max((s.by_position.shape[1] for s in sums.values()), default=0)
    found = Positions(
        defaultdict(lambda: defaultdict(dict)), defaultdict(lambda: defaultdict(dict))
    )
    for (teller, group), own in sums.items():
        model, seed = teller.without_seed, int(teller.seed or 0)
        for begin, end in bins(completion_tokens, longest):
            *totals, tokens = own.by_position[:, begin:end].sum(axis=1)
            for metric, total in zip(METRICS, totals, strict=True):
                if tokens:
                    found.rows[model, group][begin, end, metric][seed] = float(total / tokens)
        for metric, values in own.completion_kl.items():
            average = math.fsum(values) / len(values)
            found.completion_kl[group][model, metric][seed] = average
    return found
