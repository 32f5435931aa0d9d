"""Short completions of the training prompts: many samples from each model, and every log probability.

Of several prompts each has as many completions, so that a mean over completions is the mean over
prompts of the means over theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinycats.completions.of_prompt import Ids, OfPrompt, Pool
from tinycats.files.tables import Row
from tinycats.language_model.network import network_with_onednn
from tinycats.language_model.text import encode, encode_prompt
from tinycats.layout import BASE
from tinycats.policies.record import describe_step
from tinycats.progress import progress
from tinycats.reward.model import RewardModel

#: Policies whose completions make up the limit's pool, at most.
LARGEST_POOL = 64


def pool_of(policies: int) -> list[int]:
    """Indices of the policies whose completions enter the limit: all, or 64 evenly spread ones.

    Every member computes the log probability of every completion of all members, so at most 64 are
    taken, since the cost is quadratic.
    """
    if policies <= LARGEST_POOL:
        return list(range(policies))
    return [i * (policies - 1) // (LARGEST_POOL - 1) for i in range(LARGEST_POOL)]


def padded(token_ids: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Token ids as rows of one length, −1 after the end."""
    rows = np.full((len(token_ids), length), -1, dtype=np.int64)
    for row, ids in zip(rows, token_ids, strict=True):
        row[: len(ids)] = ids
    return rows


