"""The style of all figures: ink, colours, panels, labels and axes.

Neutral ink is exactly :data:`INK`, so that a page can apply its own theme, and the SVG's background
is one rectangle (:data:`tinycats.figures.registry.SHEET`) that the page removes; :data:`PAPER` is the
colour of the rims around marks. Figures are landscape. Text is 3 % of the width: 9 pt on a phone of
380 px, and large enough for a wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import font_manager, pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tinycats.figures import fonts
from tinycats.layout import BASE, ModelId
from tinycats.tables.intervals import Interval

INK = "#1a1a1a"
PAPER = "#fefefe"
WIDTH = 6.4  # inches
FONT = 14.6  # points: 9 pt where 6.4 inches are shown 380 px wide

BASE_COLOUR = "#8f8f8f"
PROMPTED_COLOUR = "#1e9954"
# Warm colours for weak KL penalties, cool ones for strong ones. The first four, the grey and the green
# were searched for the largest least difference (CIELAB ≥ 20 between any two) under normal
# vision, protanopia, deuteranopia and tritanopia (Machado et al. 2009), at a contrast of about
# 3:1 or more on white and on near-black. A KL factor has the same colour in every study.
_COLOURS = {"0": "#f96308", "1500": "#d61a2b", "6000": "#a237fc", "24000": "#3f97ef"}
_STRONGEST = "#0f8f9c"  # towards which the colours of larger factors go
_MARKERS = {"0": "o", "1500": "s", "6000": "D", "24000": "^"}
_MORE_MARKERS = ("v", "P", "X", "p", "h", "<", ">", "d")
#: Lines of variants that one figure shows together, where colour is not the KL factor's.
VARIANT_COLOURS = (
    "#a237fc",
    "#e07b00",
    "#0f8f9c",
    "#c2185b",
    "#5a7d00",
    "#3f6fe0",
    "#9a5b2e",
    "#6b6b6b",
)


@dataclass
class Drawing:
    """A figure with its texts.

    Attributes:
        figure: the figure.
        title: the conclusion, in a few words.
        finding: this run's numbers, beside which the title stands as the caption.
        alt: what is plotted, for readers who cannot see it; it does not repeat the caption.
    """

    figure: Figure
    title: str
    finding: str
    alt: str


def apply(name: str) -> None:
    """Set up matplotlib so that the same tables give the same bytes."""
    fonts.use_own()
    pyplot.rcdefaults()
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": name,
            "svg.fonttype": "path",
            "text.parse_math": False,
            "font.family": fonts.families(),
            "font.size": FONT,
            "axes.titlesize": FONT,
            "axes.labelsize": FONT,
            "xtick.labelsize": FONT,
            "ytick.labelsize": FONT,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.unicode_minus": True,
            "lines.linewidth": 2.2,
            "lines.solid_capstyle": "round",
            "figure.dpi": 72,
        }
    )


# ---- colours ------------------------------------------------------------------------------------


def colour(who: ModelId) -> str:
    """The one colour of a model in every figure of every study."""
    if not who.is_policy:
        return BASE_COLOUR if who == BASE else PROMPTED_COLOUR
    ramp = LinearSegmentedColormap.from_list(
        "hot to cool", [*_COLOURS.values(), _STRONGEST], N=4096
    )
    return _COLOURS.get(who.kl_factor) or to_hex(ramp(_strength(float(who.kl_factor))))


def _strength(factor: float) -> float:
    """A KL factor's place on the ramp of five colours, 0 to 1: a step for each factor of 4 from 1500."""
    if factor < 1500:
        return 0.25 * (factor / 1500) ** 0.5
    steps = math.log(factor / 1500, 4)
    return 0.25 * (1 + (steps if steps <= 2 else 3 - math.exp(2 - steps)))


def marker(who: ModelId, kl_factors: Sequence[str]) -> str:
    """A marker that distinguishes the models of a study without colour."""
    if not who.is_policy:
        return "_" if who == BASE else "*"
    if who.kl_factor in _MARKERS:
        return _MARKERS[who.kl_factor]
    others = [factor for factor in kl_factors if factor not in _MARKERS]
    return _MORE_MARKERS[others.index(who.kl_factor) % len(_MORE_MARKERS)]


# ---- layout -------------------------------------------------------------------------------------


