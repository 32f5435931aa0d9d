"""The exact distributions of the first new token, and of the second after the likeliest first."""

from __future__ import annotations

from collections.abc import Sequence

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, who_of
from tinycats.figures.registry import showcase
from tinycats.files.tables import Row
from tinycats.layout import BASE, PROMPTED, ModelId

#: Tokens that a panel shows, the likeliest under any model: of the first token, of the second, alone.
FIRST, SECOND, ALONE = 2, 7, 10
#: Smaller probabilities are not in the table.
FLOOR = 1e-4

#: (model, token) → probability in one state.
Chances = dict[tuple[ModelId, str], float]


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/first_token.csv")
    everyone = [who for who in tables.everyone(rows) if who != PROMPTED]
    states = list(dict.fromkeys(row["after"] for row in rows))
    if not states:
        return style.empty("This study has no distribution of the first token.")
    chances = {after: _chances(rows, after, everyone) for after in states}
    most = {
        after: ALONE if len(states) == 1 else SECOND if after else FIRST for after in states
    }  # fmt: skip
    tokens = {after: _likeliest(chances[after])[: most[after]] for after in states}
    entries = [
        (w.label(), style.colour(w), "o" if w == BASE else style.marker(w, tables.kl_factors))
        for w in everyone
    ]  # fmt: skip
    names = [shown(token) for after in states for token in tokens[after]]
    left = 0.3 + max(style.text_width(name, style.FONT) for name in names) / 72
    figure, axes = style.panels(
        [0.32 * len(tokens[after]) + 0.1 for after in states], left=left, right=0.35, head=0.42,
        top=style.key_height(entries) + 0.02, foot=0.02,
    )  # fmt: skip
    style.key(figure, entries)
    for ax, after in zip(axes, states, strict=True):
        _panel(ax, tables, chances[after], tokens[after], everyone)
        text = f"second token, after {shown(after)}" if after else "first new token"
        style.head(ax, text, outdent=left - 0.1)
        if ax is not axes[-1]:
            ax.tick_params(axis="x", labelbottom=False)
    axes[-1].set_xlabel("probability (logarithmic)")
    shown_factors = showcase([w.kl_factor for w in everyone if w != BASE])
    policies = [tables.policy(factor) for factor in shown_factors]
    last = states[-1]
    title, finding = _found(chances[last], last, policies)
    if len(states) > 1:
        finding += " " + _first_sentence(chances[states[0]], [BASE, *policies])
    return style.Drawing(
        figure,
        title,
        finding,
        "Probabilities on a logarithmic axis, a mark for the base and for each KL factor, mean over "
        "seeds: " + listing([_described(after, len(tokens[after])) for after in states]) + ".",
    )


def _described(after: str, count: int) -> str:
    where = f"the second token after {shown(after)}" if after else "the first new token"
    return f"the {count} likeliest for {where}"


def _chances(rows: Sequence[Row], after: str, everyone: Sequence[ModelId]) -> Chances:
    return {
        (who_of(row), row["token"]): row["probability"]
        for row in rows
        if row["after"] == after and who_of(row) in everyone
    }


def _likeliest(chances: Chances) -> list[str]:
    """The tokens by their highest probability under any model."""
    highest: dict[str, float] = {}
    for (_, token), probability in chances.items():
        highest[token] = max(highest.get(token, 0), probability)
    return sorted(highest, key=lambda token: (-highest[token], token))


def _panel(
    ax: style.Axes, tables: Tables, chances: Chances, tokens: list[str], everyone: list[ModelId]
) -> None:
    for place, token in enumerate(tokens):
        x = {who: max(chances.get((who, token), 0), FLOOR) for who in everyone}
        ends = [min(x.values()), max(x.values())]
        ax.plot(ends, [place, place], color=style.INK, alpha=0.25, linewidth=1.5)
        for who in everyone:
            ax.plot(
                x[who], place, color=style.colour(who),
                marker="o" if who == BASE else style.marker(who, tables.kl_factors),
                markersize=11 if who == BASE else 9, markeredgecolor=style.PAPER,
                markeredgewidth=0.7, linestyle="none", clip_on=False,
            )  # fmt: skip
    ax.set_yticks(range(len(tokens)), [shown(token) for token in tokens])
    ax.set_ylim(len(tokens) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlim(FLOOR * 0.9, 1.0)
    ax.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["≤0.01%", "0.1%", "1%", "10%", "100%"])
    ax.xaxis.set_minor_locator(style.NullLocator())
    ax.grid(axis="x", color=style.INK, alpha=0.12, linewidth=0.8)


def _found(chances: Chances, after: str, policies: Sequence[ModelId]) -> tuple[str, str]:
    """Title and finding: the token that gained most and the one that it replaced, by policy."""
    where = f"After {shown(after)}" if after else "As the first new token"
    title, parts = "The first new tokens, before and after training", []
    for who in policies:
        change = {
            token: chances.get((who, token), 0) - chances.get((BASE, token), 0)
            for token in _likeliest(chances)
        }
        if not change or not max(change.values()) > 0 > min(change.values()):
            continue
        rose, fell = (pick(change, key=lambda t: change[t]) for pick in (max, min))
        before, now = (share(chances.get((w, rose), 0)) for w in (BASE, who))
        lost, left = (share(chances.get((w, fell), 0)) for w in (BASE, who))
        parts.append(
            f"at {who.phrase}, {shown(rose)} rises from {before} to {now}, mostly in place of "
            f"{shown(fell)} ({lost} to {left})"
        )
        title = f"{where}, {shown(rose)} has {now} at {who.phrase} ({before} for the base)"
    if not parts:
        return title, "No policy changes the first new tokens."
    return title, f"{where}, {listing(parts)}."


def _first_sentence(chances: Chances, everyone: Sequence[ModelId]) -> str:
    """The likeliest first token of each model."""
    parts = []
    for who in everyone:
        mine = {token: p for (owner, token), p in chances.items() if owner == who}
        if mine:
            top = max(mine, key=lambda token: (mine[token], token))
            parts.append(f"{shown(top)} ({share(mine[top])}) for {who.phrase}")
    return f"The likeliest first token is {listing(parts)}."


def share(probability: float) -> str:
    """A probability in per cent, with two significant digits where it is small."""
    if probability < FLOOR:
        return "under 0.01%"
    return f"{100 * probability:.0f}%" if probability >= 0.1 else f"{100 * probability:.2g}%"


def shown(token: str) -> str:
    """A token for readers: blanks and line breaks visible, the end token named."""
    if token.startswith("<|") and token.endswith("|>"):
        return "end of story"
    return "“" + token.replace("\n", "↵") + "”"