class Collector:
    """Draws completions from models in turn and keeps one table of distinct ones for each.

    Args:
        base: the base model; every policy shares its vocabulary.
        reward: text → reward.
        prompts: the training prompts.
        num_tokens: as in training, the longest prompt included.
    """

    def __init__(
        self,
        base: Any,
        tokenizer: Any,
        reward: RewardModel,
        prompts: Sequence[str],
        num_tokens: int,
        micro_batch: int,
    ) -> None:
        self.base, self.tokenizer = network_with_onednn(base), tokenizer
        longest = max(len(encode_prompt(tokenizer, prompt)) for prompt in prompts)
        self.new_tokens = num_tokens - longest
        shape = self.new_tokens, micro_batch
        self.parts = [
            OfPrompt(self.base, tokenizer, reward, prompt, *shape, first=prompt == prompts[0])
            for prompt in prompts
        ]
        self.tables: list[tuple[Row, list[Row]]] = []
        self.first_tokens: list[Row] = []

    def of_each(self, draw: Callable[[OfPrompt, int], list[Row]], count: int) -> list[Row]:
        """Rows of every prompt, an equal part of ``count`` completions each, rounded up."""
        own = -(-count // len(self.parts))
        return [row for part in self.parts for row in draw(part, own)]

    def draw_base(self, count: int) -> None:
        """The base's own completions."""
        who = BASE.columns()
        self.tables.append((who, self.of_each(OfPrompt.draw_base, count)))
        for part in self.parts:
            self.first_tokens += part.first_tokens(who, self.base)

    def draw_policy(self, who: Row, policy: Any, count: int) -> None:
        """Completions of one policy, measured under it and under the base."""
        network = network_with_onednn(policy)
        rows = self.of_each(lambda part, own: part.draw_policy(who, network, own), count)
        self.tables.append((who, rows))
        for part in self.parts:
            self.first_tokens += part.first_tokens(who, network)

    def draw_prompted(self, text: str, count: int) -> list[Row]:
        """Completions of the base made to begin with ``text``; none if that is longer than they are."""
        if len(encode(self.tokenizer, text)) > self.new_tokens:
            return []
        return self.of_each(lambda part, own: part.draw_prompted(text, own), count)

    def last_drawn(self) -> str:
        """The completions that were drawn last, in words."""
        rows = self.tables[-1][1]
        total, first = sum(r["count"] for r in rows), max(rows, key=lambda r: r["count"])

        def mean(column: str) -> float:
            return float(sum(r["count"] * r[column] for r in rows) / total)

        step = {
            "reward_mean": mean("reward"),
            "kl_policy_to_base_nats": mean("kl_policy_to_base_nats"),
            "distinct_completions": len(rows),
            "top_1_mass": first["count"] / total,
        }
        return describe_step(step, first["text"])

    # ------------------------------------------------------------------ the pool

    def pools(self, members: Sequence[int]) -> list[Pool]:
        """Of each prompt, its distinct completions.

        Args:
            members: which of the models drawn from make up the pool.
        """
        found: dict[str, dict[Ids, list[Row]]] = {part.prompt: {} for part in self.parts}
        for i in members:
            for entry in self.tables[i][1]:
                ids = tuple(map(int, entry["token_ids"].split()))
                found[entry["prompt"]].setdefault(ids, []).append(entry)
        return [dict(sorted(pool.items())) for pool in found.values()]

    def search(self, members: Sequence[int], budget: int) -> list[dict[Ids, tuple[float, float]]]:
        """Of each prompt, what the search finds with its part of the budget."""
        both = zip(self.parts, self.pools(members), strict=True)
        return [part.search(pool, budget // len(self.parts)) for part, pool in both]

    def searched_rows(
        self, found: Sequence[Mapping[Ids, tuple[float, float]]], members: Sequence[int]
    ) -> list[Row]:
        """Rows of completions/searched.csv."""
        each = zip(self.parts, found, self.pools(members), strict=True)
        return [row for part, own, pool in each for row in part.searched_rows(own, pool)]

    def log_probs(
        self,
        models: Iterable[Any],
        members: Sequence[int],
        found: Sequence[Collection[Ids]] = (),
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Log probability of the pool's distinct completions under its models, with counts and rewards.

        Args:
            models: the members of the pool, in order.
            members: which of the models drawn from they are; 0, the base, is the first.
            found: of each prompt, what the search found, drawn or not.

        Returns:
            Tensors ``log_prob`` (models, completions) float64, ``counts`` likewise int64,
            ``reward`` (completions,) float32, ``hit`` (completions,) uint8, 1 where the search
            found it, ``prompt`` (completions,) int64, the index of the prompt, ascending, and
            ``token_ids`` (completions, T) int64, of each prompt in ascending order and −1 after the
            end; and as metadata the ``prompts``, who the ``models`` are, and who the ``others``,
            policies that are not in the pool.
        """
        tables = [self.tables[i] for i in members]
        ids = [list(pool) for pool in self.pools(members)]
        pairs = [
            (part.prompt, own) for part, of_it in zip(self.parts, ids, strict=True) for own in of_it
        ]
        place = {pair: i for i, pair in enumerate(pairs)}
        counts = np.zeros((len(tables), len(pairs)), dtype=np.int64)
        reward = np.zeros(len(pairs), dtype=np.float32)
        for row, (_, table) in enumerate(tables):
            for entry in table:
                i = place[entry["prompt"], tuple(map(int, entry["token_ids"].split()))]
                counts[row, i], reward[i] = entry["count"], entry["reward"]
        log_prob = np.zeros((len(tables), len(pairs)))
        for row, model in enumerate(progress(models, len(tables), "model measured")):
            network = network_with_onednn(model)
            each = zip(self.parts, ids, strict=True)
            log_prob[row] = np.concatenate(
                [part.sampler(network).follow(own).log_prob.numpy() for part, own in each]
            )
        others = [who for i, (who, _) in enumerate(self.tables) if i not in set(members)]
        metadata = {
            "prompts": [part.prompt for part in self.parts],
            "models": [who for who, _ in tables],
            "others": others,
        }
        searched = {
            (part.prompt, own)
            for part, of_it in zip(self.parts, found, strict=False)
            for own in of_it
        }
        tensors: dict[str, np.ndarray] = {
            "log_prob": log_prob,
            "counts": counts,
            "reward": reward,
            "hit": np.array([pair in searched for pair in pairs], dtype=np.uint8),
            "prompt": np.repeat(np.arange(len(ids)), [len(own) for own in ids]),
            "token_ids": padded([own for _, own in pairs], self.new_tokens),
        }
        return tensors, {name: json.dumps(value) for name, value in metadata.items()}
