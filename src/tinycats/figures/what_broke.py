"""What training broke: fluency, memory, form and diversity, by KL factor."""

from __future__ import annotations

import math

from tinycats.figures import multiples, style
from tinycats.figures.reading import Interval, Tables, listing, number, percent
from tinycats.figures.registry import showcase
from tinycats.files.tables import METRICS
from tinycats.layout import BASE

SHOWN = (
    "perplexity_under_base",
    "base_perplexity_under_policy",
    "repeated_4_grams",
    "distinct_2",
    "line_breaks",
    "ended",
    "distinct_completions",
    "self_bleu",
    "vendi_score",
    "compression_ratio",
)


#: Changes that the finding names, the largest first.
MOST_NAMED = 3


def draw(tables: Tables) -> style.Drawing:
    everyone, values = multiples.summary(tables)
    if not any((who, metric) in values for who in everyone for metric in SHOWN):
        return style.empty("This study has no scores.")
    figure, shown = multiples.draw(tables, SHOWN)
    parts = []
    for factor in showcase([who.kl_factor for who in everyone if who.is_policy]):
        who = tables.policy(factor)
        apart = [
            m
            for m in shown
            if (who, m) in values
            and (BASE, m) in values
            and _apart(values[who, m], values[BASE, m])
        ]
        apart.sort(key=lambda m: -_change(values[BASE, m].mean, values[who, m].mean))
        if apart:
            changes = [
                f"{METRICS[m][0]} {_form(m, values[BASE, m].mean)} → {_form(m, values[who, m].mean)}"
                for m in apart[:MOST_NAMED]
            ]
            others = len(apart) - len(changes)
            if others:
                changes.append(f"{others} more of {len(shown)}")
            parts.append(f"KL factor {factor} moved {listing(changes)}")
        elif any((who, m) in values and values[who, m].known for m in shown):
            parts.append(f"KL factor {factor} moved nothing")
    finding = (
        "With 95% intervals apart from the base's, " + "; ".join(parts) + "."
        if parts
        else "With one seed there is no interval to tell a change from chance."
    )
    return style.Drawing(
        figure,
        "What broke and what held",
        finding,
        "Small multiples against the KL factor, mean with 95% interval over seeds, lines for the "
        "base and the prompted base, arrows where a direction is better: "
        + "; ".join(METRICS[m][0] for m in shown)
        + ".",
    )


def _apart(a: Interval, b: Interval) -> bool:
    return a.known and b.known and (a.low > b.high or b.low > a.high)


def _change(before: float, after: float) -> float:
    """How many times larger or smaller, as a logarithm."""
    if before <= 0 or after <= 0:
        return math.inf if before != after else 0.0
    return abs(math.log(after / before))


def _form(metric: str, value: float) -> str:
    return percent(value) if METRICS[metric][1] == "share" else number(value, 3)
