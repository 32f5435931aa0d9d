"""Completions of one training prompt: sampled, measured, searched."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tinycats.completions.search import search
from tinycats.files.tables import Row
from tinycats.language_model.network import Network
from tinycats.language_model.sampling import uniform_generator
from tinycats.language_model.text import decode, encode, encode_prompt, rewarded_text
from tinycats.layout import BASE, PROMPTED
from tinycats.policies.prefix_tree import Rollout
from tinycats.policies.rollout import Sampler
from tinycats.reward.model import RewardModel

#: First tokens less probable than this are left out of first_token.csv.
LEAST_PROBABILITY = 1e-4

Ids = tuple[int, ...]
#: completion → the rows of the pool's tables that hold it, in the order of token ids
Pool = Mapping[Ids, list[Row]]


class OfPrompt:
    """Draws completions of one prompt from models in turn, as tables of distinct ones.

    Args:
        base: the base model; every policy shares its vocabulary.
        reward: text → reward.
        new_tokens: most tokens of a completion.
        first: whether the prompt is the study's first.
    """

    def __init__(
        self,
        base: Network,
        tokenizer: Any,
        reward: RewardModel,
        prompt: str,
        new_tokens: int,
        micro_batch: int,
        first: bool,
    ) -> None:
        self.base, self.tokenizer, self.reward = base, tokenizer, reward
        self.prompt, self.prompt_ids = prompt, encode_prompt(tokenizer, prompt)
        self.new_tokens, self.micro_batch, self.first = new_tokens, micro_batch, first

    def generator(self, seed: int, model: str) -> torch.Generator:
        """Random numbers of a model's completions, separate from those of training.

        They are another stream for every model and every prompt, since the limit's bootstrap
        resamples each by itself.
        """
        name = model if self.first else f"{model} {self.prompt}"
        return uniform_generator(seed, 1_000_000 + zlib.crc32(name.encode()))

    def sampler(self, policy: Network, forced: tuple[int, ...] = ()) -> Sampler:
        """Sampler of what follows the prompt and ``forced``."""
        return Sampler(
            policy,
            self.base,
            [*self.prompt_ids, *forced],
            self.new_tokens - len(forced),
            self.tokenizer.eos_token_id,
            self.micro_batch,
        )

    def draw_base(self, count: int) -> list[Row]:
        """The base's own completions."""
        return self.rows(self.sampler(self.base).sample(count, self.generator(0, BASE.kind)))

    def draw_policy(self, who: Row, network: Network, count: int) -> list[Row]:
        """Completions of one policy, measured under it and under the base."""
        generator = self.generator(who["seed"], f"{who['variant']} {who['kl_factor']}")
        return self.rows(self.sampler(network).sample(count, generator))

    def draw_prompted(self, text: str, count: int) -> list[Row]:
        """Completions of the base made to begin with ``text``: conditioning, a policy like any other.

        Its probability is p_base's, divided by p_base(text); so its KL(policy‖base) is −log
        p_base(text), and KL(base‖policy) is infinite (left empty).
        """
        forced = tuple(encode(self.tokenizer, text))
        follow = self.sampler(self.base).follow([forced])
        paid = -float(follow.log_prob[0])
        if len(forced) == self.new_tokens:
            drawn: list[tuple[tuple[int, ...], int, float]] = [(forced, count, -paid)]
        else:
            sampler = self.sampler(self.base, forced)
            rollout = sampler.sample(count, self.generator(0, PROMPTED.kind))
            log_prob = self.by_distinct(rollout, rollout.log_prob_base)
            drawn = [
                (forced + ids, int(n), float(d) - paid)
                for ids, n, d in zip(rollout.token_ids, rollout.counts, log_prob, strict=True)
            ]
        rewards = self.reward([self.full_text(ids) for ids, _, _ in drawn]).tolist()
        return [
            {
                **self.described(ids, count, reward),
                "log_prob_policy": log_prob + paid,
                "log_prob_base": log_prob,
                "kl_policy_to_base_nats": paid,
                "kl_base_to_policy_nats": None,
            }
            for (ids, count, log_prob), reward in zip(drawn, rewards, strict=True)
        ]

    # ------------------------------------------------------------------ rows

    def full_text(self, ids: tuple[int, ...]) -> str:
        """Prompt and completion as the reward reads them."""
        return rewarded_text(self.tokenizer, self.prompt_ids, ids)

    def described(self, ids: tuple[int, ...], count: int, reward: float) -> Row:
        """The columns of one distinct completion that need no model."""
        token_ids, text = " ".join(map(str, ids)), decode(self.tokenizer, ids)
        return {
            "prompt": self.prompt,
            "token_ids": token_ids,
            "text": text,
            "count": count,
            "reward": reward,
        }

    @staticmethod
    def by_distinct(rollout: Rollout, values: torch.Tensor) -> np.ndarray:
        """One value for each distinct completion, of values for each sample."""
        out = torch.empty(len(rollout.token_ids), dtype=torch.float64)
        out[rollout.index] = values.double()
        return out.numpy()

    def rows(self, rollout: Rollout) -> list[Row]:
        """A completions table of a rollout."""
        rewards = self.reward([self.full_text(ids) for ids in rollout.token_ids]).tolist()
        columns = {
            "log_prob_policy": rollout.log_prob,
            "log_prob_base": rollout.log_prob_base,
            "kl_policy_to_base_nats": rollout.kl_policy_to_base,
            "kl_base_to_policy_nats": rollout.kl_base_to_policy,
        }
        values = {name: self.by_distinct(rollout, value) for name, value in columns.items()}
        return [
            {
                **self.described(ids, int(rollout.counts[i]), rewards[i]),
                **{name: float(value[i]) for name, value in values.items()},
            }
            for i, ids in enumerate(rollout.token_ids)
        ]

    @torch.no_grad()
    def next_token(self, network: Network, after: list[int]) -> torch.Tensor:
        """Exact probabilities of the token after the prompt and ``after``: (vocabulary,)."""
        ids = torch.tensor([[*self.prompt_ids, *after]], device=network.device)
        return network.log_probabilities(network.forward(ids, [])[0][:, -1])[0].exp()

    @functools.cached_property
    def likeliest_first(self) -> int:
        """The base model's likeliest first token."""
        return int(self.next_token(self.base, []).argmax())

    def first_tokens(self, who: Row, network: Network) -> list[Row]:
        """Rows of completions/first_token.csv: exact probabilities of the first new token, and of the
        second after the base's likeliest first."""
        first, rows = self.likeliest_first, []
        goes_on = self.new_tokens > 1 and first != self.tokenizer.eos_token_id
        for after in [[], [first]] if goes_on else [[]]:
            p = self.next_token(network, after)
            about = {**who, "prompt": self.prompt}
            about["after"] = decode(self.tokenizer, after, special_tokens=True)
            for token in torch.argsort(p, descending=True, stable=True).tolist():
                if p[token] < LEAST_PROBABILITY:
                    break
                text = decode(self.tokenizer, [token], special_tokens=True)
                rows.append({**about, "token": text, "probability": float(p[token])})
        return rows

    # ------------------------------------------------------------------ the pool

    def search(self, pool: Pool, budget: int) -> dict[Ids, tuple[float, float]]:
        """What :func:`tinycats.completions.search.search` finds from what the pool drew twice or more."""
        sampler = self.sampler(self.base)
        known = {
            ids: (entries[0]["log_prob_base"], entries[0]["reward"])
            for ids, entries in pool.items()
            if sum(entry["count"] for entry in entries) > 1
        }
        return search(
            known,
            self.next_tokens,
            lambda ids: sampler.follow(ids).log_prob.double().numpy(),
            lambda ids: self.reward([self.full_text(own) for own in ids]).double().numpy(),
            budget,
            self.new_tokens,
            self.tokenizer.eos_token_id,
        )

    @torch.no_grad()
    def next_tokens(self, prefixes: list[tuple[int, ...]]) -> np.ndarray:
        """(prefixes, vocabulary) log p_base of the token after the prompt and each prefix."""
        rows: dict[tuple[int, ...], Any] = {}
        for length in sorted(set(map(len, prefixes))):
            own = [prefix for prefix in prefixes if len(prefix) == length]
            ids = torch.tensor([[*self.prompt_ids, *prefix] for prefix in own])
            hidden = self.base.forward(ids.to(self.base.device), [])[0][:, -1]
            log_p = self.base.log_probabilities(hidden).double().cpu().numpy()
            rows.update(zip(own, log_p, strict=True))
        return np.array([rows[prefix] for prefix in prefixes])

    def searched_rows(self, found: Mapping[Ids, tuple[float, float]], pool: Pool) -> list[Row]:
        """Rows of completions/searched.csv: what was found and drawn from no model of the pool."""
        rows = []
        for ids, (log_prob, reward) in found.items():
            if ids not in pool:
                row = self.described(ids, 0, reward)
                del row["count"]
                rows.append({**row, "log_prob_base": log_prob})
        return rows
