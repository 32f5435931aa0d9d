"""How well stories do what the reward asks, by KL factor."""

from __future__ import annotations

from tinycats.figures import multiples, style
from tinycats.figures.reading import Tables, listing, number, percent, uncertainty
from tinycats.figures.registry import showcase
from tinycats.layout import BASE, PROMPTED
from tinycats.scores.columns import METRICS

SHOWN = (
    "completion_reward",
    "story_reward",
    "mentions_concept",
    "mentions_per_100_words",
    "kl_policy_to_base_nats",
    "kl_base_to_policy_nats",
)


def draw(tables: Tables) -> style.Drawing:
    everyone, values = multiples.summary(tables)
    if not any((who, metric) in values for who in everyone for metric in SHOWN):
        return style.empty("This study has no scores.")
    figure, shown = multiples.draw(tables, SHOWN)
    parts, title = [], "The reward of the stories, by KL factor"
    policies = showcase([who.kl_factor for who in everyone if who.is_policy])
    for who in (BASE, PROMPTED, *(tables.policy(factor) for factor in policies)):
        share, often = (values.get((who, m)) for m in SHOWN[2:4])
        if share:
            text = f"{percent(share.mean)} of {who.phrase}'s stories"
            parts.append(text + (f" ({number(often.mean)} times per 100 words)" if often else ""))
            title = f"{percent(share.mean)} of {who.phrase}'s stories mention “{tables.concept}”"
    before = values.get((BASE, SHOWN[2]))
    if before and len(parts) > 1:
        title += f" ({percent(before.mean)} of the base's)"
    finding = f"“{tables.concept}” or a word for it is in {listing(parts)}." if parts else (
        "Stories were scored by their reward only."
    )  # fmt: skip
    return style.Drawing(
        figure,
        title,
        finding,
        f"Small multiples against the KL factor, mean {uncertainty(values.values())}, lines for the "
        "base and the prompted base: " + "; ".join(METRICS[m].label for m in shown) + ".",
    )
