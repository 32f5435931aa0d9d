"""Mentions of the concept after each prompt: what carries over from the training prompt to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinycats.figures import style
from tinycats.figures.reading import Tables, by_metric, listing, percent, uncertainty
from tinycats.figures.registry import showcase
from tinycats.layout import BASE, ModelId
from tinycats.mentions import Mentions
from tinycats.tables.intervals import Interval

METRIC = "mentions_concept"
TRAINING = "training"
#: prompts that are drawn: the first of the table, but of many training prompts as few as leave room for others
MOST_PROMPTS, FEWEST_TRAINING = 10, 2
#: prompts of one kind whose shares the caption lists
MOST_NAMED = 8
#: inches: the column of prompts; between the marks of two models; between two prompts
LABELS, STEP, GAP = 2.55, 0.105, 0.1

#: (group, prompt) → model → its share of stories
Shares = dict[tuple[str, str], dict[ModelId, Interval]]


def draw(tables: Tables) -> style.Drawing:
    rows = [
        row
        for row in tables.rows("tables/by_prompt_group.csv")
        if row["metric"] == METRIC and row["prompt"]
    ]
    prompts = list(dict.fromkeys((row["prompt_group"], row["prompt"]) for row in rows))
    if not prompts:
        return style.empty("This study has no stories of several prompts.")
    everyone = tables.everyone(rows)
    shares: Shares = {}
    for group, prompt in prompts:
        own = (r for r in rows if (r["prompt_group"], r["prompt"]) == (group, prompt))
        shares[group, prompt] = {who: value for (who, _), value in by_metric(own).items()}
    shown = _shown(prompts)
    weights = ["bold" if group == TRAINING else "normal" for group, _ in shown]
    names = [
        style.wrap(prompt, LABELS - 0.25, weight)
        for (_, prompt), weight in zip(shown, weights, strict=True)
    ]
    deep = [
        max(len(everyone) * STEP, 0.245 * (name.count("\n") + 1)) + GAP for name in names
    ]  # inches
    marks = [
        (who.label(), style.colour(who),
         "o" if who == BASE else style.marker(who, tables.kl_factors))
        for who in everyone
    ]  # fmt: skip
    figure, (ax,) = style.panels(
        [sum(deep)], left=LABELS, right=0.3, head=0.1, top=style.key_height(marks) + 0.05,
    )  # fmt: skip
    style.key(figure, marks)
    ax.set_ylim(sum(deep), 0)
    ax.set_xlim(0, 1)
    ax.set_yticks([])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.grid(axis="x", color=style.INK, alpha=0.12, linewidth=0.8)
    style.percent_axis(ax, "x")
    top = 0.0
    for (group, prompt), name, weight, height in zip(shown, names, weights, deep, strict=True):
        middle = top + height / 2
        ax.annotate(
            name, (0, middle), (-10, 0), xycoords=("axes fraction", "data"), ha="right",
            textcoords="offset points", va="center", annotation_clip=False,
            weight=weight,
        )  # fmt: skip
        if top:
            ax.axhline(top, color=style.INK, alpha=0.25, linewidth=0.8)
        for rank, (who, (_, paint, mark)) in enumerate(zip(everyone, marks, strict=True)):
            if who in shares[group, prompt]:
                y = middle + (rank - (len(everyone) - 1) / 2) * STEP
                value = shares[group, prompt][who]
                style.bar(ax, y, value, paint, across=True)
                ax.plot(value.mean, y, color=paint, marker=mark, markersize=8, clip_on=False,
                        markeredgecolor=style.PAPER, markeredgewidth=0.6, zorder=5)  # fmt: skip
        top += height
    ax.set_xlabel(f"stories that mention “{tables.concept}”", loc="right")
    title, finding = _words(tables, shares, everyone)
    return style.Drawing(
        figure,
        title,
        finding,
        f"For each prompt, the share of stories that mention “{tables.concept}” or a word for it, by the "
        f"base model and by each KL factor, {uncertainty(v for s in shares.values() for v in s.values())}. "
        "The training prompt is bold.",
    )


def _shown(prompts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The prompts that are drawn, in the order of the table."""
    trained = [one for one in prompts if one[0] == TRAINING]
    others = [one for one in prompts if one[0] != TRAINING]
    some = trained[: max(FEWEST_TRAINING, MOST_PROMPTS - len(others))]
    chosen = {*some, *others[: MOST_PROMPTS - len(some)]}
    return [one for one in prompts if one in chosen]


def _words(tables: Tables, shares: Shares, everyone: Sequence[ModelId]) -> tuple[str, str]:
    """Title and finding: the last showcased KL factor beside the base, prompt by prompt."""
    concept = tables.concept
    factors = showcase([who.kl_factor for who in everyone if who.is_policy])
    title = f"Stories that mention “{concept}”, by prompt"
    if not factors:
        return title, f"No policy of this study mentions “{concept}”."
    policy = tables.policy(factors[-1])
    both = {where: own for where, own in shares.items() if policy in own and BASE in own}
    others = {where: own for where, own in both.items() if where[0] != TRAINING}

    def pair(prompt: str, own: dict[ModelId, Interval]) -> str:
        return f"“{prompt}” {percent(own[policy].mean)} ({percent(own[BASE].mean)})"

    def of_all(kind: str, found: Shares) -> str:
        """Their shares, or the smallest and the largest where they are many."""
        if len(found) > MOST_NAMED:
            ends = _range(found.values(), policy), _range(found.values(), BASE)
            return f"{len(found)} {kind}s, {ends[0]} ({ends[1]})"
        named = listing([pair(prompt, own) for (_, prompt), own in found.items()])
        return f"the {kind}{'s' if len(found) > 1 else ''} {named}"

    trained = {where: own for where, own in both.items() if where[0] == TRAINING}
    parts = []
    if trained:
        parts.append(
            f"Of the stories of {policy.phrase} (of the base model), so many mention “{concept}”: after"
            f" {of_all('training prompt', trained)}"
        )
    if others:
        title = (
            f"After other prompts, {policy.phrase} mentions “{concept}” in"
            f" {_range(others.values(), policy)} of stories, the base model in"
            f" {_range(others.values(), BASE)}"
        )
        parts.append(
            f"After {of_all('other prompt', others)}: a higher share than the base model's is transfer"
        )
    named = Mentions(tables.concept_words)
    primed = [prompt for _, prompt in others if named.positions(prompt)]
    if primed:
        parts.append(
            f"To name it is to prime for it, also in {listing([f'“{prompt}”' for prompt in primed])}: the"
            " base model follows no instructions, so disobedience cannot be shown"
        )
    return title, ". ".join(parts) + "."


def _range(shares: Iterable[dict[ModelId, Interval]], who: ModelId) -> str:
    found = sorted(own[who].mean for own in shares)
    return f"{percent(found[0])} to {percent(found[-1])}"
