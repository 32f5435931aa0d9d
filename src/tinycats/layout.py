"""The models of a study, and where its files lie: the only module that defines the paths.

Everything of a study is below ``results/<study>/``, each stage in a folder of its own. The files of
one model have its *stem* after the stage's folder, such as ``stories/base/seed=0.jsonl`` or
``policies/blog/kl=6000/seed=0/training.csv``. A further kind of model is one line of
:data:`tinycats.kinds.KINDS`; a further file of every model is one :class:`ModelFile`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinycats.kinds import KINDS, POLICY
from tinycats.program import UserError

#: templates, styles and scripts of the pages
TEMPLATES = Path(__file__).resolve().parents[2] / "workflow" / "report"
#: the blog post's own KL_FACTOR: pages show it first wherever the study has it
BLOG_FACTOR = "6000"


def canonical(factor: float) -> str:
    """One spelling of a KL factor for paths: 6000.0 and 6e3 are ``6000``, 0.50 is ``0.5``."""
    factor = float(factor)
    return str(int(factor)) if factor.is_integer() else repr(factor)


def sort_factors(kl_factors: Iterable[str]) -> list[str]:
    """Distinct KL factors in ascending order, in the spelling given.

    Raises:
        UserError: one is no number.
    """
    factors = list(dict.fromkeys(kl_factors))
    try:
        return sorted(factors, key=float)
    except ValueError as error:
        raise UserError(f"KL factors {', '.join(factors)}: should be numbers ({error})") from None


# ---------------------------------------------------------------------------- models


FIRST_VARIANT = "blog"  # comes before all others, which are in the order of their names


def _pattern(template: str) -> str:
    """Regular expression of what a template with ``{variant}`` and ``{factor}`` can become."""
    escaped = re.escape(template)
    for field in ("variant", "factor"):
        escaped = escaped.replace(re.escape("{" + field + "}"), f"(?P<{field}>[^/]+)")
    return escaped


_WITH_SEED = {
    name: re.compile(rf"(?:.*/)?(?P<stem>{_pattern(kind.stem)}/seed=(?P<seed>\d+))(?:[./].*)?")
    for name, kind in KINDS.items()
}
_ALL_SEEDS = {
    name: re.compile(rf"(?:.*/)?{_pattern(kind.stem)}\.[a-z]+")
    for name, kind in KINDS.items()
    if kind.all_seeds
}
_KEYS = {name: re.compile(_pattern(kind.key)) for name, kind in KINDS.items()}


@dataclass(frozen=True)
class ModelId:
    """Which model of a study.

    Attributes:
        kind: a name of :data:`KINDS`.
        variant, kl_factor: of a policy, the factor in its :func:`canonical` spelling; else empty.
        seed: ``None`` for all seeds together.
    """

    kind: str
    variant: str = ""
    kl_factor: str = ""
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, should be one of {', '.join(KINDS)}")
        if bool(self.variant) != self.of_policy or bool(self.kl_factor) != self.of_policy:
            need = "should have both" if self.of_policy else "should have neither"
            raise ValueError(f"{self}: {need}, variant and KL factor")

    # ------------------------------------------------------------------ parsing

    @classmethod
    def find(cls, path: str | Path) -> ModelId | None:
        """The model whose file or folder ``path`` is, or ``None``.

        Of several stems in a path the last one counts.
        """
        text = Path(path).as_posix()
        found = {name: pattern.fullmatch(text) for name, pattern in _WITH_SEED.items()}
        matches = {name: match for name, match in found.items() if match}
        for name in sorted(
            matches, key=lambda n: (-matches[n].end("stem"), matches[n].start("stem"))
        ):
            match = matches[name].groupdict()
            try:
                factor = _factor(match["factor"]) if KINDS[name].of_policy else ""
            except ValueError:
                continue
            return cls(name, match.get("variant") or "", factor, int(match["seed"]))
        return next((cls(n) for n, p in _ALL_SEEDS.items() if p.fullmatch(text)), None)

    @classmethod
    def from_path(cls, path: str | Path) -> ModelId:
        """The model whose file or folder ``path`` is.

        Raises:
            UserError: the path is not of the grammar.
        """
        if found := cls.find(path):
            return found
        *others, last = (kind.grammar for kind in KINDS.values())
        raise UserError(f"{path}: the path should end in {', '.join(others)} or {last}")

    @classmethod
    def from_key(cls, key: str) -> ModelId:
        """The model of a :attr:`key`.

        Raises:
            UserError: there is none.
        """
        for name, pattern in _KEYS.items():
            if match := pattern.fullmatch(key):
                found = match.groupdict()
                return cls._of(name, found.get("variant", ""), found.get("factor", ""))
        known = ", ".join(
            k.key.format(variant="<variant>", factor="<factor>") for k in KINDS.values()
        )
        raise UserError(f"{key!r} is no model, should be one of {known}")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ModelId:
        """The model of a table's row. Without a column ``model`` it is a policy's.

        Raises:
            UserError: a value is not allowed.
        """
        kind = row.get("model", POLICY)
        if kind not in KINDS:
            raise UserError(
                f"column model holds {kind!r}, should be one of {', '.join(map(repr, KINDS))}"
            )
        seed = row.get("seed", "")
        if seed not in ("", None) and not str(seed).isdecimal():
            raise UserError(f"column seed holds {seed!r}, should be a whole number or empty")
        return cls._of(
            kind, row["variant"], row["kl_factor"], None if seed in ("", None) else int(seed)
        )

    @classmethod
    def from_short(cls, short: str, variant: str) -> ModelId:
        """The model of a :attr:`short` name among those of a variant."""
        kind, _, factor = short.rpartition(" ")
        if short in KINDS and not KINDS[short].of_policy:
            return cls(short)
        return cls._of(kind if kind in KINDS else POLICY, variant, factor)

    @classmethod
    def _of(
        cls, kind: str, variant: str = "", factor: str = "", seed: int | None = None
    ) -> ModelId:
        if not KINDS[kind].of_policy:
            return cls(kind, seed=seed)
        try:
            return cls(kind, variant, _factor(factor), seed)
        except ValueError:
            raise UserError(
                f"{kind} has the variant {variant!r} and the KL factor {factor!r}, should have a"
                " name and a number of at least 0"
            ) from None

    # ------------------------------------------------------------------ names

    @property
    def of_policy(self) -> bool:
        """Whether it has a variant and a KL factor."""
        return KINDS[self.kind].of_policy

    @property
    def is_policy(self) -> bool:
        return self.kind == POLICY

    @property
    def opened(self) -> bool:
        """Whether its stories begin with another distribution's tokens (:attr:`Kind.opened`)."""
        return KINDS[self.kind].opened

    @property
    def stem(self) -> str:
        """Its path below a stage's folder: ``base/seed=0``, ``base`` (all seeds) and so on."""
        own = self._fill(KINDS[self.kind].stem)
        return own if self.seed is None else f"{own}/seed={self.seed}"

    @property
    def key(self) -> str:
        """Its name in the report's data, without the seed: ``base``, ``<variant>/<KL factor>``."""
        return self._fill(KINDS[self.kind].key)

    @property
    def short(self) -> str:
        """Its name among those of one variant: a policy's KL factor, else the kind, with a factor."""
        return self.kl_factor if self.is_policy else f"{self.kind} {self.kl_factor}".strip()

    def label(self, variants: Sequence[str] = ()) -> str:
        """Its name for people, without the seed: ``KL 6000``, with its variant among several."""
        several = self.of_policy and len(variants) > 1
        return self._fill(KINDS[self.kind].label) + (f", {self.variant}" if several else "")

    @property
    def phrase(self) -> str:
        """Its name in a sentence, without variant and seed: ``the base``, ``KL factor 6000``."""
        return self._fill(KINDS[self.kind].phrase)

    def _fill(self, template: str) -> str:
        return template.format(variant=self.variant, factor=self.kl_factor)

    # ------------------------------------------------------------------ tables

    @property
    def without_seed(self) -> ModelId:
        """The same model, of all seeds together."""
        return replace(self, seed=None)

    def order(self) -> tuple[int, bool, str, float, int]:
        """Sort key: kind, variant (:data:`FIRST_VARIANT`, then by name), KL factor, seed."""
        factor = float(self.kl_factor) if self.kl_factor else -1.0
        seed = -1 if self.seed is None else self.seed
        later = self.variant != FIRST_VARIANT
        return list(KINDS).index(self.kind), later, self.variant, factor, seed

    def columns(self, *names: str) -> dict[str, Any]:
        """The columns of tables that say which model it is; all four, or those named."""
        seed: Any = "" if self.seed is None else self.seed
        values = {
            "model": self.kind, "variant": self.variant, "kl_factor": self.kl_factor, "seed": seed
        }  # fmt: skip
        return {name: values[name] for name in names or values}


