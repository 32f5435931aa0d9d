"""Training at one KL factor: loss as in the post, reward and KL as in the notebook."""

from __future__ import annotations

import math

from tinycats.figures import reading, style
from tinycats.figures.reading import Tables, number, within
from tinycats.files.tables import Row
from tinycats.tables.intervals import Interval

PANELS = (
    ("loss", "loss"),
    ("reward_mean", "reward"),
    ("kl_base_to_policy_nats", "KL(base‖policy),\nnats"),
)
_PUBLISHED = {
    "reward_mean": "reward",
    "kl_base_to_policy_nats": "kl_base_to_policy_nats_per_completion",
}


def draw(tables: Tables) -> style.Drawing:
    who = tables.policy(tables.kl_factor or "")
    rows = [r for r in tables.rows("tables/training.csv") if r["kl_factor"] == who.kl_factor]
    if not rows:
        return style.empty(f"This study has no training at KL factor {who.kl_factor}.")
    published = [r for r in tables.published_rows() if r["kl_factor"] == who.kl_factor]
    paint = style.colour(who)
    entries = [(who.label(), paint, "_")]
    if published:
        entries.append((reading.PUBLISHED_LABEL, style.INK, "o:"))
    figure, axes = style.panels(
        [1.9], columns=3, left=0.78, right=0.15, between=0.7, head=0.65,
        top=style.key_height(entries) + 0.05,
    )  # fmt: skip
    style.key(figure, entries)
    for ax, (metric, title) in zip(axes, PANELS, strict=True):
        steps, values = curve(rows, metric)
        style.band(ax, steps, values, paint)
        ax.plot(steps, [v.mean for v in values], color=paint)
        if published and metric in _PUBLISHED:
            ax.plot(
                [r["step"] for r in published], [r[_PUBLISHED[metric]] for r in published],
                marker="o", markersize=4, color=style.INK, markerfacecolor="none",
                markeredgewidth=0.9, alpha=0.75, linestyle="none", zorder=1.5,
            )  # fmt: skip
        style.head(ax, titled(metric, title, tables.reward).replace(": ", ":\n"), outdent=0.55)
        ax.set_xlim(0, max(steps, default=1) * 1.01)
        ax.xaxis.set_major_locator(style.MaxNLocator(2, integer=True))
        if metric != "loss" and all(v.mean >= 0 for v in values):
            ax.set_ylim(bottom=0)
    axes[1].set_xlabel("step")
    seeds = max((row["seeds"] for row in rows), default=1)
    beside = reading.uncertainty(curve(rows, "reward_mean")[1], "line")
    title, finding = _found(who.kl_factor, rows, published)
    return style.Drawing(
        figure,
        title,
        finding,
        f"Three panels against the training step, mean over {seeds:.0f} seed{'s' if seeds > 1 else ''}"
        f" {beside}: loss, reward and KL(base‖policy) of a completion"
        + (f"; rings show {reading.PUBLISHED_LABEL}." if published else "."),
    )


def titled(metric: str, title: str, reward: str) -> str:
    """A panel's title; that of the reward names it."""
    return f"{title}: {reward}" if metric == "reward_mean" else title


def curve(rows: list[Row], metric: str) -> tuple[list[float], list[Interval]]:
    """Steps and intervals of one metric, in order."""
    mine = sorted((r for r in rows if r["metric"] == metric), key=lambda row: row["step"])
    mine = [row for row in mine if math.isfinite(row["mean"])]
    return [row["step"] for row in mine], [reading.interval(row) for row in mine]


def _found(factor: str, rows: list[Row], published: list[Row]) -> tuple[str, str]:
    steps, reward = curve(rows, "reward_mean")
    _, kl = curve(rows, "kl_base_to_policy_nats")
    last = f"{number(reward[0].mean)} to {number(reward[-1].mean)}"
    title = f"At KL factor {factor} the reward goes from {last}"
    text = f"In {steps[-1]:.0f} steps the reward goes from {number(reward[0].mean)} to {within(reward[-1])}"
    if kl:
        text += f", at a KL(base‖policy) of {number(kl[-1].mean)} nats"
    at = {row["step"]: row for row in published}
    common = [step for step in steps if step in at]
    if common:
        step = common[-1]
        here = reward[steps.index(step)].mean
        text += (
            f"; at step {step:.0f} it is {number(here)} (published: {number(at[step]['reward'])})"
            f" and the KL {number(kl[steps.index(step)].mean)}"
            f" (published: {number(at[step][_PUBLISHED['kl_base_to_policy_nats']])})"
        )
    return title, f"{text}. {reading.FITTED}" if common else text + "."
