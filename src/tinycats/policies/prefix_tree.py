"""The prefix tree of a batch: its levels, and the sums over each completion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tinycats.compute.devices import put
from tinycats.language_model.cache import Cache, Past


@dataclass(frozen=True)
class Level:
    """One level of the tree: ``rows`` distinct prefixes, each extended by ``length`` tokens.

    A level has one token a row, but for the prompt (one row of P tokens) and the tail. An entry
    is one completion at one of the level's states: ``sample``, ``state`` and ``token`` hold which
    completion took which token where, in ascending order of the states. Indices and counts are on
    the CPU; measurements are on the device until :meth:`Rollout.of` copies them to the CPU.
    """

    inputs: Tensor  # (rows, length) token ids fed to the model
    parents: Tensor  # (rows,) row of the level above
    select: Tensor  # (states,) which of rows · length positions predict a token, ascending
    sample: Tensor  # (entries,) completion
    step: Tensor  # (entries,) index of the new token, from 0
    state: Tensor  # (entries,) row of ``select``, ascending
    token: Tensor  # (entries,) token taken
    visits: Tensor  # (states,) completions that pass through, float32
    # measurements
    log_prob: Tensor  # (entries,) log π of the token taken
    log_prob_base: Tensor  # (entries,) log p_base of the token taken
    kl_policy_to_base: Tensor  # (states,) nats
    kl_base_to_policy: Tensor  # (states,) nats
    entropy: Tensor  # (states,) nats
    # on the device
    cache: Cache  # the policy's, leaves of this level's graph
    cache_base: Cache
    hidden_base: Tensor  # (states, width)
    log_probabilities: tuple[Tensor, Tensor] | None  # policy's, base's, where kept
    graph: tuple[Tensor, Cache] | None  # hidden states, new keys and values, where kept

    def released(self) -> Level:
        """This level without what only :meth:`Sampler.backward` needs, so that memory is freed."""
        return replace(self, graph=None, cache=[], log_probabilities=None)


#: Measurements of a level with one value for each entry, and with one for each state.
OF_ENTRIES = ("log_prob", "log_prob_base")
OF_STATES = ("kl_policy_to_base", "kl_base_to_policy", "entropy")


@dataclass
class Rollout:
    """A batch of completions and the per-completion sums that the loss needs, ``(batch,)``, CPU."""

    token_ids: list[tuple[int, ...]]  # the distinct completions, end token included
    index: Tensor  # (batch,) which distinct completion each sample is
    counts: Tensor  # (distinct,)
    log_prob: Tensor  # Σ_t log π, nats
    log_prob_base: Tensor  # Σ_t log p_base, nats
    kl_policy_to_base: Tensor  # Σ_t KL(π‖p_base), nats
    kl_base_to_policy: Tensor  # Σ_t KL(p_base‖π), nats
    entropy: Tensor  # Σ_t entropy, nats
    levels: list[Level]
    tokens: Tensor  # (batch, new tokens), −1 after the end

    @classmethod
    def of(cls, levels: list[Level], tokens: Tensor) -> Rollout:
        """Copy the levels' measurements to the CPU, sum them by completion, find distinct ones."""
        names = (*OF_ENTRIES, *OF_STATES)
        values = [getattr(level, name) for level in levels for name in names]
        fetched = iter(torch.cat(values).cpu().split([len(value) for value in values]))
        levels = [replace(level, **{name: next(fetched) for name in names}) for level in levels]

        def total(name: str) -> Tensor:
            out = torch.zeros(len(tokens), dtype=torch.float64)
            for level in levels:
                values: Tensor = getattr(level, name)
                values = values[level.state] if name in OF_STATES else values
                out.index_add_(0, level.sample, values.double())
            return out

        rows = [tuple(row) for row in tokens.tolist()]
        distinct = sorted(set(rows))  # torch.unique takes three times as long
        place = {row: i for i, row in enumerate(distinct)}
        index = torch.tensor([place[row] for row in rows])
        return cls(
            token_ids=[tuple(i for i in row if i >= 0) for row in distinct],
            index=index,
            counts=torch.bincount(index),
            levels=levels,
            tokens=tokens,
            **{name: total(name) for name in (*OF_ENTRIES, *OF_STATES)},
        )

    @property
    def log_ratio(self) -> Tensor:
        """Σ_t log π − log p_base, nats, ``(batch,)``."""
        return self.log_prob - self.log_prob_base

    @property
    def k3(self) -> Tensor:
        """Σ_t e^(−d_t) − 1 + d_t with d_t = log π − log p_base, nats, ``(batch,)``."""
        total = torch.zeros_like(self.log_prob)
        for level in self.levels:
            d = (level.log_prob - level.log_prob_base).double()
            total.index_add_(0, level.sample, torch.expm1(-d) + d)
        return total


def ancestors(levels: list[Level], parents: Tensor, base: bool = False) -> Past:
    """Keys and values of all tokens before rows whose ``parents`` in the last level are given.

    One part a level: the prompt's is shared by all rows, the others are gathered.
    """
    if not levels:
        return []
    path = [parents]
    for level in reversed(levels[1:]):
        path.append(level.parents[path[-1]])
    path.reverse()  # path[j]: the ancestor's row in level j
    caches = [level.cache_base if base else level.cache for level in levels]
    rows_of = [put(rows, caches[0][0][0].device) for rows in path]

    def parts(layer: int, which: int) -> list[Tensor]:
        prompt = caches[0][layer][which].expand(len(parents), -1, -1, -1)
        below = zip(caches[1:], rows_of[1:], strict=True)
        return [prompt, *(c[layer][which].index_select(0, rows) for c, rows in below)]

    return [(parts(layer, 0), parts(layer, 1)) for layer in range(len(caches[0]))]
