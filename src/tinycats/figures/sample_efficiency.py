"""Sample efficiency: reward, and its share of the possible gain, against completions drawn.

With one variant there is a line for each KL factor; with several, a row of panels for each KL factor of
:func:`tinycats.figures.registry.showcase` and a line for each variant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, number, uncertainty, without_way
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.tables.intervals import Interval, over_seeds

KL = "kl_policy_to_base_nats"
#: Nats from which on a share is drawn: at KL 0 nothing can be gained, and a share is all noise.
LEAST_KL = 0.05
_DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class Curve:
    """One line: values over seeds at each number of completions drawn, ascending."""

    drawn: list[float]
    reward: list[Interval]
    share: list[Interval]

    def reaches(self, reward: float) -> float:
        """Completions drawn when the mean reward first is at least ``reward``; nan if it never is."""
        found = (x for x, y in zip(self.drawn, self.reward, strict=True) if y.mean >= reward)
        return next(found, math.nan)


def draw(tables: Tables) -> style.Drawing:
    trajectories = tables.all_rows("tables/trajectories.csv")
    limit = sorted(tables.all_rows("frontier/limit.csv"), key=lambda row: row[KL])
    base = [row["reward"] for row in tables.all_rows("frontier/best_of_n.csv") if row["n"] == 1]
    several = len(tables.variants) > 1
    left_out = without_way(tables) if several else []
    variants = [variant for variant in tables.variants if variant not in left_out]
    curves: dict[tuple[str, str], Curve] = {}
    for variant in variants:
        for factor in tables.kl_factors:
            mine = [r for r in trajectories if (r["variant"], r["kl_factor"]) == (variant, factor)]
            if mine:
                curves[variant, factor] = curve(mine, limit, base[0] if base else math.nan)
    if not curves:
        return style.empty("This study has no training curves.")
    shown = showcase(tables.kl_factors) if several else [""]
    entries, lines = [], []
    for place, variant in enumerate(tables.variants if several else []):
        paint, dash = (
            style.VARIANT_COLOURS[place % len(style.VARIANT_COLOURS)],
            _DASHES[place % len(_DASHES)],
        )
        if variant in left_out:
            continue
        entries.append((variant.replace("_", " "), paint, "_"))
        lines += [(factor, (variant, factor), paint, dash) for factor in shown]
    for factor in [] if several else tables.kl_factors:
        who = tables.policy(factor)
        paint = style.colour(who)
        entries.append((who.label(), paint, "_"))
        lines.append(("", (tables.variant, factor), paint, "solid"))
    figure, axes = style.panels(
        [1.9] * len(shown), columns=2, left=0.75, right=0.35, between=0.85,
        top=style.key_height(entries) + 0.05, head=0.45, foot=0.35,
    )  # fmt: skip
    style.key(figure, entries)
    for row, factor in enumerate(shown):
        reward, share = axes[2 * row : 2 * row + 2]
        at = f", KL factor {factor}" if several else ""
        style.head(reward, "reward" + at, outdent=0.6)
        style.head(share, "share of possible gain" if not several else "share" + at, outdent=0.6)
        style.percent_axis(share)
        for own, key, paint, dash in lines:
            if own == factor and key in curves:
                _line(reward, curves[key].drawn, curves[key].reward, paint, dash)
                _line(share, curves[key].drawn, curves[key].share, paint, dash)
        most = max((curves[k].drawn[-1] for own, k, *_ in lines if own == factor and k in curves),
                   default=1)  # fmt: skip
        for ax in (reward, share):
            ax.set_xlim(0, most or 1)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: style.short(v)))
        # by the means: a band at a small KL, where little can be gained, may be wider than the axis
        means = [y.mean for k in curves for y in curves[k].share if math.isfinite(y.mean)]
        share.set_ylim(min([0, *means]), max([1.05, *(1.05 * mean for mean in means)]))
    for ax in axes[-2:]:
        ax.set_xlabel("completions drawn")
    if several:
        title, finding = _between_variants(variants, shown, curves)
        if left_out:
            finding += f" Without {listing(left_out)}: trained on fewer prompts than are measured."
    else:
        title, finding = _within_variant(tables, curves)
    return style.Drawing(
        figure,
        title,
        finding,
        "Against the completions that training had drawn, mean over seeds "
        f"{uncertainty((v for c in curves.values() for v in c.reward), 'line')}: the "
        "reward, and its gain over the base model as a share of the gain that is possible at the "
        f"same KL(policy‖base), from {LEAST_KL:g} nats on; "
        + ("a line for each variant." if several else "a line for each KL factor."),
    )


def curve(rows: Sequence[Row], limit: Sequence[Row], base: float) -> Curve:
    """The curve of the runs of one variant and KL factor.

    Args:
        rows: of tables/trajectories.csv.
        limit: of frontier/limit.csv, ascending in KL.
        base: the base model's reward; nan if it is not known.
    """
    at: dict[float, list[Row]] = {}
    for row in rows:
        at.setdefault(row["completions_drawn"], []).append(row)
    drawn = sorted(at)
    best = [math.sqrt(max(row[KL], 0)) for row in limit], [row["reward"] for row in limit]
    return Curve(
        drawn,
        [over_seeds(row["reward"] for row in at[x]) for x in drawn],
        [over_seeds(_share(row, best, base) for row in at[x]) for x in drawn],
    )


def _share(row: Row, best: tuple[list[float], list[float]], base: float) -> float:
    """(reward − base) / (R*(KL) − base); nan near KL 0, and past the end of the limit's curve."""
    root = math.sqrt(max(row[KL], 0))
    if row[KL] < LEAST_KL or not len(best[0]) or root > best[0][-1] or math.isnan(base):
        return math.nan
    gain = float(np.interp(root, *best)) - base
    return float((row["reward"] - base) / gain) if gain > 1e-9 else math.nan


