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


def best_of_n(
    reward: Array, counts: npt.NDArray[np.int64], log_density: Array, candidates: Iterable[int]
) -> list[Row]:
    """Rows of frontier/best_of_n.csv: reward and KL of the best of n, from one pool of N draws.

    Reward: the mean of the maximum over all subsets of n, C(i−1, n−1)/C(N, n) for the i-th
    smallest (unbiased). KL: the chosen completion has reward level a with probability
    F(a)ⁿ − F(a⁻)ⁿ, divided within the level as p divides it (Beirami et al., arXiv 2401.01879), so
    KL = E[log((F(a)ⁿ − F(a⁻)ⁿ) / (F(a) − F(a⁻)))]. The size of a level, F(a) − F(a⁻), is the exact
    density of its completions. F(a) comes from the ranks: give each draw a uniform place within
    its level; the i-th of N such places has E[log F] = −Σ_{j=i..N} 1/j, and the top of the level is
    size/(count + 1) above its highest draw. So the KL is right for levels large and tiny alike.

    Args:
        reward, counts, log_density: (completions,) of the base model; counts may hold zeros.
        candidates: values of n from 1 to N.
    """
    drawn = counts > 0
    levels, where = np.unique(reward[drawn], return_inverse=True)  # ascending
    count = np.bincount(where, weights=counts[drawn])
    rank = np.cumsum(count).astype(int)  # of the level's highest draw
    size = np.bincount(where, weights=np.exp(log_density[drawn]))
    total = int(rank[-1])
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    tail = np.cumsum(1.0 / np.arange(1, total + 1)[::-1])[::-1]  # Σ_{j=i..N} 1/j for i = 1..N
    below = np.minimum(np.exp(-tail[rank - 1]) + size / (count + 1), 1.0)  # F(a)
    part = np.clip(size / below, 1e-300, 1.0)  # share of F(a) that is the level itself
    part[0] = 1.0  # nothing is below the lowest level
    rows = []
    for n in candidates:
        if not 1 <= n <= total:
            raise ValueError(
                f"best of {n} needs at least {max(n, 1)} completions, there are {total}"
            )
        enough = rank >= n
        at_most = np.zeros(len(rank))  # share of the subsets of n that lie within the lowest levels
        at_most[enough] = np.exp(
            log_factorial[rank[enough]]
            - log_factorial[rank[enough] - n]
            - log_factorial[total]
            + log_factorial[total - n]
        )
        chosen = np.diff(at_most, prepend=0.0)
        with np.errstate(divide="ignore"):  # log(1 − 1) = −inf where nothing is below
            grown = -np.expm1(n * np.log1p(-part)) / part  # (1 − (1 − part)ⁿ) / part
        kl = float(chosen @ ((n - 1) * np.log(below) + np.log(grown)))
        bound = float(np.log(n) - (n - 1) / n)  # a theorem, which an estimate may overstep
        rows.append(
            {
                "n": n,
                "reward": float(chosen @ levels),
                "kl_policy_to_reference_nats": min(max(kl, 0.0), bound),
                "kl_bound_nats": bound,
            }
        )
    return rows


def powers_of_two(draws: int) -> list[int]:
    """n = 1, 2, 4, … up to a tenth of the base's completions.

    Beyond that the expected maximum rests on a handful of completions.
    """
    return [2**i for i in range(draws.bit_length()) if 10 * 2**i <= draws] or [1]
