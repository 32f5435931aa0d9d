"""Best-of-n: draw n completions from the base model and keep the one with the highest reward.

A policy that needs no training, and its reward and KL follow from one pool of base completions by
order statistics. Completions tie (many have one reward, and a likely one is drawn many times), so
the KL is less than the usual log n − (n−1)/n, and is computed with the ties.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Row = dict[str, Any]

NORMAL = 1.96  # 97.5 % quantile of the normal distribution


class Best(NamedTuple):
    """The best of n: n need not be whole, see :meth:`Pool.at`."""

    n: float
    reward: float
    error: float  # standard error of the reward
    kl: float  # to the base, nats


class Candidates:
    """Draws of the base model to choose from.

    Attributes:
        draws: how many of each prompt.
        of: n → reward and KL of the best of n.
    """

    draws: int
    of: Callable[[int], Best]

    @property
    def most(self) -> int:
        """The largest n, a tenth of the draws: beyond, the maximum rests on a handful of them."""
        return max(self.draws // 10, 1)

    def at(self, kl: float) -> Best | None:
        """The best of n whose KL is ``kl`` nats; ``None`` where that needs more than ``most``.

        Between two whole n it is a mixture: the best of n + 1 for a share of the completions, of n
        for the others. Its reward is the mean, its KL at most the mean (KL is convex), and two
        neighbours are so near that this is nearly equality.
        """
        low, high = 1, self.most
        if not 0 <= kl <= self.of(high).kl:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.of(middle).kl <= kl else (low, middle)
        below, above = self.of(low), self.of(high)
        width = above.kl - below.kl
        part = (kl - below.kl) / width if width > 0 else 0.0
        return Best(*(a + part * (b - a) for a, b in zip(below, above, strict=True)))


class Pool(Candidates):
    """The base model's draws of one prompt as candidates.

    Args:
        reward, counts: (completions,) of the base model; counts may hold zeros.
    """

    def __init__(self, reward: Array, counts: npt.NDArray[np.int64]) -> None:
        drawn = counts > 0
        self.levels, where = np.unique(reward[drawn], return_inverse=True)  # ascending
        self.count = np.bincount(where, weights=counts[drawn]).astype(int)
        self.rank = np.cumsum(self.count)  # of the level's highest draw
        self.draws = draws = int(self.rank[-1])
        self.log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, draws + 1)))])
        # (draws,) ascending: E[log u] of each draw's place u in the unit interval
        self.log_place = -np.cumsum(1.0 / np.arange(1, draws + 1)[::-1])[::-1]
        self.of = functools.cache(self._of)

    def _of(self, n: int) -> Best:
        """Reward and KL of the best of n, from one pool of N draws.

        Reward: the mean of the maximum over all subsets of n; the i-th smallest of N is the maximum
        of a share C(i−1, n−1)/C(N, n) of them (unbiased).

        KL: the policy keeps a completion of reward level a with probability F(a)ⁿ − F(a⁻)ⁿ, divided
        within the level as p divides it (Beirami et al., arXiv 2401.01879). Its density over p's is
        thus the mean of n·uⁿ⁻¹ over the level's part of the unit interval, F(a⁻) < u ≤ F(a). Each
        draw gets a place u in it: of the i-th of N, E[log u] = −Σ_{j=i..N} 1/j. Without ties this
        gives log n − (n−1)/n exactly.

        Error: by the jackknife over the draws (Efron and Stein 1981).
        """
        if not 1 <= n <= self.draws:
            raise ValueError(f"best of {n} needs {max(n, 1)} completions or more, not {self.draws}")
        rank, log_factorial = self.rank, self.log_factorial
        enough = rank >= n
        at_most = np.zeros(len(rank))  # share of the subsets of n that lie within the lowest levels
        at_most[enough] = np.exp(
            log_factorial[rank[enough]]
            - log_factorial[rank[enough] - n]
            - log_factorial[self.draws]
            + log_factorial[self.draws - n]
        )
        kept = np.diff(at_most, prepend=0.0)
        density = (
            np.add.reduceat(n * np.exp((n - 1) * self.log_place), rank - self.count) / self.count
        )
        some = kept > 0
        kl = max(float(kept[some] @ np.log(density[some])), 0.0)
        return Best(n, float(kept @ self.levels), _jackknife(self.levels, self.count, n), kl)


class Pools(Candidates):
    """The draws of several prompts: of each prompt the best of n, and the means over prompts."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = pools
        self.draws = min(pool.draws for pool in pools)
        self.of = functools.cache(self._of)

    def _of(self, n: int) -> Best:
        each = [pool.of(n) for pool in self.pools]
        reward, kl = (float(np.mean([best[i] for best in each])) for i in (1, 3))
        return Best(n, reward, float(np.hypot.reduce([b.error for b in each])) / len(each), kl)


def best_of_n(pool: Candidates, candidates: Iterable[int]) -> list[Row]:
    """Rows of frontier/best_of_n.csv for these n; the interval is ± 1.96 standard errors."""
    rows = []
    for n in candidates:
        best = pool.of(n)
        rows.append(
            {
                "n": n,
                "reward": best.reward,
                "reward_low": best.reward - NORMAL * best.error,
                "reward_high": best.reward + NORMAL * best.error,
                "kl_policy_to_base_nats": best.kl,
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
