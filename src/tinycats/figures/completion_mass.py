"""The probability mass of the most frequent completions over the steps: shows a collapse."""

from __future__ import annotations

import numpy as np

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, percent
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row

NAMED = 5
MOST_FACTORS = 6


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/top_completions.csv")
    found = {row["kl_factor"] for row in rows}
    factors = [factor for factor in tables.kl_factors if factor in found]
    if not factors:
        return style.empty("This study has no record of frequent completions.")
    left_out = len(factors) - MOST_FACTORS
    if left_out > 0:
        keep = np.linspace(0, len(factors) - 1, MOST_FACTORS).round().astype(int)
        factors = [factors[i] for i in keep]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    seed = tables.seed if tables.seed in seeds else seeds[0]
    figure, axes = style.panels([1.75] * len(factors), left=0.85, right=2.45)
    parts = []
    for ax, factor in zip(axes, factors, strict=True):
        who = tables.policy(factor)
        mine = [row for row in rows if row["kl_factor"] == factor and row["seed"] == seed]
        top = _areas(ax, mine, style.colour(who))
        ax.set_ylim(0, 1)
        ax.set_yticks([0, 0.5, 1])
        style.percent_axis(ax)
        style.head(ax, f"{who.label()}: share of a batch", outdent=0.75)
        style.label_ends(ax, top)
        if ax is not axes[-1]:
            ax.tick_params(labelbottom=False)
        if factor in showcase(factors) and mine:
            last = max(row["step"] for row in mine)
            first = max((r for r in mine if r["step"] == last), key=lambda row: row["share"])
            parts.append(
                f"“{first['text'].strip()}” is {percent(first['share'])} of the last batch at KL "
                f"factor {factor}"
            )
    axes[-1].set_xlabel("step")
    finding = (
        listing(parts) + f" (seed {seed})." if parts else f"Nothing was recorded for seed {seed}."
    )
    if left_out > 0:
        finding += f" {left_out} KL factors are not shown."
    return style.Drawing(
        figure,
        "The policy's most frequent completions",
        finding,
        f"For each KL factor, the share of a training batch that is one of the {NAMED} completions "
        f"most frequent over the run, stacked, with the other frequent ones recorded above them, "
        f"against the step, for seed {seed}.",
    )


def _areas(ax: style.Axes, rows: list[Row], paint: str) -> list[tuple[float, str, str]]:
    """Stack the shares of the completions largest at any step; returns labels for the edge."""
    steps = sorted({row["step"] for row in rows})
    share = {(row["step"], row["text"]): row["share"] for row in rows}
    peak: dict[str, float] = {}
    for row in rows:
        peak[row["text"]] = max(peak.get(row["text"], 0), row["share"])
    named = sorted(peak, key=lambda text: (-peak[text], text))[:NAMED]
    bottom = np.zeros(len(steps))
    labels = []
    for place, text in enumerate(named):
        height = np.array([share.get((step, text), 0.0) for step in steps])
        ax.fill_between(steps, bottom, bottom + height, color=paint, linewidth=0,
                        alpha=0.95 - 0.14 * place)  # fmt: skip
        if len(steps) and height[-1] >= 0.02:
            words = text.replace("\n", "↵").strip()
            words = words if len(words) <= 20 else words[:19] + "…"
            labels.append((bottom[-1] + height[-1] / 2, words, paint))
        bottom = bottom + height
    rest = np.array([sum(r["share"] for r in rows if r["step"] == step) for step in steps]) - bottom
    ax.fill_between(steps, bottom, bottom + rest.clip(0), color=style.INK, alpha=0.12, linewidth=0)
    if len(steps):
        ax.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        if rest[-1] >= 0.02:
            labels.append((bottom[-1] + rest[-1] / 2, "other frequent", style.INK))
    return labels
