"""What figures read: documented tables as rows with numbers, and the published curves."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinycats.columns import COLUMNS
from tinycats.figures import registry as figures
from tinycats.files.tables import Row, read_lines, read_table
from tinycats.kinds import POLICY
from tinycats.layout import BASE, PROMPTED, ModelId, sort_factors
from tinycats.program import UserError
from tinycats.reward.settings import similarity_label
from tinycats.stories.columns import STORY_FIELDS
from tinycats.tables.intervals import Interval

_TEXT_COLUMNS = {
    "model", "variant", "kl_factor", "seed", "metric", "text", "token", "prompt_group", "prompt",
    "comparison", "minuend", "subtrahend", "subtrahend_variant", "rival", "rival_variant",
    "part", "verdict", "judge",
    "texts", "after", "each",
}  # fmt: skip

DEFAULT_VARIANT = "blog"
#: The published curves are of stories about this concept; beside others they would mislead.
PUBLISHED_CONCEPT = "cat"
PUBLISHED_LABEL = "TinyStories-33M, published, one run"
#: said wherever numbers stand beside the published ones
FITTED = (
    "The rewards are alike by choice: nano's learning rate was chosen by them. KLs at the end and the order"
    " of KL factors were not fitted."
)


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Tables:
    """What one figure is drawn from; see :meth:`read`. Nothing of it changes while it is drawn.

    Attributes:
        results: folder results/<study>/.
        concept: what stories should be about, for labels.
        concept_words: words that are marked in stories.
        reward: what labels call the reward.
        kl_factors: KL factors of the study, ascending; colours go by their order.
        kl_factor: the KL factor that this figure is about, if it is about one.
        variant: the variant shown.
        variants: the variants in the figure's tables.
        seed: seed whose stories are shown.
        published: CSV of the published curves, if they are to be overlaid.
        inputs: the files that the figure is drawn from, below ``results``.
        contents: of those inputs that are tables: path → rows.
    """

    results: Path
    concept: str
    concept_words: Sequence[str]
    reward: str
    kl_factors: Sequence[str]
    kl_factor: str | None
    variant: str
    variants: Sequence[str]
    seed: str
    published: Path | None
    inputs: Sequence[str]
    contents: Mapping[str, list[Row]]

    @classmethod
    def read(
        cls,
        name: str,
        results: Path,
        concept: str,
        concept_words: Sequence[str] = (),
        reward: str = "",
        kl_factors: Sequence[str] = (),
        variant: str = "",
        seed: str = "",
        published: Path | None = None,
    ) -> Tables:
        """Read the tables of the figure ``name``.

        Args:
            concept_words: where empty, the concept and its plural.
            reward: where empty, similarity to the concept.
            kl_factors: where empty, those of the first of the figure's tables that has some.
            variant: where empty ``blog``, or the first in that table if it has none of this name.

        Raises:
            UserError: there is no such figure, or a table is missing.
        """
        inputs = figures.figure_inputs(name, kl_factors, variant or DEFAULT_VARIANT, seed)
        contents = {path: _rows(results, path) for path in inputs if path.endswith(".csv")}

        def named(column: str) -> Iterator[list[str]]:
            for rows in contents.values():
                if values := [row[column] for row in rows if row.get(column)]:
                    yield list(dict.fromkeys(values))

        first = next(named("variant"), [DEFAULT_VARIANT])
        return cls(
            results=results,
            concept=concept,
            concept_words=concept_words or [concept, concept + "s"],
            reward=reward or similarity_label(concept),
            kl_factors=sort_factors(kl_factors or next(named("kl_factor"), [])),
            kl_factor=figures.find(name)[1],
            variant=variant or (DEFAULT_VARIANT if DEFAULT_VARIANT in first else first[0]),
            variants=list(dict.fromkeys(itertools.chain(*named("variant")))),
            seed=seed,
            published=published,
            inputs=inputs,
            contents=contents,
        )

    def all_rows(self, name: str) -> list[Row]:
        """Rows of a table of the figure with numbers as floats (``nan`` where empty)."""
        return list(self.contents[name])

    def rows(self, name: str) -> list[Row]:
        """Rows of a table that belong to the variant shown, to the base or to the prompted base."""
        return [row for row in self.contents[name] if row.get("variant", "") in ("", self.variant)]

    def stories(self, path: str) -> list[Row]:
        """Stories of one file.

        Raises:
            UserError: the file is missing.
        """
        if not (self.results / path).is_file():
            raise UserError(
                f"{self.results / path}: no such stories; the stories stage writes them"
            )
        return list(read_lines(self.results / path, STORY_FIELDS))

    def policy(self, kl_factor: str) -> ModelId:
        """The policies of a KL factor and of the variant shown."""
        return ModelId(POLICY, self.variant, kl_factor)

    def everyone(self, rows: Iterable[Row]) -> list[ModelId]:
        """The models that the rows are about: base, prompted, then policies by KL factor."""
        found = {who_of(row) for row in rows}
        return [who for who in (BASE, PROMPTED, *map(self.policy, self.kl_factors)) if who in found]

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


def _rows(results: Path, name: str) -> list[Row]:
    path = results / name
    if not path.is_file():
        raise UserError(f"{path}: no such table; the stage before figures writes it")
    return [
        {c: v if c in _TEXT_COLUMNS else _number(v, c, path) for c, v in row.items()}
        for row in read_table(path, COLUMNS[name])
    ]


def who_of(row: Row) -> ModelId:
    """The model of a row, of all seeds together."""
    return ModelId.from_row(row).without_seed


def interval(row: Row) -> Interval:
    each = tuple(map(float, row["each"].split()))
    return Interval(row["mean"], row["low"], row["high"], int(row["seeds"]), each)


def by_metric(rows: Iterable[Row]) -> dict[tuple[ModelId, str], Interval]:
    """(model, metric) → interval."""
    return {(who_of(row), row["metric"]): interval(row) for row in rows}


def number(value: float, digits: int = 2) -> str:
    """A number for a sentence: so many significant digits, no exponent, a proper minus sign."""
    if not math.isfinite(value):
        return "not measured"
    places = digits - 1 - math.floor(math.log10(abs(value))) if value else digits - 1
    text = f"{value:,.{min(max(places, 0), 4)}f}"
    return text.replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.0f}%".replace("-", "−") if math.isfinite(value) else "not measured"


def within(value: Interval, form: Any = number) -> str:
    """A number with its interval, or with its seeds where it has none, for a sentence."""
    if not value.known:
        seeds = f" (seeds: {', '.join(map(form, sorted(value.each)))})"
        return str(form(value.mean)) + (seeds if len(value.each) > 1 else "")
    return f"{form(value.mean)} (95% interval {form(value.low)} to {form(value.high)})"


def without_way(tables: Tables) -> list[str]:
    """Variants trained on fewer prompts than are measured: their trajectory is its end alone."""
    steps: dict[str, set[float]] = {}
    for row in tables.all_rows("tables/trajectories.csv"):
        steps.setdefault(row["variant"], set()).add(row["step"])
    return [variant for variant in tables.variants if len(steps.get(variant, ())) == 1]


def said_without_way(variants: Sequence[str]) -> str:
    """A sentence on these variants for a text alternative, or nothing."""
    names = listing([variant.replace("_", " ") for variant in variants])
    of = "batches were of fewer prompts than the limit is of"
    return f" Of {names}, only the final policies: their {of}." if variants else ""


def uncertainty(values: Iterable[Interval], mark: str = "mark") -> str:
    """What is drawn beside means, for a text alternative; ``mark`` or line of a single seed."""
    values = list(values)
    parts = ["with the 95% interval over seeds"] if any(v.known for v in values) else []
    if any(len(value.each) > 1 for value in values):
        parts.append(f"{'and' if parts else 'with'} a thin {mark} for each seed")
    return " ".join(parts) or "of one seed"


def listing(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
