"""The first figure: reward against KL(policy‖base), with the best achievable reward.

The horizontal axis is in nats on a square-root scale, because the best achievable reward rises as
μ + σ√(2K) for a small KL of K nats. With several variants, each variant at each KL factor is one mark
(the mean over seeds); with one, each run is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from tinycats.figures import style
from tinycats.figures.equal_kl import of_gain, rival_phrases, rows_of, variants_at_equal_kl
from tinycats.figures.reading import Tables, listing, number, percent, said_without_way, without_way
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.layout import ModelId

POLICY_TO_BASE = "kl_policy_to_base_nats"
BASE_TO_POLICY = "kl_base_to_policy_nats"


def draw(tables: Tables) -> style.Drawing:
    several = len(tables.variants) > 1
    rows_of = tables.all_rows if several else tables.rows
    trajectories, policies = rows_of("tables/trajectories.csv"), rows_of("frontier/policies.csv")
    limit = _limit(tables.all_rows("frontier/limit.csv"))
    best_of_n = tables.all_rows("frontier/best_of_n.csv")
    prompted = tables.all_rows("frontier/prompted.csv")
    ends = final_policies(trajectories, policies)
    if not ends and not limit:
        return style.empty("This study has no policies to compare with the best achievable reward.")

    entries = (
        [(v.replace("_", " "), _paint(tables, v), "o") for v in tables.variants]
        if several
        else key_of(tables, ends)
    )
    figure, (ax,) = style.panels(
        [2.9], top=style.key_height(entries) + 0.05, bottom=0.78, head=0.4
    )  # fmt: skip
    _draw_limit(ax, limit)
    _draw_best_of_n(ax, best_of_n)
    if several:
        _draw_variants(ax, tables, trajectories, ends)
    else:
        draw_runs(ax, tables, trajectories, ends, POLICY_TO_BASE)
    _draw_prompted(ax, prompted)

    farthest = [r[POLICY_TO_BASE] for r in [*ends, *trajectories, *prompted] if _real(r[POLICY_TO_BASE])]  # fmt: skip
    right = max([1.0, *farthest]) * 1.15
    marks = [
        r["reward"] for r in [*trajectories, *ends, *prompted, *best_of_n] if _real(r["reward"])
    ]
    drawn = [r["reward"] for r in limit if r[POLICY_TO_BASE] <= right]
    low, high = min([*marks, *drawn]), max([*marks, *drawn])
    pad = 0.07 * (high - low or 1)
    style.root_axis(ax, right, "x")
    ax.set_ylim(low - pad, high + 1.6 * pad)
    style.head(ax, f"reward: {tables.reward}", outdent=0.75)
    ax.set_xlabel("KL(policy‖base), nats (√ scale)")
    _draw_key(ax)
    style.key(figure, entries)
    equal = tables.all_rows("tables/equal_kl.csv")
    if several:
        title, finding = _variants_found(tables, ends, equal)
        finding += said_without_way(without_way(tables))
    else:
        title, finding = _found(tables, ends, prompted, equal)
    return style.Drawing(
        figure,
        title,
        finding,
        "Reward against KL(policy‖base) in nats on a square-root scale: the best achievable reward "
        "with its 95% interval, best-of-n, the base model prompted, and "
        + (
            "the mean trajectory and the mean final policy of each variant at each KL factor."
            if several
            else "the trajectory and the final policy of each run."
        ),
    )


def _real(value: float) -> bool:
    return math.isfinite(value)


def _limit(rows: list[Row]) -> list[Row]:
    """The best achievable reward, by KL."""
    rows = [
        row
        for row in rows
        if _real(row[POLICY_TO_BASE]) and _real(row["reward"]) and row[POLICY_TO_BASE] >= 0
    ]
    return sorted(rows, key=lambda row: row[POLICY_TO_BASE])


def final_policies(trajectories: list[Row], policies: list[Row]) -> list[Row]:
    """Each run's final policy, measured on completions; if not measured, its last batch."""
    measured = [row for row in policies if _real(row["reward"]) and _real(row[POLICY_TO_BASE])]
    done = {_run(row) for row in measured}
    last: dict[tuple[str, ...], Row] = {}
    for row in trajectories:
        run = _run(row)
        if run not in done and (run not in last or row["step"] > last[run]["step"]):
            last[run] = row
    return [*measured, *last.values()]


def _run(row: Row) -> tuple[str, ...]:
    return row["variant"], row["kl_factor"], row["seed"]