def panels(
    heights: Sequence[float],
    columns: int = 1,
    left: float = 0.85,
    right: float = 0.3,
    top: float = 0.1,
    bottom: float = 0.75,
    head: float = 0.45,
    foot: float = 0.3,
    between: float = 0.75,
) -> tuple[Figure, list[Axes]]:
    """Rows of panels with all measures in inches, so that the layout does not depend on the numbers.

    Args:
        heights: height of each row's axes.
        head: room above each row's axes for its title.
        foot: room below each row's axes for tick labels; the last row has ``bottom`` instead.
        between: room between columns.
    """
    total = top + sum(heights) + head * len(heights) + foot * (len(heights) - 1) + bottom
    figure = pyplot.figure(figsize=(WIDTH, total))
    width = (WIDTH - left - right - between * (columns - 1)) / columns
    axes: list[Axes] = []
    y = total - top
    for height in heights:
        y -= head + height
        for column in range(columns):
            x = left + column * (width + between)
            ax = figure.add_axes((x / WIDTH, y / total, width / WIDTH, height / total))
            ax.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
            ax.tick_params(length=3, width=0.8)
            ax.yaxis.set_major_locator(MaxNLocator(4))
            axes.append(ax)
        y -= foot
    return figure, axes


def grid(number: int, height: float, columns: int, **measures: float) -> tuple[Figure, list[Axes]]:
    """``number`` panels of one height, row by row; ``measures`` as for :func:`panels`."""
    figure, axes = panels([height] * math.ceil(number / columns), columns, **measures)
    for ax in axes[number:]:
        ax.remove()
    return figure, axes[:number]


def head(ax: Axes, text: str, outdent: float = 0.0, lift: float = 9.0) -> None:
    """A panel's title: what its vertical axis shows. ``outdent`` in inches to the left."""
    for line, words in enumerate(reversed(text.split("\n"))):
        ax.annotate(
            words, (0, 1), (-72 * outdent, lift + line * FONT * 1.2), xycoords="axes fraction",
            textcoords="offset points", ha="left", va="baseline", annotation_clip=False,
        )  # fmt: skip


def wrap(text: str, inches: float, weight: str = "normal") -> str:
    """Break a text into lines that are at most so wide."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(f"{lines[-1]} {word}", FONT, weight) <= 72 * inches:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def key(figure: Figure, entries: Sequence[tuple[str, str, str]], top: float = 0.06) -> None:
    """A line of marks and coloured words at the top: (text, colour, marker) from left to right.

    A marker followed by ``:`` is hollow. Wraps; see :func:`key_height` for the room it takes.
    """
    width, height = figure.get_size_inches()
    for text, paint, mark, x, line in _key_places(entries):
        y = height - top - 0.14 - line * 0.3
        hollow, mark = mark.endswith(":"), mark.removesuffix(":")
        figure.add_artist(
            matplotlib.lines.Line2D(
                [x / width], [y / height], marker=mark, color=paint, markersize=13 if mark == "*" else 9,
                markeredgewidth=2.4 if mark in "_|" else 1.6 if hollow else 0.5, linestyle="none",
                markerfacecolor="none" if hollow else paint,
            )
        )  # fmt: skip
        figure.text((x + 0.14) / width, y / height, text, color=paint, va="center_baseline",
                    weight="bold")  # fmt: skip


def key_height(entries: Sequence[tuple[str, str, str]]) -> float:
    """Inches that :func:`key` takes."""
    return 0.3 * (1 + max(place[-1] for place in _key_places(entries))) if entries else 0.0


def _key_places(entries: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str, float, int]]:
    places, x, line = [], 0.2, 0
    for text, paint, mark in entries:
        width = 0.14 + text_width(text, FONT, weight="bold") / 72
        if x > 0.2 and x + width > WIDTH - 0.05:
            x, line = 0.2, line + 1
        places.append((text, paint, mark, x, line))
        x += width + 0.3
    return places


def text_width(text: str, size: float, weight: str = "normal", family: str = fonts.SANS) -> float:
    """Width of a text in points."""
    from matplotlib.textpath import text_to_path

    font = font_manager.FontProperties(family=fonts.families(family), weight=weight, size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to those wanted that keep ``gap`` apart, within ``low`` to ``high``.

    Least squares under an order: isotonic regression of the positions less their rank's gap.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # sum, count
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    flat = [total / count for total, count in blocks for _ in range(int(count))]
    ceiling = max(high - (len(wanted) - 1) * gap, low)
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = min(max(flat[rank], low), ceiling) + rank * gap
    return placed


def room(names: Sequence[ModelId]) -> float:
    """Inches that the labels of :func:`label_ends` need."""
    widths = [text_width(who.label(), FONT, weight="bold") for who in names]
    return 0.15 + max(widths, default=0.0) / 72


def label_ends(ax: Axes, labels: Sequence[tuple[float, str, str]], gap: float = FONT * 1.1) -> None:
    """Name lines at the right edge: (value, text, colour), kept from overlapping."""
    labels = [label for label in labels if math.isfinite(label[0])]
    height = ax.get_position().height * ax.figure.get_size_inches()[1] * 72  # type: ignore[union-attr]
    to_axes = ax.transData + ax.transAxes.inverted()
    x = ax.get_xlim()[1]
    wanted = [to_axes.transform((x, value))[1] * height for value, _, _ in labels]
    for (_, text, paint), y in zip(labels, spread(wanted, gap, 0, height), strict=True):
        ax.annotate(
            text, (1, y / height), (5, 0), xycoords="axes fraction", textcoords="offset points",
            color=paint, weight="bold", ha="left", va="center_baseline", annotation_clip=False,
        )  # fmt: skip


# ---- axes ---------------------------------------------------------------------------------------


def root_axis(ax: Axes, highest: float, which: str = "y", apart: float | None = None) -> None:
    """A square-root axis of nats from 0: small KLs stay visible beside large ones.

    ``apart`` is the least distance of two ticks, as a share of the axis.
    """

    def root(value: Any) -> Any:
        return np.sqrt(np.clip(value, 0, None))

    highest = highest if highest > 0 else 1.0
    getattr(ax, f"set_{which}scale")("function", functions=(root, np.square))
    getattr(ax, f"set_{which}lim")(0, highest)
    steps = [0, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    if which == "x":
        steps = [0, 0.1, 0.5, 1, 2, 4, 7, 11, 16, 25, 36, 50, 70, 100, 200, 500]
    if highest < 0.6:
        steps = [0, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5]
    least = apart or (0.17 if which == "y" else 0.09)
    ticks: list[float] = []
    for step in steps:
        if step <= highest and (not ticks or root(step) - root(ticks[-1]) > least * root(highest)):
            ticks.append(step)
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def factor_axis(ax: Axes, kl_factors: Sequence[str], width: float) -> None:
    """KL factors along the horizontal axis: 0, then logarithmic. ``width`` in inches."""
    values = [float(factor) for factor in kl_factors]
    positive = [value for value in values if value > 0]
    if len(values) > 1 and positive:
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.6)
        reach = ax.transData.transform([(values[0], 0), (values[-1], 0)])
        pad = 0.08 * (reach[1][0] - reach[0][0])
        back = ax.transData.inverted()
        low, high = (
            back.transform((reach[0][0] - pad, 0))[0],
            back.transform((reach[1][0] + pad, 0))[0],
        )
        ax.set_xlim(low, high)
    else:
        span = max(abs(values[0]), 1.0) if values else 1.0
        ax.set_xlim((values[0] if values else 0) - span, (values[-1] if values else 0) + span)
    shown: list[float] = []
    to_axes = ax.transData + ax.transAxes.inverted()
    for value in values:
        place = to_axes.transform((value, 0))[0] * width
        before = to_axes.transform((shown[-1], 0))[0] * width if shown else -9.0
        if (
            place - before
            > 0.09 * (1 + len(short(value)) + (len(short(shown[-1])) if shown else 0)) / 2 + 0.1
        ):
            shown.append(value)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))


def short(value: float) -> str:
    """A KL factor for an axis: 1.5k, 24k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def percent_axis(ax: Axes, which: str = "y") -> None:
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g}%"))


