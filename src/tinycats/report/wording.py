"""Numbers as words: how the report names models, rounds values and says what a table found.

Pure functions on the rows of the tables of :mod:`tinycats.files.tables`; the page and results.md share
them, so both say the same thing in the same digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinycats.files.tables import ENOUGH_SAMPLES, METRICS, possible_range
from tinycats.program import UserError
from tinycats.study import canonical, with_article

Row = Mapping[str, str]
MINUS = "\N{MINUS SIGN}"
PERCENT, POINTS = "\N{NO-BREAK SPACE}%", "\N{NO-BREAK SPACE}points"

#: heading → metrics, in the order of the table "what broke and what held"
ASPECTS: dict[str, tuple[str, ...]] = {
    "Does it tell the story it was paid for?": (
        "completion_similarity",
        "story_similarity",
        "mentions_concept",
        "mentions_per_100_words",
    ),
    "Is it still fluent?": ("perplexity_under_base", "distinct_2", "repeated_4_grams"),
    "Does it still look like a story?": ("line_breaks", "ended", "words"),
    "Does it still tell different stories?": (
        "distinct_completions",
        "vendi_score",
        "self_bleu",
        "compression_ratio",
    ),
    "How far did it move, and what was forgotten?": (
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
        raise UserError(f"a table holds {text!r}, should be a number; make it anew") from None


def label(metric: str) -> str:
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def is_share(metric: str) -> bool:
    return metric in METRICS and METRICS[metric][1] == "share"


def _digits(value: float, half_width: float | None) -> int:
    """Decimals that show one digit of the uncertainty (two where it begins with 1, 2 or 3), or
    three digits of the value."""
    scale = half_width if half_width else abs(value)
    if scale == 0:
        return 0 if value == 0 else 2
    exponent = math.floor(math.log10(scale))
    wanted = 3 if not half_width else 2 if scale / 10**exponent < 3.5 else 1
    # An interval of almost no width must not drag a tail of digits along.
    least = 1 if 1 <= abs(value) < 10 else 0
    return min(max(wanted - 1 - exponent, least), 4 if abs(value) < 1 else 2)


def human(
    value: float | None, metric: str = "", digits: int | None = None, sign: bool = False
) -> str:
    """A number for people: a true minus sign, shares as per cent, thousands set apart."""
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
    """A summary row as text: mean, and "low to high" where more than one seed gave an interval.

    It ends at 0, and at 1 for a share, as in the figures; but not a cosine's, nor that of a
    difference (``sign``).
    """
    if row is None or number(row["mean"]) is None:
        return Cell("–", "")
    metric = row.get("metric", "")
    mean, low, high = (number(row[key]) for key in ("mean", "low", "high"))
    assert mean is not None
    if low is None or high is None:
        return Cell(human(mean, metric, sign=sign), "", verdict)
    digits = _digits(mean, (high - low) / 2)
    if metric in METRICS and not sign:
        lowest, highest = possible_range(metric)
        low, high = max(low, lowest), min(high, highest)
    low_text, high_text, mean_text = (
        human(value, metric, digits, sign) for value in (low, high, mean)
    )
    for unit in (PERCENT, POINTS):
        low_text = low_text.removesuffix(unit)
    return Cell(mean_text, f"{low_text} to {high_text}", verdict)


def model_key(model: str, variant: str, kl_factor: str) -> str:
    """One name for what told a story: ``base``, ``prompted`` or ``<variant>/<kl factor>``."""
    return f"{variant}/{canonical(float(kl_factor))}" if model == "policy" else model


def model_name(key: str, variants: Sequence[str] = ()) -> str:
    """That name for people; the variant is said only where there are several."""
    if "/" not in key:
        return key
    variant, factor = key.rsplit("/", 1)
    return f"KL {factor}" + (f", {variant}" if len(variants) > 1 else "")


def ordered_models(rows: Iterable[Row], variants: Sequence[str]) -> list[str]:
    """Base, prompted, then each variant's KL factors from small to large."""
    keys = {model_key(row["model"], row["variant"], row["kl_factor"]) for row in rows}

    def place(key: str) -> tuple[int, int, float]:
        if "/" not in key:
            return (["base", "prompted"].index(key), 0, 0.0)
        variant, factor = key.rsplit("/", 1)
        return (2, variants.index(variant) if variant in variants else len(variants), float(factor))

    return sorted(keys, key=place)


@dataclass
class Comparison:
    """A paired difference in words: better in what, worse in what, undecided in what."""

    minuend: str
    subtrahend: str
    better: list[tuple[str, Cell]] = field(default_factory=list)
    worse: list[tuple[str, Cell]] = field(default_factory=list)
    changed: list[tuple[str, Cell]] = field(default_factory=list)
    undecided: list[tuple[str, Cell]] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """One sentence that answers "It's better! Probably!" for this pair."""
        if not (self.better or self.worse or self.changed or self.undecided):
            return f"{self.minuend} against {self.subtrahend}: nothing was measured."
        parts = [
            f"{word} in {len(items)}"
            for word, items in (
                ("better", self.better),
                ("worse", self.worse),
                ("different, where neither direction is better, in", self.changed),
                ("undecided", self.undecided),
            )
            if items and word[0] != "d"
        ]
        if self.changed:
            parts.append(f"merely different in {len(self.changed)}")
        total = sum(map(len, (self.better, self.worse, self.changed, self.undecided)))
        return (
            f"{self.minuend} against {self.subtrahend}: {join(parts)}, of {total} scores"
            " compared seed by seed."
        )