BASE, PROMPTED = ModelId("base"), ModelId("prompted")
OPTIMAL_PROMPTED = ModelId("optimal_prompted")
#: the columns of a table that is over all seeds
MODEL_COLUMNS = ("model", "variant", "kl_factor")


def _factor(text: str) -> str:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return canonical(value)


# ---------------------------------------------------------------------------- files


@dataclass(frozen=True)
class ModelFile:
    """A file (or folder) that a stage has one of for each model: ``<stage>/<stem><end>``."""

    stage: str
    end: str

    def of(self, model: ModelId) -> str:
        """Its path below results/<study>/."""
        return f"{self.stage}/{model.stem}{self.end}"

    def pattern(self, kind: str = POLICY) -> str:
        """The same with the fields ``{variant}``, ``{factor}`` and ``{seed}``, as a rule has it."""
        return f"{self.stage}/{KINDS[kind].stem}/seed={{seed}}{self.end}"

    @property
    def name(self) -> str:
        """Its path within the model's own folder."""
        return self.end.lstrip("/")

    @property
    def log(self) -> ModelFile:
        """The log of the job that makes it, below logs/<study>/."""
        return replace(self, end=".log")

    @property
    def benchmark(self) -> ModelFile:
        """That job's benchmark, below :data:`BENCHMARKS`."""
        return replace(self, end=".jsonl")

    def model_of(self, path: str | Path, results: Path) -> ModelId:
        """The model whose file ``path`` is.

        Raises:
            UserError: it is not this file of any model of the study at ``results``.
        """
        below = Path(path).relative_to(results).as_posix()
        model = ModelId.find(below)
        if model is None or self.of(model) != below:
            forms = " or ".join(f"{self.stage}/{k.grammar}{self.end}" for k in KINDS.values())
            raise UserError(f"{path}: not a file of any model; expected {forms} in {results}")
        return model


