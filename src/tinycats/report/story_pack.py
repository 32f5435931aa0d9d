"""Stories packed for a web page: all tokens of all stories, compressed.

A pack is JSON (names, prompts, token pieces, scores) followed by byte planes for the long columns,
compressed with zlib and encoded as base64. Log probabilities are integers in hundredths of a nat,
the precision that the page shows. The low bytes of a column are stored together, then the high
bytes, since this compresses better. 500,000 tokens take about 2 MB.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinycats import layout
from tinycats.files.tables import read_lines
from tinycats.layout import ModelId
from tinycats.mentions import Mentions
from tinycats.program import UserError
from tinycats.report.wording import number
from tinycats.scores.columns import METRICS
from tinycats.stories.columns import STORY_FIELDS

LIMIT = 32767  # hundredths of a nat that two bytes hold: 327 nats, e^-327, less than any softmax


@dataclass
class Story:
    """An evaluation story with its model, seed and scores."""

    model: str  # ModelId.key
    seed: int
    index: int
    line: Mapping[str, Any]
    scores: dict[str, float | None] = field(default_factory=dict)


def read_stories(
    folder: Path, models: Iterable[ModelId], scores: Iterable[Mapping[str, str]]
) -> list[Story]:
    """The stories of these models, in the order drawn, each with its row of scores/stories.csv.

    Args:
        folder: results/<study>.
        models: each of one seed.
        scores: rows of scores/stories.csv.

    Raises:
        UserError: a story without a score, or a file whose path names no model.
    """
    try:
        by_story = {(ModelId.from_row(row), int(row["story"])): row for row in scores}
    except ValueError as error:
        raise UserError(f"scores/stories.csv: a story: {error}") from error
    known = set(METRICS) | {"tokens"}
    stories = []
    for who in models:
        path = folder / layout.STORIES.of(who)
        for index, line in enumerate(read_lines(path, STORY_FIELDS)):
            row = by_story.get((who, index))
            if row is None:
                raise UserError(
                    f"{path}: story {index} has no row in scores/stories.csv; regenerate both"
                    " from the same stories"
                )
            values = {name: number(text) for name, text in row.items() if name in known}
            stories.append(Story(who.key, who.seed or 0, index, line, values))
    return stories


def _planes(values: Sequence[int], width: int) -> bytes:
    """Little-endian integers as one plane for each byte: all low bytes first."""
    packed = b"".join((value & (256**width - 1)).to_bytes(width, "little") for value in values)
    return b"".join(packed[plane::width] for plane in range(width))


def _hundredths(log_probability: float) -> int:
    return max(-LIMIT, min(LIMIT, round(100 * log_probability)))


def _indexed(values: Iterable[Any]) -> dict[Any, int]:
    """Each distinct value → its place in order of first appearance."""
    places: dict[Any, int] = {}
    for value in values:
        places.setdefault(value, len(places))
    return places


def deflate(data: bytes) -> str:
    """Bytes as base64 of their zlib stream: what the page's ``DecompressionStream`` reads."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def pack_tables(tables: Mapping[str, str]) -> str:
    """CSV texts by name, for the page's data section."""
    return deflate(json.dumps(tables, ensure_ascii=False, sort_keys=True).encode())


def pack_stories(
    stories: Sequence[Story],
    models: Sequence[str],
    variants: Sequence[str],
    concept_words: Sequence[str],
) -> str:
    """Stories for the page's explorer.

    The layout, which report.js reads: uint32 (little-endian) length of the JSON, the JSON, then
    three planes of token ids (indices into ``pieces``), two of log π and two of log p_base.
    """
    pieces = _indexed(piece for story in stories for piece in story.line["tokens"])
    prompts = _indexed((s.line["prompt_group"], s.line["prompt"]) for s in stories)
    score_names = sorted(
        {name for story in stories for name in story.scores},
        key=[*METRICS, "tokens"].index,
    )
    for story in stories:
        lengths = {len(story.line[k]) for k in ("tokens", "log_prob_policy", "log_prob_base")}
        if len(lengths) != 1:
            raise UserError(
                f"story {story.index} of {story.model}, seed {story.seed}: tokens, log_prob_policy and"
                " log_prob_base differ in length; sample the stories again"
            )
    header = {
        "models": list(models),
        "names": [ModelId.from_key(key).label(variants) for key in models],
        "pieces": list(pieces),
        "prompts": [{"group": group, "text": text} for group, text in prompts],
        "mention": Mentions(concept_words).javascript,
        "model": [list(models).index(story.model) for story in stories],
        "seed": [story.seed for story in stories],
        "index": [story.index for story in stories],
        "prompt": [prompts[s.line["prompt_group"], s.line["prompt"]] for s in stories],
        "forced": [len(story.line["forced"] or "") for story in stories],
        "ended": [int(story.line["ended"]) for story in stories],
        "length": [len(story.line["tokens"]) for story in stories],
        "scores": {
            name: [
                None if (v := story.scores.get(name)) is None else float(f"{v:.4g}")
                for story in stories
            ]
            for name in score_names
        },
    }
    text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    tokens = [pieces[piece] for story in stories for piece in story.line["tokens"]]
    columns = [
        [_hundredths(value) for story in stories for value in story.line[name]]
        for name in ("log_prob_policy", "log_prob_base")
    ]
    planes = [_planes(tokens, 3), *(_planes(column, 2) for column in columns)]
    return deflate(struct.pack("<I", len(text)) + text + b"".join(planes))
