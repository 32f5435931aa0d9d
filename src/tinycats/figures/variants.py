"""Variants of the training settings: reward, KL, entropy, gradient signal and share of the gain."""

from __future__ import annotations

import math
import statistics

from tinycats.figures import style
from tinycats.figures.equal_kl import variants_at_equal_kl
from tinycats.figures.reading import (
    NOTHING,
    Tables,
    interval,
    listing,
    number,
    uncertainty,
    without_way,
)
from tinycats.figures.registry import showcase
from tinycats.figures.training_metrics import titled
from tinycats.files.tables import Row
from tinycats.layout import ModelId
from tinycats.tables.intervals import Interval, over_seeds

_TRAINING = (
    ("reward_mean", "reward at the end"),
    ("kl_policy_to_base_nats", "KL(policy‖base) at the end, nats"),
    ("entropy_nats", "entropy at the end, nats"),
    ("gradient_snr", "gradient signal-to-noise, median over steps"),
)
_SHARE = ("share_of_attainable_gain", "share of the possible gain in reward")
#: Inches of a variant's name; a longer one is broken into lines.
MOST_NAME = 1.7
#: Marks in a panel, above which they are smaller and closer, so that a screen has the whole panel.
MANY = 20
_Values = dict[tuple[str, str, str], Interval]  # (variant, KL factor, metric)


def draw(tables: Tables) -> style.Drawing:
    training = tables.all_rows("tables/training.csv")
    policies = tables.all_rows("frontier/policies.csv")
    variants = list(dict.fromkeys(row["variant"] for row in training))
    values = _values(training, policies)
    shown = [
        (m, t) for m, t in (_SHARE, *_TRAINING)
        if any(metric == m and math.isfinite(v.mean) for (_, _, metric), v in values.items())
    ]  # fmt: skip
    if not shown:
        return style.empty("This study has no variants to compare.")
    factors = [tables.policy(f) for f in tables.kl_factors if any(k[1] == f for k in values)]
    entries = [
        (who.label(), style.colour(who), style.marker(who, tables.kl_factors)) for who in factors
    ]
    names = [style.wrap(variant.replace("_", " "), MOST_NAME) for variant in variants]
    lines = [line for name in names for line in name.split("\n")]
    left = 0.35 + max(style.text_width(line, style.FONT) for line in lines) / 72
    between = 0.5
    width = (style.WIDTH - left - between - 0.3) / 2
    titles = [  # the left column's also above the names
        style.wrap(titled(metric, title, tables.reward), width + (0 if place % 2 else left - 0.3))
        for place, (metric, title) in enumerate(shown)
    ]
    deepest = max(title.count("\n") + 1 for title in titles)
    # inches from one KL factor's mark to the next, and the mark's size in points
    pitch, size = (0.17, 8) if len(variants) * len(factors) <= MANY else (0.11, 6)
    row = max(0.14 + pitch * len(factors), 0.26 * max(name.count("\n") + 1 for name in names))
    figure, axes = style.grid(
        len(shown), row * len(variants) + 0.1, columns=2, left=left, between=between,
        top=style.key_height(entries) + 0.05, head=0.2 + 0.245 * deepest, foot=0.45, bottom=0.45,
    )  # fmt: skip
    style.key(figure, entries)
    for at, (ax, (metric, _)) in enumerate(zip(axes, shown, strict=True)):
        for place, variant in enumerate(variants):
            for rank, who in enumerate(factors):
                value = values.get((variant, who.kl_factor, metric), NOTHING)
                y = place + (rank - (len(factors) - 1) / 2) * pitch / row
                paint = style.colour(who)
                style.bar(ax, y, value, paint, across=True)
                ax.plot(value.mean, y, color=paint, marker=style.marker(who, tables.kl_factors),
                        markersize=size, markeredgecolor=style.PAPER, linestyle="none")  # fmt: skip
        ax.set_yticks(range(len(variants)), names if at % 2 == 0 else [""] * len(names))
        ax.xaxis.set_major_locator(style.MaxNLocator(3))
        ax.set_ylim(len(variants) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color=style.INK, alpha=0.12, linewidth=0.8)
        ax.grid(axis="y", visible=False)
        if metric == _SHARE[0]:
            style.percent_axis(ax, "x")
        style.head(ax, titles[at], outdent=0 if at % 2 else left - 0.1)
    shown_factor = showcase([who.kl_factor for who in factors])[-1]
    equal = tables.all_rows("tables/equal_kl.csv")
    title, at_equal_kl = variants_at_equal_kl(equal, tables.variant, shown_factor)
    return style.Drawing(
        figure,
        title or "Variants of the training settings",
        at_equal_kl + _finding(variants, factors, values) + _of_fewer(tables),
        "For each variant of the training settings and each KL factor, mean over seeds "
        f"{uncertainty(values.values())} (of the signal to noise, the median over steps): "
        + "; ".join(title for _, title in shown)
        + ".",
    )


def _of_fewer(tables: Tables) -> str:
    """What panels of the end of training show of variants whose batches are of fewer prompts."""
    found = without_way(tables)
    named = listing([variant.replace("_", " ") for variant in found])
    batches = "reward, KL and entropy at the end of training are of its own prompts alone"
    return f" Of {named}, trained on fewer prompts than the others, {batches}." if found else ""


def _values(training: list[Row], policies: list[Row]) -> _Values:
    values: _Values = {}
    for metric, _ in _TRAINING:
        runs: dict[tuple[str, str], list[Row]] = {}
        for row in training:
            if row["metric"] == metric and math.isfinite(row["mean"]):
                runs.setdefault((row["variant"], row["kl_factor"]), []).append(row)
        for (variant, factor), rows in runs.items():
            rows.sort(key=lambda row: row["step"])
            value = interval(rows[-1])
            if metric == "gradient_snr":
                middle = statistics.median(row["mean"] for row in rows)
                value = value._replace(mean=middle, low=math.nan, high=math.nan, each=())
            values[variant, factor, metric] = value
    shares: dict[tuple[str, str], list[float]] = {}
    for row in policies:
        if math.isfinite(row[_SHARE[0]]):
            shares.setdefault((row["variant"], row["kl_factor"]), []).append(row[_SHARE[0]])
    for (variant, factor), several in shares.items():
        values[variant, factor, _SHARE[0]] = over_seeds(several)
    return values


def _finding(variants: list[str], factors: list[ModelId], values: _Values) -> str:
    parts = []
    for who in factors:
        ends = [
            f"{number(values[v, who.kl_factor, 'reward_mean'].mean)} at "
            f"{number(values[v, who.kl_factor, 'kl_policy_to_base_nats'].mean)} nats ({v})"
            for v in variants
            if (v, who.kl_factor, "reward_mean") in values
            and (v, who.kl_factor, "kl_policy_to_base_nats") in values
        ]
        if ends:
            parts.append(f"at KL factor {who.kl_factor} the reward is {listing(ends)}")
    sentence = "; ".join(parts) or "no variant was trained"
    return sentence[0].upper() + sentence[1:] + "."
