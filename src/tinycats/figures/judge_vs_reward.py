"""A second judge against the reward: if only the reward rises, it is over-optimised."""

from __future__ import annotations

import math

from tinycats.figures import style
from tinycats.figures.reading import Tables, number, percent, who_of
from tinycats.files.tables import Row
from tinycats.layout import BASE, PROMPTED, ModelId
from tinycats.tables.intervals import Interval, t_interval

JUDGES = (
    ("mentions_concept", "stories that mention “{concept}”"),
    ("mentions_per_100_words", "mentions per 100 words"),
)
#: A share of stories that is treated as all of them.
CEILING = 0.98
_Point = tuple[float, float]
_Seeds = dict[str, _Point]


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("scores/stories.csv")
    groups = {row["prompt_group"] for row in rows}
    if "training" in groups:
        rows = [row for row in rows if row["prompt_group"] == "training"]
    everyone = tables.everyone(rows)
    if not everyone:
        return style.empty("This study has no scored stories.")
    entries = [
        (who.label(), style.colour(who),
         "o" if who == BASE else style.marker(who, tables.kl_factors))
        for who in everyone
    ]  # fmt: skip
    label = style.wrap(f"reward: {tables.reward}", 2.4)
    figure, axes = style.panels(
        [2.3],
        columns=2,
        left=0.85,
        right=0.15,
        between=0.75,
        head=0.65,
        top=style.key_height(entries) + 0.05,
        bottom=0.75 + 0.25 * label.count("\n"),
    )
    style.key(figure, entries)
    means: dict[tuple[ModelId, str], _Point] = {}
    seeds: dict[tuple[ModelId, str], _Seeds] = {}
    for ax, (judge, title) in zip(axes, JUDGES, strict=True):
        for (who, paint, mark) in zip(everyone, (e[1] for e in entries), (e[2] for e in entries), strict=True):  # fmt: skip
            points = _points([row for row in rows if who_of(row) == who], judge)
            for point in points.values():
                ax.plot(
                    *point,
                    color=paint,
                    marker=mark,
                    markersize=9 if mark == "*" else 6,
                    alpha=0.5,
                    linestyle="none",
                )
            seeds[who, judge] = points
            if points:
                middle = (
                    _mean([p[0] for p in points.values()]),
                    _mean([p[1] for p in points.values()]),
                )
                means[who, judge] = middle
                ax.plot(*middle, color=paint, marker=mark, markersize=20 if mark == "*" else 13, linestyle="none",
                        markeredgecolor=style.PAPER, zorder=5)  # fmt: skip
        ordered = [means[w, judge] for w in (BASE, *reversed(everyone))
                   if (w, judge) in means and w != PROMPTED]  # fmt: skip
        way = list(dict.fromkeys(ordered))
        ax.plot(*zip(*way, strict=True), color=style.INK, alpha=0.3, linewidth=1, zorder=1)
        style.head(ax, style.wrap(title.format(concept=tables.concept), 2.6), outdent=0.7)
        ax.margins(0.06)
    style.percent_axis(axes[0])
    axes[1].sharex(axes[0])
    for ax in axes:
        ax.set_xlabel(label)
    title, finding = _found(tables, everyone, means, seeds)
    return style.Drawing(
        figure,
        title,
        finding,
        "Against the reward of the same few stories' completions: the share of stories that mention the concept by "
        "the word list, and mentions per 100 words; small marks are seeds, large ones their mean.",
    )


def _points(rows: list[Row], judge: str) -> _Seeds:
    """One (reward, judge) pair a seed."""
    points: _Seeds = {}
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine = [row for row in rows if row["seed"] == seed]
        pair = (_mean([r["completion_reward"] for r in mine]), _mean([r[judge] for r in mine]))
        if all(math.isfinite(value) for value in pair):
            points[seed] = pair
    return points


def _mean(values: list[float]) -> float:
    values = [value for value in values if math.isfinite(value)]
    return sum(values) / len(values) if values else math.nan


def _verdict(rises: Interval) -> str:
    """Whether mentions rise with the reward; ``rises`` is their difference over seeds."""
    if not rises.known:
        return "with one seed it is undecided whether the word list follows"
    if rises.low > 0:
        return "the word list follows the reward"
    if rises.high < 0:
        return "the reward rises and the word list falls, which is over-optimisation"
    return "the word list does not follow beyond the differences between seeds"


def _found(
    tables: Tables,
    everyone: list[ModelId],
    means: dict[tuple[ModelId, str], _Point],
    seeds: dict[tuple[ModelId, str], _Seeds],
) -> tuple[str, str]:
    """Title and finding: the word list below its ceiling, and what happens beyond it."""
    title, (share, often) = "A second judge against the reward", (judge for judge, _ in JUDGES)
    policies = [who for who in everyone if who.is_policy and (who, share) in means]
    policies.sort(key=lambda who: means[who, share][0])
    if not policies or (BASE, share) not in means:
        known = [who for who in everyone if (who, share) in means]
        return title, "; ".join(
            f"{who.label()}: reward {number(means[who, share][0])}, "
            f"“{tables.concept}” in {percent(means[who, share][1])} of stories"
            for who in known
        ) + "."  # fmt: skip
    below = [who for who in policies if means[who, share][1] < CEILING]
    last, most = (below or policies[:1])[-1], policies[-1]
    before, after = seeds[BASE, share], seeds[last, share]
    rises = t_interval([after[s][1] - before[s][1] for s in after if s in before])
    (r0, j0), (r1, j1) = means[BASE, share], means[last, share]
    verdict = _verdict(rises)
    title = verdict[0].upper() + verdict[1:]
    finding = (
        f"From the base to {last.phrase} the reward of these stories goes from {number(r0)} to {number(r1)} and"
        f" the share of stories that mention “{tables.concept}” from {percent(j0)} to {percent(j1)}: {verdict}"
    )
    if means[most, share][1] >= CEILING:
        title += " up to its ceiling"
        a, b = (means[who, often][1] for who in (last, most))
        if last != most and (most, often) in means:
            title += f"; then mentions per 100 words go from {number(a)} to {number(b)}"
            finding += (
                f". Beyond, up to {most.phrase}, nearly all stories mention it, so the share cannot follow,"
                f" and mentions per 100 words go from {number(a)} to {number(b)} while the reward goes to"
                f" {number(means[most, share][0])}: the word is repeated"
            )
    return title, finding + "."
