"""Where a text mentions the concept: the one pattern for scores, tables, figures and report."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tinycats.program import UserError

#: what has a meaning in a pattern, in Python's as in JavaScript's with the flag ``u``
_SYNTAX = re.compile(r"[\\^$.*+?()\[\]{}|/]")


class Mentions:
    """Finds the words of a list as whole words, whatever their case and the apostrophe's form.

    Args:
        concept_words: words or phrases; the longest that fits at a place counts, once, so with
            ``cat`` and ``cat's`` in the list "cat's" is one mention.

    Attributes:
        javascript: source of the same pattern for JavaScript, where its flags should be ``giu``.

    Raises:
        UserError: the list is empty or holds an empty word.
    """

    def __init__(self, concept_words: Iterable[str]) -> None:
        listed = [word.strip().lower().replace("’", "'") for word in concept_words]
        if not listed or not all(listed):
            raise UserError("concept_words: should be a list of at least one word, none empty")
        longest_first = sorted(set(listed), key=lambda word: (-len(word), word))
        choices = "|".join(_SYNTAX.sub(r"\\\g<0>", word) for word in longest_first)
        choices = choices.replace("'", "['’]")
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)", re.IGNORECASE)
        # JavaScript's \w has no letters but ASCII's
        letter = r"[\p{L}\p{N}_]"
        self.javascript = f"(?<!{letter})(?:{choices})(?!{letter})"

    def spans(self, text: str, start: int = 0) -> list[tuple[int, int]]:
        """Where each mention from ``start`` on begins and ends: indices into ``text``."""
        return [match.span() for match in self._pattern.finditer(text, start)]

    def positions(self, text: str) -> list[int]:
        """Where each mention begins: indices into ``text``."""
        return [begin for begin, _ in self.spans(text)]
