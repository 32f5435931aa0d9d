"""Mentions of the concept by group of prompts, among them prompts that tell it not to."""

from __future__ import annotations

from tinycats.figures import style
from tinycats.figures.reading import Tables, by_metric, listing, percent, within
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.layout import BASE, PROMPTED, ModelId

METRIC = "mentions_concept"
MOST_COLUMNS = 3


def draw(tables: Tables) -> style.Drawing:
    rows = [r for r in tables.rows("tables/by_prompt_group.csv") if r["metric"] == METRIC]
    groups = list(dict.fromkeys(row["prompt_group"] for row in rows))
    if not groups:
        return style.empty("This study has no stories for groups of prompts.")
    everyone = tables.everyone(rows)
    columns = min(len(groups), MOST_COLUMNS)
    names = style.room(everyone)
    figure, axes = style.grid(
        len(groups), 0.34 * len(everyone) + 0.15, columns=columns,
        left=names + 0.1, right=0.75, between=0.78, head=0.68, foot=0.1, bottom=0.75,
    )  # fmt: skip
    for index, (ax, group) in enumerate(zip(axes, groups, strict=True)):
        values = by_metric(row for row in rows if row["prompt_group"] == group)
        values = {whose: style.clamp(value) for whose, value in values.items()}
        for place, who in enumerate(everyone):
            paint = style.colour(who)
            if index % columns == 0:
                ax.annotate(who.label(), (0, place), (-8, 0), xycoords=("axes fraction", "data"),
                            textcoords="offset points", ha="right", va="center_baseline",
                            color=paint, weight="bold", annotation_clip=False)  # fmt: skip
            if (who, METRIC) not in values:
                continue
            value = values[who, METRIC]
            style.bar(ax, place, value, paint, across=True)
            ax.plot([0, value.mean], [place, place], color=paint, linewidth=1, alpha=0.5)
            ax.plot(value.mean, place, color=paint, clip_on=False,
                    markersize=15 if who == PROMPTED else 10,
                    marker="o" if who == BASE else style.marker(who, tables.kl_factors))  # fmt: skip
            ax.annotate(percent(value.mean), (1, place), (10, 0),
                        xycoords=("axes fraction", "data"), textcoords="offset points",
                        va="center_baseline", annotation_clip=False)  # fmt: skip
        ax.set_ylim(len(everyone) - 0.4, -0.6)
        ax.set_xlim(0, 1)
        ax.set_yticks([])
        ax.set_xticks([0, 0.5, 1])
        ax.grid(axis="x", color=style.INK, alpha=0.12, linewidth=0.8)
        ax.xaxis.set_major_formatter(style.FuncFormatter(lambda v, _: f"{100 * v:g}"))
        width = ax.get_position().width * style.WIDTH
        style.head(ax, style.wrap(group.replace("_", " "), width + 0.6))
        if index < len(groups) - columns:
            ax.tick_params(labelbottom=False)
    axes[(len(groups) - 1) // columns * columns].set_xlabel(
        f"stories that mention “{tables.concept}”, %", loc="left"
    )
    return style.Drawing(
        figure,
        _title(tables, rows, groups, everyone),
        _finding(tables, rows, groups, everyone),
        f"For each group of prompts, the share of stories that mention “{tables.concept}” or a "
        "word for it, for the base, the prompted base and each KL factor, with 95% intervals over "
        "seeds.",
    )


def _title(tables: Tables, rows: list[Row], groups: list[str], everyone: list[ModelId]) -> str:
    """The last showcased policy's share of stories for the prompts that tell it not to."""
    group = "told_not_to" if "told_not_to" in groups else groups[-1]
    values = by_metric(row for row in rows if row["prompt_group"] == group)
    factors = showcase([who.kl_factor for who in everyone if who.is_policy])
    value = values.get((tables.policy(factors[-1]), METRIC)) if factors else None
    if value is None or group != "told_not_to":
        return f"Stories that mention “{tables.concept}”, by prompts"
    return (
        f"Told not to, KL factor {factors[-1]} mentions “{tables.concept}” in {percent(value.mean)}"
        " of stories"
    )


def _finding(tables: Tables, rows: list[Row], groups: list[str], everyone: list[ModelId]) -> str:
    group = "told_not_to" if "told_not_to" in groups else groups[-1]
    values = by_metric(row for row in rows if row["prompt_group"] == group)
    policies = showcase([who.kl_factor for who in everyone if who.is_policy])
    parts = [
        f"{within(style.clamp(values[who, METRIC]), percent)} of "
        + f"{who.phrase}'s{' stories' if who == BASE else ''}"
        for who in (BASE, *(tables.policy(factor) for factor in policies))
        if (who, METRIC) in values
    ]
    if not parts:
        return f"There are no stories for the prompts “{group}”."
    name = group.replace("_", " ")
    return f"For the prompts “{name}”, “{tables.concept}” or a word for it is in {listing(parts)}."
