"""What training changed, split by what had to change: bands against the KL (docs/damage.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinycats.figures import style
from tinycats.figures.reading import Tables, interval, listing, number, percent, uncertainty
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.layout import PROMPTED
from tinycats.scores.columns import METRICS
from tinycats.tables.intervals import Interval

#: A score of repetition, two of diversity and one of content.
SHOWN = ("distinct_2", "self_bleu", "vendi_score", "mentions_per_100_words")
#: part → its name and colour, from the bottom of the stack
PARTS = {
    "necessary": ("necessary", "#0f8f9c"),
    "off_frontier": ("off the frontier", "#e07b00"),
    "spillover": ("spillover", "#c2185b"),
}
KL = "kl_policy_to_base_nats"


@dataclass(frozen=True)
class Split:
    """One model's change of one score.

    Attributes:
        kl: KL(policy‖base), nats, mean over seeds.
        parts: part, or ``whole`` → its interval over seeds.
    """

    kl: float
    parts: dict[str, Interval]

    def up_to(self, part: str) -> float:
        """The sum of the parts up to this one: the upper edge of its band."""
        names = list(PARTS)
        return sum(self.parts[name].mean for name in names[: names.index(part) + 1])


#: (model, variant, KL factor, metric) → its change
Splits = dict[tuple[str, str, str, str], Split]


def splits(rows: Sequence[Row]) -> Splits:
    """The complete splits among rows of tables/decomposition.csv."""
    found: Splits = {}
    for row in rows:
        key = (row["model"], row["variant"], row["kl_factor"], row["metric"])
        found.setdefault(key, Split(row[KL], {})).parts[row["part"]] = interval(row)
    return {key: split for key, split in found.items() if {*PARTS, "whole"} <= set(split.parts)}


def draw(tables: Tables) -> style.Drawing:
    found = splits(tables.all_rows("tables/decomposition.csv"))
    shown = [m for m in SHOWN if any(key[0] == "policy" and key[3] == m for key in found)]
    if not shown:
        return style.empty("This study has no split of what training changed.")
    entries = key_entries(found, shown)
    left, between, right = 0.95, 0.95, 0.2
    width = (style.WIDTH - left - between - right) / 2
    titles = {m: style.wrap(METRICS[m].label, left + width - 0.3) for m in shown}
    deepest = max(text.count("\n") + 1 for text in titles.values())
    figure, axes = style.grid(
        len(shown), 1.05, columns=2, left=left, between=between, right=right,
        top=style.key_height(entries) + 0.08, head=0.18 + 0.245 * deepest, foot=0.35,
    )  # fmt: skip
    style.key(figure, entries)
    for ax, metric in zip(axes, shown, strict=True):
        bands(ax, found, tables.variant, metric, highest(found, [tables.variant], [metric]),
              width)  # fmt: skip
        style.head(ax, titles[metric], outdent=0.75)
    for ax in axes[-2:]:
        ax.set_xlabel("KL(policy‖base), nats")
    title, finding = words(tables, found, [tables.variant], shown)
    return style.Drawing(
        figure,
        title,
        finding,
        "Change from the base model's stories against KL(policy‖base), split into stacked bands: "
        "necessary, off the frontier and spillover; the whole "
        f"{uncertainty(s.parts['whole'] for s in found.values())}, cut off where it leaves the seeds by far; "
        "a dashed line for best-of-n and a star for the prompted base, which have no spillover: "
        + "; ".join(METRICS[m].label for m in shown)
        + ".",
    )


def key_entries(found: Splits, metrics: Sequence[str]) -> list[tuple[str, str, str]]:
    """The key: the parts, and the models that have no spillover."""
    entries = [(name, paint, "s") for name, paint in PARTS.values()]
    if any(key[0] == "best_of_n" and key[3] in metrics for key in found):
        entries.append(("best-of-n", style.INK, "_"))
    if any(key[0] == "prompted" and key[3] in metrics for key in found):
        entries.append((PROMPTED.label(), style.PROMPTED_COLOUR, "*"))
    return entries


def highest(found: Splits, variants: Sequence[str], metrics: Sequence[str]) -> float:
    """The largest KL that panels of these variants and metrics show, nats."""
    return 1.04 * max(
        split.kl for (_, variant, _, m), split in found.items()
        if m in metrics and variant in ("", *variants)
    )  # fmt: skip


def along(found: Splits, model: str, variant: str, metric: str) -> list[Split]:
    """The splits of a variant's models, in the order of their KL."""
    own = [s for (m, v, _, score), s in found.items() if (m, v, score) == (model, variant, metric)]
    return sorted(own, key=lambda split: split.kl)


