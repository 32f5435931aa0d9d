"""The study's judges, rewards that were not trained on, against the reward that was."""

from __future__ import annotations

import statistics

from tinycats.figures import style
from tinycats.figures.reading import Tables, number, who_of
from tinycats.files.tables import Row
from tinycats.layout import BASE, JUDGES, PROMPTED, ModelId
from tinycats.tables.intervals import Interval, t_interval

KINDS = {"completions": "completions", "stories": "whole stories"}


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows(JUDGES)
    everyone = tables.everyone(rows)
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    if not judges:
        return style.empty("This study has no judges.")
    marks = {who: "o" if who == BASE else style.marker(who, tables.kl_factors) for who in everyone}
    entries = [(who.label(), style.colour(who), marks[who]) for who in everyone]
    names = {judge: style.wrap(judge, 2.4) for judge in judges}
    lines = max(name.count("\n") for name in names.values()) + 2
    figure, axes = style.panels(
        [2.0] * len(judges),
        columns=2,
        left=0.85,
        right=0.15,
        head=0.2 + 0.25 * lines,
        foot=0.35,
        bottom=1.0,
        top=style.key_height(entries) + 0.05,
    )
    style.key(figure, entries)
    for ax, (judge, kind) in zip(axes, [(j, k) for j in judges for k in KINDS], strict=True):
        mine = [row for row in rows if row["judge"] == judge and row["texts"] == kind]
        for who in everyone:
            own = [row for row in mine if who_of(row) == who]
            for row in own:
                ax.plot(
                    row["reward"], row["score"], color=style.colour(who), marker=marks[who],
                    markersize=9 if marks[who] == "*" else 6, alpha=0.5, linestyle="none",
                )  # fmt: skip
            if own:
                ax.plot(
                    *_middle(own), color=style.colour(who), marker=marks[who],
                    markersize=20 if marks[who] == "*" else 13, linestyle="none",
                    markeredgecolor=style.PAPER, zorder=5,
                )  # fmt: skip
        # from the base to the weakest penalty
        way = [[row for row in mine if who_of(row) == who]
               for who in dict.fromkeys((BASE, *reversed(everyone))) if who != PROMPTED]  # fmt: skip
        places = [_middle(own) for own in way if own]
        if places:
            ax.plot(*zip(*places, strict=True), color=style.INK, alpha=0.3, linewidth=1, zorder=1)
        style.head(ax, f"{names[judge]}\nof {KINDS[kind]}", outdent=0.7)
        ax.margins(0.08)
        ax.xaxis.set_major_locator(style.MaxNLocator(4))
    for ax in axes[-2:]:
        ax.set_xlabel(style.wrap(f"reward: {tables.reward}", 2.4))
    findings = [_finding(rows, judge) for judge in judges]
    return style.Drawing(
        figure,
        _title([verdict for verdict, _ in findings]),
        " ".join(sentence for _, sentence in findings),
        "For each judge two panels: its mean score of completions, and of whole stories, against their "
        "mean reward; small marks are seeds, large ones their mean, a line goes from the base model to "
        "the smallest KL factor.",
    )


def _middle(rows: list[Row]) -> tuple[float, float]:
    """Mean reward and mean score over seeds."""
    return statistics.fmean(r["reward"] for r in rows), statistics.fmean(r["score"] for r in rows)


def _finding(rows: list[Row], judge: str) -> tuple[str, str]:
    """A judge's verdict and a sentence: completions of the base and of the two highest rewards."""
    of: dict[ModelId, list[Row]] = {}
    for row in rows:
        if row["judge"] == judge and row["texts"] == "completions":
            of.setdefault(who_of(row), []).append(row)
    policies = sorted((who for who in of if who.is_policy), key=lambda who: _middle(of[who])[0])
    if not policies or BASE not in of:
        return "", f"There are no policies for {judge}."
    best = policies[-1]
    (reward_0, score_0), (reward_1, score_1) = _middle(of[BASE]), _middle(of[best])
    sentence = (
        f"From the base to {best.phrase} the reward of completions goes from {number(reward_0)} to"
        f" {number(reward_1)} and {judge} from {number(score_0)} to {number(score_1)}"
    )
    if len(policies) < 2:
        return "", sentence + "."
    near = policies[-2]
    before = {row["seed"]: row["score"] for row in of[near]}
    steps = [row["score"] - before[row["seed"]] for row in of[best] if row["seed"] in before]
    verdict, words = _verdict(t_interval(steps))
    return verdict, f"{sentence}; from {near.phrase} to {best.phrase} {words}."


def _verdict(change: Interval) -> tuple[str, str]:
    """A word, and the end of a sentence, for a judge's change while the reward rises."""
    if not change.known:
        return "", "one seed does not tell whether it follows"
    if change.high < 0:
        return "falls", "it falls while the reward rises"
    if change.low > 0:
        return "rises", "it rises with the reward"
    return "", "it changes no more than between seeds"


def _title(verdicts: list[str]) -> str:
    falling = verdicts.count("falls")
    if falling:
        which = "A judge falls" if falling == 1 else f"{falling} judges fall"
        return f"{which} where the reward rises"
    if verdicts.count("rises") == len(verdicts):
        return "What was not trained on rises with the reward"
    return "Judges that were not trained on, against the reward"
