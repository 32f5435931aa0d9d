"""Reward against KL(base‖policy), the direction that was published, beside the published runs.

The best achievable reward is a bound for KL(policy‖base) and does not apply here.
"""

from __future__ import annotations

import math

from tinycats.figures import reading, style
from tinycats.figures.frontier import BASE_TO_POLICY, draw_runs, final_policies, key_of, mean
from tinycats.figures.reading import Tables, listing, number
from tinycats.files.tables import Row

#: Difference in reward below which the title calls two ends near, where their KLs agree within 3/2.
NEAR = 0.05


def draw(tables: Tables) -> style.Drawing:
    trajectories = tables.rows("tables/trajectories.csv")
    ends = final_policies(trajectories, tables.rows("frontier/policies.csv"))
    if not ends:
        return style.empty("This study has no policies.")
    published = _published_ends(tables)
    entries = key_of(tables, ends)
    if published:
        entries.append((reading.PUBLISHED_LABEL, style.INK, "D:"))
    figure, (ax,) = style.panels(
        [2.9], top=style.key_height(entries) + 0.05, bottom=0.78, head=0.4
    )  # fmt: skip
    draw_runs(ax, tables, trajectories, ends, BASE_TO_POLICY)
    for row in published:
        ax.plot(
            row["kl"], row["reward"], marker="D", markersize=13, color=style.INK,
            markerfacecolor="none", markeredgewidth=1.8, zorder=9,
        )  # fmt: skip
        ax.annotate(
            tables.policy(row["kl_factor"]).label(), (row["kl"], row["reward"]), (-6, 11),
            textcoords="offset points", ha="right", zorder=8,
        )  # fmt: skip
    far = [r[BASE_TO_POLICY] for r in [*ends, *trajectories] if math.isfinite(r[BASE_TO_POLICY])]
    style.root_axis(ax, 1.3 * max([1.0, *far, *(row["kl"] for row in published)]), "x")
    rewards = [
        r["reward"] for r in [*trajectories, *ends, *published] if math.isfinite(r["reward"])
    ]
    pad = 0.08 * (max(rewards) - min(rewards) or 1)
    ax.set_ylim(min(rewards) - pad, max(rewards) + 1.8 * pad)
    style.head(ax, "reward", outdent=0.75)
    ax.set_xlabel("KL(base‖policy), nats (√ scale)")
    style.key(figure, entries)
    title, finding = _found(ends, published)
    return style.Drawing(
        figure,
        title,
        finding,
        "Reward against KL(base‖policy) in nats on a square-root scale: the trajectory and the final "
        "policy of each run" + (", and the final policies that were published." if published else "."),
    )  # fmt: skip


def _published_ends(tables: Tables) -> list[Row]:
    """The last point of each published curve."""
    last: dict[str, Row] = {}
    for row in tables.published_rows():
        if row["kl_factor"] not in last or row["step"] > last[row["kl_factor"]]["step"]:
            last[row["kl_factor"]] = row
    return [{**row, "kl": row["kl_base_to_policy_nats_per_completion"]} for row in last.values()]


def _found(ends: list[Row], published: list[Row]) -> tuple[str, str]:
    parts, near = [], True
    for row in published:
        mine = [end for end in ends if end["kl_factor"] == row["kl_factor"]]
        if mine:
            kl, reward = mean(mine, BASE_TO_POLICY), mean(mine, "reward")
            near &= abs(reward - row["reward"]) < NEAR and 2 / 3 < kl / row["kl"] < 3 / 2
            parts.append(
                f"a reward of {number(reward)} at {number(kl)} nats "
                f"at KL factor {row['kl_factor']} (published: {number(row['reward'])} at {number(row['kl'])})"
            )
    if parts:
        title = f"The published runs end {'near' if near else 'elsewhere than'} this study's"
        text = f"This study has {listing(parts)}; {reading.PUBLISHED_LABEL}."
        return title, f"{text} {reading.FITTED}"
    most = max(ends, key=lambda row: row["reward"])
    return (
        "Reward against KL(base‖policy), the direction that the post's code penalises",
        f"The largest reward is {number(most['reward'])}, at {number(most[BASE_TO_POLICY])} nats.",
    )
