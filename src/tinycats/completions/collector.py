"""Short completions of the training prompt: many samples from each model, and every log probability."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tinycats.completions.search import search
from tinycats.files.tables import Row
from tinycats.language_model.network import Network, network_with_onednn
from tinycats.language_model.sampling import uniform_generator
from tinycats.language_model.text import decode, encode, encode_prompt, rewarded_text
from tinycats.layout import BASE, PROMPTED
from tinycats.policies.prefix_tree import Rollout
from tinycats.policies.record import describe_step
from tinycats.policies.rollout import Sampler
from tinycats.program import UserError
from tinycats.progress import progress
from tinycats.reward.model import RewardModel

#: Policies whose completions make up the limit's pool, at most.
LARGEST_POOL = 64
#: First tokens less probable than this are left out of first_token.csv.
LEAST_PROBABILITY = 1e-4


def pool_of(policies: int) -> list[int]:
    """Indices of the policies whose completions enter the limit: all, or 64 evenly spread ones.

    Every member computes the log probability of every completion of all members, so at most 64 are
    taken, since the cost is quadratic.
    """
    if policies <= LARGEST_POOL:
        return list(range(policies))
    return [i * (policies - 1) // (LARGEST_POOL - 1) for i in range(LARGEST_POOL)]


def random_stream(name: str) -> int:
    """The random stream of a model: separate from other models' and from those of training.

    The limit's bootstrap resamples each model separately, so their samples must be independent.
    """
    return 1_000_000 + zlib.crc32(name.encode())


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
        num_tokens: as in training, prompt included.
    """

    def __init__(
        self,
        base: Any,
        tokenizer: Any,
        reward: RewardModel,
        prompt: str,
        num_tokens: int,
        micro_batch: int,
    ) -> None:
        self.base, self.tokenizer, self.reward = network_with_onednn(base), tokenizer, reward
        self.prompt_ids = encode_prompt(tokenizer, prompt)
        self.new_tokens = num_tokens - len(self.prompt_ids)
        self.micro_batch = micro_batch
        self.tables: list[tuple[Row, list[Row]]] = []
        self.first_tokens: list[Row] = []
        self.likeliest_first = 0  # the base model's; set by draw_base

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

    def draw_base(self, count: int) -> None:
        """The base's own completions."""
        rollout = self.sampler(self.base).sample(
            count, uniform_generator(0, random_stream(BASE.kind))
        )
        who = BASE.columns()
        self.tables.append((who, self.rows(rollout)))
        self.likeliest_first = int(self.next_token(self.base, []).argmax())
        self.note_first_tokens(who, self.base)

    def draw_policy(self, who: Row, policy: Any, count: int) -> None:
        """Completions of one policy, measured under it and under the base."""
        network = network_with_onednn(policy)
        own = random_stream(f"{who['variant']} {who['kl_factor']}")
        generator = uniform_generator(who["seed"], own)
        self.tables.append((who, self.rows(self.sampler(network).sample(count, generator))))
        self.note_first_tokens(who, network)

    def draw_prompted(self, text: str, count: int) -> list[Row]:
        """Completions of the base made to begin with ``text``: conditioning, a policy like any other.

        Its probability is p_base's, divided by p_base(text); so its KL(policy‖base) is −log
        p_base(text), and KL(base‖policy) is infinite (left empty).
        """
        forced = tuple(encode(self.tokenizer, text))
        if not 0 < len(forced) <= self.new_tokens:
            raise UserError(
                f"evaluation.prompted_with: {text!r} has {len(forced)} tokens; it should have 1 to"
                f" {self.new_tokens}, the new tokens of a completion"
            )
        follow = self.sampler(self.base).follow([forced])
        paid = -float(follow.log_prob[0])
        if len(forced) == self.new_tokens:
            drawn: list[tuple[tuple[int, ...], int, float]] = [(forced, count, -paid)]
        else:
            sampler = self.sampler(self.base, forced)
            rollout = sampler.sample(count, uniform_generator(0, random_stream(PROMPTED.kind)))
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
        return {"token_ids": token_ids, "text": text, "count": count, "reward": reward}

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
        """Exact probabilities of the token after the training prompt and ``after``: (vocabulary,)."""
        ids = torch.tensor([[*self.prompt_ids, *after]], device=network.device)
        return network.log_probabilities(network.forward(ids, [])[0][:, -1])[0].exp()

    def note_first_tokens(self, who: Row, network: Network) -> None:
        """Probabilities of the first new token, and of the second after the base's likeliest first."""
        first = self.likeliest_first
        goes_on = self.new_tokens > 1 and first != self.tokenizer.eos_token_id
        for after in [[], [first]] if goes_on else [[]]:
            p = self.next_token(network, after)
            about = {**who, "after": decode(self.tokenizer, after, special_tokens=True)}
            for token in torch.argsort(p, descending=True, stable=True).tolist():
                if p[token] < LEAST_PROBABILITY:
                    break
                text = decode(self.tokenizer, [token], special_tokens=True)
                self.first_tokens.append({**about, "token": text, "probability": float(p[token])})

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

    def distinct(self, members: Sequence[int]) -> dict[tuple[int, ...], list[Row]]:
        """Completion → the rows of the members' tables that hold it, in the order of token ids.

        Args:
            members: which of the models drawn from make up the pool.
        """
        found: dict[tuple[int, ...], list[Row]] = {}
        for i in members:
            for entry in self.tables[i][1]:
                found.setdefault(tuple(map(int, entry["token_ids"].split())), []).append(entry)
        return dict(sorted(found.items()))

    def search(
        self, members: Sequence[int], budget: int
    ) -> dict[tuple[int, ...], tuple[float, float]]:
        """What :func:`tinycats.completions.search.search` finds from what the pool drew twice or more."""
        sampler = self.sampler(self.base)
        known = {
            ids: (entries[0]["log_prob_base"], entries[0]["reward"])
            for ids, entries in self.distinct(members).items()
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

    def searched_rows(self, found: Mapping[tuple[int, ...], tuple[float, float]]) -> list[Row]:
        """Rows of completions/searched.csv."""
        rows = []
        for ids, (log_prob, reward) in found.items():
            row = self.described(ids, 0, reward)
            del row["count"]
            rows.append({**row, "log_prob_base": log_prob})
        return rows

    def log_probs(
        self,
        models: Iterable[Any],
        members: Sequence[int],
        found: Collection[tuple[int, ...]] = (),
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Log probability of the pool's distinct completions under its models, with counts and rewards.

        Args:
            models: the members of the pool, in order.
            members: which of the models drawn from they are; 0, the base, is the first.
            found: what the search found, drawn or not.

        Returns:
            Tensors ``log_prob`` (models, completions) float64, ``counts`` likewise int64,
            ``reward`` (completions,) float32, ``hit`` (completions,) uint8, 1 where the search
            found it, and ``token_ids`` (completions, T) int64, in ascending order and −1 after the
            end; and as metadata who the ``models`` are, and who the ``others``, policies that are not
            in the pool.
        """
        tables = [self.tables[i] for i in members]
        ids = list(self.distinct(members))
        place = {tokens: i for i, tokens in enumerate(ids)}
        counts = np.zeros((len(tables), len(ids)), dtype=np.int64)
        reward = np.zeros(len(ids), dtype=np.float32)
        for row, (_, table) in enumerate(tables):
            for entry in table:
                i = place[tuple(map(int, entry["token_ids"].split()))]
                counts[row, i], reward[i] = entry["count"], entry["reward"]
        log_prob = np.zeros((len(tables), len(ids)))
        for row, model in enumerate(progress(models, len(tables), "model measured")):
            log_prob[row] = self.sampler(network_with_onednn(model)).follow(ids).log_prob.numpy()
        others = [who for i, (who, _) in enumerate(self.tables) if i not in set(members)]
        metadata = {"models": [who for who, _ in tables], "others": others}
        tensors: dict[str, np.ndarray] = {
            "log_prob": log_prob,
            "counts": counts,
            "reward": reward,
            "hit": np.array([tokens in found for tokens in ids], dtype=np.uint8),
            "token_ids": padded(ids, self.new_tokens),
        }
        return tensors, {name: json.dumps(value) for name, value in metadata.items()}
