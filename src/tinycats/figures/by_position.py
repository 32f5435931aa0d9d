"""How far an effect trained on a few tokens reaches into a story, by token position."""

from __future__ import annotations

import math

from tinycats.figures import style
from tinycats.figures.reading import Tables, interval, listing, number, uncertainty, who_of
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.layout import BASE, PROMPTED, ModelId

#: Groups of prompts that are drawn, a column each.
MOST_GROUPS = 3
MENTIONS = "mentions_per_100_tokens"
DISTANCE = "kl_policy_to_base_nats_per_token"


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/by_position.csv")
    groups = list(dict.fromkeys(row["prompt_group"] for row in rows))
    everyone = tables.everyone(rows)
    if not groups:
        return style.empty("This study has no table by position.")
    entries = [
        (who.label(), style.colour(who),
         "_" if who in (BASE, PROMPTED) else style.marker(who, tables.kl_factors))
        for who in everyone
    ]  # fmt: skip
    groups = groups[:MOST_GROUPS]
    columns = len(groups)
    between = 0.2
    figure, axes = style.panels(
        [1.35, 1.35], columns=columns, left=0.72, right=0.15, between=between, head=0.68,
        top=style.key_height(entries) + 0.05, foot=0.1,
    )  # fmt: skip
    style.key(figure, entries)
    trained = min(row["position_to"] for row in rows)
    highest = {MENTIONS: 0.0, DISTANCE: 0.0}
    for place, ax in enumerate(axes):
        group, metric = groups[place % columns], (MENTIONS, DISTANCE)[place // columns]
        for who in everyone:
            mine = _line(rows, group, metric, who)
            # the forced opening is a rival at the training prompt; elsewhere it makes no sentence
            forced = who == PROMPTED and "training" in groups and group != "training"
            if not mine or forced or (who in (BASE, PROMPTED) and metric == DISTANCE):
                continue
            paint = style.colour(who)
            x = [(row["position_from"] + row["position_to"] - 1) / 2 for row in mine]
            style.band(ax, x, [interval(row) for row in mine], paint)
            ax.plot(
                x, [row["mean"] for row in mine], color=paint, linewidth=2, markersize=6,
                marker=None if who in (BASE, PROMPTED) else style.marker(who, tables.kl_factors),
                markeredgecolor=style.PAPER, markeredgewidth=0.5,
            )  # fmt: skip
            every = [value for row in mine for value in (row["mean"], *interval(row).each)]
            highest[metric] = max([highest[metric], *every])
        ax.axvspan(0, trained, color=style.INK, alpha=0.07, linewidth=0, zorder=0)
    for place, ax in enumerate(axes):
        metric, column = (MENTIONS, DISTANCE)[place // columns], place % columns
        if metric == DISTANCE:
            style.root_axis(ax, 1.1 * highest[metric])
        else:
            ax.set_ylim(0, 1.1 * highest[metric] or 1)
        _positions(ax, rows)
        if column:
            ax.tick_params(labelleft=False)
        if place < columns:
            ax.tick_params(labelbottom=False)
            width = (style.WIDTH - 0.87) / columns - between
            text = style.wrap(groups[column].replace("_", " "), width)
            style.head(
                ax,
                text if column else f"{text}: mentions\nper 100 tokens",
                outdent=0.55 if not column else 0.0,
            )
        elif not column:
            style.head(ax, "KL(policy‖base), nats per token (√ scale)", outdent=0.55)
    axes[-columns].set_xlabel("new token of the story (logarithmic scale)", loc="left")
    return style.Drawing(
        figure,
        "The effect fades along the story"
        if _fades(tables, rows, groups, everyone)
        else "How far into the story the effect reaches",
        _finding(tables, rows, groups, everyone),
        f"For each group of prompts, against the position of the token on a logarithmic axis: mentions of "
        f"“{tables.concept}” per 100 tokens, and the exact KL(policy‖base) per token, "
        f"{uncertainty(map(interval, rows), 'line')}; shaded, the rewarded tokens.",
    )


def _fades(tables: Tables, rows: list[Row], groups: list[str], everyone: list[ModelId]) -> bool:
    """Whether every showcased policy's mentions at least halve from the rewarded tokens to the last."""
    group = "training" if "training" in groups else groups[0]
    lines = [
        _line(rows, group, MENTIONS, tables.policy(factor))
        for factor in showcase([who.kl_factor for who in everyone if who.is_policy])
    ]
    return all(mine and mine[-1]["mean"] <= mine[0]["mean"] / 2 for mine in lines) and bool(lines)


def _positions(ax: style.Axes, rows: list[Row]) -> None:
    """Positions on a logarithmic axis, which gives room to the few tokens that were trained."""
    last = max(row["position_to"] for row in rows)
    ax.set_xscale("symlog", linthresh=10, linscale=0.8)
    ax.set_xlim(0, last)
    ax.set_xticks([t for t in (0, 4, 20, 100, 1000) if t <= last])
    ax.xaxis.set_minor_locator(style.NullLocator())
    ax.xaxis.set_major_formatter(style.FuncFormatter(lambda v, _: f"{v:g}"))


def _line(rows: list[Row], group: str, metric: str, who: ModelId) -> list[Row]:
    mine = [
        row
        for row in rows
        if row["prompt_group"] == group
        and row["metric"] == metric
        and who_of(row) == who
        and math.isfinite(row["mean"])
    ]
    return sorted(mine, key=lambda row: row["position_from"])


def _finding(tables: Tables, rows: list[Row], groups: list[str], everyone: list[ModelId]) -> str:
    group = "training" if "training" in groups else groups[0]
    policies = showcase([who.kl_factor for who in everyone if who.is_policy])
    parts = []
    for who in (BASE, *(tables.policy(factor) for factor in policies)):
        mine = _line(rows, group, MENTIONS, who)
        if mine:
            first, last = mine[0], mine[-1]
            parts.append(
                f"{number(first['mean'])} to {number(last['mean'])} for {who.phrase}"
            )  # fmt: skip
            span = (
                f"the rewarded tokens {first['position_from']:.0f}–{first['position_to'] - 1:.0f} to tokens "
                f"{last['position_from']:.0f}–{last['position_to'] - 1:.0f}"
            )
    if not parts:
        return "No story was long enough."
    return f"From {span}, mentions of “{tables.concept}” per 100 tokens go from {listing(parts)}."
