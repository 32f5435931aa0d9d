"""The 95 % interval over seeds: one value a seed goes in, the seed is the unit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tinycats.files.tables import Row

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
def _t_quantile(degrees_of_freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def _standard_error(known: Sequence[float], shared: float) -> tuple[float, float, float]:
    """Mean, standard error and degrees of freedom (Welch 1947) of two values or more."""
    n = len(known)
    mean = math.fsum(known) / n
    seeds = math.fsum((value - mean) ** 2 for value in known) / (n - 1) / n
    both = seeds + shared**2
    freedom = (n - 1) * (both / seeds) ** 2 if seeds > 1e-12 * both else math.inf
    return mean, math.sqrt(both), freedom if shared else n - 1


def over_seeds(values: Iterable[float], shared: float = 0.0) -> Interval:
    """Mean and 95 % t-interval (Student 1908) of one value a seed; undefined values are left out.

    Args:
        shared: standard error of what all the values have in common, such as the rival that each
            was compared with.
    """
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        mean = known[0] if known else math.nan
        return Interval(mean, math.nan, math.nan, len(known))
    mean, error, freedom = _standard_error(known, shared)
    half = _t_quantile(freedom) * error
    return Interval(mean, mean - half, mean + half, len(known))


def p_value(values: Iterable[float], shared: float = 0.0) -> float:
    """Two-sided p-value of a mean of 0, as in :func:`over_seeds`; nan with fewer than two values."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    mean, error, freedom = _standard_error(known, shared)
    if error <= 1e-12 * abs(mean):  # the same difference in every seed, up to rounding
        return 0.0 if mean else 1.0
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean) / error, freedom))


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


def verdict(direction: str, difference: float, p_holm: float) -> str:
    """What a difference means: ``better``, ``worse``, ``higher``, ``lower`` or ``undecided``.

    Args:
        direction: of a metric: ``up``, ``down``, ``none`` or ``cost``.
        p_holm: adjusted p-value; nan with one seed.
    """
    if not p_holm < 1 - CONFIDENCE:
        return "undecided"
    if direction in ("none", "cost"):
        return "higher" if difference > 0 else "lower"
    return "better" if (difference > 0) == (direction == "up") else "worse"


def with_verdicts(rows: list[Row], direction: Callable[[Row], str]) -> list[Row]:
    """Rows with ``mean`` and ``p_value``, given ``p_holm`` over all of them and ``verdict``."""
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_holm": adjusted, "verdict": verdict(direction(row), row["mean"], adjusted)}
    return rows
