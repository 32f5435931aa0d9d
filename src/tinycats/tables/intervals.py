"""The 95 % interval over seeds: one value a seed goes in, the seed is the unit."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
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


def p_value(values: Iterable[float]) -> float:
    """Two-sided p-value of a mean of 0, one value a seed (Student's t); nan with fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    mean = math.fsum(known) / len(known)
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1) / len(known))
    if error <= 1e-12 * abs(mean):  # the same difference in every seed, up to rounding
        return 0.0 if mean else 1.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean) / error, len(known) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm 1979), in the order given; nan stays nan.

    Where only those below 0.05 count, the chance that any true zero is among them is at most 5 %.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted
