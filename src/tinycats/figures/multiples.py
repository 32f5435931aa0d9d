"""Small multiples: one panel a metric, a mark with its interval for each KL factor.

Shared by the figures of scores; the base and the prompted base are horizontal lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinycats.figures import style
from tinycats.figures.reading import Tables, by_metric
from tinycats.layout import BASE, PROMPTED, ModelId
from tinycats.scores.columns import METRICS
from tinycats.tables.intervals import Interval

_ARROW = {"up": "\u00a0↑", "down": "\u00a0↓", "none": "", "cost": ""}


def summary(tables: Tables) -> tuple[list[ModelId], dict[tuple[ModelId, str], Interval]]:
    """The models in tables/summary.csv, and (model, metric) → interval."""
    rows = tables.rows("tables/summary.csv")
    values = {
        (who, metric): value
        for (who, metric), value in by_metric(rows).items()
        if metric in METRICS and math.isfinite(value.mean)
    }
    return tables.everyone(rows), values


def title(metric: str) -> str:
    """A metric's label with an arrow in the direction that is better."""
    scale = ", nats (√ scale)" if METRICS[metric].unit == "nats" else ""
    return METRICS[metric].label + scale + _ARROW[METRICS[metric].direction]


def draw(tables: Tables, metrics: Sequence[str]) -> tuple[style.Figure, list[str]]:
    """Draw the metrics that the study has; returns the figure and the metrics drawn."""
    everyone, values = summary(tables)
    shown = [m for m in metrics if any((who, m) in values for who in everyone)]
    policies = [who for who in everyone if who.is_policy]
    factors = [who.kl_factor for who in policies]
    lines = [who for who in (BASE, PROMPTED) if who in everyone]
    entries = [(who.label(), style.colour(who), "_") for who in lines]
    entries += [
        (who.label(), style.colour(who), style.marker(who, tables.kl_factors)) for who in policies
    ]
    columns = 2 if len(shown) < 5 else 3  # landscape
    left, between, right = 0.75, 0.85, 0.15
    width = (style.WIDTH - left - (columns - 1) * between - right) / columns
    titles = {m: style.wrap(title(m), min(left, between) - 0.15 + width) for m in shown}
    deepest = max([text.count("\n") + 1 for text in titles.values()], default=1)
    figure, axes = style.grid(
        len(shown), 1.05, columns=columns, left=left, between=between, right=right,
        top=style.key_height(entries) + 0.12, head=0.2 + 0.245 * deepest, foot=0.42,
    )  # fmt: skip
    style.key(figure, entries)
    for ax, metric in zip(axes, shown, strict=True):
        style.factor_axis(ax, factors, width)
        for who in lines:
            if (who, metric) in values:
                value, paint = values[who, metric], style.colour(who)
                dash = "solid" if who == BASE else (0, (3, 1.5))
                ax.axhline(value.mean, color=paint, linewidth=2, linestyle=dash, zorder=1)
                if value.known:
                    ax.axhspan(
                        value.low, value.high, color=paint, alpha=0.18, linewidth=0, zorder=0
                    )
        joined = [
            (float(w.kl_factor), values[w, metric].mean) for w in policies if (w, metric) in values
        ]
        if joined:
            ax.plot(*zip(*joined, strict=True), color=style.INK, alpha=0.3, linewidth=1)
        for who in policies:
            if (who, metric) in values:
                paint, x = style.colour(who), float(who.kl_factor)
                style.bar(ax, x, values[who, metric], paint)
                ax.plot(x, values[who, metric].mean, color=paint, markersize=8,
                        marker=style.marker(who, tables.kl_factors),
                        markeredgecolor=style.PAPER, markeredgewidth=0.6)  # fmt: skip
        if METRICS[metric].unit == "share":
            style.percent_axis(ax)
            if ax.dataLim.height < 1e-9:  # nothing to choose an axis by
                ax.set_ylim(-0.05, 1.05)
        style.head(ax, titles[metric], outdent=0.6)
        ax.margins(y=0.12)
        if METRICS[metric].unit == "nats":
            style.root_axis(ax, 1.08 * ax.dataLim.y1)
    for ax in axes[-columns:]:
        ax.set_xlabel("KL factor")
    return figure, shown
