"""What training broke: fluency, memory, form and diversity, by KL factor."""

from __future__ import annotations

import math

from tinycats.figures import multiples, style
from tinycats.figures.reading import Tables, listing, number, percent
from tinycats.figures.registry import showcase
from tinycats.layout import BASE
from tinycats.scores.columns import METRICS
from tinycats.tables.intervals import Interval

#: One metric of fluency, of repetition, of form and of diversity.
SHOWN = ("perplexity_under_base", "repeated_4_grams", "line_breaks", "distinct_completions")
#: The other metrics, in a figure behind a click.
MORE = (
    "base_perplexity_under_policy",
    "distinct_2",
    "ended",
    "self_bleu",
    "vendi_score",
    "compression_ratio",
)


#: The title where no change is beyond seed noise.
UNCLEAR = "No metric changes beyond seed noise"
#: How many changes the finding names, the largest first.
MOST_NAMED = 3


def draw(tables: Tables) -> style.Drawing:
    return drawing(tables, SHOWN, (*SHOWN, *MORE))


def drawing(
    tables: Tables, metrics: tuple[str, ...], counted: tuple[str, ...], of: str = ""
) -> style.Drawing:
    """The figure of ``metrics``; its finding is about those ``counted``, which ``of`` names."""
    everyone, values = multiples.summary(tables)
    if not any((who, metric) in values for who in everyone for metric in metrics):
        return style.empty("This study has no scores.")
    figure, drawn = multiples.draw(tables, metrics)
    shown = [m for m in counted if any((who, m) in values for who in everyone)]
    parts, title = [], UNCLEAR
    out_of = f"{of}{len(shown)} metrics"
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
            title = f"KL factor {factor} changes {len(apart)} of {out_of}"
            changes = [
                f"{METRICS[m].label} {_form(m, values[BASE, m].mean)} → {_form(m, values[who, m].mean)}"
                for m in apart[:MOST_NAMED]
            ]
            most = "most of all " if len(apart) > len(changes) else ""
            parts.append(
                f"KL factor {factor} changed {len(apart)} of {out_of} beyond seed noise,"
                f" {most}{listing(changes)}"
            )
        elif any((who, m) in values and values[who, m].known for m in shown):
            parts.append(f"KL factor {factor} changed no metric beyond seed noise")
    finding = (
        "; ".join(parts) + " (95% intervals that do not overlap those of the base model)."
        if parts
        else "With one seed there are no intervals that could separate a change from chance."
    )
    return style.Drawing(
        figure,
        title if parts else "What broke and what held",
        finding,
        "Small multiples against the KL factor, mean with 95% interval over seeds, lines for the "
        "base and the prompted base, arrows where a direction is better: "
        + "; ".join(METRICS[m].label for m in drawn)
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
    return percent(value) if METRICS[metric].unit == "share" else number(value, 3)
