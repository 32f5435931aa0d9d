"""The exact distribution of the first new token after the training prompt."""

from __future__ import annotations

from tinycats.figures import style
from tinycats.figures.reading import Tables, listing, percent, who_of
from tinycats.figures.registry import showcase
from tinycats.layout import BASE, PROMPTED

MOST_TOKENS = 10


def draw(tables: Tables) -> style.Drawing:
    rows = tables.rows("tables/first_token.csv")
    everyone = [who for who in tables.everyone(rows) if who != PROMPTED]
    chance = {(who_of(row), row["token"]): row["probability"] for row in rows}
    highest: dict[str, float] = {}
    for row in rows:
        if who_of(row) in everyone:
            highest[row["token"]] = max(highest.get(row["token"], 0), row["probability"])
    tokens = sorted(highest, key=lambda token: (-highest[token], token))[:MOST_TOKENS]
    if not tokens:
        return style.empty("This study has no distribution of the first token.")
    entries = [
        (w.label(), style.colour(w), "o" if w == BASE else style.marker(w, tables.kl_factors))
        for w in everyone
    ]  # fmt: skip
    left = 0.3 + max(style.text_width(shown(token), style.FONT) for token in tokens) / 72
    figure, (ax,) = style.panels(
        [0.4 * len(tokens) + 0.2], left=left, right=0.35, head=0.1,
        top=style.key_height(entries) + 0.05,
    )  # fmt: skip
    style.key(figure, entries)
    floor = 1e-4
    for place, token in enumerate(tokens):
        known = [max(chance[who, token], floor) for who in everyone if (who, token) in chance]
        ax.plot(
            [min(known), max(known)], [place, place], color=style.INK, alpha=0.25, linewidth=1.5
        )
        for who in everyone:
            if (who, token) in chance:
                ax.plot(
                    max(chance[who, token], floor), place, color=style.colour(who),
                    marker="o" if who == BASE else style.marker(who, tables.kl_factors),
                    markersize=11 if who == BASE else 9, markeredgecolor=style.PAPER,
                    markeredgewidth=0.7, linestyle="none", clip_on=False,
                )  # fmt: skip
    ax.set_yticks(range(len(tokens)), [shown(token) for token in tokens])
    ax.set_ylim(len(tokens) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlim(floor * 0.9, 1.0)
    ax.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["≤0.01%", "0.1%", "1%", "10%", "100%"])
    ax.xaxis.set_minor_locator(style.NullLocator())
    ax.grid(axis="x", color=style.INK, alpha=0.12, linewidth=0.8)
    ax.set_xlabel("probability of the first new token")
    parts = []
    for who in (
        BASE,
        *(tables.policy(f) for f in showcase([w.kl_factor for w in everyone if w != BASE])),
    ):
        mine = {token: p for (owner, token), p in chance.items() if owner == who}
        if mine:
            top = max(mine, key=lambda token: (mine[token], token))
            parts.append(f"{shown(top)} ({percent(mine[top])}) for {who.phrase}")
    return style.Drawing(
        figure,
        "The first new token, before and after training",
        f"The likeliest first token is {listing(parts)}.",
        f"Exact probabilities of the {len(tokens)} likeliest first tokens after the training "
        "prompt on a logarithmic axis, a mark for the base and for each KL factor, mean over seeds.",
    )


def shown(token: str) -> str:
    """A token for readers: blanks and line breaks visible, the end token named."""
    if token.startswith("<|") and token.endswith("|>"):
        return "end of story"
    return "“" + token.replace("\n", "↵") + "”"
