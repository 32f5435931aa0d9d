"""The prefix tree of a batch: its levels, what a rollout knows, and drawing by inversion."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinycats.compute.devices import put
from tinycats.language_model.network import Cache, Past


@dataclass
class Level:
    """One level of the tree: ``rows`` distinct prefixes, each extended by ``length`` tokens.

    A level has one token a row, but for the prompt (one row of P tokens) and the tail. ``sample``,
    ``state`` and ``token`` say, entry by entry, which completion took which token where; entries
    are in the order of their states. What is counted is on the CPU, what is computed on the device
    until :meth:`Rollout.of` fetches the measurements.
    """

    inputs: Tensor  # (rows, length) token ids fed to the model
    parents: Tensor  # (rows,) row of the level above
    select: Tensor  # (states,) which of rows · length positions predict a token, ascending
    sample: Tensor = field(init=False)  # (entries,) completion
    step: Tensor = field(init=False)  # (entries,) index of the new token, from 0
    state: Tensor = field(init=False)  # (entries,) row of ``select``, ascending
    token: Tensor = field(init=False)  # (entries,) token taken
    visits: Tensor = field(init=False)  # (states,) completions that pass through, float32
    # measurements
    log_prob: Tensor = field(init=False)  # (entries,) log π of the token taken
    log_prob_base: Tensor = field(init=False)  # (entries,) log p_base of the token taken
    kl_policy_to_base: Tensor = field(init=False)  # (states,) nats
    kl_base_to_policy: Tensor = field(init=False)  # (states,) nats
    entropy: Tensor = field(init=False)  # (states,) nats
    # on the device
    cache: Cache = field(default_factory=list)  # the policy's, leaves of this level's graph
    cache_base: Cache = field(default_factory=list)
    hidden_base: Tensor = field(init=False)  # (states, width)
    log_probabilities: tuple[Tensor, Tensor] | None = None  # policy's, base's, where kept
    graph: tuple[Tensor, Cache] | None = None  # hidden, new keys and values


#: fields of a level that hold one number an entry, and one number a state
OF_ENTRIES = ("log_prob", "log_prob_base")
OF_STATES = ("kl_policy_to_base", "kl_base_to_policy", "entropy")


@dataclass
class Rollout:
    """A batch of completions and all that the objective asks of them; ``(batch,)`` on the CPU."""

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
        """Fetch the levels' measurements, sum them by completion and find the distinct completions."""
        names = [(level, name) for level in levels for name in (*OF_ENTRIES, *OF_STATES)]
        values = [getattr(level, name) for level, name in names]
        fetched = torch.cat(values).cpu().split([len(value) for value in values])
        for (level, name), value in zip(names, fetched, strict=True):
            setattr(level, name, value)

        def total(name: str) -> Tensor:
            out = torch.zeros(len(tokens), dtype=torch.float64)
            for level in levels:
                values: Tensor = getattr(level, name)
                values = values[level.state] if name in OF_STATES else values
                out.index_add_(0, level.sample, values.double())
            return out

        rows = [tuple(row) for row in tokens.tolist()]
        distinct = sorted(set(rows))  # torch.unique takes three times as long
        place = {row: number for number, row in enumerate(distinct)}
        index = torch.tensor([place[row] for row in rows])
        return cls(
            token_ids=[tuple(i for i in row if i >= 0) for row in distinct],
            index=index,
            counts=torch.bincount(index),
            levels=levels,
            tokens=tokens,
            **{name: total(name) for name in (*OF_ENTRIES, *OF_STATES)},
        )


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
