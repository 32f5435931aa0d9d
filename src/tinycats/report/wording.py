"""How the report names models, rounds numbers and phrases findings.

Pure functions on rows of the tables of :mod:`tinycats.columns`. The page and results.md share
them, so both show the same findings with the same digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinycats.files.tables import Row
from tinycats.layout import ModelId
from tinycats.program import UserError
from tinycats.scores.columns import DIVERSITY, METRICS

MINUS = "\N{MINUS SIGN}"
PERCENT, POINTS = "\N{NO-BREAK SPACE}%", "\N{NO-BREAK SPACE}points"

#: heading → metrics, in the order of the table of scores
ASPECTS: dict[str, tuple[str, ...]] = {
    "Does it do what the reward asks?": (
        "completion_reward",
        "story_reward",
        "mentions_concept",
        "mentions_per_100_words",
    ),
    "Is it still fluent?": ("perplexity_under_base", "distinct_2", "repeated_4_grams"),
    "Does it still look like a story?": ("line_breaks", "ended", "words"),
    "Are its stories still different from each other?": (
        "distinct_completions",
        "vendi_score",
        "self_bleu",
        "compression_ratio",
    ),
    "How far is it from the base model, and what was forgotten?": (
        "kl_policy_to_base_nats",
        "kl_base_to_policy_nats",
        "base_perplexity_under_policy",
    ),
}


def number(text: str | float | None) -> float | None:
    """A table's cell as a number; an empty cell is None."""
    if text is None or text == "":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"a table holds {text!r}, should be a number; regenerate it") from None


def label(metric: str) -> str:
    """The metric's label; of an unknown metric its name."""
    return METRICS[metric].label if metric in METRICS else metric.replace("_", " ")


def is_share(metric: str) -> bool:
    """Whether the metric is a share, shown in per cent."""
    return metric in METRICS and METRICS[metric].unit == "share"


def _digits(value: float, half_width: float | None) -> int:
    """How many decimals to show.

    Enough for one digit of the uncertainty (two if it begins with 1, 2 or 3), or for three digits
    of a value without uncertainty.
    """
    scale = half_width if half_width else abs(value)
    if scale == 0:
        return 0 if value == 0 else 2
    exponent = math.floor(math.log10(scale))
    wanted = 3 if not half_width else 2 if scale / 10**exponent < 3.5 else 1
    # A very narrow interval would otherwise give many meaningless digits.
    least = 1 if 1 <= abs(value) < 10 else 0
    return min(max(wanted - 1 - exponent, least), 4 if abs(value) < 1 else 2)


def human(
    value: float | None, metric: str = "", digits: int | None = None, sign: bool = False
) -> str:
    """A number for readers: a typographic minus sign, shares in per cent, thousands separated."""
    if value is None or math.isnan(value):
        return "–"
    unit = ""
    if is_share(metric):
        # a difference of two percentages is in points, not in per cent
        value, unit = 100 * value, POINTS if sign else PERCENT
        digits = None if digits is None else max(digits - 2, 0)
    if digits is None:
        digits = _digits(value, None)
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", MINUS) + unit


@dataclass(frozen=True)
class Cell:
    """A mean with its interval, ready to print."""

    mean: str
    interval: str
    verdict: str = ""


def cell(row: Row | None, sign: bool = False, verdict: str = "") -> Cell:
    """A row as text: the mean, and "low to high", or where it has no interval the single seeds."""
    if row is None or number(row["mean"]) is None:
        return Cell("–", "")
    metric = row.get("metric", "")
    mean, low, high = (number(row[key]) for key in ("mean", "low", "high"))
    assert mean is not None
    each = [float(value) for value in row.get("each", "").split()]
    if low is None or high is None:
        if len(each) < 2:
            return Cell(human(mean, metric, sign=sign), "", verdict)
        digits = _digits(mean, (max(each) - min(each)) / 2)
        mean_text, *seeds = (human(v, metric, digits, sign) for v in (mean, *sorted(each)))
        for unit in (PERCENT, POINTS):
            seeds[:-1] = [text.removesuffix(unit) for text in seeds[:-1]]
        return Cell(mean_text, f"seeds: {', '.join(seeds)}", verdict)
    digits = _digits(mean, (high - low) / 2)
    low_text, high_text, mean_text = (
        human(value, metric, digits, sign) for value in (low, high, mean)
    )
    for unit in (PERCENT, POINTS):
        low_text = low_text.removesuffix(unit)
    return Cell(mean_text, f"{low_text} to {high_text}", verdict)