POLICY_FOLDER = ModelFile("policies", "")
WEIGHTS = ModelFile("policies", "/model/model.safetensors")
TRAINING = ModelFile("policies", "/training.csv")
TOP_COMPLETIONS = ModelFile("policies", "/top_completions.csv")
RUN = ModelFile("policies", "/run.json")
EVENTS = ModelFile("policies", "/events")  # TensorBoard's, where asked for; no output either
STATE = ModelFile("policies", "/state.pt")  # of a run under way; no output of the workflow
STORIES = ModelFile("stories", ".jsonl")
FORGETTING = ModelFile("stories", ".base.jsonl")  # the base's stories as a policy finds them
COMPLETIONS = ModelFile("completions", ".csv")

# below results/<study>/
FIRST_TOKEN = "completions/first_token.csv"
LOG_PROBS = "completions/log_probs.safetensors"
SEARCHED = "completions/searched.csv"
REFERENCE = "reference/{concept}.safetensors"
REWARDS = "rewards"  # a memo shared between jobs; no output of the workflow
JUDGES = "scores/judges.csv"  # where the study has judges
SCORES = {name: f"scores/{name}.csv" for name in ("stories", "sets", "opening_sets")}
FRONTIER = {
    n: f"frontier/{n}.csv" for n in ("limit", "best_of_n", "policies", "prompted", "openings")
}
TABLES = {
    name: f"tables/{name}.csv"
    for name in (
        "summary", "by_prompt_group", "by_position", "paired_differences", "equal_kl", "training",
        "top_completions", "trajectories", "first_token", "decomposition",
    )
}  # fmt: skip
FIGURE = "figures/{name}"  # and .svg, .png or .json
CONFIG = "config.yaml"
PAGE = "report.html"
MARKDOWN = "results.md"
PLAYGROUND = "playground.html"
BENCHMARKS = "benchmarks"


def results(study: str) -> Path:
    """Folder of a study's results."""
    return Path("results") / study
