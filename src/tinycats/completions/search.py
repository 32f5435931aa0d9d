"""A search for completions that nobody drew, for the sum that bounds the limit from below.

At strength λ the best policy gives a completion y the weight p_base(y)·exp(λ·R(y)). Where λ is
large, completions weigh much that the base draws once in millions of draws. The search looks for
them: it takes the weightiest completions known, exchanges one token of each, and computes reward
and log probability of what promises most. Everything it finds is a fact, however it was found.

It starts from completions that were drawn at least twice, so it would find the same if any single
draw had been missing: what was drawn once shows what is still missing (:mod:`tinycats.frontier.limit`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tinycats.progress import progress

Ids = tuple[int, ...]
#: completion → its log probability under the base, nats, and its reward
Known = Mapping[Ids, tuple[float, float]]

_ROUNDS = 8
#: strengths λ that each round searches at, times the spread of the known rewards
_STRENGTHS = np.geomspace(8.0, 200.0, 4)
_PARENTS = 32  # completions whose tokens are exchanged, for each round and strength
_MEASURED = 3  # exchanges whose probability is computed, for each one whose reward is


def search(
    known: Known,
    next_tokens: Callable[[list[Ids]], np.ndarray],
    log_probs: Callable[[list[Ids]], np.ndarray],
    rewards: Callable[[list[Ids]], np.ndarray],
    budget: int,
    new_tokens: int,
    end_token: int,
) -> dict[Ids, tuple[float, float]]:
    """Completions not in ``known``, with log probability and reward.

    Args:
        next_tokens: n prefixes → (n, vocabulary) log p_base of the token that follows each.
        log_probs: n completions → (n,) log p_base of each.
        rewards: n completions → (n,) rewards.
        budget: how many rewards are computed, at most.
        new_tokens: tokens of a completion that does not end earlier.
        end_token: id that ends a completion; it is part of it.
    """
    everything = dict(known)
    found: dict[Ids, tuple[float, float]] = {}
    expanded: set[Ids] = set()
    if not known or not budget:
        return found
    drawn = np.array([reward for _, reward in known.values()])
    strengths = _STRENGTHS / max(float(np.ptp(drawn)), 1e-3)
    size = -(-budget // (_ROUNDS * len(strengths)))
    for _ in progress(range(_ROUNDS), _ROUNDS, "round of the search"):
        for strength in strengths.tolist():

            def weight(ids: Ids, strength: float = strength) -> float:
                log_prob, reward = everything[ids]
                return log_prob + strength * reward

            parents = sorted(everything.keys() - expanded, key=lambda ids: (-weight(ids), ids))
            parents = parents[:_PARENTS]
            expanded.update(parents)
            promising = _exchanges(parents, everything, next_tokens, strength, end_token)
            new: dict[Ids, float] = {}  # completion → its promised reward
            for ids, reward in promising:
                whole = ids if len(ids) == new_tokens or ids[-1] == end_token else (*ids, end_token)
                if whole not in everything and whole not in new:
                    new[whole] = reward
                if len(new) == _MEASURED * size:
                    break
            if not new:
                continue
            exact = dict(zip(new, log_probs(list(new)).tolist(), strict=True))
            best = sorted(new, key=lambda ids: -exact[ids] - strength * new[ids])
            best = best[: min(size, budget - len(found))]
            if not best:
                return found
            for ids, reward in zip(best, rewards(best).tolist(), strict=True):
                found[ids] = everything[ids] = (exact[ids], reward)
    return found


def _exchanges(
    parents: list[Ids],
    known: Known,
    next_tokens: Callable[[list[Ids]], np.ndarray],
    strength: float,
    end_token: int,
) -> list[tuple[Ids, float]]:
    """The parents with one token exchanged, the most promising first, and their promised rewards.

    What comes after the token is taken to be as probable as before. A token's effect on the reward
    is the mean reward of the known completions that hold it.
    """
    places = [(ids, t) for ids in parents for t in range(len(ids))]
    prefixes = list(dict.fromkeys(ids[:t] for ids, t in places))
    row = {prefix: i for i, prefix in enumerate(prefixes)}
    log_p = next_tokens(prefixes)  # (prefixes, vocabulary)
    effect = _effects(known, log_p.shape[1])
    promised = np.array(
        [known[ids][1] + effect - effect[ids[t]] for ids, t in places]
    )  # (places, vocabulary)
    weight = strength * promised
    for i, (ids, t) in enumerate(places):
        of_state = log_p[row[ids[:t]]]
        weight[i] += known[ids][0] - of_state[ids[t]] + of_state
    most = min(weight.size, 4096)
    order = np.argpartition(-weight.ravel(), most - 1)[:most]
    order = order[np.argsort(-weight.ravel()[order], kind="stable")]
    result = []
    for place, token in zip(*np.unravel_index(order, weight.shape), strict=True):
        ids, t = places[place]
        rest = () if token == end_token else ids[t + 1 :]
        result.append(((*ids[:t], int(token), *rest), float(promised[place, token])))
    return result


def _effects(known: Known, vocabulary: int) -> np.ndarray:
    """(vocabulary,) mean reward of the known completions with each token; of all, where none has it."""
    total, count = np.zeros(vocabulary), np.zeros(vocabulary)
    for ids, (_, reward) in known.items():
        own = list(set(ids))
        total[own] += reward
        count[own] += 1
    mean = sum(reward for _, reward in known.values()) / len(known)
    return np.where(count > 0, total / np.maximum(count, 1), mean)
