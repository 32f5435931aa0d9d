"""The figure of docs/benchmarks.md: cost against batch size, completion length and vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cells import cells

PANELS = {
    "batch": ("batch", "completions a step (4 tokens)"),
    "length": ("new_tokens", "new tokens (batch 50)"),
    "vocabulary": ("size", "vocabulary (batch 300)"),
}
STYLE = {
    ("ladder-1", "fp32"): ("the post's loop", "#8f8f8f", "o"),
    ("trl", "fp32"): ("TRL, fp32", "#1e9954", "s"),
    ("trl", "bf16"): ("TRL, bf16", "#1e9954", "D"),
    ("tinycats", "fp32"): ("tinycats, fp32", "#d61a2b", "^"),
    ("tinycats", "bf16"): ("tinycats, bf16", "#a237fc", "v"),
}


def series(about: dict[str, Any], part: str) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """For each implementation (x, seconds per 1000 completions)."""
    axis = PANELS[part][0]
    records = [r for r in about["records"] if r["part"] == part]
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (contestant, precision, x, _), cell in sorted(cells(records, axis, "wanted_batch").items()):
        if part == "batch" and not cell.whole:
            continue
        value = float(str(x).removeprefix("vocabulary-"))
        lines.setdefault((contestant, precision), []).append((value, 1000 * cell.per_sample))
    return {who: sorted(points) for who, points in lines.items()}


def finding(about: dict[str, Any]) -> str:
    """One sentence on the figure's numbers."""
    parts = []
    for part, words in (("length", "new tokens"), ("vocabulary", "tokens of vocabulary")):
        lines = series(about, part)
        ours, post = lines.get(("tinycats", "fp32")), lines.get(("ladder-1", "fp32"))
        if ours and post:
            x = min(ours[-1][0], post[-1][0])
            factor = dict(post)[x] / dict(ours)[x]
            parts.append(f"at {x:,.0f} {words} the post's loop takes {factor:.0f} × as long")
    found = "In fp32, " + " and ".join(parts) + "." if parts else ""
    for record in about["records"]:
        if record["result"] is None:
            who = STYLE[record["contestant"], record["precision"]][0]
            work = f"{record['batch']} × {record['new_tokens']} tokens"
            found += f" No point for {who} at {work}: {record['failure']}."
    return found


def draw(about: dict[str, Any], docs: Path) -> None:
    """Write benchmarks.svg and benchmarks.png into ``docs``."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from tinycats.figures import style

    style.apply("benchmarks")
    figure, axes = pyplot.subplots(1, 3, figsize=(1.6 * style.WIDTH, 4.4))
    names: dict[str, Any] = {}
    for panel, (part, (_, label)) in zip(axes, PANELS.items(), strict=True):
        lines = series(about, part)
        for who, points in lines.items():
            name, colour, marker = STYLE[who]
            dashes = "--" if who[1] == "bf16" else "-"
            x, y = zip(*points, strict=True)
            (names[name],) = panel.plot(x, y, dashes, color=colour, marker=marker, markersize=6)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(label)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        panel.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
        panel.xaxis.set_minor_locator(pyplot.NullLocator())
        low, high = panel.get_ylim()
        panel.yaxis.set_major_locator(
            LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0))
        )
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("seconds per 1000 completions")
    order = [name for name, *_ in STYLE.values() if name in names]
    figure.legend(
        [names[name] for name in order], order, frameon=False, loc="upper center", ncols=4
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.08 * -(-len(order) // 4)))
    for kind in ("svg", "png"):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        path = docs / f"benchmarks.{kind}"
        figure.savefig(path, metadata=metadata, dpi=150, facecolor="white")
    pyplot.close(figure)
