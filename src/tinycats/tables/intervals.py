"""The 95 % interval over seeds: one value a seed goes in, the seed is the unit."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Mean over seeds with its t-interval; low and high are nan with fewer than two seeds.

    The fields are the last columns of a table with an interval.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@functools.cache
def _t_quantile(degrees_of_freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def over_seeds(values: Iterable[float]) -> Interval:
    """Mean and 95 % t-interval (Student 1908) of one value a seed; undefined values are left out."""
    known = [value for value in values if not math.isnan(value)]
    n = len(known)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(known) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in known) / (n - 1)
    half = _t_quantile(n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)
