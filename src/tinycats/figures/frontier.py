"""The first figure: reward against KL from the base model, with the best achievable reward.

The upper panel shows √KL(policy‖base), for which the best achievable reward has a closed form; the
root, because that reward rises as μ + σ√(2K) for small K. The lower panel shows √KL(base‖policy),
the only direction that was published; the bound does not apply to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from tinycats.figures import reading, style
from tinycats.figures.reading import Tables, number, percent
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.frontier.columns import ENOUGH_SAMPLES
from tinycats.layout import ModelId

POLICY_TO_BASE = "kl_policy_to_base_nats"
BASE_TO_POLICY = "kl_base_to_policy_nats"


def draw(tables: Tables) -> style.Drawing:
    trajectories = tables.rows("tables/trajectories.csv")
    limit = _limit(tables.all_rows("frontier/limit.csv"))
    best_of_n = tables.all_rows("frontier/best_of_n.csv")
    policies = tables.rows("frontier/policies.csv")
    prompted = tables.all_rows("frontier/prompted.csv")
    published = _published_ends(tables)
    ends = _ends(trajectories, policies)
    if not ends and not limit:
        return style.empty("This study has no policies to compare with the best achievable reward.")

    entries = [
        (who.label(), style.colour(who, tables.kl_factors), style.marker(who, tables.kl_factors))
        for who in _factors(tables, ends)
    ]
    figure, (above, below) = style.panels(
        [4.3, 2.8], top=style.key_height(entries) + 0.1, bottom=0.78, foot=0.8, head=0.75
    )
    _draw_limit(above, limit)
    _draw_best_of_n(above, best_of_n)
    for ax, distance in ((above, POLICY_TO_BASE), (below, BASE_TO_POLICY)):
        _draw_runs(ax, tables, trajectories, ends, distance)
    _draw_prompted(above, prompted)
    for row in published:
        who = tables.policy(row["kl_factor"])
        below.plot(
            math.sqrt(row["kl"]), row["reward"], marker="D", markersize=13, color=style.INK,
            markerfacecolor="none", markeredgewidth=1.8, zorder=9,
        )  # fmt: skip
        _label(below, math.sqrt(row["kl"]), row["reward"], who.label(), style.INK, (11, 4))

    marks = [
        row["reward"]
        for row in [*trajectories, *ends, *prompted, *best_of_n]
        if _real(row["reward"])
    ]
    farthest = [math.sqrt(max(r[POLICY_TO_BASE], 0)) for r in [*ends, *trajectories, *prompted]
                if _real(r[POLICY_TO_BASE])]  # fmt: skip
    right = 1.12 * max([*farthest, 1.0])
    above.set_xlim(0, right)
    drawn = [r["reward"] for r in limit if math.sqrt(r[POLICY_TO_BASE]) <= right]
    low, high = min([*marks, *drawn]), max([*marks, *drawn])
    pad = 0.07 * (high - low or 1)
    far = [
        math.sqrt(max(r[BASE_TO_POLICY], 0))
        for r in [*ends, *trajectories]
        if _real(r[BASE_TO_POLICY])
    ]
    far += [math.sqrt(row["kl"]) for row in published]
    below.set_xlim(0, 1.22 * max([*far, 1.0]))
    rewards = [r["reward"] for r in [*trajectories, *ends, *published] if _real(r["reward"])] or [
        low,
        high,
    ]
    above.set_ylim(low - pad, high + 1.6 * pad)
    below.set_ylim(min(rewards) - pad, max(rewards) + 1.6 * pad)
    _root_ticks(above)
    _root_ticks(below)
    for ax in (above, below):
        style.head(ax, "reward", outdent=0.75, lift=30)
    above.set_xlabel("√KL(policy‖base)")
    below.set_xlabel("√KL(base‖policy)")
    if published:
        below.text(
            0.985, 0.04, f"◇ {reading.PUBLISHED_LABEL}", transform=below.transAxes, ha="right",
            va="bottom", fontsize=style.FONT - 1,
        )  # fmt: skip
    _draw_key(above)
    style.key(figure, entries)
    return style.Drawing(
        figure,
        "What reward is achievable at a given KL from the base model?",
        _finding(tables, ends, prompted),
        "Reward against the square root of KL(policy‖base), in nats on the upper axis: the best "
        "achievable reward (solid where the effective sample size is at least "
        f"{ENOUGH_SAMPLES}, dashed where it is a lower-bound estimate, with its 95% bootstrap band), "
        "best-of-n, the prompted base model, and each run's trajectory and final policy. Below, the "
        "same runs against the square root of KL(base‖policy)"
        + (
            f", with the published final policies ({reading.PUBLISHED_LABEL})."
            if published
            else "."
        ),
    )


def _real(value: float) -> bool:
    return math.isfinite(value)


def _limit(rows: list[Row]) -> list[Row]:
    """The pooled estimate, or that of the base model where nothing was pooled, by KL."""
    pools = {row["pool"] for row in rows}
    rows = [
        row
        for row in rows
        if row["pool"] == ("pooled" if "pooled" in pools else "base")
        and _real(row[POLICY_TO_BASE])
        and _real(row["reward"])
        and row[POLICY_TO_BASE] >= 0
    ]
    return sorted(rows, key=lambda row: row[POLICY_TO_BASE])


def _ends(trajectories: list[Row], policies: list[Row]) -> list[Row]:
    """Each run's final policy, measured on completions; if not measured, its last batch."""
    measured = [row for row in policies if _real(row["reward"]) and _real(row[POLICY_TO_BASE])]
    done = {(row["kl_factor"], row["seed"]) for row in measured}
    last: dict[tuple[str, str], Row] = {}
    for row in trajectories:
        run = (row["kl_factor"], row["seed"])
        if run not in done and (run not in last or row["step"] > last[run]["step"]):
            last[run] = row
    return [*measured, *last.values()]


