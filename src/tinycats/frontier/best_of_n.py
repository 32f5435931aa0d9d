"""Best-of-n: draw n completions from the base model and keep the one with the highest reward.

A policy that needs no training, and its reward and KL follow from one pool of base completions by
order statistics. Completions tie (many have one reward, and a likely one is drawn many times), so
the KL is less than the usual log n − (n−1)/n, and is computed with the ties.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Row = dict[str, Any]


def best_of_n(reward: Array, counts: npt.NDArray[np.int64], candidates: Iterable[int]) -> list[Row]:
    """Rows of frontier/best_of_n.csv: reward and KL of the best of n, from one pool of N draws.

    Reward: the mean of the maximum over all subsets of n; the i-th smallest of N is the maximum of
    a share C(i−1, n−1)/C(N, n) of them (unbiased).

    KL: the policy keeps a completion of reward level a with probability F(a)ⁿ − F(a⁻)ⁿ, divided
    within the level as p divides it (Beirami et al., arXiv 2401.01879). Its density over p's is
    thus the mean of n·uⁿ⁻¹ over the level's part of the unit interval, F(a⁻) < u ≤ F(a). Each draw
    gets a place u in it: of the i-th of N, E[log u] = −Σ_{j=i..N} 1/j. Without ties this gives
    log n − (n−1)/n exactly.

    The interval of the reward is by the jackknife over the draws (Efron and Stein 1981), ± 1.96
    standard errors.

    Args:
        reward, counts: (completions,) of the base model; counts may hold zeros.
        candidates: values of n from 1 to N.
    """
    drawn = counts > 0
    levels, where = np.unique(reward[drawn], return_inverse=True)  # ascending
    count = np.bincount(where, weights=counts[drawn]).astype(int)
    rank = np.cumsum(count)  # of the level's highest draw
    total = int(rank[-1])
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    log_place = -np.cumsum(1.0 / np.arange(1, total + 1)[::-1])[::-1]  # (draws,) ascending
    rows = []
    for n in candidates:
        if not 1 <= n <= total:
            raise ValueError(f"best of {n} needs {max(n, 1)} completions or more, not {total}")
        enough = rank >= n
        at_most = np.zeros(len(rank))  # share of the subsets of n that lie within the lowest levels
        at_most[enough] = np.exp(
            log_factorial[rank[enough]]
            - log_factorial[rank[enough] - n]
            - log_factorial[total]
            + log_factorial[total - n]
        )
        kept = np.diff(at_most, prepend=0.0)
        density = np.add.reduceat(n * np.exp((n - 1) * log_place), rank - count) / count
        some = kept > 0
        mean = float(kept @ levels)
        half = 1.96 * _jackknife(levels, count, n)
        rows.append(
            {
                "n": n,
                "reward": mean,
                "reward_low": mean - half,
                "reward_high": mean + half,
                "kl_policy_to_base_nats": max(float(kept[some] @ np.log(density[some])), 0.0),
                "kl_bound_nats": float(np.log(n) - (n - 1) / n),
            }
        )
    return rows


def _jackknife(levels: Array, count: npt.NDArray[np.int64], n: int) -> float:
    """Standard error of the mean reward of the best of n, each of the N draws left out in turn.

    Without draw i, those below it keep their rank and those above it move down by one; the j-th of
    N−1 is the maximum of a share C(j−1, n−1)/C(N−1, n) of the subsets.

    Args:
        levels, count: (levels,) distinct rewards, ascending, and how often each was drawn.
    """
    reward = np.repeat(levels, count)
    left = len(reward) - 1
    if left < n:
        return 0.0
    rank = np.arange(1, left + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(rank))])
    share = np.zeros(left)
    share[n - 1 :] = (
        n
        / rank[n - 1 :]
        * np.exp(
            log_factorial[rank[n - 1 :]]
            - log_factorial[rank[n - 1 :] - n]
            - log_factorial[left]
            + log_factorial[left - n]
        )
    )
    below = np.concatenate([[0.0], np.cumsum(reward[:-1] * share)])
    above = np.concatenate([np.cumsum((reward[1:] * share)[::-1])[::-1], [0.0]])
    without = below + above
    return float(np.sqrt(left / (left + 1) * np.sum((without - without.mean()) ** 2)))


def powers_of_two(draws: int) -> list[int]:
    """n = 1, 2, 4, … up to a tenth of the base's completions.

    Beyond that the expected maximum rests on a handful of completions.
    """
    return [2**i for i in range(draws.bit_length()) if 10 * 2**i <= draws] or [1]