def band(ax: Axes, x: Any, values: Sequence[Interval], paint: str) -> None:
    """The 95 % interval over seeds as a band; where there is none, a thin line for each seed."""
    low, high = [v.low for v in values], [v.high for v in values]
    if any(v.known for v in values):
        ax.fill_between(x, low, high, color=paint, alpha=0.18, linewidth=0)
    alone = [() if value.known else value.each for value in values]
    most = max(map(len, alone), default=0)
    for seed in range(most if most > 1 else 0):
        line = [each[seed] if len(each) == most else math.nan for each in alone]
        ax.plot(x, line, color=paint, alpha=0.45, linewidth=0.9, zorder=1.8)


def bar(ax: Axes, x: float, value: Interval, paint: str, across: bool = False) -> None:
    """The 95 % interval over seeds as a bar, where known, and a small line for each seed."""
    if len(value.each) > 1:
        same = [x] * len(value.each)
        ax.plot(*((value.each, same) if across else (same, value.each)), color=paint, alpha=0.75,
                linestyle="none", marker="|" if across else "_", markersize=11,
                markeredgewidth=1.1, zorder=2.1)  # fmt: skip
    if value.known:
        ends = [value.low, value.high]
        ax.plot(*((ends, [x, x]) if across else ([x, x], ends)), color=paint, alpha=0.55,
                linewidth=3.2, solid_capstyle="butt", zorder=2)  # fmt: skip


def empty(what: str) -> Drawing:
    """A placeholder with the reason why there is nothing to draw."""
    figure, (ax,) = panels([0.8], left=0.3, bottom=0.1, head=0.1)
    ax.axis("off")
    ax.text(0, 0.5, what, va="center")
    return Drawing(figure, "Nothing to draw", what, what)
