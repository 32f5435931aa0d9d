"""What each variant changes against the KL, beside what the optimal policy changes (docs/damage.md)."""

from __future__ import annotations

from collections.abc import Sequence

from tinycats.figures import style
from tinycats.figures.decomposition import (
    Split,
    Splits,
    along,
    at_factor,
    highest,
    signed,
    splits,
    sure,
)
from tinycats.figures.reading import Tables, number, uncertainty
from tinycats.figures.registry import showcase
from tinycats.layout import PROMPTED
from tinycats.scores.columns import METRICS
from tinycats.tables.intervals import Interval, over_seeds

#: A score of repetition and one of diversity.
SHOWN = ("distinct_2", "self_bleu")
OPTIMAL, BEST_OF_N = "optimal policy", "best-of-n"
#: √KL, in √nats, within which points of the optimal policy are averaged.
LIKE = 0.35
_MARKS = ("o", "s", "D", "^", "v", "P", "X", "p")


def draw(tables: Tables) -> style.Drawing:
    found = splits(tables.all_rows("tables/decomposition.csv"))
    shown = [m for m in SHOWN if any(k[0] == "policy" and k[3] == m for k in found)]
    variants = [v for v in tables.variants if any(k[:2] == ("policy", v) for k in found)]
    if not shown:
        return style.empty("This study has no split of what training changed.")
    paints = {
        variant: (style.VARIANT_COLOURS[i % 8], _MARKS[i % 8]) for i, variant in enumerate(variants)
    }
    entries = [(v.replace("_", " "), *paints[v]) for v in variants]
    entries += [(OPTIMAL, style.INK, "_"), (BEST_OF_N, style.BASE_COLOUR, "_")]
    if any(key[0] == "prompted" for key in found):
        entries.append((PROMPTED.label(), style.PROMPTED_COLOUR, "*"))
    between = 1.0
    width = (style.WIDTH - 0.95 - between - 0.2) / 2
    titles = [style.wrap(METRICS[m].label, width + 0.6) for m in shown]
    deepest = max(title.count("\n") + 1 for title in titles)
    figure, axes = style.grid(
        len(shown), 2.0, columns=2, left=0.95, between=between, right=0.2,
        top=style.key_height(entries) + 0.08, head=0.18 + 0.245 * deepest,
    )  # fmt: skip
    style.key(figure, entries)
    kl = highest(found, variants, shown)
    for ax, metric, title in zip(axes, shown, titles, strict=True):
        style.root_axis(ax, kl, "x", apart=0.3 / width)
        ax.axhline(0, color=style.INK, linewidth=0.8)
        ax.set_xlabel("KL(policy‖base), nats")
        style.head(ax, title, outdent=0.75)
        _panel(ax, found, variants, metric, paints)
    title, finding = _words(tables, found, variants, shown)
    return style.Drawing(
        figure,
        title,
        finding,
        "Change from the base model's stories against KL(policy‖base): a line for each variant of the "
        f"training settings, {uncertainty(s.parts['whole'] for s in found.values())}; a black line for the "
        "optimal policies of the same KLs, continued by the base model; a grey line for best-of-n and a "
        "star for the prompted base: " + "; ".join(METRICS[m].label for m in shown) + ".",
    )


def _panel(
    ax: style.Axes,
    found: Splits,
    variants: Sequence[str],
    metric: str,
    paints: dict[str, tuple[str, str]],
) -> None:
    for variant in variants:
        paint, mark = paints[variant]
        own = along(found, "policy", variant, metric)
        ax.plot([0.0, *(s.kl for s in own)], [0.0, *(s.parts["whole"].mean for s in own)],
                color=paint, linewidth=1.6)  # fmt: skip
        for split in own:
            whole = split.parts["whole"]
            style.bar(ax, split.kl, whole._replace(each=()) if whole.known else whole, paint)
            ax.plot(split.kl, split.parts["whole"].mean, mark, color=paint, markersize=8,
                    markeredgecolor=style.PAPER)  # fmt: skip
    every = [s for v in variants for s in along(found, "policy", v, metric)]
    _line(ax, [(s.kl, s.parts["necessary"].mean) for s in every], style.INK)
    best = [s for v in variants for s in along(found, "best_of_n", v, metric)]
    _line(ax, [(s.kl, s.parts["whole"].mean) for s in best], style.BASE_COLOUR)
    for split in along(found, "prompted", "", metric):
        ax.plot(split.kl, split.parts["whole"].mean, "*", color=style.PROMPTED_COLOUR,
                markersize=13, clip_on=False)  # fmt: skip


def _line(ax: style.Axes, points: Sequence[tuple[float, float]], paint: str) -> None:
    """A line from 0 through the means of points of like KL: within :data:`LIKE` of each other."""
    together: list[list[tuple[float, float]]] = []
    for point in sorted(points):
        if together and point[0] ** 0.5 - together[-1][0][0] ** 0.5 < LIKE:
            together[-1].append(point)
        else:
            together.append([point])
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in together]
    ax.plot(*zip((0.0, 0.0), *means, strict=True), color=paint, linewidth=2.6, zorder=2.5)


def beyond_optimal(split: Split) -> Interval:
    """What the policy changes beyond the optimal policy of its KL: off the frontier and spillover."""
    off, spill = split.parts["off_frontier"], split.parts["spillover"]
    return over_seeds([a + b for a, b in zip(off.each, spill.each, strict=True)])


def _words(
    tables: Tables, found: Splits, variants: Sequence[str], shown: Sequence[str]
) -> tuple[str, str]:
    """Title and finding: what each variant changes beyond the optimal policy at one KL factor."""
    factor = next(iter(showcase(tables.kl_factors)), "")
    sentences: list[str] = []
    times: list[tuple[float, str]] = []
    for metric in shown:
        parts = []
        for variant in variants:
            split = found.get(("policy", variant, factor, metric))
            if split is None:
                continue
            whole, necessary = split.parts["whole"], split.parts["necessary"]
            name = variant.replace("_", " ")
            parts.append(
                f"{name} {signed(whole)} at {number(split.kl)} nats, of which"
                f" {signed(beyond_optimal(split))} beyond the optimal policy"
            )
            if metric == shown[0] and sure(necessary):
                times.append((whole.mean / necessary.mean, name))
        if parts:
            sentences.append(f"{METRICS[metric].label}: {'; '.join(parts)}")
    title = "What each variant changes, beside the optimal policy of its KL"
    if len(times) == len(variants) > 1:
        (least, first), (most, last) = min(times), max(times)
        title = (
            f"At KL factor {factor}, {last} changes {METRICS[shown[0]].label} {number(most)} times as"
            f" much as the optimal policy of its KL, {first} {number(least)} times"
        )
    return title, at_factor(factor, found, ". ".join(sentences))