def _factors(tables: Tables, rows: Sequence[Row]) -> list[ModelId]:
    found = {row["kl_factor"] for row in rows}
    return [tables.policy(factor) for factor in tables.kl_factors if factor in found]


def _published_ends(tables: Tables) -> list[Row]:
    """The last point of each published curve."""
    last: dict[str, Row] = {}
    for row in tables.published_rows():
        if row["kl_factor"] not in last or row["step"] > last[row["kl_factor"]]["step"]:
            last[row["kl_factor"]] = row
    return [{**row, "kl": row["kl_base_to_policy_nats_per_completion"]} for row in last.values()]


def _draw_limit(ax: Axes, rows: list[Row]) -> None:
    if not rows:
        return
    x = np.sqrt([row[POLICY_TO_BASE] for row in rows])
    y = np.array([row["reward"] for row in rows])
    ax.fill_between(
        x, [row["low"] for row in rows], [row["high"] for row in rows],
        color=style.INK, alpha=0.15, linewidth=0,
    )  # fmt: skip
    short = [i for i, row in enumerate(rows) if not row["effective_sample_size"] >= ENOUGH_SAMPLES]
    turn = short[0] if short else len(rows)
    ax.plot(
        x[:turn], y[:turn], color=style.INK, linewidth=2.6, zorder=3, label="best achievable reward"
    )
    ax.plot(x[max(turn - 1, 0) :], y[max(turn - 1, 0) :], color=style.INK, linewidth=2.2,
            linestyle=(0, (4, 2)), zorder=3,
            label="lower-bound estimate" if short else None)  # fmt: skip


def _draw_best_of_n(ax: Axes, rows: list[Row]) -> None:
    rows = [row for row in rows if _real(row["reward"]) and _real(row[POLICY_TO_BASE])]
    if not rows:
        return
    x = np.sqrt([max(row[POLICY_TO_BASE], 0) for row in rows])
    y = [row["reward"] for row in rows]
    ax.plot(
        x, y, color=style.INK, linewidth=1.6, linestyle=(0, (1, 1.6)), zorder=3, label="best of n"
    )
    named = [i for i, row in enumerate(rows) if row["n"] in (4, 64, 1024)]
    for i in named:
        ax.plot(x[i], y[i], marker=".", color=style.INK, markersize=9, zorder=4)
        _label(ax, x[i], y[i], f"n={rows[i]['n']:.0f}", style.INK, (5, -16))