def ordered_models(rows: Iterable[Row]) -> list[ModelId]:
    """Base, prompted, then each variant's KL factors from small to large."""
    models = {ModelId.from_row(row).without_seed for row in rows}
    return sorted(models, key=lambda model: model.order())


@dataclass
class Comparison:
    """The metrics of a paired comparison, by verdict; ``costs`` are those of any change."""

    minuend: str
    subtrahend: str
    better: list[tuple[str, Cell]] = field(default_factory=list)
    worse: list[tuple[str, Cell]] = field(default_factory=list)
    changed: list[tuple[str, Cell]] = field(default_factory=list)
    costs: list[tuple[str, Cell]] = field(default_factory=list)
    undecided: list[tuple[str, Cell]] = field(default_factory=list)

    @property
    def pair(self) -> str:
        """Which is subtracted from which."""
        return f"{self.minuend} − {self.subtrahend}"

    @property
    def cells(self) -> dict[str, Cell]:
        """Score → difference."""
        verdicts = self.better, self.worse, self.changed, self.costs, self.undecided
        return {name: found for items in verdicts for name, found in items}

    @property
    def answer(self) -> str:
        """One sentence that names what is better and what is worse."""
        pair = f"{self.minuend} against {self.subtrahend}, seed by seed:"
        if not any((self.better, self.worse, self.changed, self.costs, self.undecided)):
            return f"{self.minuend} against {self.subtrahend}: nothing was measured."
        found = (("better", self.better), ("worse", self.worse))
        parts = [f"{word} in {join(_findings(items))}" for word, items in found if items]
        return f"{pair} {'; '.join(parts) or 'neither better nor worse in any score'}."


def _findings(items: Sequence[tuple[str, Cell]]) -> list[str]:
    """Labels of scores; the measures of diversity are one finding."""
    measures = {label(metric) for metric in DIVERSITY}
    names = [name for name, _ in items]
    found = [name for name in names if name not in measures]
    if number_of := len(names) - len(found):
        found.append(f"diversity ({number_of} of {len(measures)} measures)")
    return found


def _name(short: str, variant: str, variants: Sequence[str]) -> str:
    model = ModelId.from_short(short, variant)
    return model.label(variants) if model.is_policy else model.phrase


def join(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def comparisons(rows: Iterable[Row], variants: Sequence[str]) -> list[Comparison]:
    """Rows of tables/paired_differences.csv grouped by pair: by variant, then as in the table."""
    found: dict[tuple[str, ...], Comparison] = {}
    for row in sorted(rows, key=lambda row: variants.index(row["variant"])):
        key = tuple(row[c] for c in ("minuend", "subtrahend", "variant", "subtrahend_variant"))
        if key not in found:
            mine = _name(row["minuend"], row["variant"], variants)
            other = _name(row["subtrahend"], row["subtrahend_variant"], variants)
            found[key] = Comparison(mine, other)
        if number(row["mean"]) is None:
            continue
        place = {"better": "better", "worse": "worse", "undecided": "undecided"}
        verdict = row["verdict"]
        item = (label(row["metric"]), cell(row, sign=True, verdict=verdict))
        cost = row["metric"] in METRICS and METRICS[row["metric"]].direction == "cost"
        getattr(found[key], place.get(verdict, "costs" if cost else "changed")).append(item)
    return list(found.values())


def headline_comparison(
    found: Sequence[Comparison], factor: str, variants: Sequence[str]
) -> Comparison | None:
    """The comparison that the post makes: the given KL factor against KL factor 0."""
    pair = tuple(_name(name, variants[0], variants) for name in (factor, "0"))
    for comparison in found:
        if (comparison.minuend, comparison.subtrahend) == pair:
            return comparison
    return found[0] if found else None


def different_machines(runs: Iterable[Mapping[str, Any]]) -> str:
    """A sentence where policies, or parts of one, were trained on different machines; else empty.

    Args:
        runs: contents of run.json; ``computed_on`` lists the machine of each part of a run.
    """
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for part in run.get("computed_on", ()):
            for key, value in part.items():
                if key != "first_step":
                    values.setdefault(key, {})[str(value)] = None
    differ = [f"{key} {', '.join(found)}" for key, found in values.items() if len(found) > 1]
    if not differ:
        return ""
    return (
        f"The policies were not all trained alike ({'; '.join(differ)}): sums are rounded differently,"
        " which changes a policy about as much as another seed does."
    )