def _who(name: str, variant: str, variants: Sequence[str]) -> str:
    if name in ("base", "prompted"):
        return {"base": "the base", "prompted": "the prompted base"}[name]
    return model_name(model_key("policy", variant, name), variants)


def join(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def comparisons(rows: Iterable[Row], variants: Sequence[str]) -> list[Comparison]:
    """Rows of tables/paired_differences.csv gathered by pair: by variant, then as in the table."""
    found: dict[tuple[str, str, str], Comparison] = {}
    for row in sorted(rows, key=lambda row: variants.index(row["variant"])):
        key = (row["minuend"], row["subtrahend"], row["variant"])
        if key not in found:
            mine, other = (_who(name, row["variant"], variants) for name in key[:2])
            found[key] = Comparison(mine, other)
        if number(row["mean"]) is None:
            continue
        place = {"better": "better", "worse": "worse", "undecided": "undecided"}
        verdict = row["verdict"]
        item = (label(row["metric"]), cell(row, sign=True, verdict=verdict))
        getattr(found[key], place.get(verdict, "changed")).append(item)
    return list(found.values())


def headline_comparison(
    found: Sequence[Comparison], factor: str, variants: Sequence[str]
) -> Comparison | None:
    """The pair that the post asked about: the chosen KL factor against KL 0."""
    pair = tuple(_who(name, variants[0], variants) for name in (factor, "0"))
    for comparison in found:
        if (comparison.minuend, comparison.subtrahend) == pair:
            return comparison
    return found[0] if found else None


def share_table(rows: Iterable[Row], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of frontier/policies.csv, averaged over seeds: how much of the possible gain was won.

    The range over seeds is given, not an interval: the limit's own uncertainty is shared by them.
    Where the limit is only a lower bound, the share is at most what the line says.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(model_key("policy", row["variant"], row["kl_factor"]), []).append(row)
    keys = ordered_models([{**rows[0], "model": "policy"} for rows in groups.values()], variants)
    table = []
    for key in keys:
        line: dict[str, Any] = {"key": key, "name": model_name(key, variants)}
        line["seeds"] = len(groups[key])
        sizes = [number(row["effective_sample_size"]) or 0 for row in groups[key]]
        line["at_most"] = min(sizes) < ENOUGH_SAMPLES
        for column in (
            "reward",
            "kl_policy_to_base_nats",
            "limit",
            "share_of_attainable_gain",
        ):
            values = [number(row[column]) for row in groups[key]]
            known = [value for value in values if value is not None]
            line[column] = sum(known) / len(known) if known else None
            line[column + "_range"] = (min(known), max(known)) if known else None
        table.append(line)
    return table


def lead_sentence(
    summary: Iterable[Row],
    shares: Sequence[Mapping[str, Any]],
    concept: str,
    key: str,
    variants: Sequence[str] = (),
) -> str:
    """The findings in one sentence, from tables/summary.csv and frontier/policies.csv."""
    found = {
        (model_key(row["model"], row["variant"], row["kl_factor"]), row["metric"]): row
        for row in summary
    }

    def mean(model: str, metric: str) -> str | None:
        row = found.get((model, metric))
        return None if row is None or number(row["mean"]) is None else cell(row).mean

    free = key.rsplit("/", 1)[0] + "/0"
    parts = []
    before, after = mean("base", "mentions_concept"), mean(key, "mentions_concept")
    if before and after:
        parts.append(
            f"With {model_name(key, variants).replace('KL', 'KL factor', 1)}, {after} of the stories mention"
            f" {with_article(concept)} (the base model: {before})"
        )
    share = next((line for line in shares if line["key"] == key), None)
    if share and share["share_of_attainable_gain"] is not None:
        parts.append(
            f"the policy won {'at most ' if share['at_most'] else ''}"
            f"{human(100 * share['share_of_attainable_gain'], digits=0)}"
            "\N{NO-BREAK SPACE}% of the reward there was to gain"
            f" {human(share['kl_policy_to_base_nats'], digits=2)} nats from the base"
        )
    ours = mean(key, "perplexity_under_base")
    theirs, unbound = (mean(m, "perplexity_under_base") for m in ("base", free))
    if ours and theirs:
        aside = f", KL 0 {unbound}" if unbound and free != key else ""
        parts.append(
            f"its stories have perplexity {ours} under the base model"
            f" (the base's own stories {theirs}{aside})"
        )
    if not parts:
        return ""
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