def _draw_runs(
    ax: Axes, tables: Tables, trajectories: list[Row], ends: list[Row], distance: str
) -> None:
    for who in _factors(tables, [*trajectories, *ends]):
        paint = style.colour(who, tables.kl_factors)
        mine = [
            row
            for row in trajectories
            if row["kl_factor"] == who.kl_factor and _real(row[distance])
        ]
        for seed in dict.fromkeys(row["seed"] for row in mine):
            run = sorted((r for r in mine if r["seed"] == seed), key=lambda row: row["step"])
            x = np.sqrt([max(row[distance], 0) for row in run])
            ax.plot(x, [row["reward"] for row in run], color=paint, linewidth=1.1, alpha=0.55)
        for row in ends:
            if row["kl_factor"] == who.kl_factor and _real(row[distance]):
                ax.plot(
                    math.sqrt(max(row[distance], 0)), row["reward"], color=paint,
                    marker=style.marker(who, tables.kl_factors), markersize=9,
                    markeredgecolor=style.PAPER, markeredgewidth=0.8, linestyle="none", zorder=6,
                )  # fmt: skip


def _draw_prompted(ax: Axes, rows: list[Row]) -> None:
    for row in rows:
        if _real(row["reward"]) and _real(row[POLICY_TO_BASE]):
            x = math.sqrt(row[POLICY_TO_BASE])
            ax.plot(
                x, row["reward"], marker="*", markersize=19, color=style.PROMPTED_COLOUR,
                markeredgecolor=style.PAPER, zorder=7, linestyle="none",
                label="base model, prompted",
            )  # fmt: skip


def _draw_key(ax: Axes) -> None:
    """The legend of lines, in the lower right corner, which concave curves leave free."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            handles, labels, loc="lower right", frameon=False, borderaxespad=0.1,
            handlelength=1.7, handletextpad=0.5, labelspacing=0.25,
        )  # fmt: skip


def _label(
    ax: Axes, x: float, y: float, text: str, paint: str, offset: tuple[float, float],
) -> None:  # fmt: skip
    ax.annotate(
        text, (x, y), offset, textcoords="offset points", color=paint, zorder=8,
        ha="left", va="baseline",
    )  # fmt: skip


def _root_ticks(ax: Axes) -> None:
    """An upper axis in nats for the axis of square roots."""
    right = ax.get_xlim()[1]
    nats = ax.secondary_xaxis("top", functions=(np.square, lambda v: np.sqrt(np.clip(v, 0, None))))
    steps = [0, 0.25, 1, 2, 4, 7, 11, 16, 25, 36, 49, 64, 81, 100]
    shown: list[float] = []
    for step in steps:
        if math.sqrt(step) <= right and (
            not shown or math.sqrt(step) - math.sqrt(shown[-1]) >= 0.09 * right
        ):
            shown.append(step)
    nats.set_xticks(shown, [f"{step:g}" for step in shown])
    nats.tick_params(length=3, pad=2)
    nats.spines["top"].set_visible(False)
    ax.annotate("KL in nats", (1, 1), (0, 30), xycoords="axes fraction", ha="right",
                textcoords="offset points", annotation_clip=False)  # fmt: skip


def _finding(tables: Tables, ends: list[Row], prompted: list[Row]) -> str:
    parts = []
    for factor in showcase([who.kl_factor for who in _factors(tables, ends)]):
        mine = [row for row in ends if row["kl_factor"] == factor]
        text = (
            f"KL factor {factor} reaches a reward of {number(_mean(mine, 'reward'))} at "
            f"{number(_mean(mine, POLICY_TO_BASE))} nats from the base"
        )
        share = _mean(mine, "share_of_attainable_gain")
        if _real(share):
            bound = min(r.get("effective_sample_size", math.nan) for r in mine) < ENOUGH_SAMPLES
            text += (
                f" ({'at most ' if bound else ''}{percent(share)} of the gain possible at that KL)"
            )
        parts.append(text)
    for row in prompted[:1]:
        if _real(row["reward"]):
            parts.append(
                f"the base model prompted with “{row['text']}” gives {number(row['reward'])} at "
                f"{number(row[POLICY_TO_BASE])} nats"
            )
    if not parts:
        return "No run has finished."
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _mean(rows: list[Row], column: str) -> float:
    values = [row[column] for row in rows if column in row and _real(row[column])]
    return sum(values) / len(values) if values else math.nan
