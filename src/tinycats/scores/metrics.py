"""Measures of generated text: pure functions of strings and numbers, no model in sight.

Definitions, sources, ranges and what each measure does *not* show are in ``docs/metrics.md``.
A measure that is undefined for its input (the bigrams of a one-word story) is ``nan``, which the
tables write as an empty value; nothing here raises for any text, however short, long or foreign.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from tinycats.program import UserError

UNDEFINED = math.nan

#: self-BLEU grows with the number of stories compared, so it is taken over this many of a set
SELF_BLEU_STORIES = 24

#: letters and digits of any script, with apostrophes inside: "don't" is one word, "cat-like" two
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
#: one line break, however many newlines and blanks it is made of
_LINE_BREAK = re.compile(r"\n\s*")

Words = list[str]
Ngram = tuple[str, ...]


# ---------------------------------------------------------------------------- one story


def words(text: str) -> Words:
    """Lower-case words of ``text``; typographic apostrophes become plain ones."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def ngrams(tokens: Sequence[str], n: int) -> list[Ngram]:
    """The ``len(tokens) − n + 1`` runs of ``n`` words, in order; none if the text is shorter."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def distinct_share(tokens: Sequence[str], n: int) -> float:
    """Distinct n-grams / n-grams (distinct-n, Li et al. 2016, within one text); 0 < value ≤ 1."""
    grams = ngrams(tokens, n)
    return len(set(grams)) / len(grams) if grams else UNDEFINED


def line_breaks(text: str) -> int:
    """Line breaks between two pieces of text: a run of newlines and blanks counts once."""
    return len(_LINE_BREAK.findall(text.strip()))


class Mentions:
    """Finds the words of a list as whole words, whatever their case.

    Args:
        concept_words: words or phrases; the longest that fits at a place counts, once, so with
            ``cat`` and ``cat's`` in the list "cat's" is one mention.

    Raises:
        UserError: the list is empty or holds an empty word.
    """

    def __init__(self, concept_words: Iterable[str]) -> None:
        listed = [word.strip().lower().replace("’", "'") for word in concept_words]
        if not listed or not all(listed):
            raise UserError("concept_words: should be a list of at least one word, none empty")
        longest_first = sorted(set(listed), key=lambda word: (-len(word), word))
        choices = "|".join(re.escape(word) for word in longest_first)
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)", re.IGNORECASE)

    def positions(self, text: str) -> list[int]:
        """Where each mention begins: indices into ``text``."""
        return [match.start() for match in self._pattern.finditer(text.replace("’", "'"))]


def perplexity(log_probabilities: Sequence[float]) -> float:
    """exp(mean −log p) over a story's tokens (nats), the end token counted; ≥ 1."""
    if not len(log_probabilities):
        return UNDEFINED
    # fsum: the same to the last bit in whatever order the tokens come; exp(700) is near the largest float
    return math.exp(min(700.0, -math.fsum(log_probabilities) / len(log_probabilities)))


# ---------------------------------------------------------------------------- a set of stories


