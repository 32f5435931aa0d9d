"""What training broke: fluency, memory, form and diversity, by KL factor."""

from __future__ import annotations

from collections.abc import Sequence

from tinycats.figures import multiples, style
from tinycats.figures.reading import Tables, listing, number, percent, uncertainty
from tinycats.figures.registry import showcase
from tinycats.layout import BASE
from tinycats.scores.columns import DIVERSITY, METRICS

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


#: The title where nothing is decided.
UNCLEAR = "No metric is better or worse, as far as the seeds decide"


def draw(tables: Tables) -> style.Drawing:
    return drawing(tables, SHOWN, (*SHOWN, *MORE))


def drawing(tables: Tables, metrics: tuple[str, ...], counted: tuple[str, ...]) -> style.Drawing:
    """The figure of ``metrics``; its finding is about those ``counted``.

    The measures of diversity go together: where all are counted, they are one finding.
    """
    everyone, values = multiples.summary(tables)
    if not any((who, metric) in values for who in everyone for metric in metrics):
        return style.empty("This study has no scores.")
    figure, drawn = multiples.draw(tables, metrics)
    parts, title = [], UNCLEAR
    compared = tables.rows("tables/paired_differences.csv")
    for factor in showcase([who.kl_factor for who in everyone if who.is_policy]):
        who = tables.policy(factor)
        verdicts = {
            row["metric"]: row["verdict"]
            for row in compared
            if (row["minuend"], row["subtrahend"]) == (factor, BASE.short)
            and row["metric"] in counted
            and {(who, row["metric"]), (BASE, row["metric"])} <= set(values)
        }
        if not verdicts:
            continue
        found, names = [], {}
        for word in ("worse", "better"):
            own = [m for m in counted if verdicts.get(m) == word]
            if own:
                names[word] = listing(_names(own, counted))
                changes = [
                    f"{METRICS[m].label} {_form(m, values[BASE, m].mean)} → {_form(m, values[who, m].mean)}"
                    for m in own
                ]
                found.append(f"{word} in {names[word]} ({'; '.join(changes)})")
        if "worse" in names:
            title = f"KL factor {factor} is worse than the base model in {names['worse']}"
        elif "better" in names and title == UNCLEAR:
            title = f"KL factor {factor} is better than the base model in {names['better']}"
        parts.append(
            f"KL factor {factor} against the base model: {listing(found)}"
            if found
            else f"KL factor {factor} against the base model: neither better nor worse in any metric"
        )
    finding = (
        "; ".join(parts) + " (seed by seed; Holm's method over the whole table of comparisons)."
        if parts
        else "There is nothing to compare with the base model."
    )
    return style.Drawing(
        figure,
        title if parts else "What broke and what held",
        finding,
        f"Small multiples against the KL factor, mean {uncertainty(values.values())}, lines for the "
        "base and the prompted base, arrows where a direction is better: "
        + "; ".join(METRICS[m].label for m in drawn)
        + ".",
    )


def _names(metrics: Sequence[str], counted: Sequence[str]) -> list[str]:
    """Labels of metrics; the measures of diversity are one finding where all are counted."""
    if not set(DIVERSITY) <= set(counted):
        return [METRICS[m].label for m in metrics]
    names = [METRICS[m].label for m in metrics if m not in DIVERSITY]
    if measures := [m for m in metrics if m in DIVERSITY]:
        names.append(f"diversity by {len(measures)} of {len(DIVERSITY)} measures")
    return names


def _form(metric: str, value: float) -> str:
    return percent(value) if METRICS[metric].unit == "share" else number(value, 3)
