"""The 95 % interval over seeds: one value a seed goes in, the seed is the unit.

An interval that is shown fits its data (:func:`over_seeds`): that of a share of stories is Wilson's, that
of a positive quantity such as a KL is on the log scale, and with fewer than four seeds, or where the
seeds do not scatter like a normal distribution (two modes, say), there is none: the seeds are shown.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from tinycats.files.tables import Row, format_number

CONFIDENCE = 0.95
#: fewer seeds are shown by themselves, without an interval
ENOUGH_SEEDS = 4
#: p-value below which seeds are not taken for a sample of a normal distribution
NORMAL = 0.05
#: how an interval is computed; see :func:`over_seeds`
Scale = Literal["plain", "log", "logit", "proportion"]


class Interval(NamedTuple):
    """Mean over seeds with its interval; low and high are nan where there is none.

    Attributes:
        seeds: how many have a value.
        each: their values.
    """

    mean: float
    low: float
    high: float
    seeds: int
    each: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def columns(self) -> Row:
        """The last columns of a table with an interval."""
        return {**self._asdict(), "each": " ".join(map(format_number, self.each))}


@functools.cache
def _t_quantile(degrees_of_freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def _standard_error(
    known: Sequence[float], shared: float, least: float
) -> tuple[float, float, float]:
    """Mean, standard error and degrees of freedom (Welch 1947) of two values or more."""
    n = len(known)
    mean = math.fsum(known) / n
    seeds = max(math.fsum((value - mean) ** 2 for value in known) / (n - 1) / n, least**2)
    both = seeds + shared**2
    freedom = (n - 1) * (both / seeds) ** 2 if seeds > 1e-12 * both else math.inf
    return mean, math.sqrt(both), freedom if shared else n - 1


def t_interval(values: Iterable[float], shared: float = 0.0, least: float = 0.0) -> Interval:
    """Mean and 95 % t-interval (Student 1908) of one value a seed, from two seeds on.

    Args:
        values: undefined ones are left out.
        shared: standard error of what all the values have in common, such as the rival that each
            was compared with.
        least: standard error of the mean that chance gives anyhow, though seeds may agree by luck.
    """
    known = tuple(float(value) for value in values if not math.isnan(value))
    if len(known) < 2:
        mean = known[0] if known else math.nan
        return Interval(mean, math.nan, math.nan, len(known), known)
    mean, error, freedom = _standard_error(known, shared, least)
    half = _t_quantile(freedom) * error
    return Interval(mean, mean - half, mean + half, len(known), known)


def _scatters(values: Sequence[float], scale: Scale) -> bool:
    """Whether an interval may stand for the values: they could be of a normal distribution."""
    if scale == "proportion" or max(values) - min(values) <= 1e-9 * max(map(abs, values)):
        return True
    if scale == "log" and min(values) > 0:
        values = [math.log(value) for value in values]
    from scipy import stats

    return float(stats.shapiro(values).pvalue) >= NORMAL  # Shapiro and Wilk 1965


def over_seeds(
    values: Iterable[float],
    shared: float = 0.0,
    least: float = 0.0,
    scale: Scale = "plain",
    stories: float = 0,
    check: bool = True,
) -> Interval:
    """Mean and 95 % interval of one value a seed, as it is shown.

    Args:
        values, shared, least: as for :func:`t_interval`.
        scale: ``plain``, the t-interval; ``log`` or ``logit``, the same of the mean's logarithm or
            log odds (by the delta method), for what is positive or a fraction; ``proportion``: of a
            share of ``stories``, Wilson's (1927) with the effective number of stories (Korn and
            Graubard 1998): fewer than there are, where seeds differ more than chance makes them.
        stories: all seeds' together.
        check: whether values that scatter otherwise than a normal distribution have no interval.
    """
    found = t_interval(values, shared, least)
    mean, half = found.mean, found.high - found.mean
    if found.seeds < ENOUGH_SEEDS or (check and not _scatters(found.each, scale)):
        return found._replace(low=math.nan, high=math.nan)
    if scale == "log" and mean > 0:
        return found._replace(low=mean * math.exp(-half / mean), high=mean * math.exp(half / mean))
    if scale == "logit" and 0 < mean < 1:
        odds, wide = mean / (1 - mean), half / (mean * (1 - mean))
        low, high = odds * math.exp(-wide), odds * math.exp(wide)
        return found._replace(low=low / (1 + low), high=high / (1 + high))
    if scale == "proportion" and stories:
        quantile = _t_quantile(found.seeds - 1)
        error = half / quantile
        number = min(stories, mean * (1 - mean) / error**2) if error > 1e-12 else stories
        low, high = wilson(mean, number or stories, quantile)
        return found._replace(low=low, high=high)
    return found


def wilson(share: float, number: float, quantile: float) -> tuple[float, float]:
    """Ends of Wilson's score interval of a share of ``number`` trials."""
    more = quantile**2 / number
    middle = (share + more / 2) / (1 + more)
    half = math.sqrt(more * (share * (1 - share) + more / 4)) / (1 + more)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def p_value(values: Iterable[float], shared: float = 0.0, least: float = 0.0) -> float:
    """Two-sided p-value of a mean of 0, as in :func:`t_interval`; nan with fewer than two values."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    mean, error, freedom = _standard_error(known, shared, least)
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