def factors_of(tables: Tables, rows: Sequence[Row]) -> list[ModelId]:
    found = {row["kl_factor"] for row in rows}
    return [tables.policy(factor) for factor in tables.kl_factors if factor in found]


def key_of(tables: Tables, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Entries of :func:`tinycats.figures.style.key` for the KL factors of these rows."""
    return [
        (who.label(), style.colour(who), style.marker(who, tables.kl_factors))
        for who in factors_of(tables, rows)
    ]


def _draw_limit(ax: Axes, rows: list[Row]) -> None:
    if not rows:
        return
    x = [row[POLICY_TO_BASE] for row in rows]
    y = [row["reward"] for row in rows]
    ax.fill_between(
        x, [row["low"] for row in rows], [row["high"] for row in rows],
        color=style.INK, alpha=0.15, linewidth=0,
    )  # fmt: skip
    ax.plot(x, y, color=style.INK, linewidth=2.6, zorder=3, label="best achievable reward")


def _draw_best_of_n(ax: Axes, rows: list[Row]) -> None:
    rows = [row for row in rows if _real(row["reward"]) and _real(row[POLICY_TO_BASE])]
    if not rows:
        return
    x = [max(row[POLICY_TO_BASE], 0) for row in rows]
    y = [row["reward"] for row in rows]
    ax.fill_between(
        x, [row["reward_low"] for row in rows], [row["reward_high"] for row in rows],
        color=style.INK, alpha=0.25, linewidth=0,
    )  # fmt: skip
    ax.plot(
        x, y, color=style.INK, linewidth=1.6, linestyle=(0, (1, 1.6)), zorder=3, label="best-of-n"
    )
    for i, row in enumerate(rows):
        if row["n"] in (4, 64, 512):
            ax.plot(x[i], y[i], marker=".", color=style.INK, markersize=9, zorder=4)
            above = row["n"] == 512  # on the plateau, where marks lie below
            ax.annotate(
                f"n={row['n']:.0f}", (x[i], y[i]), (-8, 6) if above else (6, -17),
                textcoords="offset points", ha="right" if above else "left", zorder=8,
            )  # fmt: skip


def draw_runs(
    ax: Axes, tables: Tables, trajectories: list[Row], ends: list[Row], distance: str
) -> None:
    """Each run's trajectory and final policy, by KL factor; ``distance`` is the column of x."""
    for who in factors_of(tables, [*trajectories, *ends]):
        paint = style.colour(who)
        mine = [r for r in trajectories if r["kl_factor"] == who.kl_factor and _real(r[distance])]
        for seed in dict.fromkeys(row["seed"] for row in mine):
            run = sorted((r for r in mine if r["seed"] == seed), key=lambda row: row["step"])
            x = [max(row[distance], 0) for row in run]
            ax.plot(x, [row["reward"] for row in run], color=paint, linewidth=1.1, alpha=0.55)
        for row in ends:
            if row["kl_factor"] == who.kl_factor and _real(row[distance]):
                ax.plot(
                    max(row[distance], 0), row["reward"], color=paint,
                    marker=style.marker(who, tables.kl_factors), markersize=9,
                    markeredgecolor=style.PAPER, markeredgewidth=0.8, linestyle="none", zorder=6,
                )  # fmt: skip


def _paint(tables: Tables, variant: str) -> str:
    colours = style.VARIANT_COLOURS
    return colours[tables.variants.index(variant) % len(colours)]


def _draw_variants(ax: Axes, tables: Tables, trajectories: list[Row], ends: list[Row]) -> None:
    for variant in tables.variants:
        paint = _paint(tables, variant)
        for who in factors_of(tables, ends):
            ours = (variant, who.kl_factor)
            run = [r for r in trajectories if _run(r)[:2] == ours and _real(r[POLICY_TO_BASE])]
            steps = sorted({row["step"] for row in run})
            at = [[row for row in run if row["step"] == step] for step in steps]
            ax.plot(
                [max(mean(rows, POLICY_TO_BASE), 0) for rows in at],
                [mean(rows, "reward") for rows in at], color=paint, linewidth=1.6, alpha=0.6,
            )  # fmt: skip
            mine = [row for row in ends if _run(row)[:2] == ours]
            if mine:
                ax.plot(
                    max(mean(mine, POLICY_TO_BASE), 0), mean(mine, "reward"), color=paint,
                    marker="o", markersize=11, markeredgecolor=style.PAPER, markeredgewidth=0.8,
                    linestyle="none", zorder=6,
                )  # fmt: skip


def _draw_prompted(ax: Axes, rows: list[Row]) -> None:
    for row in rows:
        if _real(row["reward"]) and _real(row[POLICY_TO_BASE]):
            ax.plot(
                row[POLICY_TO_BASE], row["reward"], marker="*", markersize=19,
                color=style.PROMPTED_COLOUR, markeredgecolor=style.PAPER, zorder=7, linestyle="none",
                label="base model, prompted",
            )  # fmt: skip


def _draw_key(ax: Axes) -> None:
    """The legend of lines in the first place that covers nothing, or the least.

    Concave curves leave the lower right corner free, unless a policy is far and poor.
    """
    handles, labels = ax.get_legend_handles_labels()
    covered: dict[str, int] = {}
    for place in ("lower right", "upper left", "center right", "upper right", "lower left"):
        if handles and 0 not in covered.values():
            covered[place] = _covered(ax, _legend(ax, handles, labels, place))
    if covered:
        _legend(ax, handles, labels, min(covered, key=lambda place: covered[place]))


def _legend(ax: Axes, handles: Any, labels: list[str], place: Any) -> Any:
    return ax.legend(
        handles, labels, loc=place, frameon=False, borderaxespad=0.1,
        handlelength=1.7, handletextpad=0.5, labelspacing=0.25,
    )  # fmt: skip


def _covered(ax: Axes, legend: Any) -> int:
    """How many points of lines and marks lie under a legend or within 10 points of it."""
    box = legend.get_window_extent().padded(10)
    points = (ax.transData.transform(line.get_xydata()) for line in ax.lines)
    return sum(int(box.count_contains(places)) for places in points)


def _found(
    tables: Tables, ends: list[Row], prompted: list[Row], equal: list[Row]
) -> tuple[str, str]:
    """The title and the finding: each showcased KL factor beside its rivals at equal KL."""
    parts, title = [], "Reward against KL from the base model"
    for factor in showcase([who.kl_factor for who in factors_of(tables, ends)]):
        mine = [row for row in ends if row["kl_factor"] == factor]
        kl = number(mean(mine, POLICY_TO_BASE))
        text = f"KL factor {factor} reaches a reward of {number(mean(mine, 'reward'))} at {kl} nats from the base model"  # fmt: skip
        share = mean(mine, "share_of_attainable_gain")
        if _real(share):
            others = rival_phrases(rows_of(equal, tables.variant, factor), percent)
            gain = "of the possible gain in reward"
            title = f"At {kl} nats, KL factor {factor} has {of_gain(share)} {gain}"
            title += f", {others[0]}" if others else ""
            aside = f"{of_gain(share)} of the gain possible at that KL, "
            aside += f"where {listing(others)}" if others else (
                "which neither best-of-n nor prompting was measured at"
            )  # fmt: skip
            text += f" ({aside})"
        parts.append(text)
    for row in prompted[:1]:
        if _real(row["reward"]):
            parts.append(
                f"the base model prompted with “{row['text']}” gives {number(row['reward'])} at "
                f"{number(row[POLICY_TO_BASE])} nats"
            )
    return title, _sentence(parts)


def _variants_found(tables: Tables, ends: list[Row], equal: list[Row]) -> tuple[str, str]:
    """The title names who is ahead at the KL of the first variant."""
    factors = [who.kl_factor for who in factors_of(tables, ends)]
    factor = showcase(factors)[-1] if factors else ""
    parts = []
    for variant in tables.variants:
        mine = [row for row in ends if _run(row)[:2] == (variant, factor)]
        if mine:
            share = mean(mine, "share_of_attainable_gain")
            aside = f", {of_gain(share)} of the possible gain" if _real(share) else ""
            parts.append(
                f"{variant} reaches a reward of {number(mean(mine, 'reward'))} at "
                f"{number(mean(mine, POLICY_TO_BASE))} nats{aside}"
            )
    title, at_equal_kl = variants_at_equal_kl(equal, tables.variant, factor)
    finding = f"At KL factor {factor}, {listing(parts)}." if parts else _sentence(parts)
    return title or "Reward against KL from the base model, by variant", at_equal_kl + finding


def _sentence(parts: list[str]) -> str:
    if not parts:
        return "No run has finished."
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def mean(rows: list[Row], column: str) -> float:
    """Mean of a column over the rows that have it; ``nan`` if none has."""
    values = [row[column] for row in rows if column in row and _real(row[column])]
    return sum(values) / len(values) if values else math.nan
