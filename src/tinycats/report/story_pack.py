"""Stories packed for a web page: every token of every story in a few bytes.

A pack is JSON (names, prompts, token pieces, scores) followed by byte planes for the long columns,
deflated as a whole and written as base64. Log probabilities are whole hundredths of a nat, the
digits that the page shows; the low bytes of a column lie together, then the high bytes, because
that is what deflate can use. 500,000 tokens take about 2 MB.
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

from tinycats.files import tables as files
from tinycats.program import UserError
from tinycats.report.wording import model_key, model_name, number
from tinycats.study import canonical

LIMIT = 32767  # hundredths of a nat that two bytes hold: 327 nats, e^-327, less than any softmax


@dataclass
class Story:
    """One evaluation story with who told it and its scores."""

    model: str  # key as in report_words.model_key
    seed: int
    index: int
    line: Mapping[str, Any]
    scores: dict[str, float | None] = field(default_factory=dict)


def _who(path: Path, folder: Path) -> tuple[str, int] | None:
    """Model key and seed from a stories file's path, None for the base's stories under a policy."""
    if path.name.endswith(".base.jsonl"):
        return None
    parts = path.relative_to(folder).parts
    try:
        seed = int(path.stem.removeprefix("seed="))
        if len(parts) == 2 and parts[0] in ("base", "prompted"):
            return parts[0], seed
        variant, factor = parts[0], parts[1].removeprefix("kl=")
        if len(parts) == 3:
            return f"{variant}/{canonical(float(factor))}", seed
    except (ValueError, IndexError):
        pass
    raise UserError(
        f"{path}: cannot tell whose stories these are; expected {folder}/base/seed=0.jsonl or"
        f" {folder}/<variant>/kl=<factor>/seed=0.jsonl"
    )


def read_stories(folder: Path, scores: Iterable[Mapping[str, str]]) -> list[Story]:
    """Every story below ``folder`` in the order drawn, joined to its row of scores/stories.csv.

    Raises:
        UserError: a story without a score, or a file whose path names no model.
    """
    try:
        by_story = {
            (
                model_key(row["model"], row["variant"], row["kl_factor"]),
                int(row["seed"]),
                int(row["story"]),
            ): row
            for row in scores
        }
    except ValueError as error:
        raise UserError(f"scores/stories.csv: a KL factor, seed or story: {error}") from error
    known = set(files.METRICS) | {"tokens"}
    stories = []
    for path in sorted(folder.rglob("*.jsonl")):
        who = _who(path, folder)
        if who is None:
            continue
        for index, line in enumerate(files.read_lines(path, files.STORY_FIELDS)):
            row = by_story.get((*who, index))
            if row is None:
                raise UserError(
                    f"{path}: story {index} has no row in scores/stories.csv; make both anew from"
                    " the same stories"
                )
            values = {name: number(text) for name, text in row.items() if name in known}
            stories.append(Story(who[0], who[1], index, line, values))
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
        key=[*files.METRICS, "tokens"].index,
    )
    for story in stories:
        lengths = {len(story.line[k]) for k in ("tokens", "log_prob_policy", "log_prob_base")}
        if len(lengths) != 1:
            raise UserError(
                f"story {story.index} of {story.model}, seed {story.seed}: tokens, log_prob_policy and"
                " log_prob_base differ in length; sample the stories anew"
            )
    header = {
        "models": list(models),
        "names": [model_name(key, variants) for key in models],
        "pieces": list(pieces),
        "prompts": [{"group": group, "text": text} for group, text in prompts],
        "words": list(concept_words),
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
