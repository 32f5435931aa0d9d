"""results.md: the findings of a study for a code host, from the same data as the page.

Its text is the template workflow/report/results.md.j2.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinycats.report import page as report
from tinycats.report.reading import DrawnFigure, Study

#: models that one table has, unless those of one KL factor are more
MOST_MODELS = 14
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def escape(text: str) -> str:
    """Text with Markdown's special characters escaped, so that it is displayed as it is."""
    return _SPECIAL.sub(r"\\\1", text)


def _link(figure: DrawnFigure, markdown: Path, copies: Path | None) -> str:
    """The figure's path relative to the Markdown file; the PNG where there is one.

    With ``copies`` the picture is first copied to that folder.
    """
    picture = figure.path.with_suffix(".png")
    picture = picture if picture.exists() else figure.path
    if copies:
        copies.mkdir(parents=True, exist_ok=True)
        picture = Path(shutil.copyfile(picture, copies / picture.name))
    path = os.path.relpath(picture, markdown.parent).replace(os.sep, "/")
    return path.replace(" ", "%20")


def by_factor(models: Sequence[Mapping[str, str]]) -> list[tuple[str, list[Mapping[str, str]]]]:
    """Heading and models of each table: all models, or where they are many, those of one KL factor."""
    factors = dict.fromkeys(model["kl_factor"] for model in models if model["kl_factor"])
    if len(models) <= MOST_MODELS:
        return [("", list(models))]
    return [
        (f"KL factor {factor}", [m for m in models if m["kl_factor"] in ("", factor)])
        for factor in factors
    ]


def render(study: Study, command: str, markdown: Path, copies: Path | None = None) -> str:
    """The text of results.md.

    It is one page: the answer, the first figure, a table of policies and their rivals at equal KL, one of
    scores, and links to the other figures and to the tables. Of the figures that exist for each KL factor,
    those of the page's default factor and of 0 are named, and of the variants the first one's.

    Args:
        study: as read by :func:`tinycats.report.reading.read_study`.
        command: the command that regenerates the study.
        markdown: path of the text; images are linked relative to it.
        copies: folder to copy the figures to, for a text outside the results.
    """
    facts = report.facts(study)
    facts["figures"] = {
        section: [
            f
            for f in figures
            if f.kl_factor in (None, facts["factor"], "0") and not f.folded and "/" not in f.name
        ]
        for section, figures in facts["figures"].items()
    }
    shown = [figure for figures in facts["figures"].values() for figure in figures]
    shown += [facts["hero"]] if facts["hero"] else []
    env = report.environment(autoescape=False)
    env.filters |= {"md": escape, "by_factor": by_factor}
    tables = os.path.relpath(copies.parent if copies else study.folder, markdown.parent) + "/"
    text = env.get_template("results.md.j2").render(
        **facts,
        command=command,
        tables=tables.replace(os.sep, "/").replace(" ", "%20").removeprefix("./"),
        links={figure.name: _link(figure, markdown, copies) for figure in shown},
    )
    return text.rstrip() + "\n"
