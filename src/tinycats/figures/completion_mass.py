"""The share of the most frequent completions over the steps: shows a collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, percent
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row

#: Completions that are named, those with the largest peaks, and the smallest peak that has a name.
NAMED, LEAST = 3, 0.04
MOST_FACTORS = 4
#: Top of the vertical axis: the labels stand above the peaks.
TOP = 1.85
#: Characters of a completion that a label shows at most, per inch of a panel.
PER_INCH = 6.5


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/top_completions.csv")
    found = {row["kl_factor"] for row in rows}
    factors = [factor for factor in tables.kl_factors if factor in found]
    if not factors:
        return style.empty("This study has no record of frequent completions.")
    left_out = len(factors) - MOST_FACTORS
    if left_out > 0:
        keep = np.linspace(0, len(factors) - 1, MOST_FACTORS).round().astype(int)
        factors = [factors[i] for i in keep]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    seed = tables.seed if tables.seed in seeds else seeds[0]
    columns = min(len(factors), 2)
    figure, axes = style.grid(
        len(factors), 1.9 if len(factors) > 2 else 2.9, columns=columns,
        left=0.85, right=0.35, between=0.8, head=0.42, foot=0.3,
    )  # fmt: skip
    parts, title = [], "The policy's most frequent completions"
    for ax, factor in zip(axes, factors, strict=True):
        who = tables.policy(factor)
        mine = [row for row in rows if row["kl_factor"] == factor and row["seed"] == seed]
        _lines(ax, mine, style.colour(who))
        ax.set_ylim(0, TOP)
        ax.set_yticks([0, 0.5, 1])
        style.percent_axis(ax)
        style.head(ax, f"{who.label()}: share of a batch", outdent=0.75)
        if factor in showcase(factors) and mine:
            last = max(row["step"] for row in mine)
            first = max((r for r in mine if r["step"] == last), key=lambda row: row["share"])
            highest = max(mine, key=lambda row: row["share"])
            text = (
                f"“{first['text'].strip()}” is {percent(first['share'])} of the last batch at KL "
                f"factor {factor}"
            )
            if highest["text"] != first["text"]:
                text += (
                    f" (largest share at any step: “{highest['text'].strip()}”, "
                    f"{percent(highest['share'])} at step {highest['step']:.0f})"
                )
            parts.append(text)
            if first["share"] > 0.5:
                title = f"At KL factor {factor} one completion is {percent(first['share'])} of the last batch"
            elif title.startswith("The"):
                title = f"At KL factor {factor} no completion is more than {percent(first['share'])} of the last batch"
    for ax in axes[-columns:]:
        ax.set_xlabel("step")
    finding = (
        listing(parts) + f" (seed {seed})." if parts else f"Nothing was recorded for seed {seed}."
    )
    if left_out > 0:
        finding += f" {left_out} KL factors are not shown."
    return style.Drawing(
        figure,
        title,
        finding,
        f"For each KL factor, the share of a training batch against the step, for seed {seed}: a line "
        f"for each of the {NAMED} completions with the largest share at any step, named at its peak, "
        "and as an area all frequent completions together.",
    )


def _lines(ax: style.Axes, rows: list[Row], paint: str) -> None:
    """Draw the shares of the completions with the largest peaks, each named at its peak."""
    steps = sorted({row["step"] for row in rows})
    if not steps:
        return
    share: dict[tuple[float, str], float] = {}
    for row in rows:  # of several prompts, equal completions count together
        at_step = row["step"], row["text"]
        share[at_step] = share.get(at_step, 0) + row["share"]
    together = [sum(r["share"] for r in rows if r["step"] == step) for step in steps]
    ax.fill_between(steps, 0, together, color=style.INK, alpha=0.12, linewidth=0)
    peak: dict[str, float] = {}
    for (_, text), value in share.items():
        peak[text] = max(peak.get(text, 0), value)
    named = sorted(peak, key=lambda text: (-peak[text], text))[:NAMED]
    named = [text for text in named if peak[text] >= LEAST] or named[:1]
    ax.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    ax.xaxis.set_major_locator(style.MaxNLocator(4, integer=True))
    height = ax.get_position().height * ax.figure.get_size_inches()[1] * 72  # type: ignore[union-attr]
    places = []
    for rank, text in enumerate(named):
        values = [share.get((step, text), 0.0) for step in steps]
        ax.plot(steps, values, color=paint, alpha=1 - 0.27 * rank, linewidth=2.4 - 0.5 * rank)
        at = int(np.argmax(values))
        places.append((steps[at], values[at], text))
    width = ax.get_position().width * ax.figure.get_size_inches()[0] * 72  # type: ignore[union-attr]
    span = ax.get_xlim()[1] - ax.get_xlim()[0]
    gap, longest = style.FONT * 1.2 / height * TOP, int(width / 72 * PER_INCH)
    labels = []
    for x, y, text in places:
        words = text.replace("\n", "↵").strip()
        words = (words if len(words) <= longest else words[: longest - 1] + "…") + f" {percent(y)}"
        labels.append(Label(x, y, words, style.text_width(words, style.FONT) / width * span))
    left, right = ax.get_xlim()
    placed = arranged(labels, left, right)
    for label, begin, level in placed:
        for low, high in pieces(label, level, placed, gap):
            ax.plot(
                [label.x] * 2, [low, high], color=style.INK, alpha=0.35, linewidth=0.8, zorder=4
            )
        ax.plot(label.x, label.y, marker="o", markersize=5, color=paint, zorder=5)
        ax.text(begin, 1.07 + level * gap, label.words, color=paint, va="baseline", zorder=6)


@dataclass(frozen=True)
class Label:
    """A peak at (x, y) and the words that name it, ``width`` wide in steps."""

    x: float
    y: float
    words: str
    width: float

    def begins(self, left: float, right: float) -> list[float]:
        """Where the words may begin: to the left of the peak, to its right, or about it."""
        free = max(left, right - self.width)
        wanted = (self.x - self.width, self.x, self.x - self.width / 2)
        return [min(max(begin, left), free) for begin in wanted]


def arranged(labels: Sequence[Label], left: float, right: float) -> list[tuple[Label, float, int]]:
    """Each label with where it begins and its line of text, so that few leaders cross words."""
    best: tuple[float, list[tuple[Label, float, int]]] = (np.inf, [])
    for levels in permutations(range(len(labels))):
        for begins in product(*(label.begins(left, right) for label in labels)):
            found = list(zip(labels, begins, levels, strict=True))
            crossed = sum(len(_over(label, level, found)) for label, _, level in found)
            if crossed < best[0]:
                best = crossed, found
    return best[1]


def _over(label: Label, level: int, all_labels: Sequence[tuple[Label, float, int]]) -> list[int]:
    """Lines of text whose words the leader of a label passes through."""
    return [
        line
        for other, begin, line in all_labels
        if line < level and begin < label.x < begin + other.width
    ]


def pieces(
    label: Label, level: int, all_labels: Sequence[tuple[Label, float, int]], gap: float
) -> list[tuple[float, float]]:
    """The leader from peak to words, without the parts that would pass through other words."""
    at, pieces = label.y, []
    for line in sorted(_over(label, level, all_labels)):
        pieces.append((at, 1.07 + line * gap - 0.05))
        at = 1.07 + (line + 0.85) * gap
    return [*pieces, (at, 1.07 + level * gap - 0.05)]