def bands(
    ax: style.Axes, found: Splits, variant: str, metric: str, kl: float, width: float
) -> None:
    """One variant's panel of one score, up to ``kl`` nats, ``width`` inches wide."""
    style.root_axis(ax, kl, "x", apart=0.3 / width)
    ax.axhline(0, color=style.INK, linewidth=1)
    policies = along(found, "policy", variant, metric)
    x = [0.0, *(split.kl for split in policies)]
    below = [0.0] * len(x)
    for part, (_, paint) in PARTS.items():
        upper = [0.0, *(split.up_to(part) for split in policies)]
        ax.fill_between(x, below, upper, color=paint, alpha=0.55, linewidth=0)
        ax.plot(x, upper, color=paint, linewidth=1.6)
        below = upper
    for split in policies:
        style.bar(ax, split.kl, split.parts["whole"], style.INK)
        ax.plot(split.kl, split.parts["whole"].mean, "o", color=style.INK, markersize=5,
                markeredgecolor=style.PAPER, markeredgewidth=0.6)  # fmt: skip
    best = along(found, "best_of_n", variant, metric)
    if best:
        ax.plot([0.0, *(s.kl for s in best)], [0.0, *(s.parts["whole"].mean for s in best)],
                color=style.INK, linestyle=(0, (3, 1.5)), linewidth=1.8)  # fmt: skip
    for split in along(found, "prompted", "", metric):
        style.bar(ax, split.kl, split.parts["whole"], style.PROMPTED_COLOUR)
        ax.plot(split.kl, split.parts["whole"].mean, "*", color=style.PROMPTED_COLOUR,
                markersize=13, clip_on=False)  # fmt: skip
    seeds = [value for split in policies for value in split.parts["whole"].each]
    _limits(ax, [0.0, *seeds, *(s.up_to(part) for s in policies for part in PARTS),
                 *(s.parts["whole"].mean for s in best)])  # fmt: skip


def _limits(ax: style.Axes, values: Sequence[float]) -> None:
    """The vertical axis is by the bands and the seeds: an interval may be far wider and is cut off."""
    low, high = min(values), max(values)
    pad = 0.08 * (high - low or 1)
    ax.set_ylim(low - pad, high + pad)


def sure(value: Interval) -> bool:
    """Whether the interval over seeds leaves 0 out."""
    return value.known and not value.low <= 0 <= value.high


def undecided(value: Interval) -> bool:
    """Whether the seeds leave open on which side of 0 a change is."""
    few = not value.known and not (min(value.each) > 0 or max(value.each) < 0)
    return few or (value.known and not sure(value))


def words(
    tables: Tables, found: Splits, variants: Sequence[str], metrics: Sequence[str]
) -> tuple[str, str]:
    """Title and finding: the parts at the last showcased KL factor, said with their intervals."""
    factors = showcase(tables.kl_factors)
    factor = factors[-1] if factors else ""
    found_of, title = [], "What training changed, and what of it had to change"
    for metric in metrics:
        parts = []
        for variant in variants:
            split = found.get(("policy", variant, factor, metric))
            if split is None:
                continue
            whole, of = split.parts["whole"], ""
            if len(variants) > 1:
                of = f"{variant.replace('_', ' ')} "
            if undecided(whole):  # no change that the parts could be shares of
                parts.append(f"{of}{signed(whole)}, undecided")
                continue
            each = [f"{share(split, part)} {name}" for part, (name, _) in PARTS.items()]
            parts.append(
                f"{of}{signed(whole)}: {listing(each)}, {signed(split.parts['spillover'])}"
            )
            if title.startswith("What") and sure(split.parts["spillover"]):
                title = (
                    f"At KL factor {factor}, of the change in {METRICS[metric].label}"
                    f" {share(split, 'necessary')} was necessary, {share(split, 'off_frontier')} off the"
                    f" frontier, {share(split, 'spillover')} spillover"
                )
        if parts:
            joint = ": " if len(variants) > 1 else " "
            found_of.append(f"{METRICS[metric].label}{joint}{'; '.join(parts)}")
    return title, at_factor(factor, found, "; ".join(found_of))


def at_factor(factor: str, found: Splits, changes: str) -> str:
    """A finding: the changes at one KL factor, and what stands in their brackets."""
    if not changes:
        return f"No policy of KL factor {factor} was split."
    known = any(split.parts["whole"].known for split in found.values())
    aside = "95% intervals over seeds" if known else "means over seeds"
    return f"At KL factor {factor} ({aside}), {changes}."


def share(split: Split, part: str) -> str:
    """A part as a share of the whole."""
    return percent(split.parts[part].mean / split.parts["whole"].mean)


def signed(value: Interval) -> str:
    """A change with its interval: +0.02 (0.01 to 0.03)."""
    mean = ("+" if value.mean > 0 else "") + number(value.mean)
    if value.known:
        return f"{mean} ({number(value.low)} to {number(value.high)})"
    seeds = f" (seeds: {', '.join(map(number, sorted(value.each)))})"
    return mean + (seeds if len(value.each) > 1 else "")
