"""The stories that the decomposition compares: as many of each model as there are of the openings.

A score of a set of stories depends on its size, so all models are compared over sets of one size: of
each prompt the first stories, as many as the models whose stories begin with openings have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path

from tinycats.files.tables import Row, TableError
from tinycats.layout import ModelId
from tinycats.scores.columns import OPENING_SETS
from tinycats.scores.scoring import read_stories, score_set


class Compared:
    """Which stories of a study are compared.

    Args:
        opened: model, with its seed, and prompt of every story that begins with an opening.
    """

    def __init__(self, opened: Iterable[tuple[ModelId, str]]) -> None:
        of_model: Counter[tuple[ModelId, str]] = Counter(opened)
        self.counts: dict[tuple[int | None, str], int] = {}
        for (who, prompt), count in of_model.items():
            if self.counts.setdefault((who.seed, prompt), count) != count:
                raise TableError(
                    f"stories of {who.stem}: {count} of the prompt {prompt!r}, others have"
                    f" {self.counts[who.seed, prompt]}"
                )
        self._seen: Counter[Hashable] = Counter()

    def takes(self, who: ModelId, prompt: str) -> bool:
        """Whether the next story of this model and prompt is compared; ask for them in order."""
        self._seen[who, prompt] += 1
        return self._seen[who, prompt] <= self.counts.get((who.seed, prompt), 0)


def opening_sets(paths: Iterable[str | Path]) -> list[Row]:
    """Rows of scores/opening_sets.csv.

    Args:
        paths: the stories of every model, named as in :mod:`tinycats.layout`.

    Raises:
        TableError: a file is damaged, or has fewer stories than are compared.
    """
    files = {ModelId.from_path(path): Path(path) for path in paths}
    stories = {who: list(read_stories(path)) for who, path in files.items() if who.opened}
    compared = Compared((who, row["prompt"]) for who, own in stories.items() for row in own)
    rows = []
    for who in sorted(files, key=ModelId.order):
        if stories.get(who) == []:  # of a prompted text that is longer than a completion
            continue
        own = stories.get(who) or read_stories(files[who])
        texts = [row["text"] for row in own if compared.takes(who, row["prompt"])]
        expected = sum(n for (seed, _), n in compared.counts.items() if seed == who.seed)
        if len(texts) != expected:
            raise TableError(
                f"{files[who]}: {len(texts)} of the {expected} stories that are compared; make the"
                " stories again"
            )
        if texts:
            row = {**who.columns(), **score_set(texts)}
            rows.append({column: row[column] for column in OPENING_SETS})
    return rows
