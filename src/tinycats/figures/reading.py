"""What figures read: documented tables as rows with numbers, and the published curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tinycats.figures import registry as figures
from tinycats.files import tables as files
from tinycats.program import UserError

Row = dict[str, Any]

_TEXT_COLUMNS = {
    "model", "variant", "kl_factor", "seed", "metric", "text", "token", "prompt_group", "prompt",
    "comparison", "minuend", "subtrahend", "verdict", "pool",
}  # fmt: skip

#: The published curves are of stories about this concept; beside others they would mislead.
PUBLISHED_CONCEPT = "cat"
PUBLISHED_LABEL = "TinyStories-33M, published, one run"


class Interval(NamedTuple):
    """Mean over seeds with its 95 % t-interval (``nan`` with one seed)."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


NOTHING = Interval(math.nan, math.nan, math.nan)


class Who(NamedTuple):
    """Which model a row is about: ``base``, ``prompted`` or a policy by its KL factor."""

    model: str
    kl_factor: str = ""

    @property
    def label(self) -> str:
        return f"KL {self.kl_factor}" if self.model == "policy" else self.model


BASE, PROMPTED = Who("base"), Who("prompted")


@dataclass
class Tables:
    """The tables of one study, read on demand.

    Attributes:
        results: folder results/<study>/.
        concept: what stories should be about, for labels.
        concept_words: words that are marked in stories; the concept and its plural by default.
        kl_factors: KL factors of the study; colours go by their order. Those in the table read
            first, where not given.
        kl_factor: the KL factor that this figure is about, if it is about one.
        variant: the variant shown; where empty ``blog``, or the first in the table.
        seed: seed whose stories are shown.
        published: CSV of the published curves, if they are to be overlaid.
        several_variants: whether a table read so far has more variants than the one shown.
        sources: the tables read so far.
    """

    results: Path
    concept: str
    concept_words: list[str] = field(default_factory=list)
    kl_factors: list[str] = field(default_factory=list)
    kl_factor: str | None = None
    variant: str = ""
    seed: str = ""
    published: Path | None = None
    several_variants: bool = False
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.concept_words = self.concept_words or [self.concept, self.concept + "s"]

    def all_rows(self, name: str) -> list[Row]:
        """Rows of a table with numbers as floats (``nan`` where empty).

        Raises:
            UserError: the table is missing.
        """
        path = self.results / name
        if not path.is_file():
            raise UserError(f"{path}: no such table; the stage before figures writes it")
        if name not in self.sources:
            self.sources.append(name)
        rows: list[Row] = [
            {c: v if c in _TEXT_COLUMNS else _number(v, c, path) for c, v in row.items()}
            for row in files.read_table(name, path)
        ]
        if not self.kl_factors:
            self.kl_factors = [row["kl_factor"] for row in rows if row.get("kl_factor")]
        self.kl_factors = figures.sort_factors(self.kl_factors)
        return rows

    def rows(self, name: str) -> list[Row]:
        """Rows of a table that belong to the variant shown, to the base or to the prompted base."""
        rows = self.all_rows(name)
        variants = list(dict.fromkeys(row["variant"] for row in rows if row.get("variant")))
        if not self.variant and variants:
            self.variant = "blog" if "blog" in variants else variants[0]
        self.several_variants |= len(variants) > 1
        return [row for row in rows if row.get("variant", "") in ("", self.variant)]

    def stories(self, path: str) -> list[Row]:
        """Stories of one file.

        Raises:
            UserError: the file is missing.
        """
        if not (self.results / path).is_file():
            raise UserError(
                f"{self.results / path}: no such stories; the stories stage writes them"
            )
        self.sources.append(path)
        return list(files.read_lines(self.results / path, files.STORY_FIELDS))

    def everyone(self, rows: Iterable[Row]) -> list[Who]:
        """Who the rows are about: base, prompted, then policies by KL factor."""
        found = {who_of(row) for row in rows}
        policies = [Who("policy", factor) for factor in self.kl_factors]
        return [who for who in (BASE, PROMPTED, *policies) if who in found]

    def published_rows(self) -> list[Row]:
        """The published curves as rows of ``kl_factor``, ``step``, ``reward`` and nats.

        Empty where none are given or the study is about another concept.
        """
        if self.published is None or self.concept != PUBLISHED_CONCEPT:
            return []
        with open(self.published, encoding="utf-8", newline="") as file:
            lines = [line for line in file if not line.startswith("#")]
        columns = {"step", "reward", "kl_base_to_policy_nats_per_completion"}
        rows: list[Row] = list(csv.DictReader(lines))
        if rows and not columns <= set(rows[0]):
            raise UserError(
                f"{self.published}: should have the columns {', '.join(sorted(columns))}"
            )
        return [
            {c: v if c == "kl_factor" else _number(v, c, self.published) for c, v in row.items()}
            for row in rows
        ]


def _number(text: str, column: str, path: Path) -> float:
    """A cell's number, ``nan`` where it is empty."""
    try:
        return float(text or "nan")
    except ValueError:
        raise UserError(f"{path}: column {column} holds {text!r}, should be a number") from None


def who_of(row: Row) -> Who:
    """Who a row with the columns ``model`` (if any) and ``kl_factor`` is about."""
    model = row.get("model", "policy")
    return Who(model, row["kl_factor"] if model == "policy" else "")


def interval(row: Row) -> Interval:
    return Interval(row["mean"], row["low"], row["high"])


def over_seeds(values: list[float]) -> Interval:
    """Mean and 95 % t-interval of one value a seed."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    from scipy import stats

    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * math.sqrt(variance / len(values))
    return Interval(mean, mean - half, mean + half)


def by_metric(rows: Iterable[Row]) -> dict[tuple[Who, str], Interval]:
    """(who, metric) → interval."""
    return {(who_of(row), row["metric"]): interval(row) for row in rows}


def number(value: float, digits: int = 2) -> str:
    """A number for a sentence: so many significant digits, no exponent, a proper minus sign."""
    if not math.isfinite(value):
        return "not measured"
    places = digits - 1 - math.floor(math.log10(abs(value))) if value else digits - 1
    text = f"{value:,.{min(max(places, 0), 4)}f}"
    return text.replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.0f}%" if math.isfinite(value) else "not measured"


def within(value: Interval, form: Any = number) -> str:
    """A number with its interval, for a sentence."""
    if not value.known:
        return str(form(value.mean))
    return f"{form(value.mean)} (95% interval {form(value.low)} to {form(value.high)})"


def listing(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
