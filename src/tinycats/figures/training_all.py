"""Training of all KL factors together: reward, KL and diversity."""

from __future__ import annotations

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, number
from tinycats.figures.registry import MOST_FACTOR_FIGURES, showcase
from tinycats.figures.training_metrics import curve

PANELS = (
    ("reward_mean", "reward"),
    ("kl_policy_to_base_nats", "KL(policy‖base), nats per completion (√ scale)"),
    ("distinct_completions", "distinct completions in a batch"),
    ("entropy_nats", "entropy of a completion, nats"),
)


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/training.csv")
    found = {row["kl_factor"] for row in rows}
    everyone = [tables.policy(factor) for factor in tables.kl_factors if factor in found]
    shown = [(m, t) for m, t in PANELS if any(row["metric"] == m for row in rows)]
    if not shown:
        return style.empty("This study has no training curves.")
    height = max(1.8, 0.25 * len(everyone))
    figure, axes = style.panels([height] * len(shown), left=0.9, right=style.room(everyone))
    for ax, (metric, title) in zip(axes, shown, strict=True):
        ends: list[tuple[float, str, str]] = []
        highest = 0.0
        for who in everyone:
            paint = style.colour(who, tables.kl_factors)
            steps, values = curve([r for r in rows if r["kl_factor"] == who.kl_factor], metric)
            if not steps:
                continue
            style.band(ax, steps, values, paint)
            ax.plot(steps, [v.mean for v in values], color=paint)
            ax.set_xlim(0, max(steps[-1], ax.get_xlim()[1] if ends else 0))
            ends.append((values[-1].mean, who.label(), paint))
            highest = max([highest, *(v.high if v.known else v.mean for v in values)])
        if metric.startswith("kl_"):
            style.root_axis(ax, 1.03 * highest or 1)
        else:
            ax.set_ylim(bottom=0)
        style.head(ax, title, outdent=0.8)
        style.label_ends(ax, ends)
        if ax is not axes[-1]:
            ax.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step")
    parts = []
    for factor in showcase([who.kl_factor for who in everyone]):
        mine = [row for row in rows if row["kl_factor"] == factor]
        last = {m: curve(mine, m)[1][-1].mean for m, _ in PANELS if curve(mine, m)[1]}
        first = {m: curve(mine, m)[1][0].mean for m, _ in PANELS if curve(mine, m)[1]}
        text = f"KL factor {factor} ends at a reward of {number(last.get('reward_mean', float('nan')))}"
        if "distinct_completions" in last:
            text += (
                f" with {last['distinct_completions']:.0f} distinct completions in a batch "
                f"(from {first['distinct_completions']:.0f})"
            )
        parts.append(text)
    left_out = ""
    if len(everyone) > MOST_FACTOR_FIGURES:
        left_out = (
            f" Only the {MOST_FACTOR_FIGURES} smallest of {len(everyone)} KL factors have a separate"
            " figure."
        )
    return style.Drawing(
        figure,
        "All KL factors in training",
        listing(parts) + "." + left_out,
        "Mean over seeds with 95% interval against the training step, a line for each KL factor: "
        + ", ".join(title for _, title in shown)
        + ".",
    )
