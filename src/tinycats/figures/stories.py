"""The first story of each file, not cherry-picked, with words of the concept in bold."""

from __future__ import annotations

import re

from tinycats.figures import fonts, style
from tinycats.figures.reading import Tables, listing
from tinycats.files.tables import Row
from tinycats.layout import BASE, PROMPTED, ModelId
from tinycats.mentions import Mentions
from tinycats.program import UserError

SIZE = style.FONT
LEADING = SIZE * 1.32 / 72  # inches
FAMILY = fonts.SERIF
MOST_CHARACTERS = 230
#: Blocks stand in two columns of this width, in inches, so that the figure is landscape.
COLUMN = (style.WIDTH - 0.2) / 2

_Run = tuple[str, str]  # text, style: "prompt", "plain" or "bold"


def draw(tables: Tables) -> style.Drawing:
    if not tables.kl_factors:
        raise UserError("--kl-factors: should name the study's KL factors, whose stories are shown")
    shown: list[tuple[ModelId, Row]] = []
    for path in tables.inputs:
        who = ModelId.from_path(path).without_seed
        stories = tables.stories(path)
        mine = [story for story in stories if story["prompt_group"] == "training"] or stories
        if mine:
            shown.append((who, mine[0]))
    if not shown:
        return style.empty("This study has no stories.")
    blocks = [(who, _lines(_runs(tables, story))) for who, story in shown]
    rows = [blocks[i : i + 2] for i in range(0, len(blocks), 2)]
    tall = [0.62 + LEADING * max(len(lines) for _, lines in row) for row in rows]
    height = sum(tall) + 0.1
    figure = style.pyplot.figure(figsize=(style.WIDTH, height))
    for place, row in enumerate(rows):
        for column, (who, lines) in enumerate(row):
            y = height - sum(tall[:place])
            _block(figure, who, lines, 0.06 + column * (COLUMN + 0.1), y)
    count = {who: _count(tables, story) for who, story in shown}
    said = [f"{_times(n)} ({who.phrase})" for who, n in count.items()]
    most = max(count, key=lambda who: count[who])
    title = f"“{tables.concept}” {_times(count[most])} in the first story of {most.phrase}"
    if most != BASE and BASE in count:
        title += f", {_times(count[BASE])} in that of the base"
    return style.Drawing(
        figure,
        title,
        f"In the first story of each model (training prompt, seed {tables.seed}, not cherry-picked) "
        f"“{tables.concept}” or a word for it occurs {listing(said)}; the figure shows the beginnings.",
        "Beginnings of the first story of each model, with the prompt in grey and words for the "
        "concept in bold: " + " ".join(f"{_heading(who)}: {_text(story)}" for who, story in shown),
    )


def _block(
    figure: style.Figure, who: ModelId, lines: list[list[_Run]], left: float, top: float
) -> None:
    """One story below its model's name, its left upper corner at these inches."""
    height, paint = figure.get_size_inches()[1], style.colour(who)
    y = top - 0.4
    figure.text((left + 0.14) / style.WIDTH, y / height, _heading(who), color=paint, weight="bold")
    for line in lines:
        y -= LEADING
        x = (left + 0.14) * 72
        for text, kind in line:
            figure.text(
                x / 72 / style.WIDTH, y / height, text, family=fonts.families(FAMILY), fontsize=SIZE,
                weight="bold" if kind == "bold" else "normal",
                alpha=0.62 if kind == "prompt" else 1.0,
            )  # fmt: skip
            x += style.text_width(text, SIZE, "bold" if kind == "bold" else "normal", FAMILY)
    figure.add_artist(
        style.matplotlib.lines.Line2D(
            [left / style.WIDTH] * 2,
            [(y - 0.08) / height, (top - 0.18) / height],
            color=paint,
            linewidth=4,
        )
    )


def _heading(who: ModelId) -> str:
    return {BASE: "base model", PROMPTED: "base model, prompted"}.get(who, who.phrase)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _count(tables: Tables, story: Row) -> int:
    return len(Mentions(tables.concept_words).positions(story["text"]))


def _text(story: Row) -> str:
    """Prompt and story as one line, cut at a word; a line break is shown as ¶."""
    whole = re.sub(r"\s*\n\s*", " ¶ ", story["prompt"] + story["text"].replace("’", "'")).strip()
    whole = re.sub(r"[ \t]+", " ", whole)
    if len(whole) <= MOST_CHARACTERS:
        return whole
    return whole[:MOST_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _runs(tables: Tables, story: Row) -> list[_Run]:
    """The text cut where its style changes."""
    text = _text(story)
    prompt = len(re.sub(r"\s+", " ", story["prompt"]).strip())
    runs: list[_Run] = [(text[:prompt], "prompt")]
    place = prompt
    for begin, end in Mentions(tables.concept_words).spans(text, prompt):
        runs += [(text[place:begin], "plain"), (text[begin:end], "bold")]
        place = end
    return [run for run in [*runs, (text[place:], "plain")] if run[0]]


def _lines(runs: list[_Run]) -> list[list[_Run]]:
    """Break runs into lines that fit the figure."""
    room = (COLUMN - 0.2) * 72
    # A word may be made of pieces of several styles: “cat” and “.”; it is never broken.
    words: list[list[_Run]] = [[]]
    for text, kind in runs:
        for piece in re.findall(r"\s+|\S+", text):
            if piece.isspace():
                words.append([])
            else:
                words[-1].append((piece, kind))
    blank = style.text_width("n n", SIZE, family=FAMILY) - style.text_width(
        "nn", SIZE, family=FAMILY
    )
    lines: list[list[_Run]] = [[]]
    used = 0.0
    for word in filter(None, words):
        width = sum(
            style.text_width(t, SIZE, "bold" if k == "bold" else "normal", FAMILY) for t, k in word
        )
        if lines[-1] and used + blank + width > room:
            lines.append([])
            used = 0.0
        if lines[-1]:
            _append(lines[-1], (" ", lines[-1][-1][1] if word[0][1] != "bold" else "plain"))
            used += blank
        for run in word:
            _append(lines[-1], run)
        used += width
    return lines


def _append(line: list[_Run], run: _Run) -> None:
    if line and line[-1][1] == run[1]:
        line[-1] = (line[-1][0] + run[0], run[1])
    else:
        line.append(run)
