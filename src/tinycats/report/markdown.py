"""results.md: the findings of a study for reading on a code host, from the same data as the page."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from tinycats.report import page as report
from tinycats.report.reading import DrawnFigure, Study

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, whatever a model wrote."""
    return _SPECIAL.sub(r"\\\1", text)


def _paragraphs(text: str) -> str:
    """A story as a block quote, its line breaks kept."""
    lines = [escape(line.strip()) for line in text.strip().splitlines()]
    return "\n".join(f"> {line}" if line else ">" for line in lines)


class _Images:
    """Where the Markdown finds its figures: relative to itself, in place or copied beside it."""

    def __init__(self, markdown: Path, copies: Path | None) -> None:
        self.markdown, self.copies = markdown, copies

    def link(self, figure: DrawnFigure) -> str:
        picture = figure.path.with_suffix(".png")
        picture = picture if picture.exists() else figure.path
        if self.copies:
            self.copies.mkdir(parents=True, exist_ok=True)
            picture = Path(shutil.copyfile(picture, self.copies / picture.name))
        path = os.path.relpath(picture, self.markdown.parent).replace(os.sep, "/")
        alt = escape(" ".join(figure.alt.split()))
        title = figure.title if figure.title.endswith("?") else f"{figure.title}."
        words = f"**{escape(title)}** {escape(figure.finding)}"
        return f"![{alt}]({path.replace(' ', '%20')})\n\n{words}\n"


def _cell(value: Any) -> str:
    mark = {"better": " ▲", "worse": " ▼", "higher": " ◆", "lower": " ◆"}.get(value.verdict, "")
    return f"{value.mean}{mark}" + (f"<br><sub>{value.interval}</sub>" if value.interval else "")


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def render(study: Study, command: str, markdown: Path, copies: Path | None = None) -> str:
    """The text of results.md.

    Args:
        study: as read by :func:`tinycats.report.reading.read_study`.
        command: the command that regenerates the study.
        markdown: where the text will lie; images are linked relative to it.
        copies: folder to copy the figures to, for a place outside the results.
    """
    known = report.facts(study)
    images = _Images(markdown, copies)
    names = [escape(model["name"]) for model in known["models"]]
    keys = [model["key"] for model in known["models"]]
    parts = [
        f"# Results: only stories about {escape(known['a_concept'])}\n",
        f"Study `{study.name}`; base model `{known['base_model']}`. Made from the"
        f" study's files by `{command}`; nothing here was written by hand.\n",
    ]
    if known["lead"]:
        parts.append(f"**{escape(known['lead'])}**\n")
    if known["hero"]:
        parts.append(images.link(known["hero"]))

    def figures(section: str) -> None:
        for figure in known["figures"][section]:
            if figure.kl_factor in (None, known["factor"], "0"):
                parts.append(images.link(figure))

    figures("question")
    parts.append("## Training, beside the published curves\n")
    figures("training")
    parts.append("## Side by side, one seed\n")
    parts.append("The first story drawn by each model with the same random numbers. Unpicked.\n")
    for key, story in known["side_by_side"]:
        name = names[keys.index(key)]
        parts.append(f"**{name}**\n\n{_paragraphs(story.line['prompt'] + story.line['text'])}\n")
    parts.append("## What broke and what held\n")
    parts.append(
        "Means over seeds with 95 % t-intervals, stories of the training prompt. ▲ better, ▼ worse,"
        " ◆ different (neither direction is better) than the base, seed by seed.\n"
    )
    lines = []
    for aspect in known["score_table"]:
        lines.append([f"**{escape(aspect['heading'])}**", *[""] * len(names)])
        for line in aspect["lines"]:
            unit = f" ({line['unit']})" if line["unit"] not in ("", "share") else ""
            way = {"up": " ↑", "down": " ↓", "none": ""}[line["better"]]
            cells = [_cell(line["cells"][key]) for key in keys]
            lines.append([escape(line["label"] + unit) + way, *cells])
    parts.append(_table(["score", *names], lines))
    figures("scores")
    figures("broke")
    parts.append("## “It's better! Probably!”\n")
    for comparison in known["comparisons"]:
        parts.append(f"**{escape(comparison.answer)}**\n")
        for word, items in (
            ("Better in", comparison.better),
            ("Worse in", comparison.worse),
            ("Different in", comparison.changed),
            ("Undecided in", comparison.undecided),
        ):
            if items:
                said = [
                    f"{escape(name)} ({cell.mean}"
                    + (f"; {cell.interval})" if cell.interval else ")")
                    for name, cell in items
                ]
                parts.append(f"- {word}: " + ", ".join(said))
        parts.append("")
    if known["shares"]:
        parts.append("## How much of the attainable gain was won\n")
        parts.append(_share_table(known["shares"]))
    if known["group_table"]:
        parts.append("## Even if told not to\n")
        parts.append(f"Share of stories that mention {escape(known['a_concept'])}, by prompts.\n")
        lines = [
            [escape(line["group"]), *[_cell(line["cells"][key]) for key in keys]]
            for line in known["group_table"]
        ]
        parts.append(_table(["prompts", *names], lines))
    figures("transfer")
    figures("method")
    figures("further")
    if study.benchmarks:
        parts.append("## Time by stage\n")
        lines = [
            [escape(stage), str(jobs), report.words.human(seconds, digits=1)]
            for stage, seconds, jobs, _ in study.benchmarks
        ]
        parts.append(_table(["stage", "jobs", "seconds"], lines))
    return "\n".join(parts).rstrip() + "\n"


def _share_table(shares: list[dict[str, Any]]) -> str:
    human = report.words.human
    lines = []
    for line in shares:
        share = line["share_of_attainable_gain"]
        lines.append(
            [
                escape(line["name"]),
                human(line["reward"], digits=3),
                human(line["kl_policy_to_base_nats"], digits=2),
                ("≥ " if line["at_most"] else "") + human(line["limit"], digits=3),
                "–"
                if share is None
                else f"{'≤ ' if line['at_most'] else ''}{human(100 * share, digits=0)} %",
            ]
        )
    head = ["policy", "reward", "KL(policy‖base), nats", "limit there", "share of the gain"]
    return _table(head, lines)
