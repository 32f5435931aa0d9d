"""The figures: one module each, drawn from tables alone (no model, no torch).

A figure is one module with ``draw(tables) -> Drawing`` and one line in :data:`FIGURES`. Importing
this package imports neither matplotlib nor the modules, so that the workflow can list names and
inputs quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinycats import layout
from tinycats.layout import sort_factors
from tinycats.program import UserError

#: How many KL factors of a sweep get a separate figure.
MOST_FACTOR_FIGURES = 12
#: How many variants get separate figures; with more, only the first does.
MOST_VARIANT_FIGURES = 6

#: The white background of an SVG file, without which a dark page swallows its text; the report removes it.
SHEET = '<rect width="100%" height="100%" fill="#ffffff"/>'

#: Sections of the report, in its order.
SECTIONS = ("question", "training", "scores", "broke", "transfer", "method")


@dataclass(frozen=True)
class FigureEntry:
    """Where a figure comes from and where it belongs.

    Attributes:
        module: module of this package that draws it.
        inputs: paths below results/<study>/; ``{variant}``, ``{seed}`` and ``{factor}`` (each of
            :func:`showcase`) are filled in by :func:`figure_inputs`.
        section: one of :data:`SECTIONS`.
        order: place in the report; lower comes first.
        needs: ``kl_factor`` (one figure for each), ``variants`` (only with more than one),
            ``judges`` (only with some) or nothing.
        of_all: whether it shows all variants, not one.
    """

    module: str
    inputs: tuple[str, ...]
    section: str
    order: int
    needs: str = ""
    of_all: bool = False


_SUMMARY = layout.TABLES["summary"]
_PAIRED = layout.TABLES["paired_differences"]
_TRAINING = layout.TABLES["training"]
_DECOMPOSITION = layout.TABLES["decomposition"]

FIGURES: dict[str, FigureEntry] = {
    "frontier": FigureEntry(
        "frontier",
        (
            layout.TABLES["trajectories"],
            *(layout.FRONTIER[n] for n in ("limit", "best_of_n", "policies", "prompted")),
            layout.TABLES["equal_kl"],
        ),
        "question",
        10,
        of_all=True,
    ),
    "published": FigureEntry(
        "published", (layout.TABLES["trajectories"], layout.FRONTIER["policies"]), "method", 590
    ),
    "training_metrics": FigureEntry("training_metrics", (_TRAINING,), "training", 100, "kl_factor"),
    "training_all": FigureEntry("training_all", (_TRAINING,), "training", 200),
    "sample_efficiency": FigureEntry(
        "sample_efficiency",
        (
            layout.TABLES["trajectories"],
            layout.FRONTIER["limit"],
            layout.FRONTIER["best_of_n"],
        ),
        "training",
        210,
        of_all=True,
    ),
    "scores_by_kl": FigureEntry("scores_by_kl", (_SUMMARY,), "scores", 300),
    "stories": FigureEntry(
        "stories",
        (
            *(layout.STORIES.pattern(model.kind) for model in (layout.BASE, layout.PROMPTED)),
            layout.STORIES.pattern(),
        ),
        "scores",
        310,
    ),
    "what_broke": FigureEntry("what_broke", (_SUMMARY, _PAIRED), "broke", 400),
    "what_broke_more": FigureEntry("what_broke_more", (_SUMMARY, _PAIRED), "broke", 401),
    "decomposition": FigureEntry("decomposition", (_DECOMPOSITION,), "broke", 404),
    "decomposition_variants": FigureEntry(
        "decomposition_variants", (_DECOMPOSITION,), "broke", 405, "variants", True
    ),
    "damage": FigureEntry("damage", (_DECOMPOSITION,), "broke", 403, "variants", True),
    "judge_vs_reward": FigureEntry("judge_vs_reward", (layout.SCORES["stories"],), "broke", 410),
    "judges": FigureEntry("judges", (layout.JUDGES,), "broke", 411, "judges"),
    "completion_mass": FigureEntry(
        "completion_mass", (layout.TABLES["top_completions"],), "broke", 420
    ),
    "by_prompt": FigureEntry("by_prompt", (layout.TABLES["by_prompt_group"],), "transfer", 500),
    "by_position": FigureEntry("by_position", (layout.TABLES["by_position"],), "transfer", 510),
    "first_token": FigureEntry("first_token", (layout.TABLES["first_token"],), "transfer", 520),
    "variants": FigureEntry(
        "variants",
        (
            _TRAINING,
            layout.FRONTIER["policies"],
            layout.TABLES["equal_kl"],
            layout.TABLES["trajectories"],
        ),
        "question",
        20,
        "variants",
        True,
    ),
}


#: Figures that the report shows behind a click, and that results.md leaves out.
FOLDED = ("what_broke_more",)


def showcase(kl_factors: Sequence[str]) -> list[str]:
    """The KL factors that findings and stories show: the smallest and the post's 6000.

    If the study has no 6000, the middle one is shown instead.
    """
    factors = sort_factors(kl_factors)
    if not factors:
        return []
    other = "6000" if "6000" in factors else factors[len(factors) // 2]
    return list(dict.fromkeys([factors[0], other]))


def figure_names(
    kl_factors: Sequence[str], variants: Sequence[str], judges: bool = False
) -> list[str]:
    """Names of the figures that a study has, in the report's order."""
    names: list[str] = []
    lacking = {"variants" if len(variants) < 2 else "", "judges" if not judges else ""} - {""}
    for name, figure in sorted(FIGURES.items(), key=lambda item: item[1].order):
        if figure.needs == "kl_factor":
            shown = sort_factors(kl_factors)[:MOST_FACTOR_FIGURES]
            names += [f"{name}_{factor}" for factor in shown]
        elif figure.needs not in lacking:
            names.append(name)
    return names


def variant_figures(
    kl_factors: Sequence[str], variants: Sequence[str], judges: bool = False
) -> dict[str, list[str]]:
    """Variant → its figures, for the variants after the first: those of :func:`figure_names` that show
    one variant. They are drawn in figures/<variant>/.
    """
    if len(variants) > MOST_VARIANT_FIGURES:
        return {}
    names = [n for n in figure_names(kl_factors, variants, judges) if not find(n)[0].of_all]
    return dict.fromkeys(variants[1:], names)


def find(name: str) -> tuple[FigureEntry, str | None]:
    """The registry entry of a figure's name, and the KL factor that it is about.

    Raises:
        UserError: there is no such figure.
    """
    if name in FIGURES and FIGURES[name].needs != "kl_factor":
        return FIGURES[name], None
    stem, _, factor = name.rpartition("_")
    if stem in FIGURES and FIGURES[stem].needs == "kl_factor":
        try:
            float(factor)
        except ValueError:
            pass
        else:
            return FIGURES[stem], factor
    known = [n + ("_<factor>" if f.needs == "kl_factor" else "") for n, f in FIGURES.items()]
    raise UserError(f"there is no figure {name!r}; there are {', '.join(known)}")


def figure_inputs(name: str, kl_factors: Sequence[str], variant: str, seed: str) -> list[str]:
    """The files that a figure reads, as paths below results/<study>/."""
    figure, _ = find(name)
    paths = []
    for path in figure.inputs:
        for factor in showcase(kl_factors) if "{factor}" in path else [""]:
            paths.append(path.format(variant=variant, seed=seed, factor=factor))
    return paths
