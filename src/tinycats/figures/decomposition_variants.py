"""The split of what training changed, for each variant of the training settings side by side."""

from __future__ import annotations

from tinycats.figures import decomposition, style
from tinycats.figures.reading import Tables
from tinycats.scores.columns import METRICS

COLUMNS = 3


def draw(tables: Tables) -> style.Drawing:
    found = decomposition.splits(tables.all_rows("tables/decomposition.csv"))
    scores = [m for m in decomposition.SHOWN if any(k[0] == "policy" and k[3] == m for k in found)]
    named = dict.fromkeys(variant for model, variant, _, _ in found if model == "policy")
    variants = [v for v in tables.variants if v in named]
    if not scores:
        return style.empty("This study has no split of what training changed.")
    # two rows of panels: of two scores, or of one where the variants need both
    scores = scores[: 2 if len(variants) <= COLUMNS else 1]
    columns = min(len(variants), COLUMNS)
    cells = [(metric, variant) for metric in scores for variant in variants]
    entries = decomposition.key_entries(found, scores)
    left, between, right = 0.85, 0.2, 0.2
    width = (style.WIDTH - left - right - between * (columns - 1)) / columns
    titles = {v: style.wrap(v.replace("_", " "), width) for v in variants}
    deepest = max(text.count("\n") + 1 for text in titles.values())
    figure, axes = style.grid(
        len(cells), 1.15, columns=columns, left=left, between=between,
        right=right, top=style.key_height(entries) + 0.08, head=0.2 + 0.245 * (deepest + 1),
        foot=0.35,
    )  # fmt: skip
    style.key(figure, entries)
    kl = decomposition.highest(found, variants, scores)
    for place, (ax, (metric, variant)) in enumerate(zip(axes, cells, strict=True)):
        decomposition.bands(ax, found, variant, metric, kl, width)
        style.head(ax, titles[variant])
        if place % columns == 0 and place % len(variants) == 0:
            lift = 9 + style.FONT * 1.2 * deepest
            style.head(ax, METRICS[metric].label, outdent=left - 0.1, lift=lift)
        if place % columns:
            ax.tick_params(labelleft=False)
        if place + columns >= len(cells):
            ax.set_xlabel("KL, nats")
    for metric in scores:  # one scale for all panels of a score
        own = [ax for ax, cell in zip(axes, cells, strict=True) if cell[0] == metric]
        limits = [ax.get_ylim() for ax in own]
        for ax in own:
            ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    title, finding = decomposition.words(tables, found, variants, scores)
    return style.Drawing(
        figure,
        title,
        finding,
        "For each variant of the training settings, change from the base model's stories against "
        "KL(policy‖base), split into stacked bands: necessary, off the frontier and spillover; a "
        "dashed line for best-of-n and a star for the prompted base: "
        + "; ".join(METRICS[m].label for m in scores)
        + ".",
    )