def _line(
    ax: Axes, x: Sequence[float], values: Sequence[Interval], paint: str, dash: object
) -> None:
    places = [i for i, value in enumerate(values) if math.isfinite(value.mean)]
    if not places:
        return
    x, values = [x[i] for i in places], [values[i] for i in places]
    style.band(ax, x, values, paint)
    ax.plot(x, [v.mean for v in values], color=paint, linestyle=dash)


def _within_variant(tables: Tables, curves: Mapping[tuple[str, str], Curve]) -> tuple[str, str]:
    """Title and finding."""
    parts, title = [], "Reward against completions drawn"
    for factor in showcase(tables.kl_factors):
        if own := curves.get((tables.variant, factor)):
            first, last = own.reward[0].mean, own.reward[-1].mean
            text = f"KL factor {factor} gains {number(last - first)} of reward"
            if last > first:
                half = own.reaches((first + last) / 2)
                within = f"within {half:,.0f} of {own.drawn[-1]:,.0f} completions"
                text += f", half of it {within}"
                title = f"KL factor {factor} has half of its gain in reward {within}"
            parts.append(text)
    return title, _sentence(parts)


def _between_variants(
    variants: Sequence[str], factors: Sequence[str], curves: Mapping[tuple[str, str], Curve]
) -> tuple[str, str]:
    """How many completions each variant needs for a reward that all of them reach."""
    parts, title = [], "Reward against completions drawn, by variant"
    for factor in factors:
        mine = {v: curves[v, factor] for v in variants if (v, factor) in curves}
        if mine:
            common = min(max(y.mean for y in own.reward) for own in mine.values())
            needs = [f"{own.reaches(common):,.0f} ({v})" for v, own in mine.items()]
            first, *others = sorted(mine, key=lambda v: mine[v].reaches(common))
            # a reward that the base model has says nothing, and neither does the first of equals
            if others and 0 < mine[first].reaches(common) < mine[others[0]].reaches(common):
                title = (
                    f"At KL factor {factor}, {first.replace('_', ' ')} needs the fewest completions"
                    f" for a reward of {number(common)}"
                )
            some = any(own.reaches(common) > 0 for own in mine.values())
            parts.append(
                f"at KL factor {factor} a reward of {number(common)}, which all reach, takes"
                f" {listing(needs)} completions"
                if some
                else f"at KL factor {factor} not all gain reward"
            )
    return title, _sentence(parts)


def _sentence(parts: Sequence[str]) -> str:
    sentence = "; ".join(parts) or "no run was trained"
    return sentence[0].upper() + sentence[1:] + "."