def evenly_spaced(items: Sequence[Words], number: int) -> list[Words]:
    """At most ``number`` items, evenly spaced, so that every prompt of a group is represented."""
    if len(items) <= number:
        return list(items)
    return [items[i * len(items) // number] for i in range(number)]


def self_bleu(stories: Sequence[Words], order: int = 4) -> float:
    """Mean BLEU-4 of each story against all others (Zhu et al. 2018); 0 to 1, 1 = all alike.

    Sentence BLEU with clipped precisions, closest reference length, NIST's exponential smoothing
    (method 3 of Chen & Cherry 2014) and no order above the story's length: what sacrebleu's
    ``sentence_bleu`` computes, over :func:`words`. Instead of counting every pair of stories, the
    highest count of each n-gram and the highest in any *other* story are kept: time grows with
    the number of words, not with the number of pairs.

    Stories without words are left out; with fewer than two left the value is undefined.
    """
    stories = [story for story in stories if story]
    if len(stories) < 2:
        return UNDEFINED
    matches = [[0] * order for _ in stories]
    for n in range(1, order + 1):
        counts = [Counter(ngrams(story, n)) for story in stories]
        # n-gram → (highest count, story that has it, highest count in the other stories)
        top: dict[Ngram, tuple[int, int, int]] = {}
        for owner, count in enumerate(counts):
            for gram, c in count.items():
                first, who, second = top.get(gram, (0, -1, 0))
                top[gram] = (c, owner, first) if c > first else (first, who, max(second, c))
        for owner, count in enumerate(counts):
            for gram, c in count.items():
                first, who, second = top[gram]
                matches[owner][n - 1] += min(c, second if who == owner else first)
    lengths = [len(story) for story in stories]
    scores = [
        _sentence_bleu(matches[i], length, lengths[:i] + lengths[i + 1 :])
        for i, length in enumerate(lengths)
    ]
    return math.fsum(scores) / len(scores)


def _sentence_bleu(matches: Sequence[int], length: int, reference_lengths: Sequence[int]) -> float:
    if not any(matches):
        return 0.0
    closest = min(reference_lengths, key=lambda other: (abs(other - length), other))
    penalty = math.exp(min(0.0, 1 - closest / length))
    logs, smoothing = [], 1.0
    for n, matched in enumerate(matches, start=1):
        total = length - n + 1
        if total <= 0:
            break
        if not matched:
            smoothing *= 2
        logs.append(math.log(matched / total if matched else 1 / (smoothing * total)))
    return penalty * math.exp(math.fsum(logs) / len(logs))


def vendi_score(stories: Sequence[Words], orders: Sequence[int] = (1, 2, 3, 4)) -> float:
    """Effective number of different stories: exp of the entropy of the spectrum of K / n.

    Friedman & Dieng 2023. K is the mean over ``orders`` of the cosine similarities between the
    stories' word n-gram counts, which has nothing to do with the reward's sentence encoder.
    From 1 (all stories alike) to the number of stories (no n-gram in common). A story without
    n-grams of an order is like other such stories and unlike the rest.
    """
    if not stories:
        return UNDEFINED
    kernel = np.zeros((len(stories), len(stories)))
    for n in orders:
        counts = [Counter(ngrams(story, n)) or Counter({(): 1}) for story in stories]
        # a story's counts are a sparse row; stories that share an n-gram meet in its column
        column: dict[Ngram, int] = {}
        rows: list[int] = []
        columns: list[int] = []
        values: list[int] = []
        for i, count in enumerate(counts):
            rows += [i] * len(count)
            columns += [column.setdefault(gram, len(column)) for gram in count]
            values += count.values()
        matrix = sparse.csr_array((values, (rows, columns)), dtype=np.float64)
        products = (matrix @ matrix.T).toarray()
        norms = np.sqrt(np.diag(products))
        kernel += products / np.outer(norms, norms) / len(orders)
    spectrum = np.linalg.eigvalsh(kernel / len(stories))
    spectrum = spectrum[spectrum > 1e-12]
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes / gzipped bytes of all texts joined by newlines (Shaib et al. 2024); higher = more alike."""
    data = "\n".join(texts).encode("utf-8", errors="replace")
    if not data.strip():
        return UNDEFINED
    # no time stamp: the same texts give the same bytes at any time
    return len(data) / len(gzip.compress(data, compresslevel=9, mtime=0))


def expected_distinct(counts: Sequence[int], draws: int) -> float:
    """Expected number of distinct items in ``draws`` of a sample with these counts (rarefaction).

    Hurlbert 1971: Σ_i 1 − C(N − c_i, n) / C(N, n), exact and unbiased for drawing without
    replacement. Undefined if the sample is smaller than ``draws``.
    """
    total = sum(counts)
    if not 0 < draws <= total:
        return UNDEFINED
    missing = 0.0
    for count, occurrences in sorted(Counter(counts).items()):
        if total - count >= draws:
            missing += occurrences * math.exp(
                _log_choose(total - count, draws) - _log_choose(total, draws)
            )
    return len(counts) - missing


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
