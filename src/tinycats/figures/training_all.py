"""Training of all KL factors together: reward, KL and diversity."""

from __future__ import annotations

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, number, uncertainty
from tinycats.figures.registry import MOST_FACTOR_FIGURES, showcase
from tinycats.figures.training_metrics import curve, titled
from tinycats.tables.intervals import Interval

PANELS = (
    ("reward_mean", "reward"),
    ("kl_policy_to_base_nats", "KL(policy‖base), nats (√)"),
    ("distinct_completions", "distinct in a batch"),
    ("entropy_nats", "entropy, nats"),
)


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/training.csv")
    found = {row["kl_factor"] for row in rows}
    everyone = [tables.policy(factor) for factor in tables.kl_factors if factor in found]
    shown = [(m, t) for m, t in PANELS if any(row["metric"] == m for row in rows)]
    if not shown:
        return style.empty("This study has no training curves.")
    entries = [(who.label(), style.colour(who), "_") for who in everyone]
    figure, axes = style.grid(
        len(shown), 1.45, columns=2, left=0.75, right=0.3, between=0.75,
        top=style.key_height(entries) + 0.05, head=0.42, foot=0.32,
    )  # fmt: skip
    style.key(figure, entries)
    drawn: list[Interval] = []
    for ax, (metric, title) in zip(axes, shown, strict=True):
        highest = lowest = last = 0.0
        for who in everyone:
            paint = style.colour(who)
            steps, values = curve([r for r in rows if r["kl_factor"] == who.kl_factor], metric)
            if not steps:
                continue
            style.band(ax, steps, values, paint)
            ax.plot(steps, [v.mean for v in values], color=paint)
            last = max(last, steps[-1])
            lowest = min([lowest, *(v.mean for v in values)])
            highest = max(
                [highest, *(max(v.high if v.known else v.mean, *v.each, v.mean) for v in values)]
            )
            drawn += values
        ax.set_xlim(0, last or 1)
        ax.xaxis.set_major_locator(style.MaxNLocator(4, integer=True))
        if metric.startswith("kl_"):
            style.root_axis(ax, 1.03 * highest)
        elif lowest >= 0:
            ax.set_ylim(bottom=0)
        style.head(ax, titled(metric, title, tables.reward), outdent=0.6)
    for ax in axes[-2:]:
        ax.set_xlabel("step")
    parts, title = [], "Training at every KL factor"
    for factor in showcase([who.kl_factor for who in everyone]):
        mine = [row for row in rows if row["kl_factor"] == factor]
        last_of = {m: curve(mine, m)[1][-1].mean for m, _ in PANELS if curve(mine, m)[1]}
        first_of = {m: curve(mine, m)[1][0].mean for m, _ in PANELS if curve(mine, m)[1]}
        text = f"KL factor {factor} ends at a reward of {number(last_of.get('reward_mean', float('nan')))}"
        if "distinct_completions" in last_of:
            text += (
                f" with {last_of['distinct_completions']:.0f} distinct completions in a batch "
                f"(from {first_of['distinct_completions']:.0f})"
            )
            if last_of["distinct_completions"] < first_of["distinct_completions"] / 2:
                title = "As the reward rises, completions become alike"
            elif title.startswith("Training"):
                title = "Completions stay varied while the reward rises"
        parts.append(text)
    left_out = ""
    if len(everyone) > MOST_FACTOR_FIGURES:
        left_out = (
            f" Only the {MOST_FACTOR_FIGURES} smallest of {len(everyone)} KL factors have a separate"
            " figure."
        )
    return style.Drawing(
        figure,
        title,
        listing(parts) + "." + left_out,
        f"Mean over seeds {uncertainty(drawn, 'line')}, against the training step, for each KL factor: "
        "reward, KL(policy‖base) of a completion, distinct completions in a batch and entropy of a "
        "completion.",
    )
